//! Virtual CPUs: what they are, models, hot-plug, NMI.

use super::value::{Any, List};

types! {
    /// Which architecture a CPU is of.
    enum CpuInfoArch {
        X86 = "x86",
        Sparc = "sparc",
        Ppc = "ppc",
        Mips = "mips",
        Tricore = "tricore",
        Other = "other",
    }

    /// A virtual CPU.
    union CpuInfo<'a> {
        base {
            /// Its index.
            cpu as "CPU": i64,
            /// Whether commands of the human monitor are about this one.
            current: bool,
            /// Whether it waits for an interrupt.
            halted: bool,
            /// Its path in the object model.
            qom_path: &'a str,
            /// The host's thread that runs it.
            thread_id: i64,
            arch: CpuInfoArch,
        }
        match "arch" => branch: CpuInfoBranch {
            X86(CpuInfoX86) = "x86",
            Sparc(CpuInfoSparc) = "sparc",
            Ppc(CpuInfoPpc) = "ppc",
            Mips(CpuInfoMips) = "mips",
            Tricore(CpuInfoTricore) = "tricore",
            Other(CpuInfoOther) = "other",
        }
    }

    /// What x86 adds.
    struct CpuInfoX86 {
        /// Linear address of the next instruction.
        pc: i64,
    }

    /// What SPARC adds.
    struct CpuInfoSparc {
        pc: i64,
        npc: i64,
    }

    /// What PowerPC adds.
    struct CpuInfoPpc {
        nip: i64,
    }

    /// What MIPS adds.
    struct CpuInfoMips {
        pc as "PC": i64,
    }

    /// What TriCore adds.
    struct CpuInfoTricore {
        pc as "PC": i64,
    }

    /// Architectures that add nothing.
    struct CpuInfoOther {}

    /// A CPU model.
    struct CpuDefinitionInfo<'a> {
        name: &'a str,
        /// Whether it is the same on every host.
        migration_safe as "migration-safe": Option<bool>,
        /// Whether it never changes.
        is_static as "static": bool,
        /// What this host lacks for it; absent where unknown.
        unavailable_features as "unavailable-features": Option<List<'a, &'a str>>,
    }

    /// A CPU model with changes to it.
    struct CpuModelInfo<'a> {
        name: &'a str,
        props: Option<Any<'a>>,
    }

    /// How far a model is spelled out.
    enum CpuModelExpansionType {
        Static = "static",
        Full = "full",
    }

    /// A model, spelled out.
    struct CpuModelExpansionInfo<'a> {
        model: CpuModelInfo<'a>,
    }

    /// How two models compare.
    enum CpuModelCompareResult {
        Incompatible = "incompatible",
        Identical = "identical",
        Superset = "superset",
        Subset = "subset",
    }

    /// The comparison of two models.
    struct CpuModelCompareInfo<'a> {
        result: CpuModelCompareResult,
        /// What makes them differ.
        responsible_properties as "responsible-properties": List<'a, &'a str>,
    }

    /// A model that runs wherever two others do.
    struct CpuModelBaselineInfo<'a> {
        model: CpuModelInfo<'a>,
    }

    /// The place of a CPU in the machine.
    struct CpuInstanceProperties {
        node_id as "node-id": Option<i64>,
        socket_id as "socket-id": Option<i64>,
        core_id as "core-id": Option<i64>,
        thread_id as "thread-id": Option<i64>,
    }

    /// A place for a CPU, taken or free.
    struct HotpluggableCpu<'a> {
        kind as "type": &'a str,
        vcpus_count as "vcpus-count": i64,
        props: CpuInstanceProperties,
        /// Absent where nothing is plugged.
        qom_path as "qom-path": Option<&'a str>,
    }
}

commands! {
    /// Lists the virtual CPUs.
    QUERY_CPUS = "query-cpus" -> [CpuInfo];

    /// Sets the CPU that commands of the human monitor are about.
    CPU = "cpu"(CpuArgs {
        index: i64,
    });

    /// Plugs a virtual CPU.
    CPU_ADD = "cpu-add"(CpuAddArgs {
        id: i64,
    });

    /// Sends a non-maskable interrupt to all virtual CPUs.
    INJECT_NMI = "inject-nmi";

    /// Lists the CPU models.
    QUERY_CPU_DEFINITIONS = "query-cpu-definitions" -> [CpuDefinitionInfo];

    /// Spells out a CPU model.
    QUERY_CPU_MODEL_EXPANSION = "query-cpu-model-expansion"(QueryCpuModelExpansionArgs<'a> {
        kind as "type": CpuModelExpansionType,
        model: CpuModelInfo<'a>,
    }) -> CpuModelExpansionInfo;

    /// Compares two CPU models.
    QUERY_CPU_MODEL_COMPARISON = "query-cpu-model-comparison"(QueryCpuModelComparisonArgs<'a> {
        modela: CpuModelInfo<'a>,
        modelb: CpuModelInfo<'a>,
    }) -> CpuModelCompareInfo;

    /// Finds a model that runs wherever two others do.
    QUERY_CPU_MODEL_BASELINE = "query-cpu-model-baseline"(QueryCpuModelBaselineArgs<'a> {
        modela: CpuModelInfo<'a>,
        modelb: CpuModelInfo<'a>,
    }) -> CpuModelBaselineInfo;

    /// Lists the places for CPUs.
    QUERY_HOTPLUGGABLE_CPUS = "query-hotpluggable-cpus" -> [HotpluggableCpu];
}

events! {}
