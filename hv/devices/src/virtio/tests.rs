use super::testing::*;
use super::*;
use crate::pci::config::header;
use crate::{Pc, PcConfig};
use monovisor_arch::GuestMemory;

/// Copies what it gets into what it is to fill.
struct Echo {
    config: [u8; 8],
    resets: u32,
    /// Chains that it does in one call.
    budget: u32,
}

fn echo() -> Echo {
    Echo { config: *b"echo0123", resets: 0, budget: u32::MAX }
}

impl Device for Echo {
    fn kind(&self) -> Kind {
        Kind { id: 42, class: 0xff_0000 }
    }
    fn features(&self) -> u64 {
        1 << 3
    }
    fn queues(&self) -> u16 {
        2
    }
    fn queue_size(&self, _: u16) -> u16 {
        64
    }
    fn config_size(&self) -> u16 {
        8
    }
    fn config(&self, config: &mut [u8; CONFIG_SIZE]) {
        config[..8].copy_from_slice(&self.config);
    }
    fn set_config(&mut self, offset: u16, bytes: &[u8], cx: &mut Context<'_>) {
        let offset = usize::from(offset);
        if let Some(place) = self.config.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
            cx.config_changed();
        }
    }
    fn notify(&mut self, queue: u16, cx: &mut Context<'_>) {
        let mut done = 0;
        while done < self.budget
            && let Some(head) = cx.next(queue)
        {
            done += 1;
            let mut bytes = [0; 256];
            let memory = cx.memory();
            let result = cx.chain().read(memory, 0, &mut bytes);
            let result = result.and_then(|length| cx.chain().write(memory, 0, &bytes[..length]));
            match result {
                Ok(length) => cx.complete(queue, head, length as u32),
                Err(error) => return cx.fail(error),
            }
        }
        cx.signal(queue);
        if done == self.budget {
            cx.again();
        }
    }
    fn poll(&mut self, cx: &mut Context<'_>) {
        self.notify(0, cx);
        self.notify(1, cx);
    }
    fn reset(&mut self) {
        self.resets += 1;
    }
}

#[test]
fn capabilities_lead_to_all_structures() {
    let mut driver = Driver::new(echo());
    let function = &mut driver.function;
    assert_eq!(function.config_read(0, 4), 0x106a_1af4);
    assert_eq!(function.config_read(8, 1), 1);
    let mut at = function.config_read(header::CAPABILITIES, 1) as u8;
    let mut found = Vec::new();
    while at != 0 {
        let word = function.config_read(at, 4);
        if word as u8 == 9 {
            let (bar, offset) = (function.config_read(at + 4, 1), function.config_read(at + 8, 4));
            found.push((word >> 24, bar, offset, function.config_read(at + 12, 4)));
        } else {
            assert_eq!((word as u8, word >> 16), (0x11, 2), "MSI-X with three vectors");
        }
        at = (word >> 8) as u8;
    }
    assert_eq!(
        found,
        [(1, 4, 0, 56), (3, 4, 0x1000, 1), (4, 4, 0x2000, 8), (2, 0, 0, 4), (2, 4, 0x3000, 4), (5, 0, 0, 0)]
    );
    for (bar, size) in [(0, 0xffff_fffd), (1, 0xffff_f000), (4, 0xffff_c000u32)] {
        function.config_write(header::BAR0 + 4 * bar, 4, u32::MAX, 0);
        assert_eq!(function.config_read(header::BAR0 + 4 * bar, 4), size);
    }
}

