//! Where responses are kept.

pub(crate) mod memory;
