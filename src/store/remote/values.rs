//! Values in the store: read and written as responses are, and made of their own types by those who ask.

use std::{pin::pin, time::Duration};

use tokio::time::Instant;

use super::{
    Inner, Remote,
    reading::{Missing, Unfound},
    since_1970,
};
use crate::{
    entry::{Lifetime, Millis, Origin, millis},
    error::StoreError,
    invalidation::{Sequence, Verdict},
    status::FrameFault,
    store::{
        StoreKey,
        codec::{Frame, ValueFrame, ValueHead, decode, encode_value},
    },
    timer::within,
    values::{StoredValue, ValueKey},
};

/// How long the write of a value waits until other nodes were told that its key has a new one.
const TOLD_WITHIN: Duration = Duration::from_millis(40);

/// What is asked for.
pub(crate) struct AskValue<'a> {
    pub(crate) key: &'a ValueKey,
    /// Its type, by its digest; of any type, where that is not said.
    pub(crate) of_type: Option<u64>,
    pub(crate) origin: Origin,
    /// What memory has, and asks for again.
    pub(crate) local: Option<&'a StoredValue>,
    /// A longer frame is not one.
    pub(crate) limit: usize,
    pub(crate) deadline: Instant,
}

/// What was read: to be decoded by whoever knows its type.
pub(crate) struct ReadValue {
    pub(crate) frame: ValueFrame,
    pub(crate) lifetime: Lifetime,
    pub(crate) origin: Origin,
    /// Until when memory answers with it on its own.
    pub(crate) memory_until: Millis,
}

/// What came of it.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and a box would cost each read an allocation"
)]
pub(crate) enum LookedValue {
    Found(ReadValue),
    /// The very frame that the value in memory was read from.
    Same,
    /// The store has nothing that could be used.
    Nothing,
    /// It was not asked, or did not answer.
    Unknown,
}

impl Remote {
    /// The value under a key, if the store has one and says so in time.
    pub(crate) async fn get_value(&self, ask: &AskValue<'_>) -> LookedValue {
        let look_up = pin!(self.inner.look_up_value(ask));
        match self.look_up_until(ask.deadline, look_up).await {
            Ok(looked) => looked,
            Err(Unfound::Nothing) => LookedValue::Nothing,
            Err(Unfound::Unknown) => LookedValue::Unknown,
        }
    }

    /// Counts what was read and cannot be used after all.
    pub(crate) fn refused(&self, fault: FrameFault) {
        self.inner.counters.fault(fault);
    }
}

impl Inner {
    async fn look_up_value(&self, ask: &AskValue<'_>) -> Result<LookedValue, Missing> {
        // Never closed.
        let _place = self.in_flight.acquire().await;
        let key = &ask.key.key.bytes;
        let place = self.place(ask.key.name(), key);
        let (frame, remaining) = self.read(&place, ask.limit).await?;
        let local = ask
            .local
            .and_then(|local| Some((local.frame?, local.lifetime.ends())));
        if self.is_same(local, key, &frame, remaining) {
            return Ok(LookedValue::Same);
        }
        let Frame::Value(frame) = decode(key, &frame, ask.limit)? else {
            return Err(FrameFault::Malformed.into());
        };
        if ask.of_type.is_some_and(|of_type| of_type != frame.of_type) {
            return Err(FrameFault::OtherType.into());
        }
        let staleness = frame.staleness;
        let kept = staleness.while_revalidate.max(staleness.if_error);
        let lifetime = self.lifetime([frame.made, 0, frame.freshness, kept], remaining)?;
        let origin = Origin {
            sequence: self.sequence_of(frame.writer, frame.sequence),
            ..ask.origin.clone()
        };
        Ok(LookedValue::Found(ReadValue {
            memory_until: self.memory_until(lifetime.response_time),
            frame,
            lifetime,
            origin,
        }))
    }

    /// The sequence of a value as other nodes are to see it. One that was set is newer than the record
    /// of its own key, which they have to know first.
    async fn told_sequence(&self, value: &StoredValue) -> Option<Sequence> {
        let sequence = value.origin.sequence;
        let (Some(record), Some(coherence)) = (value.record, &self.coherence) else {
            return Some(sequence);
        };
        let told = async {
            let (shared, last) = coherence.number_of(record).await;
            if value.is_sole {
                coherence.caught_up_to(shared).await;
            }
            (shared, last)
        };
        let (shared, last) = within(TOLD_WITHIN, told).await?;
        // By now every record is known that came before its own; and where others were told together with
        // it, what came after it has the same number, by which nobody else could tell them apart.
        let is_judged = value.is_sole || last > record;
        let is_good = !is_judged || value.verdict(&self.log) == Verdict::Usable;
        is_good.then_some(Sequence { shared, ..sequence })
    }

    /// Says whether there was anything to be written.
    pub(super) async fn write_value(
        &self,
        place: &StoreKey<'_>,
        value: &StoredValue,
    ) -> Result<bool, StoreError> {
        let now = millis(self.clock.elapsed());
        let life = Duration::from_millis(value.lifetime.ends().saturating_sub(now));
        if life.is_zero() || value.verdict(&self.log) != Verdict::Usable {
            return Ok(false);
        }
        let Some(body) = value.encode() else {
            return Ok(false);
        };
        let time = self.time();
        let head = ValueHead {
            of_type: value.of_type,
            lifetime: value.lifetime,
            staleness: value.staleness,
            tags: &value.tags,
        };
        let made = since_1970(time).saturating_sub(value.lifetime.age(now));
        let Some(sequence) = self.told_sequence(value).await else {
            return Ok(false);
        };
        let named = (self.writer, sequence);
        let frame = encode_value(place.bytes(), &head, made, named, &body);
        let until = time.checked_add(life).unwrap_or(time);
        self.set(place, frame, until).await
    }
}
