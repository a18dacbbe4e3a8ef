//! Objects and devices, as far as the model has any.

use monovisor_core::handlers::{Element, Objects, Poll};
use monovisor_core::json::{Emit, Object as Json, Value, Writer};
use monovisor_core::schema::Any;
use monovisor_core::schema::qom::{
    DeviceDelArgs, ObjectAddArgs, ObjectDelArgs, ObjectPropertyInfo, ObjectTypeInfo, QomGetArgs, QomListArgs,
    QomListTypesArgs, QomSetArgs,
};
use monovisor_core::{Context, Error};

use super::Model;

/// An object made by `object-add`.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) id: String,
    pub(super) kind: &'static str,
    /// Bytes, of memory.
    pub(super) size: u64,
}

/// The types that `object-add` makes, and the properties that each takes with whether it is an integer.
const KINDS: [(&str, &[(&str, bool)]); 4] = [
    ("iothread", &[]),
    ("memory-backend-ram", &[("size", true)]),
    ("rng-random", &[("filename", false)]),
    ("secret", &[("data", false), ("file", false)]),
];

/// Types that are there and cannot be made.
const OTHERS: [&str; 2] = ["container", "e1000"];

/// How many objects the model makes.
const MAX_OBJECTS: usize = 64;

fn refused<T>(error: Error) -> Poll<T> {
    Err(nb::Error::Other(error))
}

