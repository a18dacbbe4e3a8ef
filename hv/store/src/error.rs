//! What can go wrong, by the names that POSIX has for it.

use core::fmt;

/// Why an operation on a file failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// ENOENT: no file of this name.
    NotFound,
    /// EEXIST: there is a file of this name.
    Exists,
    /// EROFS: the file is part of the boot bundle.
    ReadOnly,
    /// ENOSPC: the pool is full.
    NoSpace,
    /// ENFILE: [`crate::MAX_FILES`] files are there already.
    TooManyFiles,
    /// ENAMETOOLONG: longer than [`crate::MAX_NAME`] bytes.
    NameTooLong,
    /// EINVAL: not the name of a file.
    InvalidName,
    /// EFBIG: larger than [`crate::MAX_FILE_SIZE`].
    TooLarge,
    /// EBADF: the file has been removed since it was opened.
    BadHandle,
}

impl StoreError {
    /// Its POSIX name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "ENOENT",
            Self::Exists => "EEXIST",
            Self::ReadOnly => "EROFS",
            Self::NoSpace => "ENOSPC",
            Self::TooManyFiles => "ENFILE",
            Self::NameTooLong => "ENAMETOOLONG",
            Self::InvalidName => "EINVAL",
            Self::TooLarge => "EFBIG",
            Self::BadHandle => "EBADF",
        }
    }

    /// The words that `strerror` has for it on Linux, which QEMU's messages end in.
    pub const fn message(self) -> &'static str {
        match self {
            Self::NotFound => "No such file or directory",
            Self::Exists => "File exists",
            Self::ReadOnly => "Read-only file system",
            Self::NoSpace => "No space left on device",
            Self::TooManyFiles => "Too many open files in system",
            Self::NameTooLong => "File name too long",
            Self::InvalidName => "Invalid argument",
            Self::TooLarge => "File too large",
            Self::BadHandle => "Bad file descriptor",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}
