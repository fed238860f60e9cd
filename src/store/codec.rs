//! The frame: how an entry is laid out as bytes for a store outside of this process.
//!
//! ```text
//! "TRC" version | kind | checksum of the head (8) | length of the head (4) | head | body
//! ```
//!
//! All numbers are little-endian. The head starts with the full key, because two keys may end up in
//! the same place. The body is a slice of what was read; the checksum covers the head, on which all
//! decisions rest, so that decoding takes no longer for a longer body. Whatever cannot be read is
//! no frame, and no frame is a miss.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use crate::{
    entry::{Millis, StoredHead},
    headers::{SLOTS, is_slot},
};

const MAGIC: &[u8; 4] = b"TRC\x01";
const FIXED: usize = MAGIC.len() + 1 + 8 + 4;
/// As many fields as a stored head may have, and some of ours.
const MAX_FIELDS: u16 = 160;

/// Times above this are none; so no sum of them overflows.
const MAX_TIME: Millis = 1 << 50;

/// What a frame holds besides key and body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    Response(ResponseFrame),
    /// The names of the fields by which the variants of a key are told apart (§4.1).
    Rule(Vec<HeaderName>),
}

/// A response, with times of day: the process that reads it has another clock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResponseFrame {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    /// Since 1970.
    pub(crate) response_time: Millis,
    pub(crate) initial_age: Millis,
    pub(crate) freshness: Millis,
    /// The cache that wrote it, and the sequence of its log when the fill started.
    pub(crate) writer: u64,
    pub(crate) sequence: u64,
    pub(crate) shareable: bool,
    pub(crate) shareable_with_authorization: bool,
    pub(crate) body: Bytes,
}

/// A response as a frame; `response_time` is that of its lifetime as a time of day.
pub(crate) fn encode_response(
    key: &[u8],
    head: &StoredHead,
    response_time: Millis,
    (writer, sequence): (u64, u64),
    body: &[u8],
) -> Bytes {
    let mut out = BytesMut::with_capacity(FIXED + key.len() + 512 + body.len());
    start(&mut out, 1, key);
    out.put_u16_le(head.status.as_u16());
    out.put_u8(version_number(head.version));
    out.put_u64_le(response_time);
    out.put_u64_le(head.lifetime.initial_age);
    out.put_u64_le(head.lifetime.freshness);
    out.put_u64_le(writer);
    out.put_u64_le(sequence);
    out.put_u8(u8::from(head.shareable) | u8::from(head.shareable_with_authorization) << 1);
    out.put_u64_le(body.len() as u64);
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
    seal(&mut out);
    out.put_slice(body);
    out.freeze()
}

/// The names of selecting fields as a frame.
pub(crate) fn encode_rule(key: &[u8], names: &[HeaderName]) -> Bytes {
    let mut out = BytesMut::with_capacity(FIXED + key.len() + 64);
    start(&mut out, 2, key);
    out.put_u16_le(names.len() as u16);
    for name in names {
        put_short(&mut out, name.as_str().as_bytes());
    }
    seal(&mut out);
    out.freeze()
}

/// Reads a frame that was stored for `key`; anything else is `None`.
pub(crate) fn decode(key: &[u8], frame: &Bytes) -> Option<Frame> {
    let mut fixed = frame.get(..FIXED)?;
    if fixed.get(..4)? != MAGIC {
        return None;
    }
    fixed.advance(4);
    let kind = fixed.get_u8();
    let checksum = fixed.get_u64_le();
    let length = fixed.get_u32_le() as usize;
    let head = frame.get(FIXED..FIXED.checked_add(length)?)?;
    if checksum_of(kind, head) != checksum {
        return None;
    }
    let mut input = Input(head);
    if input.long()? != key {
        return None;
    }
    match kind {
        1 => {
            let body = frame.slice(FIXED + length..);
            Some(Frame::Response(input.response(body)?))
        }
        2 => {
            let count = input.u16().filter(|count| *count <= MAX_FIELDS)?;
            let names: Option<Vec<_>> = (0..count).map(|_| input.name()).collect();
            names.filter(|_| input.0.is_empty()).map(Frame::Rule)
        }
        _ => None,
    }
}

fn start(out: &mut BytesMut, kind: u8, key: &[u8]) {
    out.put_slice(MAGIC);
    out.put_u8(kind);
    out.put_bytes(0, 12);
    put_long(out, key);
}

/// Puts checksum and length of the head into their places.
fn seal(out: &mut BytesMut) {
    let checksum = checksum_of(out[4], &out[FIXED..]);
    let length = (out.len() - FIXED) as u32;
    out[5..13].copy_from_slice(&checksum.to_le_bytes());
    out[13..17].copy_from_slice(&length.to_le_bytes());
}

