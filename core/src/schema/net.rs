//! Network devices and back ends.

use super::value::List;

types! {
    /// How much a receive filter lets through.
    enum RxState {
        Normal = "normal",
        None = "none",
        All = "all",
    }

    /// The receive filter of a network device.
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
    /// Plugs or unplugs the cable of a network device.
    SET_LINK = "set_link"(SetLinkArgs<'a> {
        name: &'a str,
        up: bool,
    });

    /// Makes a network back end. Besides the members below it takes the options of the back end.
    NETDEV_ADD = "netdev_add" free(NetdevAddArgs<'a> {
        kind as "type": &'a str,
        id: &'a str,
    });

    /// Removes a network back end.
    NETDEV_DEL = "netdev_del"(NetdevDelArgs<'a> {
        id: &'a str,
    });

    /// Lists the receive filters, and has NIC_RX_FILTER_CHANGED sent again.
    QUERY_RX_FILTER = "query-rx-filter"(QueryRxFilterArgs<'a> {
        name: Option<&'a str>,
    }) -> [RxFilterInfo];
}

events! {
    /// A guest has changed a receive filter. Sent once until `query-rx-filter` is run.
    NIC_RX_FILTER_CHANGED = NicRxFilterChanged<'a> {
        name: Option<&'a str>,
        path: &'a str,
    };
}
