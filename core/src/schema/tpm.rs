//! TPM devices and back ends.

types! {
    /// TPM devices.
    enum TpmModel {
        TpmTis = "tpm-tis",
    }

    /// TPM back ends.
    enum TpmType {
        Passthrough = "passthrough",
    }

    /// The host's TPM.
    struct TPMPassthroughOptions<'a> {
        path: Option<&'a str>,
        cancel_path as "cancel-path": Option<&'a str>,
    }

    /// The options of a back end.
    simple TpmTypeOptions<'a>: TpmTypeOptionsKind {
        Passthrough(TPMPassthroughOptions<'a>) = "passthrough",
    }

    /// A TPM.
    struct TPMInfo<'a> {
        id: &'a str,
        model: TpmModel,
        options: TpmTypeOptions<'a>,
    }
}

commands! {
    /// Lists the TPM devices.
    QUERY_TPM_MODELS = "query-tpm-models" -> [TpmModel];

    /// Lists the TPM back ends.
    QUERY_TPM_TYPES = "query-tpm-types" -> [TpmType];

    /// Lists the TPMs.
    QUERY_TPM = "query-tpm" -> [TPMInfo];
}

events! {}
