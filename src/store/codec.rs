//! The frame: how an entry is laid out as bytes for a store outside of this process.
//!
//! ```text
//! "TRC" version | checksum (8) | kind | length of the head (4) | head | body
//!
//! head of a response: key | status (2) | HTTP version | response time, initial age, freshness,
//!                     | how long it is kept and served stale (3), the handler's ttl (8 each)
//!                     | writer, its sequence, that of all nodes (8 each) | flags | length and checksum of the body (8 each)
//!                     | groups | tags | validator | fields
//! head of a rule:     key | names
//! head of a value:    as `codec/value.rs` says
//! ```
//!
//! All numbers are little-endian. Names, groups, tags and the validator have their length in front in 2 bytes, the key and
//! values in 4; lists their count in 2. The first checksum covers kind, length and head, the one in
//! the head the body; both are XXH3: they find damage, not malice. When a response ends follows from
//! its three times.
//!
//! The head starts with the full key, because two keys may end up in the same place. The body is a
//! slice of what was read, and nobody looks at it before it is copied, so that decoding takes no
//! longer for a longer body. Whatever cannot be read is no frame, and no frame is a miss.
//!
//! Each change of this layout raises [`VERSION`]: releases that read each other's frames meet in the
//! same store.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode, Version};
use twox_hash::XxHash3_64;

use crate::{
    entry::{Lifetime, Millis, Said, Staleness, StoredHead},
    invalidation::Sequence,
    policy::declared_length,
    status::FrameFault,
    stored_head::{Field, Fields, SLOTS, stored_fields},
    strip::is_slot,
};

mod outline;
mod value;

pub(crate) use self::{
    outline::{LONGEST_OUTLINE, Outline},
    value::{ValueFrame, ValueHead, encode_value},
};

#[cfg(test)]
mod golden;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod tests;

const MAGIC: &[u8; 3] = b"TRC";
const VERSION: u8 = 5;
const CHECKSUM: usize = MAGIC.len() + 1;
/// Where begins what the first checksum covers: kind, length of the head, head.
const COVERED: usize = CHECKSUM + 8;
const HEAD: usize = COVERED + 1 + 4;

const RESPONSE: u8 = 1;
const RULE: u8 = 2;
const VALUE: u8 = 3;

const SHAREABLE: u8 = 1;
const SHAREABLE_WITH_AUTHORIZATION: u8 = 2;
const STALE_ALLOWED: u8 = 4;
/// The handler named a ttl; said that it is for all.
const TTL_SAID: u8 = 8;
const PUBLIC_SAID: u8 = 16;
/// The entity tag is the cache's own.
const OWN_TAG: u8 = 32;
const FLAGS: u8 = 63;

/// As many fields as a stored head may have, and some of ours.
const MAX_FIELDS: u16 = 160;
/// More selecting fields than any response names.
const MAX_NAMES: u16 = 64;
/// How many groups or tags a response may have, and how long they and a validator may be.
const MAX_TAGS: u16 = 64;
pub(crate) const MAX_TEXT: usize = 256;
/// Times above this are none; so no sum of them overflows.
const MAX_TIME: Millis = 1 << 50;

/// What a frame holds besides the key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    Response(ResponseFrame),
    /// The names of the fields by which the variants of a key are told apart (§4.1).
    Rule(Vec<HeaderName>),
    Value(ValueFrame),
}

/// A response, with times of day: the process that reads it has another clock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResponseFrame {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    /// With the slots of `headers.rs` in front, and bytes of their own.
    pub(crate) headers: HeaderMap,
    pub(crate) status_slot: bool,
    /// Since 1970.
    pub(crate) response_time: Millis,
    pub(crate) initial_age: Millis,
    pub(crate) freshness: Millis,
    pub(crate) kept: Millis,
    pub(crate) staleness: Staleness,
    pub(crate) said: Said,
    pub(crate) groups: Box<[Box<str>]>,
    pub(crate) tags: Box<[Box<str>]>,
    pub(crate) own_tag: bool,
    pub(crate) validator: Option<Box<str>>,
    /// The cache that wrote it, and the sequence of its log when the fill started.
    pub(crate) writer: u64,
    pub(crate) sequence: Sequence,
    pub(crate) shareable: bool,
    pub(crate) shareable_with_authorization: bool,
    /// A slice of what was read, as nobody has looked at it yet.
    body: Bytes,
    checksum: u64,
    /// The checksum of the head.
    head: u64,
}

/// By what a frame is known again: its length, and the checksum of its head, which holds the key, the times,
/// the writer, and the checksum of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    head: u64,
    body: usize,
}

