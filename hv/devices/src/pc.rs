//! The whole PC: every device, the wiring between them, and the dispatch of ports, memory and MSRs.

use crate::acpi::Acpi;
use crate::apic::local::{MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC, MSR_X2APIC_LAST};
use crate::apic::{CpuRequest, GeneralProtection, IoApic, LocalApic, LocalApics, Message};
use crate::clock::earlier;
use crate::fwcfg::{self, FwCfg};
use crate::hpet::{self, Hpet};
use crate::lines::{Change, Driver, Lines};
use crate::pci::chipset::Chipset;
use crate::pci::{Address, ConfigPort, ConfigSpace};
use crate::pic::Pic;
use crate::pit::{self, Pit};
use crate::ports::{CONTROL_A, DMA_PAGE, Ports};
use crate::ps2::{Controller, Key};
use crate::rtc::Rtc;
use crate::testdev::TestDevice;
use crate::uart::{Line, Uart};
use crate::virtio::{Context, Device, VirtioPci};
use monovisor_arch::layout::{
    self, COM1, COM1_IRQ, GPE0, I8042_COMMAND, I8042_DATA, IOAPIC_BASE, KEYBOARD_IRQ, LEVEL_IRQS, MOUSE_IRQ,
    PCI_CONFIG, PM_TIMER, PM1A_CONTROL, PM1A_EVENT, RESET_REGISTER, RTC_IRQ, RTC_PORT, SCI_IRQ,
    SLEEP_TYPE_S5, SMI_COMMAND,
};
use monovisor_arch::{Inbox, VirtualInterrupts};

mod firmware;
mod input;
mod ioport;
mod memory;
mod slots;
#[cfg(test)]
mod tests;

pub use crate::apic::local::{LOOK, NOTIFY};
pub use input::{MAX_STROKES, Pointer, TooManyKeys};
pub use slots::{MAX_FUNCTIONS, PciFunction, SlotError};

/// What a machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct PcConfig {
    /// Virtual processors, 1 to [`layout::MAX_VCPUS`].
    pub vcpus: u8,
    /// Frequency of the guest's TSC in Hz; guest TSC = virtual clock × this, plus the guest's own offset.
    pub tsc_hz: u64,
    /// Physical address width of the virtual CPU in bits (CPUID 8000_0008, EAX bits 7:0).
    pub address_bits: u8,
    /// Guest RAM below 4 GiB in bytes.
    pub low_ram: u64,
    /// Guest RAM from 4 GiB on in bytes.
    pub high_ram: u64,
    /// The isa-debug-exit device, if there is one.
    pub debug_exit: Option<DebugExit>,
}

/// Where the isa-debug-exit device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugExit {
    /// First port.
    pub iobase: u16,
    /// Number of ports.
    pub iosize: u8,
}

/// What the devices need from outside.
pub trait Backend {
    /// Takes a byte of the guest's console (COM1). False: no room now; the byte is kept and offered again.
    fn console_write(&mut self, byte: u8) -> bool;
    /// The next byte for the guest's console. Asked only while the guest has room for it.
    fn console_read(&mut self) -> Option<u8>;
}

/// How the guest asked for a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCause {
    /// Port 0xcf9.
    ResetRegister,
    /// Keyboard controller, command 0xfe or its output port.
    KeyboardController,
    /// Port 0x92.
    ControlPortA,
}

/// What the guest asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reset the machine.
    Reset(ResetCause),
    /// ACPI S5: switch off.
    PowerOff,
    /// Another ACPI sleep type was written; the DSDT announces none, so there is nothing to do but say so.
    Sleep(u8),
    /// A write to isa-debug-exit; QEMU's exit status is `value * 2 + 1`.
    DebugExit(u32),
    /// The guest has set its clock: it is this many seconds ahead of the rig's (RTC_CHANGE).
    RtcChange(i64),
    /// A virtio device has something for what is behind it: [`Pc::with_virtio`] gets it.
    Devices,
}

