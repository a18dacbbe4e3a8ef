//! The object model: reading what the machine is made of.

use core::fmt::Write;

use heapless::{String, Vec};
use monovisor_arch::layout;
use monovisor_core::handlers::{Element, Objects, Poll};
use monovisor_core::json::Value as JsonValue;
use monovisor_core::schema::Any;
use monovisor_core::schema::qom::{
    DeviceListPropertiesArgs, DevicePropertyInfo, ObjectPropertyInfo, ObjectTypeInfo, QomGetArgs,
    QomListArgs, QomListTypesArgs, QomSetArgs,
};
use monovisor_core::{Context, Error};
use monovisor_devices::Pc;
use monovisor_devices::pc::MAX_FUNCTIONS;
use monovisor_loader::Options;

use crate::configure;
use crate::hypervisor::Hypervisor;
use crate::machine::{HAS_HPET, HAS_I8042};
use crate::qom::{DEVICE, GuestStats, Machine, POLLING_INTERVAL, Placed, TYPES, Tree, Type, Value};
use crate::virtio;

/// Longest name of a child, and longest type of one, in bytes; a file's name is longer than any of them.
const NAME_BYTES: usize = monovisor_store::MAX_NAME;

/// What a reply is made of while it is written.
pub(crate) struct Reply {
    name: String<NAME_BYTES>,
    kind: String<NAME_BYTES>,
    value: Value,
}

impl Reply {
    /// Nothing.
    pub(crate) const NONE: Self =
        Self { name: String::new(), kind: String::new(), value: Value::Bool(false) };

    /// Keeps a name until it has been sent.
    pub(crate) fn keep_name(&mut self, name: &str) -> &str {
        self.name.clear();
        // Every name fits.
        let _ = self.name.push_str(name);
        &self.name
    }
}

impl Hypervisor<'_> {
    fn tree(&mut self) -> Tree {
        let options = &self.launch.options;
        let (kernel, initrd) = (options.kernel.unwrap_or_default(), options.initrd.unwrap_or_default());
        let append = options.append;
        let test_device = configure::has_test_device(options);
        let processors = self.processors() as u8;
        let mut config = None;
        let mut devices = Vec::new();
        if let Some(guest) = &mut self.guest {
            guest.devices(&mut |machine| {
                config = Some(*machine.pc.config());
                devices = placed(options, &machine.pc);
            });
        }
        let guest_stats = self.with_balloon(|balloon, _| {
            let (values, updated) = balloon.statistics();
            GuestStats { values, updated, interval: balloon.interval() }
        });
        Tree::new(Machine {
            kernel,
            initrd,
            append,
            processors,
            tsc_hz: config.map_or(0, |config| config.tsc_hz),
            i8042: HAS_I8042,
            hpet: HAS_HPET,
            debug_exit: config.and_then(|config| config.debug_exit),
            test_device,
            devices,
            guest_stats: guest_stats.unwrap_or_default(),
        })
    }

    /// Has the guest asked for statistics of its memory every so many seconds; 0: not any more.
    fn set_polling(&mut self, value: Any<'_>) -> Result<(), Error> {
        let Any::Value(JsonValue::Int(seconds)) = value else {
            return Err(Error::generic(format_args!(
                "Invalid parameter type for '{POLLING_INTERVAL}', expected: integer"
            )));
        };
        if seconds < 0 {
            return Err(Error::text("timer value must be greater than zero"));
        }
        let seconds = u32::try_from(seconds).map_err(|_| Error::text("timer value is too big"))?;
        self.with_balloon(|balloon, cx| balloon.set_interval(seconds.into(), cx.now()))
    }
}

/// What is on the bus of what the command line asks for.
fn placed(options: &Options<'static>, pc: &Pc) -> Vec<Placed, MAX_FUNCTIONS> {
    let mut slots =
        pc.pci_functions().filter(|function| function.address.slot >= layout::PCI_SLOT_FIRST_FREE);
    let mut all = Vec::new();
    virtio::asked(options, &mut |asked| {
        if let Some(function) = slots.next() {
            // A bus has no more than there are places for.
            let _ = all.push(Placed::new(options, &asked, function.address.slot, function.vectors));
        }
    });
    all
}

impl Objects for Hypervisor<'_> {
    fn qom_list(
        &mut self,
        arguments: QomListArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<ObjectPropertyInfo<'_>> {
        let tree = self.tree();
        let at = tree.resolve(arguments.path)?;
        let Some(object) = tree.object(at) else { return Ok(None) };
        if let Some(property) = object.kind.properties().nth(index) {
            return Ok(Some(ObjectPropertyInfo { name: property.name, kind: property.kind }));
        }
        let before = object.kind.properties().count();
        let Some(child) = tree.children(at).nth(index.saturating_sub(before)) else { return Ok(None) };
        let Reply { name, kind, .. } = &mut self.reply;
        name.clear();
        kind.clear();
        // All of them fit.
        let _ = write!(name, "{}", child.name);
        let _ = write!(kind, "child<{}>", child.kind.name);
        Ok(Some(ObjectPropertyInfo { name, kind }))
    }

    fn qom_get(&mut self, arguments: QomGetArgs<'_>, _: &mut Context<'_>) -> Poll<Any<'_>> {
        let tree = self.tree();
        let at = tree.resolve(arguments.path)?;
        self.reply.value = tree.get(at, arguments.property)?;
        Ok(Any::With(&self.reply.value))
    }

    fn qom_set(&mut self, arguments: QomSetArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let tree = self.tree();
        let at = tree.resolve(arguments.path)?;
        if arguments.property == POLLING_INTERVAL && tree.get(at, POLLING_INTERVAL).is_ok() {
            return Ok(self.set_polling(arguments.value)?);
        }
        Err(nb::Error::Other(tree.refuse(at, arguments.property)))
    }

    fn qom_list_types(
        &mut self,
        arguments: QomListTypesArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<ObjectTypeInfo<'_>> {
        let mut found = TYPES
            .iter()
            .filter(|kind| arguments.is_abstract == Some(true) || !kind.is_abstract)
            .filter(|kind| arguments.implements.is_none_or(|name| kind.is_a(name)));
        Ok(found.nth(index).map(|kind| ObjectTypeInfo { name: kind.name }))
    }

    fn device_list_properties(
        &mut self,
        arguments: DeviceListPropertiesArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<DevicePropertyInfo<'_>> {
        let name = arguments.typename;
        let kind = Type::find(name).ok_or_else(|| Error::device_not_found(name))?;
        if !kind.is_a(DEVICE.name) {
            return Err(Error::expects("name", "device"));
        }
        if kind.is_abstract {
            return Err(Error::expects("name", "non-abstract device type"));
        }
        let property = kind.device_properties().nth(index);
        Ok(property.map(|property| DevicePropertyInfo {
            name: property.name,
            kind: property.kind,
            description: None,
        }))
    }
}
