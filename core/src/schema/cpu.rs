//! cpu

use super::value::{Any, List};

types! {
    /// `CpuInfoArch`.
    enum CpuInfoArch {
        X86 = "x86",
        Sparc = "sparc",
        Ppc = "ppc",
        Mips = "mips",
        Tricore = "tricore",
        Other = "other",
    }

    /// `CpuInfo`.
    union CpuInfo<'a> {
        base {
            cpu as "CPU": i64,
            current: bool,
            halted: bool,
            qom_path: &'a str,
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

    /// `CpuInfoX86`.
    struct CpuInfoX86 {
        pc: i64,
    }

    /// `CpuInfoSPARC`.
    struct CpuInfoSparc {
        pc: i64,
        npc: i64,
    }

    /// `CpuInfoPPC`.
    struct CpuInfoPpc {
        nip: i64,
    }

    /// `CpuInfoMIPS`.
    struct CpuInfoMips {
        pc as "PC": i64,
    }

    /// `CpuInfoTricore`.
    struct CpuInfoTricore {
        pc as "PC": i64,
    }

    /// `CpuInfoOther`.
    struct CpuInfoOther {}

    /// `CpuDefinitionInfo`.
    struct CpuDefinitionInfo<'a> {
        name: &'a str,
        migration_safe as "migration-safe": Option<bool>,
        is_static as "static": bool,
        unavailable_features as "unavailable-features": Option<List<'a, &'a str>>,
    }

    /// `CpuModelInfo`.
    struct CpuModelInfo<'a> {
        name: &'a str,
        props: Option<Any<'a>>,
    }

    /// `CpuModelExpansionType`.
    enum CpuModelExpansionType {
        Static = "static",
        Full = "full",
    }

    /// `CpuModelExpansionInfo`.
    struct CpuModelExpansionInfo<'a> {
        model: CpuModelInfo<'a>,
    }

    /// `CpuModelCompareResult`.
    enum CpuModelCompareResult {
        Incompatible = "incompatible",
        Identical = "identical",
        Superset = "superset",
        Subset = "subset",
    }

    /// `CpuModelCompareInfo`.
    struct CpuModelCompareInfo<'a> {
        result: CpuModelCompareResult,
        responsible_properties as "responsible-properties": List<'a, &'a str>,
    }

    /// `CpuModelBaselineInfo`.
    struct CpuModelBaselineInfo<'a> {
        model: CpuModelInfo<'a>,
    }

    /// `CpuInstanceProperties`.
    struct CpuInstanceProperties {
        node_id as "node-id": Option<i64>,
        socket_id as "socket-id": Option<i64>,
        core_id as "core-id": Option<i64>,
        thread_id as "thread-id": Option<i64>,
    }

    /// `HotpluggableCPU`.
    struct HotpluggableCpu<'a> {
        kind as "type": &'a str,
        vcpus_count as "vcpus-count": i64,
        props: CpuInstanceProperties,
        qom_path as "qom-path": Option<&'a str>,
    }
}

commands! {
    /// `query-cpus`.
    QUERY_CPUS = "query-cpus" -> [CpuInfo];

    /// `cpu`.
    CPU = "cpu"(CpuArgs {
        index: i64,
    });

    /// `cpu-add`.
    CPU_ADD = "cpu-add"(CpuAddArgs {
        id: i64,
    });

    /// `inject-nmi`.
    INJECT_NMI = "inject-nmi";

    /// `query-cpu-definitions`.
    QUERY_CPU_DEFINITIONS = "query-cpu-definitions" -> [CpuDefinitionInfo];

    /// `query-cpu-model-expansion`.
    QUERY_CPU_MODEL_EXPANSION = "query-cpu-model-expansion"(QueryCpuModelExpansionArgs<'a> {
        kind as "type": CpuModelExpansionType,
        model: CpuModelInfo<'a>,
    }) -> CpuModelExpansionInfo;

    /// `query-cpu-model-comparison`.
    QUERY_CPU_MODEL_COMPARISON = "query-cpu-model-comparison"(QueryCpuModelComparisonArgs<'a> {
        modela: CpuModelInfo<'a>,
        modelb: CpuModelInfo<'a>,
    }) -> CpuModelCompareInfo;

    /// `query-cpu-model-baseline`.
    QUERY_CPU_MODEL_BASELINE = "query-cpu-model-baseline"(QueryCpuModelBaselineArgs<'a> {
        modela: CpuModelInfo<'a>,
        modelb: CpuModelInfo<'a>,
    }) -> CpuModelBaselineInfo;

    /// `query-hotpluggable-cpus`.
    QUERY_HOTPLUGGABLE_CPUS = "query-hotpluggable-cpus" -> [HotpluggableCpu];
}

events! {}
