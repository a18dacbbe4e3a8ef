//! How typed values are read from visited arguments and printed in QEMU's key order.

use core::marker::PhantomData;

use crate::json::{Array, Elements, Emit, Object, Value, Writer, bucket};

use super::decl::TypeRef;

/// A type that the schema knows.
pub trait Qapi {
    /// Its name there.
    const TYPE: TypeRef;
    /// Whether a member of this type may be left out.
    const OPTIONAL: bool = false;
    /// Prints the value.
    fn print(&self, writer: &mut Writer<'_>);
    /// Prints the value as a member of an object, or nothing where it is left out.
    fn put(&self, key: &str, writer: &mut Writer<'_>) {
        writer.key(key);
        self.print(writer);
    }
}

/// Reads a value that the visitor has passed. `None` is an input that it would have refused.
pub trait Decode<'a>: Sized {
    /// Reads the value.
    fn decode(value: Value<'a>) -> Option<Self>;
    /// What a member that is left out stands for.
    fn absent() -> Option<Self> {
        None
    }
}

/// Reads one member of an object.
#[inline(never)]
pub fn member<'a, T: Decode<'a>>(object: &Object<'a>, key: &str) -> Option<T> {
    match object.get(key) {
        Some(value) => T::decode(value),
        None => T::absent(),
    }
}

/// Where a member stands when an object is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The hash bucket of its key.
    pub bucket: u16,
    /// Its number in the order of the declaration.
    pub index: u8,
}

/// The printing order of keys that are given in the order of the declaration: ascending bucket, in one bucket the last
/// first.
pub const fn sorted<const N: usize>(names: [&str; N]) -> [Key; N] {
    let mut keys = [Key { bucket: 0, index: 0 }; N];
    let mut i = 0;
    while i < N {
        let key = Key { bucket: bucket(names[i]), index: i as u8 };
        let mut at = i;
        while at > 0 && keys[at - 1].bucket >= key.bucket {
            keys[at] = keys[at - 1];
            at -= 1;
        }
        keys[at] = key;
        i += 1;
    }
    keys
}

