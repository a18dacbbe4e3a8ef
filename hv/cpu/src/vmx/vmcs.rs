//! The current VMCS: checked access, and a cache of what one exit asks for more than once.

use core::cell::Cell;

use super::error::VmxError;
use super::field::Field;
use super::instruction;
use super::root::{Page, Root};

/// The guest-state fields that are cached between two entries, by their index in the cache.
const CACHED: [Field; 6] = [
    Field::GUEST_RIP,
    Field::GUEST_RFLAGS,
    Field::GUEST_INTERRUPTIBILITY,
    Field::GUEST_RSP,
    Field::GUEST_CS_ACCESS,
    Field::GUEST_EFER,
];

/// One of the fields in [`CACHED`].
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Slot {
    Rip = 0,
    Rflags = 1,
    Interruptibility = 2,
    Rsp = 3,
    CsAccess = 4,
    Efer = 5,
}

/// The one VMCS of a CPU in VMX root operation. It stays current from [`Vmcs::new`] to [`Vmcs::clear`]; there is no other,
/// since making it uses up the [`Root`].
pub(super) struct Vmcs {
    root: Root,
    region: &'static mut Page,
    /// Bit per [`Slot`]: the value is that of the VMCS.
    valid: Cell<u8>,
    cache: [Cell<u64>; CACHED.len()],
    /// The first access that failed. No access to a field that the capabilities promise can fail, so this tells of a
    /// mistake or a broken CPU; it ends the guest at the next entry, by name.
    fault: Cell<Option<Field>>,
}

impl Vmcs {
    /// Initialises `region` as a VMCS and makes it current.
    pub fn new(root: Root, region: &'static mut Page) -> Result<Self, (Root, VmxError)> {
        region.set_revision(root.capabilities.revision);
        let address = region.address();
        // SAFETY: `root` says that this CPU is in VMX root operation; the page is borrowed for good and its frame is its
        // own address, RAM being mapped identity.
        match unsafe { instruction::vmclear(address).and_then(|()| instruction::vmptrld(address)) } {
            Ok(()) => Ok(Self {
                root,
                region,
                valid: Cell::new(0),
                cache: [const { Cell::new(0) }; CACHED.len()],
                fault: Cell::new(None),
            }),
            Err(error) => Err((root, error)),
        }
    }

    /// The CPU's VMX.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Writes the VMCS back to memory and gives the CPU's VMX back.
    pub fn clear(self) -> Root {
        // SAFETY: VMX root operation by `root`; the region is a VMCS. It fails only for an address that VMPTRLD would not
        // have taken, and a VMCS that stays active does no harm before VMXOFF on the same CPU.
        let _ = unsafe { instruction::vmclear(self.region.address()) };
        self.root
    }

    /// Reads a component; 0, and a failure at the next entry, if the CPU does not know it.
    #[inline]
    pub fn read(&self, field: Field) -> u64 {
        // SAFETY: VMX root operation by `root`.
        match unsafe { instruction::vmread(field) } {
            Some(value) => value,
            None => {
                self.failed(field);
                0
            }
        }
    }

    /// Writes a component of the guest state, or a control whose every value keeps the guest contained.
    #[inline]
    pub fn write(&mut self, field: Field, value: u64) {
        // SAFETY: VMX root operation by `root`. This is a module-private type; its users keep the contract of the text.
        if !unsafe { instruction::vmwrite(field, value) } {
            self.failed(field);
        }
    }

    /// A cached component of the guest state.
    #[inline]
    pub fn get(&self, slot: Slot) -> u64 {
        let index = slot as usize;
        let (Some(cache), Some(field)) = (self.cache.get(index), CACHED.get(index)) else { return 0 };
        if self.valid.get() & 1 << index == 0 {
            cache.set(self.read(*field));
            self.valid.set(self.valid.get() | 1 << index);
        }
        cache.get()
    }

    /// Sets a cached component of the guest state, in the VMCS too.
    #[inline]
    pub fn set(&mut self, slot: Slot, value: u64) {
        let index = slot as usize;
        let (Some(cache), Some(field)) = (self.cache.get(index), CACHED.get(index)) else { return };
        cache.set(value);
        self.valid.set(self.valid.get() | 1 << index);
        self.write(*field, value);
    }

    /// Forgets the cache: the guest is about to run.
    #[inline]
    pub fn forget(&self) {
        self.valid.set(0);
    }

    /// The component whose access failed, if there was one.
    #[inline]
    pub fn fault(&self) -> Option<Field> {
        self.fault.get()
    }

    #[cold]
    fn failed(&self, field: Field) {
        if self.fault.get().is_none() {
            self.fault.set(Some(field));
        }
    }
}
