//! What machine this is: its name and model, its processors, the options that made it.

use monovisor_core::Context;
use monovisor_core::Error;
use monovisor_core::handlers::{Cpus, Element, Machine, Poll};
use monovisor_core::schema::cpu::{
    CpuArgs, CpuDefinitionInfo, CpuInfo, CpuInfoArch, CpuInfoBranch, CpuInfoX86,
};
use monovisor_core::schema::machine::{AcpiOstInfo, KvmInfo, MachineInfo, TargetInfo, UuidInfo};
use monovisor_core::schema::misc::{
    CommandLineOptionInfo, CommandLineParameterInfo, CommandLineParameterType, IoThreadInfo, NameInfo,
    QueryCommandLineOptionsArgs,
};
use monovisor_core::schema::pci::PciInfo;
use monovisor_core::schema::{List, Source};
use monovisor_loader::options::{self, OptionInfo, Parameter, ParameterType};

use crate::hypervisor::Hypervisor;
use crate::machine::MAX_CPUS;

/// The only machine type.
pub(crate) const MACHINE: &str = "pc";

/// The CPU models: what the rig's processor has and can be passed on, and the least that 64-bit systems expect.
const CPU_MODELS: [&str; 2] = ["host", "base"];

/// Where the processors are in the tree of objects.
const QOM_PATHS: [&str; MAX_CPUS as usize] = [
    "/machine/unattached/device[0]",
    "/machine/unattached/device[1]",
    "/machine/unattached/device[2]",
    "/machine/unattached/device[3]",
    "/machine/unattached/device[4]",
    "/machine/unattached/device[5]",
    "/machine/unattached/device[6]",
    "/machine/unattached/device[7]",
];

/// The parameters of an option.
pub(crate) struct Parameters(&'static [Parameter]);

impl Parameters {
    /// Of no option.
    pub(crate) const NONE: Self = Self(&[]);
}

impl<'a> Source<'a, CommandLineParameterInfo<'a>> for Parameters {
    fn item(&'a self, index: usize) -> Option<CommandLineParameterInfo<'a>> {
        let parameter = self.0.iter().rev().nth(index)?;
        Some(CommandLineParameterInfo {
            name: parameter.name,
            kind: match parameter.kind {
                ParameterType::String => CommandLineParameterType::String,
                ParameterType::Boolean => CommandLineParameterType::Boolean,
                ParameterType::Number => CommandLineParameterType::Number,
                ParameterType::Size => CommandLineParameterType::Size,
            },
            help: Some(parameter.help).filter(|help| !help.is_empty()),
            default: parameter.default,
        })
    }
}

/// The option group of this index, the last one first as QEMU lists them; of those named `wanted`, where it is given.
fn option(wanted: Option<&str>, index: usize) -> Result<Option<&'static OptionInfo>, Error> {
    let all = || options::groups().filter(|option| wanted.is_none_or(|wanted| wanted == option.group));
    let count = all().count();
    if let (Some(wanted), 0) = (wanted, count) {
        return Err(Error::generic(format_args!("invalid option name: {wanted}")));
    }
    let Some(place) = count.checked_sub(1).and_then(|last| last.checked_sub(index)) else { return Ok(None) };
    Ok(all().nth(place))
}