impl Mark {
    /// Whether `frame` is the one again that was stored for `key`. Its body may be damaged: what is served is
    /// what memory has.
    pub(crate) fn is_of(self, key: &[u8], frame: &[u8]) -> bool {
        let Some(start) = frame.strip_prefix(MAGIC) else {
            return false;
        };
        let mut input = Input(start);
        let (Ok(VERSION), Ok(checksum), Ok(RESPONSE | VALUE)) =
            (input.u8(), input.u64(), input.u8())
        else {
            return false;
        };
        let Ok(head) = input.long() else {
            return false;
        };
        let end = frame.len() - input.0.len();
        input.0.len() == self.body
            && checksum == self.head
            && XxHash3_64::oneshot(&frame[COVERED..end]) == checksum
            && Input(head).long() == Ok(key)
    }
}

impl ResponseFrame {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            head: self.head,
            body: self.body.len(),
        }
    }

    /// The body, in bytes of its own: those that were read are a slice of a connection's large buffer.
    ///
    /// Copied and checked at once: to serve the slice, and have a task copy it, costs the next read more
    /// than the copy.
    ///
    /// # Errors
    ///
    /// [`FrameFault::Damaged`] when these are not the bytes that were written.
    pub(crate) fn checked_body(&self) -> Result<Bytes, FrameFault> {
        let body = Bytes::copy_from_slice(&self.body);
        match XxHash3_64::oneshot(&body) == self.checksum {
            true => Ok(body),
            false => Err(FrameFault::Damaged),
        }
    }
}

/// A response as a frame; `response_time` is that of its lifetime as a time of day.
pub(crate) fn encode_response(
    key: &[u8],
    head: &StoredHead,
    response_time: Millis,
    (writer, sequence): (u64, Sequence),
    body: &[u8],
) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + key.len() + 512 + body.len());
    start(&mut out, RESPONSE, key);
    out.put_u16_le(head.status.as_u16());
    out.put_u8(version_number(head.version));
    let Lifetime {
        initial_age,
        freshness,
        kept,
        ..
    } = head.lifetime;
    let Staleness {
        while_revalidate,
        if_error,
        allowed,
    } = head.staleness;
    let ttl = head.said.ttl.unwrap_or_default();
    for time in [
        response_time,
        initial_age,
        freshness,
        kept,
        while_revalidate,
        if_error,
        ttl,
    ] {
        out.put_u64_le(time.min(MAX_TIME));
    }
    out.put_u64_le(writer);
    put_sequence(&mut out, sequence);
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let with_authorization = flag(
        head.shareable_with_authorization,
        SHAREABLE_WITH_AUTHORIZATION,
    );
    out.put_u8(
        flag(head.shareable, SHAREABLE)
            | with_authorization
            | flag(allowed, STALE_ALLOWED)
            | flag(head.said.ttl.is_some(), TTL_SAID)
            | flag(head.said.public, PUBLIC_SAID)
            | flag(head.own_tag, OWN_TAG),
    );
    out.put_u64_le(body.len() as u64);
    out.put_u64_le(XxHash3_64::oneshot(body));
    for names in [&head.groups, &head.tags] {
        out.put_u16_le(names.len() as u16);
        for name in names {
            put_short(&mut out, name.as_bytes());
        }
    }
    // Empty: none.
    let validator = head.validator.as_deref().unwrap_or_default();
    put_short(&mut out, validator.as_bytes());
    let mut slots = 0;
    let fields: Vec<_> = head
        .headers
        .iter()
        .filter(|(name, _)| {
            let skipped = slots < SLOTS && is_slot(name, head.status_slot);
            slots += usize::from(skipped);
            !skipped
        })
        .collect();
    out.put_u16_le(fields.len() as u16);
    for (name, value) in fields {
        put_short(&mut out, name.as_str().as_bytes());
        put_long(&mut out, value.as_bytes());
    }
    finish_head(&mut out);
    out.put_slice(body);
    out.freeze()
}

/// The names of selecting fields as a frame.
pub(crate) fn encode_rule(key: &[u8], names: &[HeaderName]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD + key.len() + 64);
    start(&mut out, RULE, key);
    out.put_u16_le(names.len() as u16);
    for name in names {
        put_short(&mut out, name.as_str().as_bytes());
    }
    finish_head(&mut out);
    out.freeze()
}

