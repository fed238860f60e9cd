//! What can go wrong: a cache that cannot be made, a remote store that does not answer.

use std::fmt;

/// A setting of [`CacheBuilder`](crate::CacheBuilder) that makes no sense.
///
/// Its message is one sentence that says what to change.
#[derive(Clone, PartialEq, Eq)]
pub struct BuildError(String);

/// The sentence: it is what `main` shows when it returns the error.
impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
        let start: String = version.chars().take(32).collect();
        let version = match start.len() < version.len() {
            true => format!("{start}\u{2026}"),
            false => start,
        };
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

/// Why a [`Store`](crate::Store) could not do what it was asked for.
///
/// Counted, and never the failure of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError(String);

impl StoreError {
    /// An error with a sentence for the log.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreError {}
