//! Reading: what the store has for a request, as an entry of this cache.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Ask, Inner, Looked, Remote, since_1970, unpanicked};
use crate::{
    entry::{Entry, Lifetime, Millis, Origin, StoredHead, millis},
    error::{StoreError, StoreErrorKind},
    invalidation::Sequence,
    policy::VaryRule,
    status::FrameFault,
    store::{
        StoreKey, Stored,
        codec::{Frame, Mark, ResponseFrame, decode},
    },
    stored_head::add_date,
    timer::until,
};

/// Why a read brought nothing.
pub(super) enum Missing {
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

/// What a look-up that found nothing has learnt.
pub(super) enum Unfound {
    Nothing,
    Unknown,
}

impl Remote {
    /// The response for a request, if the store has one and says so in time.
    pub(crate) async fn get(&self, ask: &Ask<'_>) -> Looked {
        // Pinned here, and not moved into one future after the other.
        let look_up = pin!(self.inner.look_up(ask));
        match self.look_up_until(ask.deadline, look_up).await {
            Ok(looked) => looked,
            Err(Unfound::Nothing) => Looked::Nothing,
            Err(Unfound::Unknown) => Looked::Unknown,
        }
    }

    /// Looks something up in bounded time, unless the store is left alone.
    pub(super) async fn look_up_until<T>(
        &self,
        deadline: Instant,
        look_up: impl Future<Output = Result<T, Missing>>,
    ) -> Result<T, Unfound> {
        let inner = &*self.inner;
        let permit = if inner.is_up() {
            inner.reads.permit()
        } else {
            None
        };
        let Some(permit) = permit else {
            inner.counters.skipped.raise();
            return Err(Unfound::Unknown);
        };
        self.start_worker();
        if let Some(coherence) = &inner.coherence {
            coherence.start();
            self.start_purger();
        }
        let panicked = |why| Missing::Store(StoreError::new(why));
        let look_up = pin!(unpanicked(look_up, panicked));
        let result = match until(deadline, look_up).await {
            Some(result) => result,
            None => Err(Missing::Store(StoreError::timeout(
                "no answer within 50 ms",
            ))),
        };
        match result {
            Ok(looked) => {
                inner.settle("reads", permit, None);
                inner.counters.hits.raise();
                Ok(looked)
            }
            Err(Missing::Nothing) => {
                inner.settle("reads", permit, None);
                Err(Unfound::Nothing)
            }
            Err(Missing::Fault(fault)) => {
                inner.settle("reads", permit, None);
                inner.counters.fault(fault);
                if fault == FrameFault::OtherKey {
                    inner.store.check();
                }
                Err(Unfound::Nothing)
            }
            Err(Missing::Store(error)) => {
                inner.settle("reads", permit, Some(error));
                Err(Unfound::Unknown)
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
        let (frame, remaining) = self.read(&self.place(ask.path, key), ask.limit).await?;
        let local = ask
            .local
            .and_then(|local| Some((local.frame?, local.head.lifetime.ends())));
        if self.is_same(local, key, &frame, remaining) {
            return Ok(Looked::Same);
        }
        let names = match decode(key, &frame, ask.limit)? {
            Frame::Response(frame) => {
                let entry = self.entry(frame, remaining, ask.origin.clone())?;
                return Ok(Looked::Found(entry, VaryRule::default()));
            }
            Frame::Rule(names) => names,
            Frame::Value(_) => return Err(FrameFault::Malformed.into()),
        };
        let rule = VaryRule::from_names(names);
        let variant = ask.key.with_variant(&rule.values(ask.request));
        let place = self.place(ask.path, &variant.bytes);
        let (frame, remaining) = self.read(&place, ask.limit).await?;
        match decode(&variant.bytes, &frame, ask.limit)? {
            Frame::Response(frame) => {
                let entry = self.entry(frame, remaining, ask.origin.clone())?;
                Ok(Looked::Found(entry, rule))
            }
            Frame::Rule(_) | Frame::Value(_) => Err(FrameFault::Malformed.into()),
        }
    }

    /// The frame under a key, with the life that the store still gives it.
    pub(super) async fn read(
        &self,
        place: &StoreKey<'_>,
        limit: usize,
    ) -> Result<(Bytes, Option<Duration>), Missing> {
        self.counters.reads.raise();
        let started = Instant::now();
        let asked = millis(self.clock.elapsed());
        let stored = self.store.get(place, limit).await?;
        self.counters.measured(started.elapsed());
        if let Some(coherence) = &self.coherence {
            coherence.keep_up(asked).await?;
        }
        let Some(Stored { frame, remaining }) = stored else {
            return Err(Missing::Nothing);
        };
        if frame.len() > limit {
            return Err(FrameFault::TooLarge.into());
        }
        let frame = match &self.seal {
            Some(seal) => seal.open(frame)?,
            None => frame,
        };
        Ok((frame, remaining))
    }

    /// Whether what was read would only make again what memory has: then that is kept, and nothing
    /// is copied. Not where the store gives it less life than it has, as in `lifetime`.
    pub(super) fn is_same(
        &self,
        local: Option<(Mark, Millis)>,
        key: &[u8],
        frame: &[u8],
        remaining: Option<Duration>,
    ) -> bool {
        let Some((mark, ends)) = local else {
            return false;
        };
        let now = millis(self.clock.elapsed());
        let left = ends.saturating_sub(now);
        let least = remaining.map_or(left, |life| millis(life).saturating_add(1000));
        left > 0 && left <= least && mark.is_of(key, frame)
    }

    /// How long what was read lives here: with its times, the first of them a time of day, and the life that
    /// the store still gives it.
    pub(super) fn lifetime(
        &self,
        [made, initial_age, freshness, kept]: [Millis; 4],
        remaining: Option<Duration>,
    ) -> Result<Lifetime, Missing> {
        let resident = since_1970(self.time()).saturating_sub(made);
        let mut lifetime = Lifetime {
            response_time: millis(self.clock.elapsed()),
            initial_age: initial_age.saturating_add(resident),
            freshness,
            kept,
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
        Ok(lifetime)
    }

    /// What was read as an entry of this cache.
    fn entry(
        &self,
        mut frame: ResponseFrame,
        remaining: Option<Duration>,
        origin: Origin,
    ) -> Result<Entry, Missing> {
        let body = frame.checked_body()?;
        let mark = frame.mark();
        let times = [
            frame.response_time,
            frame.initial_age,
            frame.freshness,
            frame.kept,
        ];
        let lifetime = self.lifetime(times, remaining)?;
        add_date(&mut frame.headers, self.time());
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
        let origin = Origin {
            sequence: self.sequence_of(frame.writer, frame.sequence),
            ..origin
        };
        let mut entry = Entry::new(Arc::new(head), body, origin);
        entry.frame = Some(mark);
        entry.answer_until(self.memory_until(lifetime.response_time));
        Ok(entry)
    }

    /// The sequence of a frame on this node: another cache's own numbers mean nothing here.
    pub(super) fn sequence_of(&self, writer: u64, sequence: Sequence) -> Sequence {
        match writer == self.writer {
            true => sequence,
            false => Sequence {
                local: 0,
                ..sequence
            },
        }
    }
}
