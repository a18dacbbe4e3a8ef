//! What `query-commands`, `query-events` and `query-qmp-schema` answer, made piece by piece from the tables.
//!
//! A reply is 90 KB and no buffer here is: each list is a cursor of a few bytes that fills whatever room there is and
//! goes on from there the next time.

use super::tables::{
    self, Builtin, EMPTY, Entity, Kind, MEMBERS, NO_TAG, ORDER, Ref, TYPES, Type, introspected, text,
};
use super::{Command, Event, Offered};

/// The longest piece. Every name is far shorter than what this leaves room for; a test holds them to it.
const PIECE: usize = 192;

/// Where pieces are put together.
struct Out<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl Out<'_> {
    #[inline]
    fn put(&mut self, text: &str) {
        let end = self.len + text.len();
        if let Some(room) = self.buffer.get_mut(self.len..end) {
            crate::json::copy(room, text.as_bytes());
            self.len = end;
        }
    }

    /// The name of a type: that of the builtin ones, else its number.
    #[inline]
    fn put_type(&mut self, ty: Ref) {
        let ty = if ty.is_none() { EMPTY } else { ty };
        let Some(found) = TYPES.get(introspected(ty.index().min(TYPES.len() - 1), &TYPES)) else { return };
        if ty.is_list() {
            self.put("[");
        }
        match found.kind {
            Kind::Builtin(_) => self.put(text(found.name)),
            _ => self.put_number(found.number),
        }
        if ty.is_list() {
            self.put("]");
        }
    }

    fn put_number(&mut self, number: u16) {
        let mut digits = [0; 5];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at = at.saturating_sub(1);
            if let Some(digit) = digits.get_mut(at) {
                *digit = b'0' + (rest % 10) as u8;
            }
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if let Ok(digits) = str::from_utf8(digits.get(at..).unwrap_or_default()) {
            self.put(digits);
        }
    }
}

/// A list that is made piece by piece.
trait Pieces {
    /// Makes the piece that the cursor is at.
    fn make(&self, offered: &Offered, out: &mut Out<'_>);
    /// Moves on to the next piece that is offered.
    fn advance(&mut self, offered: &Offered);
    /// Whether the last piece is behind the cursor.
    fn done(&self) -> bool;
    /// How much of the piece has been given out before.
    fn given(&mut self) -> &mut u16;
}

/// Fills `out` and says how many bytes that were.
fn fill(list: &mut impl Pieces, offered: &Offered, out: &mut [u8]) -> usize {
    let mut len = 0;
    while !list.done() {
        let room = out.get_mut(len..).unwrap_or_default();
        if *list.given() == 0 && room.len() >= PIECE {
            let mut direct = Out { buffer: room, len: 0 };
            list.make(offered, &mut direct);
            len += direct.len;
            list.advance(offered);
            continue;
        }
        let mut scratch = [0; PIECE];
        let mut piece = Out { buffer: &mut scratch, len: 0 };
        list.make(offered, &mut piece);
        let rest = piece.buffer.get(usize::from(*list.given())..piece.len).unwrap_or_default();
        let fits = rest.len().min(room.len());
        if let (Some(room), Some(rest)) = (room.get_mut(..fits), rest.get(..fits)) {
            crate::json::copy(room, rest);
        }
        len += fits;
        if fits < rest.len() {
            *list.given() += fits as u16;
            break;
        }
        *list.given() = 0;
        list.advance(offered);
    }
    len
}

/// The names of commands or of events.
#[derive(Clone, Copy, Debug)]
struct Names {
    /// How many places are behind the cursor; place 0 opens the list.
    place: u16,
    given: u16,
    events: bool,
}

/// Commands that QEMU registers before all others, so that they stand last in the list.
const FIRST_REGISTERED: [Command; 3] = [Command::NETDEV_ADD, Command::DEVICE_ADD, Command::QUERY_QMP_SCHEMA];

impl Names {
    const fn new(events: bool) -> Self {
        Self { place: 0, given: 0, events }
    }

    /// Names are listed in reverse.
    fn at(place: usize, events: bool, offered: &Offered) -> Option<&'static Entity> {
        if events {
            let event = Event::COUNT.checked_sub(place)? as u8;
            return tables::EVENTS.get(usize::from(event)).filter(|_| offered.has_event(Event(event)));
        }
        let command = match Command::COUNT.checked_sub(place) {
            Some(index) => {
                Some(Command(index as u8)).filter(|command| !FIRST_REGISTERED.contains(command))?
            }
            None => *FIRST_REGISTERED.get(place.checked_sub(Command::COUNT + 1)?)?,
        };
        tables::COMMANDS.get(command.index()).filter(|_| offered.has(command))
    }

