//! From guest-linear to guest-physical addresses, through the guest's own page tables.
//!
//! SDM vol. 3, chapter 4 (APM vol. 2, chapter 5): no paging, 32-bit paging with 4 MiB pages (PSE, PSE-36), PAE,
//! 4-level and 5-level paging. Not here: protection keys (the CPU has applied them before it exits, and PKRU is
//! extended state that nobody reads for this) and the PDPTE registers of PAE paging (the four entries are read
//! from memory each time, as AMD processors do).

use monovisor_arch::state::bits;
use monovisor_arch::{Control, Event, GuestMemory, VcpuState, vector};

/// What an access wants to do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// A data read.
    Read,
    /// A data write, or a read-modify-write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// A page fault: what the guest finds in CR2 and on its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// Error code (SDM vol. 3, 4.7).
    pub error_code: u32,
    /// The linear address that faulted.
    pub cr2: u64,
}

impl PageFault {
    /// The page was there; the access was not allowed (else: the page was not there).
    pub const PRESENT: u32 = 1;
    /// A write.
    pub const WRITE: u32 = 1 << 1;
    /// A user-mode access.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was 1 in an entry.
    pub const RESERVED: u32 = 1 << 3;
    /// An instruction fetch, where NX or SMEP is on.
    pub const FETCH: u32 = 1 << 4;

    /// The exception to deliver; CR2 is the caller's.
    pub const fn event(self) -> Event {
        Event::fault(vector::PF, self.error_code)
    }
}

const P: u64 = 1;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;

/// Address bits of an entry of 8 bytes: 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Which tables there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tables {
    /// No paging.
    Off,
    /// 32-bit paging.
    Two,
    /// PAE paging.
    Three,
    /// 4-level paging.
    Four,
    /// 5-level paging.
    Five,
}

/// The translation rules in force on one processor: a snapshot of CR0, CR3, CR4, EFER, AC and CPL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    pub(crate) cr3: u64,
    cr4: u64,
    /// Bits that are 0 in every present entry of 8 bytes.
    reserved: u64,
    tables: Tables,
    /// CR0.WP.
    protect: bool,
    /// EFER.NXE.
    no_execute: bool,
    /// RFLAGS.AC: SMAP lets explicit accesses pass.
    ac: bool,
    /// Accesses are user-mode ones (CPL 3).
    user: bool,
    /// MAXPHYADDR.
    physical_bits: u8,
}

impl Paging {
    /// The rules for explicit accesses by the code that `cpu` runs now.
    #[inline]
    pub fn of(cpu: &(impl VcpuState + ?Sized)) -> Self {
        let control = cpu.control();
        let tables = if control.cr0 & bits::CR0_PG == 0 {
            Tables::Off
        } else if control.efer & bits::EFER_LMA != 0 {
            if control.cr4 & bits::CR4_LA57 != 0 { Tables::Five } else { Tables::Four }
        } else if control.cr4 & bits::CR4_PAE != 0 {
            Tables::Three
        } else {
            Tables::Two
        };
        let no_execute = control.efer & bits::EFER_NXE != 0;
        let user = tables != Tables::Off && cpu.cpl() == 3;
        // AC matters to supervisor accesses under SMAP only; reading RFLAGS costs a VMREAD on VMX.
        let ac = !user && control.cr4 & bits::CR4_SMAP != 0 && cpu.rflags() & bits::RFLAGS_AC != 0;
        Self {
            cr3: control.cr3,
            cr4: control.cr4,
            reserved: if no_execute { 0 } else { NX },
            tables,
            protect: control.cr0 & bits::CR0_WP != 0,
            no_execute,
            ac,
            user,
            physical_bits: 52,
        }
    }

    /// The same with the guest's MAXPHYADDR (36 to 52), so that the address bits above it count as reserved.
    pub const fn with_physical_bits(mut self, bits: u8) -> Self {
        self.physical_bits = if bits > 52 { 52 } else { bits };
        self.reserved = (self.reserved & NX) | (ADDRESS & !((1u64 << self.physical_bits) - 1));
        self
    }

    /// The same for the processor's own accesses to descriptors and TSSs: supervisor's, whatever the CPL, and with SMAP none to
    /// a user's page.
    pub(crate) const fn system(mut self) -> Self {
        self.user = false;
        self.ac = false;
        self
    }

