//! `query-pci`: the functions of bus 0 as their configuration spaces show them.

use heapless::Vec;
use monovisor_core::schema::pci::{PciDeviceClass, PciDeviceId, PciDeviceInfo, PciMemoryRegion};
use monovisor_core::schema::{List, Source};
use monovisor_devices::Pc;
use monovisor_devices::pc::PciFunction;
use monovisor_devices::pci::Address;
use monovisor_devices::pci::config::header;
use spin::{Mutex, MutexGuard};

/// Most functions that are listed: as many as bus 0 has slots.
const FUNCTIONS: usize = 32;

/// Base address registers of a function (PCI Local Bus 3.0, 6.2.5).
const BARS: u8 = 6;

/// A BAR that decodes nothing, as QEMU gives its address.
const UNMAPPED: i64 = -1;

static FOUND: Mutex<Functions> = Mutex::new(Functions { found: Vec::new() });

/// What was found on the bus when it was looked at last.
pub(crate) struct Functions {
    found: Vec<Function, FUNCTIONS>,
}

struct Function {
    address: Address,
    /// The operator's name of the device.
    name: &'static str,
    vendor: u16,
    device: u16,
    /// Base class and sub-class.
    class: u16,
    /// The interrupt line, of a function with an interrupt pin.
    irq: Option<u8>,
    regions: Vec<PciMemoryRegion<'static>, { BARS as usize }>,
}

impl Functions {
    /// The place where they are kept. May be called once.
    pub(crate) fn take() -> &'static mut Self {
        MutexGuard::leak(FOUND.lock())
    }

    /// Looks at the bus.
    pub(crate) fn fill(&mut self, pc: &Pc) {
        self.found.clear();
        for function in pc.pci_functions() {
            // One more than a bus can have is left out.
            let _ = self.found.push(Function::of(&function));
        }
    }
}

impl Function {
    fn of(function: &PciFunction<'_>) -> Self {
        let space = function.space;
        let mut regions = Vec::new();
        for bar in 0..BARS {
            let Some(region) = space.region(bar) else { continue };
            // The devices have no prefetchable and no 64-bit memory.
            let flag = (!region.io).then_some(false);
            // Cannot fail: there is a place for each BAR.
            let _ = regions.push(PciMemoryRegion {
                bar: bar.into(),
                kind: if region.io { "io" } else { "memory" },
                address: region.address.map_or(UNMAPPED, u64::cast_signed),
                size: region.size.into(),
                prefetch: flag,
                mem_type_64: flag,
            });
        }
        Self {
            address: function.address,
            name: function.name,
            vendor: space.get_u16(header::VENDOR),
            device: space.get_u16(header::DEVICE),
            class: space.get_u16(header::CLASS + 1),
            irq: (space.get(header::INTERRUPT_PIN) != 0).then(|| space.get(header::INTERRUPT_LINE)),
            regions,
        }
    }
}

impl<'a> Source<'a, PciDeviceInfo<'a>> for Functions {
    fn item(&'a self, index: usize) -> Option<PciDeviceInfo<'a>> {
        let function = self.found.get(index)?;
        Some(PciDeviceInfo {
            bus: function.address.bus.into(),
            slot: function.address.slot.into(),
            function: function.address.function.into(),
            class_info: PciDeviceClass { desc: class_name(function.class), class: function.class.into() },
            id: PciDeviceId { device: function.device.into(), vendor: function.vendor.into() },
            irq: function.irq.map(i64::from),
            qdev_id: function.name,
            pci_bridge: None,
            regions: List::Slice(&function.regions),
        })
    }
}

/// QEMU's word for a class and sub-class, of those that a function here can have.
fn class_name(class: u16) -> Option<&'static str> {
    Some(match class {
        0x0100 => "SCSI controller",
        0x0101 => "IDE controller",
        0x0106 => "SATA controller",
        0x0200 => "Ethernet controller",
        0x0300 => "VGA controller",
        0x0500 => "RAM controller",
        0x0600 => "Host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        0x0680 => "Bridge",
        0x0700 => "Serial port",
        0x0c03 => "USB controller",
        0x0c05 => "SMBus",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use monovisor_devices::PcConfig;

    #[test]
    fn the_chip_set_as_a_real_qemu_lists_it() {
        let pc = Pc::new(&PcConfig {
            vcpus: 1,
            tsc_hz: 1_000_000_000,
            address_bits: 36,
            low_ram: 1 << 20,
            high_ram: 0,
            debug_exit: None,
        });
        let mut functions = Functions { found: Vec::new() };
        functions.fill(&pc);
        let item = |index| functions.item(index).unwrap();
        let (host, isa, power) = (item(0), item(1), item(2));
        assert_eq!((host.id.device, host.id.vendor, host.class_info.class), (4663, 32902, 1536));
        assert_eq!((isa.slot, isa.id.device, isa.class_info.desc), (1, 28672, Some("ISA bridge")));
        assert_eq!((power.function, power.id.device, power.class_info.class), (3, 28947, 1664));
        assert_eq!((host.irq, isa.irq, power.irq), (None, None, Some(9)));
        assert!(functions.item(3).is_none());
    }
}
