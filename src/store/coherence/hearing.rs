//! Records of other nodes: by message, and by reading what is missing.

use std::{
    sync::atomic::Ordering,
    time::{Duration, UNIX_EPOCH},
};

use super::{Coherence, Message};
use crate::{
    entry::{Millis, millis},
    error::StoreError,
    store::record,
};

impl Coherence {
    pub(super) fn take(&self, message: &Message) {
        let Message {
            writer,
            previous,
            number,
            ref records,
        } = *message;
        if writer != self.writer {
            self.counters.heard.add(records.len() as u64);
            for record in records {
                self.hear(record, number);
            }
        }
        self.log.saw(number);
        let caught = self.caught();
        self.follow(previous, number);
        if (previous + 1..number).contains(&caught) {
            // The number before is not the one that was known: who took over has lost some.
            self.assert_again();
        }
    }

    fn hear(&self, record: &[u8], number: u64) {
        // The number is the time at which it was made, in microseconds, or little more.
        let made = Duration::from_micros(number);
        let time = self
            .channel
            .number_time()
            .unwrap_or_else(|| self.clock.wall());
        let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ago = time.saturating_sub(made);
        let at = self.now().saturating_sub(millis(ago));
        let selector = record::decode(record);
        self.log.hear(&selector, number, at);
        if !selector.is_soft {
            self.note_hard(number);
        }
    }

    pub(super) fn has_begun_anew(&self, number: u64) {
        self.counters.begun_anew.raise();
        let is_first = self.caught() == 0;
        self.hear(&record::EVERYTHING, number);
        self.channel.seen().is_lost.store(false, Ordering::Release);
        if is_first {
            // Or one that was lost before this node came, which is the same to it.
            tracing::debug!(target: "tower_response_cache", "the invalidation log in the remote store is begun");
        } else {
            tracing::warn!(
                target: "tower_response_cache",
                "the invalidation log in the remote store was empty or had lost something: nothing that is older is used any more"
            );
        }
    }

    /// What a look-up has brought is to be judged by all that is known when it was asked for: makes
    /// sure that it is.
    ///
    /// # Errors
    ///
    /// When the log could not be read.
    pub(crate) async fn keep_up(&self, asked: Millis) -> Result<(), StoreError> {
        let seen = self.channel.seen();
        self.log.saw(seen.highest());
        let is_lost = seen.is_lost.load(Ordering::Acquire);
        if is_lost || self.caught() < self.log.sequence().shared {
            return self.catch_up().await;
        }
        self.vouch(asked);
        Ok(())
    }

    /// Reads what is missing. One at a time; who waited has often nothing left to do.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        let _turn = self.catching.lock().await;
        let asked = self.now();
        let was_sure = self.is_sure(asked);
        let before = self.caught();
        let seen = self.log.sequence().shared;
        let read = match self.channel.number().await? {
            Some(number) if number >= seen && number <= before => Some(number),
            Some(number) if number >= seen => {
                self.counters.caught_up.raise();
                self.read_on(before, number).await?
            }
            _ => None,
        };
        let number = match read {
            Some(number) => number,
            None => self.begin_anew(seen, before).await?,
        };
        self.channel.seen().is_lost.store(false, Ordering::Release);
        self.log.saw(number);
        self.caught.fetch_max(number, Ordering::AcqRel);
        self.hardened.notify_one();
        self.changed.notify_waiters();
        if !was_sure && before > 0 {
            self.assert_again();
        }
        self.vouch(asked);
        Ok(())
    }

    /// Has a log that has lost something begun anew, unless somebody else was faster; the number to which
    /// this node has then caught up.
    async fn begin_anew(&self, seen: u64, before: u64) -> Result<u64, StoreError> {
        let added = self.channel.add(self.writer, seen, Vec::new()).await?;
        if added.is_new {
            self.has_begun_anew(added.number);
            self.assert_again();
            return Ok(added.number);
        }
        let read = self.read_on(before, added.number).await?;
        read.ok_or_else(|| StoreError::new("the shared log was lost while it was read"))
    }

    /// Reads all records after a number; that to which this node has then caught up, or `None` where the
    /// log is not whole.
    async fn read_on(&self, after: u64, number: u64) -> Result<Option<u64>, StoreError> {
        let mut from = after + 1;
        loop {
            let page = self.channel.page(from).await?;
            if page.number.is_none() {
                return Ok(None);
            }
            for (record, number) in &page.records {
                self.hear(record, *number);
                from = from.max(*number);
            }
            if page.is_last {
                return Ok(Some(number.max(from - 1)));
            }
        }
    }
}
