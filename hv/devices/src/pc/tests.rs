use super::*;
use std::collections::VecDeque;

const CONFIG: PcConfig = PcConfig {
    vcpus: 2,
    tsc_hz: 2_000_000_000,
    address_bits: 40,
    low_ram: 256 << 20,
    high_ram: 0,
    debug_exit: Some(DebugExit { iobase: 0xf4, iosize: 4 }),
};

#[derive(Default)]
struct Outside {
    console: Vec<u8>,
    input: VecDeque<u8>,
}

impl Backend for Outside {
    fn console_write(&mut self, byte: u8) -> bool {
        self.console.push(byte);
        true
    }
    fn console_read(&mut self) -> Option<u8> {
        self.input.pop_front()
    }
}

struct Rig {
    pc: Pc,
    outside: Outside,
    now: u64,
}

impl Rig {
    fn new() -> Self {
        let mut pc = Pc::new(&CONFIG);
        pc.reset(0);
        Self { pc, outside: Outside::default(), now: 0 }
    }
    fn inb(&mut self, port: u16) -> u8 {
        self.read(port, 1) as u8
    }
    fn outb(&mut self, port: u16, value: u8) {
        self.write(port, 1, u32::from(value));
    }
    fn read(&mut self, port: u16, size: u8) -> u32 {
        self.pc.io_read(port, size, self.now, &mut self.outside)
    }
    fn write(&mut self, port: u16, size: u8, value: u32) {
        self.pc.io_write(port, size, value, self.now, &mut self.outside);
    }
    fn apic_write(&mut self, offset: u64, value: u64) {
        assert!(self.pc.mmio_write(0, 0xfee0_0000 + offset, 4, value, self.now));
    }
    fn ioapic_write(&mut self, index: u64, value: u64) {
        assert!(self.pc.mmio_write(0, 0xfec0_0000, 4, index, self.now));
        assert!(self.pc.mmio_write(0, 0xfec0_0010, 4, value, self.now));
    }
    /// Moves on to the next deadline.
    fn sleep(&mut self) -> u64 {
        let deadline = self.pc.deadline(0).expect("something is due");
        self.now = self.now.max(deadline);
        self.pc.advance(0, self.now);
        self.now
    }
}

#[test]
fn fw_cfg_tells_processors_and_ram() {
    let mut rig = Rig::new();
    rig.write(0x510, 2, 5);
    assert_eq!([rig.inb(0x511), rig.inb(0x511), rig.inb(0x511)], [2, 0, 0]);
    rig.write(0x510, 2, 3);
    assert_eq!([0; 8].map(|_: u8| rig.inb(0x511)), (256u64 << 20).to_le_bytes());
    assert_eq!(rig.inb(0x510), 0xff);
}

#[test]
fn the_timer_reaches_the_processor_through_the_8259() {
    let mut rig = Rig::new();
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xfe),
        (0x43, 0x34),
        (0x40, 0xa9),
        (0x40, 4),
    ] {
        rig.outb(port, value);
    }
    for _ in 0..3 {
        assert_eq!(rig.pc.interrupt_for(0), None);
        rig.sleep();
        assert_eq!(rig.pc.interrupt_for(0), Some(0x30));
        assert_eq!(rig.pc.interrupt_for(1), None);
        assert_eq!(rig.pc.acknowledge(0), 0x30);
        rig.outb(0x20, 0x20);
    }
    assert_eq!(rig.now / 1_000_000, 3, "1000 Hz");
}

#[test]
fn the_timer_reaches_the_processor_through_the_io_apic() {
    let mut rig = Rig::new();
    rig.ioapic_write(0x15, 0);
    rig.ioapic_write(0x14, 0x31);
    for (port, value) in [(0x43, 0x30), (0x40, 0x10), (0x40, 0x27)] {
        rig.outb(port, value);
    }
    rig.sleep();
    assert_eq!(rig.pc.interrupt_for(0), Some(0x31));
    assert_eq!(rig.pc.acknowledge(0), 0x31);
    assert_eq!(rig.pc.interrupt_for(0), None);
    rig.apic_write(0xb0, 0);
    assert_eq!(rig.pc.deadline(0), None);
}

#[test]
fn the_power_button_is_a_level_until_its_status_is_cleared() {
    let mut rig = Rig::new();
    rig.ioapic_write(0x22, 0x8039);
    rig.write(0x602, 2, 0x0100);
    rig.outb(0xb2, 0xf1);
    assert_eq!(rig.read(0x604, 2), 1);
    rig.pc.power_button();
    assert_eq!(rig.pc.acknowledge(0), 0x39);
    rig.apic_write(0xb0, 0);
    assert_eq!(rig.pc.acknowledge(0), 0x39, "not cleared: again");
    assert_eq!(rig.read(0x600, 2), 0x0100);
    rig.write(0x600, 2, 0x0100);
    rig.apic_write(0xb0, 0);
    assert_eq!(rig.pc.interrupt_for(0), None);
    rig.write(0x604, 2, 0x2001);
    assert_eq!(rig.pc.take_request(), Some(Request::PowerOff));
    rig.write(0x604, 2, 0x2401);
    assert_eq!(rig.pc.take_request(), Some(Request::Sleep(1)));
    assert_eq!(rig.pc.take_request(), None);
}

