//! A remote store in a map, which can be told to fail, to hang and to lie.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use tower_response_cache::{
    Cache, Link, ManualClock, ResponseCacheLayer, Store, StoreError, StoreFuture, StoreKey, Stored,
};

use super::{App, Origin};

/// Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct FakeStore(Arc<Inside>);

#[derive(Debug, Default)]
struct Inside {
    frames: Mutex<HashMap<Vec<u8>, (Bytes, SystemTime)>>,
    reads: AtomicUsize,
    writes: AtomicUsize,
    deletes: AtomicUsize,
    connects: AtomicUsize,
    closes: AtomicUsize,
    renewals: AtomicUsize,
    checks: AtomicUsize,
    longest_key: AtomicUsize,
    cut: AtomicUsize,
    fails: AtomicBool,
    hangs: AtomicBool,
    never_ends: AtomicBool,
    panics: AtomicBool,
    refuses_writes: AtomicBool,
    yields: AtomicUsize,
    link: Mutex<Option<Link>>,
    time: Mutex<Option<SystemTime>>,
}

impl FakeStore {
    /// How often it was asked, with or without success.
    pub fn reads(&self) -> usize {
        self.0.reads.load(Ordering::SeqCst)
    }

    pub fn writes(&self) -> usize {
        self.0.writes.load(Ordering::SeqCst)
    }

    pub fn deletes(&self) -> usize {
        self.0.deletes.load(Ordering::SeqCst)
    }

    pub fn connects(&self) -> usize {
        self.0.connects.load(Ordering::SeqCst)
    }

    pub fn closes(&self) -> usize {
        self.0.closes.load(Ordering::SeqCst)
    }

    /// How often its connections were to be made anew.
    pub fn renewals(&self) -> usize {
        self.0.renewals.load(Ordering::SeqCst)
    }

    /// How often its link was to be looked at.
    pub fn checks(&self) -> usize {
        self.0.checks.load(Ordering::SeqCst)
    }

    /// The length of the longest key that was written.
    pub fn longest_key(&self) -> usize {
        self.0.longest_key.load(Ordering::SeqCst)
    }

    /// What is there: frames under keys, each with its end.
    pub fn frames(&self) -> MutexGuard<'_, HashMap<Vec<u8>, (Bytes, SystemTime)>> {
        self.0.frames.lock().unwrap()
    }

    /// From now on all that is read lacks so many bytes at its end.
    pub fn cut_frames_by(&self, bytes: usize) {
        self.0.cut.store(bytes, Ordering::SeqCst);
    }

    /// From now on everything is an error, or no longer.
    pub fn fail(&self, fails: bool) {
        self.0.fails.store(fails, Ordering::SeqCst);
    }

    /// From now on no read, write or deletion is ever answered, or the next ones are again.
    pub fn hang(&self, hangs: bool) {
        self.0.hangs.store(hangs, Ordering::SeqCst);
    }

    /// From now on every read, write or deletion panics, or no longer.
    pub fn panic(&self, panics: bool) {
        self.0.panics.store(panics, Ordering::SeqCst);
    }

    /// From now on it declines to be written, or no longer.
    pub fn refuse_writes(&self, refuses: bool) {
        self.0.refuses_writes.store(refuses, Ordering::SeqCst);
    }

    /// So often everybody else has a turn before it answers.
    pub fn yield_before_answers(&self, times: usize) {
        self.0.yields.store(times, Ordering::SeqCst);
    }

    /// Connecting and closing never come to an end.
    pub fn never_end(&self) {
        self.0.never_ends.store(true, Ordering::SeqCst);
    }

    /// What it says of its link; up, until this is called.
    pub fn set_link(&self, link: Link) {
        *self.0.link.lock().unwrap() = Some(link);
    }

    /// What it says of the time; nothing, until this is called.
    pub fn set_time(&self, time: SystemTime) {
        *self.0.time.lock().unwrap() = Some(time);
    }

    /// A cache in front of it, and an application with that cache.
    pub fn node(&self, clock: &ManualClock, origin: &Origin) -> (Cache, App) {
        let cache = Cache::builder()
            .store(self.clone())
            .clock(clock.clone())
            .build()
            .expect("the defaults are good");
        let app = origin.behind(&ResponseCacheLayer::new(&cache).jitter(0.0));
        (cache, app)
    }

    async fn trouble(&self) -> Result<(), StoreError> {
        if self.0.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        for _ in 0..self.0.yields.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        assert!(!self.0.panics.load(Ordering::SeqCst), "told to panic");
        self.failure()
    }

    async fn trouble_at_an_end(&self) -> Result<(), StoreError> {
        if self.0.never_ends.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.failure()
    }

    fn failure(&self) -> Result<(), StoreError> {
        match self.0.fails.load(Ordering::SeqCst) {
            true => Err(StoreError::new("told to fail")),
            false => Ok(()),
        }
    }
}

impl Store for FakeStore {
    fn get<'a>(&'a self, key: &'a StoreKey<'a>, _: usize) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            self.0.reads.fetch_add(1, Ordering::SeqCst);
            self.trouble().await?;
            let frames = self.frames();
            let cut = self.0.cut.load(Ordering::SeqCst);
            Ok(frames
                .get(key.bytes())
                .map(|(frame, _)| frame.slice(..frame.len().saturating_sub(cut)).into()))
        })
    }

    fn set<'a>(
        &'a self,
        key: &'a StoreKey<'a>,
        frame: Bytes,
        until: SystemTime,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.0.writes.fetch_add(1, Ordering::SeqCst);
            self.trouble().await?;
            if self.0.refuses_writes.load(Ordering::SeqCst) {
                return Err(StoreError::refused("told to refuse"));
            }
            let length = key.bytes().len();
            self.0.longest_key.fetch_max(length, Ordering::SeqCst);
            self.frames().insert(key.bytes().to_vec(), (frame, until));
            Ok(())
        })
    }

    fn delete<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.0.deletes.fetch_add(1, Ordering::SeqCst);
            self.trouble().await?;
            self.frames().remove(key.bytes());
            Ok(())
        })
    }

    fn connect(&self) -> StoreFuture<'_, ()> {
        self.0.connects.fetch_add(1, Ordering::SeqCst);
        Box::pin(self.trouble_at_an_end())
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.0.closes.fetch_add(1, Ordering::SeqCst);
        Box::pin(self.trouble_at_an_end())
    }

    fn time(&self) -> Option<SystemTime> {
        *self.0.time.lock().unwrap()
    }

    fn link(&self) -> Link {
        self.0.link.lock().unwrap().clone().unwrap_or(Link::Up)
    }

    fn renew(&self) {
        self.0.renewals.fetch_add(1, Ordering::SeqCst);
    }

    fn check(&self) {
        self.0.checks.fetch_add(1, Ordering::SeqCst);
    }
}
