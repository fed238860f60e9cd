//! The outbox: what waits to be written to the remote store, bounded in bytes.
//!
//! One job waits for a key at most, the newest; and while one of a key is being sent, the next one
//! waits, so that an older response never lands behind a newer one. What finds no room is refused,
//! and whoever brought it goes on without: a store that is slow must not cost memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// How many jobs are sent at the same time.
const MAX_WORKERS: usize = 16;
/// What a waiting job costs besides what it carries.
const OVERHEAD: u64 = 256;

type Key = Arc<[u8]>;

/// What a job takes over from one of the same key that it replaces.
pub(crate) trait Replace {
    fn replace(&mut self, older: Self);
}

#[derive(Debug)]
struct Job<J> {
    job: J,
    bytes: u64,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Slot<J> {
    waiting: Option<Job<J>>,
    is_sending: bool,
}

#[derive(Debug)]
struct State<J> {
    slots: HashMap<Key, Slot<J>>,
    /// Keys with a job that waits, oldest first.
    order: VecDeque<Key>,
    bytes: u64,
    workers: usize,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Outbox<J> {
    state: Mutex<State<J>>,
    emptied: Notify,
    limit: u64,
}

/// There is no room for this job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// What a worker has to do.
#[derive(Debug)]
pub(crate) enum Next<J: Replace> {
    Send(Sending<J>, J),
    /// Nothing before that.
    Wait(Duration),
    /// Nothing at all: the worker ends, and is not counted any more.
    Nothing,
}

impl<J: Replace> Outbox<J> {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                slots: HashMap::new(),
                order: VecDeque::new(),
                bytes: 0,
                workers: 0,
            }),
            emptied: Notify::new(),
            limit,
        })
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job of `bytes`; it replaces one of the same key that still waits. Urgent ones have
    /// a quarter more room.
    pub(crate) fn put(&self, key: Key, job: J, bytes: u64, is_urgent: bool) -> Result<(), Full> {
        let limit = self.limit + if is_urgent { self.limit / 4 } else { 0 };
        let bytes = bytes + OVERHEAD + key.len() as u64;
        let mut state = self.state();
        let waits = state
            .slots
            .get(&key)
            .and_then(|slot| slot.waiting.as_ref().map(|job| job.bytes));
        if state.bytes - waits.unwrap_or(0) + bytes > limit {
            return Err(Full);
        }
        state.bytes = state.bytes - waits.unwrap_or(0) + bytes;
        let job = Job {
            job,
            bytes,
            not_before: None,
        };
        state.wait(key, job);
        Ok(())
    }

    /// A place for one more worker, if one would have something to do.
    pub(crate) fn worker(self: &Arc<Self>) -> Option<Worker<J>> {
        let mut state = self.state();
        if state.workers >= MAX_WORKERS || state.workers >= state.slots.len() {
            return None;
        }
        state.workers += 1;
        Some(Worker {
            outbox: self.clone(),
            is_counted: true,
        })
    }

    /// Ready when there is nothing left to send.
    pub(crate) async fn is_empty(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.state().slots.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// How many bytes wait or are being sent.
    pub(crate) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// How many jobs wait or are being sent.
    pub(crate) fn len(&self) -> usize {
        self.state().slots.len()
    }
}

impl<J: Replace> State<J> {
    fn wait(&mut self, key: Key, mut job: Job<J>) {
        let slot = self.slots.entry(key.clone()).or_insert(Slot {
            waiting: None,
            is_sending: false,
        });
        match slot.waiting.take() {
            Some(older) => job.job.replace(older.job),
            None if slot.is_sending => {}
            None => self.order.push_back(key),
        }
        slot.waiting = Some(job);
    }
}

/// One that sends; however it ends, its place is free again.
#[derive(Debug)]
pub(crate) struct Worker<J: Replace> {
    outbox: Arc<Outbox<J>>,
    is_counted: bool,
}

impl<J: Replace> Worker<J> {
    /// The oldest job that may be sent now.
    pub(crate) fn next(&mut self) -> Next<J> {
        let now = Instant::now();
        let mut state = self.outbox.state();
        let mut soonest: Option<Instant> = None;
        for _ in 0..state.order.len() {
            let Some(key) = state.order.pop_front() else {
                break;
            };
            let Some(slot) = state.slots.get_mut(&key) else {
                continue;
            };
            let due = slot.waiting.as_ref().and_then(|job| job.not_before);
            match due {
                Some(due) if due > now => {
                    soonest = Some(soonest.map_or(due, |soonest| soonest.min(due)));
                    state.order.push_back(key);
                }
                _ => {
                    let Some(Job { job, bytes, .. }) = slot.waiting.take() else {
                        continue;
                    };
                    slot.is_sending = true;
                    let sending = Sending {
                        outbox: self.outbox.clone(),
                        key,
                        bytes,
                        again: None,
                    };
                    return Next::Send(sending, job);
                }
            }
        }
        match soonest {
            Some(due) => Next::Wait(due - now),
            None => {
                // Under the lock: who puts a job in after this starts another one.
                state.workers -= 1;
                self.is_counted = false;
                Next::Nothing
            }
        }
    }
}

impl<J: Replace> Drop for Worker<J> {
    fn drop(&mut self) {
        if self.is_counted {
            self.outbox.state().workers -= 1;
        }
    }
}

