//! Memory, dumps of it, and the store of files.

use monovisor_core::handlers::{Element, Memory, Poll, Store, StoreFiles};
use monovisor_core::schema::List;
use monovisor_core::schema::dump::{
    DumpCompleted, DumpGuestMemoryArgs, DumpGuestMemoryCapability, DumpGuestMemoryFormat, DumpQueryResult,
    DumpStatus,
};
use monovisor_core::schema::extensions::StoreFile;
use monovisor_core::schema::memory::{
    BalloonArgs, BalloonInfo, HostMemPolicy, Memdev, MemoryDeviceInfo, MemsaveArgs, PmemsaveArgs,
};
use monovisor_core::{Context, Error};

use super::{Later, Model};

/// How many files the store takes. A file is at most twice as long as memory.
const MAX_FILES: usize = 64;

impl Model {
    /// Makes a file, where there is a directory for it.
    pub(super) fn save(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let missing = || Error::cannot_open(path, "No such file or directory");
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        match directory {
            "" | "/tmp" if !name.is_empty() => {}
            "/dev" if name == "full" => return Ok(()),
            _ => return Err(missing()),
        }
        if self.store.len() >= MAX_FILES && !self.store.contains_key(path) {
            return Err(Error::cannot_open(path, "No space left on device"));
        }
        self.store.insert(path.into(), bytes);
        Ok(())
    }

    /// A piece of memory; what lies outside reads as zeros.
    fn piece(&self, start: i64, size: i64) -> Result<Vec<u8>, Error> {
        let size =
            usize::try_from(size).ok().filter(|&size| size <= 2 * self.memory.len()).ok_or_else(Error::io)?;
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(self.memory.len());
        let end = start.saturating_add(size).min(self.memory.len());
        let mut bytes = self.memory[start..end].to_vec();
        bytes.resize(size, 0);
        Ok(bytes)
    }
}

impl Memory for Model {
    fn memsave(&mut self, arguments: MemsaveArgs<'_>, cx: &mut Context<'_>) -> Poll<()> {
        self.wait(cx)?;
        let cpu = arguments.cpu_index.unwrap_or(0);
        if !usize::try_from(cpu).is_ok_and(|cpu| cpu < self.cpus.len()) {
            return Err(nb::Error::Other(Error::expects("cpu-index", "a CPU number")));
        }
        let bytes = self.piece(arguments.val, arguments.size)?;
        Ok(self.save(arguments.filename, bytes)?)
    }

    fn pmemsave(&mut self, arguments: PmemsaveArgs<'_>, cx: &mut Context<'_>) -> Poll<()> {
        self.wait(cx)?;
        let bytes = self.piece(arguments.val, arguments.size)?;
        Ok(self.save(arguments.filename, bytes)?)
    }

    fn balloon(&mut self, arguments: BalloonArgs, _: &mut Context<'_>) -> Poll<()> {
        let BalloonArgs { .. } = arguments;
        Err(nb::Error::Other(Error::device_not_active("balloon")))
    }

    fn query_balloon(&mut self, _: &mut Context<'_>) -> Poll<BalloonInfo> {
        Err(nb::Error::Other(Error::device_not_active("balloon")))
    }

    fn query_memdev(&mut self, index: usize, _: &mut Context<'_>) -> Element<Memdev<'_>> {
        // No node of the host is chosen: QEMU says so by a number beyond all nodes.
        const NO_NODE: &[u16] = &[128];
        let mut backends = self.objects.iter().filter(|object| object.kind == "memory-backend-ram");
        Ok(backends.nth(index).map(|object| Memdev {
            size: object.size,
            merge: true,
            dump: true,
            prealloc: false,
            host_nodes: List::Slice(NO_NODE),
            policy: HostMemPolicy::Default,
        }))
    }

    fn query_memory_devices(&mut self, _: usize, _: &mut Context<'_>) -> Element<MemoryDeviceInfo<'_>> {
        Ok(None)
    }

    fn dump_guest_memory(&mut self, arguments: DumpGuestMemoryArgs<'_>, cx: &mut Context<'_>) -> Poll<()> {
        self.wait(cx)?;
        let format = arguments.format.unwrap_or(DumpGuestMemoryFormat::Elf);
        let part = arguments.begin.is_some() || arguments.length.is_some();
        let refused = |text: &str| Err(nb::Error::Other(Error::text(text)));
        if format != DumpGuestMemoryFormat::Elf && (arguments.paging || part) {
            return refused("kdump-compressed format doesn't support paging or filter");
        }
        if arguments.begin.is_some() && arguments.length.is_none() {
            return Err(nb::Error::Other(Error::missing_parameter("length")));
        }
        if arguments.begin.is_none() && arguments.length.is_some() {
            return Err(nb::Error::Other(Error::missing_parameter("begin")));
        }
        if format != DumpGuestMemoryFormat::Elf {
            return Err(nb::Error::Other(Error::generic(format_args!(
                "{} is not available now",
                format.as_str()
            ))));
        }
        let (begin, length) =
            (arguments.begin.unwrap_or(0), arguments.length.unwrap_or(self.memory.len() as i64));
        if let Some(name) = arguments.protocol.strip_prefix("fd:") {
            return Err(nb::Error::Other(Error::generic(format_args!(
                "File descriptor named '{name}' has not been found"
            ))));
        }
        let Some(path) = arguments.protocol.strip_prefix("file:") else {
            return Err(nb::Error::Other(Error::invalid_parameter("protocol")));
        };
        if usize::try_from(begin).map_or(true, |begin| begin >= self.memory.len()) {
            return Err(nb::Error::Other(Error::invalid_parameter("begin")));
        }
        let bytes = self.piece(begin, length)?;
        let total = bytes.len() as i64;
        self.save(path, bytes)?;
        self.dump = DumpQueryResult { status: DumpStatus::Completed, completed: total, total };
        if arguments.detach == Some(true) {
            self.later.push(Later::DumpCompleted);
        } else {
            cx.event(&DumpCompleted { result: self.dump, error: None });
        }
        Ok(())
    }

    fn query_dump(&mut self, _: &mut Context<'_>) -> Poll<DumpQueryResult> {
        Ok(self.dump)
    }

    fn query_dump_guest_memory_capability(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<DumpGuestMemoryCapability<'_>> {
        Ok(DumpGuestMemoryCapability { formats: List::Slice(&[DumpGuestMemoryFormat::Elf]) })
    }
}

impl Store for Model {
    fn x_store_list(&mut self, index: usize, _: &mut Context<'_>) -> Element<StoreFile<'_>> {
        Ok(self.store.iter().nth(index).map(|(path, bytes)| StoreFile { path, size: bytes.len() as u64 }))
    }
}

impl StoreFiles for Model {
    fn store_size(&mut self, path: &str) -> Result<u64, Error> {
        match self.store.get(path) {
            Some(bytes) => Ok(bytes.len() as u64),
            None => Err(Error::cannot_open(path, "No such file or directory")),
        }
    }

    fn store_read(&mut self, path: &str, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let file =
            self.store.get(path).ok_or_else(|| Error::cannot_open(path, "No such file or directory"))?;
        let rest = usize::try_from(offset).ok().and_then(|offset| file.get(offset..)).unwrap_or_default();
        for (byte, &from) in bytes.iter_mut().zip(rest) {
            *byte = from;
        }
        Ok(())
    }
}
