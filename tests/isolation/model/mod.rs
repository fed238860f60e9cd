//! What cases are made of, and what must hold in them.

pub mod dice;
pub mod facts;
pub mod layers;
pub mod oracle;
pub mod origin;
pub mod people;
pub mod tally;
