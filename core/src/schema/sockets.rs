//! sockets

use super::common::StringWrapper;

types! {
    /// `NetworkAddressFamily`.
    enum NetworkAddressFamily {
        Ipv4 = "ipv4",
        Ipv6 = "ipv6",
        Unix = "unix",
        Vsock = "vsock",
        Unknown = "unknown",
    }

    /// `InetSocketAddress`.
    struct InetSocketAddress<'a> {
        host: &'a str,
        port: &'a str,
        to: Option<u16>,
        ipv4: Option<bool>,
        ipv6: Option<bool>,
    }

    /// `UnixSocketAddress`.
    struct UnixSocketAddress<'a> {
        path: &'a str,
    }

    /// `VsockSocketAddress`.
    struct VsockSocketAddress<'a> {
        cid: &'a str,
        port: &'a str,
    }

    /// `SocketAddress`.
    simple SocketAddress<'a>: SocketAddressKind {
        Inet(InetSocketAddress<'a>) = "inet",
        Unix(UnixSocketAddress<'a>) = "unix",
        Vsock(VsockSocketAddress<'a>) = "vsock",
        Fd(StringWrapper<'a>) = "fd",
    }
}

commands! {}

events! {}
