//! A disk whose content is a file of the store, and perhaps another one above it that takes what is written.

use monovisor_arch::GuestMemory;
use monovisor_devices::disk::{Disk, DiskError};
use monovisor_host::timer;
use monovisor_store::{FileId, PAGE_SIZE, Store, StoreError};

use crate::store::Files;

const PAGE: u64 = PAGE_SIZE as u64;

/// Bytes that are copied at a time when a page is taken over from below.
const PIECE: usize = 512;

/// Where the content is.
#[derive(Clone, Copy, Debug)]
enum Base {
    /// In one piece, for good: a file that came with the boot.
    Fixed(&'static [u8]),
    /// In the store's pool.
    Pool(FileId),
}

/// A raw image.
pub struct Image {
    files: Files,
    base: Base,
    /// Pages that have been written since the start, where the base is not to change.
    overlay: Option<FileId>,
    size: u64,
    read_only: bool,
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// Nothing may be written.
    pub read_only: bool,
    /// What is written is kept apart and gone with the run.
    pub snapshot: bool,
    /// Where there is no such file, one of this many bytes is made.
    pub create: Option<u64>,
}

impl Image {
    /// Opens a file.
    ///
    /// # Errors
    /// There is no such file, it cannot be written to and neither mode says that this is all right, or the store is full.
    pub fn open(files: Files, name: &str, mode: Mode) -> Result<Self, StoreError> {
        let mut store = files.lock();
        let file = match (store.open(name), mode.create) {
            (Err(StoreError::NotFound), Some(size)) => {
                let file = store.create(name, monovisor_store::IfExists::Fail)?;
                store.truncate(file, size)?;
                file
            }
            (result, _) => result?,
        };
        let stat = store.stat(file)?;
        if stat.read_only && !mode.read_only && !mode.snapshot {
            return Err(StoreError::ReadOnly);
        }
        let base = match store.fixed(file)? {
            Some(data) => Base::Fixed(data),
            None => Base::Pool(file),
        };
        let overlay = match mode.snapshot && !mode.read_only {
            true => Some(store.create_unnamed(stat.size)?),
            false => None,
        };
        Ok(Self { files, base, overlay, size: stat.size, read_only: mode.read_only })
    }

    /// Copies a piece that lies within one page to guest RAM.
    fn read_piece(
        &self,
        store: &Store<'static>,
        offset: u64,
        memory: &dyn GuestMemory,
        address: u64,
        length: usize,
    ) -> Result<(), DiskError> {
        if let Some(overlay) = self.overlay
            && let Some(bytes) = store.page(overlay, offset).map_err(failed)?
        {
            return Ok(memory.write(address, bytes.get(..length).ok_or(DiskError::Io)?)?);
        }
        match self.base {
            Base::Fixed(data) => Ok(memory.write(address, part(data, offset, length)?)?),
            Base::Pool(file) => match store.page(file, offset).map_err(failed)? {
                Some(bytes) => Ok(memory.write(address, bytes.get(..length).ok_or(DiskError::Io)?)?),
                None => Ok(memory.fill(address, 0, length as u64)?),
            },
        }
    }

    /// Makes the page that `offset` is in one of the overlay's, with the content that it has below.
    fn take_over(&self, store: &mut Store<'static>, overlay: FileId, offset: u64) -> Result<(), DiskError> {
        if store.page(overlay, offset).map_err(failed)?.is_some() {
            return Ok(());
        }
        let start = offset - offset % PAGE;
        // First the page itself: if there is none left, the overlay stays as it was.
        let length = store.page_mut(overlay, start).map_err(failed)?.len();
        let mut buffer = [0; PIECE];
        for at in (0..length).step_by(PIECE) {
            let bytes = buffer.get_mut(..PIECE.min(length - at)).unwrap_or_default();
            let from = start + at as u64;
            match self.base {
                Base::Fixed(data) => bytes.copy_from_slice(part(data, from, bytes.len())?),
                Base::Pool(file) => {
                    store.read_at(file, from, bytes).map_err(failed)?;
                }
            }
            store.write_at(overlay, from, bytes).map_err(failed)?;
        }
        Ok(())
    }
}

/// A piece of the content; it is there as long as the image is as large as it was.
fn part(data: &[u8], offset: u64, length: usize) -> Result<&[u8], DiskError> {
    let start = usize::try_from(offset).map_err(|_| DiskError::Io)?;
    start.checked_add(length).and_then(|end| data.get(start..end)).ok_or(DiskError::Io)
}

fn failed(error: StoreError) -> DiskError {
    if error == StoreError::NoSpace { DiskError::NoSpace } else { DiskError::Io }
}

/// The pieces that a range is cut into by pages: offset of each from the start of the range, and length.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = length - done;
        let piece = (PAGE - offset.wrapping_add(done) % PAGE).min(left);
        let at = done;
        done += piece;
        (piece != 0).then_some((at, piece as usize))
    })
}

