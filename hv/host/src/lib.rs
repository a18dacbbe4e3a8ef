//! TODO.
#![no_std]
