//! What is answered, and what that was made of: to whoever asked, and to those who waited for it.

use std::sync::Arc;

use tokio::task::JoinError;

use super::{
    error::{LoadError, ValueError},
    key::ValueKey,
    stored::{CachedValue, Hit},
};
use crate::{
    cache::Cache,
    flight::Carried,
    scope::{Made, Reading},
};

/// What a caller gets in the end, and what that was made of.
pub(crate) struct Answer<V, E> {
    pub(crate) result: Result<Arc<V>, LoadError<E>>,
    pub(super) made: Made,
}

impl<V, E> Answer<V, E> {
    pub(crate) fn hit(hit: Hit<V>) -> Self {
        Self {
            result: Ok(hit.value),
            made: Made::Stored(hit.stored),
        }
    }

    pub(super) fn closed() -> Self {
        Self {
            result: Err(ValueError::Closed.into()),
            made: Made::Nothing,
        }
    }

    /// Notes it for what is being made.
    pub(crate) fn noted(
        self,
        cache: &Cache,
        key: &ValueKey,
        reading: Option<Reading>,
    ) -> Result<Arc<V>, LoadError<E>> {
        if let Some(reading) = reading {
            reading.end(cache, key, &self.made);
        }
        self.result
    }

    /// The same with what stands in for an error, if anything does.
    pub(super) fn or(self, standing_in: impl FnOnce() -> Option<Hit<V>>) -> Self {
        match self.result {
            Ok(_) => self,
            Err(_) => standing_in().map_or(self, Self::hit),
        }
    }
}

/// What a flight carries to those who wait for it: a value or an error, and what that was made of.
pub(super) struct Brought<T> {
    pub(super) what: T,
    pub(super) made: Made,
}

impl<V: Send + Sync + 'static> Brought<Arc<V>> {
    pub(super) fn hit(hit: &Hit<V>) -> Arc<Self> {
        Arc::new(Self {
            what: hit.value.clone(),
            made: Made::Stored(hit.stored.clone()),
        })
    }
}

/// What somebody else's load brought, as the types that this one expects.
pub(super) fn shared<V: CachedValue, E: Send + Sync + 'static>(
    carried: Carried,
) -> Option<Answer<V, E>> {
    Some(match carried {
        Ok(value) => {
            let brought = value.downcast::<Brought<Arc<V>>>().ok()?;
            Answer {
                result: Ok(brought.what.clone()),
                made: brought.made.clone(),
            }
        }
        Err(error) => {
            let brought = error.downcast::<Brought<LoadError<E>>>().ok()?;
            Answer {
                result: Err(brought.what.clone()),
                made: brought.made.clone(),
            }
        }
    })
}

/// What came of a task, `None` where the cache was closed before: its panic is that of whoever waits for it.
pub(crate) fn finished<T>(joined: Result<Option<T>, JoinError>) -> Option<T> {
    match joined {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}
