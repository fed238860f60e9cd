//! No stampede, whatever happens: crowds before one key, and every end that a flight can take.

mod background;
mod cold;
mod crowd;
mod dropped;
mod ends;
mod failing;
mod meeting;
mod runtimes;
mod streaming;
#[path = "../support/mod.rs"]
mod support;
mod uncacheable;