    /// The tables are those of 4-level paging.
    pub(crate) const fn four_level(&self) -> bool {
        matches!(self.tables, Tables::Four)
    }

    /// CR0.PG.
    pub const fn enabled(&self) -> bool {
        !matches!(self.tables, Tables::Off)
    }

    /// Linear addresses have 64 bits.
    pub const fn long(&self) -> bool {
        matches!(self.tables, Tables::Four | Tables::Five)
    }

    const fn smap(&self) -> bool {
        self.cr4 & bits::CR4_SMAP != 0
    }

    /// `linear` is canonical for the paging mode (SDM vol. 1, 3.3.7.1). Outside IA-32e mode every address is.
    pub const fn canonical(&self, linear: u64) -> bool {
        let unused = match self.tables {
            Tables::Five => 64 - 57,
            Tables::Four => 64 - 48,
            _ => return true,
        };
        ((linear << unused) as i64 >> unused) as u64 == linear
    }

    /// Translates one byte's address for an access with `intent`, and sets the accessed and dirty bits that the
    /// processor would set.
    ///
    /// `linear` is canonical (the caller has raised #GP or #SS where it was not); outside IA-32e mode its upper
    /// half is ignored. A table that is not in RAM reads as all ones, as an empty bus does.
    #[inline]
    pub fn translate(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        intent: Intent,
    ) -> Result<u64, PageFault> {
        if self.four_level()
            && let Some(address) = self.walk_four(memory, linear, intent)
        {
            return Ok(address);
        }
        self.walk(memory, linear, intent, true)
    }

    /// The usual case: 4-level paging, everything present, allowed and marked already. Whatever is not so is left to
    /// [`Self::walk`], which starts again.
    #[inline(always)]
    fn walk_four(&self, memory: &impl GuestMemory, linear: u64, intent: Intent) -> Option<u64> {
        let mut entry = memory.read_u64(self.cr3 & ADDRESS | linear >> 36 & 0xff8).ok()?;
        if entry & (P | PS) != P {
            return None;
        }
        let (mut all, mut any) = (entry, entry);
        let mut shift = 39;
        loop {
            shift -= 9;
            entry = memory.read_u64(entry & ADDRESS | linear >> shift << 3 & 0xff8).ok()?;
            all &= entry;
            any |= entry;
            if shift == 12 || entry & PS != 0 {
                break;
            }
            if entry & P == 0 {
                return None;
            }
        }
        let offset = (1u64 << shift) - 1;
        let marked = if intent == Intent::Write { P | A | (entry & D ^ D) } else { P | A };
        let large = if shift == 12 { 0 } else { offset & !0x1fff };
        if all & marked != marked || any & self.reserved != 0 || entry & large != 0 {
            return None;
        }
        let rights = all & (US | RW) | any & NX;
        self.allowed(rights, intent).then_some(entry & ADDRESS & !offset | linear & offset)
    }

    /// [`Self::translate`] without the short cut; without accessed and dirty bits unless `mark` says so.
    #[inline(never)]
    pub(crate) fn walk(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        intent: Intent,
        mark: bool,
    ) -> Result<u64, PageFault> {
        match self.tables {
            Tables::Off => Ok(linear & 0xffff_ffff),
            Tables::Two => self.walk_narrow(memory, linear as u32, intent, mark),
            _ => self.walk_wide(memory, linear, intent, mark),
        }
    }

    /// Translates without asking for a permission and without a trace in the tables, as a debugger wants it.
    /// `None` where nothing is mapped.
    pub fn probe(&self, memory: &impl GuestMemory, linear: u64) -> Option<u64> {
        if !self.canonical(linear) {
            return None;
        }
        // A supervisor's read is always allowed once SMAP is off.
        let all = Self { user: false, cr4: self.cr4 & !bits::CR4_SMAP, ..*self };
        all.walk(memory, linear, Intent::Read, false).ok()
    }

    #[cold]
    fn fault(&self, linear: u64, intent: Intent, cause: u32) -> PageFault {
        let mut error_code = cause;
        if intent == Intent::Write {
            error_code |= PageFault::WRITE;
        }
        if self.user {
            error_code |= PageFault::USER;
        }
        let wide = self.tables != Tables::Two;
        if intent == Intent::Fetch && (self.cr4 & bits::CR4_SMEP != 0 || (wide && self.no_execute)) {
            error_code |= PageFault::FETCH;
        }
        PageFault { error_code, cr2: linear }
    }

