//! Writes that reach the source later: what is promised of them, and the task that does them.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::Instant};

use super::{
    Repository, SaveError, Source, Writing,
    queue::{Next, Queue, Taken, Unplaced, outcomes},
    source::Write,
};
use crate::{
    cache::{AtClose, Cache},
    panics::unpanicked,
    timer::{self, until},
    values::ValueKey,
};

/// How writes behind the cache are collected, bounded and repeated.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::WriteBehind;
///
/// let behind = WriteBehind::new()
///     .delay(Duration::from_millis(500))
///     .capacity(1_000)
///     .refuse_when_full();
/// assert_ne!(behind, WriteBehind::new());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until a repository has it"]
pub struct WriteBehind {
    pub(super) delay: Duration,
    pub(super) capacity: usize,
    pub(super) batch: usize,
    pub(super) refuses: bool,
    pub(super) first_pause: Duration,
    pub(super) longest_pause: Duration,
}

impl Default for WriteBehind {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(100),
            capacity: 10_000,
            batch: 100,
            refuses: false,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(10),
        }
    }
}

impl WriteBehind {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a write waits for others before it is done. What is killed loses the writes of this time, and those
    /// that the source has not kept up with. Default: 100 ms.
    pub fn delay(mut self, delay: Duration) -> Self {
        // Decades are beyond all sense, and what a clock can add.
        self.delay = delay.min(Duration::from_secs(1 << 30));
        self
    }

    /// So many keys wait at the most; one at the least. Default: 10,000.
    ///
    /// Beyond that, saving another key waits until there is room. Saving a key again that waits already takes no
    /// room.
    pub fn capacity(mut self, keys: usize) -> Self {
        self.capacity = keys.max(1);
        self
    }

    /// So many writes are done together ([`Source::write_many`]); one at the least. Default: 100.
    pub fn batch(mut self, writes: usize) -> Self {
        self.batch = writes.max(1);
        self
    }

    /// Beyond its capacity, saving another key is an error ([`SaveError::Full`]) in place of waiting.
    pub fn refuse_when_full(mut self) -> Self {
        self.refuses = true;
        self
    }

    /// The pauses before a write that failed is tried again: the first, which is doubled each time, and the
    /// longest. Default: 50 ms to 10 s. It is tried until it succeeds, or the cache is closed.
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.first_pause = first;
        self.longest_pause = longest;
        self
    }
}

impl<S: Source> Repository<S> {
    /// Writes behind the cache: [`save`](Self::save) and [`delete`](Self::delete) return when the cache has what is
    /// written, and a task writes it to the source a little later, several at a time.
    ///
    /// - Of each key only the newest write is done, and never two at the same time: their order is never reversed.
    /// - Who reads through this repository gets what was written, from the moment when it was, whether or not the
    ///   source has it. Other nodes may see what the source has until it was written.
    /// - A write that fails is tried again, with growing pauses, and keeps others from nothing but its place in
    ///   the queue, which is bounded ([`WriteBehind::capacity`]).
    /// - [`flush`](Self::flush) writes now. [`Cache::close`] does, too, for as long as it waits at all; what is left
    ///   then is counted ([`Stats::lost_writes`](crate::Stats::lost_writes)), logged, and still to be had from
    ///   [`unwritten`](Self::unwritten). After that writes go to the source at once.
    /// - A process that is killed loses what it has not written: [`WriteBehind::delay`], and what the source has not
    ///   kept up with.
    ///
    /// Clones share the queue; two repositories over one source have two, which know nothing of each other.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{collections::BTreeMap, convert::Infallible, sync::{Arc, Mutex}};
    /// use tower_response_cache::{Cache, Source, WriteBehind};
    ///
    /// #[derive(Clone, Default)]
    /// struct Views(Arc<Mutex<BTreeMap<String, u64>>>);
    ///
    /// impl Source for Views {
    ///     // ..
    /// #   type Key = String;
    /// #   type Value = u64;
    /// #   type Error = Infallible;
    /// #   async fn load(&self, page: &String) -> Result<Option<u64>, Infallible> {
    /// #       Ok(self.0.lock().unwrap().get(page).copied())
    /// #   }
    /// #   async fn save(&self, page: &String, views: &u64) -> Result<(), Infallible> {
    /// #       self.0.lock().unwrap().insert(page.clone(), *views);
    /// #       Ok(())
    /// #   }
    /// #   async fn delete(&self, page: &String) -> Result<(), Infallible> {
    /// #       self.0.lock().unwrap().remove(page);
    /// #       Ok(())
    /// #   }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (cache, table) = (Cache::in_memory(), Views::default());
    /// let views = cache.repository("views", table.clone()).write_behind(WriteBehind::new());
    /// for number in 1..=1_000 {
    ///     views.save("home".to_owned(), number).await?;
    /// }
    /// assert_eq!(*views.get("home".to_owned()).await?, Some(1_000));
    /// assert_eq!(table.load(&"home".to_owned()).await?, None, "not yet");
    ///
    /// cache.close().await;
    /// assert_eq!(table.load(&"home".to_owned()).await?, Some(1_000));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "write-behind")]
    #[doc(alias = "write-back")]
    pub fn write_behind(mut self, settings: WriteBehind) -> Self {
        let behind = Arc::new(Behind {
            queue: Queue::new(settings),
            source: self.source.clone(),
            cache: self.cache.clone(),
        });
        let weak = Arc::downgrade(&behind);
        if !self.cache.at_close(weak) {
            behind.queue.end();
        }
        self.writing = Writing::Behind(behind);
        self
    }

