//! The notation in which the schema is written: `types!`, `commands!` and `events!`.
//!
//! A declaration is ordinary Rust as far as it can be. What it adds is the name on the wire, where that is no Rust
//! identifier (`cpu_index as "cpu-index": Option<i64>`), and the union forms of QAPI:
//!
//! ```text
//! types! {
//!     /// What it is.
//!     enum RunState { Debug = "debug", InternalError = "internal-error" }
//!     struct NameInfo<'a> { name: Option<&'a str> }
//!     union CpuInfo<'a> {                       // flat: the branch's members stand beside the base's
//!         base { current: bool, arch: CpuInfoArch }
//!         match "arch" => branch: CpuInfoBranch { X86(CpuInfoX86) = "x86" }
//!     }
//!     simple KeyValue: KeyValueKind { Number(i64) = "number" }   // {"type": …, "data": …}
//!     alternate BlockdevRef<'a> { Reference(&'a str) }           // told apart by the JSON type
//! }
//! commands! {
//!     MEMSAVE = "memsave"(MemsaveArgs<'a> { val: i64, size: i64, filename: &'a str });
//!     QUERY_NAME = "query-name" -> NameInfo;
//! }
//! events! {
//!     RTC_CHANGE = RtcChange { offset: i64 } throttle;
//! }
//! ```
//!
//! Each item gives a typed structure, its printing in QEMU's key order, its reading from visited arguments, and a
//! constant descriptor (`DECL`) from which `tables` are linked.

/// The name on the wire of a member: the given one, or the field's own.
macro_rules! wire {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $wire:literal) => {
        $wire
    };
}

/// Declares types; see the module.
macro_rules! types {
    ($( $(#[doc = $doc:literal])* $kind:ident $name:ident $(<$lt:lifetime>)? $(: $tag:ident)? { $($body:tt)* } )*) => {
        $( item! { $kind [$($doc)*] $name [$($lt)?] [$($tag)?] { $($body)* } } )*
        /// The types declared here.
        pub(crate) const TYPES: &[$crate::schema::decl::TypeDecl] =
            &[$( $name::DECL, $($tag::DECL,)? )*];
    };
}

/// Forwards one item of `types!` to the macro of its kind.
macro_rules! item {
    (enum [$($doc:literal)*] $name:ident [] [] { $($body:tt)* }) => {
        enum_item! { [$($doc)*] $name { $($body)* } }
    };
    (struct [$($doc:literal)*] $name:ident [$($lt:lifetime)?] [] { $($body:tt)* }) => {
        struct_item! { [$($doc)*] $name [$($lt)?] { $($body)* } }
    };
    (union [$($doc:literal)*] $name:ident [$($lt:lifetime)?] [] { $($body:tt)* }) => {
        union_item! { [$($doc)*] $name [$($lt)?] { $($body)* } }
    };
    (simple [$($doc:literal)*] $name:ident [$($lt:lifetime)?] [$tag:ident] { $($body:tt)* }) => {
        simple_item! { [$($doc)*] $name [$($lt)?] $tag { $($body)* } }
    };
    (alternate [$($doc:literal)*] $name:ident [$($lt:lifetime)?] [] { $($body:tt)* }) => {
        alternate_item! { [$($doc)*] $name [$($lt)?] { $($body)* } }
    };
}

/// Ties a type to its name, and its printing to [`crate::json::Emit`].
macro_rules! named {
    ($name:ident [$($lt:lifetime)?]) => {
        impl $(<$lt>)? $crate::json::Emit for $name $(<$lt>)? {
            fn emit(&self, writer: &mut $crate::json::Writer<'_>) {
                $crate::schema::value::Qapi::print(self, writer);
            }
        }
    };
}

/// `impl Decode` with the lifetime of what is read, whether the type has one or not.
macro_rules! decode {
    ($name:ident [] |$value:ident| $body:expr) => {
        impl<'de> $crate::schema::value::Decode<'de> for $name {
            // One copy each, not one at every use: commands are rare and images small.
            #[inline(never)]
            fn decode($value: $crate::json::Value<'de>) -> Option<Self> {
                $body
            }
        }
    };
    ($name:ident [$lt:lifetime] |$value:ident| $body:expr) => {
        impl<$lt> $crate::schema::value::Decode<$lt> for $name<$lt> {
            #[inline(never)]
            fn decode($value: $crate::json::Value<$lt>) -> Option<Self> {
                $body
            }
        }
    };
}

/// A set of words.
macro_rules! enum_item {
    ([$($doc:literal)*] $name:ident { $( $(#[doc = $vdoc:literal])* $variant:ident = $word:literal ),* $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $(
                #[doc = concat!("`", $word, "`")]
                $(#[doc = $vdoc])*
                $variant,
            )*
        }
        impl $name {
            /// How the schema describes this type.
            pub const DECL: $crate::schema::decl::TypeDecl = $crate::schema::decl::TypeDecl {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),*),
                shape: $crate::schema::decl::Shape::Enum(&[$(
                    $crate::schema::decl::WordDecl { word: $word, doc: concat!($($vdoc, "\n"),*) },
                )*]),
            };
            /// Every value, in the order of the schema.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// Its words in the schema's tables, in the order of the values.
            const WORDS: $crate::schema::Words = $crate::schema::Words::of(stringify!($name));
            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                Self::WORDS.word(self as usize)
            }
            /// The value of a word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.get(Self::WORDS.find(word)?).copied()
            }
        }
        impl $crate::schema::value::Qapi for $name {
            const TYPE: $crate::schema::decl::TypeRef = $crate::schema::decl::TypeRef::one(stringify!($name));
            fn print(&self, writer: &mut $crate::json::Writer<'_>) {
                writer.string(self.as_str());
            }
        }
        decode! { $name [] |value| match value {
            $crate::json::Value::Str(word) => Self::from_word(word),
            _ => None,
        } }
        named! { $name [] }
    };
}