    /// The access rules of SDM vol. 3, 4.6.1. `rights` holds U/S and R/W where all levels have them, NX where any
    /// has it.
    #[inline]
    fn allowed(&self, rights: u64, intent: Intent) -> bool {
        let user_page = rights & US != 0;
        if self.user {
            return user_page
                && match intent {
                    Intent::Read => true,
                    Intent::Write => rights & RW != 0,
                    Intent::Fetch => rights & NX == 0,
                };
        }
        match intent {
            Intent::Fetch => rights & NX == 0 && !(user_page && self.cr4 & bits::CR4_SMEP != 0),
            _ if user_page && self.smap() && !self.ac => false,
            Intent::Read => true,
            Intent::Write => rights & RW != 0 || !self.protect,
        }
    }

    /// Paging with entries of 8 bytes: PAE, 4-level, 5-level.
    #[inline]
    fn walk_wide(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        intent: Intent,
        mark: bool,
    ) -> Result<u64, PageFault> {
        let long = self.long();
        let linear = if long { linear } else { linear & 0xffff_ffff };
        let (mut shift, mut table) = match self.tables {
            Tables::Four => (39, self.cr3 & ADDRESS),
            Tables::Five => (48, self.cr3 & ADDRESS),
            // CR3 bits 31:5 hold the table of four PDPTEs (SDM vol. 3, table 4-7).
            _ => (30, self.cr3 & 0xffff_ffe0),
        };
        let mut rights = US | RW;
        // Where the entries lie, so that accessed bits are set only once the access is known to be good: the
        // processor may set them earlier (SDM vol. 3, 4.8), guests cannot tell.
        let mut trail = [0u64; 5];
        let mut depth = 0usize;
        loop {
            let index = (linear >> shift) & 0x1ff;
            let address = table | (index << 3);
            let entry = memory.read_u64(address).unwrap_or(u64::MAX);
            if entry & P == 0 {
                return Err(self.fault(linear, intent, 0));
            }
            let pdpte = !long && shift == 30;
            let mut forbidden = self.reserved;
            if !long {
                // PAE: bits 62:52 too; a PDPTE has neither rights nor NX (SDM vol. 3, table 4-8).
                forbidden |= if pdpte { 0xfff0_0000_0000_01e6 } else { 0x7ff0_0000_0000_0000 };
            }
            let leaf = shift == 12 || (entry & PS != 0 && !pdpte);
            if leaf && shift > 12 {
                // A large page: 2 MiB or 1 GiB; PS is reserved further up. Bit 12 is PAT.
                forbidden |= if shift > 30 { PS } else { ((1u64 << shift) - 1) & !0x1fff };
            }
            if entry & forbidden != 0 {
                return Err(self.fault(linear, intent, PageFault::PRESENT | PageFault::RESERVED));
            }
            if !pdpte {
                rights = (rights & (entry | NX)) | (entry & NX);
                if mark
                    && entry & A == 0
                    && let Some(slot) = trail.get_mut(depth)
                {
                    *slot = address | 1;
                    depth += 1;
                }
            }
            if leaf {
                if !self.allowed(rights, intent) {
                    return Err(self.fault(linear, intent, PageFault::PRESENT));
                }
                if mark {
                    let dirty = intent == Intent::Write && entry & D == 0;
                    if depth != 0 || dirty {
                        set_accessed(memory, &trail, if dirty { Some(address) } else { None });
                    }
                }
                let offset = (1u64 << shift) - 1;
                return Ok((entry & ADDRESS & !offset) | (linear & offset));
            }
            table = entry & ADDRESS;
            shift -= 9;
        }
    }