#[test]
fn the_console_both_ways() {
    let mut rig = Rig::new();
    rig.ioapic_write(0x18, 0x34);
    rig.outb(0x3fa, 1);
    rig.outb(0x3f9, 1);
    for byte in b"hello" {
        rig.outb(0x3f8, *byte);
    }
    assert_eq!(rig.outside.console, b"hello");
    assert!(rig.pc.console_ready());
    rig.outside.input.push_back(b'x');
    rig.pc.console_poll(rig.now, &mut rig.outside);
    assert_eq!(rig.pc.acknowledge(0), 0x34);
    assert_eq!(rig.inb(0x3f8), b'x');
}

#[test]
fn all_ways_to_reset() {
    let mut rig = Rig::new();
    for (port, value, cause) in [
        (0xcf9, 6, ResetCause::ResetRegister),
        (0x64, 0xfe, ResetCause::KeyboardController),
        (0x92, 1, ResetCause::ControlPortA),
    ] {
        rig.outb(port, value);
        assert_eq!(rig.pc.take_request(), Some(Request::Reset(cause)));
        assert_eq!(rig.pc.take_request(), None);
    }
}

#[test]
fn a_key_is_an_edge_for_each_byte() {
    let mut rig = Rig::new();
    rig.ioapic_write(0x12, 0x31);
    rig.pc.key(Key::Extended(0x48), true);
    for byte in [0xe0, 0x48] {
        assert_eq!(rig.pc.acknowledge(0), 0x31);
        rig.apic_write(0xb0, 0);
        assert_eq!(rig.inb(0x64) & 1, 1);
        assert_eq!(rig.inb(0x60), byte);
    }
    assert_eq!(rig.pc.interrupt_for(0), None);
    assert_eq!(rig.inb(0x64) & 1, 0);
}

#[test]
fn debug_exit() {
    let mut rig = Rig::new();
    rig.write(0xf4, 4, 0x1234_5678);
    assert_eq!(rig.pc.take_request(), Some(Request::DebugExit(0x1234_5678)));
    rig.outb(0xf7, 0x10);
    assert_eq!(rig.pc.take_request(), Some(Request::DebugExit(0x10)));
    rig.outb(0xf8, 0x10);
    assert_eq!(rig.pc.take_request(), None);
    assert_eq!((rig.read(0xf4, 4), rig.inb(0xf7), rig.inb(0xf8)), (0, 0, 0xff));
}

#[test]
fn the_test_device_is_there_when_it_is_added() {
    use core::sync::atomic::AtomicU8;
    static WINDOW: [AtomicU8; 0x1_0000] = [const { AtomicU8::new(0) }; 0x1_0000];
    let mut rig = Rig::new();
    rig.write(0xe0, 4, 0x1234_5678);
    rig.outb(0x200e, 1);
    assert_eq!((rig.read(0xe0, 4), rig.pc.mmio_read(0, 0xff00_0000, 4, 0)), (u32::MAX, None));
    rig.pc.add_test_device(TestDevice::new(&WINDOW));
    rig.write(0xe0, 4, 0x1234_5678);
    rig.write(0xe9, 2, 0xabcd);
    assert_eq!((rig.read(0xe0, 4), rig.read(0xe1, 2), rig.inb(0xeb)), (0x12ab_cd78, 0xabcd, 0x12));
    assert!(rig.pc.mmio_write(1, 0xff00_fff8, 8, 0x0102_0304_0506_0708, 0));
    assert_eq!(rig.pc.mmio_read(0, 0xff00_fffc, 4, 0), Some(0x0102_0304));
    assert_eq!(rig.pc.mmio_read(0, 0xff01_0000, 1, 0), None);
    // Line 14 is an edge for the I/O APIC; line 20 a level.
    rig.ioapic_write(0x10 + 2 * 14, 0x41);
    rig.ioapic_write(0x10 + 2 * 20, 0x8042);
    for (port, vector) in [(0x200e, 0x41), (0x2014, 0x42)] {
        rig.outb(port, 1);
        assert_eq!(rig.pc.acknowledge(0), vector);
        rig.outb(port, 0);
        rig.apic_write(0xb0, 0);
        assert_eq!(rig.pc.interrupt_for(0), None);
    }
}