/// The members of an object.
pub trait Members {
    /// In printing order.
    const KEYS: &'static [Key];
    /// Prints the member with this number in the order of the declaration.
    fn put_member(&self, index: u8, writer: &mut Writer<'_>);
}

/// Prints an object.
pub fn print_object<T: Members>(value: &T, writer: &mut Writer<'_>) {
    writer.begin_object();
    for key in T::KEYS {
        value.put_member(key.index, writer);
    }
    writer.end_object();
}

/// Prints a flat union: the two sets of members merged. The branch is inserted after the base, so it goes first where
/// both have a key in one bucket.
pub fn print_union<T: Members, B: Members>(base: &T, branch: &B, writer: &mut Writer<'_>) {
    writer.begin_object();
    let mut later = B::KEYS.iter().peekable();
    for key in T::KEYS {
        while let Some(own) = later.next_if(|own| own.bucket <= key.bucket) {
            branch.put_member(own.index, writer);
        }
        base.put_member(key.index, writer);
    }
    for own in later {
        branch.put_member(own.index, writer);
    }
    writer.end_object();
}

/// Prints a simple union.
pub fn print_simple<T: Qapi>(word: &str, data: &T, writer: &mut Writer<'_>) {
    const TYPE_FIRST: bool = sorted(["type", "data"])[0].index == 0;
    writer.begin_object();
    if TYPE_FIRST {
        writer.key("type");
        writer.string(word);
    }
    data.put("data", writer);
    if !TYPE_FIRST {
        writer.key("type");
        writer.string(word);
    }
    writer.end_object();
}

impl<T: Qapi> Qapi for Option<T> {
    const TYPE: TypeRef = T::TYPE;
    const OPTIONAL: bool = true;
    fn print(&self, writer: &mut Writer<'_>) {
        match self {
            Some(value) => value.print(writer),
            None => writer.null(),
        }
    }
    fn put(&self, key: &str, writer: &mut Writer<'_>) {
        if let Some(value) = self {
            value.put(key, writer);
        }
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Option<T> {
    fn decode(value: Value<'a>) -> Option<Self> {
        T::decode(value).map(Some)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

macro_rules! integers {
    ($( $ty:ty, $name:literal, $print:ident, $wide:ty; )*) => { $(
        impl Qapi for $ty {
            const TYPE: TypeRef = TypeRef::one($name);
            fn print(&self, writer: &mut Writer<'_>) {
                writer.$print(<$wide>::from(*self));
            }
        }
        impl<'a> Decode<'a> for $ty {
            fn decode(value: Value<'a>) -> Option<Self> {
                match value {
                    Value::Int(number) => Self::try_from(number).ok(),
                    _ => None,
                }
            }
        }
    )* };
}

integers! {
    i8, "int8", int, i64;
    i16, "int16", int, i64;
    i32, "int32", int, i64;
    i64, "int", int, i64;
    u8, "uint8", int, i64;
    u16, "uint16", int, i64;
    u32, "uint32", int, i64;
}

impl Qapi for u64 {
    const TYPE: TypeRef = TypeRef::one("uint64");
    fn print(&self, writer: &mut Writer<'_>) {
        // Numbers are int64 in QEMU 2.8: what is beyond that wraps to negative ones.
        writer.int(self.cast_signed());
    }
}

impl<'a> Decode<'a> for u64 {
    fn decode(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Int(number) => Some(number.cast_unsigned()),
            _ => None,
        }
    }
}

impl Qapi for f64 {
    const TYPE: TypeRef = TypeRef::one("number");
    fn print(&self, writer: &mut Writer<'_>) {
        writer.double(*self);
    }
}

impl<'a> Decode<'a> for f64 {
    fn decode(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Int(number) => Some(number as f64),
            Value::Double(number) => Some(number.to_f64()),
            _ => None,
        }
    }
}

impl Qapi for bool {
    const TYPE: TypeRef = TypeRef::one("bool");
    fn print(&self, writer: &mut Writer<'_>) {
        writer.bool(*self);
    }
}

impl<'a> Decode<'a> for bool {
    fn decode(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl Qapi for &str {
    const TYPE: TypeRef = TypeRef::one("str");
    fn print(&self, writer: &mut Writer<'_>) {
        writer.string(self);
    }
}

impl<'a> Decode<'a> for &'a str {
    fn decode(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }
}

impl<T: Qapi> Qapi for [T] {
    const TYPE: TypeRef = T::TYPE.list();
    fn print(&self, writer: &mut Writer<'_>) {
        writer.begin_array();
        for item in self {
            item.print(writer);
        }
        writer.end_array();
    }
}

/// Elements that are made from something in memory, and may borrow from it.
pub trait Source<'a, T> {
    /// The element of this index, if there is one.
    fn item(&'a self, index: usize) -> Option<T>;
}

/// A list inside of arguments or of a result.
pub enum List<'a, T> {
    /// Elements of the arguments, read one by one.
    Array(Array<'a>),
    /// Elements that lie in memory.
    Slice(&'a [T]),
    /// Elements made when asked for, up to the first `None`.
    With(&'a dyn Fn(usize) -> Option<T>),
    /// The same, made by something in memory.
    From(&'a dyn Source<'a, T>),
}

impl<T> List<'_, T> {
    /// The empty list.
    pub const EMPTY: Self = Self::Slice(&[]);
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> core::fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("[…]")
    }
}

impl<'a, T: Decode<'a> + Copy + 'a> List<'a, T> {
    /// The elements.
    pub fn iter(&self) -> Items<'a, T> {
        let elements = match *self {
            Self::Array(array) => array.iter(),
            _ => Elements::default(),
        };
        Items { list: *self, elements, next: 0 }
    }
}

impl<'a, T> List<'a, T> {
    /// The element of this index, where elements are made when asked for.
    fn made(&self, index: usize) -> Option<T> {
        match *self {
            Self::With(with) => with(index),
            Self::From(from) => from.item(index),
            Self::Array(_) | Self::Slice(_) => None,
        }
    }
}

/// Iterator over the elements of a [`List`].
#[derive(Clone, Copy, Debug)]
pub struct Items<'a, T> {
    list: List<'a, T>,
    /// What is left, where they are part of the arguments.
    elements: Elements<'a>,
    /// The index of the next one, elsewhere.
    next: usize,
}

impl<'a, T: Decode<'a> + Copy + 'a> Iterator for Items<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let index = self.next;
        self.next = index.saturating_add(1);
        match self.list {
            List::Array(_) => self.elements.find_map(T::decode),
            List::Slice(slice) => slice.get(index).copied(),
            made => made.made(index),
        }
    }
}