/// A property's value that lies in memory.
struct Text(&'static str);

impl Emit for Text {
    fn emit(&self, writer: &mut Writer<'_>) {
        writer.string(self.0);
    }
}

/// What a path leads to.
enum Place<'m> {
    Root,
    Machine,
    Container,
    Object(&'m Object),
}

impl Model {
    fn place(&self, path: &str) -> Result<Place<'_>, Error> {
        Ok(match path {
            "/" | "" => Place::Root,
            "/machine" | "machine" => Place::Machine,
            "/objects" | "objects" => Place::Container,
            "/backend" | "backend" => Place::Container,
            _ => {
                let id = path.strip_prefix("/objects/").unwrap_or(path);
                let object = self.objects.iter().find(|object| object.id == id);
                Place::Object(object.ok_or_else(|| Error::device_not_found(path))?)
            }
        })
    }

    fn kind(place: &Place<'_>) -> &'static str {
        match place {
            Place::Root | Place::Container => "container",
            Place::Machine => Self::MACHINE_TYPE,
            Place::Object(object) => object.kind,
        }
    }

    /// Checks the properties of a new object, and returns its size where it has one.
    fn properties(
        kind: &str,
        known: &[(&'static str, bool)],
        given: Option<Any<'_>>,
    ) -> Result<(u64, Vec<&'static str>), Error> {
        let given = match given {
            None => Json::EMPTY,
            Some(Any::Value(Value::Object(object))) => object,
            Some(_) => return Err(Error::invalid_parameter_type("props", "dict")),
        };
        let (mut size, mut found) = (0, Vec::new());
        for (name, value) in given.ordered() {
            let Some(&(name, integer)) = known.iter().find(|(known, _)| *known == name) else {
                return Err(Error::generic(format_args!("Property '.{name}' not found")));
            };
            found.push(name);
            match value {
                Value::Int(0) if integer => {
                    return Err(Error::generic(format_args!(
                        "Property '{kind}.{name}' doesn't take value '0'"
                    )));
                }
                Value::Int(number) if integer => size = number as u64,
                _ if integer => return Err(Error::invalid_parameter_type(name, "integer")),
                Value::Str(_) => {}
                _ => return Err(Error::invalid_parameter_type(name, "string")),
            }
        }
        Ok((size, found))
    }
}

impl Objects for Model {
    fn qom_list(
        &mut self,
        arguments: QomListArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<ObjectPropertyInfo<'_>> {
        let property = |name, kind| ObjectPropertyInfo { name, kind };
        let root: &[(&str, &str)] = &[
            ("objects", "child<container>"),
            ("type", "string"),
            ("machine", "child<pc-i440fx-2.8-machine>"),
            ("backend", "child<container>"),
        ];
        let is_objects = arguments.path.ends_with("objects");
        let found = match self.place(arguments.path)? {
            Place::Root => root.get(index).map(|&(name, kind)| property(name, kind)),
            _ if index == 0 => Some(property("type", "string")),
            Place::Container if is_objects => self.objects.get(index - 1).map(|object| {
                let kind = match object.kind {
                    "iothread" => "child<iothread>",
                    "memory-backend-ram" => "child<memory-backend-ram>",
                    "rng-random" => "child<rng-random>",
                    _ => "child<secret>",
                };
                property(&object.id, kind)
            }),
            _ => None,
        };
        Ok(found)
    }

    fn qom_get(&mut self, arguments: QomGetArgs<'_>, _: &mut Context<'_>) -> Poll<Any<'_>> {
        static TYPES: [Text; 6] = [
            Text("container"),
            Text(Model::MACHINE_TYPE),
            Text("iothread"),
            Text("memory-backend-ram"),
            Text("rng-random"),
            Text("secret"),
        ];
        let place = self.place(arguments.path)?;
        if arguments.property != "type" {
            return refused(Error::generic(format_args!("Property '.{}' not found", arguments.property)));
        }
        let kind = Self::kind(&place);
        match TYPES.iter().find(|text| text.0 == kind) {
            Some(text) => Ok(Any::With(text)),
            None => refused(Error::io()),
        }
    }

    fn qom_set(&mut self, arguments: QomSetArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        self.place(arguments.path)?;
        if arguments.property != "type" {
            return refused(Error::generic(format_args!("Property '.{}' not found", arguments.property)));
        }
        refused(Error::text("Insufficient permission to perform this operation"))
    }

    fn qom_list_types(
        &mut self,
        arguments: QomListTypesArgs<'_>,
        index: usize,
        _: &mut Context<'_>,
    ) -> Element<ObjectTypeInfo<'_>> {
        let of = |kind: &str| match kind {
            "memory-backend-ram" => "memory-backend",
            "rng-random" => "rng-backend",
            _ => "object",
        };
        let mut found = KINDS.iter().map(|(kind, _)| *kind).filter(|kind| {
            arguments.implements.is_none_or(|wanted| [*kind, of(kind), "object"].contains(&wanted))
        });
        Ok(found.nth(index).map(|name| ObjectTypeInfo { name }))
    }

    fn device_add(&mut self, arguments: Json<'_>, _: &mut Context<'_>) -> Poll<()> {
        // Values of any kind become text, as `-device` would have them.
        match arguments.get("driver") {
            None => refused(Error::missing_parameter("driver")),
            Some(Value::Str(driver)) => {
                refused(Error::generic(format_args!("'{driver}' is not a valid device model name")))
            }
            Some(Value::Int(driver)) => {
                refused(Error::generic(format_args!("'{driver}' is not a valid device model name")))
            }
            Some(_) => refused(Error::invalid_parameter_type("driver", "string")),
        }
    }

    fn device_del(&mut self, arguments: DeviceDelArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        match self.place(arguments.id) {
            Ok(Place::Object(_)) | Err(_) => refused(Error::device_not_found(arguments.id)),
            Ok(_) => refused(Error::generic(format_args!("{} is not a hotpluggable device", arguments.id))),
        }
    }

    fn object_add(&mut self, arguments: ObjectAddArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let ObjectAddArgs { qom_type, id, props } = arguments;
        if props.is_some_and(|props| !matches!(props, Any::Value(Value::Object(_)))) {
            return refused(Error::invalid_parameter_type("props", "dict"));
        }
        let Some(&(kind, known)) = KINDS.iter().find(|(kind, _)| *kind == qom_type) else {
            if OTHERS.contains(&qom_type) {
                return refused(Error::generic(format_args!(
                    "object type '{qom_type}' isn't supported by object-add"
                )));
            }
            return refused(Error::generic(format_args!("invalid object type: {qom_type}")));
        };
        let (size, found) = Self::properties(kind, known, props)?;
        if self.objects.iter().any(|object| object.id == id) {
            return refused(Error::generic(format_args!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            )));
        }
        match (kind, found.contains(&"data"), found.contains(&"file")) {
            ("memory-backend-ram", ..) if size == 0 => {
                return refused(Error::text("can't create backend with size 0"));
            }
            ("secret", false, false) => {
                return refused(Error::text("Either 'file' or 'data' must be provided"));
            }
            ("secret", true, true) => {
                return refused(Error::text("'file' and 'data' are mutually exclusive"));
            }
            _ if self.objects.len() >= MAX_OBJECTS => {
                return refused(Error::generic(format_args!("There are {MAX_OBJECTS} objects already")));
            }
            _ => {}
        }
        self.objects.push(Object { id: id.into(), kind, size });
        Ok(())
    }

    fn object_del(&mut self, arguments: ObjectDelArgs<'_>, _: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.objects.iter().position(|object| object.id == arguments.id) else {
            return refused(Error::generic(format_args!("object '{}' not found", arguments.id)));
        };
        self.objects.remove(at);
        Ok(())
    }
}
