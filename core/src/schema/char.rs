//! Character devices.

use super::sockets::SocketAddress;
use super::value::Boxed;

types! {
    /// A character device.
    struct ChardevInfo<'a> {
        label: &'a str,
        filename: &'a str,
        frontend_open as "frontend-open": bool,
    }

    /// A kind of character devices.
    struct ChardevBackendInfo<'a> {
        name: &'a str,
    }

    /// How data stands in a string.
    enum DataFormat {
        Utf8 = "utf8",
        Base64 = "base64",
    }

    /// What all kinds take.
    struct ChardevCommon<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
    }

    /// Files.
    struct ChardevFile<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        input as "in": Option<&'a str>,
        out: &'a str,
        append: Option<bool>,
    }

    /// A device of the host.
    struct ChardevHostdev<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        device: &'a str,
    }

    /// A socket.
    struct ChardevSocket<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        addr: SocketAddress<'a>,
        tls_creds as "tls-creds": Option<&'a str>,
        server: Option<bool>,
        wait: Option<bool>,
        nodelay: Option<bool>,
        telnet: Option<bool>,
        reconnect: Option<i64>,
    }

    /// A UDP socket.
    struct ChardevUdp<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        remote: SocketAddress<'a>,
        local: Option<SocketAddress<'a>>,
    }

    /// Several users of one device.
    struct ChardevMux<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        chardev: &'a str,
    }

    /// The terminal.
    struct ChardevStdio<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        signal: Option<bool>,
    }

    /// A channel of SPICE.
    struct ChardevSpiceChannel<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        kind as "type": &'a str,
    }

    /// A port of SPICE.
    struct ChardevSpicePort<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        fqdn: &'a str,
    }

    /// A text screen.
    struct ChardevVc<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        width: Option<i64>,
        height: Option<i64>,
        cols: Option<i64>,
        rows: Option<i64>,
    }

    /// A buffer that keeps the last output.
    struct ChardevRingbuf<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        /// Bytes, a power of two.
        size: Option<i64>,
    }

    /// A character device to be made.
    simple ChardevBackend<'a>: ChardevBackendKind {
        // What few products have is boxed: it is read only where it is asked for.
        File(ChardevFile<'a>) = "file",
        Serial(ChardevHostdev<'a>) = "serial",
        Parallel(Boxed<'a, ChardevHostdev<'a>>) = "parallel",
        Pipe(Boxed<'a, ChardevHostdev<'a>>) = "pipe",
        Socket(Boxed<'a, ChardevSocket<'a>>) = "socket",
        Udp(Boxed<'a, ChardevUdp<'a>>) = "udp",
        Pty(Boxed<'a, ChardevCommon<'a>>) = "pty",
        Null(ChardevCommon<'a>) = "null",
        Mux(ChardevMux<'a>) = "mux",
        Msmouse(Boxed<'a, ChardevCommon<'a>>) = "msmouse",
        Braille(Boxed<'a, ChardevCommon<'a>>) = "braille",
        Testdev(Boxed<'a, ChardevCommon<'a>>) = "testdev",
        Stdio(Boxed<'a, ChardevStdio<'a>>) = "stdio",
        Console(Boxed<'a, ChardevCommon<'a>>) = "console",
        Spicevmc(Boxed<'a, ChardevSpiceChannel<'a>>) = "spicevmc",
        Spiceport(Boxed<'a, ChardevSpicePort<'a>>) = "spiceport",
        Vc(Boxed<'a, ChardevVc<'a>>) = "vc",
        Ringbuf(ChardevRingbuf<'a>) = "ringbuf",
        Memory(ChardevRingbuf<'a>) = "memory",
    }

    /// A character device that was made.
    struct ChardevReturn<'a> {
        /// The terminal's name, where it is one.
        pty: Option<&'a str>,
    }
}

commands! {
    /// Lists the character devices.
    QUERY_CHARDEV = "query-chardev" -> [ChardevInfo];

    /// Lists the kinds of character devices.
    QUERY_CHARDEV_BACKENDS = "query-chardev-backends" -> [ChardevBackendInfo];

    /// Writes to a ring buffer.
    RINGBUF_WRITE = "ringbuf-write"(RingbufWriteArgs<'a> {
        device: &'a str,
        data: &'a str,
        format: Option<DataFormat>,
    });

    /// Takes data out of a ring buffer.
    RINGBUF_READ = "ringbuf-read"(RingbufReadArgs<'a> {
        device: &'a str,
        /// Bytes at most.
        size: i64,
        format: Option<DataFormat>,
    }) -> &'static str;

    /// Makes a character device.
    CHARDEV_ADD = "chardev-add"(ChardevAddArgs<'a> {
        id: &'a str,
        backend: ChardevBackend<'a>,
    }) -> ChardevReturn;

    /// Removes a character device.
    CHARDEV_REMOVE = "chardev-remove"(ChardevRemoveArgs<'a> {
        id: &'a str,
    });
}

events! {
    /// A port of virtio-serial was opened or closed by the guest.
    VSERPORT_CHANGE = VserportChange<'a> {
        id: &'a str,
        open: bool,
    } throttle by id "id";
}
