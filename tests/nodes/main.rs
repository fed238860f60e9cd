//! Several nodes that share Redis: what one invalidates, no other shows.
//!
//! Each node has a cache, connections and a memory of its own, as a process would.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "redis")]
mod lost;
#[cfg(feature = "redis")]
mod node;
#[cfg(feature = "redis")]
mod pending;
#[cfg(feature = "redis")]
mod values;
#[cfg(feature = "redis")]
mod wins;