/// Reads a frame that was stored for `key` and has at most `limit` bytes.
///
/// Bytes of the body are not looked at: [`ResponseFrame::checked_body`] checks them.
///
/// # Errors
///
/// Why this cannot be used.
pub(crate) fn decode(key: &[u8], frame: &Bytes, limit: usize) -> Result<Frame, FrameFault> {
    if frame.len() > limit {
        return Err(FrameFault::TooLarge);
    }
    let (checksum, kind, mut input) = opening(frame)?;
    let mut head = Input(input.long().map_err(|_| FrameFault::Truncated)?);
    let end = frame.len() - input.0.len();
    if XxHash3_64::oneshot(&frame[COVERED..end]) != checksum {
        return Err(FrameFault::Damaged);
    }
    if head.long()? != key {
        return Err(FrameFault::OtherKey);
    }
    match kind {
        RESPONSE => head.response(frame, end, checksum).map(Frame::Response),
        RULE if end == frame.len() => head.rule().map(Frame::Rule),
        VALUE => head.value(frame, end, checksum).map(Frame::Value),
        _ => Err(FrameFault::Malformed),
    }
}

/// What stands in front of the head and its length: the checksum and the kind.
fn opening(frame: &[u8]) -> Read<(u64, u8, Input<'_>)> {
    if !frame.starts_with(MAGIC) {
        return Err(match MAGIC.starts_with(frame) {
            true => FrameFault::Truncated,
            false => FrameFault::Foreign,
        });
    }
    let mut input = Input(&frame[MAGIC.len()..]);
    let cut = |_| FrameFault::Truncated;
    if input.u8().map_err(cut)? != VERSION {
        return Err(FrameFault::Version);
    }
    let checksum = input.u64().map_err(cut)?;
    let kind = input.u8().map_err(cut)?;
    Ok((checksum, kind, input))
}

fn start(out: &mut BytesMut, kind: u8, key: &[u8]) {
    out.put_slice(MAGIC);
    out.put_u8(VERSION);
    out.put_bytes(0, 8);
    out.put_u8(kind);
    out.put_bytes(0, 4);
    put_long(out, key);
}

/// Puts length and checksum of the head into their places.
fn finish_head(out: &mut BytesMut) {
    let length = (out.len() - HEAD) as u32;
    out[HEAD - 4..HEAD].copy_from_slice(&length.to_le_bytes());
    let checksum = XxHash3_64::oneshot(&out[COVERED..]);
    out[CHECKSUM..COVERED].copy_from_slice(&checksum.to_le_bytes());
}

