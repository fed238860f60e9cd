//! Every field that rules read, with whatever bytes: an answer as without the layer, or by the stricter
//! reading.

use crate::support::{App, Origin, cache, request, scripted::response};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_response_cache::{ResponseCacheLayer, Selector};

const RESPONSE_FIELDS: &[&str] = &[
    "cache-control",
    "expires",
    "date",
    "age",
    "vary",
    "pragma",
    "etag",
    "last-modified",
    "accept-ranges",
    "cdn-cache-control",
    "surrogate-control",
    "cache-groups",
    "cache-group-invalidation",
    "no-vary-search",
    "cache-status",
    "content-length",
];

const REQUEST_FIELDS: &[&str] = &[
    "cache-control",
    "pragma",
    "if-none-match",
    "if-modified-since",
    "range",
    "if-range",
];

/// What the fields may say, so that what is made of it comes further than noise.
const KNOWN: &[&str] = &[
    "max-age=60",
    "s-maxage=60, public",
    "no-store",
    "private=\"a\"",
    "no-cache",
    "only-if-cached",
    "max-age=0, min-fresh=9, max-stale",
    "Thu, 01 Jan 2026 12:00:00 GMT",
    "Fri, 31 Dec 2027 23:59:59 GMT",
    "Thursday, 01-Jan-26 12:00:00 GMT",
    "Thu Jan  1 12:00:00 2026",
    "0",
    "3",
    "4",
    "99999999999999999999",
    "-1",
    "accept, accept-encoding",
    "*",
    "\"v1\"",
    "W/\"v1\", \"v2\"",
    "\"v\\\"",
    "bytes=0-1",
    "bytes=2-,0-0",
    "bytes=-2",
    "bytes=10-",
    "none",
    "\"scripts\", \"styles\"",
    "key-order, params=(\"a\" \"b\")",
    "params, except=(\"id\")",
    "inner; hit; ttl=9, other; fwd=miss",
];

/// SplitMix64: the same sequence on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// Any bytes that a value may have.
    fn noise(&mut self, longest: usize) -> Vec<u8> {
        let length = self.below(longest + 1);
        let byte = |dice: &mut Self| match dice.below(4) {
            0 => b"\",=;()*\\-'\t "[dice.below(12)],
            1 => 0x80 + dice.below(0x80) as u8,
            _ => 0x20 + dice.below(0x5f) as u8,
        };
        (0..length).map(|_| byte(self)).collect()
    }

    /// Something known, damaged or not, or noise.
    fn value(&mut self) -> Vec<u8> {
        let mut value = self.of(KNOWN).as_bytes().to_vec();
        match self.below(5) {
            0 => {}
            1 => value = self.noise(30),
            2 => {
                let at = self.below(value.len());
                value[at] = b"\",=;()*\\-' \xe9"[self.below(12)];
            }
            3 => {
                let at = self.below(value.len() + 1);
                value.splice(at..at, self.noise(4));
            }
            _ => {
                value.extend_from_slice(self.of(&[", ", "; ", " ", ",\t,"]).as_bytes());
                value.extend_from_slice(self.of(KNOWN).as_bytes());
            }
        }
        value
    }

    /// A line that a request field is made for, damaged or not.
    fn fitting(&mut self, name: &str) -> HeaderValue {
        let fits = |known: &&&str| match name {
            "range" => known.starts_with("bytes="),
            "if-none-match" | "if-range" => known.contains("\"v") || **known == "*",
            "if-modified-since" => known.contains(':'),
            _ => known.contains("max-") || known.contains("only-") || known.contains("no-"),
        };
        let fitting: Vec<&str> = KNOWN.iter().filter(fits).copied().collect();
        let mut value = self.of(&fitting).as_bytes().to_vec();
        if self.below(2) == 0 {
            let at = self.below(value.len());
            value[at] = b"\",=0123-' \xe9"[self.below(11)];
        }
        HeaderValue::from_bytes(&value).unwrap()
    }

    /// The lines of one field: one or two, one of 64 KiB, or two hundred.
    fn lines(&mut self) -> Vec<HeaderValue> {
        let lines = match self.below(100) {
            0..90 => (0..=self.below(2)).map(|_| self.value()).collect(),
            90..95 => {
                let mut piece = self.value();
                piece.extend_from_slice(self.of(&["", ",", ";", " "]).as_bytes());
                piece.push(b'-');
                vec![piece.repeat((64 << 10) / piece.len())]
            }
            95..98 => vec![self.value(); 200],
            _ => (0..200).map(|_| self.value()).collect::<Vec<_>>(),
        };
        lines
            .iter()
            .map(|line| HeaderValue::from_bytes(line).unwrap())
            .collect()
    }
}

