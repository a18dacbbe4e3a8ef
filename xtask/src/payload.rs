//! What is run inside: the guest's files and Monovisor's command line, as `run` and `image` take them.

use crate::emulator::Member;
use crate::guest::{self, Files, Guest};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// The guest, and the options that it is started with.
#[derive(Args, Clone, Debug)]
pub struct Payload {
    /// What to run
    #[arg(long, default_value = "demo")]
    pub guest: Guest,
    /// Guest RAM in MiB
    #[arg(short, long = "memory", default_value_t = 256, value_name = "MIB")]
    pub memory: u32,
    /// Processors of the guest, and of the emulated rig
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub smp: u32,
    /// A kernel of your own instead of the guest's: bzImage, or an uncompressed vmlinux
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// An initial RAM disk of your own
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line instead of the guest's own
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// More words for Monovisor's own command line, e.g. `-- -S -name vm1`
    #[arg(last = true, value_name = "MORE")]
    pub more: Vec<String>,
}

impl Payload {
    /// Builds or finds the guest; gives the words of Monovisor's command line and what the bundle holds.
    pub fn prepare(&self) -> Result<(Vec<String>, Vec<Member>)> {
        let guest = match &self.kernel {
            Some(kernel) => Files { kernel: kernel.clone(), initrd: None, append: "console=ttyS0".into() },
            None => guest::files(self.guest)?,
        };
        let mut words = vec!["-m".into(), self.memory.to_string(), "-kernel".into(), "kernel".into()];
        let mut members = vec![Member { name: "kernel".into(), path: guest.kernel }];
        if let Some(initrd) = self.initrd.clone().or(guest.initrd) {
            words.extend(["-initrd".into(), "initrd".into()]);
            members.push(Member { name: "initrd".into(), path: initrd });
        }
        if self.smp > 1 {
            words.extend(["-smp".into(), self.smp.to_string()]);
        }
        words.extend(self.more.iter().cloned());
        let append = self.append.clone().unwrap_or(guest.append);
        if !append.is_empty() {
            words.extend(["-append".into(), append]);
        }
        Ok((words, members))
    }
}
