//! Disc images that GRUB starts, for Bochs and for real PCs.

use crate::guest::Files;
use crate::process;
use crate::progress::Progress;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which firmware an image is to boot from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// BIOS alone: a smaller image, made faster.
    Bios,
    /// BIOS and UEFI, from CD and from USB sticks.
    Both,
}

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The board's ELF file.
    pub monitor: PathBuf,
    /// The boot bundle, where there is one.
    pub bundle: Option<PathBuf>,
    /// The words of Monovisor's command line.
    pub options: Vec<String>,
}

/// Quotes a word for GRUB's shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// GRUB's configuration: boot at once, keep text mode.
fn configuration(contents: &Contents) -> String {
    let options: Vec<String> = contents.options.iter().map(|word| quote(word)).collect();
    let mut text = String::from("set timeout=0\nset default=0\nset gfxpayload=text\nmenuentry Monovisor {\n");
    text += &format!("    multiboot2 /boot/monovisor.elf {}\n", options.join(" "));
    if contents.bundle.is_some() {
        text += "    module2 /boot/bundle.cpio bundle\n";
    }
    text + "    boot\n}\n"
}

/// Makes the image `output`, with `scratch` as a directory to work in.
pub fn make(contents: &Contents, firmware: Firmware, scratch: &Path, output: &Path) -> Result<()> {
    let mut files = vec![("monovisor.elf", contents.monitor.as_path())];
    files.extend(contents.bundle.iter().map(|bundle| ("bundle.cpio", bundle.as_path())));
    disc(&configuration(contents), &files, firmware, scratch, output)
}

/// Makes an image that starts Linux itself, without Monovisor, from the BIOS.
pub fn linux(guest: &Files, scratch: &Path, output: &Path) -> Result<()> {
    let mut text = format!(
        "set timeout=0\nset default=0\nset gfxpayload=text\nmenuentry Linux {{\n    linux /boot/vmlinuz {}\n",
        guest.append
    );
    let mut files = vec![("vmlinuz", guest.kernel.as_path())];
    if let Some(initrd) = &guest.initrd {
        text += "    initrd /boot/initrd\n";
        files.push(("initrd", initrd));
    }
    disc(&(text + "    boot\n}\n"), &files, Firmware::Bios, scratch, output)
}

/// Makes an image with GRUB's configuration and files beside it in /boot.
fn disc(
    configuration: &str,
    files: &[(&str, &Path)],
    firmware: Firmware,
    scratch: &Path,
    output: &Path,
) -> Result<()> {
    let tree = scratch.join("iso");
    let _ = std::fs::remove_dir_all(&tree);
    let boot = tree.join("boot/grub");
    std::fs::create_dir_all(&boot).with_context(|| format!("cannot make {}", boot.display()))?;
    std::fs::write(boot.join("grub.cfg"), configuration)?;
    for (name, from) in files {
        std::fs::copy(from, tree.join("boot").join(name))
            .with_context(|| format!("cannot read {}", from.display()))?;
    }
    let mut command = process::command("grub-mkrescue");
    if firmware == Firmware::Bios {
        command.args(["-d", "/usr/lib/grub/i386-pc", "--locales=", "--fonts=", "--themes="]);
        command.args(["--install-modules=multiboot2 linux normal iso9660 biosdisk"]);
    } else {
        command.args(["--locales=", "--themes="]);
    }
    command.arg("-o").arg(output).arg(&tree);
    let _progress = Progress::start("making the disc image");
    process::capture(&mut command, "grub-mkrescue", Duration::from_secs(120))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_grub_as_single_words() {
        let contents = Contents {
            monitor: "m".into(),
            bundle: None,
            options: ["-append", "console=ttyS0 it's"].map(String::from).to_vec(),
        };
        let text = configuration(&contents);
        assert!(text.contains(r"multiboot2 /boot/monovisor.elf '-append' 'console=ttyS0 it'\''s'"));
        assert!(!text.contains("module2"));
    }
}
