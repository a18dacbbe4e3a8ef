//! A machine check that has interrupted the guest (SDM vol. 3, chapter 17; APM vol. 2, chapter 9). One that interrupts the host is
//! an exception of the host's.

use x86_64::registers::model_specific::Msr;

/// CPUID 1 EDX: machine-check architecture.
const MCA: u32 = 1 << 14;
/// Number of banks in bits 7:0.
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
/// The status of bank 0; four MSRs are a bank's.
const MC0_STATUS: u32 = 0x401;
/// Banks that architectural numbers are for.
const MAX_BANKS: u32 = 32;

/// MCG_STATUS.RIPV: what was interrupted can go on.
const RESTART_VALID: u64 = 1;
/// MCi_STATUS.VAL and .PCC: there is an error, and the processor's state is not to be trusted.
const VALID: u64 = 1 << 63;
const CONTEXT_CORRUPT: u64 = 1 << 57;

/// Takes note of what the banks say, on the log, and clears them, so that the next machine check does not shut the
/// processor down. True where what was interrupted can go on.
#[cold]
pub fn take() -> bool {
    if core::arch::x86_64::__cpuid(1).edx & MCA == 0 {
        return false;
    }
    // SAFETY: with MCA these MSRs are there, and reading them changes nothing.
    let (banks, status) = unsafe { (Msr::new(MCG_CAP).read() as u32 & 0xff, Msr::new(MCG_STATUS).read()) };
    crate::warn!("machine check: MCG_STATUS {status:#x}");
    let mut goes_on = status & RESTART_VALID != 0;
    for bank in 0..banks.min(MAX_BANKS) {
        let mut register = Msr::new(MC0_STATUS + 4 * bank);
        // SAFETY: MCG_CAP counts the bank.
        let error = unsafe { register.read() };
        if error & VALID != 0 {
            crate::warn!("machine check: bank {bank}: {error:#x}");
            goes_on &= error & CONTEXT_CORRUPT == 0;
            // SAFETY: 0 is what software may write there (SDM vol. 3, 17.3.2.2).
            unsafe { register.write(0) };
        }
    }
    // SAFETY: as above; MCIP is cleared by it, the last step (SDM vol. 3, 17.10.4.1).
    unsafe { Msr::new(MCG_STATUS).write(0) };
    goes_on
}