/// All devices of one machine.
#[derive(Debug)]
pub struct Pc {
    config: PcConfig,
    lines: Lines,
    pic: Pic,
    /// The 8259's output, kept because it is looked at before every entry.
    pic_output: bool,
    ioapic: IoApic,
    apics: LocalApics,
    pit: Pit,
    rtc: Rtc,
    hpet: Hpet,
    /// Lines that the HPET holds high.
    hpet_lines: u32,
    uart: Uart,
    acpi: Acpi,
    ports: Ports,
    fw_cfg: FwCfg,
    keyboard_controller: Controller,
    pci_port: ConfigPort,
    chipset: Chipset,
    /// Devices in the slots of the bus.
    functions: heapless::Vec<&'static mut VirtioPci, MAX_FUNCTIONS>,
    /// Lines that INTx interrupts hold high.
    pci_lines: u16,
    test_device: Option<TestDevice>,
    reset_request: Option<ResetCause>,
    debug_exit: Option<u32>,
    /// A device has something for what is behind it.
    told: bool,
    /// What the operator types and points at.
    operator: input::Operator,
    /// When the devices, other than local APICs, want to be called.
    deadline: Option<u64>,
    /// `deadline` has to be worked out again.
    stale: bool,
}

impl Pc {
    /// A machine at power-up. [`Pc::reset`] makes it ready for a guest.
    pub const fn new(config: &PcConfig) -> Self {
        Self {
            config: *config,
            lines: Lines::new(),
            pic: Pic::new(),
            pic_output: false,
            ioapic: IoApic::new(),
            apics: LocalApics::new(config.vcpus, config.tsc_hz, config.address_bits),
            pit: Pit::new(),
            rtc: Rtc::new(),
            hpet: Hpet::new(),
            hpet_lines: 0,
            uart: Uart::new(),
            acpi: Acpi::new(),
            ports: Ports::new(),
            fw_cfg: FwCfg::new(),
            keyboard_controller: Controller::new(),
            pci_port: ConfigPort::new(),
            chipset: Chipset::new(),
            functions: heapless::Vec::new(),
            pci_lines: 0,
            test_device: None,
            reset_request: None,
            debug_exit: None,
            told: false,
            operator: input::Operator::new(),
            deadline: None,
            stale: true,
        }
    }

    /// Adds the pc-testdev; there is one at most.
    pub const fn add_test_device(&mut self, device: TestDevice) {
        self.test_device = Some(device);
    }

    /// The configuration.
    pub const fn config(&self) -> &PcConfig {
        &self.config
    }

    /// Sets the rig's wall time, in nanoseconds since 1970 UTC, for this moment of the virtual clock: at power-up
    /// and whenever the virtual clock has stood still.
    pub fn set_wall_clock(&mut self, unix: i64, now: u64) {
        self.rtc.set_wall_clock(unix, now);
        self.stale = true;
    }

    // Interrupts.

    fn set_line(&mut self, line: u8, driver: Driver, high: bool) {
        let level = match self.lines.set(line, driver, high) {
            Change::None => return,
            Change::Rose => true,
            Change::Fell => false,
        };
        self.pic.set_line(line, level);
        // The GSI of an ISA interrupt is below 24.
        self.ioapic.set_pin(layout::isa_gsi(line) as u8, level);
        self.settle();
    }

    /// Lets the interrupt controllers see what has changed.
    fn settle(&mut self) {
        let output = self.pic.output();
        if output != self.pic_output {
            self.pic_output = output;
            self.ioapic.set_pin(0, output);
            if let Some(apic) = self.apics.get_mut(0) {
                apic.set_lint(0, output);
            }
            self.call_external();
        }
        while let Some(message) = self.ioapic.take() {
            self.apics.deliver(message);
        }
    }

    /// Has the processors look that the 8259's interrupts go to.
    fn call_external(&mut self) {
        if !self.pic_output {
            return;
        }
        for vcpu in 0..self.apics.count() {
            if self.routes_external(vcpu)
                && let Some(apic) = self.apics.get_mut(vcpu)
            {
                apic.call();
            }
        }
    }

    /// Has every processor look.
    pub fn call_all(&mut self) {
        for apic in self.apics.iter_mut() {
            apic.call();
        }
    }

    /// The processors that have to look at what they have here since this was last asked, a bit each ([`LOOK`]): an interrupt, a
    /// request or a deadline of theirs may have changed; and those that are to be notified ([`NOTIFY`]). Whoever changes the devices asks this before it lets go of
    /// them, and calls those processors.
    #[inline]
    pub fn take_attention(&mut self) -> u32 {
        let wanted = self.apics.take_attention();
        let before = self.deadline;
        if self.stale && self.devices_deadline() != before { wanted | 1 } else { wanted }
    }

    /// After an access of `vcpu` to its local APIC: sends its interrupt command and its end of interrupt.
    fn settle_apic(&mut self, vcpu: usize) {
        if let Some(vector) = self.apics.settle(vcpu) {
            self.ioapic.end(vector);
            self.settle();
        }
        // LINT0 may have been opened to what the 8259 has.
        self.call_external();
    }

