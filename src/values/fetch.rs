//! A value that memory has not, or not any more on its own: what the remote store has.

use std::{future::poll_fn, sync::Arc};

use super::{
    answer::Brought,
    key::ValueKey,
    stored::{CachedValue, Hit, StoredValue, digest_of_type},
};
use crate::{
    cache::Cache,
    entry::Origin,
    flight::{Joined, Purpose, Ticket},
    invalidation::{Names, Verdict},
    scope::{Made, MadeOf},
    status::Reason,
    store::remote::{AskValue, DEADLINE, LookedValue, ReadValue, Remote},
    timer::{after, until},
};

/// What a frame holds besides an encoded value: its key, its tags, its numbers.
const LONGEST_HEAD: u64 = 24 << 10;

impl Cache {
    /// Whether the remote store can be asked; counted where it is out of reach.
    pub(super) fn may_fetch_value(&self) -> bool {
        let Some(remote) = self.remote() else {
            return false;
        };
        let is_askable = remote.is_askable();
        if !is_askable {
            remote.skipped();
        }
        is_askable
    }

    /// What the remote store has, fresh or stale, asked for once by all who want it at the same time.
    pub(super) async fn look_up_value<V: CachedValue>(&self, key: &ValueKey) -> Option<Hit<V>> {
        match self.join_value(key, &[], Purpose::LookUp, 0) {
            Joined::Lead(guard) => {
                let found = self.fetch_value::<V>(key, guard.flight().origin()).await;
                if let Some(hit) = &found {
                    guard.bring(Ok(Brought::hit(hit)));
                }
                found
            }
            Joined::Follow(ticket) | Joined::Behind(ticket) => {
                // It has a deadline of its own, and the cache is asked no longer than that.
                until(after(DEADLINE), poll_fn(|cx| ticket.poll_end(cx))).await?;
                // It may have been invalidated since whoever led has looked.
                let found = brought::<V>(&ticket).and_then(|stored| self.usable(&stored));
                found.or_else(|| self.value_in_memory(key))
            }
            Joined::Full => self.fetch_value(key, self.origin_of(key)).await,
        }
    }

    /// Takes what the remote store has into memory, and says what may be used now, fresh or stale.
    pub(super) async fn fetch_value<V: CachedValue>(
        &self,
        key: &ValueKey,
        origin: Origin,
    ) -> Option<Hit<V>> {
        let remote = self.remote()?;
        let known = self.memory().find_value(&key.key);
        // Before it is asked: in between a write may arrive there.
        let is_there = |known: &&Arc<StoredValue>| known.is_known_elsewhere();
        let there = known.as_ref().filter(is_there).cloned();
        let local = known.as_ref();
        let local = local.filter(|known| known.lifetime(self.log()).is_some());
        let ask = AskValue {
            key,
            of_type: Some(digest_of_type::<V>()),
            // However lately it is read, every load of this node is newer; but not what it asks for again.
            origin: Origin {
                fill: known.as_ref().map_or(0, |known| known.origin.fill),
                ..origin
            },
            local: local.map(|local| &**local),
            limit: self.frame_limit(),
            deadline: after(DEADLINE),
        };
        match remote.get_value(&ask).await {
            LookedValue::Found(read) => self.found(remote, key, read),
            // Invalidations may have been missed.
            LookedValue::Unknown if remote.coherence().is_some() => None,
            LookedValue::Nothing if remote.coherence().is_some() && local.is_none() => None,
            LookedValue::Nothing if remote.coherence().is_none() => {
                // Another node deleted it, or there was no room; not what is only on its way there.
                if let Some(there) = there {
                    there.set_gone();
                }
                self.value_in_memory(key)
            }
            // Where nodes share a log, no invalidation selects it, whether or not the store has it.
            LookedValue::Same | LookedValue::Unknown | LookedValue::Nothing => {
                let local = local?;
                local.answer_until(remote.memory_until(self.now()));
                self.usable(local)
            }
        }
    }

    fn found<V: CachedValue>(
        &self,
        remote: &Remote,
        key: &ValueKey,
        read: ReadValue,
    ) -> Option<Hit<V>> {
        let stored = match StoredValue::decode::<V>(read) {
            Ok(stored) => Arc::new(stored),
            Err(fault) => {
                remote.refused(fault);
                return None;
            }
        };
        if stored.verdict(self.log()) == Verdict::Unusable {
            return None;
        }
        match self.promote_value(key, stored.clone()) {
            // Something newer is there, which is the answer.
            Err(Reason::Superseded) => self.value_in_memory(key),
            _ => self.usable(&stored),
        }
    }

    /// A value that was not invalidated, whether or not memory may answer with it on its own.
    fn usable<V: CachedValue>(&self, stored: &Arc<StoredValue>) -> Option<Hit<V>> {
        stored.lifetime(self.log())?;
        stored.clone().hit()
    }

    pub(super) fn is_fresh_value(&self, stored: &StoredValue) -> bool {
        let lifetime = stored.lifetime(self.log());
        lifetime.is_some_and(|lifetime| lifetime.is_fresh(self.now()))
    }

    /// What the value was made of that the remote store has, of whatever type, if it may be used.
    pub(super) async fn value_elsewhere(&self, key: &ValueKey) -> Made {
        let Some(remote) = self.remote() else {
            return Made::Nothing;
        };
        let ask = AskValue {
            key,
            of_type: None,
            origin: self.origin_of(key),
            local: None,
            limit: self.frame_limit(),
            deadline: after(DEADLINE),
        };
        let LookedValue::Found(read) = remote.get_value(&ask).await else {
            return Made::Nothing;
        };
        let names = Names {
            groups: &[],
            tags: &read.frame.tags,
        };
        let verdict = self
            .log()
            .judge(read.origin.sequence, &read.origin.subject, names);
        let lifetime = read.lifetime.under(verdict);
        match lifetime.is_some_and(|lifetime| lifetime.is_fresh(self.now())) {
            true => Made::Loaded(Arc::new(MadeOf::tagged(&read.frame.tags))),
            false => Made::Nothing,
        }
    }

    fn frame_limit(&self) -> usize {
        let limit = self.longest_value().saturating_add(LONGEST_HEAD);
        usize::try_from(limit).unwrap_or(usize::MAX)
    }
}

/// What a flight has found, if it is of this type.
fn brought<V: CachedValue>(ticket: &Ticket) -> Option<Arc<StoredValue>> {
    let brought = ticket.flight().carried()?.ok()?;
    let brought = brought.downcast::<Brought<Arc<V>>>().ok()?;
    match &brought.made {
        Made::Stored(stored) => Some(stored.clone()),
        Made::Loaded(_) | Made::Nothing => None,
    }
}
