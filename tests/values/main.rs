//! Values: what a program computes and loads besides its responses, in the same cache.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod client;
mod functions;
mod loads;
mod macros;
mod nested;
mod stale;