    /// 32-bit paging (SDM vol. 3, 4.3).
    fn walk_narrow(
        &self,
        memory: &impl GuestMemory,
        linear: u32,
        intent: Intent,
        mark: bool,
    ) -> Result<u64, PageFault> {
        let wide = u64::from(linear);
        let directory = (self.cr3 & 0xffff_f000) | u64::from(linear >> 22 << 2);
        let pde = memory.read_u32(directory).unwrap_or(u32::MAX);
        if u64::from(pde) & P == 0 {
            return Err(self.fault(wide, intent, 0));
        }
        let (address, entry, rights, result);
        if u64::from(pde) & PS != 0 && self.cr4 & bits::CR4_PSE != 0 {
            // PSE-36: PDE bits 20:13 are address bits 39:32, as many as MAXPHYADDR has; the others are reserved.
            let high = u64::from(pde >> 13 & 0xff) << 32;
            let limit = (1u64 << self.physical_bits.min(40)) - 1;
            if pde & 1 << 21 != 0 || high & !limit != 0 {
                return Err(self.fault(wide, intent, PageFault::PRESENT | PageFault::RESERVED));
            }
            (address, entry, rights) = (directory, pde, u64::from(pde) & (US | RW));
            result = high | u64::from(pde & 0xffc0_0000) | u64::from(linear & 0x003f_ffff);
        } else {
            address = u64::from(pde & 0xffff_f000) | u64::from(linear >> 12 & 0x3ff) << 2;
            entry = memory.read_u32(address).unwrap_or(u32::MAX);
            if u64::from(entry) & P == 0 {
                return Err(self.fault(wide, intent, 0));
            }
            rights = u64::from(pde & entry) & (US | RW);
            result = u64::from(entry & 0xffff_f000) | u64::from(linear & 0xfff);
        }
        if !self.allowed(rights, intent) {
            return Err(self.fault(wide, intent, PageFault::PRESENT));
        }
        if mark {
            if u64::from(pde) & A == 0 && address != directory {
                // A table outside RAM cannot be marked; the walk above has read it as all ones.
                let _ = memory.set_bits_u32(directory, A as u32);
            }
            let wanted = if intent == Intent::Write { A | D } else { A } as u32;
            if entry & wanted != wanted {
                let _ = memory.set_bits_u32(address, wanted);
            }
        }
        Ok(result)
    }
}

/// Sets A in the entries of `trail` (address | 1 where used) and A and D in the leaf at `dirty`.
#[cold]
fn set_accessed(memory: &impl GuestMemory, trail: &[u64; 5], dirty: Option<u64>) {
    // A table outside RAM cannot be marked; the walk has read it as all ones.
    for address in trail.iter().filter(|address| **address != 0) {
        let _ = memory.set_bits_u64(address & !1, A);
    }
    if let Some(address) = dirty {
        let _ = memory.set_bits_u64(address, A | D);
    }
}

/// Translates the address of code that the processor has just fetched from there, under 4-level paging: it was mapped
/// and allowed, so only the way through the tables is left to find. `None` where that is not so (any more):
/// [`Paging::translate`] has the answer then.
#[inline(always)]
pub(crate) fn fetched(cr3: u64, memory: &impl GuestMemory, linear: u64) -> Option<u64> {
    // Unrolled by hand: with constant shifts this is half of what a loop takes.
    let pml4e = entry_at::<39>(cr3, memory, linear)?;
    let pdpte = entry_at::<30>(pml4e, memory, linear)?;
    if pdpte & PS != 0 {
        return Some(pdpte & 0x000f_ffff_c000_0000 | linear & 0x3fff_ffff);
    }
    let pde = entry_at::<21>(pdpte, memory, linear)?;
    if pde & PS != 0 {
        return Some(pde & 0x000f_ffff_ffe0_0000 | linear & 0x1f_ffff);
    }
    let pte = entry_at::<12>(pde, memory, linear)?;
    Some(pte & ADDRESS | linear & 0xfff)
}

/// The present entry for `linear` in the table that `parent` points to.
#[inline(always)]
fn entry_at<const SHIFT: u32>(parent: u64, memory: &impl GuestMemory, linear: u64) -> Option<u64> {
    let entry = memory.read_u64(parent & ADDRESS | linear >> (SHIFT - 3) & 0xff8).ok()?;
    (entry & P != 0).then_some(entry)
}

/// The processor uses 4-level paging.
#[inline(always)]
pub(crate) fn four_level(control: &Control) -> bool {
    control.cr0 & bits::CR0_PG != 0 && control.efer & bits::EFER_LMA != 0 && control.cr4 & bits::CR4_LA57 == 0
}