#[test]
fn pci_configuration_as_linux_probes_it() {
    let mut rig = Rig::new();
    rig.outb(0xcfb, 1);
    rig.write(0xcf8, 4, 0x8000_0000);
    assert_eq!(rig.read(0xcf8, 4), 0x8000_0000);
    assert_eq!(rig.read(0xcfc, 4), 0x1237_8086);
    assert_eq!(rig.read(0xcfe, 2), 0x1237);
    rig.write(0xcf8, 4, 0x8000_0808);
    assert_eq!(rig.read(0xcfe, 2), 0x0601);
    rig.write(0xcf8, 4, 0x8000_1000);
    assert_eq!(rig.read(0xcfc, 4), 0xffff_ffff);
    assert_eq!(rig.read(0xcfc, 2), 0xffff);
    rig.write(0xcfc, 4, 0);
    rig.write(0xcf8, 4, 0);
    assert_eq!(rig.read(0xcfc, 1), 0xff);
}

#[test]
fn nobody_there() {
    let mut rig = Rig::new();
    assert_eq!(rig.read(0x1234, 4), 0xffff_ffff);
    assert_eq!(rig.read(0xffff, 4), 0xffff_ffff);
    rig.write(0xffff, 4, 0);
    assert_eq!(rig.pc.mmio_read(0, 0xfeb0_0000, 4, 0), None);
    assert!(!rig.pc.mmio_write(0, 0xfeb0_0000, 4, 0, 0));
    assert_eq!(rig.pc.mmio_read(99, 0xfee0_0000, 4, 0), None);
    assert_eq!(rig.pc.interrupt_for(99), None);
    assert_eq!(rig.pc.acknowledge(99), 0xff);
}

#[test]
fn the_pm_timer_in_pieces() {
    let mut rig = Rig::new();
    rig.now = 12_345_678_901;
    let whole = rig.read(0x608, 4);
    assert_eq!(whole, Acpi::timer(rig.now));
    assert_eq!(rig.read(0x608, 2), whole & 0xffff);
    assert_eq!(rig.read(0x60b, 1), whole >> 24);
}

#[test]
fn an_edge_of_the_hpet_waits_in_the_8259() {
    let mut rig = Rig::new();
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        rig.outb(port, value);
    }
    let hpet = |rig: &mut Rig, offset: u64, value: u64| {
        let now = rig.now;
        assert!(rig.pc.mmio_write(0, 0xfed0_0000 + offset, 8, value, now));
    };
    // Timer 0, edges, periodic, in the place of the 8254.
    hpet(&mut rig, 0x10, 2);
    hpet(&mut rig, 0x100, 0x4c);
    hpet(&mut rig, 0x108, 10_000);
    hpet(&mut rig, 0x108, 10_000);
    hpet(&mut rig, 0x10, 3);
    for _ in 0..3 {
        assert_eq!(rig.pc.interrupt_for(0), None);
        rig.sleep();
        rig.now += 1000;
        rig.pc.advance(0, rig.now);
        assert_eq!(rig.pc.interrupt_for(0), Some(0x30));
        assert_eq!(rig.pc.acknowledge(0), 0x30);
        rig.outb(0x20, 0x20);
    }
    // One that is not taken goes with the timer.
    rig.sleep();
    hpet(&mut rig, 0x100, 0);
    assert_eq!(rig.pc.interrupt_for(0), None);
}

#[test]
fn the_hpet_takes_the_place_of_the_timer() {
    let mut rig = Rig::new();
    rig.ioapic_write(0x14, 0x31);
    let write = |rig: &mut Rig, offset: u64, value| {
        assert!(rig.pc.mmio_write(0, 0xfed0_0000 + offset, 4, value, rig.now))
    };
    write(&mut rig, 0x100, 0x14c);
    write(&mut rig, 0x108, 100_000);
    write(&mut rig, 0x10, 3);
    assert_eq!(rig.pc.deadline(0), Some(1_000_000));
    rig.sleep();
    assert_eq!(rig.pc.acknowledge(0), 0x31);
    rig.apic_write(0xb0, 0);
    assert_eq!(rig.pc.interrupt_for(0), None);
    assert_eq!(rig.pc.mmio_read(0, 0xfed0_00f0, 4, rig.now), Some(100_000));
    rig.sleep();
    assert_eq!(rig.now, 2_000_000);
    assert_eq!(rig.pc.acknowledge(0), 0x31);
    rig.apic_write(0xb0, 0);
    write(&mut rig, 0x10, 0);
    while rig.pc.interrupt_for(0).is_none() {
        rig.sleep();
    }
    assert!(rig.now < 60_000_000, "the 8254 is back");
}

