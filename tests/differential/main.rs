//! The preset `rfc9111()` and the crate `http-cache-semantics`, asked about the same heads: where they
//! disagree, a row of a table says which sentence of the RFC decides.

#![allow(unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod compared;
mod heads;
mod reading;
mod table;
