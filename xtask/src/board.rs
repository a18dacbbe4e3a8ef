//! The boards that there are.

use clap::ValueEnum;

/// A board: one image, one place to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Board {
    /// QEMU's PC under TCG: AMD SVM.
    Qemu,
    /// Bochs: Intel VMX.
    Bochs,
    /// A real PC, BIOS or UEFI, started by GRUB.
    Pc,
}

impl Board {
    /// The name used on the command line and in package names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Bochs => "bochs",
            Self::Pc => "pc",
        }
    }

    /// The Cargo package that builds the board's image.
    pub fn package(self) -> String {
        format!("monovisor-board-{}", self.name())
    }
}