    /// Delivers a message-signalled interrupt.
    pub fn deliver(&mut self, message: Message) {
        self.apics.deliver(message);
    }

    /// The 8259 has an interrupt and `vcpu` is the one that takes it.
    #[inline]
    fn external_for(&self, vcpu: usize) -> bool {
        self.pic_output && self.routes_external(vcpu)
    }

    /// By LINT0 of the bootstrap processor, or by pin 0 of the I/O APIC.
    fn routes_external(&self, vcpu: usize) -> bool {
        let Some(apic) = self.apics.get(vcpu) else { return false };
        vcpu == 0 && apic.passes_external()
            || self
                .ioapic
                .external()
                .is_some_and(|message| apic.matches(message.logical, message.destination, false))
    }

    /// The vector of the interrupt that `vcpu` would get now, if its RFLAGS.IF lets it.
    #[inline]
    pub fn interrupt_for(&self, vcpu: usize) -> Option<u8> {
        if self.external_for(vcpu) {
            return Some(self.pic.vector());
        }
        self.apics.get(vcpu)?.pending()
    }

    /// Nothing waits for `vcpu`, whatever its task priority.
    #[inline]
    pub fn quiet(&self, vcpu: usize) -> bool {
        !self.external_for(vcpu) && self.apics.get(vcpu).is_none_or(|apic| apic.highest_request().is_none())
    }

    /// `vcpu` takes its interrupt: the acknowledge cycle. With none pending that is a spurious vector.
    pub fn acknowledge(&mut self, vcpu: usize) -> u8 {
        if self.external_for(vcpu) {
            let vector = self.pic.acknowledge();
            self.settle();
            return vector;
        }
        self.apics.get_mut(vcpu).map_or(0xff, LocalApic::acknowledge)
    }

    /// An NMI waits for `vcpu`.
    pub fn nmi_pending(&self, vcpu: usize) -> bool {
        self.apics.get(vcpu).is_some_and(LocalApic::nmi_pending)
    }

    /// `vcpu` has taken its NMI.
    pub fn acknowledge_nmi(&mut self, vcpu: usize) {
        if let Some(apic) = self.apics.get_mut(vcpu) {
            apic.acknowledge_nmi();
        }
    }

    /// Pulls the NMI line, LINT1 of every processor.
    pub fn nmi(&mut self) {
        for apic in self.apics.iter_mut() {
            apic.set_lint(1, true);
            apic.set_lint(1, false);
        }
    }

    /// [`Pc::take_cpu_request`] has something.
    #[inline]
    pub fn has_cpu_request(&self, vcpu: usize) -> bool {
        self.apics.get(vcpu).is_some_and(LocalApic::has_cpu_request)
    }

    /// The next INIT or start-up for `vcpu`.
    pub fn take_cpu_request(&mut self, vcpu: usize) -> Option<CpuRequest> {
        self.apics.get_mut(vcpu)?.take_cpu_request()
    }

    /// CR8 of `vcpu`.
    #[inline]
    pub fn cr8(&self, vcpu: usize) -> u8 {
        self.apics.get(vcpu).map_or(0, LocalApic::cr8)
    }

    /// `vcpu` has written CR8; the caller has checked the value to be below 16.
    #[inline]
    pub fn set_cr8(&mut self, vcpu: usize, value: u8) {
        // The processor's CR8 is brought here again and again: only a change takes the sub-class away.
        if let Some(apic) = self.apics.get_mut(vcpu)
            && apic.cr8() != value & 15
        {
            apic.set_cr8(value & 15);
        }
    }

    /// The local APIC of `vcpu`.
    pub fn local_apic(&self, vcpu: usize) -> Option<&LocalApic> {
        self.apics.get(vcpu)
    }

    /// Gives the interrupts of `vcpu`'s local APIC to a processor that delivers them by itself.
    pub fn hand_over(&mut self, vcpu: usize, posted: Option<Inbox>) -> VirtualInterrupts {
        self.apics.get_mut(vcpu).map_or(VirtualInterrupts::default(), |apic| apic.hand_over(posted))
    }

    /// Takes them back.
    pub fn take_back(&mut self, vcpu: usize, left: &VirtualInterrupts) {
        if let Some(apic) = self.apics.get_mut(vcpu) {
            apic.take_back(left);
        }
    }

    /// `vcpu` has ended a level-triggered interrupt that its processor had delivered.
    pub fn ended(&mut self, vcpu: usize, vector: u8) {
        if let Some(apic) = self.apics.get_mut(vcpu) {
            apic.ended(vector);
        }
        self.settle_apic(vcpu);
    }

