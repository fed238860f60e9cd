//! What runs without anybody who waits for it: bounded in number, and ended with the cache.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
};

use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use super::Cache;
use crate::timer::unless;

/// Fills that go on without their starter, and other work that nobody waits for.
const MAX_BACKGROUND: usize = 1024;

/// What has something to do before the cache is closed.
pub(crate) trait AtClose: Send + Sync {
    /// Does it, until then at the longest.
    fn close(self: Arc<Self>, end: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

#[derive(Default)]
pub(super) struct Background {
    pub(super) running: AtomicUsize,
    /// Bodies that are being read, whether anybody listens or not.
    pub(super) bodies: AtomicUsize,
    pub(super) ended: Notify,
    pub(super) is_closed: AtomicBool,
    /// Nothing may run any more.
    pub(super) is_over: AtomicBool,
    pub(super) over: Notify,
}

impl Background {
    /// Waits until nothing may run any more.
    pub(super) async fn over(&self) {
        let mut over = std::pin::pin!(self.over.notified());
        over.as_mut().enable();
        if !self.is_over.load(Ordering::Acquire) {
            over.await;
        }
    }

    /// Waits until nothing runs any more; the bodies that are read for clients included, or not.
    pub(super) async fn ended(&self, with_bodies: bool) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            // In this order: a fill becomes a body before it ends.
            let running = self.running.load(Ordering::Acquire);
            let bodies = self.bodies.load(Ordering::Acquire);
            if running == 0 && (bodies == 0 || !with_bodies) {
                return;
            }
            ended.await;
        }
    }
}

impl Cache {
    /// Has `close` wait for it; `false` where that was called already.
    pub(crate) fn at_close(&self, closer: Weak<dyn AtClose>) -> bool {
        let mut closers = self.closers();
        let Some(closers) = &mut *closers else {
            return false;
        };
        closers.retain(|known| known.strong_count() > 0);
        closers.push(closer);
        true
    }

    fn closers(&self) -> MutexGuard<'_, Option<Vec<Weak<dyn AtClose>>>> {
        let closers = &self.core.closers;
        closers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All at once: each has the whole time.
    pub(super) async fn run_closers(&self, end: Instant) {
        let closers = self.closers().take().unwrap_or_default();
        let closers = closers.iter().filter_map(Weak::upgrade);
        let mut closing: Vec<_> = closers.map(|closer| closer.close(end)).collect();
        poll_fn(|cx| {
            closing.retain_mut(|closing| closing.as_mut().poll(cx).is_pending());
            match closing.is_empty() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// A place for work that nobody waits for, unless there is too much of it.
    pub(crate) fn background_place(&self) -> Option<Place> {
        let background = self.core.background.clone();
        let running = background.running.fetch_add(1, Ordering::AcqRel);
        let place = Place(background);
        (running < MAX_BACKGROUND).then_some(place)
    }

    /// Counts a body that is being read, until it is dropped.
    pub(crate) fn body_task(&self) -> BodyTask {
        let background = self.core.background.clone();
        background.bodies.fetch_add(1, Ordering::AcqRel);
        BodyTask(background)
    }

    /// Waits until `close` ends what runs in the background.
    pub(crate) async fn over(&self) {
        self.core.background.over().await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.core.background.is_closed.load(Ordering::Acquire)
    }

    /// Runs work that nobody waits for; beyond the bound it is dropped.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(detached) = self.detached() {
            detached.spawn(work);
        }
    }

    /// Where work can go on without whoever started it; nowhere beyond the bound, or once the cache is
    /// closed.
    pub(crate) fn detached(&self) -> Option<Detached> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        if self.is_closed() {
            return None;
        }
        let place = self.background_place()?;
        Some(Detached { runtime, place })
    }
}

/// A place for work that goes on by itself.
pub(crate) struct Detached {
    runtime: tokio::runtime::Handle,
    place: Place,
}

impl Detached {
    /// Runs it; its output, unless the cache is closed and does not wait for it any longer.
    pub(crate) fn spawn<T: Send + 'static>(
        self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        let place = self.place;
        self.runtime
            .spawn(async move { unless(place.0.over(), work).await })
    }
}

/// A place among the background work, given back however the work ends.
pub(crate) struct Place(Arc<Background>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}

/// A body that is being read.
pub(crate) struct BodyTask(Arc<Background>);

impl Drop for BodyTask {
    fn drop(&mut self) {
        self.0.bodies.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}
