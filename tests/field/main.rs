//! Bugs seen elsewhere, each with a test.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod fields;
mod keys;
mod methods;
mod personal;
mod streams;
mod vary;
