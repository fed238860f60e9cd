//! Thousands of random heads and requests: with the layer every answer is what the origin says for
//! itself.

use std::time::Duration;

use crate::support::{
    self, App, Origin, cache,
    scripted::{broken, in_frames},
};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_response_cache::{Cache, Reason, ResponseCacheLayer};

const CASES: u64 = 5_000;
/// So many resources, each with a head of its own; few enough to be asked for again and again.
const RESOURCES: u64 = 200;

/// SplitMix64: the same sequence on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Once in `n` times.
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len() as u64) as usize]
    }
}

const STATUSES: &[u16] = &[
    200, 200, 200, 200, 200, 200, 200, 201, 203, 204, 206, 300, 301, 302, 304, 307, 308, 400, 401,
    403, 404, 404, 410, 500, 503,
];

/// Fields of responses with values that rules read, and some that they do not.
const RESPONSE_FIELDS: &[(&str, &[&str])] = &[
    (
        "cache-control",
        &[
            "max-age=10",
            "max-age=10",
            "public, max-age=10",
            "s-maxage=5",
            "no-store",
            "private",
            "no-cache",
            "max-age=0",
            "must-revalidate",
            "max-age=x",
            "max-age=1, max-age=9",
            ",,\"",
            "private=\"x-a\"",
            "public",
            "MAX-AGE=\"5\"",
            "stale-while-revalidate=60",
            "immutable, max-age=99999999999",
        ],
    ),
    (
        "expires",
        &[
            "Thu, 01 Jan 2026 12:10:00 GMT",
            "0",
            "Thu, 01 Jan 2026 11:00:00 GMT",
        ],
    ),
    (
        "date",
        &[
            "Thu, 01 Jan 2026 11:59:58 GMT",
            "yesterday",
            "Fri, 01 Jan 2027 12:00:00 GMT",
        ],
    ),
    ("set-cookie", &["a=b", "c=d; Path=/"]),
    (
        "connection",
        &["close", "x-a", "set-cookie, x-b", "keep-alive"],
    ),
    ("keep-alive", &["timeout=5"]),
    (
        "content-type",
        &[
            "text/html",
            "application/json",
            "text/event-stream",
            "application/grpc",
            "",
            "\u{fc}",
        ],
    ),
    ("content-encoding", &["gzip", "br", "identity"]),
    ("content-language", &["de", "en, fr"]),
    (
        "access-control-allow-origin",
        &["*", "https://a.example", "null"],
    ),
    ("access-control-allow-credentials", &["true", "false"]),
    (
        "content-security-policy",
        &["default-src 'self'", "script-src 'nonce-a'"],
    ),
    ("etag", &["\"a\"", "W/\"b\"", "c"]),
    ("last-modified", &["Thu, 01 Jan 2026 10:00:00 GMT", "once"]),
    ("link", &["</a>; rel=preload", "</b>; rel=preload"]),
    ("x-a", &["1", "2", "", "\u{e4}\u{ff}"]),
    ("x-b", &["1", "two words"]),
    ("x-cache", &["HIT", "of another"]),
    ("cache-status", &["inner; hit", "other; fwd=miss"]),
    ("x-request-id", &["7"]),
    ("server-timing", &["db;dur=5"]),
    ("ratelimit-limit", &["10"]),
    ("warning", &["110 - stale"]),
    ("pragma", &["no-cache"]),
];

/// What a random response may vary on; nothing personal.
const SELECTING: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "x-theme",
    "origin",
];

