//! The argument visitor: checks arguments against the schema, in QEMU's order and with its errors.
//!
//! Members are checked in the order of the schema, each with all that is inside of it; what is left over in an object is
//! found when all its members are done. Nothing recurses: objects and lists that are begun wait on a stack, whose depth
//! is [`MAX_DEPTH`] whatever the client sends.

use heapless::Vec;

use crate::error::Error;
use crate::json::{Elements, Object, Value, bucket};

use super::Command;
use super::tables::{self, Builtin, EMPTY, Kind, NO_TAG, Ref, TYPES, Type, text};
use super::value::Decode;

/// How deep objects and lists may be nested in arguments that are visited. The schema itself bounds the depth of all but
/// chains of block nodes, which no product opens this deep.
pub const MAX_DEPTH: usize = 64;

/// How list elements are named in errors.
const ELEMENT: &str = "null";

/// Checks the arguments of a command and reads them.
pub fn arguments<'a, T: Decode<'a>>(command: Command, arguments: Object<'a>) -> Result<T, Error> {
    check_arguments(command, arguments)?;
    T::decode(Value::Object(arguments)).ok_or_else(|| unreadable(command))
}

/// Checks the arguments of a command. What passes can be read by its structure's [`Decode`].
pub fn check_arguments(command: Command, arguments: Object<'_>) -> Result<(), Error> {
    let ty = match tables::COMMANDS.get(command.index()) {
        Some(entity) if entity.free => return Ok(()),
        Some(entity) if !entity.arguments.is_none() => entity.arguments,
        _ => EMPTY,
    };
    // Most commands have no arguments and get none.
    if arguments.is_empty() && TYPES.get(ty.index()).is_some_and(|ty| ty.count == 0) {
        return Ok(());
    }
    Visitor { stack: Vec::new() }.run(ty, arguments)
}

/// The visitor and the typed reading disagree. Their tests say that they do not.
#[cold]
pub(crate) fn unreadable(command: Command) -> Error {
    Error::generic(format_args!("The arguments of '{}' cannot be read", command.name()))
}

/// What is begun.
enum Frame<'a> {
    Object {
        object: Object<'a>,
        ty: &'static Type,
        /// The branch, once it is known.
        branch: Option<&'static Type>,
        /// How many members of the object and of its branch are done.
        done: u8,
    },
    List {
        rest: Elements<'a>,
        element: Ref,
    },
}

struct Visitor<'a> {
    stack: Vec<Frame<'a>, MAX_DEPTH>,
}

