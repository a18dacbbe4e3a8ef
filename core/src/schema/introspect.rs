//! introspect

use super::value::{Any, List};

types! {
    /// `SchemaMetaType`.
    enum SchemaMetaType {
        Builtin = "builtin",
        Enum = "enum",
        Array = "array",
        Object = "object",
        Alternate = "alternate",
        Command = "command",
        Event = "event",
    }

    /// `SchemaInfo`.
    union SchemaInfo<'a> {
        base {
            name: &'a str,
            meta_type as "meta-type": SchemaMetaType,
        }
        match "meta-type" => branch: SchemaInfoBranch<'a> {
            Builtin(SchemaInfoBuiltin) = "builtin",
            Enum(SchemaInfoEnum<'a>) = "enum",
            Array(SchemaInfoArray<'a>) = "array",
            Object(SchemaInfoObject<'a>) = "object",
            Alternate(SchemaInfoAlternate<'a>) = "alternate",
            Command(SchemaInfoCommand<'a>) = "command",
            Event(SchemaInfoEvent<'a>) = "event",
        }
    }

    /// `SchemaInfoBuiltin`.
    struct SchemaInfoBuiltin {
        json_type as "json-type": JSONType,
    }

    /// `JSONType`.
    enum JSONType {
        String = "string",
        Number = "number",
        Int = "int",
        Boolean = "boolean",
        Null = "null",
        Object = "object",
        Array = "array",
        Value = "value",
    }

    /// `SchemaInfoEnum`.
    struct SchemaInfoEnum<'a> {
        values: List<'a, &'a str>,
    }

    /// `SchemaInfoArray`.
    struct SchemaInfoArray<'a> {
        element_type as "element-type": &'a str,
    }

    /// `SchemaInfoObject`.
    struct SchemaInfoObject<'a> {
        members: List<'a, SchemaInfoObjectMember<'a>>,
        tag: Option<&'a str>,
        variants: Option<List<'a, SchemaInfoObjectVariant<'a>>>,
    }

    /// `SchemaInfoObjectMember`.
    struct SchemaInfoObjectMember<'a> {
        name: &'a str,
        kind as "type": &'a str,
        default: Option<Any<'a>>,
    }

    /// `SchemaInfoObjectVariant`.
    struct SchemaInfoObjectVariant<'a> {
        case: &'a str,
        kind as "type": &'a str,
    }

    /// `SchemaInfoAlternate`.
    struct SchemaInfoAlternate<'a> {
        members: List<'a, SchemaInfoAlternateMember<'a>>,
    }

    /// `SchemaInfoAlternateMember`.
    struct SchemaInfoAlternateMember<'a> {
        kind as "type": &'a str,
    }

    /// `SchemaInfoCommand`.
    struct SchemaInfoCommand<'a> {
        arg_type as "arg-type": &'a str,
        ret_type as "ret-type": &'a str,
    }

    /// `SchemaInfoEvent`.
    struct SchemaInfoEvent<'a> {
        arg_type as "arg-type": &'a str,
    }
}

commands! {
    /// `query-qmp-schema`.
    QUERY_QMP_SCHEMA = "query-qmp-schema" -> [SchemaInfo];
}

events! {}