#[test]
fn the_operator_says_how_many_vectors_there_are() {
    let mut driver = Driver::new(echo());
    let function = &mut driver.function;
    let control = |function: &mut VirtioPci| function.config_read(0x42, 2);
    assert_eq!((function.vectors(), control(function)), (3, 2), "one for each queue, and one more");
    function.set_vectors(5);
    assert_eq!((function.vectors(), control(function)), (5, 4));
    function.reset();
    assert_eq!(function.vectors(), 5);
    // None at all: neither the capability nor its BAR.
    function.set_vectors(0);
    let mut at = function.config_read(header::CAPABILITIES, 1) as u8;
    while at != 0 {
        assert_eq!(function.config_read(at, 1), 9);
        at = function.config_read(at + 1, 1) as u8;
    }
    function.config_write(header::BAR0 + 4, 4, u32::MAX, 0);
    assert_eq!(function.config_read(header::BAR0 + 4, 4), 0);
    function.config_write(0x40, 4, u32::MAX, 0);
    assert_eq!(function.config_read(0x40, 4), 0);
    driver.place(7);
    driver.start(0);
    driver.fill(0x80_000, b"abc");
    assert_eq!(driver.request(0, &[(0x80_000, 3, false), (0x81_000, 3, true)]), 3);
    assert_eq!(driver.isr(), 1);
}

#[test]
fn features_are_negotiated_as_offered_or_not_at_all() {
    let mut driver = Driver::new(echo());
    let offered = driver.offered();
    assert_eq!(offered, 1 << 3 | 1 << 28 | 1 << 29 | 1 << 32);
    for (features, status) in [(offered, 11), (1 << 32, 11), (1 << 3, 3), (1 << 32 | 1 << 4, 3)] {
        driver.write(20, 1, 0);
        assert_eq!(driver.status(), 0);
        driver.write(20, 1, 3);
        for select in 0..3 {
            driver.write(8, 4, select);
            driver.write(12, 4, features >> (32 * select.min(1)) & 0xffff_ffff);
        }
        driver.write(20, 1, 11);
        assert_eq!(driver.status(), status, "{features:#x}");
        // Final from now on.
        driver.write(8, 4, 0);
        let before = driver.read(12, 4);
        driver.write(12, 4, 0);
        assert_eq!(driver.read(12, 4), if status == 11 { before } else { 0 });
    }
    driver.write(20, 1, 7);
    assert_eq!(driver.status() & 4, 0, "no DRIVER_OK without FEATURES_OK");
}

#[test]
fn buffers_may_be_cut_anywhere() {
    let mut driver = Driver::new(echo());
    driver.start(feature::INDIRECT_DESC);
    driver.fill(0x80000, b"abcdefghij");
    let written = driver.request(
        0,
        &[
            (0x80000, 3, false),
            (0x80003, 0, false),
            (0x80003, 7, false),
            (0x81000, 1, true),
            (0x81010, 30, true),
        ],
    );
    assert_eq!(written, 10);
    assert_eq!((driver.bytes(0x81000), driver.bytes(0x81010)), (*b"a", *b"bcdefghij"));
    assert_eq!((driver.isr(), driver.isr()), (1, 0));

    // A descriptor, then a table.
    let table = 0x90008;
    driver.descriptor(table, 0, (0x80004, 2, NEXT, 2));
    driver.descriptor(table, 2, (0x82000, 16, WRITE, 0));
    driver.descriptor(Driver::ring(1), 5, (0x80000, 1, NEXT, 6));
    driver.descriptor(Driver::ring(1), 6, (table, 48, INDIRECT, 0));
    driver.offer(1, 5);
    driver.kick(1);
    assert_eq!(driver.take_used(1), Some((5, 3)));
    assert_eq!(driver.bytes(0x82000), *b"aef");
}

#[test]
fn many_requests_wrap_around_the_rings() {
    let mut driver = Driver::new(echo());
    driver.start(0);
    for round in 0..1000u32 {
        driver.fill(0x80000, &round.to_le_bytes());
        for head in [0, 2, 4] {
            driver.chain(1, head, &[(0x80000, 4, false), (0x81000 + u64::from(head) * 8, 4, true)]);
            driver.offer(1, head);
        }
        driver.kick(1);
        for head in [0, 2, 4] {
            assert_eq!(driver.take_used(1), Some((head, 4)));
            assert_eq!(driver.bytes(0x81000 + u64::from(head) * 8), round.to_le_bytes());
        }
        assert_eq!(driver.take_used(1), None);
    }
    driver.ram.write_u16(Driver::ring(1) + 0x1000, 1).unwrap();
    driver.isr();
    driver.request(1, &[(0x80000, 4, false), (0x81000, 4, true)]);
    assert_eq!(driver.isr(), 0, "the driver wants no interrupts");
}

