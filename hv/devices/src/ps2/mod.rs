//! PS/2: the keyboard controller (8042), the keyboard and the mouse behind it.

pub mod controller;
pub mod keyboard;
pub mod mouse;

pub use controller::Controller;
pub use keyboard::{Key, Keyboard};
pub use mouse::Mouse;

/// A device accepts a command or parameter.
const ACKNOWLEDGE: u8 = 0xfa;
/// A device asks for the command again.
const RESEND: u8 = 0xfe;
/// Self-test passed.
const PASSED: u8 = 0xaa;
