//! Thousands of generated cases: what was made for one user reaches another only if its response said
//! so, or nothing about either of them was personal.

#![allow(unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod model;
