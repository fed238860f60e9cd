//! Reading: what the store has for a request, as an entry of this cache.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Ask, Inner, Looked, Remote, since_1970, unpanicked};
use crate::{
    entry::{Entry, Lifetime, Origin, StoredHead, millis},
    error::{StoreError, StoreErrorKind},
    headers::add_date,
    invalidation::Sequence,
    policy::VaryRule,
    status::FrameFault,
    store::{
        Stored,
        codec::{Frame, ResponseFrame, decode},
    },
    timer::until,
};

/// Why a read brought nothing.
enum Missing {
    Nothing,
    Fault(FrameFault),
    Store(StoreError),
}

impl From<StoreError> for Missing {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::NotAFrame => Self::Fault(FrameFault::WrongType),
            _ => Self::Store(error),
        }
    }
}

impl From<FrameFault> for Missing {
    fn from(fault: FrameFault) -> Self {
        Self::Fault(fault)
    }
}

impl Remote {
    /// The response for a request, if the store has one and says so in time.
    pub(crate) async fn get(&self, ask: &Ask<'_>) -> Looked {
        let inner = &*self.inner;
        let permit = if inner.is_up() {
            inner.reads.permit()
        } else {
            None
        };
        let Some(permit) = permit else {
            inner.counters.skipped.raise();
            return Looked::Unknown;
        };
        self.start_worker();
        if let Some(coherence) = &inner.coherence {
            coherence.start();
        }
        let panicked = |why| Missing::Store(StoreError::new(why));
        // Pinned here, and not moved into one future after the other.
        let look_up = pin!(inner.look_up(ask));
        let look_up = pin!(unpanicked(look_up, panicked));
        let result = match until(ask.deadline, look_up).await {
            Some(result) => result,
            None => Err(Missing::Store(StoreError::timeout(
                "no answer within 50 ms",
            ))),
        };
        match result {
            Ok(looked) => {
                inner.settle("reads", permit, None);
                inner.counters.hits.raise();
                looked
            }
            Err(Missing::Nothing) => {
                inner.settle("reads", permit, None);
                Looked::Nothing
            }
            Err(Missing::Fault(fault)) => {
                inner.settle("reads", permit, None);
                inner.counters.fault(fault);
                if fault == FrameFault::OtherKey {
                    inner.store.check();
                }
                Looked::Nothing
            }
            Err(Missing::Store(error)) => {
                inner.settle("reads", permit, Some(error));
                Looked::Unknown
            }
        }
    }
}

impl Inner {
    /// Never in vain, and never unknown: both are errors here.
    async fn look_up(&self, ask: &Ask<'_>) -> Result<Looked, Missing> {
        // Never closed.
        let _place = self.in_flight.acquire().await;
        let key = &ask.key.bytes;
        let (frame, remaining) = self.read(ask, key).await?;
        if self.is_same(ask, &frame, remaining) {
            return Ok(Looked::Same);
        }
        let names = match decode(key, &frame, ask.limit)? {
            Frame::Response(frame) => {
                let entry = self.entry(frame, remaining, ask.origin.clone())?;
                return Ok(Looked::Found(entry, VaryRule::default()));
            }
            Frame::Rule(names) => names,
        };
        let rule = VaryRule::from_names(names);
        let variant = ask.key.with_variant(&rule.values(ask.request));
        let (frame, remaining) = self.read(ask, &variant.bytes).await?;
        match decode(&variant.bytes, &frame, ask.limit)? {
            Frame::Response(frame) => {
                let entry = self.entry(frame, remaining, ask.origin.clone())?;
                Ok(Looked::Found(entry, rule))
            }
            Frame::Rule(_) => Err(FrameFault::Malformed.into()),
        }
    }

    /// The frame under a key, with the life that the store still gives it.
    async fn read(&self, ask: &Ask<'_>, key: &[u8]) -> Result<(Bytes, Option<Duration>), Missing> {
        self.counters.reads.raise();
        let started = Instant::now();
        let asked = millis(self.clock.elapsed());
        let stored = self
            .store
            .get(&self.place(ask.path, key), ask.limit)
            .await?;
        self.counters.measured(started.elapsed());
        if let Some(coherence) = &self.coherence {
            coherence.keep_up(asked).await?;
        }
        let Some(Stored { frame, remaining }) = stored else {
            return Err(Missing::Nothing);
        };
        if frame.len() > ask.limit {
            return Err(FrameFault::TooLarge.into());
        }
        let frame = match &self.seal {
            Some(seal) => seal.open(frame)?,
            None => frame,
        };
        Ok((frame, remaining))
    }

    /// Whether what was read would only make again what memory has: then that is kept, and nothing
    /// is copied. Not where the store gives it less life than it has, as in `entry`.
    fn is_same(&self, ask: &Ask<'_>, frame: &[u8], remaining: Option<Duration>) -> bool {
        let Some((local, mark)) = ask.local.and_then(|local| Some((local, local.frame?))) else {
            return false;
        };
        let now = millis(self.clock.elapsed());
        let left = local.head.lifetime.ends().saturating_sub(now);
        let least = remaining.map_or(left, |life| millis(life).saturating_add(1000));
        left > 0 && left <= least && mark.is_of(&ask.key.bytes, frame)
    }

    /// What was read as an entry of this cache.
    fn entry(
        &self,
        mut frame: ResponseFrame,
        remaining: Option<Duration>,
        origin: Origin,
    ) -> Result<Entry, Missing> {
        let (body, mark) = (frame.copy_body()?, frame.mark());
        let time = self.time();
        let resident = since_1970(time).saturating_sub(frame.response_time);
        let mut lifetime = Lifetime {
            response_time: millis(self.clock.elapsed()),
            initial_age: frame.initial_age.saturating_add(resident),
            freshness: frame.freshness,
            kept: frame.kept,
        };
        if let Some(remaining) = remaining {
            // The smaller of both counts; what is below a second is the time that writing took.
            let ends = lifetime.initial_age.saturating_add(millis(remaining));
            if ends.saturating_add(1000) < lifetime.freshness.saturating_add(lifetime.kept) {
                lifetime.freshness = lifetime.freshness.min(ends);
                lifetime.kept = ends - lifetime.freshness;
            }
        }
        if lifetime.ends() <= lifetime.response_time {
            return Err(Missing::Nothing);
        }
        add_date(&mut frame.headers, time);
        let head = StoredHead {
            status: frame.status,
            version: frame.version,
            headers: frame.headers,
            status_slot: frame.status_slot,
            own_tag: frame.own_tag,
            validator: frame.validator,
            lifetime,
            staleness: frame.staleness,
            groups: frame.groups,
            tags: frame.tags,
            said: frame.said,
            shareable: frame.shareable,
            shareable_with_authorization: frame.shareable_with_authorization,
        };
        // Another cache's own numbers mean nothing here.
        let is_ours = frame.writer == self.writer;
        let origin = Origin {
            sequence: Sequence {
                local: if is_ours { frame.sequence.local } else { 0 },
                shared: frame.sequence.shared,
            },
            ..origin
        };
        let mut entry = Entry::new(Arc::new(head), body, origin);
        entry.frame = Some(mark);
        entry.answer_until(self.memory_until(lifetime.response_time));
        Ok(entry)
    }
}
