//! Display, keyboard, mouse, VNC and SPICE.

use super::sockets::NetworkAddressFamily;
use super::value::List;

types! {
    /// An end of a SPICE connection.
    struct SpiceBasicInfo<'a> {
        host: &'a str,
        port: &'a str,
        family: NetworkAddressFamily,
    }

    /// The server's end of a SPICE connection.
    struct SpiceServerInfo<'a> {
        host: &'a str,
        port: &'a str,
        family: NetworkAddressFamily,
        auth: Option<&'a str>,
    }

    /// A channel of SPICE.
    struct SpiceChannel<'a> {
        host: &'a str,
        port: &'a str,
        family: NetworkAddressFamily,
        connection_id as "connection-id": i64,
        channel_type as "channel-type": i64,
        channel_id as "channel-id": i64,
        tls: bool,
    }

    /// Who draws the mouse pointer.
    enum SpiceQueryMouseMode {
        Client = "client",
        Server = "server",
        Unknown = "unknown",
    }

    /// The SPICE server.
    struct SpiceInfo<'a> {
        enabled: bool,
        migrated: bool,
        host: Option<&'a str>,
        port: Option<i64>,
        tls_port as "tls-port": Option<i64>,
        auth: Option<&'a str>,
        compiled_version as "compiled-version": Option<&'a str>,
        mouse_mode as "mouse-mode": SpiceQueryMouseMode,
        channels: Option<List<'a, SpiceChannel<'a>>>,
    }

    /// An end of a VNC connection.
    struct VncBasicInfo<'a> {
        host: &'a str,
        service: &'a str,
        family: NetworkAddressFamily,
        websocket: bool,
    }

    /// The server's end of a VNC connection.
    struct VncServerInfo<'a> {
        host: &'a str,
        service: &'a str,
        family: NetworkAddressFamily,
        websocket: bool,
        auth: Option<&'a str>,
    }

    /// The client's end of a VNC connection.
    struct VncClientInfo<'a> {
        host: &'a str,
        service: &'a str,
        family: NetworkAddressFamily,
        websocket: bool,
        x509_dname: Option<&'a str>,
        sasl_username: Option<&'a str>,
    }

    /// The VNC server.
    struct VncInfo<'a> {
        enabled: bool,
        host: Option<&'a str>,
        family: Option<NetworkAddressFamily>,
        service: Option<&'a str>,
        auth: Option<&'a str>,
        clients: Option<List<'a, VncClientInfo<'a>>>,
    }

    /// How clients of VNC prove who they are.
    enum VncPrimaryAuth {
        None = "none",
        Vnc = "vnc",
        Ra2 = "ra2",
        Ra2ne = "ra2ne",
        Tight = "tight",
        Ultra = "ultra",
        Tls = "tls",
        Vencrypt = "vencrypt",
        Sasl = "sasl",
    }

    /// How clients of VNC prove who they are inside of TLS.
    enum VncVencryptSubAuth {
        Plain = "plain",
        TlsNone = "tls-none",
        X509None = "x509-none",
        TlsVnc = "tls-vnc",
        X509Vnc = "x509-vnc",
        TlsPlain = "tls-plain",
        X509Plain = "x509-plain",
        TlsSasl = "tls-sasl",
        X509Sasl = "x509-sasl",
    }

    /// A VNC server.
    struct VncInfo2<'a> {
        id: &'a str,
        server: List<'a, VncBasicInfo<'a>>,
        clients: List<'a, VncClientInfo<'a>>,
        auth: VncPrimaryAuth,
        vencrypt: Option<VncVencryptSubAuth>,
        display: Option<&'a str>,
    }

    /// A pointing device.
    struct MouseInfo<'a> {
        name: &'a str,
        index: i64,
        current: bool,
        absolute: bool,
    }

    /// Keys, by what is on them.
    enum QKeyCode {
        Unmapped = "unmapped",
        Shift = "shift",
        ShiftR = "shift_r",
        Alt = "alt",
        AltR = "alt_r",
        Altgr = "altgr",
        AltgrR = "altgr_r",
        Ctrl = "ctrl",
        CtrlR = "ctrl_r",
        Menu = "menu",
        Esc = "esc",
        Digit1 = "1",
        Digit2 = "2",
        Digit3 = "3",
        Digit4 = "4",
        Digit5 = "5",
        Digit6 = "6",
        Digit7 = "7",
        Digit8 = "8",
        Digit9 = "9",
        Digit0 = "0",
        Minus = "minus",
        Equal = "equal",
        Backspace = "backspace",
        Tab = "tab",
        Q = "q",
        W = "w",
        E = "e",
        R = "r",
        T = "t",
        Y = "y",
        U = "u",
        I = "i",
        O = "o",
        P = "p",
        BracketLeft = "bracket_left",
        BracketRight = "bracket_right",
        Ret = "ret",
        A = "a",
        S = "s",
        D = "d",
        F = "f",
        G = "g",
        H = "h",
        J = "j",
        K = "k",
        L = "l",
        Semicolon = "semicolon",
        Apostrophe = "apostrophe",
        GraveAccent = "grave_accent",
        Backslash = "backslash",
        Z = "z",
        X = "x",
        C = "c",
        V = "v",
        B = "b",
        N = "n",
        M = "m",
        Comma = "comma",
        Dot = "dot",
        Slash = "slash",
        Asterisk = "asterisk",
        Spc = "spc",
        CapsLock = "caps_lock",
        F1 = "f1",
        F2 = "f2",
        F3 = "f3",
        F4 = "f4",
        F5 = "f5",
        F6 = "f6",
        F7 = "f7",
        F8 = "f8",
        F9 = "f9",
        F10 = "f10",
        NumLock = "num_lock",
        ScrollLock = "scroll_lock",
        KpDivide = "kp_divide",
        KpMultiply = "kp_multiply",
        KpSubtract = "kp_subtract",
        KpAdd = "kp_add",
        KpEnter = "kp_enter",
        KpDecimal = "kp_decimal",
        Sysrq = "sysrq",
        Kp0 = "kp_0",
        Kp1 = "kp_1",
        Kp2 = "kp_2",
        Kp3 = "kp_3",
        Kp4 = "kp_4",
        Kp5 = "kp_5",
        Kp6 = "kp_6",
        Kp7 = "kp_7",
        Kp8 = "kp_8",
        Kp9 = "kp_9",
        Less = "less",
        F11 = "f11",
        F12 = "f12",
        Print = "print",
        Home = "home",
        Pgup = "pgup",
        Pgdn = "pgdn",
        End = "end",
        Left = "left",
        Up = "up",
        Down = "down",
        Right = "right",
        Insert = "insert",
        Delete = "delete",
        Stop = "stop",
        Again = "again",
        Props = "props",
        Undo = "undo",
        Front = "front",
        Copy = "copy",
        Open = "open",
        Paste = "paste",
        Find = "find",
        Cut = "cut",
        Lf = "lf",
        Help = "help",
        MetaL = "meta_l",
        MetaR = "meta_r",
        Compose = "compose",
        Pause = "pause",
        Ro = "ro",
        KpComma = "kp_comma",
        KpEquals = "kp_equals",
        Power = "power",
    }

    /// A key, by number or by name.
    simple KeyValue: KeyValueKind {
        Number(i64) = "number",
        Qcode(QKeyCode) = "qcode",
    }

    /// Buttons of a pointing device.
    enum InputButton {
        Left = "left",
        Middle = "middle",
        Right = "right",
        WheelUp = "wheel-up",
        WheelDown = "wheel-down",
    }

    /// Axes of a pointing device.
    enum InputAxis {
        X = "x",
        Y = "y",
    }

    /// A key goes down or up.
    struct InputKeyEvent {
        key: KeyValue,
        down: bool,
    }

    /// A button goes down or up.
    struct InputBtnEvent {
        button: InputButton,
        down: bool,
    }

    /// A movement along an axis.
    struct InputMoveEvent {
        axis: InputAxis,
        /// A distance; for absolute devices 0 to 0x7fff.
        value: i64,
    }

    /// Something that an input device did.
    simple InputEvent: InputEventKind {
        Key(InputKeyEvent) = "key",
        Btn(InputBtnEvent) = "btn",
        Rel(InputMoveEvent) = "rel",
        Abs(InputMoveEvent) = "abs",
    }
}