/// What the handler of a resource reads and how it answers: a pure function of its number and the
/// request.
fn handler(request: &Request<Body>) -> Response<Body> {
    let number: u64 = request.uri().path()[2..].parse().unwrap();
    let mut dice = Dice(number.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let mut response = Response::new(Body::empty());
    let status = STATUSES[dice.below(STATUSES.len() as u64) as usize];
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let fields = response.headers_mut();
    for _ in 0..dice.below(5) {
        let (name, values) = RESPONSE_FIELDS[dice.below(RESPONSE_FIELDS.len() as u64) as usize];
        let value = HeaderValue::from_bytes(dice.of(values).as_bytes()).unwrap();
        fields.append(name, value);
    }
    let mut read: Vec<&str> = Vec::new();
    if dice.one_in(3) {
        for _ in 0..=dice.below(2) {
            let name = dice.of(SELECTING);
            read.push(name);
            let said = if dice.one_in(2) {
                name.to_uppercase()
            } else {
                name.to_owned()
            };
            fields.append("vary", said.parse().unwrap());
        }
    } else if dice.one_in(20) {
        fields.append(
            "vary",
            HeaderValue::from_static(dice.of(&["*", "", "cookie", ",", "a b"])),
        );
    }
    // What the rules take for read where nothing is said.
    for (name, unsaid) in [
        ("access-control-allow-origin", "origin"),
        ("content-encoding", "accept-encoding"),
        ("content-language", "accept-language"),
    ] {
        if fields.contains_key(name) && (name != "content-language" || is_silent(fields)) {
            read.push(unsaid);
        }
    }
    read.extend(["hx-request", "x-forwarded-proto", "x-requested-with"]);
    // What is said to be for everybody must not depend on who asks.
    let everybody = fields.get_all("cache-control").iter().any(|line| {
        let line = line.to_str().unwrap_or_default().to_lowercase();
        ["public", "s-maxage", "must-revalidate"]
            .iter()
            .any(|word| line.contains(word))
    });
    if !everybody {
        read.extend(["cookie", "authorization", "x-api-key"]);
    }
    let seen: Vec<_> = read
        .iter()
        .map(|name| normal(name, request.headers()))
        .collect();
    let text = format!(
        "{number} {:?} {:?} {seen:?} ",
        request.uri().query(),
        request.headers().get("host")
    );
    let text = Bytes::from(text.repeat(1 + dice.below(40) as usize));
    let (kind, cut) = (dice.below(12), dice.below(20) as usize);
    let declared = dice.one_in(3);
    let has_body = request.method() != "HEAD" && ![204, 304].contains(&status);
    if declared && ![204, 304].contains(&status) {
        let length = if kind == 11 {
            text.len() + 5
        } else {
            text.len()
        };
        response
            .headers_mut()
            .insert("content-length", length.into());
    }
    if has_body {
        let pieces = [
            Ok(text.slice(..cut)),
            Ok(text.slice(cut..cut)),
            Ok(text.slice(cut..)),
        ];
        *response.body_mut() = match kind {
            0..6 => Body::from(text),
            10 => in_frames(pieces.into_iter().take(2).chain([broken()]).collect()),
            _ => in_frames(pieces.into()),
        };
    }
    response
}

fn is_silent(fields: &HeaderMap) -> bool {
    !fields.contains_key("expires")
        && !fields.get_all("cache-control").iter().any(|line| {
            line.to_str()
                .unwrap_or_default()
                .to_lowercase()
                .contains("age=")
        })
}

/// What a handler makes of a field: languages and encodings are a set to it, other values what they
/// are.
fn normal(name: &str, fields: &HeaderMap) -> Option<String> {
    // A Cookie field without a cookie is as none.
    let mut lines = fields.get_all(name).iter();
    if lines.all(|line| name == "cookie" && line.is_empty()) {
        return None;
    }
    if name == "origin" {
        // Read without Vary only as "is it there": the answer for one origin is not asked for by
        // another.
        return fields[name].to_str().ok().map(str::to_owned);
    }
    let lines: Vec<_> = fields
        .get_all(name)
        .iter()
        .map(|line| line.to_str().unwrap())
        .collect();
    let mut members: Vec<_> = lines
        .iter()
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .collect();
    if name.starts_with("accept") {
        members.sort_unstable();
    }
    Some(members.join(","))
}

const REQUEST_FIELDS: &[(&str, &[&str])] = &[
    ("accept", &["text/html", "application/json", "*/*"]),
    (
        "accept-encoding",
        &["gzip", "br", "gzip, br", "br, gzip", "identity"],
    ),
    ("accept-language", &["de", "en", "de, en", "en, de"]),
    ("x-theme", &["dark", "light", ""]),
    ("origin", &["https://a.example", "https://b.example"]),
    ("cookie", &["s=1", "s=2", ""]),
    ("authorization", &["Basic YTph", "Bearer b"]),
    ("x-api-key", &["k", "l"]),
    ("hx-request", &["true"]),
    ("x-forwarded-proto", &["https", "http"]),
    ("x-requested-with", &["XMLHttpRequest"]),
    (
        "cache-control",
        &[
            "no-cache",
            "no-store",
            "max-age=0",
            "max-stale",
            "\"",
            "no-transform",
        ],
    ),
    ("pragma", &["no-cache"]),
    ("connection", &["close", "keep-alive, cookie"]),
    ("content-length", &["0"]),
    ("user-agent", &["a", "b"]),
    ("x-odd", &["\u{ff}\u{80}"]),
];

fn random_request(dice: &mut Dice) -> Request<Body> {
    let method = match dice.below(10) {
        0 => "HEAD",
        1 => dice.of(&["POST", "PUT", "DELETE", "OPTIONS"]),
        _ => "GET",
    };
    let query = dice.of(&["", "", "", "", "", "?", "?a=1", "?a=2"]);
    // The product makes some resources much more popular than others.
    let number = dice.below(RESOURCES) * dice.below(RESOURCES) * dice.below(RESOURCES)
        / RESOURCES
        / RESOURCES;
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/r{number}{query}"))
        .version(if dice.one_in(4) {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        })
        .body(Body::empty())
        .unwrap();
    let fields = request.headers_mut();
    fields.insert(
        "host",
        HeaderValue::from_static(dice.of(&["a.example", "a.example", "b.example"])),
    );
    for _ in 0..dice.below(4) {
        if dice.one_in(2) {
            let (name, values) = REQUEST_FIELDS[dice.below(REQUEST_FIELDS.len() as u64) as usize];
            fields.append(
                name,
                HeaderValue::from_bytes(dice.of(values).as_bytes()).unwrap(),
            );
        }
    }
    request
}

/// Status, fields, and the body, or as much of it as came before it broke off.
struct Seen {
    status: StatusCode,
    fields: HeaderMap,
    body: Vec<u8>,
    is_whole: bool,
}

async fn ask(app: &App, request: Request<Body>) -> Seen {
    let (head, mut body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let mut seen = Seen {
        status: head.status,
        fields: head.headers,
        body: Vec::new(),
        is_whole: true,
    };
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => seen
                .body
                .extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => {
                seen.is_whole = false;
                break;
            }
        }
    }
    seen
}