#[test]
fn event_indices_say_when_to_interrupt_and_to_notify() {
    let mut driver = Driver::new(echo());
    driver.start(feature::EVENT_IDX);
    let used_event = Driver::ring(0) + 0x1000 + 4 + 2 * 8;
    let avail_event = Driver::ring(0) + 0x1800 + 4 + 8 * 8;
    let chain = [(0x80000, 4, false), (0x81000, 4, true)];
    driver.request(0, &chain);
    assert_eq!((driver.isr(), driver.ram.read_u16(avail_event)), (1, Ok(1)));
    driver.ram.write_u16(used_event, 3).unwrap();
    for (round, interrupt) in [(2, 0), (3, 0), (4, 1), (5, 0)] {
        driver.request(0, &chain);
        assert_eq!((driver.isr(), driver.ram.read_u16(avail_event)), (interrupt, Ok(round)), "{round}");
    }
    // An event index within a batch counts.
    driver.ram.write_u16(used_event, 6).unwrap();
    for _ in 0..4 {
        driver.offer(0, 0);
    }
    driver.kick(0);
    assert_eq!(driver.isr(), 1);
}

#[test]
fn what_takes_long_is_done_in_turns() {
    let mut driver = Driver::new(Echo { budget: 2, ..echo() });
    driver.start(0);
    driver.chain(0, 0, &[(0x80000, 4, false), (0x81000, 4, true)]);
    for _ in 0..5 {
        driver.offer(0, 0);
    }
    driver.kick(0);
    let mut turns = 0;
    while driver.function.deadline() == Some(0) {
        turns += 1;
        driver.function.poll(turns);
    }
    assert_eq!(turns, 2);
    assert_eq!(std::iter::from_fn(|| driver.take_used(0)).count(), 5);
}

#[test]
fn broken_rules_need_a_reset_and_nothing_else() {
    type Break = fn(&Driver);
    let ring = Driver::ring(0);
    let cases: &[(&str, Break)] = &[
        ("loop", |d| {
            for index in 0..8 {
                d.descriptor(Driver::ring(0), index, (0x80000, 1, NEXT, (index + 1) % 8));
            }
        }),
        ("beyond the table", |d| d.descriptor(Driver::ring(0), 0, (0x80000, 1, NEXT, 8))),
        ("readable behind writable", |d| {
            d.descriptor(Driver::ring(0), 0, (0x80000, 1, NEXT | WRITE, 1));
            d.descriptor(Driver::ring(0), 1, (0x80000, 1, 0, 0));
        }),
        ("table of no length", |d| d.descriptor(Driver::ring(0), 0, (0x90000, 0, INDIRECT, 0))),
        ("table of odd length", |d| d.descriptor(Driver::ring(0), 0, (0x90000, 24, INDIRECT, 0))),
        ("table with a successor", |d| d.descriptor(Driver::ring(0), 0, (0x90000, 16, INDIRECT | NEXT, 1))),
        ("table in a table", |d| {
            d.descriptor(Driver::ring(0), 0, (0x90000, 16, INDIRECT, 0));
            d.descriptor(0x90000, 0, (0x90000, 16, INDIRECT, 0));
        }),
        ("endless table", |d| {
            d.descriptor(Driver::ring(0), 0, (0x90000, 16 * 100, INDIRECT, 0));
            for index in 0..100 {
                d.descriptor(0x90000, index, (0x80000, 1, NEXT, index + 1));
            }
        }),
        ("table outside RAM", |d| d.descriptor(Driver::ring(0), 0, (RAM as u64 - 8, 16, INDIRECT, 0))),
        ("buffer outside RAM", |d| d.descriptor(Driver::ring(0), 0, (RAM as u64 - 8, 16, 0, 0))),
        ("buffer around the end", |d| d.descriptor(Driver::ring(0), 0, (u64::MAX - 3, 16, 0, 0))),
        ("head beyond the table", |d| d.ram.write_u16(Driver::ring(0) + 0x1004, 8).unwrap()),
        ("index ahead", |d| d.ram.write_u16(Driver::ring(0) + 0x1002, 9).unwrap()),
    ];
    let mut driver = Driver::new(echo());
    for (name, break_it) in cases {
        driver.start(feature::INDIRECT_DESC);
        driver.offer(0, 0);
        break_it(&driver);
        driver.kick(0);
        assert_eq!(driver.status(), 15 | 64, "{name}");
        assert_eq!(driver.isr(), 2, "{name}: a configuration interrupt");
        assert_eq!(driver.ram.read_u16(ring + 0x1802), Ok(0), "{name}: nothing given back");
        driver.kick(0);
        assert_eq!(driver.isr(), 0, "{name}: quiet until the reset");
    }
    // Not negotiated is not allowed either.
    driver.start(0);
    driver.descriptor(ring, 0, (0x90000, 16, INDIRECT, 0));
    driver.offer(0, 0);
    driver.kick(0);
    assert_eq!(driver.status(), 79);
}

