//! The layer among others: of axum, hyper, tower, and of its own kind.

#[path = "../support/mod.rs"]
mod support;

mod hyper_alone;
mod middlewares;
mod nested;
mod places;