impl Machine for Hypervisor<'_> {
    fn query_name(&mut self, _: &mut Context<'_>) -> Poll<NameInfo<'_>> {
        Ok(NameInfo { name: self.launch.options.name })
    }

    fn query_uuid(&mut self, _: &mut Context<'_>) -> Poll<UuidInfo<'_>> {
        Ok(UuidInfo { uuid: self.launch.uuid() })
    }

    fn query_kvm(&mut self, _: &mut Context<'_>) -> Poll<KvmInfo> {
        // Neither Linux nor its KVM is on this host.
        Ok(KvmInfo { enabled: false, present: false })
    }

    fn query_target(&mut self, _: &mut Context<'_>) -> Poll<TargetInfo<'_>> {
        Ok(TargetInfo { arch: "x86_64" })
    }

    fn query_machines(&mut self, index: usize, _: &mut Context<'_>) -> Element<MachineInfo<'_>> {
        Ok((index == 0).then_some(MachineInfo {
            name: MACHINE,
            alias: None,
            is_default: Some(true),
            cpu_max: MAX_CPUS.into(),
            hotpluggable_cpus: false,
        }))
    }

    fn query_cpu_definitions(&mut self, index: usize, _: &mut Context<'_>) -> Element<CpuDefinitionInfo<'_>> {
        Ok(CPU_MODELS.get(index).map(|name| CpuDefinitionInfo {
            name,
            migration_safe: None,
            is_static: false,
            unavailable_features: Some(List::EMPTY),
        }))
    }

    fn query_command_line_options(
        &mut self,
        arguments: QueryCommandLineOptionsArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<CommandLineOptionInfo<'_>> {
        let Some(option) = option(arguments.option, index)? else { return Ok(None) };
        self.parameters = Parameters(option.parameters);
        Ok(Some(CommandLineOptionInfo { option: option.group, parameters: List::From(&self.parameters) }))
    }

    fn query_acpi_ospm_status(&mut self, _: usize, _: &mut Context<'_>) -> Element<AcpiOstInfo<'_>> {
        // No slot of the guest's tables has a `_OST` method.
        Ok(None)
    }

    fn query_iothreads(&mut self, _: usize, _: &mut Context<'_>) -> Element<IoThreadInfo<'_>> {
        Ok(None)
    }

    fn query_pci(&mut self, index: usize, _: &mut Context<'_>) -> Element<PciInfo<'_>> {
        let Some(guest) = self.guest.as_mut().filter(|_| index == 0) else { return Ok(None) };
        let functions = &mut *self.pci;
        guest.devices(&mut |devices| functions.fill(&devices.pc));
        Ok(Some(PciInfo { bus: 0, devices: List::From(&*self.pci) }))
    }
}

impl Cpus for Hypervisor<'_> {
    fn query_cpus(&mut self, index: usize, _: &mut Context<'_>) -> Element<CpuInfo<'_>> {
        let Some((pc, halted)) = self.guest.as_ref().and_then(|guest| guest.cpu(index)) else {
            return Ok(None);
        };
        Ok(Some(CpuInfo {
            cpu: index as i64,
            current: index == 0,
            halted,
            qom_path: QOM_PATHS.get(index).copied().unwrap_or_default(),
            // No threads here: the number of the physical processor, from 1 as thread ids are.
            thread_id: index as i64 + 1,
            arch: CpuInfoArch::X86,
            branch: CpuInfoBranch::X86(CpuInfoX86 { pc: pc.cast_signed() }),
        }))
    }

    fn cpu(&mut self, arguments: CpuArgs, cx: &mut Context<'_>) -> Poll<()> {
        match usize::try_from(arguments.index) {
            Ok(index) if index < self.processors() => {
                cx.cpu = index;
                Ok(())
            }
            _ => Err(nb::Error::Other(Error::expects("index", "a CPU number"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_as_qemu_lists_them() {
        let all: Vec<_> = (0..).map_while(|index| option(None, index).unwrap()).map(|o| o.group).collect();
        let mut forwards: Vec<_> = options::groups().map(|option| option.group).collect();
        forwards.reverse();
        assert_eq!(all, forwards);
        assert!(all.contains(&"memory"));
        assert_eq!(option(Some("memory"), 0).unwrap().map(|option| option.name), Some("m"));
        assert_eq!(option(Some("memory"), 1).unwrap(), None);
        assert_eq!(option(Some("nope"), 0).unwrap_err().description(), "invalid option name: nope");
        // `-uuid` is no group of QEMU's.
        assert!(option(Some("uuid"), 0).is_err() && option(Some(""), 0).is_err());
    }
}
