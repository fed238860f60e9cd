//! The codec and the parsers of fields, for the fuzz targets in `tests/fuzz` and the bench of the cost of
//! the codec. No part of the API.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use crate::{
    entry::{Lifetime, Said, Staleness, StoredHead},
    invalidation::Sequence,
    status::FrameFault,
    store::codec::{self, Frame},
};

pub use crate::policy::fuzzing::{
    PARSERS, Parser, dates, directives, groups, nominated, ranges, response, search, targeted,
    validation,
};

/// The key of the golden frames, with which a fuzzer begins.
pub const KEY: &[u8] = b"\x01\x0bexample.com\x02\x05/page\xff";

const LIMIT: usize = 2 << 20;

/// What was decoded.
#[derive(Debug)]
pub struct Decoded(Frame);

impl Decoded {
    /// The body in bytes of its own; a rule has none.
    ///
    /// # Errors
    ///
    /// When it is damaged.
    pub fn copy_body(&self) -> Result<Bytes, FrameFault> {
        match &self.0 {
            Frame::Response(response) => response.checked_body(),
            Frame::Rule(_) => Ok(Bytes::new()),
            Frame::Value(value) => value.body().map(Bytes::copy_from_slice),
        }
    }
}

/// A frame of a response with eight fields.
#[must_use]
pub fn encode(key: &[u8], body: &[u8]) -> Bytes {
    let mut headers = HeaderMap::new();
    for number in 0..8 {
        let name = HeaderName::try_from(format!("x-field-{number}")).expect("a name");
        headers.insert(name, HeaderValue::from_static("a value of usual length"));
    }
    let head = StoredHead {
        status: StatusCode::OK,
        version: Version::HTTP_11,
        headers,
        status_slot: false,
        own_tag: false,
        validator: None,
        lifetime: Lifetime {
            response_time: 0,
            initial_age: 0,
            freshness: 60_000,
            kept: 0,
        },
        staleness: Staleness::default(),
        groups: Box::default(),
        tags: Box::default(),
        said: Said::default(),
        shareable: true,
        shareable_with_authorization: false,
    };
    codec::encode_response(key, &head, 1 << 40, (1, Sequence::default()), body)
}

/// What a store had under `key`, decoded.
///
/// # Errors
///
/// Why it cannot be used.
pub fn decode(key: &[u8], frame: &Bytes) -> Result<Decoded, FrameFault> {
    codec::decode(key, frame, LIMIT).map(Decoded)
}

/// Decodes bytes as they are, and once more with a checksum that is right, so that what stands
/// behind it is reached. Nothing of it may panic.
pub fn check(data: &[u8]) {
    let mut data = data.to_vec();
    for _ in 0..2 {
        if let Ok(decoded) = decode(KEY, &Bytes::copy_from_slice(&data)) {
            let body = decoded.copy_body().unwrap_or_default();
            assert!(data.ends_with(&body), "the body is the end of the frame");
        }
        codec::make_right(&mut data);
    }
}