commands! {
    /// Sets the password of a display.
    SET_PASSWORD = "set_password"(SetPasswordArgs<'a> {
        protocol: &'a str,
        password: &'a str,
        connected: Option<&'a str>,
    });

    /// Says until when the password of a display is good.
    EXPIRE_PASSWORD = "expire_password"(ExpirePasswordArgs<'a> {
        protocol: &'a str,
        /// `now`, `never`, `+` seconds from now, or seconds since 1970.
        time: &'a str,
    });

    /// Saves the screen to a file, as PPM.
    SCREENDUMP = "screendump"(ScreendumpArgs<'a> {
        filename: &'a str,
    });

    /// Describes the SPICE server.
    QUERY_SPICE = "query-spice" -> SpiceInfo;

    /// Describes the VNC server.
    QUERY_VNC = "query-vnc" -> VncInfo;

    /// Lists the VNC servers.
    QUERY_VNC_SERVERS = "query-vnc-servers" -> [VncInfo2];

    /// Sets the password of VNC.
    CHANGE_VNC_PASSWORD = "change-vnc-password"(ChangeVncPasswordArgs<'a> {
        password: &'a str,
    });

    /// Lists the pointing devices.
    QUERY_MICE = "query-mice" -> [MouseInfo];

    /// Presses keys together and lets go of them.
    SEND_KEY = "send-key"(SendKeyArgs<'a> {
        keys: List<'a, KeyValue>,
        /// Milliseconds; 100 where left out.
        hold_time as "hold-time": Option<i64>,
    });

    /// Has input devices do something.
    INPUT_SEND_EVENT = "input-send-event"(InputSendEventArgs<'a> {
        device: Option<&'a str>,
        /// The screen that it is meant for.
        head: Option<i64>,
        events: List<'a, InputEvent>,
    });
}

events! {
    /// A SPICE client has connected.
    SPICE_CONNECTED = SpiceConnected<'a> {
        server: SpiceBasicInfo<'a>,
        client: SpiceBasicInfo<'a>,
    };

    /// A SPICE client is ready.
    SPICE_INITIALIZED = SpiceInitialized<'a> {
        server: SpiceServerInfo<'a>,
        client: SpiceChannel<'a>,
    };

    /// A SPICE client has gone.
    SPICE_DISCONNECTED = SpiceDisconnected<'a> {
        server: SpiceBasicInfo<'a>,
        client: SpiceBasicInfo<'a>,
    };

    /// SPICE has migrated.
    SPICE_MIGRATE_COMPLETED = SpiceMigrateCompleted {};

    /// A VNC client has connected.
    VNC_CONNECTED = VncConnected<'a> {
        server: VncServerInfo<'a>,
        client: VncBasicInfo<'a>,
    };

    /// A VNC client is ready.
    VNC_INITIALIZED = VncInitialized<'a> {
        server: VncServerInfo<'a>,
        client: VncClientInfo<'a>,
    };

    /// A VNC client has gone.
    VNC_DISCONNECTED = VncDisconnected<'a> {
        server: VncServerInfo<'a>,
        client: VncClientInfo<'a>,
    };
}
