//! Extended state: x87, SSE, AVX and what came later, switched at every entry and exit.
//!
//! Host code uses SSE registers (precompiled `core` does) and may use AVX, so the guest's state is loaded just before
//! the guest is entered and stored just after it has left, by assembly that lies between the two and the first host
//! code. The host has nothing of its own to keep there: the ABI lets a call clobber all of it, and what the ABI wants
//! sane, MXCSR and the x87 control word, is set afterwards.
//!
//! XSAVE is used with the host's XCR0, which has every component a guest may have: state that the guest has hidden
//! by a smaller XCR0 of its own is kept for it too, and it never finds the host's there (SDM vol. 1, chapter 13).
//! Plain XSAVE writes every component in the standard format, so the area is always an exact image for the monitor.
//! XSAVEOPT is not used: it leaves out what has not changed since the last XRSTOR *at the same address*, and a guest
//! can run XRSTOR too.

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::mem::offset_of;

use monovisor_arch::VectorRegister;

use crate::control::xcr0_valid;

/// Bytes for the save area: x87, SSE, AVX, AVX-512 and PKRU take 2,696 in the standard format. AMX (8 KiB of tiles)
/// is not offered to guests.
pub const AREA_SIZE: usize = 4096;

/// x87 state in XCR0 and XSTATE_BV.
pub const XCR0_X87: u64 = 1;
/// SSE state.
pub const XCR0_SSE: u64 = 1 << 1;
/// The upper halves of YMM0 to YMM15.
const XCR0_AVX: u64 = 1 << 2;
/// The mask registers of AVX-512.
const XCR0_OPMASK: u64 = 1 << 5;
/// The upper halves of ZMM0 to ZMM15.
const XCR0_ZMM_HIGH: u64 = 1 << 6;
/// ZMM16 to ZMM31.
const XCR0_ZMM_16: u64 = 1 << 7;
/// AVX-512, which is switched on as a whole (SDM vol. 1, 13.3).
const XCR0_AVX512: u64 = XCR0_OPMASK | XCR0_ZMM_HIGH | XCR0_ZMM_16;
/// Components that are known to be plain registers of the running program, safe to hand to a guest: x87, SSE, AVX,
/// AVX-512 (5 to 7) and PKRU (9). Left out: MPX (3, 4; gone from newer chips), AMX (17, 18; too large) and what is not
/// known.
const KNOWN_COMPONENTS: u64 = 0b10_1110_0111;
// The world switch handles the low half only.
const _: () = assert!(KNOWN_COMPONENTS >> 32 == 0);

/// MXCSR after power-up (SDM vol. 3, table 10-1): every exception masked, round to nearest.
const MXCSR_INITIAL: u32 = 0x1f80;

/// CPUID leaf of the extended state.
const LEAF_XSTATE: u32 = 0xd;

/// Offsets in the legacy region and the header (SDM vol. 1, tables 10-2 and 13.4.2).
const FCW: usize = 0;
const FSW: usize = 2;
const FTW: usize = 4;
const MXCSR: usize = 24;
const X87_REGISTERS: usize = 32;
const XMM_REGISTERS: usize = 160;
const XSTATE_BV: usize = 512;

/// Bytes of an x87 register and of an XMM register in the area.
const SLOT: usize = 16;
/// The high byte of the x87 status word: TOP.
const TOP: u8 = 7 << 3;

/// Extended state of one virtual processor. The save area comes first so that one pointer serves it and the rest.
#[repr(C, align(64))]
pub struct XState {
    area: [u8; AREA_SIZE],
    /// XCR0 in root mode, and the components that are saved and restored; 0 without XSAVE.
    host_xcr0: u32,
    guest_xcr0: u32,
    host_mxcsr: u32,
}

impl XState {
    /// Zeroed, for a `static`; [`Self::init`] makes it usable.
    pub const fn new() -> Self {
        Self { area: [0; AREA_SIZE], host_xcr0: 0, guest_xcr0: 0, host_mxcsr: 0 }
    }