#[test]
fn queues_that_cannot_work_are_not_enabled() {
    for (register, size, value) in [
        (24, 2, 0),
        (24, 2, 65),
        (24, 2, 128),
        (24, 2, 12),
        (32, 4, 8),
        (40, 4, 1),
        (48, 4, 2),
        (48, 8, u64::MAX - 11),
    ] {
        let mut driver = Driver::new(echo());
        driver.write(20, 1, 3);
        driver.write(8, 4, 1);
        driver.write(12, 4, 1);
        driver.write(20, 1, 11);
        driver.write(register, size, value);
        driver.write(28, 2, 1);
        assert_eq!((driver.read(28, 2), driver.status()), (0, 75), "{register} {value}");
    }
    let mut driver = Driver::new(echo());
    driver.start(0);
    driver.write(22, 2, 0);
    let before = (driver.read(24, 2), driver.read(32, 8), driver.read(40, 8), driver.read(48, 8));
    for (register, size) in [(24, 2), (32, 8), (40, 4), (48, 8), (28, 2)] {
        driver.write(register, size, 0);
    }
    let after = (driver.read(24, 2), driver.read(32, 8), driver.read(40, 8), driver.read(48, 8));
    assert_eq!((before, 1), (after, driver.read(28, 2)), "nothing moves once it is in use");
    driver.write(22, 2, 2);
    driver.write(24, 2, 8);
    driver.write(28, 2, 1);
    assert_eq!((driver.read(24, 2), driver.read(28, 2)), (0, 0), "a queue that is not there");
}

#[test]
fn a_reset_forgets_everything() {
    let mut driver = Driver::new(echo());
    driver.start(feature::EVENT_IDX);
    driver.request(0, &[(0x80000, 4, false), (0x81000, 4, true)]);
    driver.write(20, 1, 0);
    assert_eq!((driver.status(), driver.isr(), driver.read(16, 2)), (0, 0, 0xffff));
    driver.write(22, 2, 0);
    assert_eq!((driver.read(24, 2), driver.read(26, 2), driver.read(28, 2)), (64, 0xffff, 0));
    driver.kick(0);
    assert_eq!(driver.function.device::<Echo>().unwrap().resets, 3);
    driver.start(0);
    assert_eq!(driver.request(0, &[(0x80000, 4, false), (0x81000, 4, true)]), 4);
}

