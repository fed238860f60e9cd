//! Guides and explanations.

/// What is stored, for whom, and for how long.
#[doc = include_str!("docs/rules.md")]
pub mod rules {}

// Its examples need the feature; to be read it is there without, too.
#[cfg(any(feature = "redis", not(doctest)))]
#[doc = include_str!("docs/redis.md")]
pub mod redis {}
