//! The reference documentation, written from the declarations. `core/COMMANDS.md` is its output; a test says when that
//! is out of date, and how to renew it.

use core::fmt::{Result, Write};

use super::decl::{CommandDecl, EventDecl, MemberDecl, Module, Shape, Throttle, TypeDecl, TypeRef};
use super::{Command, Event, MODULES, Offered};

/// Writes the reference of all commands, events and types, as Markdown.
pub fn reference(out: &mut dyn Write) -> Result {
    out.write_str(
        "# QMP reference\n\n\
         Every command, event and type that is declared, by module. Written from the declarations in `src/schema/`; do\n\
         not edit. Which commands a product offers is what its `query-commands` answers; `cargo xtask commands` lists\n\
         them too.\n\n\
         A member in brackets may be left out. `[T]` is a list of `T`.\n",
    )?;
    for module in MODULES {
        write_module(out, module)?;
    }
    Ok(())
}

/// Writes which commands and events a product offers, and which are declared and not built yet; a name a line.
pub fn status(out: &mut dyn Write, offered: &Offered) -> Result {
    let count = Command::all().filter(|&command| offered.has(command)).count();
    writeln!(out, "Commands offered ({count}):")?;
    for command in Command::all().filter(|&command| offered.has(command)) {
        writeln!(out, "    {}", command.name())?;
    }
    writeln!(out, "Commands declared and not built yet ({}):", Command::COUNT - count)?;
    for command in Command::all().filter(|&command| !offered.has(command)) {
        writeln!(out, "    {}", command.name())?;
    }
    let count = Event::all().filter(|&event| offered.has_event(event)).count();
    writeln!(out, "Events sent ({count}):")?;
    for event in Event::all().filter(|&event| offered.has_event(event)) {
        writeln!(out, "    {}", event.name())?;
    }
    writeln!(out, "Events declared and not sent yet ({}):", Event::COUNT - count)?;
    for event in Event::all().filter(|&event| !offered.has_event(event)) {
        writeln!(out, "    {}", event.name())?;
    }
    Ok(())
}

fn write_module(out: &mut dyn Write, module: &Module) -> Result {
    writeln!(out, "\n## {}", module.name)?;
    for command in module.commands {
        write_command(out, module, command)?;
    }
    for event in module.events {
        write_event(out, event)?;
    }
    for ty in module.types {
        writeln!(out, "\n### {}\n\n{}", ty.name, ty.doc.trim())?;
        write_shape(out, &ty.shape)?;
    }
    Ok(())
}

fn write_command(out: &mut dyn Write, module: &Module, command: &CommandDecl) -> Result {
    writeln!(out, "\n### `{}`\n\n{}", command.name, command.doc.trim())?;
    match (&command.inline, command.arguments) {
        (Some(arguments), _) => write_shape(out, &arguments.shape)?,
        (None, Some(ty)) => writeln!(out, "\nArguments: the members of {}.", Type(ty, module))?,
        (None, None) => {}
    }
    match command.returns {
        Some(ty) => writeln!(out, "\nResult: {}.", Type(ty, module)),
        None => Ok(()),
    }
}

fn write_event(out: &mut dyn Write, event: &EventDecl) -> Result {
    writeln!(out, "\n### {}\n\n{}", event.name, event.doc.trim())?;
    match event.throttle {
        Throttle::None => {}
        Throttle::Rate => writeln!(out, "At most once a second.")?,
        Throttle::RatePerKey(key) => writeln!(out, "At most once a second for each `{key}`.")?,
    }
    write_shape(out, &event.data.shape)
}

fn write_shape(out: &mut dyn Write, shape: &Shape) -> Result {
    match *shape {
        Shape::Enum(words) => {
            out.write_char('\n')?;
            if words.iter().any(|word| !word.doc.is_empty()) {
                for word in words {
                    writeln!(out, "- `{}`{}", word.word, Doc(word.doc))?;
                }
                return Ok(());
            }
            out.write_str("One of")?;
            for (at, word) in words.iter().enumerate() {
                write!(out, "{} `{}`", if at == 0 { "" } else { "," }, word.word)?;
            }
            out.write_str(".\n")
        }
        Shape::Struct(members) => write_members(out, members),
        Shape::Union { members, tag, branches } => {
            write_members(out, members)?;
            writeln!(out, "\nBy `{tag}` come the members of:\n")?;
            for branch in branches {
                writeln!(out, "- `{}`: {}", branch.word, Name(branch.ty))?;
            }
            Ok(())
        }
        Shape::Simple { branches, .. } => {
            out.write_str("\nBy `type`, `data` is:\n\n")?;
            for branch in branches {
                writeln!(out, "- `{}`: {}", branch.word, Name(branch.ty))?;
            }
            Ok(())
        }
        Shape::Alternate(types) => {
            out.write_str("\nBy its JSON type, one of:\n\n")?;
            for &ty in types {
                writeln!(out, "- {}", Name(ty))?;
            }
            Ok(())
        }
    }
}

fn write_members(out: &mut dyn Write, members: &[MemberDecl]) -> Result {
    if !members.is_empty() {
        out.write_char('\n')?;
    }
    for member in members {
        let (open, close) = if member.optional { ("[", "]") } else { ("", "") };
        writeln!(out, "- {open}`{}`{close}: {}{}", member.name, Name(member.ty), Doc(member.doc))?;
    }
    Ok(())
}

/// The name of a type.
struct Name(TypeRef);

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> Result {
        let Self(ty) = self;
        if ty.list { write!(f, "[{}]", ty.name) } else { f.write_str(ty.name) }
    }
}

/// The name of a type, and its module where that is another one.
struct Type<'a>(TypeRef, &'a Module);

impl core::fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> Result {
        let Self(ty, here) = self;
        write!(f, "{}", Name(*ty))?;
        let declares = |module: &&Module| module.types.iter().any(|other: &TypeDecl| other.name == ty.name);
        match MODULES.iter().find(declares) {
            Some(module) if module.name != here.name => write!(f, " (module {})", module.name),
            _ => Ok(()),
        }
    }
}

/// What a member is, if that is said.
struct Doc(&'static str);

impl core::fmt::Display for Doc {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> Result {
        for (at, line) in self.0.lines().enumerate() {
            write!(f, "{}{}", if at == 0 { ". " } else { " " }, line.trim())?;
        }
        Ok(())
    }
}
