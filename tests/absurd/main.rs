//! Absurd input and absurd settings: an answer as without the layer.

#[path = "../support/mod.rs"]
mod support;

mod fields;
mod input;
mod settings;
mod transparency;
