//! Absurd requests and responses: an answer as without the layer.

use std::time::Duration;

use crate::support::{
    Origin, cache, get, request,
    scripted::{detail, response},
    send,
};
use axum::body::Body;
use http::{HeaderName, HeaderValue, Request, Response};
use tower_response_cache::{Credentials, Query, ResponseCacheLayer, Selector};

/// Fields that rules read, and one that none reads.
const REQUEST_FIELDS: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "cache-control",
    "connection",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "hx-request",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "origin",
    "pragma",
    "range",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-user",
    "x-original-url",
    "x-other",
];

const RESPONSE_FIELDS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "age",
    "cache-control",
    "cache-status",
    "cdn-cache-control",
    "connection",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-security-policy",
    "content-type",
    "date",
    "etag",
    "expires",
    "keep-alive",
    "last-modified",
    "location",
    "pragma",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "x-cache",
    "x-other",
    "x-request-id",
];

fn value(bytes: impl AsRef<[u8]>) -> HeaderValue {
    HeaderValue::from_bytes(bytes.as_ref()).unwrap()
}

/// Values of 64 KiB: plain, quoted and never closed, a list, parameters, digits.
fn long_values() -> Vec<HeaderValue> {
    const LONG: usize = 64 << 10;
    let repeated = |text: &str| value(text.repeat(LONG / text.len()));
    vec![
        repeated("a"),
        repeated("\""),
        repeated("\\"),
        repeated("a,"),
        repeated(","),
        repeated("a=b;"),
        repeated("*"),
        repeated("9"),
        repeated("max-age=1,"),
        repeated("no-store, "),
        repeated("gzip;q=0.5,"),
        repeated("a=\",\","),
        repeated(" "),
    ]
}

/// A byte above ASCII in each place.
fn odd_values() -> Vec<HeaderValue> {
    let mut values: Vec<_> = (0x80..=0xff).map(|byte| value([byte])).collect();
    for text in [
        "max-age=10",
        "no-store",
        "a=b; c=d",
        "gzip, br;q=0.5",
        "a.example:80",
        "\"q\"",
    ] {
        for byte in [0x80, 0xc3, 0xff] {
            let mut bytes = text.as_bytes().to_vec();
            bytes.insert(text.len() / 2, byte);
            values.push(value(&bytes));
            values.push(value([text.as_bytes(), &[b',', byte, b',']].concat()));
            values.push(value([&[byte, b','], text.as_bytes()].concat()));
        }
    }
    values
}

/// Asks twice and compares status and body with what the origin says for itself.
async fn is_as_without(
    sentence: &str,
    origin: &Origin,
    layer: &ResponseCacheLayer,
    make: impl Fn() -> Request<Body>,
) {
    let app = origin.behind(layer);
    let expected = send(&origin.service(), make()).await;
    for _ in 0..2 {
        let seen = send(&app, make()).await;
        assert_eq!(
            (seen.status, &seen.body),
            (expected.status, &expected.body),
            "{sentence}"
        );
        for name in expected.headers.keys() {
            // On a hit the fields of one connection or exchange are gone; two are ours.
            if !seen.is_hit() && !["x-cache", "cache-status"].contains(&name.as_str()) {
                let same = seen
                    .headers
                    .get_all(name)
                    .iter()
                    .eq(expected.headers.get_all(name));
                assert!(same, "{name} of {sentence}");
            }
        }
    }
}

#[tokio::test]
async fn any_request_field_may_be_64_kib_or_not_ascii() {
    let (cache, _clock) = cache();
    let plain = ResponseCacheLayer::new(&cache);
    let layers = [
        plain.clone(),
        plain
            .clone()
            .vary_on_cookie("a")
            .ignore_cookies(["b*"])
            .ignore_host(),
        plain.credentials(Credentials::default().add(HeaderName::from_static("x-other"))),
    ];
    let read = REQUEST_FIELDS
        .join(",")
        .replace("authorization,", "")
        .replace("cookie,", "");
    for origin in [
        Origin::new(|_, _| std::future::ready(Response::new(Body::from("page")))),
        Origin::new(move |_, _| std::future::ready(response(200, &[("vary", &*read)], "page"))),
    ] {
        for name in REQUEST_FIELDS {
            for value in long_values().into_iter().chain(odd_values()) {
                for layer in &layers {
                    let sentence =
                        format!("{name}: {:?}", &value.as_bytes()[..value.len().min(40)]);
                    is_as_without(&sentence, &origin, layer, || {
                        let mut asked = request("GET", "/", &[]);
                        asked.headers_mut().insert(*name, value.clone());
                        asked
                    })
                    .await;
                }
            }
        }
    }
}

