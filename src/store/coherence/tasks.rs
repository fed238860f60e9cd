//! The two tasks: one that listens, one that tells.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use tokio::{runtime::Handle, time::Instant};

use super::{ANSWER_WITHIN, ASK_EVERY, ASK_OFTEN, Coherence};
use crate::timer::{pause, unless, until, within};

impl Coherence {
    /// Lets somebody listen and tell, if nobody does and there is a runtime.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.is_over.load(Ordering::Acquire) {
            return;
        }
        let is_idle = {
            let own = self.own();
            own.is_sending || own.waiting.is_empty()
        };
        let is_listening = self.is_listening.load(Ordering::Acquire);
        if is_idle && is_listening {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.is_listening.swap(true, Ordering::AcqRel) {
            let listener = Listener(self.clone());
            runtime.spawn(async move {
                unless(listener.0.ended(), listener.0.listen()).await;
            });
        }
        let mut own = self.own();
        if !own.is_sending && !own.waiting.is_empty() {
            own.is_sending = true;
            let mut teller = Teller {
                coherence: self.clone(),
                is_counted: true,
            };
            runtime.spawn(async move {
                let coherence = teller.coherence.clone();
                unless(coherence.ended(), coherence.tell(&mut teller)).await;
            });
        }
    }

    async fn listen(&self) {
        let mut next = Instant::now();
        let mut is_there = true;
        while is_there {
            if Instant::now() >= next {
                let caught_up = within(ANSWER_WITHIN, self.catch_up()).await;
                self.say();
                let often = !matches!(caught_up, Some(Ok(()))) || !self.channel.is_hearing();
                next = Instant::now() + if often { ASK_OFTEN } else { ASK_EVERY };
            }
            match until(next, self.channel.heard()).await {
                Some(Ok(message)) => {
                    self.take(&message);
                    if self.caught() < self.log.sequence().shared {
                        next = Instant::now();
                    }
                }
                Some(Err(_)) => is_there = pause(ASK_OFTEN).await,
                None => {}
            }
        }
    }

    /// One line for each change.
    fn say(&self) {
        let is_sure = self.is_sure(self.now());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == Some(is_sure) || (said.is_none() && !is_sure) {
            return;
        }
        let is_first = said.replace(is_sure).is_none();
        match is_sure {
            true if is_first => {}
            true => {
                tracing::info!(target: "tower_response_cache", "invalidations of other nodes are heard of again");
            }
            false => tracing::warn!(
                target: "tower_response_cache",
                "invalidations of other nodes may be missed: memory answers for a short time only until the link is back"
            ),
        }
    }

    /// Waits until nothing is told or heard any more.
    pub(crate) async fn ended(&self) {
        let mut over = std::pin::pin!(self.over.notified());
        over.as_mut().enable();
        if !self.is_over.load(Ordering::Acquire) {
            over.await;
        }
    }

    /// Tells what waits, as far as that can be done until then, and ends what runs.
    pub(crate) async fn close(self: &Arc<Self>, end: Instant) {
        self.start();
        let all_told = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.own().waiting.is_empty() {
                    return;
                }
                changed.await;
            }
        };
        if until(end, all_told).await.is_none() {
            let left = self.waiting();
            tracing::warn!(target: "tower_response_cache", "closed with {left} invalidations that other nodes were not told of");
        }
        self.end();
    }

    /// Nobody is left.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.over.notify_waiters();
    }
}

/// The task that listens; when it ends with its runtime, another may.
struct Listener(Arc<Coherence>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.is_listening.store(false, Ordering::Release);
    }
}

/// The task that tells; however it ends, its place is free again.
pub(super) struct Teller {
    coherence: Arc<Coherence>,
    pub(super) is_counted: bool,
}

impl Drop for Teller {
    fn drop(&mut self) {
        if self.is_counted {
            self.coherence.own().is_sending = false;
        }
    }
}
