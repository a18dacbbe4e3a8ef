//! The Rocker switch device.

use super::value::List;

types! {
    /// A switch.
    struct RockerSwitch<'a> {
        name: &'a str,
        id: u64,
        ports: u32,
    }

    /// The duplex of a port.
    enum RockerPortDuplex {
        Half = "half",
        Full = "full",
    }

    /// Whether a port negotiates.
    enum RockerPortAutoneg {
        Off = "off",
        On = "on",
    }

    /// A port of a switch.
    struct RockerPort<'a> {
        name: &'a str,
        enabled: bool,
        link_up as "link-up": bool,
        speed: u32,
        duplex: RockerPortDuplex,
        autoneg: RockerPortAutoneg,
    }

    /// What a flow matches.
    struct RockerOfDpaFlowKey<'a> {
        priority: u32,
        tbl_id as "tbl-id": u32,
        in_pport as "in-pport": Option<u32>,
        tunnel_id as "tunnel-id": Option<u32>,
        vlan_id as "vlan-id": Option<u16>,
        eth_type as "eth-type": Option<u16>,
        eth_src as "eth-src": Option<&'a str>,
        eth_dst as "eth-dst": Option<&'a str>,
        ip_proto as "ip-proto": Option<u8>,
        ip_tos as "ip-tos": Option<u8>,
        ip_dst as "ip-dst": Option<&'a str>,
    }

    /// Which bits of the key count.
    struct RockerOfDpaFlowMask<'a> {
        in_pport as "in-pport": Option<u32>,
        tunnel_id as "tunnel-id": Option<u32>,
        vlan_id as "vlan-id": Option<u16>,
        eth_src as "eth-src": Option<&'a str>,
        eth_dst as "eth-dst": Option<&'a str>,
        ip_proto as "ip-proto": Option<u8>,
        ip_tos as "ip-tos": Option<u8>,
    }

    /// What a flow does.
    struct RockerOfDpaFlowAction {
        goto_tbl as "goto-tbl": Option<u32>,
        group_id as "group-id": Option<u32>,
        tunnel_lport as "tunnel-lport": Option<u32>,
        vlan_id as "vlan-id": Option<u16>,
        new_vlan_id as "new-vlan-id": Option<u16>,
        out_pport as "out-pport": Option<u32>,
    }

    /// A flow.
    struct RockerOfDpaFlow<'a> {
        cookie: u64,
        hits: u64,
        key: RockerOfDpaFlowKey<'a>,
        mask: RockerOfDpaFlowMask<'a>,
        action: RockerOfDpaFlowAction,
    }

    /// A group.
    struct RockerOfDpaGroup<'a> {
        id: u32,
        kind as "type": u8,
        vlan_id as "vlan-id": Option<u16>,
        pport: Option<u32>,
        index: Option<u32>,
        out_pport as "out-pport": Option<u32>,
        group_id as "group-id": Option<u32>,
        set_vlan_id as "set-vlan-id": Option<u16>,
        pop_vlan as "pop-vlan": Option<u8>,
        group_ids as "group-ids": Option<List<'a, u32>>,
        set_eth_src as "set-eth-src": Option<&'a str>,
        set_eth_dst as "set-eth-dst": Option<&'a str>,
        ttl_check as "ttl-check": Option<u8>,
    }
}

commands! {
    /// Describes a switch.
    QUERY_ROCKER = "query-rocker"(QueryRockerArgs<'a> {
        name: &'a str,
    }) -> RockerSwitch;

    /// Lists the ports of a switch.
    QUERY_ROCKER_PORTS = "query-rocker-ports"(QueryRockerPortsArgs<'a> {
        name: &'a str,
    }) -> [RockerPort];

    /// Lists the flows of a switch.
    QUERY_ROCKER_OF_DPA_FLOWS = "query-rocker-of-dpa-flows"(QueryRockerOfDpaFlowsArgs<'a> {
        name: &'a str,
        tbl_id as "tbl-id": Option<u32>,
    }) -> [RockerOfDpaFlow];

    /// Lists the groups of a switch.
    QUERY_ROCKER_OF_DPA_GROUPS = "query-rocker-of-dpa-groups"(QueryRockerOfDpaGroupsArgs<'a> {
        name: &'a str,
        kind as "type": Option<u8>,
    }) -> [RockerOfDpaGroup];
}

events! {}
