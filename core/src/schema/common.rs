//! common

types! {
    /// `Empty`.
    struct Empty {}

    /// `IoOperationType`.
    enum IoOperationType {
        Read = "read",
        Write = "write",
    }

    /// `String`.
    struct StringWrapper<'a> {
        str: &'a str,
    }
}

commands! {}

events! {}
