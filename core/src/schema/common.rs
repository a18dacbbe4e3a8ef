//! Types that several modules use.

types! {
    /// No members: what a command without a result answers with.
    struct Empty {}

    /// Reading or writing.
    enum IoOperationType {
        Read = "read",
        Write = "write",
    }

    /// A string in an object of its own.
    struct StringWrapper<'a> {
        str: &'a str,
    }
}

commands! {}

events! {}
