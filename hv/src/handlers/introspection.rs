//! What machine this is.

use monovisor_core::Context;
use monovisor_core::Error;
use monovisor_core::handlers::{Cpus, Element, Machine, Poll, Trace};
use monovisor_core::schema::cpu::{CpuArgs, CpuInfo, CpuInfoArch, CpuInfoBranch, CpuInfoX86};
use monovisor_core::schema::extensions::{LogText, XQueryLogArgs};
use monovisor_core::schema::machine::{KvmInfo, TargetInfo, UuidInfo};
use monovisor_core::schema::misc::NameInfo;
use monovisor_host::log;

use crate::hypervisor::Hypervisor;

impl Machine for Hypervisor<'_> {
    fn query_name(&mut self, _: &mut Context<'_>) -> Poll<NameInfo<'_>> {
        Ok(NameInfo { name: self.launch.options.name })
    }

    fn query_uuid(&mut self, _: &mut Context<'_>) -> Poll<UuidInfo<'_>> {
        Ok(UuidInfo { uuid: self.launch.uuid() })
    }

    fn query_kvm(&mut self, _: &mut Context<'_>) -> Poll<KvmInfo> {
        // Neither Linux nor its KVM is on this host.
        Ok(KvmInfo { enabled: false, present: false })
    }

    fn query_target(&mut self, _: &mut Context<'_>) -> Poll<TargetInfo<'_>> {
        Ok(TargetInfo { arch: "x86_64" })
    }
}

impl Cpus for Hypervisor<'_> {
    fn query_cpus(&mut self, index: usize, cx: &mut Context<'_>) -> Element<CpuInfo<'_>> {
        let Some((pc, halted)) = self.guest.as_ref().and_then(|guest| guest.cpu(index)) else {
            return Ok(None);
        };
        Ok(Some(CpuInfo {
            cpu: index as i64,
            current: index == cx.cpu,
            halted,
            qom_path: "/machine/unattached/device[0]",
            // No threads here: the number of the physical processor, from 1 as thread ids are.
            thread_id: index as i64 + 1,
            arch: CpuInfoArch::X86,
            branch: CpuInfoBranch::X86(CpuInfoX86 { pc: pc.cast_signed() }),
        }))
    }

    fn cpu(&mut self, arguments: CpuArgs, cx: &mut Context<'_>) -> Poll<()> {
        match usize::try_from(arguments.index) {
            Ok(index) if self.guest.as_ref().is_some_and(|guest| guest.cpu(index).is_some()) => {
                cx.cpu = index;
                Ok(())
            }
            _ => Err(nb::Error::Other(Error::expects("index", "a CPU number"))),
        }
    }
}

impl Trace for Hypervisor<'_> {
    fn x_query_log(&mut self, arguments: XQueryLogArgs, _: &mut Context<'_>) -> Poll<LogText<'_>> {
        let asked = arguments.offset.unwrap_or(0);
        let (start, length) = log::read(asked, &mut self.log_piece);
        let bytes = self.log_piece.get(..length).unwrap_or_default();
        // A character that the end of the piece cuts goes into the next one; the log is otherwise UTF-8.
        let text = match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        // A log that begins in the middle of a character must not stop there for good.
        let taken = if text.is_empty() { length } else { text.len() };
        let lost = if arguments.offset.is_some() { start.saturating_sub(asked) } else { 0 };
        Ok(LogText { text, next: start + taken as u64, lost })
    }
}
