//! Queries about things of which the machine has none, or one that never changes.

use monovisor_core::Context;
use monovisor_core::handlers::{BlockJobs, Element, Extras};
use monovisor_core::schema::block_job::BlockJobInfo;
use monovisor_core::schema::tpm::{TPMInfo, TpmModel, TpmType};

use crate::hypervisor::Hypervisor;

impl BlockJobs for Hypervisor<'_> {
    fn query_block_jobs(&mut self, _: usize, _: &mut Context<'_>) -> Element<BlockJobInfo<'_>> {
        Ok(None)
    }
}

impl Extras for Hypervisor<'_> {
    fn query_tpm(&mut self, _: usize, _: &mut Context<'_>) -> Element<TPMInfo<'_>> {
        Ok(None)
    }

    fn query_tpm_models(&mut self, _: usize, _: &mut Context<'_>) -> Element<TpmModel> {
        Ok(None)
    }

    fn query_tpm_types(&mut self, _: usize, _: &mut Context<'_>) -> Element<TpmType> {
        Ok(None)
    }
}
