//! Gets code back that loops or waits with interrupts off: the 8254's output as an NMI through the I/O APIC. LINT1 is set
//! up too, so that an NMI from outside comes through where this one has been switched off.

use super::second;
use crate::apic;
use crate::cpu::outp;
use core::sync::atomic::Ordering::SeqCst;

/// Time between two NMIs, in ticks of the 8254 (1,193,182 a second): about 10 ms.
const TICKS: u16 = 12_000;
/// The I/O APIC's pin that the 8254 is on.
const PIN: u32 = 2;
/// A redirection entry: edge, physical, delivery mode NMI, all processors, whatever they call themselves now.
const NMI: u64 = 0xff << 56 | 4 << 8;
/// A redirection entry that lets nothing through.
const MASKED: u32 = 1 << 16;
/// The HPET's configuration: while it replaces the 8254, that has no output.
const HPET_CONFIGURATION: u64 = 0xfed0_0010;

/// QEMU's test device, whose ports hold interrupt lines: 0 and 2 must not be high for good.
const TEST_LINES: [u16; 2] = [0x2000, 0x2002];

/// Starts it; gives how many exits that took.
pub fn arm() -> u64 {
    second::shared().armed.fetch_add(1, SeqCst);
    // SAFETY: a device's register.
    unsafe { (HPET_CONFIGURATION as *mut u32).write_volatile(0) };
    for port in TEST_LINES {
        outp(port, 0u8);
    }
    // Channel 0, both bytes, mode 2: again and again, since an NMI that comes before the code has begun is spent.
    outp(0x43, 0x34u8);
    outp(0x40, TICKS as u8);
    outp(0x40, (TICKS >> 8) as u8);
    // Only now: what hostile code has set the 8254 to may be faster than NMIs are handled.
    apic::io_redirect(PIN, NMI);
    apic::write(apic::register::LVT_LINT1, 4 << 8);
    13
}

/// Stops it: hostile code that sets up the 8254 must not get its output as NMIs, which may come faster than they are
/// handled; gives how many exits that took. It goes on while another processor's code needs it.
pub fn disarm() -> u64 {
    if second::shared().armed.fetch_sub(1, SeqCst) > 1 {
        return 0;
    }
    apic::io_write(0x10 + 2 * PIN, MASKED);
    2
}
