//! What can go wrong when a cache is made.

use std::fmt;

/// A setting of [`CacheBuilder`](crate::CacheBuilder) that makes no sense.
///
/// Its message is one sentence that says what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError(String);

impl BuildError {
    pub(crate) fn too_little_memory(bytes: u64, least: u64) -> Self {
        Self(format!(
            "a memory of {bytes} bytes holds nothing; give at least {least}, or use Cache::disabled()"
        ))
    }

    pub(crate) fn too_much_memory(bytes: u64, most: u64) -> Self {
        Self(format!(
            "a memory of {bytes} bytes is more than any machine has; give at most {most}"
        ))
    }

    pub(crate) fn version(version: &str) -> Self {
        Self(format!(
            "the version {version:?} cannot be part of a key; use 1 to 64 letters, digits and the characters . _ + -"
        ))
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BuildError {}