/// Descriptors of members.
macro_rules! members {
    ($( [$($doc:literal)*] $field:ident [$($wire:literal)?] $ty:ty; )*) => {
        &[$(
            $crate::schema::decl::MemberDecl {
                name: wire!($field $($wire)?),
                ty: <$ty as $crate::schema::value::Qapi>::TYPE,
                optional: <$ty as $crate::schema::value::Qapi>::OPTIONAL,
                doc: concat!($($doc, "\n"),*),
            },
        )*]
    };
}

/// `impl Members`: the keys in printing order, and how to print each.
macro_rules! members_impl {
    ($name:ident [$($lt:lifetime)?] $( $field:ident [$($wire:literal)?] )*) => {
        impl $(<$lt>)? $crate::schema::value::Members for $name $(<$lt>)? {
            const KEYS: &'static [$crate::schema::value::Key] =
                &$crate::schema::value::sorted([$(wire!($field $($wire)?)),*]);
            // Inside of the loop that calls it, all members would be loaded beforehand.
            #[inline(never)]
            fn put_member(&self, index: u8, writer: &mut $crate::json::Writer<'_>) {
                let mut members = 0u8..;
                $(
                    if Some(index) == members.next() {
                        return $crate::schema::value::Qapi::put(&self.$field, wire!($field $($wire)?), writer);
                    }
                )*
                let _ = (index, members.next(), writer);
            }
        }
    };
}

