//! Named files in RAM: what `filename` and image paths of the monitor mean.
//!
//! A [`Store`] holds two kinds of files in one name space: read-only ones, whose bytes lie elsewhere (the boot
//! bundle), and files in a pool of pages that is given to it once. Paths are names: `/tmp/image` needs no directory,
//! and a leading `/` or `./` does not matter.
//!
//! A pool file is a radix tree of pages (see `tree`): any offset is found in at most four steps, and what was never
//! written takes no room and reads as zeros. Nothing recurses, everything has a static capacity, and an error says
//! which one was reached by the name that a POSIX system has for it.
#![no_std]
#![forbid(unsafe_code)]

mod error;
mod pool;
mod tree;

pub use error::StoreError;
pub use pool::PAGE_SIZE;

use heapless::{String, Vec};

use pool::Pool;
use tree::Tree;

/// Most files at once, read-only ones included: a bundle has a handful, an operator adds images and dumps.
pub const MAX_FILES: usize = 64;
/// Longest path in bytes, without a leading `/`.
pub const MAX_NAME: usize = 127;
/// Largest file in bytes: three levels of index pages.
pub const MAX_FILE_SIZE: u64 = tree::MAX_PAGES * PAGE_SIZE as u64;

/// An open file: stays valid until the file is removed, and then it is an error to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    slot: u8,
    generation: u32,
}

/// What [`Store::create`] does with a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    /// [`StoreError::Exists`].
    Fail,
    /// Open it and make it empty.
    Truncate,
    /// Open it as it is.
    Keep,
}

/// What is known about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Length in bytes.
    pub size: u64,
    /// Bytes that it takes of the pool, index pages included; 0 for read-only files.
    pub allocated: u64,
    /// It cannot be changed or removed.
    pub read_only: bool,
}

#[derive(Debug)]
enum Content<'a> {
    Fixed(&'a [u8]),
    Pool { tree: Tree, size: u64 },
}

#[derive(Debug)]
struct File<'a> {
    name: String<MAX_NAME>,
    generation: u32,
    content: Content<'a>,
}

/// The files.
#[derive(Debug)]
pub struct Store<'a> {
    files: Vec<Option<File<'a>>, MAX_FILES>,
    pool: Pool<'a>,
    generation: u32,
}

