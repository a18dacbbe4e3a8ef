//! A writer of cpio archives in the "newc" format, for boot bundles and initramfs images.

/// The longest name that the writer takes; Linux's reader has the same limit (PATH_MAX).
const NAME_MAX: usize = 4096;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory.
    pub fn directory(&mut self, name: &str) -> &mut Self {
        self.member(name, 0o040755, (0, 0), &[])
    }

    /// A regular file with the permission bits `mode`.
    pub fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> &mut Self {
        self.member(name, 0o100000 | mode & 0o7777, (0, 0), data)
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &str, to: &str) -> &mut Self {
        self.member(name, 0o120777, (0, 0), to.as_bytes())
    }

    /// A character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) -> &mut Self {
        self.member(name, 0o020600, (major, minor), &[])
    }

    fn member(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> &mut Self {
        debug_assert!(name.len() < NAME_MAX);
        self.inode += 1;
        let links = if mode & 0o170000 == 0o040000 { 2 } else { 1 };
        self.header(name, [self.inode, mode, 0, 0, links, 0, data.len() as u32, 0, 0, device.0, device.1]);
        self.bytes.extend_from_slice(data);
        self.pad();
        self
    }

    /// The 110-byte header (magic and 13 fields of 8 hexadecimal digits) and the name.
    fn header(&mut self, name: &str, fields: [u32; 11]) {
        self.bytes.extend_from_slice(b"070701");
        for field in fields.into_iter().chain([name.len() as u32 + 1, 0]) {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The whole archive, trailer included.
    pub fn finish(mut self) -> Vec<u8> {
        self.header("TRAILER!!!", [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn headers_are_aligned_and_sized() {
        let mut archive = Archive::new();
        archive.file("a", 0o644, b"12345");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6 + 6 * 8..6 + 7 * 8], b"00000005");
        assert_eq!(&bytes[6 + 11 * 8..6 + 12 * 8], b"00000002");
        assert_eq!(&bytes[112..117], b"12345");
        assert_eq!(&bytes[120..126], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn cpio_lists_what_was_written() {
        let mut archive = Archive::new();
        archive.directory("bin").file("bin/sh", 0o755, b"x").link("init", "bin/sh");
        let Ok(mut child) = Command::new("cpio")
            .args(["--list", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            return eprintln!("cpio is not installed: not compared");
        };
        child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "bin\nbin/sh\ninit\n");
    }
}
