//! Guides and explanations.

/// What is stored, for whom, and for how long.
#[doc = include_str!("docs/rules.md")]
pub mod rules {}

#[doc = include_str!("docs/redis.md")]
pub mod redis {}
