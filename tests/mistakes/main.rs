//! Mistakes that were made on the way here, each a test so that it is not made again.

#[path = "../support/mod.rs"]
mod support;

mod early;
mod late;
mod more;
