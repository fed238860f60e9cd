//! What a place for the shared log has to be.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;

use crate::store::{StoreFuture, StoreKey};

/// Where the shared log is.
pub(crate) trait Channel: fmt::Debug + Send + Sync + 'static {
    /// Adds records under one number, higher than `seen` and than all before, and has every node hear
    /// of them. A log that has lost something is begun anew first; without records that is all.
    fn add(&self, writer: u64, seen: u64, records: Vec<Vec<u8>>) -> StoreFuture<'_, Added>;

    /// The present number; `None` where the log is not whole.
    fn number(&self) -> StoreFuture<'_, Option<u64>>;

    /// Records from a number on, that included, lowest first; not necessarily all of them.
    fn page(&self, from: u64) -> StoreFuture<'_, Page>;

    /// The next message. Those that are missed are no error.
    fn heard(&self) -> StoreFuture<'_, Message>;

    /// Whether messages are known to come.
    fn is_hearing(&self) -> bool;

    /// What other answers had in them.
    fn seen(&self) -> &Seen;

    /// What the lease of a key is called.
    fn lease_name(&self, key: &StoreKey<'_>) -> String;

    /// Takes a lease for so long, unless somebody has it.
    fn take_lease(&self, name: String, token: u64, life: Duration) -> StoreFuture<'_, bool>;

    /// Gives a lease back, if it is still the one with this token, and has those hear of it who wait.
    fn give_back(&self, name: String, token: u64) -> StoreFuture<'_, ()>;

    /// Told when a lease is given back; messages may be missed.
    fn given_back(&self, name: &str) -> Arc<Notify>;

    /// The time of day by which numbers are made, as far as it is known.
    fn number_time(&self) -> Option<SystemTime>;

    /// From now on connections are made with another password.
    #[cfg(feature = "redis")]
    fn set_password(&self, _password: String) {}
}

/// What answers to other questions say of the number.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    highest: AtomicU64,
    pub(super) is_lost: AtomicBool,
}

impl Seen {
    /// The highest number in any answer.
    pub(crate) fn highest(&self) -> u64 {
        self.highest.load(Ordering::Acquire)
    }

    /// Takes notice of the number in an answer, where `before` was the highest when it was asked for: on
    /// several connections answers do not come in their order.
    #[cfg(feature = "redis")]
    pub(crate) fn note(&self, number: Option<u64>, before: u64) {
        match number {
            Some(number) if number >= before => {
                self.highest.fetch_max(number, Ordering::AcqRel);
            }
            _ => self.is_lost.store(true, Ordering::Release),
        }
    }
}

/// What became of records that were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Added {
    /// The number before.
    pub(crate) previous: u64,
    pub(crate) number: u64,
    /// The log was begun anew at that number.
    pub(crate) is_new: bool,
}

/// A part of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// The present number; `None` where the log is not whole.
    pub(crate) number: Option<u64>,
    pub(crate) records: Vec<(Vec<u8>, u64)>,
    /// Whether there is nothing after them.
    pub(crate) is_last: bool,
}

/// What one node tells all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) writer: u64,
    pub(crate) previous: u64,
    pub(crate) number: u64,
    pub(crate) records: Vec<Vec<u8>>,
}
