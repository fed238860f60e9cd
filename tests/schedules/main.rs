//! Thousands of schedules, drawn at random, of what can happen to a cache: clients that arrive, leave and
//! pause, handlers that answer, break off, fail and panic, invalidations, expiry, the switch. A model says
//! after each what must hold.

#![allow(unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod model;
