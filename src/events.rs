//! Events: what has happened, in the words of the program, and what that makes unusable.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    cache::{AtClose, Cache},
    invalidated::Invalidated,
    selector::Selector,
    timer::{after, until},
};

type Handler = dyn Fn(&dyn Any) -> Vec<Selector> + Send + Sync;

/// What is to be invalidated at which event.
#[derive(Default)]
pub(crate) struct Events(RwLock<HashMap<TypeId, Vec<Arc<Handler>>>>);

impl Events {
    fn add(&self, event: TypeId, handler: Arc<Handler>) {
        let mut handlers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        handlers.entry(event).or_default().push(handler);
    }

    fn of(&self, event: TypeId) -> Vec<Arc<Handler>> {
        let handlers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        handlers.get(&event).cloned().unwrap_or_default()
    }
}

/// # Events
impl Cache {
    /// Says what an event makes unusable: any type of the program's own, told by [`emit`](Self::emit).
    ///
    /// Said several times for one type, all of it counts. It holds as long as the cache does.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Cache, Selector};
    ///
    /// struct UserUpdated {
    ///     id: u64,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cache = Cache::in_memory();
    /// cache.on(|event: &UserUpdated| {
    ///     [Selector::values(&format!("user:{}", event.id)), Selector::tag("users")]
    /// });
    ///
    /// cache.set(("user", 42), "Ada".to_owned()).await?;
    /// // db.update(user).await?;
    /// cache.emit(&UserUpdated { id: 42 }).await.everywhere().await?;
    /// assert!(!cache.exists("user:42").await?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on<E, I>(&self, selectors: impl Fn(&E) -> I + Send + Sync + 'static)
    where
        E: 'static,
        I: IntoIterator<Item = Selector>,
    {
        let handler = move |event: &dyn Any| -> Vec<Selector> {
            let selected = event.downcast_ref::<E>().map(&selectors);
            selected.into_iter().flatten().collect()
        };
        self.events().add(TypeId::of::<E>(), Arc::new(handler));
    }

    /// Tells that something has happened: what [`on`](Self::on) said of it is invalidated, before this returns.
    ///
    /// Nodes that share Redis hear of what was invalidated, not of the event: only who emits it has to know what
    /// it means. Nothing is invalidated by an event of which nothing was said. To be called when the data has been
    /// changed, as [`invalidate`](Self::invalidate) is.
    pub async fn emit<E: 'static>(&self, event: &E) -> Invalidated {
        let handlers = self.events().of(TypeId::of::<E>());
        self.invalidate_all(handlers.iter().flat_map(|handler| handler(event)))
    }

    /// Waits for a commit and then invalidates: in this order, and only if it succeeds.
    ///
    /// Before the data is visible to others an invalidation is worth nothing: a fill in between would store what
    /// is about to be replaced. Where a commit fails nothing is invalidated. Dropped once it was begun, it
    /// invalidates all the same, as the database may have committed; a client that leaves drops its handler.
    ///
    /// # Errors
    ///
    /// That of the commit.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Cache, Selector};
    ///
    /// async fn commit() -> Result<u64, std::io::Error> {
    ///     Ok(1) // transaction.commit().await
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cache = Cache::in_memory();
    /// let (rows, done) = cache.after_commit(commit(), [Selector::tag("users")]).await?;
    /// assert_eq!((rows, done.sequence()), (1, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn after_commit<T, E>(
        &self,
        commit: impl Future<Output = Result<T, E>>,
        selectors: impl IntoIterator<Item = Selector>,
    ) -> Result<(T, Invalidated), E> {
        let mut committing = Committing {
            cache: self,
            selectors: selectors.into_iter().collect(),
        };
        match commit.await {
            Ok(done) => {
                let selectors = std::mem::take(&mut committing.selectors);
                Ok((done, self.invalidate_all(selectors)))
            }
            Err(error) => {
                committing.selectors.clear();
                Err(error)
            }
        }
    }

    /// Several, as one: what is said of the last of them is true of all.
    pub(crate) fn invalidate_all(
        &self,
        selectors: impl IntoIterator<Item = Selector>,
    ) -> Invalidated {
        let selectors = selectors.into_iter();
        let last = selectors.fold(None, |earlier: Option<Invalidated>, selector| {
            let later = self.invalidate(selector);
            Some(match earlier {
                Some(earlier) => earlier.and(later),
                None => later,
            })
        });
        last.unwrap_or_else(|| Invalidated::nothing(self.sequence().number()))
    }

    /// Invalidates once more, a little later, or when the cache is closed.
    pub(crate) fn again_after(&self, lag: Duration, selectors: Vec<Selector>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let again = Arc::new(Again {
            cache: self.clone(),
            selectors,
            is_due: Notify::new(),
            is_done: Notify::new(),
        });
        if !self.at_close(Arc::downgrade(&again) as Weak<dyn AtClose>) {
            again.is_due.notify_one();
        }
        runtime.spawn(async move {
            until(after(lag), again.is_due.notified()).await;
            drop(again.cache.invalidate_all(again.selectors.iter().cloned()));
            again.is_done.notify_one();
        });
    }
}

/// An invalidation that is to be repeated.
struct Again {
    cache: Cache,
    selectors: Vec<Selector>,
    is_due: Notify,
    is_done: Notify,
}

impl AtClose for Again {
    /// Now: the others have to know, and nobody will tell them later.
    fn close(self: Arc<Self>, end: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            self.is_due.notify_one();
            until(end, self.is_done.notified()).await;
        })
    }
}

/// A commit under way.
struct Committing<'c> {
    cache: &'c Cache,
    selectors: Vec<Selector>,
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        for selector in self.selectors.drain(..) {
            self.cache.invalidate(selector);
        }
    }
}
