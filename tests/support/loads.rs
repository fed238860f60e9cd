//! Loads of values that are counted, and held until they may go on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Loads that are counted, and wait until they may go on.
#[derive(Clone, Default)]
pub struct Loads {
    calls: Arc<AtomicUsize>,
    opened: Arc<Notify>,
}

impl Loads {
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// The number of the call, as soon as one may go on.
    pub async fn held(&self) -> usize {
        let call = self.at_once();
        self.opened.notified().await;
        call
    }

    /// The same at once.
    pub fn at_once(&self) -> usize {
        self.calls.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Lets one load go on.
    pub fn open(&self) {
        self.opened.notify_one();
    }
}
