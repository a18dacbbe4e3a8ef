//! From the options that are lists of keys and values to the devices of the machine.
//!
//! What the lists ask for is checked as a whole before there is a guest: a device that nobody knows, or a key that its
//! device does not, is an error that names it.

use core::sync::atomic::AtomicU8;

use monovisor_devices::testdev::{MEMORY_LENGTH, TestDevice};
use monovisor_devices::{DebugExit, Pc};
use monovisor_loader::Options;
use monovisor_loader::options::{Group, GroupError, GroupKind, GroupProblem};

use crate::{frontends, virtio};

/// The guest's isa-debug-exit.
const DEBUG_EXIT: &str = "isa-debug-exit";
/// The guest's device for test programs.
const TEST_DEVICE: &str = "pc-testdev";

/// The memory window of [`TEST_DEVICE`].
static WINDOW: [AtomicU8; MEMORY_LENGTH] = [const { AtomicU8::new(0) }; MEMORY_LENGTH];

/// Devices of QEMU that a guest will get here.
const NOT_YET: [&str; 3] = ["pvpanic", "vfio-pci", "virtio-scsi-pci"];

/// Checks all lists.
///
/// # Errors
/// The first one that asks for something that is not there.
pub fn check<'a>(options: &Options<'a>) -> Result<(), GroupError<'a>> {
    if let Some(error) = options.group_error {
        return Err(error);
    }
    for device in options.devices() {
        check_device(&device)?;
    }
    for drive in options.groups(GroupKind::Drive) {
        virtio::check_drive(drive)?;
    }
    for object in options.groups(GroupKind::Object) {
        virtio::check_object(&object)?;
    }
    for chardev in options.groups(GroupKind::Chardev) {
        frontends::check_chardev(&chardev)?;
    }
    for netdev in options.groups(GroupKind::Netdev) {
        virtio::check_netdev(&netdev)?;
    }
    Ok(())
}

fn check_device<'a>(device: &Group<'a>) -> Result<(), GroupError<'a>> {
    match device.required("driver")? {
        DEBUG_EXIT => read_debug_exit(device).map(|_| ()),
        TEST_DEVICE => device.only(&[]),
        driver if let Some(model) = virtio::model(driver) => virtio::check_device(model, device),
        driver if virtio::is_port(driver) => virtio::check_port(device),
        driver if NOT_YET.contains(&driver) => Err(device.error("driver", GroupProblem::NotYet)),
        _ => Err(device.error("driver", GroupProblem::NoSuch("device model name"))),
    }
}

/// Where the guest's isa-debug-exit is, if it has one that [`check`] finds nothing wrong with.
pub fn debug_exit(options: &Options<'_>) -> Option<DebugExit> {
    options
        .devices()
        .filter(|device| device.driver() == DEBUG_EXIT)
        .last()
        .and_then(|d| read_debug_exit(&d).ok())
}

/// The guest has a pc-testdev.
pub fn has_test_device(options: &Options<'_>) -> bool {
    options.devices().any(|device| device.driver() == TEST_DEVICE)
}

/// Adds the devices that need nothing from outside to a machine that is being made.
pub fn add(options: &Options<'_>, pc: &mut Pc) {
    if has_test_device(options) {
        pc.add_test_device(TestDevice::new(&WINDOW));
    }
}

