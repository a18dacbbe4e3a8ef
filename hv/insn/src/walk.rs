//! From guest-linear to guest-physical addresses, through the guest's own page tables.
//!
//! SDM vol. 3, chapter 4 (APM vol. 2, chapter 5): no paging, 32-bit paging with 4 MiB pages (PSE, PSE-36), PAE,
//! 4-level and 5-level paging. Not here: protection keys (the CPU has applied them before it exits, and PKRU is
//! extended state that nobody reads for this) and the PDPTE registers of PAE paging (the four entries are read
//! from memory each time, as AMD processors do).

use monovisor_arch::state::bits;
use monovisor_arch::{Event, GuestMemory, VcpuState, vector};

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

/// The translation rules in force on one processor: a snapshot of CR0, CR3, CR4, EFER, AC and CPL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    /// RFLAGS.AC: SMAP lets explicit accesses pass.
    ac: bool,
    /// Accesses are user-mode ones (CPL 3).
    user: bool,
    /// MAXPHYADDR: entry bits from here to 51 are reserved.
    physical_bits: u8,
}

impl Paging {
    /// The rules for explicit accesses by the code that `cpu` runs now.
    pub fn of(cpu: &impl VcpuState) -> Self {
        let control = cpu.control();
        let mut paging = Self {
            cr0: control.cr0,
            cr3: control.cr3,
            cr4: control.cr4,
            efer: control.efer,
            ac: false,
            user: false,
            physical_bits: 52,
        };
        if paging.enabled() {
            paging.user = cpu.cpl() == 3;
            // AC matters to supervisor accesses under SMAP only; reading RFLAGS costs a VMREAD on VMX.
            paging.ac = !paging.user && paging.smap() && cpu.rflags() & bits::RFLAGS_AC != 0;
        }
        paging
    }

    /// The same with the guest's MAXPHYADDR (36 to 52), so that the address bits above it count as reserved.
    pub const fn with_physical_bits(mut self, bits: u8) -> Self {
        self.physical_bits = if bits > 52 { 52 } else { bits };
        self
    }

    /// CR0.PG.
    pub const fn enabled(&self) -> bool {
        self.cr0 & bits::CR0_PG != 0
    }

    /// EFER.LMA: entries have 4 or 5 levels, and linear addresses 64 bits.
    pub const fn long(&self) -> bool {
        self.efer & bits::EFER_LMA != 0
    }

    const fn smap(&self) -> bool {
        self.cr4 & bits::CR4_SMAP != 0
    }

    const fn no_execute(&self) -> bool {
        self.efer & bits::EFER_NXE != 0
    }

    /// `linear` is canonical for the paging mode (SDM vol. 1, 3.3.7.1). Outside IA-32e mode every address is.
    pub const fn canonical(&self, linear: u64) -> bool {
        if !self.long() {
            return true;
        }
        let unused = if self.cr4 & bits::CR4_LA57 != 0 { 64 - 57 } else { 64 - 48 };
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
        if !self.enabled() {
            return Ok(linear & 0xffff_ffff);
        }
        if self.long() || self.cr4 & bits::CR4_PAE != 0 {
            self.walk_wide(memory, linear, intent, true)
        } else {
            self.walk_narrow(memory, linear as u32, intent, true)
        }
    }

    /// Translates without asking for a permission and without a trace in the tables, as a debugger wants it.
    /// `None` where nothing is mapped.
    pub fn probe(&self, memory: &impl GuestMemory, linear: u64) -> Option<u64> {
        if !self.canonical(linear) {
            return None;
        }
        if !self.enabled() {
            return Some(linear & 0xffff_ffff);
        }
        // A supervisor's read is always allowed once SMAP is off.
        let all = Self { user: false, cr4: self.cr4 & !bits::CR4_SMAP, ..*self };
        let result = if self.long() || self.cr4 & bits::CR4_PAE != 0 {
            all.walk_wide(memory, linear, Intent::Read, false)
        } else {
            all.walk_narrow(memory, linear as u32, Intent::Read, false)
        };
        result.ok()
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
        let wide = self.long() || self.cr4 & bits::CR4_PAE != 0;
        if intent == Intent::Fetch && (self.cr4 & bits::CR4_SMEP != 0 || (wide && self.no_execute())) {
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
            Intent::Write => rights & RW != 0 || self.cr0 & bits::CR0_WP == 0,
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
        let mut reserved = ADDRESS & !((1u64 << self.physical_bits) - 1);
        if !self.no_execute() {
            reserved |= NX;
        }
        let (mut shift, mut table) = match (long, self.cr4 & bits::CR4_LA57 != 0) {
            (true, false) => (39, self.cr3 & ADDRESS),
            (true, true) => (48, self.cr3 & ADDRESS),
            // CR3 bits 31:5 hold the table of four PDPTEs (SDM vol. 3, table 4-7).
            (false, _) => (30, self.cr3 & 0xffff_ffe0),
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
            let mut forbidden = reserved;
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
