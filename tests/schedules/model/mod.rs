//! What schedules are made of, and what must hold in them.

pub mod client;
pub mod inner;
pub mod oracle;
pub mod plan;
pub mod schedule;
pub mod tally;