impl<'a> Visitor<'a> {
    fn run(mut self, ty: Ref, arguments: Object<'a>) -> Result<(), Error> {
        self.value("", ty, Value::Object(arguments))?;
        while let Some(frame) = self.stack.last_mut() {
            match frame {
                Frame::List { rest, element } => match rest.next() {
                    Some(value) => {
                        let element = *element;
                        self.value(ELEMENT, element, value)?;
                    }
                    None => {
                        self.stack.pop();
                    }
                },
                Frame::Object { object, ty, branch, done } => {
                    let own = ty.members().len();
                    let at = usize::from(*done);
                    let member = match ty.members().get(at) {
                        Some(member) => Some(member),
                        None => {
                            if branch.is_none() {
                                *branch = branch_of(*object, ty);
                            }
                            branch.and_then(|branch| branch.members().get(at.saturating_sub(own)))
                        }
                    };
                    let Some(member) = member else {
                        no_more(*object, ty, *branch)?;
                        self.stack.pop();
                        continue;
                    };
                    *done = done.saturating_add(1);
                    let name = text(member.name);
                    match object.get(name) {
                        Some(value) => self.value(name, member.ty, value)?,
                        None if member.ty.is_optional() => {}
                        None => return Err(Error::missing_parameter(name)),
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks a value. Objects and lists are only begun.
    fn value(&mut self, name: &str, ty: Ref, value: Value<'a>) -> Result<(), Error> {
        if ty.is_list() {
            let Value::Array(array) = value else {
                return Err(Error::invalid_parameter_type(name, "list"));
            };
            return self.push(Frame::List { rest: array.iter(), element: ty.element() });
        }
        let Some(mut ty) = TYPES.get(ty.index()) else { return Ok(()) };
        if ty.kind == Kind::Alternate {
            match alternative(ty, value) {
                Some(found) => ty = found,
                None => return Err(Error::invalid_parameter_type(name, text(ty.name))),
            }
        }
        match ty.kind {
            Kind::Builtin(builtin) => scalar(name, builtin, value),
            Kind::Enum => match value {
                Value::Str(word) if ty.words().iter().any(|&known| text(known) == word) => Ok(()),
                Value::Str(word) => Err(Error::invalid_parameter(word)),
                _ => Err(Error::invalid_parameter_type(name, "string")),
            },
            Kind::Object | Kind::Alternate => match value {
                Value::Object(object) => self.push(Frame::Object { object, ty, branch: None, done: 0 }),
                _ => Err(Error::invalid_parameter_type(name, "QDict")),
            },
        }
    }

    fn push(&mut self, frame: Frame<'a>) -> Result<(), Error> {
        self.stack.push(frame).map_err(|_| {
            Error::generic(format_args!("Arguments are nested more than {MAX_DEPTH} levels deep"))
        })
    }
}

/// The branch that an object's tag selects.
fn branch_of(object: Object<'_>, ty: &Type) -> Option<&'static Type> {
    if ty.tag == NO_TAG {
        return None;
    }
    let tag = ty.members().get(usize::from(ty.tag))?;
    let word = object.get(text(tag.name))?.as_str()?;
    let branch = ty.branches().iter().find(|branch| text(branch.name) == word)?;
    TYPES.get(branch.ty.index())
}

/// The type of an alternate that takes this JSON value.
fn alternative(ty: &Type, value: Value<'_>) -> Option<&'static Type> {
    ty.members().iter().filter_map(|one| TYPES.get(one.ty.index())).find(|one| match one.kind {
        Kind::Object => matches!(value, Value::Object(_)),
        Kind::Enum | Kind::Builtin(Builtin::Str) => matches!(value, Value::Str(_)),
        Kind::Builtin(Builtin::Bool) => matches!(value, Value::Bool(_)),
        Kind::Builtin(Builtin::Number) => matches!(value, Value::Int(_) | Value::Double(_)),
        Kind::Builtin(_) => matches!(value, Value::Int(_)),
        Kind::Alternate => false,
    })
}

/// Refuses members that the type does not have. Of several, QEMU's hash order says which one is named.
fn no_more(object: Object<'_>, ty: &Type, branch: Option<&'static Type>) -> Result<(), Error> {
    let mut first: Option<(u16, &str)> = None;
    for (key, _) in object.iter() {
        let branch_members = branch.map_or(&[][..], |branch| branch.members());
        if ty.members().iter().chain(branch_members).any(|member| text(member.name) == key) {
            continue;
        }
        let bucket = bucket(key);
        if first.is_none_or(|(least, _)| bucket <= least) {
            first = Some((bucket, key));
        }
    }
    match first {
        Some((_, key)) => Err(Error::unexpected_member(key)),
        None => Ok(()),
    }
}

/// Checks a value that is neither an object nor a list nor a word of an enumeration.
fn scalar(name: &str, builtin: Builtin, value: Value<'_>) -> Result<(), Error> {
    let expected = match (builtin, value) {
        (Builtin::Any, _)
        | (Builtin::Str, Value::Str(_))
        | (Builtin::Bool, Value::Bool(_))
        | (Builtin::Number, Value::Int(_) | Value::Double(_)) => return Ok(()),
        (Builtin::Str, _) => "string",
        (Builtin::Bool, _) => "boolean",
        (Builtin::Number, _) => "number",
        (_, Value::Int(number)) => return range(name, builtin, number),
        _ => "integer",
    };
    Err(Error::invalid_parameter_type(name, expected))
}

/// Checks an integer against the size of its type. What has 64 bits takes every number, whatever its sign.
fn range(name: &str, builtin: Builtin, number: i64) -> Result<(), Error> {
    let (fits, expected) = match builtin {
        Builtin::Int8 => (i8::try_from(number).is_ok(), "int8_t"),
        Builtin::Int16 => (i16::try_from(number).is_ok(), "int16_t"),
        Builtin::Int32 => (i32::try_from(number).is_ok(), "int32_t"),
        Builtin::Uint8 => (u8::try_from(number).is_ok(), "uint8_t"),
        Builtin::Uint16 => (u16::try_from(number).is_ok(), "uint16_t"),
        Builtin::Uint32 => (u32::try_from(number).is_ok(), "uint32_t"),
        _ => return Ok(()),
    };
    if fits { Ok(()) } else { Err(Error::expects(name, expected)) }
}