/// A job that is being sent; when it goes, the next one of its key may.
#[derive(Debug)]
pub(crate) struct Sending<J: Replace> {
    outbox: Arc<Outbox<J>>,
    key: Key,
    bytes: u64,
    again: Option<(J, Duration)>,
}

impl<J: Replace> Sending<J> {
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// It takes less room from now on: so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let bytes = (bytes + OVERHEAD + self.key.len() as u64).min(self.bytes);
        self.outbox.state().bytes -= self.bytes - bytes;
        self.bytes = bytes;
    }

    /// To be sent once more after a pause, unless a newer job of its key has come.
    pub(crate) fn again(mut self, job: J, pause: Duration) {
        self.again = Some((job, pause));
    }
}

impl<J: Replace> Drop for Sending<J> {
    fn drop(&mut self) {
        let again = self.again.take();
        let mut state = self.outbox.state();
        let bytes = self.bytes;
        let Some(slot) = state.slots.get_mut(&self.key) else {
            return;
        };
        slot.is_sending = false;
        match (&mut slot.waiting, again) {
            (Some(newer), again) => {
                if let Some((job, _)) = again {
                    newer.job.replace(job);
                }
                state.bytes -= bytes;
                state.order.push_back(self.key.clone());
            }
            (None, Some((job, pause))) => {
                slot.waiting = Some(Job {
                    job,
                    bytes,
                    not_before: Some(Instant::now() + pause),
                });
                state.order.push_back(self.key.clone());
            }
            (None, None) => {
                state.slots.remove(&self.key);
                state.bytes -= bytes;
            }
        }
        if state.slots.is_empty() {
            self.outbox.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Replace for u32 {
        fn replace(&mut self, older: Self) {
            *self += 100 * older;
        }
    }

    fn key(name: &str) -> Key {
        name.as_bytes().into()
    }

    fn send(worker: &mut Worker<u32>) -> (Sending<u32>, u32) {
        match worker.next() {
            Next::Send(sending, job) => (sending, job),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_job_of_a_key_replaces_the_one_that_waits() {
        let outbox = Outbox::new(10_000);
        outbox.put(key("a"), 1, 100, false).unwrap();
        let alone = outbox.bytes();
        outbox.put(key("b"), 2, 100, false).unwrap();
        outbox.put(key("a"), 3, 100, false).unwrap();
        assert_eq!((outbox.len(), outbox.bytes()), (2, 2 * alone));
        let mut worker = outbox.worker().unwrap();
        let (first, job) = send(&mut worker);
        assert_eq!((first.key(), job), (&b"a"[..], 103));
        let (second, job) = send(&mut worker);
        assert_eq!(job, 2);
        drop((first, second));
        assert_eq!((outbox.len(), outbox.bytes()), (0, 0));
        outbox.is_empty().await;
        assert!(matches!(worker.next(), Next::Nothing));
        assert!(outbox.worker().is_none(), "nothing to do");
    }

    #[tokio::test(start_paused = true)]
    async fn two_jobs_of_one_key_are_never_under_way_together() {
        let outbox = Outbox::new(10_000);
        outbox.put(key("a"), 1, 100, false).unwrap();
        let mut worker = outbox.worker().unwrap();
        let (first, _) = send(&mut worker);
        outbox.put(key("a"), 2, 100, false).unwrap();
        let mut other = outbox.worker();
        assert!(other.is_none());
        assert!(matches!(worker.next(), Next::Nothing));
        drop(first);
        other = outbox.worker();
        let (_second, job) = send(other.as_mut().unwrap());
        assert_eq!(job, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_sent_again_after_its_pause_unless_something_newer_came() {
        let outbox = Outbox::new(10_000);
        outbox.put(key("a"), 1, 100, false).unwrap();
        let bytes = outbox.bytes();
        let mut worker = outbox.worker().unwrap();
        let (sending, job) = send(&mut worker);
        sending.again(job, Duration::from_secs(1));
        assert_eq!(outbox.bytes(), bytes);
        let Next::Wait(pause) = worker.next() else {
            panic!("too early");
        };
        assert_eq!(pause, Duration::from_secs(1));
        tokio::time::advance(pause).await;
        let (sending, job) = send(&mut worker);
        outbox.put(key("a"), 9, 100, false).unwrap();
        sending.again(job, Duration::from_secs(1));
        let (_sending, job) = send(&mut worker);
        assert_eq!(job, 109);
        assert_eq!(outbox.bytes(), bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_its_bytes_nothing_is_taken() {
        let outbox = Outbox::new(1_000);
        outbox.put(key("a"), 1, 600, false).unwrap();
        assert_eq!(outbox.put(key("b"), 2, 600, false), Err(Full));
        outbox.put(key("a"), 3, 500, false).unwrap();
        let mut worker = outbox.worker().unwrap();
        let (sending, _) = send(&mut worker);
        assert_eq!(outbox.put(key("b"), 2, 600, false), Err(Full), "still held");
        drop(sending);
        outbox.put(key("b"), 2, 600, false).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_whose_runtime_ends_leaves_its_place_and_its_job() {
        let outbox = Outbox::new(10_000);
        outbox.put(key("a"), 1, 100, false).unwrap();
        let mut worker = outbox.worker().unwrap();
        let held = send(&mut worker);
        drop(worker);
        drop(held);
        assert_eq!((outbox.len(), outbox.bytes()), (0, 0));
        outbox.put(key("b"), 2, 100, false).unwrap();
        assert!(outbox.worker().is_some());
    }
}
