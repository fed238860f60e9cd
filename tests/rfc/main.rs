//! HTTP caching by the texts: RFC 9111, 5861, 8246 and 9211, section by section.

#[path = "../support/mod.rs"]
mod support;

mod demands;
mod directives;
mod reusing;
mod stale;
mod status;
mod storing;
mod targeted;
mod validating;
