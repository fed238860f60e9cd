//! Frames as files: a change of the layout is seen.
//!
//! Where this test fails, frames of the releases that are out there cannot be read any
//! more, or are read as something else. Undo the change, or raise [`VERSION`](super::VERSION), write
//! the files anew (`UPDATE_GOLDEN=1 cargo test --lib golden`) and look at what changed in them. A
//! file that changes while the version does not is a mistake. The files are not part of the published
//! crate: there is nothing to compare where the directory is missing.

use std::{fs, path::Path};

use super::{tests::*, *};
use crate::fuzzing::KEY;

/// A name, what is written, and what has to be read.
struct Golden {
    name: &'static str,
    frame: Bytes,
    expected: Expected,
}

enum Expected {
    Response {
        head: Box<StoredHead>,
        body: Vec<u8>,
    },
    Rule(Vec<HeaderName>),
    Value(Vec<u8>),
}

const RESPONSE_TIME: Millis = 1_767_268_800_123;
const WRITER: u64 = 0x0123_4567_89ab_cdef;
const SEQUENCE: Sequence = Sequence {
    local: 42,
    shared: 1_764_201_600_000_000,
};

fn response(name: &'static str, head: StoredHead, body: impl Into<Vec<u8>>) -> Golden {
    let body = body.into();
    Golden {
        name,
        frame: encode_response(KEY, &head, RESPONSE_TIME, (WRITER, SEQUENCE), &body),
        expected: Expected::Response {
            head: Box::new(head),
            body,
        },
    }
}

fn value_tags() -> Vec<Box<str>> {
    vec!["users".into(), "user:1".into()]
}

fn value() -> Golden {
    let body = b"{\"name\":\"Ada\"}".to_vec();
    let (tags, named) = (value_tags(), (WRITER, SEQUENCE));
    Golden {
        name: "value",
        frame: encode_value(KEY, &value_head(&tags), RESPONSE_TIME, named, &body),
        expected: Expected::Value(body),
    }
}

fn all() -> Vec<Golden> {
    let date = ("date", "Thu, 01 Jan 2026 12:00:00 GMT");
    let text = ("content-type", "text/plain");
    let plain = fields(&[text, date]);
    let repeated = fields(&[
        ("link", "</a>; rel=preload"),
        date,
        ("link", "</b>; rel=preload"),
        ("x-name", "caf\u{e9}"),
        ("cache-status", "origin; fwd=miss"),
    ]);
    let mut not_found = head_of(404, Version::HTTP_2, &repeated);
    not_found.shareable = false;
    not_found.shareable_with_authorization = true;
    let mut stale = head_of(200, Version::HTTP_11, &plain);
    stale.lifetime.kept = 3_600_000;
    stale.staleness = Staleness {
        while_revalidate: 30_000,
        if_error: 86_400_000,
        allowed: true,
    };
    stale.said = Said {
        ttl: Some(60_000),
        public: true,
    };
    stale.own_tag = true;
    stale.validator = Some("v7".into());
    stale.groups = ["news", "caf\u{e9}"].map(Box::from).into();
    stale.tags = ["user:42"].map(Box::from).into();
    let names = ["accept-encoding", "x-tenant"].map(HeaderName::from_static);
    let bare = fields(&[date]);
    let kibibyte: Vec<u8> = (0..=255).cycle().take(1024).collect();
    vec![
        response("plain_200", head_of(200, Version::HTTP_11, &plain), "hello"),
        response("repeated_fields_404_http_2", not_found, "gone"),
        response("empty_body", head_of(204, Version::HTTP_11, &bare), ""),
        response(
            "body_of_1_kib",
            head_of(200, Version::HTTP_10, &plain),
            kibibyte,
        ),
        response("stale_with_all_there_is", stale, "stale"),
        Golden {
            name: "rule",
            frame: encode_rule(KEY, &names),
            expected: Expected::Rule(names.to_vec()),
        },
        value(),
    ]
}

#[test]
fn golden_frames_are_written_and_read_as_ever() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    if !directory.parent().is_some_and(Path::exists) {
        return;
    }
    for golden in all() {
        let name = golden.name;
        let path = directory.join(name).with_extension("frame");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &golden.frame).expect("the directory can be written");
        }
        let stored = fs::read(&path).expect("every golden frame has its file");
        assert_eq!(
            golden.frame, stored,
            "{name}: see the docs at the top of this file"
        );
        match (read(KEY, &stored).expect(name), golden.expected) {
            (Frame::Rule(names), Expected::Rule(expected)) => assert_eq!(names, expected, "{name}"),
            (Frame::Value(read), Expected::Value(body)) => {
                assert_eq!(read.body(), Ok(&*body), "{name}");
                let tags = value_tags();
                let head = value_head(&tags);
                let expected = ValueFrame {
                    of_type: head.of_type,
                    made: RESPONSE_TIME,
                    freshness: head.lifetime.freshness,
                    staleness: head.staleness,
                    writer: WRITER,
                    sequence: SEQUENCE,
                    tags: tags.into(),
                    ..read.clone()
                };
                assert_eq!(read, expected, "{name}");
            }
            (Frame::Response(read), Expected::Response { head, body }) => {
                assert_eq!(read.checked_body().expect(name), body, "{name}");
                let expected = ResponseFrame {
                    status: head.status,
                    version: head.version,
                    headers: head.headers,
                    status_slot: head.status_slot,
                    response_time: RESPONSE_TIME,
                    initial_age: head.lifetime.initial_age,
                    freshness: head.lifetime.freshness,
                    kept: head.lifetime.kept,
                    staleness: head.staleness,
                    said: head.said,
                    groups: head.groups.clone(),
                    tags: head.tags.clone(),
                    own_tag: head.own_tag,
                    validator: head.validator.clone(),
                    writer: WRITER,
                    sequence: SEQUENCE,
                    shareable: head.shareable,
                    shareable_with_authorization: head.shareable_with_authorization,
                    ..read.clone()
                };
                assert_eq!(read, expected, "{name}");
            }
            _ => panic!("{name} is read as something else"),
        }
    }
}
