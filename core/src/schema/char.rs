//! char

use super::sockets::SocketAddress;

types! {
    /// `ChardevInfo`.
    struct ChardevInfo<'a> {
        label: &'a str,
        filename: &'a str,
        frontend_open as "frontend-open": bool,
    }

    /// `ChardevBackendInfo`.
    struct ChardevBackendInfo<'a> {
        name: &'a str,
    }

    /// `DataFormat`.
    enum DataFormat {
        Utf8 = "utf8",
        Base64 = "base64",
    }

    /// `ChardevCommon`.
    struct ChardevCommon<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
    }

    /// `ChardevFile`.
    struct ChardevFile<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        input as "in": Option<&'a str>,
        out: &'a str,
        append: Option<bool>,
    }

    /// `ChardevHostdev`.
    struct ChardevHostdev<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        device: &'a str,
    }

    /// `ChardevSocket`.
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

    /// `ChardevUdp`.
    struct ChardevUdp<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        remote: SocketAddress<'a>,
        local: Option<SocketAddress<'a>>,
    }

    /// `ChardevMux`.
    struct ChardevMux<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        chardev: &'a str,
    }

    /// `ChardevStdio`.
    struct ChardevStdio<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        signal: Option<bool>,
    }

    /// `ChardevSpiceChannel`.
    struct ChardevSpiceChannel<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        kind as "type": &'a str,
    }

    /// `ChardevSpicePort`.
    struct ChardevSpicePort<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        fqdn: &'a str,
    }

    /// `ChardevVC`.
    struct ChardevVc<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        width: Option<i64>,
        height: Option<i64>,
        cols: Option<i64>,
        rows: Option<i64>,
    }

    /// `ChardevRingbuf`.
    struct ChardevRingbuf<'a> {
        logfile: Option<&'a str>,
        logappend: Option<bool>,
        size: Option<i64>,
    }

    /// `ChardevBackend`.
    simple ChardevBackend<'a>: ChardevBackendKind {
        File(ChardevFile<'a>) = "file",
        Serial(ChardevHostdev<'a>) = "serial",
        Parallel(ChardevHostdev<'a>) = "parallel",
        Pipe(ChardevHostdev<'a>) = "pipe",
        Socket(ChardevSocket<'a>) = "socket",
        Udp(ChardevUdp<'a>) = "udp",
        Pty(ChardevCommon<'a>) = "pty",
        Null(ChardevCommon<'a>) = "null",
        Mux(ChardevMux<'a>) = "mux",
        Msmouse(ChardevCommon<'a>) = "msmouse",
        Braille(ChardevCommon<'a>) = "braille",
        Testdev(ChardevCommon<'a>) = "testdev",
        Stdio(ChardevStdio<'a>) = "stdio",
        Console(ChardevCommon<'a>) = "console",
        Spicevmc(ChardevSpiceChannel<'a>) = "spicevmc",
        Spiceport(ChardevSpicePort<'a>) = "spiceport",
        Vc(ChardevVc<'a>) = "vc",
        Ringbuf(ChardevRingbuf<'a>) = "ringbuf",
        Memory(ChardevRingbuf<'a>) = "memory",
    }

    /// `ChardevReturn`.
    struct ChardevReturn<'a> {
        pty: Option<&'a str>,
    }
}

commands! {
    /// `query-chardev`.
    QUERY_CHARDEV = "query-chardev" -> [ChardevInfo];

    /// `query-chardev-backends`.
    QUERY_CHARDEV_BACKENDS = "query-chardev-backends" -> [ChardevBackendInfo];

    /// `ringbuf-write`.
    RINGBUF_WRITE = "ringbuf-write"(RingbufWriteArgs<'a> {
        device: &'a str,
        data: &'a str,
        format: Option<DataFormat>,
    });

    /// `ringbuf-read`.
    RINGBUF_READ = "ringbuf-read"(RingbufReadArgs<'a> {
        device: &'a str,
        size: i64,
        format: Option<DataFormat>,
    }) -> &'static str;

    /// `chardev-add`.
    CHARDEV_ADD = "chardev-add"(ChardevAddArgs<'a> {
        id: &'a str,
        backend: ChardevBackend<'a>,
    }) -> ChardevReturn;

    /// `chardev-remove`.
    CHARDEV_REMOVE = "chardev-remove"(ChardevRemoveArgs<'a> {
        id: &'a str,
    });
}

events! {
    /// `VSERPORT_CHANGE`.
    VSERPORT_CHANGE = VserportChange<'a> {
        id: &'a str,
        open: bool,
    } throttle by id "id";
}
