//! What cases are made of, and what must hold in them.

pub mod facts;
pub mod layers;
pub mod oracle;
pub mod origin;
pub mod people;
pub mod tally;

pub use crate::support::dice;
