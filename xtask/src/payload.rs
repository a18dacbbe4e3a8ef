//! What is run inside: the guest's files and Monovisor's command line, as `run` and `image` take them.

use crate::emulator::{self, Member};
use crate::guest::{self, Files, Guest};
use anyhow::{Context, Result, anyhow};
use clap::Args;
use monovisor_loader::options::{GroupKind, Options};
use monovisor_loader::{Kind, LoadError};
use std::path::{Path, PathBuf};

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
    /// A kernel of your own instead of the guest's: bzImage, vmlinux, PVH ELF or multiboot
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// An initial RAM disk of your own; for a multiboot kernel its modules: "a.bin arguments,b.bin"
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
        let (mut kernel_name, mut kind) = ("kernel".to_owned(), None);
        let guest = match &self.kernel {
            Some(kernel) => {
                let (found, name) = (kind_of(kernel)?, text(kernel)?);
                let mut append = "console=ttyS0";
                if found == Kind::Multiboot {
                    // Such a kernel is told its own name and those of its modules.
                    (kernel_name, append) = (name.to_owned(), "");
                }
                kind = Some(found);
                Files { kernel: kernel.clone(), initrd: None, append: append.into() }
            }
            None => guest::files(self.guest)?,
        };
        let mut words = vec!["-m".into(), self.memory.to_string(), "-kernel".into(), kernel_name.clone()];
        let mut members = vec![Member { name: kernel_name, path: guest.kernel }];
        if let Some(initrd) = self.initrd.clone().or(guest.initrd) {
            if kind == Some(Kind::Multiboot) {
                let modules = text(&initrd)?;
                for (file, _) in Kind::Multiboot.modules(modules) {
                    members.push(Member { name: file.into(), path: file.into() });
                }
                words.extend(["-initrd".into(), modules.into()]);
            } else {
                words.extend(["-initrd".into(), "initrd".into()]);
                members.push(Member { name: "initrd".into(), path: initrd });
            }
        }
        if self.smp > 1 {
            words.extend(["-smp".into(), self.smp.to_string()]);
        }
        for name in files_named(&self.more) {
            if Path::new(&name).is_file() && members.iter().all(|member| member.name != name) {
                members.push(Member { path: PathBuf::from(&name), name });
            }
        }
        words.extend(self.more.iter().cloned());
        let append = self.append.clone().unwrap_or(guest.append);
        if !append.is_empty() {
            words.extend(["-append".into(), append]);
        }
        Ok((words, members))
    }
}

/// The files that options name besides kernels: what disks show, and where character devices get their input from. What
/// is made in Monovisor's store (`x-size`) is not asked for here, and what is not here may be there.
fn files_named(words: &[String]) -> Vec<String> {
    let mut line = emulator::command_line(words).into_bytes();
    let options = Options::parse(&mut line);
    let disks = options.groups(GroupKind::Drive).filter(|drive| drive.str("x-size").is_none());
    let disks = disks.filter_map(|drive| drive.str("file"));
    let inputs = options.groups(GroupKind::Chardev).filter_map(|chardev| chardev.str("input-path"));
    disks.chain(inputs).map(str::to_owned).collect()
}

/// What kind of kernel a file is; an error where it is none.
fn kind_of(path: &Path) -> Result<Kind> {
    let file = std::fs::read(path).with_context(|| format!("--kernel {}", path.display()))?;
    let name = text(path)?;
    Kind::of(&file).map_err(|problem| anyhow!("-{}", LoadError { option: "kernel", name, problem }))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: not a name in UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        payload: Payload,
    }

    fn prepare(kernel: &[u8], more: &[&str]) -> Result<(Vec<String>, Vec<Member>)> {
        let path =
            std::env::temp_dir().join(format!("monovisor-payload-{}-{}", std::process::id(), kernel.len()));
        std::fs::write(&path, kernel)?;
        let words = ["run", "--kernel", path.to_str().unwrap()];
        let result = Line::parse_from(words.into_iter().chain(more.iter().copied())).payload.prepare();
        std::fs::remove_file(&path)?;
        result
    }

    #[test]
    fn multiboot_modules_are_members_of_the_bundle() -> Result<()> {
        let header = [0x1bad_b002u32, 0, 0xe452_4ffe].map(u32::to_le_bytes).concat();
        let (words, members) = prepare(&header, &["--initrd", "/a/b.elf one two,c", "--append", "x"])?;
        let names: Vec<_> =
            members.iter().skip(1).map(|member| (member.name.as_str(), &member.path)).collect();
        assert_eq!(names, [("/a/b.elf", &PathBuf::from("/a/b.elf")), ("c", &PathBuf::from("c"))]);
        assert_eq!(
            words[2..],
            ["-kernel", &members[0].name, "-initrd", "/a/b.elf one two,c", "-append", "x"]
        );
        assert_eq!(prepare(&header, &[])?.0.len(), 4);
        Ok(())
    }

    #[test]
    fn files_of_disks_are_members_of_the_bundle() -> Result<()> {
        let disk = std::env::temp_dir().join(format!("monovisor-payload-{},disk", std::process::id()));
        std::fs::write(&disk, b"content")?;
        let header = [0x1bad_b002u32, 0, 0xe452_4ffe].map(u32::to_le_bytes).concat();
        let name = disk.to_str().context("a name")?;
        let twice = format!("format=raw,file={},snapshot=on", name.replace(',', ",,"));
        let made = format!("{twice},x-size=1M");
        let more = |drive: &str| {
            ["--", "-drive", drive, "-drive", "file=nowhere", "-drive", drive].map(String::from)
        };
        let members = |drive: &str| -> Result<Vec<Member>> {
            let more = more(drive);
            Ok(prepare(&header, &more.each_ref().map(String::as_str))?.1)
        };
        let found = members(&twice)?;
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].name.as_str(), &found[1].path), (name, &disk));
        assert_eq!(members(&made)?.len(), 1);
        std::fs::remove_file(&disk)?;
        Ok(())
    }

    #[test]
    fn no_kernel_is_said_before_anything_is_built() {
        let error = prepare(b"#!/bin/sh", &[]).unwrap_err().to_string();
        assert!(
            error.starts_with("--kernel /") && error.ends_with("nor an ELF or multiboot kernel"),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }
}