    /// Writes what waits, now, each once; returns when that is done.
    ///
    /// Where nothing is written behind there is nothing to do.
    ///
    /// # Errors
    ///
    /// The last error of the source, if there was one: what failed still waits, and is tried again.
    pub async fn flush(&self) -> Result<(), SaveError<S::Error>> {
        match &self.writing {
            Writing::Behind(behind) => behind.flush().await,
            _ => Ok(()),
        }
    }

    /// What waits to be written, or was not when the cache was closed; in no order.
    #[must_use]
    pub fn unwritten(&self) -> Vec<Write<S>> {
        match &self.writing {
            Writing::Behind(behind) => behind.queue.unwritten(),
            _ => Vec::new(),
        }
    }
}

/// What is shared by the clones of a repository that writes behind.
pub(super) struct Behind<S: Source> {
    pub(super) queue: Queue<S>,
    source: Arc<S>,
    cache: Cache,
}

impl<S: Source> Behind<S> {
    /// Takes a write; `false` where it is not to be done later.
    pub(super) async fn take(
        self: &Arc<Self>,
        key: &ValueKey,
        write: &Write<S>,
        terms: &super::queue::KeptTerms<S>,
    ) -> Result<bool, SaveError<S::Error>> {
        loop {
            let mut changed = std::pin::pin!(self.queue.changed.notified());
            changed.as_mut().enable();
            if Handle::try_current().is_err() {
                return Ok(false);
            }
            let since = self.cache.read_point();
            match self.queue.put(key, write.clone(), terms) {
                Ok(()) => {
                    self.cache.keep_saved(key, &write.value, terms, since);
                    self.queue.told(key, self.cache.read_point());
                    self.start();
                    return Ok(true);
                }
                Err(Unplaced::Over) => return Ok(false),
                Err(Unplaced::Full) => self.start(),
            }
            if self.queue.settings.refuses {
                return Err(SaveError::Full(self.queue.settings.capacity));
            }
            changed.await;
        }
    }

    /// Starts the task that writes, unless it runs; again when its runtime is gone.
    fn start(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.queue.needs_worker() {
            let worker = Worker {
                behind: self.clone(),
                is_counted: true,
            };
            runtime.spawn(worker.run());
        }
    }

    async fn flush(self: &Arc<Self>) -> Result<(), SaveError<S::Error>> {
        self.queue.flush();
        self.start();
        loop {
            let mut changed = std::pin::pin!(self.queue.changed.notified());
            changed.as_mut().enable();
            if self.queue.is_flushed() || self.queue.is_over() {
                break;
            }
            changed.await;
        }
        match self.queue.error() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn write(&self, taken: Vec<Taken<S>>) {
        let under_way = UnderWay {
            queue: &self.queue,
            left: taken,
        };
        let writes: Vec<_> = under_way
            .left
            .iter()
            .map(|taken| taken.write.clone())
            .collect();
        let write = async {
            match &writes[..] {
                [write] => write.write_to(&self.source).await.map_err(Into::into),
                writes => self.source.write_many(writes).await,
            }
        };
        // One write that makes the source panic must not keep the others from it.
        let result = unpanicked(write).await;
        for (taken, outcome) in under_way.end().zip(outcomes(writes.len(), result)) {
            match outcome {
                None => {
                    // Only now those see it who do not know of the queue.
                    if self.queue.written(&taken.key) {
                        let Taken { key, write, .. } = &taken;
                        self.cache
                            .keep_saved(key, &write.value, &taken.terms, taken.since);
                    }
                }
                Some((error, is_of_all)) => {
                    self.cache.counters().failed_write();
                    self.queue.failed(&taken.key, error, is_of_all);
                }
            }
        }
    }
}

/// Writes that are under way; those of a task that is dropped wait again.
struct UnderWay<'q, S: Source> {
    queue: &'q Queue<S>,
    left: Vec<Taken<S>>,
}

impl<S: Source> UnderWay<'_, S> {
    fn end(mut self) -> std::vec::IntoIter<Taken<S>> {
        std::mem::take(&mut self.left).into_iter()
    }
}

impl<S: Source> Drop for UnderWay<'_, S> {
    fn drop(&mut self) {
        for taken in &self.left {
            self.queue.given_up(&taken.key);
        }
    }
}

/// The task that writes what waits, until nothing does.
struct Worker<S: Source> {
    behind: Arc<Behind<S>>,
    /// The queue thinks that it runs.
    is_counted: bool,
}

impl<S: Source> Worker<S> {
    async fn run(mut self) {
        let behind = self.behind.clone();
        let queue = &behind.queue;
        if !timer::is_there() {
            // Nothing would end a delay.
            queue.hurry();
        }
        loop {
            let mut changed = std::pin::pin!(queue.changed.notified());
            changed.as_mut().enable();
            match queue.next() {
                Next::Write(taken) => behind.write(taken).await,
                Next::Wait(due) => drop(until(due, changed).await),
                Next::Nothing => {
                    self.is_counted = false;
                    return;
                }
            }
        }
    }
}

impl<S: Source> Drop for Worker<S> {
    fn drop(&mut self) {
        if self.is_counted {
            self.behind.queue.worker_is_gone();
        }
    }
}

impl<S: Source> AtClose for Behind<S> {
    fn close(self: Arc<Self>, end: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            self.queue.hurry();
            self.start();
            let is_empty = async {
                loop {
                    let mut changed = std::pin::pin!(self.queue.changed.notified());
                    changed.as_mut().enable();
                    if self.queue.len() == 0 {
                        return;
                    }
                    changed.await;
                }
            };
            until(end, is_empty).await;
            let lost = self.queue.end();
            if lost > 0 {
                self.cache.counters().lost_writes(lost as u64);
                tracing::error!(
                    target: "tower_response_cache",
                    "closed with {lost} writes that the source has not taken: they are lost, unless Repository::unwritten is asked for them"
                );
            }
        })
    }
}
