//! tpm

types! {
    /// `TpmModel`.
    enum TpmModel {
        TpmTis = "tpm-tis",
    }

    /// `TpmType`.
    enum TpmType {
        Passthrough = "passthrough",
    }

    /// `TPMPassthroughOptions`.
    struct TPMPassthroughOptions<'a> {
        path: Option<&'a str>,
        cancel_path as "cancel-path": Option<&'a str>,
    }

    /// `TpmTypeOptions`.
    simple TpmTypeOptions<'a>: TpmTypeOptionsKind {
        Passthrough(TPMPassthroughOptions<'a>) = "passthrough",
    }

    /// `TPMInfo`.
    struct TPMInfo<'a> {
        id: &'a str,
        model: TpmModel,
        options: TpmTypeOptions<'a>,
    }
}

commands! {
    /// `query-tpm-models`.
    QUERY_TPM_MODELS = "query-tpm-models" -> [TpmModel];

    /// `query-tpm-types`.
    QUERY_TPM_TYPES = "query-tpm-types" -> [TpmType];

    /// `query-tpm`.
    QUERY_TPM = "query-tpm" -> [TPMInfo];
}

events! {}