#[test]
fn nothing_moves_without_bus_mastering() {
    let mut driver = Driver::new(echo());
    driver.start(0);
    driver.function.config_write(header::COMMAND, 2, 3, 0);
    driver.chain(0, 0, &[(0x80000, 4, false), (0x81000, 4, true)]);
    driver.offer(0, 0);
    driver.kick(0);
    assert_eq!((driver.take_used(0), driver.function.deadline()), (None, None));
    driver.function.config_write(header::COMMAND, 2, 7, 0);
    assert_eq!(driver.function.deadline(), Some(0), "it is looked for then");
    driver.function.poll(0);
    assert_eq!(driver.take_used(0), Some((0, 4)));
}

#[test]
fn the_configuration_is_read_and_written_with_any_width() {
    let mut driver = Driver::new(echo());
    assert_eq!(driver.read(0x2000, 8), u64::from_le_bytes(*b"echo0123"));
    assert_eq!(driver.read(0x2006, 4), u64::from(u32::from_le_bytes([b'2', b'3', 0, 0])));
    driver.start(0);
    let generation = driver.read(21, 1);
    driver.write(0x2001, 2, 0x5a5a);
    assert_eq!(driver.read(0x2000, 4), u64::from(u32::from_le_bytes(*b"eZZo")));
    assert_eq!((driver.read(21, 1), driver.isr()), (generation + 1, 2));
    for offset in [0x2005, 0x2007, 0x2fff] {
        driver.write(offset, 8, 0);
        driver.read(offset, 8);
    }
    assert_eq!(driver.read(0x2000, 4), u64::from(u32::from_le_bytes(*b"eZZo")));
}

#[test]
fn the_access_capability_reaches_the_registers() {
    let mut driver = Driver::new(echo());
    let mut at = driver.function.config_read(header::CAPABILITIES, 1) as u8;
    while driver.function.config_read(at + 3, 1) != 5 {
        at = driver.function.config_read(at + 1, 1) as u8;
    }
    let function = &mut driver.function;
    let mut aim = |bar: u32, offset: u32, length: u32| {
        function.config_write(at + 4, 1, bar, 0);
        function.config_write(at + 8, 4, offset, 0);
        function.config_write(at + 12, 4, length, 0);
    };
    aim(4, 20, 1);
    driver.function.config_write(at + 16, 1, 3, 0);
    assert_eq!(driver.status(), 3);
    assert_eq!(driver.function.config_read(at + 16, 4) & 0xff, 3);
    let function = &mut driver.function;
    for (bar, offset, length) in [(4, 21, 2), (4, 20, 3), (9, 20, 1), (4, u32::MAX, 1), (1, 0xffff_fffc, 4)] {
        function.config_write(at + 4, 1, bar, 0);
        function.config_write(at + 8, 4, offset, 0);
        function.config_write(at + 12, 4, length, 0);
        function.config_write(at + 16, 4, 0, 0);
        function.config_read(at + 16, 4);
    }
    assert_eq!(driver.status(), 3);
}

fn machine(device: impl Device) -> (Pc, &'static Ram) {
    let config = PcConfig {
        vcpus: 1,
        tsc_hz: 1_000_000_000,
        address_bits: 36,
        low_ram: 1 << 20,
        high_ram: 0,
        debug_exit: None,
    };
    let mut pc = Pc::new(&config);
    let ram = Ram::leak();
    let device: &'static mut dyn Device = Box::leak(Box::new(device));
    let slot = pc.free_slot(0).unwrap();
    assert_eq!((slot, pc.free_slot(0b1100)), (2, Some(4)));
    pc.attach(Box::leak(Box::new(VirtioPci::new(slot, "e", ram, device)))).unwrap();
    let again: &'static mut dyn Device = Box::leak(Box::new(echo()));
    assert!(pc.attach(Box::leak(Box::new(VirtioPci::new(slot, "f", ram, again)))).is_err());
    pc.reset(0);
    (pc, ram)
}