#[test]
fn nmi_and_inter_processor_interrupts() {
    let mut rig = Rig::new();
    rig.pc.nmi();
    assert!(rig.pc.nmi_pending(0));
    assert!(!rig.pc.nmi_pending(1), "LINT1 of a processor that was not set up is masked");
    rig.pc.acknowledge_nmi(0);
    rig.apic_write(0x310, 1 << 24);
    rig.apic_write(0x300, 0x4500);
    assert_eq!(rig.pc.take_cpu_request(1), Some(CpuRequest::Init));
    rig.apic_write(0x300, 0x0608);
    assert_eq!(rig.pc.take_cpu_request(1), Some(CpuRequest::StartUp(8)));
}

#[test]
fn apic_timer_deadlines_reach_the_machine() {
    let mut rig = Rig::new();
    rig.outb(0x43, 0x30);
    assert_eq!(rig.pc.deadline(0), None);
    rig.apic_write(0x320, 0x40);
    rig.apic_write(0x3e0, 0xb);
    rig.apic_write(0x380, 5000);
    assert_eq!(rig.pc.deadline(0), Some(5000));
    rig.sleep();
    assert_eq!(rig.pc.acknowledge(0), 0x40);
    assert_eq!(rig.pc.deadline(0), None);
}

#[test]
fn reset_forgets_everything_but_the_time() {
    let mut rig = Rig::new();
    rig.pc.set_wall_clock(86_400_000_000_000 * 365, 0);
    rig.outb(0x43, 0x30);
    rig.apic_write(0x80, 0x50);
    rig.outb(0x3fb, 3);
    rig.pc.reset(7_000_000);
    assert_eq!(rig.pc.cr8(0), 0);
    assert_eq!(rig.inb(0x3fb), 0);
    assert!(rig.pc.deadline(0).is_some(), "the timer ticks again");
    rig.outb(0x70, 9);
    assert_eq!(rig.inb(0x71), 0x71);
    assert_eq!(rig.pc.interrupt_for(0), None);
}

/// Every access that a guest can make, in any order: nothing panics, and nothing asks to be called in a storm.
#[test]
fn a_hostile_guest() {
    let mut rig = Rig::new();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let ports =
        [0x20, 0x40, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xf0, 0x3f8, 0x4d0, 0x600, 0x608, 0xcf8, 0xafe0];
    for _ in 0..400_000 {
        let (a, b, c) = (random(), random(), random());
        let size = [1, 2, 4][(a % 3) as usize];
        let port = ports[(b % 15) as usize] + (b >> 8 & 15) as u16;
        let vcpu = (a >> 8 & 3) as usize;
        match a >> 16 & 7 {
            0 => {
                let _ = rig.read(port, size);
            }
            1 | 2 => rig.write(port, size, c as u32),
            3 => {
                let _ = rig.pc.mmio_read(vcpu, 0xfee0_0000 + (b & 0xfff), 1 << (b >> 12 & 3), rig.now);
            }
            4 => {
                let offset = if b & 1 << 20 == 0 { b & 0xff0 } else { b & 0xfff };
                let _ = rig.pc.mmio_write(vcpu, 0xfee0_0000 + offset, 4, c, rig.now);
            }
            5 => {
                rig.ioapic_write(b & 0x3f, c);
                let _ = rig.pc.mmio_read(vcpu, 0xfec0_0000 + (b & 0xfff), 4, rig.now);
            }
            6 => {
                let index = [0x1b, 0x6e0, 0x800 + (b & 0xff) as u32][(b >> 8) as usize % 3];
                let value = if c & 1 == 0 { c & 0xfff } else { c };
                let _ = rig.pc.apic_msr_write(vcpu, index, value, rig.now);
                let _ = rig.pc.apic_msr_read(vcpu, index, rig.now);
            }
            _ => {
                let _ = rig.pc.mmio_write(vcpu, 0xfed0_0000 + ((b >> 20) & 0x1fc), 4, c, rig.now);
                let _ = rig.pc.mmio_read(vcpu, 0xfed0_0000 + ((b >> 30) & 0x1ff), 8, rig.now);
                if rig.pc.interrupt_for(vcpu).is_some() {
                    rig.pc.acknowledge(vcpu);
                }
                rig.now += b % 3_000_000;
                rig.pc.advance(0, rig.now);
                let _ = rig.pc.take_cpu_request(vcpu);
                if rig.pc.take_request().is_some() && c % 16 == 0 {
                    rig.pc.reset(rig.now);
                }
            }
        }
    }
    // However it left the timers: they do not ask for service more often than they may.
    let mut calls = 0;
    let end = rig.now + 1_000_000_000;
    while rig.pc.deadline(0).is_some_and(|deadline| deadline < end) {
        rig.sleep();
        calls += 1;
        assert!(calls < 200_000, "a storm");
    }
}
