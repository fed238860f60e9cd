//! Parts of a stored response (RFC 9110, 14).

use crate::support::{
    self, Answer, App, Origin, cache, get, get_with, request, scripted::response, send,
};
use http::StatusCode;
use tower_response_cache::ResponseCacheLayer;

const TEXT: &str = "0123456789abcdef";

fn tagged() -> Origin {
    Origin::new(|_, _| {
        let fields = [
            ("etag", "\"v1\""),
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", "16"),
            ("content-digest", "sha-256=:AAAA:"),
            ("repr-digest", "sha-256=:BBBB:"),
            ("cache-control", "max-age=60"),
            ("cdn-cache-control", "max-age=600"),
            ("surrogate-control", "max-age=600"),
            ("vary", "accept-encoding"),
        ];
        std::future::ready(response(200, &fields, TEXT))
    })
}

async fn stored() -> (App, Origin) {
    let (cache, _clock) = cache();
    let origin = tagged();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    (app, origin)
}

async fn ranged(app: &App, range: &str) -> Answer {
    get_with(app, "/", &[("range", range)]).await
}

#[tokio::test]
async fn one_range_is_cut_from_the_stored_response() {
    let (app, origin) = stored().await;
    for (range, said, text) in [
        ("bytes=0-3", "bytes 0-3/16", "0123"),
        ("bytes=-2", "bytes 14-15/16", "ef"),
        ("bytes=10-", "bytes 10-15/16", "abcdef"),
        ("bytes=14-999", "bytes 14-15/16", "ef"),
        ("bytes=0-", "bytes 0-15/16", TEXT),
        ("bytes=0-1,2-3", "bytes 0-3/16", "0123"),
    ] {
        let part = ranged(&app, range).await;
        assert!(part.is_hit());
        assert_eq!(
            (part.status, part.text()),
            (StatusCode::PARTIAL_CONTENT, text)
        );
        assert_eq!(part.field("content-range"), said);
        assert_eq!(part.field("content-length"), text.len().to_string());
        assert_eq!(part.field("content-type"), "text/plain; charset=utf-8");
        for name in [
            "etag",
            "cache-control",
            "vary",
            "date",
            "age",
            "repr-digest",
        ] {
            assert!(!part.field(name).is_empty(), "{name}");
        }
        // RFC 9530, 2: it is that of all the bytes.
        assert_eq!(part.field("content-digest"), "");
    }
    let whole = get(&app, "/").await;
    assert_eq!((whole.status, whole.text()), (StatusCode::OK, TEXT));
    assert_eq!(whole.field("content-range"), "");
    assert_eq!(origin.calls(), 1);
}

/// Takes a `multipart/byteranges` apart: of each part its fields and its bytes.
fn parts(answer: &Answer) -> Vec<(Vec<String>, String)> {
    let kind = answer.field("content-type");
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .expect("several parts");
    let rest = answer
        .text()
        .strip_prefix(&format!("\r\n--{boundary}"))
        .expect("a boundary");
    let rest = rest
        .strip_suffix(&format!("\r\n--{boundary}--\r\n"))
        .expect("the last boundary");
    let part = |part: &str| {
        let part = part.strip_prefix("\r\n").expect("a line");
        let (head, body) = part.split_once("\r\n\r\n").expect("a head and a body");
        (
            head.split("\r\n").map(str::to_owned).collect(),
            body.to_owned(),
        )
    };
    rest.split(&format!("\r\n--{boundary}")).map(part).collect()
}

#[tokio::test]
async fn several_ranges_are_several_parts_in_their_order() {
    let (app, origin) = stored().await;
    let answer = ranged(&app, "bytes=-2, 0-0").await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.field("content-range"), "");
    assert_eq!(
        answer.field("content-length"),
        answer.body.len().to_string()
    );
    let head = |range: &str| {
        let kind = "Content-Type: text/plain; charset=utf-8".to_owned();
        vec![kind, format!("Content-Range: {range}")]
    };
    let expected = [
        (head("bytes 14-15/16"), "ef".to_owned()),
        (head("bytes 0-0/16"), "0".to_owned()),
    ];
    assert_eq!(parts(&answer), expected);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn what_is_behind_the_end_is_not_satisfiable() {
    let (app, origin) = stored().await;
    let answer = ranged(&app, "bytes=16-").await;
    assert!(answer.is_hit());
    assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(
        (answer.field("content-range"), answer.text()),
        ("bytes */16", "")
    );
    // What speaks of the whole would be stored with this status by somebody.
    for name in [
        "cache-control",
        "cdn-cache-control",
        "surrogate-control",
        "etag",
        "content-type",
        "content-length",
    ] {
        assert_eq!(answer.field(name), "", "{name}");
    }
    assert_eq!(get(&app, "/").await.text(), TEXT);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn what_is_no_range_of_bytes_gets_all() {
    let (app, origin) = stored().await;
    for range in [
        "bytes=3-2",
        "lines=0-3",
        "bytes=",
        "bytes=x",
        "bytes=0-7,8-15,3-",
    ] {
        let whole = ranged(&app, range).await;
        match range {
            // Everything, as one range.
            "bytes=0-7,8-15,3-" => assert_eq!(whole.field("content-range"), "bytes 0-15/16"),
            _ => assert_eq!(whole.status, StatusCode::OK, "{range}"),
        }
        assert_eq!(whole.text(), TEXT, "{range}");
    }
    let head = send(&app, request("HEAD", "/", &[("range", "bytes=0-3")])).await;
    assert_eq!(
        (head.status, head.field("content-length")),
        (StatusCode::OK, "16")
    );
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn if_range_and_if_none_match_are_asked_first() {
    let (app, origin) = stored().await;
    for (condition, status, text) in [
        (("if-range", "\"v1\""), 206, "0123"),
        (("if-range", "W/\"v1\""), 200, TEXT),
        (("if-range", "\"v2\""), 200, TEXT),
        (("if-match", "\"v0\""), 200, TEXT),
        (("if-none-match", "\"v1\""), 304, ""),
        (("if-none-match", "\"v2\""), 206, "0123"),
    ] {
        let answer = get_with(&app, "/", &[("range", "bytes=0-3"), condition]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (status, text),
            "{condition:?}"
        );
    }
    assert_eq!(origin.calls(), 1);
}

/// RFC 9110, 14.2: a range is one of a 200.
#[tokio::test]
async fn a_stored_404_is_not_cut() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|_, _| {
        std::future::ready(response(404, &[("cache-control", "max-age=60")], TEXT))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    let answer = ranged(&app, "bytes=0-3").await;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::NOT_FOUND, TEXT)
    );
}

#[tokio::test]
async fn a_part_is_not_stored_as_the_whole_by_an_outer_cache() {
    let (inner, _clock) = cache();
    let (outer, _other) = cache();
    let app = tagged().behind(&ResponseCacheLayer::new(&inner));
    let app = support::app(&ResponseCacheLayer::new(&outer), app);
    get(&app, "/").await;
    outer.set_enabled(false);
    outer.set_enabled(true);
    assert_eq!(ranged(&app, "bytes=0-3").await.text(), "0123");
    let whole = get(&app, "/").await;
    assert_eq!((whole.status, whole.text()), (StatusCode::OK, TEXT));
}
