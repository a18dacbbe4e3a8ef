//! What `query-qmp-schema` answers with.

use super::value::{Any, List};

types! {
    /// What an entity is.
    enum SchemaMetaType {
        Builtin = "builtin",
        Enum = "enum",
        Array = "array",
        Object = "object",
        Alternate = "alternate",
        Command = "command",
        Event = "event",
    }

    /// An entity.
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

    /// A type that is built in.
    struct SchemaInfoBuiltin {
        json_type as "json-type": JSONType,
    }

    /// How a value stands on the wire.
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

    /// A set of words.
    struct SchemaInfoEnum<'a> {
        values: List<'a, &'a str>,
    }

    /// A list.
    struct SchemaInfoArray<'a> {
        element_type as "element-type": &'a str,
    }

    /// An object.
    struct SchemaInfoObject<'a> {
        members: List<'a, SchemaInfoObjectMember<'a>>,
        tag: Option<&'a str>,
        variants: Option<List<'a, SchemaInfoObjectVariant<'a>>>,
    }

    /// A member of an object.
    struct SchemaInfoObjectMember<'a> {
        name: &'a str,
        kind as "type": &'a str,
        /// Present where the member is optional.
        default: Option<Any<'a>>,
    }

    /// A branch of a union.
    struct SchemaInfoObjectVariant<'a> {
        case: &'a str,
        kind as "type": &'a str,
    }

    /// One of several types.
    struct SchemaInfoAlternate<'a> {
        members: List<'a, SchemaInfoAlternateMember<'a>>,
    }

    /// A type of an alternate.
    struct SchemaInfoAlternateMember<'a> {
        kind as "type": &'a str,
    }

    /// A command.
    struct SchemaInfoCommand<'a> {
        arg_type as "arg-type": &'a str,
        ret_type as "ret-type": &'a str,
    }

    /// An event.
    struct SchemaInfoEvent<'a> {
        arg_type as "arg-type": &'a str,
    }
}

commands! {
    /// Describes all commands and events that are offered, and their types.
    QUERY_QMP_SCHEMA = "query-qmp-schema" -> [SchemaInfo];
}

events! {}
