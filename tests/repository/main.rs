//! Repositories: a source behind the cache, read through it and written past, through or behind it.

#[path = "../support/mod.rs"]
mod support;

mod behind;
mod events;
mod pages;
mod queue;
mod reads;
mod table;
mod writes;