/// An object.
macro_rules! struct_item {
    ([$($doc:literal)*] $name:ident [$($lt:lifetime)?] {
        $( $(#[doc = $mdoc:literal])* $field:ident $(as $wire:literal)? : $ty:ty ),* $(,)?
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name $(<$lt>)? {
            $(
                #[doc = concat!("`", wire!($field $($wire)?), "`")]
                $(#[doc = $mdoc])*
                pub $field: $ty,
            )*
        }
        impl $(<$lt>)? $name $(<$lt>)? {
            /// How the schema describes this type.
            pub const DECL: $crate::schema::decl::TypeDecl = $crate::schema::decl::TypeDecl {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),*),
                shape: $crate::schema::decl::Shape::Struct(
                    members!($( [$($mdoc)*] $field [$($wire)?] $ty; )*)
                ),
            };
        }
        impl $(<$lt>)? $crate::schema::value::Qapi for $name $(<$lt>)? {
            const TYPE: $crate::schema::decl::TypeRef = $crate::schema::decl::TypeRef::one(stringify!($name));
            fn print(&self, writer: &mut $crate::json::Writer<'_>) {
                $crate::schema::value::print_object(self, writer);
            }
        }
        members_impl! { $name [$($lt)?] $( $field [$($wire)?] )* }
        decode! { $name [$($lt)?] |value| {
            let $crate::json::Value::Object(object) = value else { return None };
            let _ = &object;
            Some(Self { $( $field: $crate::schema::value::member(&object, wire!($field $($wire)?))?, )* })
        } }
        named! { $name [$($lt)?] }
    };
}

/// A flat union: base members, one of which (the tag) says which branch's members follow in the same object.
macro_rules! union_item {
    ([$($doc:literal)*] $name:ident [$($lt:lifetime)?] {
        base { $( $(#[doc = $mdoc:literal])* $field:ident $(as $wire:literal)? : $ty:ty ),* $(,)? }
        match $tag:literal => $branch:ident : $branches:ident $(<$blt:lifetime>)? {
            $( $(#[doc = $bdoc:literal])* $variant:ident($bty:ty) = $word:literal ),* $(,)?
        }
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name $(<$lt>)? {
            $(
                #[doc = concat!("`", wire!($field $($wire)?), "`")]
                $(#[doc = $mdoc])*
                pub $field: $ty,
            )*
            #[doc = concat!("The members that depend on `", $tag, "`.")]
            pub $branch: $branches $(<$blt>)?,
        }
        #[doc = concat!("The branches of [`", stringify!($name), "`].")]
        #[derive(Clone, Copy, Debug)]
        pub enum $branches $(<$blt>)? {
            $(
                #[doc = concat!("`", $word, "`")]
                $(#[doc = $bdoc])*
                $variant($bty),
            )*
        }
        impl $(<$lt>)? $name $(<$lt>)? {
            /// How the schema describes this type.
            pub const DECL: $crate::schema::decl::TypeDecl = $crate::schema::decl::TypeDecl {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),*),
                shape: $crate::schema::decl::Shape::Union {
                    members: members!($( [$($mdoc)*] $field [$($wire)?] $ty; )*),
                    tag: $tag,
                    branches: &[$(
                        $crate::schema::decl::BranchDecl {
                            word: $word,
                            ty: <$bty as $crate::schema::value::Qapi>::TYPE,
                        },
                    )*],
                },
            };
        }
        impl $(<$lt>)? $crate::schema::value::Qapi for $name $(<$lt>)? {
            const TYPE: $crate::schema::decl::TypeRef = $crate::schema::decl::TypeRef::one(stringify!($name));
            fn print(&self, writer: &mut $crate::json::Writer<'_>) {
                match &self.$branch {
                    $( $branches::$variant(branch) => $crate::schema::value::print_union(self, branch, writer), )*
                }
            }
        }
        members_impl! { $name [$($lt)?] $( $field [$($wire)?] )* }
        decode! { $name [$($lt)?] |value| {
            let $crate::json::Value::Object(object) = value else { return None };
            let $branch = match object.get($tag) {
                $( Some($crate::json::Value::Str($word)) =>
                    $branches::$variant($crate::schema::value::Decode::decode(value)?), )*
                _ => return None,
            };
            Some(Self {
                $( $field: $crate::schema::value::member(&object, wire!($field $($wire)?))?, )*
                $branch,
            })
        } }
        named! { $name [$($lt)?] }
    };
}

/// A simple union: `{"type": word, "data": value}`.
macro_rules! simple_item {
    ([$($doc:literal)*] $name:ident [$($lt:lifetime)?] $kind:ident {
        $( $(#[doc = $bdoc:literal])* $variant:ident($bty:ty) = $word:literal ),* $(,)?
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name $(<$lt>)? {
            $(
                #[doc = concat!("`", $word, "`")]
                $(#[doc = $bdoc])*
                $variant($bty),
            )*
        }
        enum_item! { ["The `type` of the union that goes by the same name."] $kind { $( $variant = $word ),* } }
        impl $(<$lt>)? $name $(<$lt>)? {
            /// How the schema describes this type.
            pub const DECL: $crate::schema::decl::TypeDecl = $crate::schema::decl::TypeDecl {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),*),
                shape: $crate::schema::decl::Shape::Simple {
                    kind: <$kind as $crate::schema::value::Qapi>::TYPE,
                    branches: &[$(
                        $crate::schema::decl::BranchDecl {
                            word: $word,
                            ty: <$bty as $crate::schema::value::Qapi>::TYPE,
                        },
                    )*],
                },
            };
            /// Which branch this is.
            pub const fn kind(&self) -> $kind {
                match self { $( Self::$variant(_) => $kind::$variant ),* }
            }
        }
        impl $(<$lt>)? $crate::schema::value::Qapi for $name $(<$lt>)? {
            const TYPE: $crate::schema::decl::TypeRef = $crate::schema::decl::TypeRef::one(stringify!($name));
            fn print(&self, writer: &mut $crate::json::Writer<'_>) {
                match self {
                    $( Self::$variant(data) => $crate::schema::value::print_simple($word, data, writer), )*
                }
            }
        }
        decode! { $name [$($lt)?] |value| {
            let $crate::json::Value::Object(object) = value else { return None };
            match object.get("type") {
                $( Some($crate::json::Value::Str($word)) =>
                    Some(Self::$variant($crate::schema::value::member(&object, "data")?)), )*
                _ => None,
            }
        } }
        named! { $name [$($lt)?] }
    };
}

/// An alternate: one of several types, told apart by the JSON type of the value.
macro_rules! alternate_item {
    ([$($doc:literal)*] $name:ident [$($lt:lifetime)?] {
        $( $(#[doc = $bdoc:literal])* $variant:ident($bty:ty) ),* $(,)?
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name $(<$lt>)? {
            $(
                $(#[doc = $bdoc])*
                $variant($bty),
            )*
        }
        impl $(<$lt>)? $name $(<$lt>)? {
            /// How the schema describes this type.
            pub const DECL: $crate::schema::decl::TypeDecl = $crate::schema::decl::TypeDecl {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),*),
                shape: $crate::schema::decl::Shape::Alternate(
                    &[$( <$bty as $crate::schema::value::Qapi>::TYPE ),*]
                ),
            };
        }
        impl $(<$lt>)? $crate::schema::value::Qapi for $name $(<$lt>)? {
            const TYPE: $crate::schema::decl::TypeRef = $crate::schema::decl::TypeRef::one(stringify!($name));
            fn print(&self, writer: &mut $crate::json::Writer<'_>) {
                match self { $( Self::$variant(value) => $crate::schema::value::Qapi::print(value, writer), )* }
            }
        }
        decode! { $name [$($lt)?] |value| {
            $( if let Some(found) = <$bty as $crate::schema::value::Decode<'_>>::decode(value) {
                return Some(Self::$variant(found));
            } )*
            None
        } }
        named! { $name [$($lt)?] }
    };
}

/// Declares commands, with their argument structures; see the module.
macro_rules! commands {
    ($(
        $(#[doc = $doc:literal])*
        $id:ident = $wire:literal $($free:ident)?
            $(( $args:ident $(<$lt:lifetime>)? $({ $($body:tt)* })? ))?
            $(-> $ret:ty)? ;
    )*) => {
        $( inline_arguments! { $wire $($args [$($lt)?] $({ $($body)* })?)? } )*
        impl $crate::schema::Command {
            $(
                #[doc = concat!("`", $wire, "`:")]
                $(#[doc = $doc])*
                pub const $id: $crate::schema::Command = $crate::schema::Command::named($wire);
            )*
        }
        /// The commands declared here.
        pub(crate) const COMMANDS: &[$crate::schema::decl::CommandDecl] = &[$(
            $crate::schema::decl::CommandDecl {
                name: $wire,
                doc: concat!($($doc, "\n"),*),
                free: decl_is_free!($($free)?),
                arguments: type_of!($($args)?),
                inline: decl_of!($($args $({ $($body)* })?)?),
                returns: type_of!($($ret)?),
            },
        )*];
    };
}

/// The structure of arguments that are declared on the spot.
macro_rules! inline_arguments {
    ($wire:literal $($args:ident [$($lt:lifetime)?])?) => {};
    ($wire:literal $args:ident [$($lt:lifetime)?] { $($body:tt)* }) => {
        struct_item! { ["Arguments of this command:" $wire] $args [$($lt)?] { $($body)* } }
    };
}

/// The descriptor of a structure that is declared on the spot.
macro_rules! decl_of {
    ($($name:ident)?) => {
        None
    };
    ($name:ident { $($body:tt)* }) => {
        Some($name::DECL)
    };
}

/// `free`: the arguments are options in any form, which the handler reads itself.
macro_rules! decl_is_free {
    () => {
        false
    };
    (free) => {
        true
    };
}

/// The name of a type, if there is one.
macro_rules! type_of {
    () => {
        None
    };
    ($ty:ty) => {
        Some(<$ty as $crate::schema::value::Qapi>::TYPE)
    };
}

/// Declares events, with the structures of their data; see the module.
macro_rules! events {
    ($(
        $(#[doc = $doc:literal])*
        $id:ident = $name:ident $(<$lt:lifetime>)? { $($body:tt)* } $($throttle:ident $(by $by:ident $key:literal)?)? ;
    )*) => {
        $( struct_item! { [$($doc)*] $name [$($lt)?] { $($body)* } } )*
        $( impl $(<$lt>)? $crate::schema::EventData for $name $(<$lt>)? {
            const EVENT: $crate::schema::Event = $crate::schema::Event::$id;
            const HAS_DATA: bool = !<Self as $crate::schema::value::Members>::KEYS.is_empty();
            $($(
                fn throttle_key(&self) -> &str {
                    self.$by
                }
            )?)?
        } )*
        impl $crate::schema::Event {
            $(
                $(#[doc = $doc])*
                pub const $id: $crate::schema::Event = $crate::schema::Event::named(stringify!($id));
            )*
        }
        /// The events declared here.
        pub(crate) const EVENTS: &[$crate::schema::decl::EventDecl] = &[$(
            $crate::schema::decl::EventDecl {
                name: stringify!($id),
                doc: concat!($($doc, "\n"),*),
                throttle: throttle_of!($($throttle $($key)?)?),
                data: $name::DECL,
            },
        )*];
    };
}

/// How often an event may be sent.
macro_rules! throttle_of {
    () => {
        $crate::schema::decl::Throttle::None
    };
    (throttle) => {
        $crate::schema::decl::Throttle::Rate
    };
    (throttle $key:literal) => {
        $crate::schema::decl::Throttle::RatePerKey($key)
    };
}
