//! `-drive`: which file a disk shows, and how.

use monovisor_devices::disk::SECTOR;
use monovisor_devices::virtio::blk::OnError;
use monovisor_loader::Options;
use monovisor_loader::options::{DRIVE, Group, GroupError, GroupKind, GroupProblem};

use super::image::Mode;

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
    /// The operator's name of the node that shows the file's content.
    pub node: Option<&'a str>,
    /// How what is written is cached.
    pub cache: Cache,
    /// About errors in reading.
    pub on_read_error: OnError,
    /// About errors in writing.
    pub on_write_error: OnError,
}

/// A cache mode. Every one is the same in RAM: they differ in what the guest is told, and the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// What is written is safe when it has been flushed.
    pub writeback: bool,
    /// Past the host's page cache.
    pub direct: bool,
    /// Flushes do nothing.
    pub no_flush: bool,
}

const fn cache(writeback: bool, direct: bool, no_flush: bool) -> Cache {
    Cache { writeback, direct, no_flush }
}

/// QEMU's names of the cache modes; the first is what holds without one.
const CACHES: [(&str, Cache); 5] = [
    ("writeback", cache(true, false, false)),
    ("none", cache(true, true, false)),
    ("writethrough", cache(false, false, false)),
    ("directsync", cache(false, true, false)),
    ("unsafe", cache(true, false, true)),
];

/// What can be done about errors.
const ON_ERROR: [(&str, OnError); 4] = [
    ("report", OnError::Report),
    ("ignore", OnError::Ignore),
    ("enospc", OnError::NoSpace),
    ("stop", OnError::Stop),
];

/// Longest name of a node, in bytes, as in QEMU.
const NODE_NAME: usize = 31;

impl<'a> Drive<'a> {
    /// Reads a list.
    ///
    /// # Errors
    /// What is unknown, wrong or not there yet.
    pub fn new(group: Group<'a>) -> Result<Self, GroupError<'a>> {
        group.only_parameters(DRIVE)?;
        let read_only = group.bool("readonly")?.or(group.bool("read-only")?).unwrap_or(false);
        let snapshot = group.bool("snapshot")?.unwrap_or(false);
        group.unsigned("index", 32)?;
        let cache = named(&group, "cache", &CACHES)?.unwrap_or(CACHES[0].1);
        let node = group.str("node-name");
        if node.is_some_and(|name| name.is_empty() || name.len() > NODE_NAME) {
            return Err(group.error("node-name", GroupProblem::Expects("1 to 31 bytes")));
        }
        // Without room nothing can be read wrongly.
        let on_read_error = named(&group, "rerror", &ON_ERROR)?;
        if on_read_error == Some(OnError::NoSpace) {
            return Err(group.error("rerror", GroupProblem::NoSuch("read error action")));
        }
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
            with_device: has_device(&group),
            mode: Mode { read_only, snapshot, create },
            serial: group.str("serial"),
            node,
            cache,
            on_read_error: on_read_error.unwrap_or(OnError::Report),
            on_write_error: named(&group, "werror", &ON_ERROR)?.unwrap_or(OnError::NoSpace),
        })
    }
}

/// What a key's value stands for.
fn named<'a, T: Copy>(
    group: &Group<'a>,
    key: &'static str,
    names: &[(&str, T)],
) -> Result<Option<T>, GroupError<'a>> {
    let Some(value) = group.str(key) else { return Ok(None) };
    match names.iter().find(|(name, _)| *name == value) {
        Some((_, meaning)) => Ok(Some(*meaning)),
        None => Err(group.error(key, GroupProblem::NoSuch(key))),
    }
}

/// Whether a drive comes with a device of its own.
pub fn has_device(group: &Group<'_>) -> bool {
    group.str("if") != Some("none")
}

/// What a drive is called: its `id`, or else its interface and its number among those.
pub fn name(options: &Options<'static>, number: usize, group: &Group<'static>) -> Name {
    if let Some(id) = group.id() {
        return Name::Given(id);
    }
    let own = has_device(group);
    let index = group.unsigned("index", 32).ok().flatten().map(|index| index as u32);
    let earlier = options.groups(GroupKind::Drive).take(number);
    let index = index.unwrap_or_else(|| earlier.filter(|other| has_device(other) == own).count() as u32);
    Name::Made(if own { "virtio" } else { "none" }, index)
}

/// A drive's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The operator's.
    Given(&'static str),
    /// A word and a number.
    Made(&'static str, u32),
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