/// Status, fields, and the body, or as much of it as came before it broke off.
#[derive(Debug)]
struct Seen {
    status: StatusCode,
    fields: HeaderMap,
    body: Vec<u8>,
    is_whole: bool,
}

impl Seen {
    fn is_hit(&self) -> bool {
        self.fields.get("x-cache").is_some_and(|said| said == "HIT")
    }
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
        let Ok(frame) = frame else {
            seen.is_whole = false;
            break;
        };
        seen.body
            .extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    seen
}

/// As much of some lines as one wants to read.
fn short(name: &str, lines: &[HeaderValue]) -> String {
    let some = lines.iter().take(3);
    let some: Vec<_> = some
        .map(|line| Bytes::copy_from_slice(&line.as_bytes()[..line.len().min(80)]))
        .collect();
    format!("{name}: {} lines, {some:?}", lines.len())
}

/// An origin that answers each path with the next of these lines.
fn origin_of(name: &'static str, lines: &[HeaderValue], rest: &[(&str, &str)]) -> Origin {
    let mut head = response(200, rest, Body::empty());
    for line in lines {
        head.headers_mut().append(name, line.clone());
    }
    let head = head.headers().clone();
    Origin::new(move |_, _| {
        let mut answer = Response::new(Body::from("page"));
        *answer.headers_mut() = head.clone();
        std::future::ready(answer)
    })
}

#[tokio::test]
async fn responses_with_any_fields_are_answered_as_without_the_layer() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let mut dice = Dice(1);
    let mut hits = 0;
    for name in RESPONSE_FIELDS {
        for case in 0..300 {
            let lines = dice.lines();
            let rest: &[(&str, &str)] = match dice.below(3) {
                0 => &[("cache-control", "max-age=60")],
                1 => &[("expires", "Fri, 31 Dec 2027 23:59:59 GMT")],
                _ => &[],
            };
            let origin = origin_of(name, &lines, rest);
            let sentence = format!("case {case}: {} beside {rest:?}", short(name, &lines));
            let expected = ask(&origin.service(), request("GET", "/", &[])).await;
            let app = origin.behind(&layer);
            for _ in 0..2 {
                let seen = ask(&app, request("GET", "/", &[])).await;
                assert_eq!(seen.status, 200, "{sentence}");
                assert!(expected.body.starts_with(&seen.body), "{sentence}");
                // A body that is not as long as declared is no whole body to anybody.
                let is_short = *name == "content-length" && !seen.is_hit();
                assert!(seen.is_whole || is_short, "{sentence}");
                assert!(
                    !seen.is_whole || seen.body == expected.body,
                    "{sentence}: {seen:?}"
                );
                hits += u32::from(seen.is_hit());
                let inner = expected.fields.get_all("cache-status").iter();
                let status: Vec<_> = seen.fields.get_all("cache-status").iter().collect();
                assert!(status.starts_with(&inner.collect::<Vec<_>>()), "{sentence}");
                for field in expected.fields.keys() {
                    // On a hit the age is what it is by now; our own member comes last.
                    if field != "cache-status" && !(field == "age" && seen.is_hit()) {
                        let same = (seen.fields.get_all(field).iter())
                            .eq(expected.fields.get_all(field).iter());
                        assert!(same, "{field} of {sentence}: {seen:?}");
                    }
                }
            }
            cache.invalidate(Selector::all());
        }
    }
    assert!(hits > 500, "{hits}");
    assert_eq!(cache.stats().flights(), 0);
}