impl Default for Store<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Store<'a> {
    /// No files and no pool. (`const`, for a static.)
    pub const fn new() -> Self {
        Self { files: Vec::new(), pool: Pool::new(), generation: 0 }
    }

    /// Gives the memory for files; its content does not matter and is not touched here. Only the first pool counts:
    /// false where there is one already.
    pub fn set_pool(&mut self, memory: &'a mut [u8]) -> bool {
        self.pool.set(memory)
    }

    /// Bytes of the pool that are in use, and its size in bytes.
    pub fn usage(&self) -> (u64, u64) {
        self.pool.usage()
    }

    /// Adds a file whose bytes lie elsewhere. One with the same name is replaced, as in an archive.
    pub fn add_read_only(&mut self, name: &str, data: &'a [u8]) -> Result<FileId, StoreError> {
        let name = normal(name)?;
        if let Some(id) = self.find(name) {
            self.delete(id)?;
        }
        self.insert(name, Content::Fixed(data))
    }

    /// Opens a file.
    pub fn open(&self, name: &str) -> Result<FileId, StoreError> {
        self.find(normal(name)?).ok_or(StoreError::NotFound)
    }

    /// Opens a file for writing, and makes it where it is not there.
    pub fn create(&mut self, name: &str, if_exists: IfExists) -> Result<FileId, StoreError> {
        let name = normal(name)?;
        let Some(id) = self.find(name) else {
            return self.insert(name, Content::Pool { tree: Tree::new(), size: 0 });
        };
        if if_exists == IfExists::Fail {
            return Err(StoreError::Exists);
        }
        if matches!(self.file(id)?.content, Content::Fixed(_)) {
            return Err(StoreError::ReadOnly);
        }
        if if_exists == IfExists::Truncate {
            self.truncate(id, 0)?;
        }
        Ok(id)
    }

    /// Size and kind of a file.
    pub fn stat(&self, id: FileId) -> Result<Stat, StoreError> {
        Ok(stat(self.file(id)?))
    }

    /// All files with their names, in no order.
    pub fn list(&self) -> impl Iterator<Item = (&str, Stat)> {
        self.files
            .iter()
            .flatten()
            .filter(|file| !file.name.is_empty())
            .map(|file| (file.name.as_str(), stat(file)))
    }

    /// The bytes of a read-only file in one piece; `None` for a file in the pool.
    pub fn fixed(&self, id: FileId) -> Result<Option<&'a [u8]>, StoreError> {
        Ok(match self.file(id)?.content {
            Content::Fixed(data) => Some(data),
            Content::Pool { .. } => None,
        })
    }

    /// Reads from `offset` (bytes) on. Returns how many bytes there were: fewer than `buffer` holds only at the end of
    /// the file.
    pub fn read_at(&self, id: FileId, offset: u64, buffer: &mut [u8]) -> Result<usize, StoreError> {
        match &self.file(id)?.content {
            Content::Fixed(data) => {
                let rest = usize::try_from(offset).ok().and_then(|from| data.get(from..)).unwrap_or_default();
                let length = rest.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
                    to.copy_from_slice(from);
                }
                Ok(length)
            }
            Content::Pool { tree, size } => {
                let length = size.saturating_sub(offset).min(buffer.len() as u64) as usize;
                tree.read(&self.pool, offset, buffer.get_mut(..length).unwrap_or_default());
                Ok(length)
            }
        }
    }

    /// Writes all of `data` at `offset` (bytes); the file grows as far as is needed. On [`StoreError::NoSpace`] a
    /// leading part has been written, which the size shows where the file has grown.
    pub fn write_at(&mut self, id: FileId, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let Self { files, pool, .. } = self;
        let (tree, size) = writable(files, id)?;
        if data.is_empty() {
            return Ok(());
        }
        match offset.checked_add(data.len() as u64) {
            Some(end) if end <= MAX_FILE_SIZE => {}
            _ => return Err(StoreError::TooLarge),
        }
        let written = tree.write(pool, offset, data);
        if written != 0 {
            *size = (*size).max(offset + written as u64);
        }
        if written == data.len() { Ok(()) } else { Err(StoreError::NoSpace) }
    }

    /// Makes a file that has no name and is in no list: it is there as long as its handle is kept.
    pub fn create_unnamed(&mut self, size: u64) -> Result<FileId, StoreError> {
        if size > MAX_FILE_SIZE {
            return Err(StoreError::TooLarge);
        }
        self.insert("", Content::Pool { tree: Tree::new(), size })
    }

    /// The bytes of a pool file's page that byte `offset` is in, from there to the end of the page or of the file;
    /// `None` in a hole, which reads as zeros.
    pub fn page(&self, id: FileId, offset: u64) -> Result<Option<&[u8]>, StoreError> {
        let Content::Pool { tree, size } = &self.file(id)?.content else { return Err(StoreError::ReadOnly) };
        let rest = size.saturating_sub(offset);
        Ok(tree.bytes(&self.pool, offset).map(|bytes| {
            let length = rest.min(bytes.len() as u64) as usize;
            bytes.get(..length).unwrap_or_default()
        }))
    }

    /// The same to be written; a hole becomes a page of zeros. Nothing lies behind the end of the file.
    pub fn page_mut(&mut self, id: FileId, offset: u64) -> Result<&mut [u8], StoreError> {
        let Self { files, pool, .. } = self;
        let (tree, size) = writable(files, id)?;
        let rest = size.saturating_sub(offset);
        if rest == 0 {
            return Ok(&mut []);
        }
        let bytes = tree.bytes_mut(pool, offset).ok_or(StoreError::NoSpace)?;
        let length = rest.min(bytes.len() as u64) as usize;
        Ok(bytes.get_mut(..length).unwrap_or_default())
    }

    /// Makes `length` bytes from `offset` on read as zeros; whole pages are given back to the pool. The size stays.
    pub fn zero(&mut self, id: FileId, offset: u64, length: u64) -> Result<(), StoreError> {
        let Self { files, pool, .. } = self;
        let (tree, size) = writable(files, id)?;
        let end = offset.saturating_add(length).min(*size);
        let mut at = offset;
        while at < end {
            let within = at % PAGE_SIZE as u64;
            let piece = (PAGE_SIZE as u64 - within).min(end - at);
            if piece == PAGE_SIZE as u64 {
                tree.punch(pool, at);
            } else if tree.bytes(pool, at).is_some()
                && let Some(place) =
                    tree.bytes_mut(pool, at).and_then(|bytes| bytes.get_mut(..piece as usize))
            {
                place.fill(0);
            }
            at += piece;
        }
        Ok(())
    }

    /// Sets the size in bytes: what is cut off is freed, what is added reads as zeros and takes no room.
    pub fn truncate(&mut self, id: FileId, new_size: u64) -> Result<(), StoreError> {
        let Self { files, pool, .. } = self;
        let (tree, size) = writable(files, id)?;
        if new_size > MAX_FILE_SIZE {
            return Err(StoreError::TooLarge);
        }
        if new_size < *size {
            tree.shrink(pool, new_size);
        }
        *size = new_size;
        Ok(())
    }

    /// Removes a file and frees its pages.
    pub fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        let id = self.open(name)?;
        self.truncate(id, 0)?;
        self.delete(id)
    }

    /// Gives a file another name; a file that has it is removed.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        let id = self.open(from)?;
        let to = normal(to)?;
        writable(&mut self.files, id)?;
        if let Some(other) = self.find(to).filter(|other| *other != id) {
            self.truncate(other, 0)?;
            self.delete(other)?;
        }
        let name = String::try_from(to).map_err(|_| StoreError::NameTooLong)?;
        if let Some(Some(file)) = self.files.get_mut(usize::from(id.slot)) {
            file.name = name;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<FileId> {
        self.files.iter().enumerate().find_map(|(slot, file)| {
            let file = file.as_ref().filter(|file| file.name == name)?;
            Some(FileId { slot: slot as u8, generation: file.generation })
        })
    }

    fn file(&self, id: FileId) -> Result<&File<'a>, StoreError> {
        match self.files.get(usize::from(id.slot)) {
            Some(Some(file)) if file.generation == id.generation => Ok(file),
            _ => Err(StoreError::BadHandle),
        }
    }

    fn insert(&mut self, name: &str, content: Content<'a>) -> Result<FileId, StoreError> {
        let name = String::try_from(name).map_err(|_| StoreError::NameTooLong)?;
        let slot = match self.files.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.files.push(None).map_err(|_| StoreError::TooManyFiles)?;
                self.files.len() - 1
            }
        };
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        if let Some(place) = self.files.get_mut(slot) {
            *place = Some(File { name, generation, content });
        }
        Ok(FileId { slot: slot as u8, generation })
    }

    /// Takes a file out of the list; its pages have been freed.
    fn delete(&mut self, id: FileId) -> Result<(), StoreError> {
        if let Content::Pool { .. } = self.file(id)?.content {
            self.truncate(id, 0)?;
        }
        if let Some(place) = self.files.get_mut(usize::from(id.slot)) {
            *place = None;
        }
        Ok(())
    }
}

