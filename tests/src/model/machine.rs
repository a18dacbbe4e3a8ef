//! What machine it is, and its CPUs.

use monovisor_core::handlers::{Cpus, Element, Machine, Poll};
use monovisor_core::schema::List;
use monovisor_core::schema::cpu::CpuDefinitionInfo;
use monovisor_core::schema::cpu::{
    CpuAddArgs, CpuArgs, CpuInfo, CpuInfoArch, CpuInfoBranch, CpuInfoX86, CpuInstanceProperties,
    HotpluggableCpu,
};
use monovisor_core::schema::machine::{AcpiOstInfo, KvmInfo, MachineInfo, TargetInfo, UuidInfo};
use monovisor_core::schema::misc::{
    CommandLineOptionInfo, CommandLineParameterInfo, CommandLineParameterType, IoThreadInfo, NameInfo,
    QueryCommandLineOptionsArgs,
};
use monovisor_core::{Context, Error};

use super::Model;

/// A CPU.
#[derive(Debug)]
pub(super) struct Cpu {
    index: usize,
    path: String,
    pc: i64,
}

/// A parameter of an option.
const fn parameter(name: &'static str, kind: CommandLineParameterType) -> CommandLineParameterInfo<'static> {
    CommandLineParameterInfo { name, kind, help: None, default: None }
}

/// The options that the model is made by, as [`super::Options`] has them.
const OPTIONS: &[(&str, &[CommandLineParameterInfo<'static>])] = &[
    ("memory", {
        use CommandLineParameterType::{Number, Size};
        &[parameter("maxmem", Size), parameter("slots", Number), parameter("size", Size)]
    }),
    ("smp-opts", {
        use CommandLineParameterType::Number;
        &[parameter("maxcpus", Number), parameter("cpus", Number)]
    }),
    ("name", &[parameter("guest", CommandLineParameterType::String)]),
];

/// The address of the first instruction.
const RESET_VECTOR: i64 = 0xffff_fff0;
/// Number of the model's only thread.
const THREAD: i64 = 1;
/// The only CPU model.
pub(super) const CPU_TYPE: &str = "qemu64-x86_64-cpu";

/// The CPUs at the start.
pub(super) fn cpus(count: usize) -> Vec<Cpu> {
    (0..count).map(|index| cpu(index, if index == 0 { 0 } else { index + 1 })).collect()
}

fn cpu(index: usize, device: usize) -> Cpu {
    Cpu { index, path: format!("/machine/unattached/device[{device}]"), pc: RESET_VECTOR }
}

impl Model {
    /// The type of the machine.
    pub(super) const MACHINE_TYPE: &str = "pc-i440fx-2.8-machine";

    fn has_cpu(&self, index: i64) -> bool {
        self.cpus.iter().any(|cpu| cpu.index as i64 == index)
    }
}

impl Machine for Model {
    fn query_name(&mut self, _: &mut Context<'_>) -> Poll<NameInfo<'_>> {
        Ok(NameInfo { name: self.options.name.as_deref() })
    }

    fn query_uuid(&mut self, _: &mut Context<'_>) -> Poll<UuidInfo<'_>> {
        Ok(UuidInfo { uuid: &self.options.uuid })
    }

    fn query_kvm(&mut self, _: &mut Context<'_>) -> Poll<KvmInfo> {
        Ok(KvmInfo { enabled: false, present: false })
    }

    fn query_target(&mut self, _: &mut Context<'_>) -> Poll<TargetInfo<'_>> {
        Ok(TargetInfo { arch: "x86_64" })
    }

    fn query_machines(&mut self, index: usize, _: &mut Context<'_>) -> Element<MachineInfo<'_>> {
        const PC: MachineInfo<'_> = MachineInfo {
            name: "pc-i440fx-2.8",
            alias: Some("pc"),
            is_default: Some(true),
            cpu_max: 255,
            hotpluggable_cpus: true,
        };
        Ok((index == 0).then_some(PC))
    }

    fn query_cpu_definitions(&mut self, index: usize, _: &mut Context<'_>) -> Element<CpuDefinitionInfo<'_>> {
        Ok((index == 0).then_some(CpuDefinitionInfo {
            name: "qemu64",
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
        let wanted = |option: &&(&str, _)| arguments.option.is_none_or(|name| name == option.0);
        if let Some(name) = arguments.option
            && !OPTIONS.iter().any(|option| option.0 == name)
        {
            return Err(Error::generic(format_args!("invalid option name: {name}")));
        }
        Ok(OPTIONS.iter().filter(wanted).nth(index).map(|&(option, parameters)| CommandLineOptionInfo {
            option,
            parameters: List::Slice(parameters),
        }))
    }

    fn query_acpi_ospm_status(&mut self, _: usize, _: &mut Context<'_>) -> Element<AcpiOstInfo<'_>> {
        Ok(None)
    }

    fn query_iothreads(&mut self, index: usize, _: &mut Context<'_>) -> Element<IoThreadInfo<'_>> {
        let mut threads = self.objects.iter().filter(|object| object.kind == "iothread");
        Ok(threads.nth(index).map(|object| IoThreadInfo { id: &object.id, thread_id: THREAD }))
    }

    fn rtc_reset_reinjection(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Ok(())
    }
}

impl Cpus for Model {
    fn query_cpus(&mut self, index: usize, _: &mut Context<'_>) -> Element<CpuInfo<'_>> {
        Ok(self.cpus.get(index).map(|cpu| CpuInfo {
            cpu: cpu.index as i64,
            // It is the first one that QEMU 2.8 means by this, whatever `cpu` has set.
            current: cpu.index == 0,
            halted: cpu.index != 0,
            qom_path: &cpu.path,
            thread_id: THREAD,
            arch: CpuInfoArch::X86,
            branch: CpuInfoBranch::X86(CpuInfoX86 { pc: cpu.pc }),
        }))
    }

    fn cpu(&mut self, arguments: CpuArgs, cx: &mut Context<'_>) -> Poll<()> {
        match usize::try_from(arguments.index) {
            Ok(index) if self.has_cpu(arguments.index) => cx.cpu = index,
            _ => return Err(nb::Error::Other(Error::expects("index", "a CPU number"))),
        }
        Ok(())
    }

    fn cpu_add(&mut self, arguments: CpuAddArgs, _: &mut Context<'_>) -> Poll<()> {
        let id = arguments.id;
        let refused = if id < 0 {
            Error::generic(format_args!("Invalid CPU id: {id}"))
        } else if self.has_cpu(id) {
            Error::generic(format_args!("CPU[{id}] with APIC ID {id} exists"))
        } else {
            match usize::try_from(id) {
                Ok(index) if index < self.options.max_cpus => {
                    self.cpus.push(cpu(index, self.cpus.len() + 32));
                    self.cpus.sort_by_key(|cpu| cpu.index);
                    return Ok(());
                }
                _ => Error::generic(format_args!(
                    "Invalid CPU [socket: {id}, core: 0, thread: 0] with APIC ID {id}, valid index range 0:{}",
                    self.options.max_cpus - 1
                )),
            }
        };
        Err(nb::Error::Other(refused))
    }

    fn query_hotpluggable_cpus(&mut self, index: usize, _: &mut Context<'_>) -> Element<HotpluggableCpu<'_>> {
        // The last place comes first.
        let Some(place) = self.options.max_cpus.checked_sub(index + 1) else { return Ok(None) };
        let plugged = self.cpus.iter().find(|cpu| cpu.index == place);
        Ok(Some(HotpluggableCpu {
            kind: CPU_TYPE,
            vcpus_count: 1,
            props: CpuInstanceProperties {
                node_id: None,
                socket_id: Some(place as i64),
                core_id: Some(0),
                thread_id: Some(0),
            },
            qom_path: plugged.map(|cpu| cpu.path.as_str()),
        }))
    }
}
