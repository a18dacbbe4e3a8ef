//! What a declaration says, as constants. Only the linking of `tables` and the reference documentation read
//! these; no board image holds them.

/// The type of a member, an argument or a result.
#[derive(Clone, Copy, Debug)]
pub struct TypeRef {
    /// The name of the type, or of the element type of a list.
    pub name: &'static str,
    /// Whether it is a list.
    pub list: bool,
}

impl TypeRef {
    /// A type by its name.
    pub const fn one(name: &'static str) -> Self {
        Self { name, list: false }
    }

    /// The list of a type.
    pub const fn list(self) -> Self {
        Self { name: self.name, list: true }
    }
}

/// A member of an object.
#[derive(Clone, Copy, Debug)]
pub struct MemberDecl {
    /// Its key.
    pub name: &'static str,
    /// Its type.
    pub ty: TypeRef,
    /// Whether it may be left out.
    pub optional: bool,
    /// What it is; may be empty.
    pub doc: &'static str,
}

/// A word of an enumeration.
#[derive(Clone, Copy, Debug)]
pub struct WordDecl {
    /// The word.
    pub word: &'static str,
    /// What it means; may be empty.
    pub doc: &'static str,
}

/// A branch of a union.
#[derive(Clone, Copy, Debug)]
pub struct BranchDecl {
    /// The value of the tag.
    pub word: &'static str,
    /// The type of what goes with it.
    pub ty: TypeRef,
}

/// The form of a type.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A set of words.
    Enum(&'static [WordDecl]),
    /// An object.
    Struct(&'static [MemberDecl]),
    /// A flat union.
    Union {
        /// The members all branches have.
        members: &'static [MemberDecl],
        /// The member that selects the branch.
        tag: &'static str,
        /// The branches, each an object.
        branches: &'static [BranchDecl],
    },
    /// A simple union: members `type` and `data`.
    Simple {
        /// The enumeration of the branches.
        kind: TypeRef,
        /// The branches; any type.
        branches: &'static [BranchDecl],
    },
    /// One of several types with different JSON types.
    Alternate(&'static [TypeRef]),
}

/// A type.
#[derive(Clone, Copy, Debug)]
pub struct TypeDecl {
    /// Its name, which never stands on the wire.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Its form.
    pub shape: Shape,
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct CommandDecl {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Whether the arguments are free options that no visitor checks.
    pub free: bool,
    /// The type of its arguments; `None`: no member is allowed.
    pub arguments: Option<TypeRef>,
    /// That type, where it is declared with the command.
    pub inline: Option<TypeDecl>,
    /// The type of its result; `None`: an empty object.
    pub returns: Option<TypeRef>,
}

/// How often an event may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttle {
    /// As often as it happens.
    None,
    /// Once a second.
    Rate,
    /// Once a second for each value of this member of its data.
    RatePerKey(&'static str),
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub struct EventDecl {
    /// Its name.
    pub name: &'static str,
    /// When it is sent.
    pub doc: &'static str,
    /// How often it may be sent.
    pub throttle: Throttle,
    /// Its data.
    pub data: TypeDecl,
}

/// Everything that one file declares.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The file's name without its ending.
    pub name: &'static str,
    /// The types.
    pub types: &'static [TypeDecl],
    /// The commands.
    pub commands: &'static [CommandDecl],
    /// The events.
    pub events: &'static [EventDecl],
}
