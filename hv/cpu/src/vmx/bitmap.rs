//! MSR and I/O bitmaps: what a guest may reach without an exit (SDM vol. 3, 25.6.4 and 25.6.9).

use super::root::Page;

/// MSRs that a guest reads and writes without an exit: those that the VMCS switches and those that the host leaves to
/// the guest (see the module's text). The CPU itself refuses values that would be bad.
const OPEN: [u32; 11] = [
    0x0000_0174, // IA32_SYSENTER_CS
    0x0000_0175, // IA32_SYSENTER_ESP
    0x0000_0176, // IA32_SYSENTER_EIP
    0x0000_0277, // IA32_PAT
    0xc000_0081, // IA32_STAR
    0xc000_0082, // IA32_LSTAR
    0xc000_0083, // IA32_CSTAR
    0xc000_0084, // IA32_FMASK
    0xc000_0100, // IA32_FS_BASE
    0xc000_0101, // IA32_GS_BASE
    0xc000_0102, // IA32_KERNEL_GS_BASE
];

/// MSRs that a guest reads without an exit: TSC (with the offset added) and EFER (of the VMCS).
const OPEN_TO_READ: [u32; 2] = [0x10, 0xc000_0080];

/// IA32_TSC_AUX.
const TSC_AUX: u32 = 0xc000_0103;

/// Where the half of the page for writes begins, in bits.
const WRITES: usize = 2048 * 8;

/// Bit number of an MSR in the half of the page for reads; that for writes is half a page behind.
const fn position(msr: u32) -> Option<usize> {
    match msr {
        0..=0x1fff => Some(msr as usize),
        0xc000_0000..=0xc000_1fff => Some(0x2000 + (msr & 0x1fff) as usize),
        _ => None,
    }
}

fn clear(page: &mut Page, bit: usize) {
    if let Some(byte) = page.0.get_mut(bit / 8) {
        *byte &= !(1 << (bit % 8));
    }
}

/// Every MSR exits but those that the guest owns.
pub(super) fn fill_msr(page: &mut Page, tsc_aux: bool) {
    page.0.fill(0xff);
    for bit in OPEN_TO_READ.into_iter().chain(OPEN).filter_map(position) {
        clear(page, bit);
    }
    for bit in OPEN.into_iter().filter_map(position) {
        clear(page, WRITES + bit);
    }
    if tsc_aux {
        open_msr(page, TSC_AUX);
    }
}

/// RDMSR and WRMSR of one MSR exit no more.
#[inline(never)]
pub(super) fn open_msr(page: &mut Page, msr: u32) {
    if let Some(bit) = position(msr) {
        clear(page, bit);
        clear(page, WRITES + bit);
    }
}

/// WRMSR of the end of an interrupt exits, or is left to the CPU.
pub(super) fn open_end_of_interrupt(page: &mut Page, open: bool) {
    const BIT: usize = 2048 * 8 + 0x80b;
    if open {
        clear(page, BIT);
    } else if let Some(byte) = page.0.get_mut(BIT / 8) {
        *byte |= 1 << (BIT % 8);
    }
}

/// Every port exits.
pub(super) fn fill_io(pages: &mut [Page; 2]) {
    for page in pages {
        page.0.fill(0xff);
    }
}

/// Lets `count` ports from `first` on through; those beyond 0xffff do not exist.
pub(super) fn open_ports(pages: &mut [Page; 2], first: u16, count: u16) {
    for port in (usize::from(first)..0x1_0000).take(usize::from(count)) {
        if let Some(page) = pages.get_mut(port >> 15) {
            clear(page, port & 0x7fff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exits(page: &Page, bit: usize) -> bool {
        page.0[bit / 8] & 1 << (bit % 8) != 0
    }

    #[test]
    fn only_the_guests_own_msrs_are_open() {
        let mut page = Page::new();
        fill_msr(&mut page, false);
        let closed: u32 = page.0.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(closed as usize, 4096 * 8 - 2 * OPEN.len() - OPEN_TO_READ.len());
        // Table of 25.6.9: read low at 0, read high at 1024, write low at 2048, write high at 3072.
        assert!(!exits(&page, 0x10) && exits(&page, 2048 * 8 + 0x10));
        assert!(!exits(&page, 1024 * 8 + 0x80) && exits(&page, 3072 * 8 + 0x80));
        assert!(!exits(&page, 1024 * 8 + 0x102) && !exits(&page, 3072 * 8 + 0x102));
        assert!(exits(&page, 1024 * 8 + 0x103));
        fill_msr(&mut page, true);
        assert!(!exits(&page, 1024 * 8 + 0x103) && !exits(&page, 3072 * 8 + 0x103));
        assert!(exits(&page, 0x3a) && exits(&page, 2048 * 8 + 0x1b));
    }

    #[test]
    fn the_end_of_interrupt_opens_and_closes() {
        let mut page = Page::new();
        fill_msr(&mut page, false);
        let before = page.0;
        open_end_of_interrupt(&mut page, true);
        assert!(!exits(&page, 2048 * 8 + 0x80b) && exits(&page, 0x80b) && exits(&page, 2048 * 8 + 0x80a));
        open_end_of_interrupt(&mut page, false);
        assert_eq!(page.0, before);
    }

    #[test]
    fn ports_open_one_by_one() {
        let mut pages = [Page::new(), Page::new()];
        fill_io(&mut pages);
        open_ports(&mut pages, 0x7fff, 2);
        open_ports(&mut pages, 0xffff, 9);
        assert!(!exits(&pages[0], 0x7fff) && !exits(&pages[1], 0) && !exits(&pages[1], 0x7fff));
        let closed: u32 = pages.iter().flat_map(|page| &page.0).map(|byte| byte.count_ones()).sum();
        assert_eq!(closed, 0x1_0000 - 3);
    }
}
