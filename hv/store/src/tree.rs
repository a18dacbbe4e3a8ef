//! The pages of one file: a radix tree of index pages, as tall as the file needs.
//!
//! At height 0 the root is the only data page; each level above is an index page of 1024 page numbers. 0 in an index is
//! a hole: it reads as zeros. Bytes of a data page behind the end of the file are always zero, so that a file
//! can grow without being touched.

use crate::pool::{PAGE_SIZE, PageNumber, Pool};

/// Page numbers in an index page.
const FANOUT: u64 = (PAGE_SIZE / size_of::<PageNumber>()) as u64;
/// log2 of [`FANOUT`].
const FANOUT_SHIFT: u32 = FANOUT.trailing_zeros();
/// Most levels of index pages.
const MAX_HEIGHT: u32 = 3;
/// Most data pages of a file.
pub(crate) const MAX_PAGES: u64 = 1 << (FANOUT_SHIFT * MAX_HEIGHT);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    root: PageNumber,
    height: u32,
    /// Pages in use, index pages included.
    pages: u32,
}

/// Data pages below one entry of an index page at `level` (1 is the lowest).
const fn span(level: u32) -> u64 {
    1 << (FANOUT_SHIFT * (level - 1))
}

/// Slot in an index page at `level` on the way to data page `index`.
const fn slot(level: u32, index: u64) -> usize {
    (index / span(level) % FANOUT) as usize
}

impl Tree {
    pub const fn new() -> Self {
        Self { root: 0, height: 0, pages: 0 }
    }

    pub fn pages(&self) -> u64 {
        u64::from(self.pages)
    }

    /// Data page `index`, 0 where there is a hole.
    fn find(&self, pool: &Pool<'_>, index: u64) -> PageNumber {
        if index >> (FANOUT_SHIFT * self.height) != 0 {
            return 0;
        }
        let mut page = self.root;
        for level in (1..=self.height).rev() {
            if page == 0 {
                return 0;
            }
            page = pool.entry(page, slot(level, index));
        }
        page
    }

    /// The bytes of the page that byte `offset` is in, from there to the page's end; `None` in a hole.
    pub fn bytes<'p>(&self, pool: &'p Pool<'_>, offset: u64) -> Option<&'p [u8]> {
        let page = self.find(pool, offset / PAGE_SIZE as u64);
        if page == 0 { None } else { pool.page(page).get((offset % PAGE_SIZE as u64) as usize..) }
    }

    /// The same to be changed; a hole becomes a page of zeros. `None` where the pool is full.
    pub fn bytes_mut<'p>(&mut self, pool: &'p mut Pool<'_>, offset: u64) -> Option<&'p mut [u8]> {
        let page = self.make(pool, offset / PAGE_SIZE as u64, true)?;
        pool.page_mut(page).get_mut((offset % PAGE_SIZE as u64) as usize..)
    }

    /// Makes the page that byte `offset` is in a hole. Index pages stay.
    pub fn punch(&mut self, pool: &mut Pool<'_>, offset: u64) {
        let index = offset / PAGE_SIZE as u64;
        if index >> (FANOUT_SHIFT * self.height) != 0 {
            return;
        }
        let (mut parent, mut page) = (None, self.root);
        for level in (1..=self.height).rev() {
            if page == 0 {
                return;
            }
            parent = Some((page, slot(level, index)));
            page = pool.entry(page, slot(level, index));
        }
        if page == 0 {
            return;
        }
        match parent {
            Some((parent, slot)) => pool.set_entry(parent, slot, 0),
            None => self.root = 0,
        }
        self.free(pool, page);
    }

    /// Data page `index`, made where there is none: full of zeros if `zeroed`. `None` where the pool is full.
    fn make(&mut self, pool: &mut Pool<'_>, index: u64, zeroed: bool) -> Option<PageNumber> {
        while index >> (FANOUT_SHIFT * self.height) != 0 {
            if self.root != 0 {
                let page = pool.take_zeroed()?;
                self.pages += 1;
                pool.set_entry(page, 0, self.root);
                self.root = page;
            }
            self.height += 1;
        }
        let mut parent = None;
        let mut page = self.root;
        for level in (0..=self.height).rev() {
            if page == 0 {
                page = if level == 0 && !zeroed { pool.take()? } else { pool.take_zeroed()? };
                self.pages += 1;
                match parent {
                    Some((parent, slot)) => pool.set_entry(parent, slot, page),
                    None => self.root = page,
                }
            }
            if level != 0 {
                let slot = slot(level, index);
                parent = Some((page, slot));
                page = pool.entry(page, slot);
            } else {
                return Some(page);
            }
        }
        None
    }

