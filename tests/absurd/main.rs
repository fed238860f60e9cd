//! Absurd input and absurd settings: an answer as without the layer.

#[path = "../support/mod.rs"]
mod support;

mod input;
mod settings;
mod transparency;
