//! The frame of a value.
//!
//! ```text
//! head of a value: key | digest of its type | time it was made, freshness, how long it is served stale (2)
//!                  | writer, its sequence, that of all nodes | length and checksum of the body (8 each) | tags
//! body: what its type is encoded as
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use twox_hash::XxHash3_64;

use super::{
    HEAD, Input, MAX_TIME, Mark, Read, VALUE, finish_head, put_sequence, put_short, sense, start,
};
use crate::{
    entry::{Lifetime, Millis, Staleness},
    invalidation::Sequence,
    status::FrameFault,
};

/// A value, with times of day.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ValueFrame {
    pub(crate) of_type: u64,
    /// Since 1970.
    pub(crate) made: Millis,
    pub(crate) freshness: Millis,
    pub(crate) staleness: Staleness,
    /// The cache that wrote it, and the sequence of its log when the load started.
    pub(crate) writer: u64,
    pub(crate) sequence: Sequence,
    pub(crate) tags: Box<[Box<str>]>,
    /// A slice of what was read, as nobody has looked at it yet.
    pub(super) body: Bytes,
    pub(super) checksum: u64,
    /// The checksum of the head.
    pub(super) head: u64,
}

impl ValueFrame {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            head: self.head,
            body: self.body.len(),
        }
    }

    /// What its type is encoded as.
    ///
    /// # Errors
    ///
    /// [`FrameFault::Damaged`] when these are not the bytes that were written.
    pub(crate) fn body(&self) -> Result<&[u8], FrameFault> {
        match XxHash3_64::oneshot(&self.body) == self.checksum {
            true => Ok(&self.body),
            false => Err(FrameFault::Damaged),
        }
    }
}

/// What is written of a value besides its body.
pub(crate) struct ValueHead<'v> {
    pub(crate) of_type: u64,
    pub(crate) lifetime: Lifetime,
    pub(crate) staleness: Staleness,
    pub(crate) tags: &'v [Box<str>],
}

/// A value as a frame, made at that time of day.
pub(crate) fn encode_value(
    key: &[u8],
    head: &ValueHead<'_>,
    made: Millis,
    (writer, sequence): (u64, Sequence),
    body: &[u8],
) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + key.len() + 128 + body.len());
    start(&mut out, VALUE, key);
    out.put_u64_le(head.of_type);
    let Staleness {
        while_revalidate,
        if_error,
        ..
    } = head.staleness;
    for time in [made, head.lifetime.freshness, while_revalidate, if_error] {
        out.put_u64_le(time.min(MAX_TIME));
    }
    out.put_u64_le(writer);
    put_sequence(&mut out, sequence);
    out.put_u64_le(body.len() as u64);
    out.put_u64_le(XxHash3_64::oneshot(body));
    out.put_u16_le(head.tags.len() as u16);
    for tag in head.tags {
        put_short(&mut out, tag.as_bytes());
    }
    finish_head(&mut out);
    out.put_slice(body);
    out.freeze()
}

impl Input<'_> {
    pub(super) fn value(&mut self, frame: &Bytes, end: usize, head: u64) -> Read<ValueFrame> {
        let body = frame.slice(end..);
        let of_type = self.u64()?;
        let (made, freshness) = (self.time()?, self.time()?);
        let (while_revalidate, if_error) = (self.time()?, self.time()?);
        let (writer, sequence) = (self.u64()?, self.sequence()?);
        let (length, checksum) = (self.u64()?, self.u64()?);
        if (body.len() as u64) < length {
            return Err(FrameFault::Truncated);
        }
        sense(body.len() as u64 == length)?;
        let tags = self.texts()?;
        sense(self.0.is_empty())?;
        Ok(ValueFrame {
            of_type,
            made,
            freshness,
            staleness: Staleness {
                while_revalidate,
                if_error,
                allowed: false,
            },
            writer,
            sequence,
            tags,
            body,
            checksum,
            head,
        })
    }
}
