//! A remote store behind memory: one that is scripted, and Redis.

#[path = "../support/process.rs"]
mod process;
#[path = "../support/mod.rs"]
mod support;

mod fault_proxy;
mod invalidated;
#[cfg(feature = "redis")]
mod redis_lives;
#[cfg(feature = "redis")]
mod redis_mixed_up;
mod redis_server;
#[cfg(feature = "redis")]
mod redis_shared;
#[cfg(feature = "redis")]
mod redis_values;
mod refreshing;
mod scripted;
mod scripted_more;
mod slices;
mod values;
