//! One call of the handler for everybody who asks for one cold key at once.

#[path = "../support/mod.rs"]
mod support;

mod ahead;
mod failures;
mod joining;
mod overflow;
mod refreshing;
mod routes;
mod slow;
mod stale;
mod starting;
mod time;
mod unshared;