    /// Turns XSAVE on for this processor with every component that a guest may have, and resets the guest's state.
    pub fn init(&mut self) {
        let xcr0 = supported_xcr0();
        if xcr0 != 0 {
            // SAFETY: the CPU has XSAVE and these components (CPUID); more state than before is enabled, none that
            // code here depends on is disabled.
            unsafe { enable_xsave(xcr0) };
        }
        self.configure(xcr0);
    }

    /// Sets up for a processor whose XCR0 is `host_xcr0` (0: no XSAVE), all of it known components.
    fn configure(&mut self, host_xcr0: u64) {
        self.host_mxcsr = MXCSR_INITIAL;
        self.host_xcr0 = (host_xcr0 & KNOWN_COMPONENTS) as u32;
        self.reset();
    }

    /// State after power-up (SDM vol. 3, table 10-1): x87 registers +0.0 with tags "zero", control word 0x40, MXCSR
    /// 0x1f80, everything else zero, XCR0 = 1.
    pub fn reset(&mut self) {
        self.area.fill(0);
        self.put(FCW, &0x40_u16.to_le_bytes());
        self.put(FTW, &[0xff]);
        self.put(MXCSR, &MXCSR_INITIAL.to_le_bytes());
        if self.host_xcr0 != 0 {
            self.put(XSTATE_BV, &(XCR0_X87 | XCR0_SSE).to_le_bytes());
        }
        self.set_xcr0(XCR0_X87);
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(to) = self.area.get_mut(offset..offset + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }

    /// The save area in the standard format (SDM vol. 1, 13.4); without XSAVE only its legacy region (table 10-2).
    pub fn image(&self) -> &[u8] {
        if self.host_xcr0 != 0 { &self.area } else { &self.area[..XSTATE_BV] }
    }

    /// A vector register's value; `None` where the processor has not its state, or the guest has it switched off.
    pub fn vector(&mut self, register: VectorRegister) -> Option<[u64; 8]> {
        let mut bytes = [0; 64];
        let mut rest = &mut bytes[..];
        for (offset, size) in self.place(register)?.0 {
            let (piece, behind) = rest.split_at_mut_checked(size)?;
            piece.copy_from_slice(self.area.get(offset..offset + size)?);
            rest = behind;
        }
        let mut value = [0; 8];
        for (word, bytes) in value.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(value)
    }

    /// Sets a vector register, where there is one.
    pub fn set_vector(&mut self, register: VectorRegister, mut value: [u64; 8]) {
        let Some((pieces, used)) = self.place(register) else { return };
        match register {
            // The part of the x87 register that is not the MMX register's (SDM vol. 1, 9.5.2).
            VectorRegister::Mmx(_) => value[1] = u64::MAX,
            VectorRegister::Ymm(_) => value[4..].fill(0),
            _ => {}
        }
        let mut bytes = [0; 64];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(value) {
            *bytes = word.to_le_bytes();
        }
        let mut rest = &bytes[..];
        for (offset, size) in pieces {
            let Some((piece, behind)) = rest.split_at_checked(size) else { return };
            self.put(offset, piece);
            rest = behind;
        }
        self.in_use(used);
    }

    /// Where a register lies, by offset and size from its lowest bits on, and the components that it is of. To a YMM register
    /// belongs what is above it, if there is anything.
    fn place(&mut self, register: VectorRegister) -> Option<([(usize, usize); 3], u64)> {
        const NONE: (usize, usize) = (0, 0);
        let offset = |component: u64| component_offset(component.trailing_zeros());
        let (number, needed) = match register {
            VectorRegister::Mmx(number) => {
                self.begin_mmx();
                // With the 16 bits behind it.
                let register = (X87_REGISTERS + SLOT * usize::from(number & 7), 10);
                return Some(([register, NONE, NONE], XCR0_X87));
            }
            VectorRegister::Xmm(number) => (number & 15, XCR0_SSE),
            VectorRegister::Ymm(number) => (number & 15, XCR0_SSE | XCR0_AVX),
            VectorRegister::Zmm(number) => (number & 31, XCR0_SSE | XCR0_AVX | XCR0_AVX512),
        };
        if needed != XCR0_SSE && self.supported() & self.xcr0() & needed != needed {
            return None;
        }
        let number = usize::from(number);
        if number > 15 {
            let register = (offset(XCR0_ZMM_16) + 4 * SLOT * (number - 16), 4 * SLOT);
            return Some(([register, NONE, NONE], XCR0_ZMM_16));
        }
        let low = (XMM_REGISTERS + SLOT * number, SLOT);
        if needed == XCR0_SSE {
            return Some(([low, NONE, NONE], needed));
        }
        let high = if self.supported() & XCR0_ZMM_HIGH != 0 {
            (offset(XCR0_ZMM_HIGH) + 2 * SLOT * number, 2 * SLOT)
        } else {
            NONE
        };
        let pieces = [low, (offset(XCR0_AVX) + SLOT * number, SLOT), high];
        Some((pieces, needed & !(XCR0_OPMASK | XCR0_ZMM_16)))
    }

    /// What each MMX instruction does to the x87 state: all registers valid, TOP 0 (SDM vol. 1, 9.5.1). They lie in the area
    /// from the top of the stack on, MMX registers count from the first.
    fn begin_mmx(&mut self) {
        let top = usize::from((self.area[FSW + 1] & TOP) >> 3);
        let mut registers = [0; 8 * SLOT];
        registers.copy_from_slice(&self.area[X87_REGISTERS..XMM_REGISTERS]);
        for (number, register) in registers.as_chunks::<SLOT>().0.iter().enumerate() {
            self.put(X87_REGISTERS + SLOT * ((number + top) & 7), register);
        }
        self.area[FSW + 1] &= !TOP;
        self.area[FTW] = 0xff;
        self.in_use(XCR0_X87);
    }

    /// These components have something for XRSTOR to load.
    fn in_use(&mut self, components: u64) {
        if self.host_xcr0 != 0 {
            self.area[XSTATE_BV] |= components as u8;
        }
    }

    /// Every XCR0 bit that a guest may set; 0 without XSAVE.
    pub const fn supported(&self) -> u64 {
        self.host_xcr0 as u64
    }

    /// Guest XCR0; 1 without XSAVE.
    pub const fn xcr0(&self) -> u64 {
        self.guest_xcr0 as u64
    }

    /// Sets guest XCR0. A value that this processor does not take is not set, as XSETBV would fault on it in the host;
    /// callers check with [`crate::control::xcr0_write`] first.
    pub const fn set_xcr0(&mut self, value: u64) {
        if value & !(self.host_xcr0 as u64 | XCR0_X87) == 0 && xcr0_valid(value) {
            self.guest_xcr0 = value as u32;
        }
    }
}

impl Default for XState {
    fn default() -> Self {
        Self::new()
    }
}

/// XCR0 bits that this CPU has and a guest may be given; 0 without XSAVE.
pub fn supported_xcr0() -> u64 {
    /// CPUID 1, ECX bit 26.
    const XSAVE: u32 = 1 << 26;
    if __cpuid(1).ecx & XSAVE == 0 {
        return 0;
    }
    let leaf = __cpuid_count(LEAF_XSTATE, 0);
    let mut components = (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & KNOWN_COMPONENTS;
    for component in 2..64 {
        if components & 1 << component != 0 && component_end(component) > AREA_SIZE as u64 {
            components &= !(1 << component);
        }
    }
    components
}

/// Size in bytes of the standard-format save area for `xcr0`, as CPUID 0xD sub-leaf 0 gives it in EBX for the XCR0 in
/// force and in ECX for all (SDM vol. 1, 13.2).
pub fn standard_size(xcr0: u64) -> u32 {
    /// Legacy region and header.
    const FIXED: u64 = 576;
    let mut size = FIXED;
    for component in 2..63 {
        if xcr0 & 1 << component != 0 {
            size = size.max(component_end(component));
        }
    }
    size as u32
}

/// Where a component begins in the standard format.
fn component_offset(component: u32) -> usize {
    __cpuid_count(LEAF_XSTATE, component).ebx as usize
}

/// End of a component in the standard format.
fn component_end(component: u32) -> u64 {
    let leaf = __cpuid_count(LEAF_XSTATE, component);
    u64::from(leaf.ebx) + u64::from(leaf.eax)
}

/// Sets CR4.OSXSAVE and XCR0.
///
/// # Safety
/// At CPL 0, on a CPU with XSAVE and all components of `xcr0`.
unsafe fn enable_xsave(xcr0: u64) {
    // SAFETY: CR4.OSXSAVE is legal to set on this CPU, and XCR0 holds a legal combination (caller).
    unsafe {
        core::arch::asm!(
            "mov {cr4}, cr4",
            "bts {cr4}, 18",
            "mov cr4, {cr4}",
            "xsetbv",
            cr4 = out(reg) _,
            in("ecx") 0,
            in("eax") xcr0 as u32,
            in("edx") (xcr0 >> 32) as u32,
            options(nostack),
        );
    }
}

/// Loads the guest's extended state and XCR0. To be called from the assembly that enters the guest, with RDI = the
/// [`XState`]; changes RAX, RCX, RDX, flags and all extended state.
///
/// # Safety
/// RDI points to an [`XState`] on which [`XState::init`] has run on this processor; the caller is assembly that does
/// not expect any extended state to be kept.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter() {
    core::arch::naked_asm!(
        "mov eax, [rdi + {host_xcr0}]",
        "xor edx, edx",
        "test eax, eax",
        "jz 3f",
        "xrstor64 [rdi]",
        "cmp eax, [rdi + {guest_xcr0}]",
        "jne 2f",
        "ret",
        "2:",
        "xor ecx, ecx",
        "mov eax, [rdi + {guest_xcr0}]",
        "xsetbv",
        "ret",
        "3:",
        "fxrstor64 [rdi]",
        "ret",
        host_xcr0 = const offset_of!(XState, host_xcr0),
        guest_xcr0 = const offset_of!(XState, guest_xcr0),
    )
}

/// Stores the guest's extended state and XCR0 and makes MXCSR, the x87 control word and XCR0 the host's. To be called from
/// the assembly that has left the guest, with RDI = the [`XState`]; changes RAX, RCX, RDX and flags.
///
/// XCR0 is read, not taken for granted: QEMU's TCG (7.2) lets a guest on SVM run XSETBV whatever is intercepted, and a host
/// that went on with a guest's XCR0 would fault on its next AVX instruction.
///
/// # Safety
/// As for [`enter`], which has run before.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn leave() {
    core::arch::naked_asm!(
        "cmp dword ptr [rdi + {host_xcr0}], 0",
        "je 4f",
        "xor ecx, ecx",
        "xgetbv",
        "mov [rdi + {guest_xcr0}], eax",
        "cmp eax, [rdi + {host_xcr0}]",
        "jne 5f",
        "2:",
        "xor edx, edx",
        "xsave64 [rdi]",
        "3:",
        "ldmxcsr [rdi + {host_mxcsr}]",
        "fninit",
        "ret",
        "4:",
        "fxsave64 [rdi]",
        "jmp 3b",
        // First all components on, so that the save reaches those that the guest has switched off.
        "5:",
        "mov eax, [rdi + {host_xcr0}]",
        "xor edx, edx",
        "xsetbv",
        "jmp 2b",
        host_xcr0 = const offset_of!(XState, host_xcr0),
        guest_xcr0 = const offset_of!(XState, guest_xcr0),
        host_mxcsr = const offset_of!(XState, host_mxcsr),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::arch::asm;

    /// XCR0 as the operating system that runs this test has set it; 0 where it has components that are not known here.
    fn current_xcr0() -> u64 {
        /// CPUID 1, ECX bit 27: the operating system uses XSAVE.
        const OSXSAVE: u32 = 1 << 27;
        if __cpuid(1).ecx & OSXSAVE == 0 {
            return 0;
        }
        let (low, high): (u32, u32);
        // SAFETY: OSXSAVE says that XGETBV may be used.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high) };
        let xcr0 = u64::from(high) << 32 | u64::from(low);
        if xcr0 & !supported_xcr0() == 0 { xcr0 } else { 0 }
    }

    /// Loads `state`, changes XMM3 and MXCSR, stores it; gives MXCSR and the control
    /// word as the host has them afterwards, and XMM3 as the guest found it.
    fn round_trip(state: &mut XState, value: u64) -> (u32, u16, u64) {
        let mut mxcsr = 0_u32;
        let mut fcw = 0_u16;
        let found: u64;
        // SAFETY: `state` is configured for the XCR0 in force and equal to it, so no XSETBV runs; all registers that
        // change are named.
        unsafe {
            asm!(
                "call {enter}",
                "movq r8, xmm3",
                "movq xmm3, r9",
                "mov dword ptr [r10], 0x7f80",
                "ldmxcsr [r10]",
                "call {leave}",
                "stmxcsr [r10]",
                "fnstcw [r11]",
                enter = sym enter,
                leave = sym leave,
                in("rdi") core::ptr::from_mut(state),
                in("r9") value,
                out("r8") found,
                in("r10") &raw mut mxcsr,
                in("r11") &raw mut fcw,
                clobber_abi("sysv64"),
            );
        }
        (mxcsr, fcw, found)
    }

    #[test]
    fn vector_registers_are_where_the_processor_looks_for_them() {
        let xcr0 = current_xcr0();
        let mut state = Box::new(XState::new());
        state.configure(xcr0);
        state.set_xcr0(xcr0);
        let get = |state: &mut XState, register, count: usize| {
            state.vector(register).map(|value| value[..count].to_vec())
        };
        state.set_vector(VectorRegister::Xmm(3), [0x1122, 5, 9, 9, 9, 9, 9, 9]);
        // XRSTOR takes it, and XSAVE gives the register's next value back.
        assert_eq!(round_trip(&mut state, 0x77).2, 0x1122);
        assert_eq!(get(&mut state, VectorRegister::Xmm(3), 2).unwrap(), [0x77, 0]);
        if xcr0 & XCR0_AVX != 0 {
            state.set_vector(VectorRegister::Ymm(3), [1, 2, 3, 4, 9, 9, 9, 9]);
            let _ = round_trip(&mut state, 0x88);
            // Legacy SSE leaves the upper half alone.
            assert_eq!(get(&mut state, VectorRegister::Ymm(3), 4).unwrap(), [0x88, 0, 3, 4]);
            state.set_vector(VectorRegister::Xmm(3), [6, 7, 0, 0, 0, 0, 0, 0]);
            assert_eq!(get(&mut state, VectorRegister::Ymm(3), 4).unwrap(), [6, 7, 3, 4]);
        }
        if xcr0 & XCR0_AVX512 == XCR0_AVX512 {
            for number in [3, 15, 16, 31] {
                state.set_vector(VectorRegister::Zmm(number), [1, 2, 3, 4, 5, 6, 7, u64::from(number)]);
            }
            let _ = round_trip(&mut state, 0x99);
            assert_eq!(state.vector(VectorRegister::Zmm(3)), Some([0x99, 0, 3, 4, 5, 6, 7, 3]));
            for number in [15, 16, 31] {
                let want = [1, 2, 3, 4, 5, 6, 7, u64::from(number)];
                assert_eq!(state.vector(VectorRegister::Zmm(number)), Some(want));
            }
            // VEX clears what is above.
            state.set_vector(VectorRegister::Ymm(15), [9; 8]);
            assert_eq!(state.vector(VectorRegister::Zmm(15)), Some([9, 9, 9, 9, 0, 0, 0, 0]));
            state.set_xcr0(XCR0_X87 | XCR0_SSE | XCR0_AVX);
            assert_eq!(state.vector(VectorRegister::Zmm(3)), None);
        }
        state.set_xcr0(XCR0_X87 | XCR0_SSE);
        assert_eq!(state.vector(VectorRegister::Ymm(3)), None);
    }

    #[test]
    fn mmx_registers_do_not_move_with_the_top_of_the_x87_stack() {
        let mut state = Box::new(XState::new());
        state.configure(0);
        // TOP = 6: ST(0) is physical register 6.
        state.put(FSW, &(6u16 << 11 | 0x41).to_le_bytes());
        for number in 0..8u8 {
            state.put(X87_REGISTERS + SLOT * usize::from(number), &[number; SLOT]);
        }
        assert_eq!(state.vector(VectorRegister::Mmx(6)).unwrap()[0], 0);
        assert_eq!(state.vector(VectorRegister::Mmx(1)).unwrap()[0], 0x0303_0303_0303_0303);
        assert_eq!((state.area[FSW], state.area[FSW + 1], state.area[FTW]), (0x41, 0, 0xff));
        state.set_vector(VectorRegister::Mmx(2), [0x1234, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(state.vector(VectorRegister::Mmx(2)).unwrap()[0], 0x1234);
        assert_eq!(state.area[X87_REGISTERS + 2 * SLOT + 8..][..2], [0xff, 0xff]);
    }

    fn check(host_xcr0: u64) {
        let mut state = Box::new(XState::new());
        state.configure(host_xcr0);
        assert_eq!(state.xcr0(), 1);
        state.set_xcr0(host_xcr0);
        assert_eq!(round_trip(&mut state, 0x1234_5678_9abc_def0), (MXCSR_INITIAL, 0x37f, 0));
        assert_eq!(round_trip(&mut state, 1), (MXCSR_INITIAL, 0x37f, 0x1234_5678_9abc_def0));
        // The guest's own MXCSR and XMM3 in the legacy region.
        assert_eq!(state.image()[MXCSR..MXCSR + 4], 0x7f80_u32.to_le_bytes());
        assert_eq!(state.image()[160 + 3 * 16..][..8], 1_u64.to_le_bytes());
        // The control word of the reset state was in force.
        assert_eq!(state.image()[FCW..FCW + 2], 0x40_u16.to_le_bytes());
        state.reset();
        state.set_xcr0(host_xcr0);
        assert_eq!(round_trip(&mut state, 0).2, 0);
    }

    #[test]
    fn state_comes_back_with_xsave() {
        check(current_xcr0());
    }

    #[test]
    fn state_comes_back_with_fxsave() {
        check(0);
    }

    #[test]
    fn xcr0_stays_within_the_host() {
        let mut state = XState::new();
        state.host_xcr0 = 7;
        state.set_xcr0(3);
        assert_eq!(state.xcr0(), 3);
        for refused in [0xff, 5, 2, 0] {
            state.set_xcr0(refused);
            assert_eq!(state.xcr0(), 3);
        }
        state.set_xcr0(7);
        assert_eq!(state.xcr0(), 7);
        state.reset();
        assert_eq!(state.xcr0(), 1);
        state.host_xcr0 = 0;
        state.set_xcr0(7);
        assert_eq!(state.xcr0(), 1);
    }

    #[test]
    fn sizes_are_the_cpus_own() {
        assert_eq!(standard_size(3), 576);
        let all = supported_xcr0();
        assert!(standard_size(all) as usize <= AREA_SIZE);
        if all & 4 != 0 {
            assert_eq!(standard_size(7), 832);
        }
    }
}