impl Disk for Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn allocated(&self) -> u64 {
        match (self.overlay, self.base) {
            (Some(file), _) | (None, Base::Pool(file)) => {
                self.files.lock().stat(file).map_or(0, |stat| stat.allocated)
            }
            (None, Base::Fixed(data)) => data.len() as u64,
        }
    }

    fn ticks(&self) -> u64 {
        timer::now_tsc()
    }

    fn read(
        &mut self,
        offset: u64,
        memory: &dyn GuestMemory,
        address: u64,
        length: u32,
    ) -> Result<(), DiskError> {
        if let (Base::Fixed(data), None) = (self.base, self.overlay) {
            return Ok(memory.write(address, part(data, offset, length as usize)?)?);
        }
        let store = self.files.lock();
        for (done, piece) in pieces(offset, length.into()) {
            self.read_piece(&store, offset + done, memory, address.wrapping_add(done), piece)?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        offset: u64,
        memory: &dyn GuestMemory,
        address: u64,
        length: u32,
    ) -> Result<(), DiskError> {
        let mut store = self.files.lock();
        for (done, piece) in pieces(offset, length.into()) {
            let at = offset + done;
            let file = match (self.overlay, self.base) {
                (Some(overlay), _) => {
                    // A page that is written as a whole need not be taken over.
                    if piece != PAGE_SIZE {
                        self.take_over(&mut store, overlay, at)?;
                    }
                    overlay
                }
                (None, Base::Pool(file)) => file,
                (None, Base::Fixed(_)) => return Err(DiskError::Io),
            };
            let place = store.page_mut(file, at).map_err(failed)?;
            memory.read(address.wrapping_add(done), place.get_mut(..piece).ok_or(DiskError::Io)?)?;
        }
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> Result<(), DiskError> {
        let mut store = self.files.lock();
        let Some(overlay) = self.overlay else {
            return match self.base {
                Base::Pool(file) => store.zero(file, offset, length).map_err(failed),
                Base::Fixed(_) => Err(DiskError::Io),
            };
        };
        // A hole of the overlay shows what is below: zeros have to be there.
        for (done, piece) in pieces(offset, length) {
            let at = offset + done;
            if piece != PAGE_SIZE {
                self.take_over(&mut store, overlay, at)?;
            }
            let place = store.page_mut(overlay, at).map_err(failed)?;
            place.get_mut(..piece).ok_or(DiskError::Io)?.fill(0);
        }
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64) -> Result<(), DiskError> {
        match (self.overlay, self.base) {
            (None, Base::Pool(file)) => self.files.lock().zero(file, offset, length).map_err(failed),
            // The overlay keeps what it has: without it, the old content would come back.
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        // RAM is all there is to flush to.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use monovisor_arch::MemoryError;

    /// A guest with 64 KiB of RAM.
    struct Ram(RefCell<Vec<u8>>);

    impl GuestMemory for Ram {
        fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
            let at = address as usize;
            let ram = self.0.borrow();
            let bytes = ram.get(at..at + buffer.len()).ok_or(MemoryError { address })?;
            buffer.copy_from_slice(bytes);
            Ok(())
        }
        fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
            let at = address as usize;
            let mut ram = self.0.borrow_mut();
            let bytes = ram.get_mut(at..at + data.len()).ok_or(MemoryError { address })?;
            bytes.copy_from_slice(data);
            Ok(())
        }
        fn fill(&self, address: u64, value: u8, length: u64) -> Result<(), MemoryError> {
            self.write(address, &vec![value; length as usize])
        }
        fn contiguous(&self, _: u64) -> u64 {
            0
        }
    }

    fn write(image: &mut Image, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let ram = Ram(RefCell::new(data.to_vec()));
        image.write(offset, &ram, 0, data.len() as u32)
    }

    fn read(image: &mut Image, offset: u64, length: usize) -> Vec<u8> {
        let ram = Ram(RefCell::new(vec![0xee; length]));
        image.read(offset, &ram, 0, length as u32).unwrap();
        ram.0.into_inner()
    }

    /// Content whose bytes all differ from their neighbours, of three pages and a bit.
    fn content() -> Vec<u8> {
        (0..3 * PAGE_SIZE + 1024).map(|index| (index % 251) as u8).collect()
    }

    const SNAPSHOT: Mode = Mode { read_only: false, snapshot: true, create: None };

    #[test]
    fn files_of_the_boot_are_read_only() {
        let files = Files::for_test(16);
        let data: &'static [u8] = content().leak();
        files.lock().add_read_only("disk", data).unwrap();
        assert_eq!(Image::open(files, "disk", Mode::default()).err(), Some(StoreError::ReadOnly));
        assert_eq!(Image::open(files, "none", Mode::default()).err(), Some(StoreError::NotFound));
        let mut image = Image::open(files, "/disk", Mode { read_only: true, ..Mode::default() }).unwrap();
        assert!(image.read_only() && image.size() == data.len() as u64);
        assert_eq!(read(&mut image, 100, 5000), data[100..5100]);
        assert_eq!(write(&mut image, 0, b"x"), Err(DiskError::Io));
        assert_eq!(image.write_zeroes(0, 1), Err(DiskError::Io));
    }

    #[test]
    fn a_snapshot_leaves_what_is_below_alone() {
        let files = Files::for_test(32);
        let data: &'static [u8] = content().leak();
        files.lock().add_read_only("fixed", data).unwrap();
        let pool = files.lock().create("pool", monovisor_store::IfExists::Fail).unwrap();
        files.lock().write_at(pool, 0, data).unwrap();
        for name in ["fixed", "pool"] {
            let mut image = Image::open(files, name, SNAPSHOT).unwrap();
            let mut model = data.to_vec();
            write(&mut image, 5000, &[1; 700]).unwrap();
            model[5000..5700].fill(1);
            write(&mut image, 8192, &[2; 4096]).unwrap();
            model[8192..12288].fill(2);
            image.write_zeroes(100, 5000).unwrap();
            model[100..5100].fill(0);
            image.discard(0, 12288).unwrap();
            write(&mut image, 12288 + 500, &[3; 524]).unwrap();
            model[12788..].fill(3);
            assert_eq!(read(&mut image, 0, model.len()), model, "{name}");
            let mut below = vec![0; data.len()];
            let id = files.lock().open(name).unwrap();
            files.lock().read_at(id, 0, &mut below).unwrap();
            assert_eq!(below, data);
        }
    }

    #[test]
    fn a_full_store_is_an_error_and_loses_nothing() {
        let files = Files::for_test(3);
        let data: &'static [u8] = content().leak();
        files.lock().add_read_only("disk", data).unwrap();
        let mut image = Image::open(files, "disk", SNAPSHOT).unwrap();
        write(&mut image, 4096, &[1; 512]).unwrap();
        // An index page and a data page are in use: one is left.
        write(&mut image, 0, &[2; 512]).unwrap();
        assert_eq!(write(&mut image, 8192, &[3; 512]), Err(DiskError::NoSpace));
        let mut model = data.to_vec();
        model[4096..4608].fill(1);
        model[..512].fill(2);
        assert_eq!(read(&mut image, 0, data.len()), model);
        assert_eq!(image.allocated(), 3 * PAGE);
    }

    #[test]
    fn a_new_file_is_zeros_and_gives_pages_back() {
        let files = Files::for_test(8);
        let mode = Mode { create: Some(1 << 20), ..Mode::default() };
        let mut image = Image::open(files, "/tmp/new", mode).unwrap();
        assert_eq!(image.size(), 1 << 20);
        assert_eq!(read(&mut image, 4000, 200), [0; 200]);
        write(&mut image, 4000, &[7; 200]).unwrap();
        assert_eq!(read(&mut image, 3999, 202), [&[0][..], &[7; 200], &[0]].concat());
        let (used, _) = files.lock().usage();
        image.discard(0, 8192).unwrap();
        assert_eq!(used - files.lock().usage().0, 2 * PAGE);
        assert_eq!(read(&mut image, 4000, 200), [0; 200]);
        // Opened again it is the same file, whatever size is asked for.
        write(&mut image, 512, &[9; 512]).unwrap();
        let mut again = Image::open(files, "tmp/new", Mode { create: Some(512), ..mode }).unwrap();
        assert_eq!((again.size(), read(&mut again, 512, 512)), (1 << 20, vec![9; 512]));
        files.lock().remove("tmp/new").unwrap();
        assert_eq!(write(&mut image, 0, b"gone"), Err(DiskError::Io));
    }
}