/// FNV-1a: finds damage, not malice.
fn checksum_of(kind: u8, head: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    head.iter().fold(step(0xcbf2_9ce4_8422_2325, &kind), step)
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

/// What is left to read; every read says `None` at the end.
struct Input<'i>(&'i [u8]);

impl<'i> Input<'i> {
    fn take(&mut self, length: usize) -> Option<&'i [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        let bytes = self.take(8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    fn long(&mut self) -> Option<&'i [u8]> {
        let length = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(length as usize)
    }

    fn name(&mut self) -> Option<HeaderName> {
        let length = self.u16()?;
        HeaderName::from_bytes(self.take(length.into())?).ok()
    }

    fn response(&mut self, body: Bytes) -> Option<ResponseFrame> {
        let status = StatusCode::from_u16(self.u16()?).ok()?;
        let version = match self.u8()? {
            9 => Version::HTTP_09,
            10 => Version::HTTP_10,
            11 => Version::HTTP_11,
            20 => Version::HTTP_2,
            30 => Version::HTTP_3,
            _ => return None,
        };
        let [response_time, initial_age, freshness] = [self.u64()?, self.u64()?, self.u64()?];
        if response_time.max(initial_age).max(freshness) > MAX_TIME {
            return None;
        }
        let (writer, sequence) = (self.u64()?, self.u64()?);
        let flags = self.u8()?;
        if self.u64()? != body.len() as u64 {
            return None;
        }
        let count = self.u16().filter(|count| *count <= MAX_FIELDS)?;
        let mut headers = HeaderMap::with_capacity(count.into());
        for _ in 0..count {
            let name = self.name()?;
            headers.append(name, HeaderValue::from_bytes(self.long()?).ok()?);
        }
        self.0.is_empty().then_some(ResponseFrame {
            status,
            version,
            headers,
            response_time,
            initial_age,
            freshness,
            writer,
            sequence,
            shareable: flags & 1 != 0,
            shareable_with_authorization: flags & 2 != 0,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        entry::Lifetime,
        headers::{Strip, stored_head},
    };

    fn sample() -> (StoredHead, HeaderMap) {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("link", "<a>"),
            ("link", "<b>"),
            ("x-bytes", "caf\u{e9}"),
            ("date", "Thu, 01 Jan 2026 12:00:00 GMT"),
        ] {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            fields.append(HeaderName::from_static(name), value);
        }
        let head = StoredHead {
            status: StatusCode::NOT_FOUND,
            version: Version::HTTP_2,
            headers: stored_head(&fields, Strip { fields: &[] }, SystemTime::now()),
            status_slot: true,
            lifetime: Lifetime {
                response_time: 5,
                initial_age: 7,
                freshness: 60_000,
            },
            shareable: true,
            shareable_with_authorization: false,
        };
        (head, fields)
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let (head, fields) = sample();
        let frame = encode_response(b"key", &head, 1_000, (3, 4), b"body");
        let Some(Frame::Response(read)) = decode(b"key", &frame) else {
            panic!("not read");
        };
        assert_eq!(
            (read.status, read.version),
            (StatusCode::NOT_FOUND, Version::HTTP_2)
        );
        assert_eq!(read.headers, fields);
        assert_eq!(
            (read.response_time, read.initial_age, read.freshness),
            (1_000, 7, 60_000)
        );
        assert_eq!((read.writer, read.sequence), (3, 4));
        assert!(read.shareable && !read.shareable_with_authorization);
        assert_eq!(read.body, "body");
        let names = [
            HeaderName::from_static("accept"),
            HeaderName::from_static("x-a"),
        ];
        let rule = encode_rule(b"key", &names);
        assert_eq!(decode(b"key", &rule), Some(Frame::Rule(names.to_vec())));
    }

    #[test]
    fn damaged_foreign_and_cut_frames_are_none() {
        let (head, _) = sample();
        let frame = encode_response(b"key", &head, 1_000, (3, 4), b"some body");
        assert!(decode(b"other", &frame).is_none());
        for cut in 0..frame.len() {
            assert!(
                decode(b"key", &frame.slice(..cut)).is_none(),
                "cut at {cut}"
            );
        }
        // A damaged body has the length that it says; who stores it has to keep it whole.
        for at in 0..frame.len() - b"some body".len() {
            for bit in 0..8 {
                let mut damaged = BytesMut::from(&frame[..]);
                damaged[at] ^= 1 << bit;
                assert!(
                    decode(b"key", &damaged.freeze()).is_none(),
                    "bit {bit} of {at}"
                );
            }
        }
    }
}