impl<T: Qapi> Qapi for List<'_, T> {
    const TYPE: TypeRef = T::TYPE.list();
    fn print(&self, writer: &mut Writer<'_>) {
        match *self {
            Self::Array(array) => Value::Array(array).emit(writer),
            Self::Slice(slice) => slice.print(writer),
            made => {
                writer.begin_array();
                for item in (0..).map_while(|index| made.made(index)) {
                    item.print(writer);
                }
                writer.end_array();
            }
        }
    }
}

impl<'a, T> Decode<'a> for List<'a, T> {
    fn decode(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Array(array) => Some(Self::Array(array)),
            _ => None,
        }
    }
}

/// An object inside of one of its own type, or one that is read only when somebody asks for it.
pub enum Boxed<'a, T> {
    /// Part of the arguments, read by [`Boxed::get`].
    Object(Object<'a>),
    /// The element of this index, made by something in memory when it is asked for.
    From(&'a dyn Source<'a, T>, usize),
}

impl<T> Clone for Boxed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Boxed<'_, T> {}

impl<T> core::fmt::Debug for Boxed<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("{…}")
    }
}

impl<'a, T: Decode<'a> + Copy> Boxed<'a, T> {
    /// The object; `None` only where it was never visited, or is not there.
    pub fn get(&self) -> Option<T> {
        match *self {
            Self::Object(object) => T::decode(Value::Object(object)),
            Self::From(from, index) => from.item(index),
        }
    }
}

impl<T: Qapi> Qapi for Boxed<'_, T> {
    const TYPE: TypeRef = T::TYPE;
    fn print(&self, writer: &mut Writer<'_>) {
        match *self {
            Self::Object(object) => Value::Object(object).emit(writer),
            Self::From(from, index) => from.item(index).print(writer),
        }
    }
}

impl<'a, T> Decode<'a> for Boxed<'a, T> {
    fn decode(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Object(object) => Some(Self::Object(object)),
            _ => None,
        }
    }
}

/// A value of any JSON type.
#[derive(Clone, Copy)]
pub enum Any<'a> {
    /// From the arguments.
    Value(Value<'a>),
    /// Made by a handler.
    With(&'a dyn crate::json::Emit),
}

/// A value of type `T` that is printed by what it is made of. It stands for values that few products have: nothing of
/// their printing is linked where they are not made.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a, T>(Any<'a>, PhantomData<T>);

impl<'a, T> Made<'a, T> {
    /// What `value` prints, which is to be as the schema has `T`.
    pub const fn new(value: &'a dyn crate::json::Emit) -> Self {
        Self(Any::With(value), PhantomData)
    }
}

impl<T: Qapi> Qapi for Made<'_, T> {
    const TYPE: TypeRef = T::TYPE;
    fn print(&self, writer: &mut Writer<'_>) {
        self.0.print(writer);
    }
}

impl<'a, T> Decode<'a> for Made<'a, T> {
    fn decode(value: Value<'a>) -> Option<Self> {
        Some(Self(Any::Value(value), PhantomData))
    }
}

impl core::fmt::Debug for Any<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("…")
    }
}

impl Qapi for Any<'_> {
    const TYPE: TypeRef = TypeRef::one("any");
    fn print(&self, writer: &mut Writer<'_>) {
        match *self {
            Self::Value(value) => value.emit(writer),
            Self::With(value) => value.emit(writer),
        }
    }
}

impl<'a> Decode<'a> for Any<'a> {
    fn decode(value: Value<'a>) -> Option<Self> {
        Some(Self::Value(value))
    }
}