struct Nobody;

impl crate::Backend for Nobody {
    fn console_write(&mut self, _: u8) -> bool {
        true
    }
    fn console_read(&mut self) -> Option<u8> {
        None
    }
}

#[test]
fn on_the_bus_it_interrupts_by_line_and_by_message() {
    let (mut pc, _) = machine(echo());
    let config = |pc: &mut Pc, offset: u32, write: Option<u32>| {
        pc.io_write(0xcf8, 4, 0x8000_1000 | offset, 0, &mut Nobody);
        match write {
            Some(value) => {
                pc.io_write(0xcfc, 4, value, 0, &mut Nobody);
                0
            }
            None => pc.io_read(0xcfc, 4, 0, &mut Nobody),
        }
    };
    assert_eq!(config(&mut pc, 0, None), 0x106a_1af4);
    let registers = u64::from(config(&mut pc, 0x20, None));
    let table = u64::from(config(&mut pc, 0x14, None));
    let port = (config(&mut pc, 0x10, None) & !3) as u16;
    assert_eq!((registers, table, port), (0xe002_8000, 0xe000_2000, 0xc008), "as firmware would");
    assert_eq!(config(&mut pc, 0x3c, None) & 0xffff, 0x010a, "INTA# of slot 2 is on IRQ 10");
    config(&mut pc, 4, Some(7));
    // A configuration write of the driver makes a configuration interrupt.
    for (offset, size, value) in [(20, 1, 3), (8, 4, 1), (12, 4, 1), (20, 1, 11), (20, 1, 15)] {
        assert!(pc.mmio_write(0, registers + offset, size, value, 0));
    }
    // Lines: IRQ 10 through the I/O APIC, level-triggered.
    for (index, value) in [(0x10 + 20, 0x8041), (0x10 + 21, 0)] {
        pc.mmio_write(0, 0xfec0_0000, 4, index, 0);
        pc.mmio_write(0, 0xfec0_0010, 4, value, 0);
    }
    assert!(pc.quiet(0));
    pc.mmio_write(0, registers + 0x2000, 1, 1, 0);
    assert_eq!(pc.acknowledge(0), 0x41);
    assert_eq!(pc.mmio_read(0, registers + 0x1000, 1, 0), Some(2), "reading the status lowers the line");
    pc.mmio_write(0, 0xfee0_00b0, 4, 0, 0);
    assert!(pc.quiet(0));

    // Messages.
    for (offset, value) in [(0, 0xfee0_0000u64), (8, 0x52)] {
        assert!(pc.mmio_write(0, table + offset, 8, value, 0));
    }
    config(&mut pc, 0x40, Some(0x8000_0000));
    pc.mmio_write(0, registers + 16, 2, 0, 0);
    pc.mmio_write(0, registers + 0x2000, 1, 2, 0);
    assert_eq!(pc.acknowledge(0), 0x52);
    assert_eq!(pc.mmio_read(0, registers + 0x1000, 1, 0), Some(0));

    // Input from outside.
    assert_eq!(pc.with_virtio(2, 0, |echo: &mut Echo, cx| (cx.config_changed(), echo.resets).1), Some(2));
    assert_eq!(pc.with_virtio(3, 0, |_: &mut Echo, _| ()), None);
    assert!(!pc.quiet(0));
    pc.reset(0);
    assert!(pc.quiet(0));
    assert_eq!(pc.mmio_read(0, registers + 20, 1, 0), Some(0));
}

#[test]
fn a_hostile_driver_gets_nowhere() {
    for seed in 1..=24 {
        let mut driver = Driver::new(Echo { budget: if seed % 2 == 0 { 3 } else { u32::MAX }, ..echo() });
        abuse(&mut driver, seed, 3000);
        assert_eq!(driver.request(0, &[(0x80000, 4, false), (0x81000, 4, true)]), 4, "seed {seed}");
    }
}