    // MSRs.

    /// The MSR belongs to the local APIC.
    pub const fn is_apic_msr(index: u32) -> bool {
        matches!(index, MSR_APIC_BASE | MSR_TSC_DEADLINE | MSR_X2APIC..=MSR_X2APIC_LAST)
    }

    /// RDMSR of a local APIC's MSR.
    pub fn apic_msr_read(&mut self, vcpu: usize, index: u32, now: u64) -> Result<u64, GeneralProtection> {
        self.apics.get_mut(vcpu).ok_or(GeneralProtection)?.read_msr(index, now)
    }

    /// WRMSR of a local APIC's MSR.
    pub fn apic_msr_write(
        &mut self,
        vcpu: usize,
        index: u32,
        value: u64,
        now: u64,
    ) -> Result<(), GeneralProtection> {
        self.apics.get_mut(vcpu).ok_or(GeneralProtection)?.write_msr(index, value, now)?;
        self.settle_apic(vcpu);
        Ok(())
    }

    /// `vcpu` has moved its TSC by writing IA32_TSC or IA32_TSC_ADJUST: `offset` is what it is ahead of the
    /// virtual clock, in ticks modulo 2^64.
    pub fn set_tsc_offset(&mut self, vcpu: usize, offset: u64, now: u64) {
        if let Some(apic) = self.apics.get_mut(vcpu) {
            apic.set_tsc_offset(offset, now);
        }
    }

    // Time.

    /// What the ACPI PM timer reads, from the virtual clock alone: no device changes by it.
    #[inline]
    pub fn pm_timer(now: u64) -> u32 {
        Acpi::timer(now)
    }

    /// The earliest moment of the virtual clock at which `vcpu` is to call [`Pc::advance`]. The first processor serves
    /// the devices, and each one its own local APIC.
    #[inline]
    pub fn deadline(&mut self, vcpu: usize) -> Option<u64> {
        let own = self.apics.get(vcpu).and_then(LocalApic::deadline);
        if vcpu == 0 { earlier(self.devices_deadline(), own) } else { own }
    }

    #[inline]
    fn devices_deadline(&mut self) -> Option<u64> {
        if self.stale {
            self.stale = false;
            // While the HPET has their interrupts, 8254 and RTC have nothing to be called for.
            let (pit, rtc) =
                if self.hpet.legacy() { (None, None) } else { (self.pit.deadline(), self.rtc.deadline()) };
            let (hpet, acpi, uart) = (self.hpet.deadline(), self.acpi.deadline(), self.uart.deadline());
            self.deadline = [pit, rtc, hpet, acpi, uart, self.operator.deadline()]
                .into_iter()
                .chain(self.functions.iter().map(|function| function.deadline()))
                .fold(None, earlier);
        }
        self.deadline
    }

    /// Fires what is due, of what `vcpu` serves.
    #[inline]
    pub fn advance(&mut self, vcpu: usize, now: u64) {
        if let Some(apic) = self.apics.get_mut(vcpu) {
            apic.advance(now);
        }
        if vcpu == 0 && self.devices_deadline().is_some_and(|deadline| deadline <= now) {
            self.fire(now);
        }
    }

    fn fire(&mut self, now: u64) {
        self.advance_pit(now);
        self.rtc.advance(now);
        self.settle_rtc();
        self.advance_hpet(now);
        self.acpi.advance(now);
        self.set_line(SCI_IRQ, Driver::PowerManagement, self.acpi.interrupt());
        self.uart.advance(now);
        self.set_line(COM1_IRQ, Driver::Com1, self.uart.interrupt());
        self.press_keys(now);
        self.poll_functions(now);
        self.stale = true;
    }

    /// Counter 0 of the timer up to `now`: an edge that has come and gone is still one.
    fn advance_pit(&mut self, now: u64) {
        let rose = self.pit.advance(now);
        if self.hpet.legacy() {
            self.set_line(0, Driver::Pit, false);
            return;
        }
        if rose {
            self.set_line(0, Driver::Pit, false);
            self.set_line(0, Driver::Pit, true);
        }
        self.set_line(0, Driver::Pit, self.pit.output(now));
    }

    fn settle_rtc(&mut self) {
        let high = self.rtc.interrupt() && !self.hpet.legacy();
        self.set_line(RTC_IRQ, Driver::Rtc, high);
    }

    fn advance_hpet(&mut self, now: u64) {
        let matched = self.hpet.advance(now);
        self.settle_hpet(matched);
    }

