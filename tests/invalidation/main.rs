//! Invalidation by tag, group, path and pattern, hard and soft; and against every fill that is under way.

#[path = "../support/mod.rs"]
mod support;

mod flights;
mod groups;
mod parts;
mod rounds;
mod selectors;