#[tokio::test]
async fn any_response_field_may_be_64_kib_or_not_ascii() {
    let (cache, _clock) = cache();
    let plain = ResponseCacheLayer::new(&cache);
    let layers = [plain.clone(), plain.force_ttl(Duration::from_secs(10))];
    for name in RESPONSE_FIELDS {
        for value in long_values().into_iter().chain(odd_values()) {
            if *name == "content-length" && value.as_bytes().iter().all(|b| *b == b' ') {
                continue;
            }
            let sentence = format!("{name}: {:?}", &value.as_bytes()[..value.len().min(40)]);
            let origin = Origin::new(move |_, _| {
                let mut answer = Response::new(Body::from("page"));
                answer.headers_mut().insert(*name, value.clone());
                std::future::ready(answer)
            });
            for layer in &layers {
                cache.invalidate(Selector::all());
                is_as_without(&sentence, &origin, layer, || request("GET", "/", &[])).await;
            }
        }
    }
}

#[tokio::test]
async fn ten_thousand_lines_of_a_field_are_no_matter() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    for name in [
        "cookie",
        "cache-control",
        "vary",
        "x-other",
        "set-cookie",
        "connection",
        "forwarded",
    ] {
        let many = move |headers: &mut http::HeaderMap| {
            for i in 0..10_000 {
                headers.append(name, value(format!("a{i}=b")));
            }
        };
        let origin = Origin::new(move |_, request| {
            let mut answer = Response::new(Body::from("page"));
            if request.uri().path() == "/many" {
                many(answer.headers_mut());
            }
            std::future::ready(answer)
        });
        is_as_without(name, &origin, &layer, || request("GET", "/many", &[])).await;
        is_as_without(name, &origin, &layer, || {
            let mut asked = request("GET", "/", &[]);
            many(asked.headers_mut());
            asked
        })
        .await;
    }
}

#[tokio::test]
async fn ten_thousand_query_parameters_are_no_matter() {
    let parameters = |separator: &str| {
        let each = (0..10_000)
            .map(|i| format!("p{i}={}", i % 7))
            .collect::<Vec<_>>();
        format!("/?{}", each.join(separator))
    };
    // Longer than a URI of the `http` crate may be, it would never reach a service.
    let paths = [
        format!("/?{}", "&".repeat(10_000)),
        format!("/?{}", "a&".repeat(10_000)),
        parameters("&"),
    ]
    .into_iter()
    .filter(|path| path.parse::<http::Uri>().is_ok())
    .chain([
        format!("/?{}", "a=b&".repeat(10_000)),
        format!("/?{}", "=".repeat(10_000)),
    ])
    .collect::<Vec<_>>();
    assert!(paths.len() >= 3);
    let settings: Vec<(Query, Option<&str>)> = vec![
        (Query::default(), None),
        (Query::default().sort(), None),
        (Query::ignore(["x"]), None),
        (Query::ignore(["*"]), Some("GET /")),
        (Query::only(["q"]), Some("GET /")),
        (Query::only(["q"]).sort(), Some("GET /")),
        (Query::ignore(["a*b*c*d*e*"; 50]), None),
    ];
    for path in &paths {
        for (query, reduced) in &settings {
            let (cache, _clock) = cache();
            let origin = Origin::with_fields(&[]);
            let app = origin.behind(&ResponseCacheLayer::new(&cache).query(query.clone()));
            let first = get(&app, path).await;
            let second = get(&app, path).await;
            assert_eq!(first.status, 200);
            if let Some(reduced) = reduced {
                assert_eq!(second.text(), format!("1 {reduced}"));
                assert!(second.is_hit());
            } else if detail(&first) == "key-too-long" {
                assert_eq!(second.text().len(), first.text().len());
                assert_eq!(second.text()[..6], *"2 GET ");
            } else {
                assert!(second.is_hit());
                assert_eq!(second.body, first.body);
            }
        }
    }
}

#[tokio::test]
async fn requests_without_a_host_or_in_odd_forms_are_answered() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for (method, uri) in [
        ("GET", "*"),
        ("GET", "test:80"),
        ("CONNECT", "test:80"),
        ("GET", "http://test"),
        ("GET", "http://u:p@test/"),
        ("GET", "/a//../b?%zz#"),
        ("HEAD", "*"),
    ] {
        for _ in 0..2 {
            let asked = Request::builder()
                .method(method)
                .uri(uri)
                .body(Body::empty())
                .unwrap();
            assert_eq!(send(&app, asked).await.status, 200, "{method} {uri}");
        }
    }
}
