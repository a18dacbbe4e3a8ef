//! What the tests share: a model machine that the whole monitor runs on, without hardware.
#![forbid(unsafe_code)]

pub mod fuzz;
pub mod model;