/// Gives the head of a changed frame the right checksum, as a writer with a mistake would.
#[cfg(any(fuzzing, feature = "test-util", test))]
pub(crate) fn make_right(frame: &mut [u8]) {
    let Some(length) = frame.get(HEAD - 4..HEAD) else {
        return;
    };
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    if let Some(covered) = frame.get(COVERED..HEAD.saturating_add(length)) {
        let checksum = XxHash3_64::oneshot(covered);
        frame[CHECKSUM..COVERED].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn put_sequence(out: &mut BytesMut, sequence: Sequence) {
    out.put_u64_le(sequence.local);
    out.put_u64_le(sequence.shared);
}

fn put_short(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16_le(bytes.len() as u16);
    out.put_slice(bytes);
}

fn put_long(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn version_number(version: Version) -> u8 {
    match version {
        Version::HTTP_09 => 9,
        Version::HTTP_10 => 10,
        Version::HTTP_2 => 20,
        Version::HTTP_3 => 30,
        _ => 11,
    }
}

/// What is left to read. The checksum was right when a head is read, so what is not there or makes
/// no sense was written so.
struct Input<'i>(&'i [u8]);

type Read<T> = Result<T, FrameFault>;

impl<'i> Input<'i> {
    fn take(&mut self, length: usize) -> Read<&'i [u8]> {
        let parts = self.0.split_at_checked(length);
        let (taken, rest) = parts.ok_or(FrameFault::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FrameFault::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Read<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Read<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn sequence(&mut self) -> Read<Sequence> {
        Ok(Sequence {
            local: self.u64()?,
            shared: self.u64()?,
        })
    }

    fn time(&mut self) -> Read<Millis> {
        let time = self.u64()?;
        sense(time <= MAX_TIME)?;
        Ok(time)
    }

    /// Groups or tags.
    fn texts(&mut self) -> Read<Box<[Box<str>]>> {
        (0..self.count(MAX_TAGS, 2)?).map(|_| self.text()).collect()
    }

    /// A group, a tag or a validator.
    fn text(&mut self) -> Read<Box<str>> {
        let text = self.short()?;
        sense(text.len() <= MAX_TEXT)?;
        let text = std::str::from_utf8(text).map_err(|_| FrameFault::Malformed)?;
        Ok(text.into())
    }

    fn short(&mut self) -> Read<&'i [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    fn long(&mut self) -> Read<&'i [u8]> {
        let length = self.array().map(u32::from_le_bytes)?;
        self.take(length as usize)
    }

    /// The count of a list whose items have `least` bytes at least; what it counts may be there.
    fn count(&mut self, most: u16, least: usize) -> Read<u16> {
        let count = self.u16()?;
        sense(count <= most && usize::from(count) * least <= self.0.len())?;
        Ok(count)
    }

    fn name(&mut self) -> Read<HeaderName> {
        HeaderName::from_bytes(self.short()?).map_err(|_| FrameFault::Malformed)
    }

    fn rule(&mut self) -> Read<Vec<HeaderName>> {
        let count = self.count(MAX_NAMES, 2 + 1)?;
        let names = (0..count).map(|_| self.name()).collect::<Read<Vec<_>>>()?;
        sense(!names.is_empty() && self.0.is_empty())?;
        Ok(names)
    }

    fn status(&mut self) -> Read<StatusCode> {
        let status = StatusCode::from_u16(self.u16()?).map_err(|_| FrameFault::Malformed)?;
        // No 1xx is final, and neither 206 nor 304 is a full response.
        let is_full = status != StatusCode::PARTIAL_CONTENT && status != StatusCode::NOT_MODIFIED;
        sense(is_full && !status.is_informational())?;
        Ok(status)
    }

    fn version(&mut self) -> Read<Version> {
        Ok(match self.u8()? {
            10 => Version::HTTP_10,
            // Servers of ours write no other version than these.
            9 | 11 | 30 => Version::HTTP_11,
            20 => Version::HTTP_2,
            _ => return Err(FrameFault::Malformed),
        })
    }

    fn fields(&mut self) -> Read<Fields<'i>> {
        let count = self.count(MAX_FIELDS, 2 + 1 + 4)?;
        let field = |_| {
            Ok(Field {
                name: self.name()?,
                value: self.long()?,
            })
        };
        (0..count).map(field).collect()
    }

    fn response(&mut self, frame: &Bytes, end: usize, head: u64) -> Read<ResponseFrame> {
        let body = frame.slice(end..);
        let (status, version) = (self.status()?, self.version()?);
        let [response_time, initial_age, freshness] = [self.time()?, self.time()?, self.time()?];
        let [kept, while_revalidate, if_error] = [self.time()?, self.time()?, self.time()?];
        let ttl = self.time()?;
        let (writer, sequence) = (self.u64()?, self.sequence()?);
        let flags = self.u8()?;
        // One that is not known may forbid what is done here.
        sense(flags & !FLAGS == 0)?;
        let (length, checksum) = (self.u64()?, self.u64()?);
        if (body.len() as u64) < length {
            return Err(FrameFault::Truncated);
        }
        sense(body.len() as u64 == length)?;
        let (groups, tags) = (self.texts()?, self.texts()?);
        let validator = Some(self.text()?).filter(|validator| !validator.is_empty());
        let fields = self.fields()?;
        sense(self.0.is_empty())?;
        let stored = stored_fields(fields);
        let (headers, status_slot) = stored.map_err(|_| FrameFault::Malformed)?;
        // Whoever sends a length that is not that of the body lets it end in the middle of the next
        // answer of the connection.
        let declared = declared_length(&headers).map_err(|_| FrameFault::Malformed)?;
        sense(declared.is_none_or(|declared| declared == length))?;
        Ok(ResponseFrame {
            status,
            version,
            headers,
            status_slot,
            response_time,
            initial_age,
            freshness,
            kept,
            staleness: Staleness {
                while_revalidate,
                if_error,
                allowed: flags & STALE_ALLOWED != 0,
            },
            said: Said {
                ttl: (flags & TTL_SAID != 0).then_some(ttl),
                public: flags & PUBLIC_SAID != 0,
            },
            groups,
            tags,
            own_tag: flags & OWN_TAG != 0,
            validator,
            writer,
            sequence,
            shareable: flags & SHAREABLE != 0,
            shareable_with_authorization: flags & SHAREABLE_WITH_AUTHORIZATION != 0,
            body,
            checksum,
            head,
        })
    }
}

/// What is written makes sense only if this holds.
fn sense(holds: bool) -> Read<()> {
    if holds {
        Ok(())
    } else {
        Err(FrameFault::Malformed)
    }
}
