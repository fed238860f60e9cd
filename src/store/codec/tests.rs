//! What the frame keeps, and what it refuses.

use std::time::SystemTime;

use http::HeaderValue;

use super::*;
use crate::{
    entry::Lifetime,
    headers::{Strip, has_status_slot, stored_head},
};

const LIMIT: usize = 1 << 20;

pub(super) fn read(key: &[u8], frame: &[u8]) -> Result<Frame, FrameFault> {
    decode(key, &Bytes::copy_from_slice(frame), LIMIT)
}

/// Read as far as it would be served.
pub(super) fn served(key: &[u8], frame: &[u8]) -> Result<(), FrameFault> {
    match read(key, frame)? {
        Frame::Response(response) => response.copy_body().map(drop),
        Frame::Rule(_) => Ok(()),
    }
}

pub(super) fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in lines {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        fields.append(HeaderName::from_static(name), value);
    }
    fields
}

/// A head as the store has it, with the slots in front.
pub(super) fn head_of(status: u16, version: Version, fields: &HeaderMap) -> StoredHead {
    StoredHead {
        status: StatusCode::from_u16(status).unwrap(),
        version,
        headers: stored_head(fields, Strip::NOTHING, SystemTime::now()),
        status_slot: has_status_slot(fields),
        own_tag: false,
        validator: None,
        lifetime: Lifetime {
            response_time: 5,
            initial_age: 7,
            freshness: 60_000,
            kept: 0,
        },
        staleness: Staleness::default(),
        groups: Box::default(),
        said: Said::default(),
        shareable: true,
        shareable_with_authorization: false,
    }
}

fn sample() -> StoredHead {
    let fields = fields(&[
        ("content-type", "text/plain"),
        ("link", "<a>"),
        ("link", "<b>"),
        ("x-bytes", "caf\u{e9}"),
        ("date", "Thu, 01 Jan 2026 12:00:00 GMT"),
    ]);
    head_of(404, Version::HTTP_2, &fields)
}

#[test]
fn what_is_written_is_what_is_read() {
    let head = sample();
    let frame = encode_response(b"key", &head, 1_000, (3, 4), b"body");
    let Ok(Frame::Response(response)) = read(b"key", &frame) else {
        panic!("not read");
    };
    assert_eq!(
        (response.status, response.version),
        (StatusCode::NOT_FOUND, Version::HTTP_2)
    );
    assert_eq!(response.headers, head.headers);
    assert!(response.status_slot);
    let times = [
        response.response_time,
        response.initial_age,
        response.freshness,
    ];
    assert_eq!(times, [1_000, 7, 60_000]);
    assert_eq!((response.writer, response.sequence), (3, 4));
    assert!(response.shareable && !response.shareable_with_authorization);
    assert_eq!(response.copy_body().unwrap(), "body");
    let names = ["accept", "x-a"].map(HeaderName::from_static);
    let rule = encode_rule(b"key", &names);
    assert_eq!(read(b"key", &rule), Ok(Frame::Rule(names.to_vec())));
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let head = sample();
    let frames = [
        encode_response(b"key", &head, 1_000, (3, 4), b"some body"),
        encode_rule(b"key", &[HeaderName::from_static("accept")]),
    ];
    for frame in frames {
        assert_eq!(served(b"key", &frame), Ok(()));
        for cut in 0..frame.len() {
            let fault = served(b"key", &frame[..cut]);
            assert_eq!(fault, Err(FrameFault::Truncated), "cut at {cut}");
        }
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut damaged = frame.to_vec();
                damaged[at] ^= 1 << bit;
                assert!(served(b"key", &damaged).is_err(), "bit {bit} of {at}");
            }
        }
    }
}

/// A frame with any fields, as another writer may write it.
fn frame_of(fields: &HeaderMap) -> Bytes {
    let mut head = head_of(200, Version::HTTP_11, &HeaderMap::new());
    head.headers = fields.clone();
    head.status_slot = false;
    encode_response(b"key", &head, 1_000, (3, 4), b"body")
}

#[test]
fn what_belongs_to_a_connection_is_not_read_either() {
    let written = fields(&[
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("set-cookie", "a=b"),
        ("x-request-id", "7"),
        ("etag", "\"a\""),
        ("cache-status", "origin; hit"),
    ]);
    let Ok(Frame::Response(response)) = read(b"key", &frame_of(&written)) else {
        panic!("not read");
    };
    assert!(!response.status_slot);
    let mut names: Vec<_> = response.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "age",
            "cache-status",
            "etag",
            "set-cookie",
            "x-cache",
            "x-request-id"
        ]
    );
}

#[test]
fn a_frame_is_known_again_only_whole_and_for_its_key() {
    let head = sample();
    let frame = encode_response(b"key", &head, 1_000, (3, 4), b"some body");
    let Ok(Frame::Response(response)) = read(b"key", &frame) else {
        panic!("not read");
    };
    let mark = response.mark();
    assert!(mark.is_of(b"key", &frame));
    assert!(!mark.is_of(b"another key", &frame));
    for cut in 0..frame.len() {
        assert!(!mark.is_of(b"key", &frame[..cut]), "cut at {cut}");
    }
    for at in 0..frame.len() {
        for bit in 0..8 {
            let mut damaged = frame.to_vec();
            damaged[at] ^= 1 << bit;
            assert!(!mark.is_of(b"key", &damaged), "bit {bit} of {at}");
        }
    }
}

#[test]
fn a_declared_length_that_is_not_that_of_the_body_is_refused() {
    for (lines, is_good) in [
        (&[("content-length", "4")][..], true),
        (&[("content-length", "4"), ("content-length", "4")], true),
        (&[("content-length", "3")], false),
        (&[("content-length", "5")], false),
        (&[("content-length", "4"), ("content-length", "5")], false),
        (&[("content-length", "+4")], false),
        (&[("content-length", "four")], false),
    ] {
        let head = head_of(200, Version::HTTP_11, &fields(lines));
        let frame = encode_response(b"key", &head, 1_000, (3, 4), b"body");
        assert_eq!(read(b"key", &frame).is_ok(), is_good, "{lines:?}");
    }
}
