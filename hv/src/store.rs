//! The store on a rig: the files of the boot bundle, and new ones in the RAM that the guest leaves.

use monovisor_core::handlers::{Element, Store as StoreHandlers, StoreFiles};
use monovisor_core::schema::extensions::StoreFile;
use monovisor_core::{Context, Error};
use monovisor_host::{frames, info, warn};
use monovisor_store::{FileId, Store, StoreError};
use spin::{Mutex, MutexGuard, Once};

use crate::hypervisor::Hypervisor;
use crate::launch::Launch;

/// Made at run time: an empty store is not all zero, and need not be in the image.
static STORE: Once<Mutex<Store<'static>>> = Once::new();

/// The store, as everybody who works with files holds it: the monitor and the disks of the guest.
///
/// Its lock is the last in the order of locks: nothing is called, and no other lock is taken, while it is held.
#[derive(Clone, Copy)]
pub struct Files(&'static Mutex<Store<'static>>);

impl Files {
    /// The files, for one operation.
    pub fn lock(self) -> MutexGuard<'static, Store<'static>> {
        self.0.lock()
    }

    /// A store of its own for a test, with so many pages.
    #[cfg(test)]
    pub(crate) fn for_test(pages: usize) -> Self {
        let files = Self(Box::leak(Box::new(Mutex::new(Store::new()))));
        assert!(files.lock().set_pool(vec![0xa5; pages * monovisor_store::PAGE_SIZE].leak()));
        files
    }
}

/// Opens the store: names the files that came with the boot, and gives it all RAM that is left. May be called once.
// Not part of its caller's frame, which stays on the stack for good.
#[inline(never)]
pub fn open(launch: &Launch) -> Files {
    let files = Files(STORE.call_once(|| Mutex::new(Store::new())));
    let mut store = files.lock();
    for (name, data) in launch.files() {
        if let Err(error) = store.add_read_only(name, data) {
            warn!("the file {name} of the boot bundle is not in the store: {error}");
        }
    }
    let length = frames::largest(4096);
    if let Some(pool) = frames::carve_slice_dirty(length, 4096)
        && store.set_pool(pool)
    {
        info!("store of {} MiB", length >> 20);
    }
    files
}

/// What QEMU says when a file cannot be opened.
pub fn open_error(path: &str, error: StoreError) -> Error {
    Error::cannot_open(path, error.message())
}

/// What QEMU says when a file cannot be read or written.
pub fn io_error(_: StoreError) -> Error {
    Error::io()
}

impl StoreHandlers for Hypervisor<'_> {
    fn x_store_list(&mut self, index: usize, _: &mut Context<'_>) -> Element<StoreFile<'_>> {
        let files = self.files.lock();
        let Some((path, stat)) = files.list().nth(index) else { return Ok(None) };
        Ok(Some(StoreFile { path: self.reply.keep_name(path), size: stat.size }))
    }
}

impl Hypervisor<'_> {
    fn find(&self, path: &str) -> Result<FileId, Error> {
        self.files.lock().open(path).map_err(|error| open_error(path, error))
    }
}

impl StoreFiles for Hypervisor<'_> {
    fn store_size(&mut self, path: &str) -> Result<u64, Error> {
        let file = self.find(path)?;
        Ok(self.files.lock().stat(file).map_err(io_error)?.size)
    }

    fn store_read(&mut self, path: &str, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let file = self.find(path)?;
        self.files.lock().read_at(file, offset, bytes).map_err(io_error)?;
        Ok(())
    }
}
