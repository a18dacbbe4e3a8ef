//! net

use super::value::List;

types! {
    /// `RxState`.
    enum RxState {
        Normal = "normal",
        None = "none",
        All = "all",
    }

    /// `RxFilterInfo`.
    struct RxFilterInfo<'a> {
        name: &'a str,
        promiscuous: bool,
        multicast: RxState,
        unicast: RxState,
        vlan: RxState,
        broadcast_allowed as "broadcast-allowed": bool,
        multicast_overflow as "multicast-overflow": bool,
        unicast_overflow as "unicast-overflow": bool,
        main_mac as "main-mac": &'a str,
        vlan_table as "vlan-table": List<'a, i64>,
        unicast_table as "unicast-table": List<'a, &'a str>,
        multicast_table as "multicast-table": List<'a, &'a str>,
    }
}

commands! {
    /// `set_link`.
    SET_LINK = "set_link"(SetLinkArgs<'a> {
        name: &'a str,
        up: bool,
    });

    /// `netdev_add`.
    NETDEV_ADD = "netdev_add" free(NetdevAddArgs<'a> {
        kind as "type": &'a str,
        id: &'a str,
    });

    /// `netdev_del`.
    NETDEV_DEL = "netdev_del"(NetdevDelArgs<'a> {
        id: &'a str,
    });

    /// `query-rx-filter`.
    QUERY_RX_FILTER = "query-rx-filter"(QueryRxFilterArgs<'a> {
        name: Option<&'a str>,
    }) -> [RxFilterInfo];
}

events! {
    /// `NIC_RX_FILTER_CHANGED`.
    NIC_RX_FILTER_CHANGED = NicRxFilterChanged<'a> {
        name: Option<&'a str>,
        path: &'a str,
    };
}
