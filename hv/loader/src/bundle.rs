//! The boot bundle: a cpio archive in the "new ASCII" format (newc, magic 070701, or 070702 with checksums).
//!
//! A member is a header of 110 bytes (magic and 13 numbers of 8 hexadecimal digits), its name with a final zero, and
//! its data; name and data are each padded to a multiple of 4 from the start of the archive. The name `TRAILER!!!`
//! ends it.

use core::fmt;

const HEADER: usize = 110;
const MODE_TYPE: u32 = 0o170_000;
const MODE_REGULAR: u32 = 0o100_000;

/// What is wrong with an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// It does not start with the magic number of newc.
    NotCpio,
    /// A header further on is damaged.
    Header {
        /// Offset of the header in bytes.
        offset: usize,
    },
    /// A member ends behind the end of the archive.
    Truncated {
        /// Offset of its header in bytes.
        offset: usize,
    },
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCpio => f.write_str("not a cpio archive of the newc format"),
            Self::Header { offset } => write!(f, "no cpio header at byte {offset}"),
            Self::Truncated { offset } => write!(f, "the member at byte {offset} is cut off"),
        }
    }
}

/// A file in the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its path, without leading `/` or `./`.
    pub name: &'a str,
    /// Its content.
    pub data: &'a [u8],
}

/// A checked archive.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    archive: &'a [u8],
}

impl<'a> Bundle<'a> {
    /// An archive without members.
    pub const EMPTY: Self = Self { archive: &[] };

    /// The data starts like an archive.
    pub fn is_archive(data: &[u8]) -> bool {
        data.starts_with(b"070701") || data.starts_with(b"070702")
    }

    /// Checks every header of `archive`.
    pub fn new(archive: &'a [u8]) -> Result<Self, BundleError> {
        if !Self::is_archive(archive) {
            return Err(BundleError::NotCpio);
        }
        let mut offset = 0;
        while let Some(entry) = entry(archive, offset)? {
            offset = entry.next;
        }
        Ok(Self { archive })
    }

    /// The regular files, in the archive's order.
    pub fn members(&self) -> Members<'a> {
        Members { archive: self.archive, offset: 0 }
    }

    /// The file called `name`, with or without a leading `/` or `./`. Of several the last one, as when unpacking.
    pub fn find(&self, name: &str) -> Option<Member<'a>> {
        let name = plain(name);
        self.members().filter(|member| member.name == name).last()
    }
}

/// Iterator of [`Bundle::members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    archive: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        // The archive has been checked as a whole: an error cannot come up here, and would end the list.
        while let Ok(Some(entry)) = entry(self.archive, self.offset) {
            self.offset = entry.next;
            if entry.mode & MODE_TYPE == MODE_REGULAR {
                return Some(Member { name: plain(entry.name), data: entry.data });
            }
        }
        None
    }
}

/// A path without leading `/` and `./`.
pub fn plain(mut name: &str) -> &str {
    while let Some(rest) = name.strip_prefix('/').or_else(|| name.strip_prefix("./")) {
        name = rest;
    }
    name
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    data: &'a [u8],
    next: usize,
}

/// The entry at `offset`; `None` at the trailer, or where the archive ends without one.
fn entry(archive: &[u8], offset: usize) -> Result<Option<Entry<'_>>, BundleError> {
    let rest = archive.get(offset..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(None);
    }
    let bad = BundleError::Header { offset };
    let truncated = BundleError::Truncated { offset };
    let header = rest.get(..HEADER).ok_or(truncated)?;
    if !Bundle::is_archive(header) {
        return Err(bad);
    }
    let field = |index: usize| header.get(6 + 8 * index..14 + 8 * index).and_then(hex).ok_or(bad);
    let (mode, size, name_size) = (field(1)?, field(6)? as usize, field(11)? as usize);
    let name_start = offset.checked_add(HEADER).ok_or(truncated)?;
    let name_end = name_start.checked_add(name_size).ok_or(truncated)?;
    let name = archive.get(name_start..name_end).ok_or(truncated)?;
    // The final zero counts in the size of the name.
    let name = name.strip_suffix(&[0]).ok_or(bad)?;
    let name = core::str::from_utf8(name).map_err(|_| bad)?;
    if name == "TRAILER!!!" {
        return Ok(None);
    }
    let start = name_end.checked_next_multiple_of(4).ok_or(truncated)?;
    let end = start.checked_add(size).ok_or(truncated)?;
    let data = archive.get(start..end).ok_or(truncated)?;
    Ok(Some(Entry { name, mode, data, next: end.checked_next_multiple_of(4).ok_or(truncated)? }))
}

fn hex(digits: &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for digit in digits {
        value = value << 4 | char::from(*digit).to_digit(16)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;
    use std::vec::Vec;

    fn member(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
        let (size, length) = (data.len(), name.len() + 1);
        archive.extend(
            format!("070701{:08x}{mode:08X}{:024x}{:08x}{size:08x}{:032x}{length:08X}{:08x}", 1, 0, 0, 0, 0)
                .into_bytes(),
        );
        archive.extend(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }

    fn archive() -> Vec<u8> {
        let mut archive = Vec::new();
        member(&mut archive, ".", 0o40755, b"");
        member(&mut archive, "./vmlinuz", 0o100644, b"kernel");
        member(&mut archive, "dir/file", 0o100644, b"");
        member(&mut archive, "vmlinuz", 0o100644, b"later");
        member(&mut archive, "TRAILER!!!", 0, b"");
        archive.extend([0; 300]);
        archive
    }

    #[test]
    fn finds_files_by_any_spelling() {
        let archive = archive();
        let bundle = Bundle::new(&archive).unwrap();
        for name in ["vmlinuz", "/vmlinuz", "./vmlinuz", "/./vmlinuz"] {
            assert_eq!(bundle.find(name).unwrap().data, b"later");
        }
        assert_eq!(bundle.find("dir/file").unwrap().data, b"");
        assert_eq!(bundle.find("dir"), None);
        assert_eq!(bundle.find("."), None);
        let names: Vec<_> = bundle.members().map(|member| member.name).collect();
        assert_eq!(names, ["vmlinuz", "dir/file", "vmlinuz"]);
    }

    #[test]
    fn every_cut_and_every_damaged_byte_is_survived() {
        let archive = archive();
        for length in 0..archive.len() - 300 {
            let _ = Bundle::new(&archive[..length]).map(|bundle| bundle.members().count());
        }
        for index in 0..archive.len() {
            for value in [0, b'f', 0xff] {
                let mut bad = archive.clone();
                bad[index] = value;
                if let Ok(bundle) = Bundle::new(&bad) {
                    assert!(bundle.members().count() <= 4);
                }
            }
        }
        assert_eq!(Bundle::new(b"").err(), Some(BundleError::NotCpio));
        assert_eq!(Bundle::new(&archive[..100]).err(), Some(BundleError::Truncated { offset: 0 }));
    }
}