fn stat(file: &File<'_>) -> Stat {
    match &file.content {
        Content::Fixed(data) => Stat { size: data.len() as u64, allocated: 0, read_only: true },
        Content::Pool { tree, size } => {
            Stat { size: *size, allocated: tree.pages() * PAGE_SIZE as u64, read_only: false }
        }
    }
}

/// The tree and the size of a file in the pool.
fn writable<'s>(
    files: &'s mut [Option<File<'_>>],
    id: FileId,
) -> Result<(&'s mut Tree, &'s mut u64), StoreError> {
    match files.get_mut(usize::from(id.slot)) {
        Some(Some(file)) if file.generation == id.generation => match &mut file.content {
            Content::Pool { tree, size } => Ok((tree, size)),
            Content::Fixed(_) => Err(StoreError::ReadOnly),
        },
        _ => Err(StoreError::BadHandle),
    }
}

/// A path without leading `/` and `./`, checked.
fn normal(mut name: &str) -> Result<&str, StoreError> {
    while let Some(rest) = name.strip_prefix('/').or_else(|| name.strip_prefix("./")) {
        name = rest;
    }
    if name.len() > MAX_NAME {
        return Err(StoreError::NameTooLong);
    }
    // A path that ends in a slash, or in a dot component, would be a directory.
    let last = name.rsplit('/').next().unwrap_or_default();
    if matches!(last, "" | "." | "..") || name.contains('\0') {
        return Err(StoreError::InvalidName);
    }
    Ok(name)
}
