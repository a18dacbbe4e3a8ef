//! Tests of the schema.

mod agreement;
mod introspection;
mod reduce;
mod values;
mod visitor;

use crate::json::{Outcome, Receiver};

/// Parses an object and looks at it.
fn with_object<R>(text: &str, look: impl FnOnce(crate::json::Object<'_>) -> R) -> R {
    let mut receiver = Box::new(Receiver::new());
    let (used, outcome) = receiver.feed(text.as_bytes());
    assert!(matches!(outcome, Some(Outcome::Message)) && used == text.len(), "{text}");
    look(receiver.message().unwrap())
}
