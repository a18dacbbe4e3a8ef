//! `memsave` and `pmemsave`: guest memory into files of the store, piece by piece while everything else goes on.

use monovisor_core::Context;
use monovisor_core::Error;
use monovisor_core::handlers::{Element, Memory, Poll};
use monovisor_core::schema::memory::{Memdev, MemoryDeviceInfo, MemsaveArgs, PmemsaveArgs};
use monovisor_store::{FileId, IfExists};

use crate::guest::read_physical;
use crate::hypervisor::Hypervisor;
use crate::store::{io_error, open_error};

/// Bytes that are copied at once.
const PIECE: usize = 4096;

/// Pieces that one step copies: a small part of a millisecond.
const PIECES: usize = 16;

/// A memory to be saved.
#[derive(Clone, Copy)]
enum Source {
    /// By linear address of a processor.
    Linear(usize),
    /// By guest-physical address.
    Physical,
}

impl Hypervisor<'_> {
    fn target(&mut self, path: &str, size: u64, first: bool) -> Result<FileId, Error> {
        if !first {
            return self.files.open(path).map_err(|error| open_error(path, error));
        }
        let file = self.files.create(path, IfExists::Truncate).map_err(|error| open_error(path, error))?;
        // A file that cannot fit is refused before a long job has filled the store.
        let (used, total) = self.files.usage();
        if size > total.saturating_sub(used) {
            let _ = self.files.remove(path);
            return Err(Error::io());
        }
        Ok(file)
    }

    fn save(
        &mut self,
        source: Source,
        address: u64,
        size: u64,
        path: &str,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let file = self.target(path, size, cx.first).map_err(nb::Error::Other)?;
        for _ in 0..PIECES {
            let left = size.saturating_sub(cx.progress);
            if left == 0 {
                return Ok(());
            }
            let mut buffer = [0; PIECE];
            let length = left.min(PIECE as u64) as usize;
            let bytes = &mut buffer[..length];
            let at = address.wrapping_add(cx.progress);
            match (source, &self.guest) {
                (Source::Linear(cpu), Some(guest)) => {
                    if guest.peek(cpu, at, bytes) != length {
                        return Err(nb::Error::Other(Error::generic(format_args!(
                            "Invalid addr 0x{address:016x}/size {size} specified"
                        ))));
                    }
                }
                (Source::Physical, Some(guest)) => read_physical(guest.ram(), at, bytes),
                (_, None) => {}
            }
            self.files.write_at(file, cx.progress, bytes).map_err(io_error).map_err(nb::Error::Other)?;
            cx.progress = cx.progress.saturating_add(length as u64);
        }
        if cx.progress == size { Ok(()) } else { Err(nb::Error::WouldBlock) }
    }
}

impl Memory for Hypervisor<'_> {
    fn memsave(&mut self, arguments: MemsaveArgs<'_>, cx: &mut Context<'_>) -> Poll<()> {
        let cpu = match arguments.cpu_index {
            None => 0,
            Some(index) => match usize::try_from(index) {
                Ok(index) if self.guest.as_ref().is_some_and(|guest| guest.cpu(index).is_some()) => index,
                _ => return Err(nb::Error::Other(Error::expects("cpu-index", "a CPU number"))),
            },
        };
        let (address, size) = (arguments.val.cast_unsigned(), arguments.size.cast_unsigned());
        self.save(Source::Linear(cpu), address, size, arguments.filename, cx)
    }

    fn pmemsave(&mut self, arguments: PmemsaveArgs<'_>, cx: &mut Context<'_>) -> Poll<()> {
        let (address, size) = (arguments.val.cast_unsigned(), arguments.size.cast_unsigned());
        self.save(Source::Physical, address, size, arguments.filename, cx)
    }

    fn query_memdev(&mut self, _: usize, _: &mut Context<'_>) -> Element<Memdev<'_>> {
        // RAM is not made of back ends.
        Ok(None)
    }

    fn query_memory_devices(&mut self, _: usize, _: &mut Context<'_>) -> Element<MemoryDeviceInfo<'_>> {
        Ok(None)
    }
}
