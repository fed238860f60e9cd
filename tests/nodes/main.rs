//! Several nodes that share Redis: what one invalidates, no other shows.
//!
//! Each node has a cache, connections and a memory of its own, as a process would.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
#[cfg(feature = "redis")]
mod cluster;
#[cfg(feature = "redis")]
mod history;
#[cfg(feature = "redis")]
mod lease;
#[cfg(feature = "redis")]
mod lost;
#[cfg(feature = "redis")]
mod many;
#[cfg(feature = "redis")]
mod node;
#[cfg(feature = "redis")]
mod operations;
#[cfg(feature = "redis")]
mod pending;
#[cfg(feature = "redis")]
mod purging;
#[cfg(feature = "redis")]
mod saves;
#[cfg(feature = "redis")]
mod sentinel;
#[cfg(feature = "redis")]
mod suite;
#[cfg(feature = "redis")]
mod values;
#[cfg(feature = "redis")]
mod versions;
#[cfg(feature = "redis")]
mod wins;
