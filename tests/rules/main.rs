//! Every rule, as rows of tables: what is stored and shared, and what a request gets.

#[path = "../support/mod.rs"]
mod support;

mod invalidation;
mod keys;
mod partial;
mod people;
mod query;
mod requests;
mod search;
mod settings;
mod tables;
mod unsafe_methods;
mod validation;
mod validator;
mod weak_tags;