    /// Drives the lines of the HPET's timers; several may share one.
    fn settle_hpet(&mut self, matched: u8) {
        let (mut pulses, mut levels, mut stay) = (0u32, 0u32, 0u32);
        for output in (0..hpet::TIMERS).filter_map(|index| self.hpet.output(index, matched)) {
            pulses |= u32::from(output.pulse) << (output.line & 31);
            levels |= u32::from(output.level) << (output.line & 31);
            stay |= u32::from(output.stays) << (output.line & 31);
        }
        levels |= (pulses | self.hpet_lines) & stay;
        if (pulses, levels, self.hpet_lines) == (0, 0, 0) {
            return;
        }
        for line in 0..self.lines.count() {
            let bit = 1 << line;
            if pulses & bit != 0 {
                self.set_line(line, Driver::Hpet, false);
                self.set_line(line, Driver::Hpet, true);
            }
            self.set_line(line, Driver::Hpet, levels & bit != 0);
        }
        self.hpet_lines = levels;
    }

    // The machine as a whole.

    /// Presses the power button.
    pub fn power_button(&mut self) {
        self.acpi.power_button();
        self.set_line(SCI_IRQ, Driver::PowerManagement, self.acpi.interrupt());
    }

    /// [`Pc::take_request`] has something.
    #[inline]
    pub fn has_request(&self) -> bool {
        self.reset_request.is_some()
            || self.debug_exit.is_some()
            || self.acpi.has_sleep()
            || self.rtc.has_change()
            || self.told
    }

    /// What the guest asks of the machine, in the order of weight.
    pub fn take_request(&mut self) -> Option<Request> {
        if let Some(value) = self.debug_exit.take() {
            return Some(Request::DebugExit(value));
        }
        if let Some(sleep) = self.acpi.take_sleep() {
            return Some(if sleep == SLEEP_TYPE_S5 { Request::PowerOff } else { Request::Sleep(sleep) });
        }
        if let Some(cause) = self.reset_request.take() {
            return Some(Request::Reset(cause));
        }
        if let Some(offset) = self.rtc.take_change() {
            return Some(Request::RtcChange(offset));
        }
        core::mem::take(&mut self.told).then_some(Request::Devices)
    }

    // Input.

    /// A key goes down or up.
    pub fn key(&mut self, key: Key, down: bool) {
        self.keyboard_controller.key(key, down);
        self.settle_keyboard();
    }

    /// The mouse moves right by `dx`, up by `dy`, its wheel towards the user by `dz`; `buttons` is what is down, in
    /// the bits of [`crate::ps2::mouse::button`].
    pub fn mouse_event(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8) {
        self.keyboard_controller.mouse_event(dx, dy, dz, buttons);
        self.settle_keyboard();
    }

    /// Each byte of the controller is an edge of its own: first the lines see the buffer empty, then the next byte.
    fn settle_keyboard(&mut self) {
        for _ in 0..2 {
            let (keyboard, mouse) = self.keyboard_controller.interrupts();
            self.set_line(KEYBOARD_IRQ, Driver::Keyboard, keyboard);
            self.set_line(MOUSE_IRQ, Driver::Mouse, mouse);
            self.keyboard_controller.advance();
        }
        let reset = self.keyboard_controller.take_reset();
        self.request_reset(reset, ResetCause::KeyboardController);
    }

    fn request_reset(&mut self, reset: bool, cause: ResetCause) {
        if reset {
            self.reset_request = Some(cause);
        }
    }

    // The console.

    /// Moves console bytes both ways, as far as there is room. Call it when the back end has got input or room.
    pub fn console_poll<B: Backend + ?Sized>(&mut self, now: u64, backend: &mut B) {
        self.uart.poll(&mut Console(backend), now);
        self.set_line(COM1_IRQ, Driver::Com1, self.uart.interrupt());
        self.stale = true;
    }

    /// The guest has room for console input.
    pub fn console_ready(&self) -> bool {
        self.uart.can_receive()
    }

    /// The guest has sent bytes that the back end has not taken yet.
    pub fn console_has_output(&self) -> bool {
        self.uart.has_output()
    }
}

/// A back end as the far end of the console's line.
struct Console<'a, B: ?Sized>(&'a mut B);

impl<B: Backend + ?Sized> Line for Console<'_, B> {
    fn transmit(&mut self, byte: u8) -> bool {
        self.0.console_write(byte)
    }

    fn receive(&mut self) -> Option<u8> {
        self.0.console_read()
    }
}
