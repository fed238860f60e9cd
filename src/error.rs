//! What can go wrong: a cache that cannot be made, a remote store that does not answer.

use std::fmt;

use crate::values::ValueError;

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

    pub(crate) fn value_ttl(why: &ValueError) -> Self {
        Self(format!("value_ttl: {why}"))
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

/// A tag or a pattern that makes no sense.
///
/// Its message is one sentence that says which and why.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Cache, Selector};
///
/// let selector = Selector::tag("user:*");
/// let error = selector.check().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "the tag \"user:*\" has a '*' in it, which means nothing in a tag; use Selector::path or Selector::values for patterns",
/// );
/// let done = Cache::in_memory().invalidate(selector);
/// assert_eq!(done.refused(), Some(&error), "nothing was invalidated");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorError(String);

impl SelectorError {
    pub(crate) fn tag(tag: &str, what: &str) -> Self {
        Self(format!("the tag {:?} {what}", shortened(tag)))
    }

    pub(crate) fn pattern(pattern: &str, what: &str) -> Self {
        Self(format!("the pattern {:?} {what}", shortened(pattern)))
    }
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SelectorError {}

/// As much of a text as fits into a sentence.
fn shortened(text: &str) -> String {
    let start: String = text.chars().take(32).collect();
    match start.len() < text.len() {
        true => format!("{start}\u{2026}"),
        false => start,
    }
}

#[cfg(feature = "redis")]
mod redis {
    use super::BuildError;

    impl BuildError {
        pub(crate) fn redis_url(what: impl Into<String>) -> Self {
            Self(what.into())
        }

        pub(crate) fn redis_scheme(scheme: &str) -> Self {
            let good = "use redis://, rediss:// (TLS), valkey://, valkeys:// or redis+unix://, or redis-cluster:// or redis-sentinel://";
            let is_short = scheme.len() <= 32
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
            Self(match is_short && !scheme.is_empty() {
                true => format!("{scheme}:// is not a scheme of Redis; {good}"),
                false => format!("the Redis URL does not begin with a scheme of Redis; {good}"),
            })
        }

        pub(crate) fn redis_namespace(namespace: &str, most: usize) -> Self {
            let start: String = namespace.chars().take(32).collect();
            let namespace = match start.len() < namespace.len() {
                true => format!("{start}\u{2026}"),
                false => start,
            };
            Self(format!(
                "the namespace {namespace:?} cannot begin a Redis key; use 1 to {most} letters, digits and the characters . _ - :"
            ))
        }

        pub(crate) fn redis_pool_size(size: usize, most: usize) -> Self {
            Self(format!(
                "a pool of {size} connections makes no sense; give 1 to {most}"
            ))
        }
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
pub struct StoreError {
    kind: StoreErrorKind,
    why: String,
}

/// The kinds of [`StoreError`] that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store cannot be reached, or the link broke.
    Unavailable,
    /// It did not answer in time.
    Timeout,
    /// It answered, and declined: no permission, no room, read only.
    Refused,
    /// The answer cannot be the one to this question.
    Mismatched,
    /// What is stored there cannot be a frame.
    NotAFrame,
}

impl StoreError {
    /// The store cannot be reached; with a sentence for the log.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self::of(StoreErrorKind::Unavailable, why)
    }

    /// The store did not answer in time.
    #[must_use]
    pub fn timeout(why: impl Into<String>) -> Self {
        Self::of(StoreErrorKind::Timeout, why)
    }

    /// The store declined; with its reason.
    #[must_use]
    pub fn refused(why: impl Into<String>) -> Self {
        Self::of(StoreErrorKind::Refused, why)
    }

    /// The answer cannot be the one to this question: the link mixes them up.
    #[must_use]
    pub fn mismatched(why: impl Into<String>) -> Self {
        Self::of(StoreErrorKind::Mismatched, why)
    }

    /// What is stored there is of a kind that no frame has. A miss, not a failure of the store.
    #[must_use]
    pub fn not_a_frame(why: impl Into<String>) -> Self {
        Self::of(StoreErrorKind::NotAFrame, why)
    }

    fn of(kind: StoreErrorKind, why: impl Into<String>) -> Self {
        Self {
            kind,
            why: why.into(),
        }
    }

    /// Which kind it is.
    #[must_use]
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for StoreError {}
