//! What can go wrong with a value: its key, what is to be stored, for how long, and its load.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use crate::error::SelectorError;

/// Why a value could not be read or stored as it was asked for.
///
/// All of them are mistakes of the caller but [`TooLarge`](Self::TooLarge),
/// [`TooSlow`](Self::TooSlow) and [`Closed`](Self::Closed): a store that does not answer is a miss, and never an error. The message is
/// one sentence that says what to change.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{ValueError, ValueKey};
///
/// let error = ValueKey::new(("rate", f64::NAN)).unwrap_err();
/// assert_eq!(error, ValueError::NotANumber);
/// assert_eq!(error.to_string(), "a key holds a number that is none (NaN or infinite); no two of them are the same");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueError {
    /// The key, or its name, is empty.
    EmptyKey,
    /// The name in front of the arguments has `:`, `*` or `%` in it, which tell arguments and patterns.
    Separator(String),
    /// The text of a key has a `*` in it: that is a pattern.
    Pattern(String),
    /// The key has so many bytes, which are too many.
    LongKey(usize),
    /// An argument is a floating-point number that is none.
    NotANumber,
    /// An argument holds a map whose keys are no strings.
    MapKey,
    /// An argument says that it cannot be serialized; with its reason.
    KeyNotSerializable(String),
    /// The value cannot be serialized; with the reason.
    NotSerializable(String),
    /// The value, serialized, is longer than the limit.
    TooLarge {
        /// How long it is, in bytes.
        bytes: u64,
        /// How long it may be.
        limit: u64,
    },
    /// A time to live of nothing.
    NoTtl,
    /// A time to live beyond a hundred years.
    LongTtl(Duration),
    /// More than 32 tags.
    TooManyTags(usize),
    /// A tag that makes no sense.
    BadTag(SelectorError),
    /// The load took longer than its hard limit, and was dropped.
    TooSlow(Duration),
    /// The cache was closed while the value was being loaded.
    Closed,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyKey => f.write_str("a key without a name; give it one, such as \"user\""),
            Self::Separator(name) => write!(
                f,
                "the name {:?} of a key has a : or * or % in it, which tell its arguments apart; use another character",
                start(name)
            ),
            Self::Pattern(text) => write!(
                f,
                "the key {:?} has a * in it; patterns are for delete_pattern, and in arguments a * is written %2A",
                start(text)
            ),
            Self::LongKey(bytes) => write!(
                f,
                "a key of {bytes} bytes is longer than {}; use a digest of its longest part",
                super::key::MAX_TEXT
            ),
            Self::NotANumber => f.write_str(
                "a key holds a number that is none (NaN or infinite); no two of them are the same",
            ),
            Self::MapKey => {
                f.write_str("a key holds a map whose keys are no strings; use a list of pairs")
            }
            Self::KeyNotSerializable(why) => {
                write!(f, "an argument of a key cannot be serialized: {why}")
            }
            Self::NotSerializable(why) => write!(f, "the value cannot be serialized: {why}"),
            Self::TooLarge { bytes, limit } => write!(
                f,
                "a value of {bytes} bytes, serialized, is longer than {limit}; store parts of it, or give the cache more memory"
            ),
            Self::NoTtl => {
                f.write_str("a ttl of nothing stores nothing; give at least a millisecond")
            }
            Self::LongTtl(ttl) => write!(
                f,
                "a ttl of {} seconds is more than a hundred years; say forever instead",
                ttl.as_secs()
            ),
            Self::TooManyTags(count) => write!(
                f,
                "{count} tags are more than 32; use one for what they have in common"
            ),
            Self::BadTag(why) => why.fmt(f),
            Self::TooSlow(limit) => write!(
                f,
                "the load took longer than its hard limit of {} ms, and was dropped",
                limit.as_millis()
            ),
            Self::Closed => f.write_str(
                "the cache was closed while the value was being loaded; close it after the last request",
            ),
        }
    }
}

/// As much of a text as fits into a sentence.
fn start(text: &str) -> String {
    let start: String = text.chars().take(32).collect();
    match start.len() < text.len() {
        true => format!("{start}\u{2026}"),
        false => start,
    }
}

impl std::error::Error for ValueError {}

/// Why there is no value: its load failed, or the cache was asked for nonsense.
///
/// The error of a load is shared by all who waited for it.
///
/// # Examples
///
/// ```
/// use std::{io, time::Duration};
/// use tower_response_cache::{Cache, LoadError};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = Cache::in_memory();
/// let load = || async { Err::<u32, _>(io::Error::other("the database is away")) };
/// let error = cache.try_get_or_set(("user", 42), Duration::from_secs(60), load).await.unwrap_err();
/// assert_eq!(error.to_string(), "the database is away");
/// assert!(matches!(error, LoadError::Load(_)));
/// # });
/// ```
#[non_exhaustive]
pub enum LoadError<E> {
    /// The load failed so.
    Load(Arc<E>),
    /// The key, the ttl or a tag makes no sense, or the load took too long.
    Value(ValueError),
}

impl<E> LoadError<E> {
    /// What the load failed with, if it did.
    #[must_use]
    pub fn load(&self) -> Option<&E> {
        match self {
            Self::Load(error) => Some(error),
            Self::Value(_) => None,
        }
    }
}

/// What is left where a load cannot fail.
impl From<LoadError<Infallible>> for ValueError {
    fn from(error: LoadError<Infallible>) -> Self {
        error.into_value()
    }
}

impl LoadError<Infallible> {
    pub(super) fn into_value(self) -> ValueError {
        match self {
            Self::Load(never) => match *never {},
            Self::Value(error) => error,
        }
    }
}

impl<E> Clone for LoadError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Load(error) => Self::Load(error.clone()),
            Self::Value(error) => Self::Value(error.clone()),
        }
    }
}

impl<E> From<ValueError> for LoadError<E> {
    fn from(error: ValueError) -> Self {
        Self::Value(error)
    }
}

impl<E: fmt::Debug> fmt::Debug for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => f.debug_tuple("Load").field(error).finish(),
            Self::Value(error) => f.debug_tuple("Value").field(error).finish(),
        }
    }
}

/// As the error inside says it.
impl<E: fmt::Display> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => error.fmt(f),
            Self::Value(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for LoadError<E> {}