fn read_debug_exit<'a>(device: &Group<'a>) -> Result<DebugExit, GroupError<'a>> {
    device.only(&["iobase", "iosize"])?;
    // The defaults are QEMU's.
    let iobase = device.unsigned("iobase", 16)?.unwrap_or(0x501) as u16;
    let iosize = device.unsigned("iosize", 8)?.unwrap_or(2) as u8;
    Ok(DebugExit { iobase, iosize })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        let mut line = line.as_bytes().to_vec();
        check(&Options::parse(&mut line)).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn what_is_not_there_is_named() {
        for (line, text) in [
            ("-device isa-debug-exit,iobase=0xf4,iosize=4,id=exit", ""),
            ("-device pc-testdev", ""),
            ("-device pc-testdev,x=1", "-device pc-testdev: Property '.x' not found"),
            ("-device foo", "-device foo: 'foo' is not a valid device model name"),
            ("-device id=x", "-device: Parameter 'driver' is missing"),
            ("-device driver=vfio-pci", "-device vfio-pci: 'vfio-pci' is not supported yet"),
            ("-device isa-debug-exit,port=1", "-device isa-debug-exit: Property '.port' not found"),
            (
                "-device isa-debug-exit,iobase=65536",
                "-device isa-debug-exit: Parameter 'iobase' expects uint16_t",
            ),
            ("-netdev user,id=n", "-netdev user: 'user' is not supported yet"),
            ("-netdev wire,id=n", "-netdev wire: 'wire' is not a valid netdev backend type"),
            ("-netdev hubport,id=n", "-netdev hubport: Parameter 'hubid' is missing"),
            ("-netdev hubport,hubid=0", "-netdev hubport: Parameter 'id' is missing"),
            ("-netdev hubport,id=n,hubid=x", "-netdev hubport: Parameter 'hubid' expects uint32_t"),
            ("-netdev hubport,id=n,hubid=0,vlan=1", "-netdev hubport: Invalid parameter 'vlan'"),
            (
                "-netdev hubport,id=n,hubid=0,queues=8",
                "-netdev hubport: Parameter 'queues' expects a number from 1 to 7",
            ),
            (
                "-netdev hubport,id=n,hubid=0,queues=4 -device virtio-net-pci,netdev=n,mq=on,vectors=10,mac=52:54:00:00:00:01,\
                 csum=off,host_ufo=off",
                "",
            ),
            ("-device virtio-net-pci,macc=1", "-device virtio-net-pci: Property '.macc' not found"),
            ("-device virtio-net-pci,host_ufo=on", "-device virtio-net-pci: 'on' is not supported yet"),
            (
                "-device virtio-net-pci,mac=52:54",
                "-device virtio-net-pci: Parameter 'mac' expects an Ethernet address",
            ),
            (
                "-device virtio-net-pci,vectors=18",
                "-device virtio-net-pci: Parameter 'vectors' expects a number from 0 to 17",
            ),
            (
                "-device virtio-net-pci,host_mtu=67",
                "-device virtio-net-pci: Parameter 'host_mtu' expects a number from 68 on",
            ),
            ("-drive file=x,id=d,format=qcow2", "-drive d: 'qcow2' is not supported yet"),
            ("-drive file=x,id=d,format=zip", "-drive d: 'zip' is not a valid format"),
            ("-drive file=x,id=d,if=ide", "-drive d: 'ide' is not supported yet"),
            ("-drive id=d,if=none", "-drive d: Parameter 'file' is missing"),
            ("-drive file=x,id=d,cache=none,rerror=stop,werror=enospc,node-name=n0,read-only=off", ""),
            ("-drive file=x,id=d,werror=never", "-drive d: 'never' is not a valid werror"),
            ("-drive file=x,id=d,rerror=enospc", "-drive d: 'enospc' is not a valid read error action"),
            ("-drive file=x,id=d,cache=", "-drive d: '' is not a valid cache"),
            ("-drive file=x,id=d,node-name=", "-drive d: Parameter 'node-name' expects 1 to 31 bytes"),
            ("-drive file=x,id=d,fyle=y", "-drive d: Invalid parameter 'fyle'"),
            ("-drive file=x,id=d,snapshot=maybe", "-drive d: Parameter 'snapshot' expects 'on' or 'off'"),
            (
                "-drive file=x,if=none,id=d,readonly,snapshot=on,serial=a,,b -device virtio-blk-pci,drive=d,addr=1f",
                "",
            ),
            ("-device virtio-blk-pci,dryve=d", "-device virtio-blk-pci: Property '.dryve' not found"),
            (
                "-device virtio-blk-pci,num-queues=17",
                "-device virtio-blk-pci: Parameter 'num-queues' expects a number from 1 to 16",
            ),
            (
                "-device virtio-blk-pci,logical_block_size=1000",
                "-device virtio-blk-pci: Parameter 'logical_block_size' expects a power of 2 between 512 and 32768",
            ),
            ("-device virtio-blk-pci,addr=5.1", "-device virtio-blk-pci: Parameter 'addr' expects int32"),
            (
                "-device virtio-blk-pci,disable-legacy=off",
                "-device virtio-blk-pci: 'off' is not supported yet",
            ),
            ("-device isa-debug-exit,id=9", "-device isa-debug-exit: Parameter 'id' expects an identifier"),
        ] {
            assert_eq!(error(line), text, "{line}");
        }
    }

    #[test]
    fn the_last_debug_exit_counts() {
        let mut line = b"-device isa-debug-exit -device isa-debug-exit,iobase=0xf4,iosize=4".to_vec();
        let options = Options::parse(&mut line);
        assert_eq!(debug_exit(&options), Some(DebugExit { iobase: 0xf4, iosize: 4 }));
    }
}
