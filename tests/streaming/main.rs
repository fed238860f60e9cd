//! Bodies that are read while they arrive, and those that pass as they are.

#[path = "../support/mod.rs"]
mod support;

mod first_byte;
mod shared;
mod untouched;
