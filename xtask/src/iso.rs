//! Disc images that GRUB starts, for Bochs and for real PCs.

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
    let tree = scratch.join("iso");
    let _ = std::fs::remove_dir_all(&tree);
    let boot = tree.join("boot/grub");
    std::fs::create_dir_all(&boot).with_context(|| format!("cannot make {}", boot.display()))?;
    std::fs::write(boot.join("grub.cfg"), configuration(contents))?;
    std::fs::copy(&contents.monitor, tree.join("boot/monovisor.elf"))
        .with_context(|| format!("cannot read {}", contents.monitor.display()))?;
    if let Some(bundle) = &contents.bundle {
        std::fs::copy(bundle, tree.join("boot/bundle.cpio"))
            .with_context(|| format!("cannot read {}", bundle.display()))?;
    }
    let mut command = process::command("grub-mkrescue");
    if firmware == Firmware::Bios {
        command.args(["-d", "/usr/lib/grub/i386-pc", "--locales=", "--fonts=", "--themes="]);
        command.args(["--install-modules=multiboot2 normal iso9660 biosdisk"]);
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
