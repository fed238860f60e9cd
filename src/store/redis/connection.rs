//! One connection: what waits on it, and the task that reads and writes.

use std::{
    collections::hash_map::RandomState,
    future::{Future, poll_fn},
    hash::{BuildHasher, Hasher},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::ConnectHandle,
};
use tokio::sync::Notify;

use super::lane::Lanes;

const LEAST_PAUSE: Duration = Duration::from_millis(50);
const MOST_PAUSE: Duration = Duration::from_secs(1);
/// So many commands in a row without any answer, and the connection is tried.
const SUSPICIOUS: usize = 3;
/// What may be unanswered on one connection before nothing more is put on it.
const MOST_UNANSWERED: usize = 256;
const MOST_UNANSWERED_BYTES: usize = 4 << 20;

/// A place for one connection.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) connection: Mutex<Option<Arc<Connection>>>,
    /// There is something to do for the keeper.
    pub(super) wake: Notify,
    pub(super) renew: AtomicBool,
    pub(super) replace: AtomicBool,
}

/// A connection in use; to a cluster, one to each of its nodes.
pub(super) struct Connection {
    pub(super) client: Client,
    is_clustered: bool,
    pub(super) lanes: Lanes,
    unanswered: AtomicUsize,
    unanswered_bytes: AtomicUsize,
}

impl Slot {
    /// Its connection, if there is one and it has room, for a command of so many bytes.
    pub(super) fn pick(&self, bytes: usize) -> Option<Asked<'_>> {
        let connection = lock(&self.connection).clone()?;
        connection.has_room().then_some(Asked {
            connection,
            slot: self,
            bytes,
            is_answered: false,
        })
    }
}

/// The task of fred's that reads and writes; the connection ends with it.
pub(super) struct Router(pub(super) ConnectHandle);

impl Router {
    /// Why it ended. Not to be asked again then.
    pub(super) async fn ended(&mut self) -> Result<(), Error> {
        let why = |text: &'static str| Err(Error::new(ErrorKind::IO, text));
        match (&mut self.0).await {
            Ok(Ok(())) => why("the connection was closed"),
            Ok(Err(error)) => Err(error),
            Err(error) if error.is_panic() => {
                why("the client panicked; does the runtime have enable_all()?")
            }
            Err(_) => why("the runtime is gone"),
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    pub(super) fn new(client: Client, seq: Bytes) -> Self {
        Self {
            lanes: Lanes::new(client.clone(), seq.into()),
            is_clustered: client.is_clustered(),
            client,
            unanswered: AtomicUsize::new(0),
            unanswered_bytes: AtomicUsize::new(0),
        }
    }

    fn has_room(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) < MOST_UNANSWERED
            && self.unanswered_bytes.load(Ordering::Relaxed) < MOST_UNANSWERED_BYTES
    }

    /// Something was answered: what was put on it before was answered as well. Of the other nodes of a
    /// cluster that says nothing.
    pub(super) fn answered(&self) {
        if !self.is_clustered {
            self.is_good();
        }
    }

    /// Everything answers.
    pub(super) fn is_good(&self) {
        // Nearly always nothing to do, and then nothing to fight for between threads.
        if self.unanswered.load(Ordering::Relaxed) != 0 {
            self.unanswered.store(0, Ordering::Relaxed);
            self.unanswered_bytes.store(0, Ordering::Relaxed);
        }
    }
}

/// A command on its way. Unless it is answered, it lies in some buffer of its connection.
pub(super) struct Asked<'a> {
    pub(super) connection: Arc<Connection>,
    slot: &'a Slot,
    bytes: usize,
    is_answered: bool,
}

impl Asked<'_> {
    pub(super) fn answered(mut self) {
        self.is_answered = true;
        self.connection.answered();
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let connection = &self.connection;
        connection
            .unanswered_bytes
            .fetch_add(self.bytes, Ordering::Relaxed);
        let before = connection.unanswered.fetch_add(1, Ordering::Relaxed);
        if before + 1 >= SUSPICIOUS {
            self.slot.wake.notify_one();
        }
    }
}

/// Which of two is there first.
pub(super) async fn either<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(output),
        Poll::Pending => other.as_mut().poll(cx),
    })
    .await
}

pub(super) fn late() -> Error {
    Error::new(ErrorKind::Timeout, "no answer")
}

/// As random as the seed of a map.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// 50 ms, doubled each time up to 1 s; half of it by chance, so that nodes do not come at once.
pub(super) fn back_off(failures: u32) -> Duration {
    let pause = LEAST_PAUSE
        .saturating_mul(1 << failures.min(10))
        .min(MOST_PAUSE);
    let chance = u32::from(u16::try_from(random() >> 48).unwrap_or_default());
    pause / 2 + pause / 2 * chance / (1 << 16)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
