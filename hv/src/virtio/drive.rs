//! `-drive`: which file a disk shows, and how.

use monovisor_devices::disk::SECTOR;
use monovisor_loader::options::{Group, GroupError, GroupProblem};

use super::image::Mode;

/// What `-drive` knows.
const KEYS: [&str; 11] = [
    "file",
    "format",
    "if",
    "index",
    "media",
    "cache",
    "snapshot",
    "readonly",
    "read-only",
    "serial",
    "x-size",
];

/// A drive, as the operator describes it.
#[derive(Clone, Copy, Debug)]
pub struct Drive<'a> {
    /// The list that it comes from.
    pub group: Group<'a>,
    /// Its file.
    pub file: &'a str,
    /// `if=virtio`: it comes with a device of its own.
    pub with_device: bool,
    /// How the file is opened.
    pub mode: Mode,
    /// Its serial number.
    pub serial: Option<&'a str>,
}

impl<'a> Drive<'a> {
    /// Reads a list.
    ///
    /// # Errors
    /// What is unknown, wrong or not there yet.
    pub fn new(group: Group<'a>) -> Result<Self, GroupError<'a>> {
        group.only(&KEYS)?;
        let read_only = group.bool("readonly")?.or(group.bool("read-only")?).unwrap_or(false);
        let snapshot = group.bool("snapshot")?.unwrap_or(false);
        group.unsigned("index", 32)?;
        // Every cache mode is the same in RAM.
        choice(&group, "cache", &["none", "writeback", "writethrough", "directsync", "unsafe"], &[])?;
        choice(&group, "format", &["raw"], &["qcow2", "qcow", "vdi", "vmdk", "vhdx", "vpc"])?;
        choice(&group, "media", &["disk"], &["cdrom"])?;
        choice(&group, "if", &["virtio", "none"], &["ide", "scsi", "sd", "mtd", "floppy", "pflash"])?;
        // A disk ends with a sector.
        let create = group.size("x-size")?;
        if create.is_some_and(|size| size == 0 || !size.is_multiple_of(SECTOR)) {
            return Err(group.error("x-size", GroupProblem::Expects("a multiple of 512 bytes")));
        }
        Ok(Self {
            group,
            file: group.required("file")?,
            with_device: group.str("if") != Some("none"),
            mode: Mode { read_only, snapshot, create },
            serial: group.str("serial"),
        })
    }
}

/// Checks a value of which only `here` are there and `elsewhere` are QEMU's.
fn choice<'a>(
    group: &Group<'a>,
    key: &'static str,
    here: &[&str],
    elsewhere: &[&str],
) -> Result<(), GroupError<'a>> {
    match group.str(key) {
        None => Ok(()),
        Some(value) if here.contains(&value) => Ok(()),
        Some(value) if elsewhere.contains(&value) => Err(group.error(key, GroupProblem::NotYet)),
        Some(_) => Err(group.error(key, GroupProblem::NoSuch(key))),
    }
}
