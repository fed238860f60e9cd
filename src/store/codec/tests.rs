//! What the frame keeps, and what it refuses.

use std::time::SystemTime;

use http::HeaderValue;

use super::*;
use crate::{
    entry::Lifetime,
    stored_head::{has_status_slot, stored_head},
    strip::Strip,
};

const LIMIT: usize = 1 << 20;
const SEQUENCE: Sequence = Sequence {
    local: 4,
    shared: 5,
};

pub(super) fn read(key: &[u8], frame: &[u8]) -> Result<Frame, FrameFault> {
    decode(key, &Bytes::copy_from_slice(frame), LIMIT)
}

/// Read as far as it would be served.
pub(super) fn served(key: &[u8], frame: &[u8]) -> Result<(), FrameFault> {
    match read(key, frame)? {
        Frame::Response(response) => response.checked_body().map(drop),
        Frame::Rule(_) => Ok(()),
        Frame::Value(value) => value.body().map(drop),
    }
}

/// The head of a value with all there is.
pub(super) fn value_head(tags: &[Box<str>]) -> ValueHead<'_> {
    ValueHead {
        of_type: 0x0a0b_0c0d_0e0f_1011,
        lifetime: Lifetime {
            response_time: 5,
            initial_age: 0,
            freshness: 60_000,
            kept: 86_400_000,
        },
        staleness: Staleness {
            while_revalidate: 30_000,
            if_error: 86_400_000,
            allowed: false,
        },
        tags,
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
        tags: Box::default(),
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
    let frame = encode_response(b"key", &head, 1_000, (3, SEQUENCE), b"body");
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
    assert_eq!((response.writer, response.sequence), (3, SEQUENCE));
    assert!(response.shareable && !response.shareable_with_authorization);
    assert_eq!(response.checked_body().unwrap(), "body");
    let names = ["accept", "x-a"].map(HeaderName::from_static);
    let rule = encode_rule(b"key", &names);
    assert_eq!(read(b"key", &rule), Ok(Frame::Rule(names.to_vec())));
}

#[test]
fn a_value_that_is_written_is_what_is_read() {
    let tags = ["users".into(), "user:1".into()];
    let head = value_head(&tags);
    let frame = encode_value(b"key", &head, 1_000, (3, SEQUENCE), b"[1,2]");
    let Ok(Frame::Value(value)) = read(b"key", &frame) else {
        panic!("not read");
    };
    assert_eq!(value.of_type, head.of_type);
    assert_eq!((value.made, value.freshness), (1_000, 60_000));
    assert_eq!(value.staleness, head.staleness);
    assert_eq!((value.writer, value.sequence), (3, SEQUENCE));
    assert_eq!(*value.tags, tags);
    assert_eq!(value.body(), Ok(&b"[1,2]"[..]));
    assert!(value.mark().is_of(b"key", &frame));
    assert!(!value.mark().is_of(b"other", &frame));
    assert_eq!(read(b"other", &frame), Err(FrameFault::OtherKey));
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let head = sample();
    let frames = [
        encode_response(b"key", &head, 1_000, (3, SEQUENCE), b"some body"),
        encode_rule(b"key", &[HeaderName::from_static("accept")]),
        encode_value(
            b"key",
            &value_head(&["tag".into()]),
            1_000,
            (3, SEQUENCE),
            b"[1,2]",
        ),
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
    encode_response(b"key", &head, 1_000, (3, SEQUENCE), b"body")
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
fn a_frame_is_known_again_by_its_head_and_its_length() {
    let head = sample();
    let frame = encode_response(b"key", &head, 1_000, (3, SEQUENCE), b"some body");
    let Ok(Frame::Response(response)) = read(b"key", &frame) else {
        panic!("not read");
    };
    let mark = response.mark();
    assert!(mark.is_of(b"key", &frame));
    assert!(!mark.is_of(b"another key", &frame));
    for cut in 0..frame.len() {
        assert!(!mark.is_of(b"key", &frame[..cut]), "cut at {cut}");
    }
    // What is served then is what memory has, and no bit of that is read.
    let head = frame.len() - "some body".len();
    for at in 0..frame.len() {
        for bit in 0..8 {
            let mut damaged = frame.to_vec();
            damaged[at] ^= 1 << bit;
            let is_known = mark.is_of(b"key", &damaged);
            assert_eq!(is_known, at >= head, "bit {bit} of {at}");
        }
    }
    assert!(!mark.is_of(b"key", &[&frame[..], b"!"].concat()));
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
        let frame = encode_response(b"key", &head, 1_000, (3, SEQUENCE), b"body");
        assert_eq!(read(b"key", &frame).is_ok(), is_good, "{lines:?}");
    }
}

/// What is refused of a frame that was changed like this, and has the right checksums.
fn fault_of(head: &StoredHead, change: impl FnOnce(&mut Vec<u8>)) -> Result<(), FrameFault> {
    let mut frame = encode_response(b"key", head, 1_000, (3, SEQUENCE), b"body").to_vec();
    change(&mut frame);
    make_right(&mut frame);
    served(b"key", &frame)
}

#[test]
fn what_no_writer_of_ours_writes_is_refused() {
    // Behind the key with its length, the status and the version.
    const TIMES: usize = HEAD + 4 + 3 + 2 + 1;
    const FLAGS_AT: usize = TIMES + 7 * 8 + 3 * 8;
    const TEXTS: usize = FLAGS_AT + 1 + 2 * 8;
    let no_sense = Err(FrameFault::Malformed);
    let mut head = sample();
    head.groups = ["group"].map(Box::from).into();
    assert_eq!(fault_of(&head, |_| {}), Ok(()));
    for number in 0..7 {
        let at = TIMES + number * 8;
        let time = |time: Millis| {
            fault_of(&head, |frame| {
                frame[at..at + 8].copy_from_slice(&time.to_le_bytes());
            })
        };
        assert_eq!(time(MAX_TIME), Ok(()), "time {number}");
        assert_eq!(time(MAX_TIME + 1), no_sense, "time {number}");
    }
    for flag in 0..8 {
        let known = FLAGS & 1 << flag != 0;
        let fault = fault_of(&head, |frame| frame[FLAGS_AT] = 1 << flag);
        assert_eq!(fault.is_ok(), known, "flag {flag}");
    }
    let name = TEXTS + 2 + 2;
    assert_eq!(fault_of(&head, |frame| frame[name] = 0xff), no_sense);
    let behind = fault_of(&head, |frame| {
        let end = frame.len() - b"body".len();
        frame.insert(end, 0);
        frame[HEAD - 4..HEAD].copy_from_slice(&((end + 1 - HEAD) as u32).to_le_bytes());
    });
    assert_eq!(behind, no_sense);
    for (length, expected) in [(MAX_TEXT, Ok(())), (MAX_TEXT + 1, no_sense)] {
        head.validator = Some("v".repeat(length).into());
        assert_eq!(fault_of(&head, |_| {}), expected, "{length}");
    }
    head.validator = None;
    let most = usize::from(MAX_TAGS);
    for (count, expected) in [(most, Ok(())), (most + 1, no_sense)] {
        let names: Box<[Box<str>]> = vec!["name".into(); count].into();
        (head.groups, head.tags) = (names.clone(), Box::default());
        assert_eq!(fault_of(&head, |_| {}), expected, "{count} groups");
        (head.groups, head.tags) = (Box::default(), names);
        assert_eq!(fault_of(&head, |_| {}), expected, "{count} tags");
    }
}