/// Whether a word is in a line, in any case.
fn has_word(line: &[u8], word: &str) -> bool {
    line.windows(word.len())
        .any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

#[tokio::test]
async fn what_the_stricter_reading_forbids_is_not_stored() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let mut dice = Dice(2);
    // A field, and a line of it that forbids storing in whatever company.
    let forbidding: &[(&str, &[&str])] = &[
        (
            "cache-control",
            &[
                "no-store",
                "Private",
                "x, no-cache",
                "no-store=x",
                "max-age=0, s-maxage=0",
                "max-age=x, s-maxage=x",
                "'no-store'",
                "private; max-age=60",
                "max-age=60, x=\"open",
            ],
        ),
        ("vary", &["*", "accept, *", " *;x", "\"", "a b", "cookie"]),
        (
            "date",
            &[
                "Wed, 01 Jan 2020 12:00:00 GMT",
                "Wednesday, 01-Jan-20 12:00:00 GMT",
            ],
        ),
        (
            "content-length",
            &["5, 4", "x", "", "-4", "4.0", "99999999999999999999"],
        ),
    ];
    for (name, forbidding) in forbidding {
        for case in 0..300 {
            let mut lines = dice.lines();
            if lines.len() > 100 {
                // Not for the number of its lines is it to be refused.
                lines.truncate(3);
            }
            let line = HeaderValue::from_static(dice.of(forbidding));
            lines.insert(dice.below(lines.len() + 1), line);
            let rest: &[(&str, &str)] = match *name {
                "cache-control" | "date" => &[],
                _ => &[("cache-control", "max-age=60")],
            };
            let origin = origin_of(name, &lines, rest);
            let sentence = format!("case {case}: {}", short(name, &lines));
            let app = origin.behind(&layer);
            for calls in 1..=2 {
                let seen = ask(&app, request("GET", "/", &[])).await;
                assert!(!seen.is_hit(), "{sentence}: {seen:?}");
                assert_eq!(origin.calls(), calls, "{sentence}");
                assert!(b"page".starts_with(&seen.body[..]), "{sentence}");
            }
        }
    }
    // What is no date is past, whatever it is (RFC 9111, 5.3).
    for case in 0..300 {
        let mut line = dice.value();
        if line.len() > 20 && line.contains(&b':') {
            line = dice.noise(20);
        }
        let line = [HeaderValue::from_bytes(&line).unwrap()];
        let origin = origin_of("expires", &line, &[]);
        let app = origin.behind(&layer);
        for _ in 0..2 {
            let seen = ask(&app, request("GET", "/", &[])).await;
            assert!(!seen.is_hit(), "case {case}: {}", short("expires", &line));
        }
    }
    assert_eq!(cache.stats().stored(), 0);
}

const PAGE: &[u8] = b"0123456789";
const STORED: &[(&str, &str)] = &[
    ("cache-control", "max-age=600"),
    ("etag", "\"v1\""),
    ("last-modified", "Thu, 01 Jan 2026 10:00:00 GMT"),
    ("date", "Thu, 01 Jan 2026 12:00:00 GMT"),
];

