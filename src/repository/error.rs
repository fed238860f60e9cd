//! Why something was not written.

use std::{fmt, sync::Arc};

use crate::values::ValueError;

/// Why a repository could not write.
///
/// # Examples
///
/// ```
/// use std::{io, sync::Arc};
/// use tower_response_cache::SaveError;
///
/// let error: SaveError<io::Error> = SaveError::Source(Arc::new(io::Error::other("the database is away")));
/// assert_eq!(error.to_string(), "the database is away");
/// ```
#[non_exhaustive]
pub enum SaveError<E> {
    /// The source failed so. Whether it has written is for the source to say; the cache has forgotten what it
    /// had.
    Source(Arc<E>),
    /// The key or an option makes no sense. Nothing was written.
    Value(ValueError),
    /// So many keys wait to be written behind, which is all that may
    /// ([`WriteBehind::refuse_when_full`](super::WriteBehind::refuse_when_full)). Nothing was written or will be.
    Full(usize),
    /// The source panicked when a write was done behind the cache. It is tried again.
    Panicked,
}

impl<E> SaveError<E> {
    /// What the source failed with, if it did.
    #[must_use]
    pub fn source_error(&self) -> Option<&E> {
        match self {
            Self::Source(error) => Some(error),
            _ => None,
        }
    }
}

impl<E> From<ValueError> for SaveError<E> {
    fn from(error: ValueError) -> Self {
        Self::Value(error)
    }
}

impl<E> Clone for SaveError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Source(error) => Self::Source(error.clone()),
            Self::Value(error) => Self::Value(error.clone()),
            Self::Full(keys) => Self::Full(*keys),
            Self::Panicked => Self::Panicked,
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for SaveError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => f.debug_tuple("Source").field(error).finish(),
            Self::Value(error) => f.debug_tuple("Value").field(error).finish(),
            Self::Full(keys) => f.debug_tuple("Full").field(keys).finish(),
            Self::Panicked => f.write_str("Panicked"),
        }
    }
}

/// As the error inside says it.
impl<E: fmt::Display> fmt::Display for SaveError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => error.fmt(f),
            Self::Value(error) => error.fmt(f),
            Self::Full(keys) => write!(
                f,
                "{keys} keys wait to be written, and no more may: try again later"
            ),
            Self::Panicked => f.write_str(
                "the source panicked while it wrote: what it was to write is tried again",
            ),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for SaveError<E> {}
