//! Own records: told in their order, and again until it is done.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;

use super::{
    ANSWER_WITHIN, ASSERT_AGAIN, Added, Coherence, MAX_BYTES_TOGETHER, MAX_NUMBERS, MAX_TOGETHER,
    MAX_TOLD, MAX_WAITING, TELL_AGAIN, tasks::Teller,
};
use crate::{
    error::StoreError,
    selector::Selector,
    store::record,
    timer::{after, pause, until, within},
};

impl Coherence {
    /// Adds a record to the log of this node, and has it told; its number here.
    pub(crate) fn invalidate(self: &Arc<Self>, selector: &Selector) -> u64 {
        let mut own = self.own();
        if own.waiting.len() >= MAX_WAITING {
            own.waiting.clear();
            let all = Selector::all();
            let sequence = self.log.add(&all, self.now());
            own.waiting.push_back((sequence, all));
            tracing::warn!(
                target: "tower_response_cache",
                "{MAX_WAITING} invalidations wait for the remote store: everything is invalidated in their place"
            );
        }
        // Under the lock: they are told in the order of their numbers.
        let sequence = self.log.add(selector, self.now());
        own.waiting.push_back((sequence, selector.clone()));
        drop(own);
        self.start();
        sequence
    }

    pub(crate) fn is_told(&self, sequence: u64) -> bool {
        self.told.load(Ordering::Acquire) >= sequence
    }

    /// Waits until a record of this node is in the shared log.
    pub(crate) async fn told(self: &Arc<Self>, sequence: u64) -> Result<(), StoreError> {
        self.start();
        let end = after(ANSWER_WITHIN);
        let told = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.is_told(sequence) {
                    return Ok(());
                }
                if let Some(why) = self.own().why.clone() {
                    return Err(why);
                }
                changed.await;
            }
        };
        let late = || {
            StoreError::timeout(
                "the other nodes were not told within 500 ms; they will be as soon as that is possible",
            )
        };
        until(end, told).await.unwrap_or_else(|| Err(late()))
    }

    /// Waits until all records of this node are told, or cannot be. What is filled after that is newer than
    /// they are for other nodes, too; before, only this node knows that.
    pub(crate) async fn settled(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let own = self.own();
                if own.waiting.is_empty() || own.why.is_some() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// The shared number of a record of this node, as soon as it has one; and the last of this node's
    /// records that were told with it, which have the same.
    pub(crate) async fn number_of(&self, sequence: u64) -> (u64, u64) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let own = self.own();
                let at = own.numbers.partition_point(|(last, _)| *last < sequence);
                // Of one that is forgotten, too low a number: then it looks older than it is.
                if let Some((last, number)) = own.numbers.get(at) {
                    return match at == 0 && own.numbers.len() == MAX_NUMBERS {
                        true => (0, *last),
                        false => (*number, *last),
                    };
                }
            }
            changed.await;
        }
    }

    /// Sends what waits, in its order, until nothing does.
    pub(super) async fn tell(&self, teller: &mut Teller) {
        loop {
            let Some(batch) = self.batch(teller) else {
                return;
            };
            let seen = self.log.sequence().shared;
            let records = batch.iter().map(|(_, selector)| record::encode(selector));
            let add = self.channel.add(self.writer, seen, records.collect());
            let error = match within(ANSWER_WITHIN, add).await {
                Some(Ok(added)) => {
                    self.was_told(&batch, added);
                    continue;
                }
                Some(Err(error)) => error,
                None => StoreError::timeout("no answer within 500 ms"),
            };
            tracing::debug!(target: "tower_response_cache", "invalidations wait: {error}");
            self.own().why = Some(error);
            self.changed.notify_waiters();
            if !pause(TELL_AGAIN).await {
                return;
            }
        }
    }

    /// What is to be told next; it stays where it is until that is done.
    fn batch(&self, teller: &mut Teller) -> Option<Vec<(u64, Selector)>> {
        let mut own = self.own();
        if own.waiting.is_empty() {
            // Under the lock: who has something to tell after this starts another one.
            own.is_sending = false;
            teller.is_counted = false;
            return None;
        }
        let mut bytes = 0;
        let fits = |(_, selector): &&(u64, Selector)| {
            bytes += record::encode(selector).len();
            bytes <= MAX_BYTES_TOGETHER
        };
        let first = own.waiting.iter().take(1);
        let more = own.waiting.iter().take(MAX_TOGETHER).skip(1);
        Some(first.chain(more.take_while(fits)).cloned().collect())
    }

    fn was_told(&self, batch: &[(u64, Selector)], added: Added) {
        let last = batch.iter().map(|(sequence, _)| *sequence).max();
        let last = last.unwrap_or_default();
        if added.is_new {
            self.has_begun_anew(added.number);
        }
        let selectors = batch.iter().map(|(_, selector)| selector);
        self.log.settle(selectors, last, added.number);
        if batch.iter().any(|(_, selector)| !selector.is_soft) {
            self.note_hard(added.number);
        }
        self.follow(added.previous, added.number);
        self.counters.told.add(batch.len() as u64);
        let mut own = self.own();
        let now = Instant::now();
        for (sequence, selector) in batch {
            // They may have been given up in between, for one that selects everything.
            if own
                .waiting
                .front()
                .is_some_and(|front| front.0 == *sequence)
            {
                own.waiting.pop_front();
            }
            own.told.push_back((now, selector.clone()));
        }
        // What was only told again has a number already.
        if last > 0 {
            own.numbers.push_back((last, added.number));
        }
        if own.numbers.len() > MAX_NUMBERS {
            own.numbers.pop_front();
        }
        let surplus = own.told.len().saturating_sub(MAX_TOLD);
        own.told.drain(..surplus);
        own.why = None;
        drop(own);
        self.told.fetch_max(last, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Tells again what was told lately: who took over may not have it.
    pub(super) fn assert_again(&self) {
        let mut own = self.own();
        let told = std::mem::take(&mut own.told);
        let lately = told.into_iter().rev();
        let lately = lately.take_while(|(at, _)| at.elapsed() < ASSERT_AGAIN);
        // Their numbers here are those of records that were told: nothing new is known by them.
        for (_, selector) in lately {
            own.waiting.push_front((0, selector));
        }
    }
}