/// The parts that an answer of 206 says it has: where each begins and ends, and its bytes.
fn parts(seen: &Seen) -> Vec<(usize, usize, Vec<u8>)> {
    let range = |text: &str| -> (usize, usize) {
        let text = text.strip_prefix("bytes ").unwrap();
        let (range, length) = text.split_once('/').unwrap();
        assert_eq!(length, "10");
        let (first, last) = range.split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    };
    if let Some(said) = seen.fields.get("content-range") {
        let (first, last) = range(said.to_str().unwrap());
        return vec![(first, last, seen.body.clone())];
    }
    let text = std::str::from_utf8(&seen.body).unwrap();
    let mut parts = Vec::new();
    for part in text
        .split("\r\n--")
        .filter(|part| part.contains("\r\n\r\n"))
    {
        let (head, body) = part.split_once("\r\n\r\n").unwrap();
        let said = head
            .lines()
            .find_map(|line| line.split_once(": "))
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-range"));
        let (first, last) = range(said.unwrap().1);
        parts.push((first, last, body.as_bytes().to_vec()));
    }
    parts
}

#[tokio::test]
async fn requests_with_any_fields_are_answered_as_without_the_layer_or_by_what_they_say() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let origin = Origin::new(|_, _| std::future::ready(response(200, STORED, Body::from(PAGE))));
    let app = origin.behind(&layer);
    let mut dice = Dice(3);
    let mut answers = [0; 5];
    for case in 0..10_000 {
        let mut asked = request("GET", "/", &[]);
        let mut sentence = format!("case {case}");
        for _ in 0..=dice.below(2) {
            let name = HeaderName::from_static(dice.of(REQUEST_FIELDS));
            let lines = match dice.below(2) {
                0 => dice.lines(),
                _ => vec![dice.fitting(name.as_str())],
            };
            sentence = format!("{sentence}: {}", short(name.as_str(), &lines));
            for line in lines {
                asked.headers_mut().append(&name, line);
            }
        }
        let fields = asked.headers().clone();
        let lines = |name: &str| {
            let lines = fields.get_all(name).iter();
            lines.map(HeaderValue::as_bytes).collect::<Vec<_>>()
        };
        if dice.below(4) == 0 {
            cache.invalidate(Selector::all());
        }
        let seen = ask(&app, asked).await;
        let sentence = format!("{sentence}: {} {:?}", seen.status, seen.fields);
        assert!(seen.is_whole, "{sentence}");
        match seen.status.as_u16() {
            200 => {
                answers[0] += 1;
                assert_eq!(seen.body, PAGE, "{sentence}");
            }
            206 => {
                answers[1] += 1;
                assert_eq!(lines("range").len(), 1, "{sentence}");
                assert!(has_word(lines("range")[0], "bytes="), "{sentence}");
                let parts = parts(&seen);
                assert!(!parts.is_empty(), "{sentence}");
                for (first, last, body) in parts {
                    assert_eq!(&PAGE[first..=last], body, "{sentence}");
                }
                let condition = lines("if-range");
                let is_that = |line: &&[u8]| line.trim_ascii() == b"\"v1\"";
                // The date of last change is among none of the values.
                assert!(condition.iter().all(is_that), "{sentence}");
            }
            304 => {
                answers[2] += 1;
                assert_eq!(seen.body, b"", "{sentence}");
                let tags = lines("if-none-match");
                let is_star = tags.len() == 1 && tags[0].trim_ascii() == b"*";
                let is_tag = tags.iter().any(|line| has_word(line, "\"v1\""));
                let is_date = tags.is_empty()
                    && lines("if-modified-since").len() == 1
                    && has_word(lines("if-modified-since")[0], ":");
                assert!(is_star || is_tag || is_date, "{sentence}");
            }
            416 => {
                answers[3] += 1;
                assert!(has_word(lines("range")[0], "bytes="), "{sentence}");
            }
            504 => {
                answers[4] += 1;
                let is_said = |line: &&[u8]| has_word(line, "only-if-cached");
                assert!(lines("cache-control").iter().any(is_said), "{sentence}");
            }
            _ => panic!("{sentence}"),
        }
    }
    assert!(answers.iter().all(|times| *times > 15), "{answers:?}");
    assert_eq!(cache.stats().flights(), 0);
}