/// A copy, because a request is asked twice: of the bare origin and of the layer.
fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// The fields that must be the same, sorted by name; the lines of one field keep their order.
fn comparable(seen: &Seen, bare: &HeaderMap, is_stored: bool) -> Vec<(HeaderName, HeaderValue)> {
    const OURS: &[&str] = &["x-cache", "cache-status", "age"];
    // Documented as not stored: what belongs to one exchange or one connection.
    const ONCE: &[&str] = &[
        "x-request-id",
        "server-timing",
        "ratelimit-limit",
        "connection",
        "keep-alive",
    ];
    let nominated: Vec<String> = bare
        .get_all("connection")
        .iter()
        .flat_map(|line| line.to_str().unwrap().split(','))
        .map(|name| name.trim().to_lowercase())
        .collect();
    let mut fields: Vec<_> = seen
        .fields
        .iter()
        .filter(|(name, value)| {
            let name = name.as_str();
            let tagged = name == "etag" && !bare.contains_key(name) && value.as_bytes()[0] == b'W';
            let stamped = name == "date" && !bare.contains_key("date");
            let dropped =
                is_stored && (ONCE.contains(&name) || nominated.iter().any(|n| n == name));
            // Of a whole body the length is known, said or not.
            let counted = is_stored && name == "content-length" && !bare.contains_key(name);
            !OURS.contains(&name) && !stamped && !dropped && !counted && !tagged
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    fields.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    fields
}

async fn compare(
    cache: &Cache,
    clock: &tower_response_cache::ManualClock,
    layer: ResponseCacheLayer,
    seed: u64,
) {
    let origin = Origin::new(|_, request| std::future::ready(handler(&request)));
    let (bare, app) = (origin.service(), origin.behind(&layer));
    let mut dice = Dice(seed);
    for case in 0..CASES {
        let request = random_request(&mut dice);
        if dice.one_in(100) {
            clock.advance(Duration::from_secs(dice.below(8)));
        }
        let sentence = format!(
            "case {case}: {} {} {:?}",
            request.method(),
            request.uri(),
            request.headers()
        );
        let expected = ask(&bare, copy(&request)).await;
        let seen = ask(&app, copy(&request)).await;
        let status = format!(
            "{:?}",
            seen.fields.get_all("cache-status").iter().next_back()
        );
        let said = seen.fields.get("x-cache");
        let is_hit =
            said.is_some_and(|said| said == "HIT" || said == "STALE") && status.contains("; hit");
        let sentence = format!("{sentence}: {status}, bare {:?}", expected.fields);
        assert_eq!(seen.status, expected.status, "{sentence}");
        // Of a body that is shorter than declared nobody can tell more than that it broke off.
        let declared = expected.fields.get("content-length");
        let declared = declared.map(|length| length.to_str().unwrap().parse().unwrap());
        let is_short = request.method() != "HEAD"
            && declared.is_some_and(|length: usize| length > expected.body.len());
        assert!(is_short || seen.is_whole == expected.is_whole, "{sentence}");
        if seen.is_whole {
            let texts = [&seen.body, &expected.body].map(|body| String::from_utf8_lossy(body));
            assert_eq!(texts[0], texts[1], "{sentence}");
        } else {
            assert!(expected.body.starts_with(&seen.body), "{sentence}");
        }
        let is_stored = is_hit || status.contains("collapsed");
        assert_eq!(
            comparable(&seen, &expected.fields, is_stored),
            comparable(&expected, &expected.fields, is_stored),
            "{sentence}"
        );
        let inner: Vec<_> = expected.fields.get_all("cache-status").iter().collect();
        let lines: Vec<_> = seen.fields.get_all("cache-status").iter().collect();
        assert!(lines.starts_with(&inner), "{sentence}");
        if is_hit {
            assert!(!seen.fields.contains_key("set-cookie"), "{sentence}");
            for name in [
                "x-request-id",
                "server-timing",
                "ratelimit-limit",
                "connection",
                "keep-alive",
            ] {
                assert!(!seen.fields.contains_key(name), "{name} of {sentence}");
            }
        }
    }
    let stats = cache.stats();
    assert!(
        stats.hits() > CASES / 20,
        "too few hits to mean much: {stats}"
    );
    assert!(stats.stored() > CASES / 40, "{stats}");
    for reason in [
        Reason::Cookie,
        Reason::Authorization,
        Reason::Credential,
        Reason::RequestNoStore,
    ] {
        assert!(stats.bypasses(reason) > 0, "{reason}: {stats}");
    }
    for reason in [Reason::Status, Reason::Private, Reason::SetCookie] {
        assert!(stats.refusals(reason) > 0, "{reason}: {stats}");
    }
    support::settle().await;
    assert_eq!(cache.stats().flights(), 0);
    assert_eq!(cache.stats().buffered_bytes(), 0);
}

#[tokio::test]
async fn five_thousand_random_requests_are_answered_as_without_the_layer() {
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    compare(&cache, &clock, layer, 1).await;
    assert!(cache.stats().refusals(Reason::BodyError) > 0);
}

#[tokio::test]
async fn so_are_they_where_memory_is_scarce_and_bodies_are_too_long() {
    let clock = tower_response_cache::ManualClock::new();
    let cache = support::builder()
        .clock(clock.clone())
        .memory(128 << 10)
        .build()
        .unwrap();
    let layer = ResponseCacheLayer::new(&cache)
        .max_body_size(1_000)
        .ttl(Duration::from_secs(100))
        .negative_ttl(Duration::from_secs(100));
    compare(&cache, &clock, layer, 2).await;
    assert!(cache.stats().refusals(Reason::BodyTooLarge) > 0);
    assert!(cache.stats().evictions() > 0);
}
