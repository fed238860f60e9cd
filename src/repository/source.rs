//! Where the values of a repository come from, and where they are written.

use std::{future::Future, sync::Arc};

use serde::Serialize;

use crate::values::CachedValue;

/// A table, or whatever else keeps values by their keys.
///
/// The methods may be written as `async fn`. What they return when they return is what counts: a write that
/// goes on after its error can reverse the order in which a repository writes.
///
/// # Examples
///
/// See [`Repository`](super::Repository); with a statement for many keys and a transaction for a batch:
///
/// ```
/// use std::{collections::BTreeMap, io, sync::Mutex};
/// use tower_response_cache::{BatchError, Source, Write};
///
/// #[derive(Default)]
/// struct Prices(Mutex<BTreeMap<String, u32>>);
///
/// impl Source for Prices {
///     type Key = String;
///     type Value = u32;
///     type Error = io::Error;
///
///     async fn load(&self, name: &String) -> io::Result<Option<u32>> {
///         Ok(self.0.lock().unwrap().get(name).copied())
///     }
///     // SELECT .. WHERE name IN (..)
///     async fn load_many(&self, names: &[String]) -> io::Result<Vec<Option<u32>>> {
///         let prices = self.0.lock().unwrap();
///         Ok(names.iter().map(|name| prices.get(name).copied()).collect())
///     }
///     async fn save(&self, name: &String, price: &u32) -> io::Result<()> {
///         self.0.lock().unwrap().insert(name.clone(), *price);
///         Ok(())
///     }
///     async fn delete(&self, name: &String) -> io::Result<()> {
///         self.0.lock().unwrap().remove(name);
///         Ok(())
///     }
///     // BEGIN .. COMMIT: all of them, or none.
///     async fn write_many(&self, writes: &[Write<Self>]) -> Result<(), BatchError<io::Error>> {
///         let mut prices = self.0.lock().map_err(|_| io::Error::other("poisoned"))?;
///         for write in writes {
///             match write.value() {
///                 Some(price) => prices.insert(write.key().clone(), *price),
///                 None => prices.remove(write.key()),
///             };
///         }
///         Ok(())
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let prices = Prices::default();
/// prices.save(&"tea".to_owned(), &3).await?;
/// assert_eq!(prices.load_many(&["tea".to_owned(), "salt".to_owned()]).await?, [Some(3), None]);
/// # Ok::<(), io::Error>(())
/// # }).unwrap();
/// ```
pub trait Source: Send + Sync + Sized + 'static {
    /// What a value is found by; what serde makes of it is its part of the key in the cache.
    type Key: Serialize + Clone + Send + Sync + 'static;
    /// A row, or whatever is kept.
    type Value: CachedValue;
    /// Why it cannot be read or written; shared by all who wait.
    type Error: Send + Sync + 'static;

    /// The value under a key, if there is one.
    fn load(
        &self,
        key: &Self::Key,
    ) -> impl Future<Output = Result<Option<Self::Value>, Self::Error>> + Send;

    /// The values under several keys, in their order. Default: one [`load`](Self::load) after the other.
    ///
    /// What is missing at the end counts as not there.
    fn load_many(
        &self,
        keys: &[Self::Key],
    ) -> impl Future<Output = Result<Vec<Option<Self::Value>>, Self::Error>> + Send {
        async move {
            let mut values = Vec::with_capacity(keys.len());
            for key in keys {
                values.push(self.load(key).await?);
            }
            Ok(values)
        }
    }

    /// Keeps a value under a key, whether or not there was one. Doing it twice must do no harm.
    fn save(
        &self,
        key: &Self::Key,
        value: &Self::Value,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Removes what is under a key; that nothing is there is no error.
    fn delete(&self, key: &Self::Key) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Does several writes, each of another key. Default: one after the other, each with an error of its own.
    ///
    /// # Errors
    ///
    /// Which of them have failed. With `?` an error is that of all: they are then tried again one by one, so
    /// that one bad row keeps no others from being written.
    fn write_many(
        &self,
        writes: &[Write<Self>],
    ) -> impl Future<Output = Result<(), BatchError<Self::Error>>> + Send {
        async move {
            let mut failed = Vec::new();
            for (at, write) in writes.iter().enumerate() {
                if let Err(error) = write.write_to(self).await {
                    failed.push((at, error));
                }
            }
            match failed.is_empty() {
                true => Ok(()),
                false => Err(BatchError::Some(failed)),
            }
        }
    }
}

/// A write that is to be done: the newest of its key.
pub struct Write<S: Source> {
    pub(super) key: S::Key,
    /// In the form in which the cache keeps it.
    pub(super) value: Arc<Option<S::Value>>,
}

impl<S: Source> Write<S> {
    /// Of which key.
    #[must_use]
    pub fn key(&self) -> &S::Key {
        &self.key
    }

    /// What is to be kept under it; `None` where it is to be removed.
    #[must_use]
    pub fn value(&self) -> Option<&S::Value> {
        (*self.value).as_ref()
    }

    pub(super) async fn write_to(&self, source: &S) -> Result<(), S::Error> {
        match self.value() {
            Some(value) => source.save(&self.key, value).await,
            None => source.delete(&self.key).await,
        }
    }
}

impl<S: Source> Clone for Write<S> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            value: self.value.clone(),
        }
    }
}

impl<S: Source<Key: std::fmt::Debug>> std::fmt::Debug for Write<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write")
            .field("key", &self.key)
            .field("is_delete", &self.value.is_none())
            .finish()
    }
}

/// Which writes of a batch have failed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum BatchError<E> {
    /// All of them, or nobody knows which.
    All(E),
    /// Those at these places; the others are done.
    Some(Vec<(usize, E)>),
}

/// What `?` makes of an error: that of all.
impl<E> From<E> for BatchError<E> {
    fn from(error: E) -> Self {
        Self::All(error)
    }
}
