//! `memsave` and `pmemsave`: guest memory into files of the store, piece by piece while everything else goes on.

use monovisor_core::Context;
use monovisor_core::Error;
use monovisor_core::handlers::{Element, Memory, Poll};
use monovisor_core::schema::memory::{
    BalloonArgs, BalloonInfo, Memdev, MemoryDeviceInfo, MemsaveArgs, PmemsaveArgs,
};
use monovisor_devices::virtio::Context as VirtioContext;
use monovisor_devices::virtio::balloon::Balloon;
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
pub(crate) enum Source {
    /// By linear address of a processor.
    Linear(usize),
    /// By guest-physical address.
    Physical,
}

/// A save that goes on from step to step.
pub(crate) struct Save {
    source: Source,
    address: u64,
    size: u64,
    /// Bytes that are in the file.
    done: u64,
    file: FileId,
}

impl Hypervisor<'_> {
    /// Works on the balloon.
    ///
    /// # Errors
    /// QEMU's, where there is none.
    pub(crate) fn with_balloon<R>(
        &mut self,
        mut work: impl FnMut(&mut Balloon, &mut VirtioContext<'_>) -> R,
    ) -> Result<R, Error> {
        let mut result = None;
        if let Some(guest) = &mut self.guest {
            guest.devices(&mut |devices| {
                let now = devices.now();
                let slot = devices.pc.find_virtio::<Balloon>();
                result = slot.and_then(|slot| devices.pc.with_virtio(slot, now, &mut work));
            });
        }
        result.ok_or_else(|| Error::device_not_active("balloon"))
    }

    /// Asks the guest to make do with so many bytes of RAM.
    ///
    /// # Errors
    /// QEMU's: there is no balloon, or no guest can do with so little.
    pub(crate) fn set_balloon(&mut self, bytes: i64) -> Result<(), Error> {
        let target = u64::try_from(bytes).unwrap_or(0);
        self.with_balloon(|balloon, cx| {
            if target != 0 {
                balloon.set_target(target, cx);
            }
        })?;
        if target == 0 { Err(Error::expects("target", "a size")) } else { Ok(()) }
    }

    /// Begins a save for a session; [`Self::save_step`] carries it out.
    pub(crate) fn save_begin(
        &mut self,
        session: usize,
        source: Source,
        address: u64,
        size: u64,
        path: &str,
    ) -> Result<(), Error> {
        if self.guest.is_none() {
            return Err(Error::text("There is no guest whose memory could be saved"));
        }
        let file =
            self.files.lock().create(path, IfExists::Truncate).map_err(|error| open_error(path, error))?;
        // A file that cannot fit is refused before a long job has filled the store.
        let (used, total) = self.files.lock().usage();
        if size > total.saturating_sub(used) {
            let _ = self.files.lock().remove(path);
            return Err(Error::io());
        }
        if let Some(saving) = self.saving.get_mut(session) {
            *saving = Some(Save { source, address, size, done: 0, file });
        }
        Ok(())
    }

    /// Goes on with the session's save, if there is one.
    pub(crate) fn save_step(&mut self, session: usize) -> Poll<()> {
        let Some(mut save) = self.saving.get_mut(session).and_then(Option::take) else { return Ok(()) };
        for _ in 0..PIECES {
            if !self.save_piece(&mut save)? {
                return Ok(());
            }
        }
        if let Some(saving) = self.saving.get_mut(session) {
            *saving = Some(save);
        }
        Err(nb::Error::WouldBlock)
    }

    /// Saves a piece. False: there is nothing left.
    fn save_piece(&mut self, save: &mut Save) -> Result<bool, Error> {
        let Save { source, address, size, done, file } = *save;
        let left = size.saturating_sub(done);
        if left == 0 {
            return Ok(false);
        }
        let mut buffer = [0; PIECE];
        let length = left.min(PIECE as u64) as usize;
        let bytes = buffer.get_mut(..length).unwrap_or_default();
        let at = address.wrapping_add(done);
        match (source, &self.guest) {
            (Source::Linear(cpu), Some(guest)) => {
                if guest.peek(cpu, at, bytes) != length {
                    return Err(Error::generic(format_args!(
                        "Invalid addr 0x{address:016x}/size {size} specified"
                    )));
                }
            }
            (Source::Physical, Some(guest)) => read_physical(guest.ram(), at, bytes),
            (_, None) => {}
        }
        self.files.lock().write_at(file, done, bytes).map_err(io_error)?;
        save.done = done.saturating_add(length as u64);
        Ok(true)
    }

    /// A save by a QMP command.
    fn save(
        &mut self,
        source: Source,
        address: u64,
        size: u64,
        path: &str,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if cx.first {
            self.save_begin(cx.session, source, address, size, path)?;
        }
        self.save_step(cx.session)
    }
}

impl Memory for Hypervisor<'_> {
    fn balloon(&mut self, arguments: BalloonArgs, _: &mut Context<'_>) -> Poll<()> {
        Ok(self.set_balloon(arguments.value)?)
    }

    fn query_balloon(&mut self, _: &mut Context<'_>) -> Poll<BalloonInfo> {
        let actual = self.with_balloon(|balloon, _| balloon.actual())?;
        Ok(BalloonInfo { actual: actual.cast_signed() })
    }

    fn memsave(&mut self, arguments: MemsaveArgs<'_>, cx: &mut Context<'_>) -> Poll<()> {
        let cpu = match arguments.cpu_index {
            None => 0,
            Some(index) => match usize::try_from(index) {
                Ok(index) if index < self.processors() => index,
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
