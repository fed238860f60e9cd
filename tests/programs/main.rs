//! The examples as programs, as people start them.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "../support/process.rs"]
mod process;
#[cfg(all(unix, feature = "redis"))]
#[path = "../support/redis_server.rs"]
mod redis_server;

mod examples;
#[cfg(all(unix, feature = "redis"))]
mod redis_bad_input;
#[cfg(all(unix, feature = "redis"))]
mod redis_two_processes;
mod repositories;
#[cfg(unix)]
mod reverse_proxy;
#[cfg(unix)]
mod reverse_proxy_preset;
mod values;
