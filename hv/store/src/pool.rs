//! The pages that files are made of.

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// Number of a page in the pool, counted from 1; 0 is none.
pub(crate) type PageNumber = u32;

/// A pool of pages with a free list that runs through the free pages themselves. Pages that were never used are not
/// on the list, so that a pool costs nothing to set up.
#[derive(Debug)]
pub(crate) struct Pool<'a> {
    memory: &'a mut [u8],
    /// First page of the free list.
    free: PageNumber,
    /// Pages that have been handed out at least once.
    touched: PageNumber,
    /// Pages in use.
    used: PageNumber,
}

impl<'a> Pool<'a> {
    pub const fn new() -> Self {
        Self { memory: &mut [], free: 0, touched: 0, used: 0 }
    }

    pub fn set(&mut self, memory: &'a mut [u8]) -> bool {
        if !self.memory.is_empty() {
            return false;
        }
        self.memory = memory;
        true
    }

    fn pages(&self) -> PageNumber {
        PageNumber::try_from(self.memory.len() / PAGE_SIZE).unwrap_or(PageNumber::MAX)
    }

    /// Bytes in use and bytes in all.
    pub fn usage(&self) -> (u64, u64) {
        let bytes = |pages| u64::from(pages) * PAGE_SIZE as u64;
        (bytes(self.used), bytes(self.pages()))
    }

    /// A page with any content.
    pub fn take(&mut self) -> Option<PageNumber> {
        let page = if self.free != 0 {
            let page = self.free;
            self.free = self.entry(page, 0);
            page
        } else if self.touched < self.pages() {
            self.touched += 1;
            self.touched
        } else {
            return None;
        };
        self.used += 1;
        Some(page)
    }

    /// A page full of zeros.
    pub fn take_zeroed(&mut self) -> Option<PageNumber> {
        let page = self.take()?;
        self.page_mut(page).fill(0);
        Some(page)
    }

    /// Puts a page back.
    pub fn give(&mut self, page: PageNumber) {
        self.set_entry(page, 0, self.free);
        self.free = page;
        self.used = self.used.saturating_sub(1);
    }

    /// The bytes of a page; empty for a number that is none.
    pub fn page(&self, page: PageNumber) -> &[u8] {
        let start = (page as usize).wrapping_sub(1).wrapping_mul(PAGE_SIZE);
        self.memory.get(start..start.wrapping_add(PAGE_SIZE)).unwrap_or_default()
    }

    /// The same, to be changed.
    pub fn page_mut(&mut self, page: PageNumber) -> &mut [u8] {
        let start = (page as usize).wrapping_sub(1).wrapping_mul(PAGE_SIZE);
        self.memory.get_mut(start..start.wrapping_add(PAGE_SIZE)).unwrap_or_default()
    }

    /// Entry `slot` of an index page.
    pub fn entry(&self, page: PageNumber, slot: usize) -> PageNumber {
        match self.page(page).as_chunks::<4>().0.get(slot) {
            Some(bytes) => PageNumber::from_le_bytes(*bytes),
            None => 0,
        }
    }

    /// Sets entry `slot` of an index page.
    pub fn set_entry(&mut self, page: PageNumber, slot: usize, value: PageNumber) {
        if let Some(bytes) = self.page_mut(page).as_chunks_mut::<4>().0.get_mut(slot) {
            *bytes = value.to_le_bytes();
        }
    }
}
