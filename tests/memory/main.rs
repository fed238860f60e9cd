//! A cache in memory, and what it says of itself.

#[path = "../support/mod.rs"]
mod support;

mod smoke;
mod tier;
mod warnings;