    /// Reads into all of `buffer`; the caller has cut it at the end of the file.
    pub fn read(&self, pool: &Pool<'_>, offset: u64, buffer: &mut [u8]) {
        let mut offset = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let within = (offset % PAGE_SIZE as u64) as usize;
            let length = (PAGE_SIZE - within).min(rest.len());
            let (piece, behind) = rest.split_at_mut(length);
            let page = self.find(pool, offset / PAGE_SIZE as u64);
            match pool.page(page).get(within..within + length) {
                Some(bytes) if page != 0 => piece.copy_from_slice(bytes),
                _ => piece.fill(0),
            }
            offset = offset.wrapping_add(length as u64);
            rest = behind;
        }
    }

    /// Writes `data`, whose end is within the largest file. Returns how many bytes were written before the pool was
    /// full.
    pub fn write(&mut self, pool: &mut Pool<'_>, offset: u64, data: &[u8]) -> usize {
        let mut done = 0usize;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let within = (at % PAGE_SIZE as u64) as usize;
            let length = (PAGE_SIZE - within).min(rest.len());
            let Some(page) = self.make(pool, at / PAGE_SIZE as u64, length != PAGE_SIZE) else { break };
            if let (Some(to), Some(from)) =
                (pool.page_mut(page).get_mut(within..within + length), rest.get(..length))
            {
                to.copy_from_slice(from);
            }
            done += length;
        }
        done
    }

    /// Frees what lies behind `size` bytes and clears the rest of the page that `size` is in.
    pub fn shrink(&mut self, pool: &mut Pool<'_>, size: u64) {
        let within = (size % PAGE_SIZE as u64) as usize;
        if within != 0 {
            let page = self.find(pool, size / PAGE_SIZE as u64);
            if page != 0
                && let Some(tail) = pool.page_mut(page).get_mut(within..)
            {
                tail.fill(0);
            }
        }
        let keep = size.div_ceil(PAGE_SIZE as u64);
        if self.root == 0 || keep >> (FANOUT_SHIFT * self.height) != 0 {
            return;
        }
        self.release(pool, keep);
        if keep == 0 {
            *self = Self::new();
        }
    }

    /// Frees the data pages from index `keep` on and the index pages that serve only those: depth first, with a stack
    /// as deep as the tree can be. Holes are stepped over where they hang highest.
    fn release(&mut self, pool: &mut Pool<'_>, keep: u64) {
        // For each index page on the way: its number, the first data page below it, the next slot to look at.
        let mut path = [(0 as PageNumber, 0u64, 0u64); MAX_HEIGHT as usize + 1];
        let mut level = self.height;
        if level == 0 {
            if keep == 0 {
                self.free(pool, self.root);
            }
            return;
        }
        let first_slot = |level: u32, first: u64| keep.saturating_sub(first) / span(level);
        path[level as usize & 3] = (self.root, 0, first_slot(level, 0));
        loop {
            let (page, first, next) = path[level as usize & 3];
            if next >= FANOUT {
                // Done with this index page; its parent's slot is the one before the parent's next.
                if first >= keep {
                    self.free(pool, page);
                    if level < self.height {
                        let (parent, _, next) = path[(level + 1) as usize & 3];
                        pool.set_entry(parent, (next - 1) as usize, 0);
                    }
                }
                if level == self.height {
                    return;
                }
                level += 1;
                continue;
            }
            path[level as usize & 3].2 = next + 1;
            let child = pool.entry(page, next as usize);
            if child == 0 {
                continue;
            }
            let child_first = first + next * span(level);
            if level > 1 {
                level -= 1;
                path[level as usize & 3] = (child, child_first, first_slot(level, child_first));
            } else if child_first >= keep {
                self.free(pool, child);
                pool.set_entry(page, next as usize, 0);
            }
        }
    }

    fn free(&mut self, pool: &mut Pool<'_>, page: PageNumber) {
        pool.give(page);
        self.pages = self.pages.saturating_sub(1);
    }
}
