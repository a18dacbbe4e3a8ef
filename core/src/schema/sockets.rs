//! Socket addresses.

use super::common::StringWrapper;

types! {
    /// Families of addresses.
    enum NetworkAddressFamily {
        Ipv4 = "ipv4",
        Ipv6 = "ipv6",
        Unix = "unix",
        Vsock = "vsock",
        Unknown = "unknown",
    }

    /// A TCP or UDP address.
    struct InetSocketAddress<'a> {
        host: &'a str,
        port: &'a str,
        /// The last port to try, where several may do.
        to: Option<u16>,
        ipv4: Option<bool>,
        ipv6: Option<bool>,
    }

    /// A Unix socket.
    struct UnixSocketAddress<'a> {
        path: &'a str,
    }

    /// A vsock address.
    struct VsockSocketAddress<'a> {
        cid: &'a str,
        port: &'a str,
    }

    /// The address of a socket.
    simple SocketAddress<'a>: SocketAddressKind {
        Inet(InetSocketAddress<'a>) = "inet",
        Unix(UnixSocketAddress<'a>) = "unix",
        Vsock(VsockSocketAddress<'a>) = "vsock",
        Fd(StringWrapper<'a>) = "fd",
    }
}

commands! {}

events! {}