    /// The place of the closing bracket.
    fn end(&self) -> u16 {
        let places = if self.events { Event::COUNT } else { Command::COUNT + FIRST_REGISTERED.len() };
        places as u16 + 1
    }

    fn is_first(&self, offered: &Offered) -> bool {
        (1..self.place).all(|place| Self::at(usize::from(place), self.events, offered).is_none())
    }
}

impl Pieces for Names {
    fn make(&self, offered: &Offered, out: &mut Out<'_>) {
        if self.place == 0 {
            return out.put("[");
        }
        if self.place == self.end() {
            return out.put("]");
        }
        if let Some(entity) = Self::at(usize::from(self.place), self.events, offered) {
            out.put(if self.is_first(offered) { "{\"name\": \"" } else { ", {\"name\": \"" });
            out.put(text(entity.name));
            out.put("\"}");
        }
    }

    fn advance(&mut self, _: &Offered) {
        self.place += 1;
    }

    fn done(&self) -> bool {
        self.place > self.end()
    }

    fn given(&mut self) -> &mut u16 {
        &mut self.given
    }
}

/// Defines a list for the outside.
macro_rules! list {
    ($(#[doc = $doc:literal])* $name:ident($inner:ty) = $new:expr) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name($inner);

        impl $name {
            /// At its beginning.
            pub const fn new() -> Self {
                Self($new)
            }

            /// Writes as much of the list as there is room for and says how many bytes that were; 0: it is complete
            /// (or there is no room at all).
            pub fn fill(&mut self, offered: &Offered, out: &mut [u8]) -> usize {
                fill(&mut self.0, offered, out)
            }

            /// Whether all of it has been written.
            pub fn is_complete(&self) -> bool {
                self.0.done()
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }
    };
}

list! {
    /// The result of `query-commands`.
    CommandList(Names) = Names::new(false)
}
list! {
    /// The result of `query-events`.
    EventList(Names) = Names::new(true)
}
list! {
    /// The result of `query-qmp-schema`.
    SchemaList(Schema) = Schema { section: Section::Open, index: 0, part: 0, given: 0, first: true }
}

/// What the schema is made of, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Open,
    Events,
    Commands,
    Types,
    Close,
    Done,
}

/// The cursor in the schema.
#[derive(Clone, Copy, Debug)]
struct Schema {
    section: Section,
    /// Which event, command or type.
    index: u16,
    /// Which part of a type: 0 is its beginning, then come branches, members or words, then its end.
    part: u16,
    given: u16,
    /// Whether this is the first entity that is given out.
    first: bool,
}

impl Schema {
    /// The type at the cursor.
    fn ty(&self) -> Option<(Ref, &'static Type)> {
        let at = *ORDER.get(usize::from(self.index))?;
        Some((at, TYPES.get(at.index())?))
    }

    /// How many parts the type has.
    fn parts(&self) -> u16 {
        match self.ty() {
            Some((at, _)) if at.is_list() => 1,
            Some((_, ty)) if matches!(ty.kind, Kind::Builtin(_)) => 1,
            Some((_, ty)) => 2 + u16::from(ty.branches) + u16::from(ty.count),
            None => 1,
        }
    }

    fn is_offered(&self, offered: &Offered) -> bool {
        match self.section {
            Section::Events => offered.has_event(Event(self.index as u8)),
            Section::Commands => offered.has(Command(self.index as u8)),
            Section::Types => ORDER.get(usize::from(self.index)).is_some_and(|&ty| offered.has_type(ty)),
            _ => true,
        }
    }

    fn len(section: Section) -> usize {
        match section {
            Section::Events => Event::COUNT,
            Section::Commands => Command::COUNT,
            Section::Types => ORDER.len(),
            _ => 1,
        }
    }

    fn make_type(&self, out: &mut Out<'_>) {
        let Some((at, ty)) = self.ty() else { return };
        if at.is_list() {
            out.put("\"");
            out.put_type(at);
            out.put("\", \"element-type\": \"");
            out.put_type(at.element());
            return out.put("\", \"meta-type\": \"array\"}");
        }
        if let Kind::Builtin(builtin) = ty.kind {
            out.put("\"");
            out.put_type(at);
            out.put("\", \"json-type\": \"");
            out.put(match builtin {
                Builtin::Str => "string",
                Builtin::Number => "number",
                Builtin::Bool => "boolean",
                Builtin::Any => "value",
                _ => "int",
            });
            return out.put("\", \"meta-type\": \"builtin\"}");
        }
        let branches = usize::from(ty.branches);
        let part = usize::from(self.part);
        if part == 0 {
            out.put("\"");
            out.put_type(at);
            return match ty.kind {
                Kind::Enum => out.put("\", \"meta-type\": \"enum\", \"values\": ["),
                _ if ty.tag != NO_TAG => {
                    out.put("\", \"tag\": \"");
                    out.put(ty.members().get(usize::from(ty.tag)).map_or("", |tag| text(tag.name)));
                    out.put("\", \"variants\": [");
                }
                _ => out.put("\", \"members\": ["),
            };
        }
        let part = part - 1;
        if part < branches {
            if let Some(branch) = MEMBERS.get(usize::from(ty.first_branch) + part) {
                out.put(if part == 0 { "{\"case\": \"" } else { ", {\"case\": \"" });
                out.put(text(branch.name));
                out.put("\", \"type\": \"");
                out.put_type(branch.ty);
                out.put("\"}");
            }
            return;
        }
        let part = part - branches;
        if part < usize::from(ty.count) {
            if part == 0 && ty.tag != NO_TAG {
                out.put("], \"members\": [");
            }
            if part > 0 {
                out.put(", ");
            }
            return self.make_member(ty, part, out);
        }
        out.put(match ty.kind {
            Kind::Enum => "]}",
            Kind::Alternate => "], \"meta-type\": \"alternate\"}",
            _ => "], \"meta-type\": \"object\"}",
        });
    }

    fn make_member(&self, ty: &Type, part: usize, out: &mut Out<'_>) {
        if ty.kind == Kind::Enum {
            out.put("\"");
            out.put(ty.words().get(part).map_or("", |&word| text(word)));
            return out.put("\"");
        }
        let Some(member) = ty.members().get(part) else { return };
        if ty.kind == Kind::Alternate {
            out.put("{\"type\": \"");
        } else {
            out.put("{\"name\": \"");
            out.put(text(member.name));
            out.put(if member.ty.is_optional() {
                "\", \"default\": null, \"type\": \""
            } else {
                "\", \"type\": \""
            });
        }
        out.put_type(member.ty);
        out.put("\"}");
    }
}

impl Pieces for Schema {
    fn make(&self, _: &Offered, out: &mut Out<'_>) {
        match self.section {
            Section::Open => return out.put("["),
            Section::Close => return out.put("]"),
            Section::Done => return,
            _ => {}
        }
        if self.part == 0 {
            out.put(if self.first { "{\"name\": " } else { ", {\"name\": " });
        }
        match self.section {
            Section::Events => {
                let Some(event) = tables::EVENTS.get(usize::from(self.index)) else { return };
                out.put("\"");
                out.put(text(event.name));
                out.put("\", \"meta-type\": \"event\", \"arg-type\": \"");
                out.put_type(event.arguments);
                out.put("\"}");
            }
            Section::Commands => {
                let Some(command) = tables::COMMANDS.get(usize::from(self.index)) else { return };
                out.put("\"");
                out.put(text(command.name));
                out.put("\", \"ret-type\": \"");
                out.put_type(command.returns);
                out.put("\", \"meta-type\": \"command\", \"arg-type\": \"");
                out.put_type(command.arguments);
                out.put("\"}");
            }
            _ => self.make_type(out),
        }
    }

    fn advance(&mut self, offered: &Offered) {
        if self.section == Section::Types && self.part + 1 < self.parts() {
            self.part += 1;
            return;
        }
        if matches!(self.section, Section::Events | Section::Commands | Section::Types) {
            self.first = false;
        }
        self.part = 0;
        self.index = self.index.saturating_add(1);
        loop {
            if usize::from(self.index) >= Self::len(self.section) {
                self.index = 0;
                self.section = match self.section {
                    Section::Open => Section::Events,
                    Section::Events => Section::Commands,
                    Section::Commands => Section::Types,
                    Section::Types => Section::Close,
                    Section::Close | Section::Done => return self.section = Section::Done,
                };
            } else if self.is_offered(offered) {
                return;
            } else {
                self.index += 1;
            }
        }
    }

    fn done(&self) -> bool {
        self.section == Section::Done
    }

    fn given(&mut self) -> &mut u16 {
        &mut self.given
    }
}
