//! Guides and explanations.

/// What is stored, for whom, and for how long.
#[doc = include_str!("docs/rules.md")]
pub mod rules {}

/// What RFC 9111 and its kin require of a shared cache, one requirement per line.
#[doc = include_str!("docs/rfc9111.md")]
pub mod rfc9111 {}

// Its example is made of axum's parts; to be read it is there without, too.
#[cfg(any(feature = "axum", not(doctest)))]
#[doc = include_str!("docs/invalidation.md")]
pub mod invalidation {}

// Its examples need the feature; to be read it is there without, too.
#[cfg(any(feature = "redis", not(doctest)))]
#[doc = include_str!("docs/redis.md")]
pub mod redis {}

// Likewise.
#[cfg(any(feature = "redis", not(doctest)))]
#[doc = include_str!("docs/nodes.md")]
pub mod nodes {}

/// Values and databases: which pattern promises what, and how to choose.
#[doc = include_str!("docs/patterns.md")]
pub mod patterns {}
