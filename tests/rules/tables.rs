//! Every rule of what is stored and what is shared, as rows of tables, asked through the layer.

use crate::support::{
    self, Answer, App, Origin, cache, request,
    scripted::{detail, response},
    send,
};
use http::Version;
use tower_response_cache::{Reason, ResponseCacheLayer};

type Fields = &'static [(&'static str, &'static str)];

/// What the second of two equal requests finds.
#[derive(Clone, Copy)]
enum Second {
    Hit,
    /// Not a hit, and the first answer says why.
    Not(&'static str),
}
use Second::{Hit, Not};

/// Answers with the number of the call, unless the status has no body.
fn scripted(status: u16, fields: Fields) -> Origin {
    Origin::new(move |call, _| {
        let has_body = ![101, 204, 205, 304].contains(&status);
        let body = if has_body {
            format!("call {call}")
        } else {
            String::new()
        };
        std::future::ready(response(status, fields, body))
    })
}

/// Asks twice; what is wrong with the answers, if anything.
async fn asked_twice(
    asked: Fields,
    status: u16,
    fields: Fields,
    expected: Second,
) -> Result<(), String> {
    let (cache, _clock) = cache();
    let origin = scripted(status, fields);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let first = send(&app, request("GET", "/", asked)).await;
    let entries = cache.stats().entries();
    let second = send(&app, request("GET", "/", asked)).await;
    let seen = format!(
        "first: {:?}, second: {:?}, {} calls",
        first.cache_status(),
        second.cache_status(),
        origin.calls()
    );
    let is_whole = |answer: &Answer, call: usize| {
        answer.status == status
            && (answer.body.is_empty() || answer.text() == format!("call {call}"))
    };
    let is_right = match expected {
        Hit => {
            second.is_hit()
                && origin.calls() == 1
                && entries > 0
                && is_whole(&second, 1)
                && first.cache_status().contains("; stored")
        }
        Not(reason) => {
            !second.is_hit()
                && origin.calls() == 2
                && entries == 0
                && is_whole(&second, 2)
                && detail(&first) == reason
                && !first.cache_status().contains("; stored")
        }
    };
    if is_right && !first.is_hit() && is_whole(&first, 1) {
        Ok(())
    } else {
        Err(seen)
    }
}

fn report(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} rows are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn a_response_is_stored_or_not_as_the_rules_say() {
    #[rustfmt::skip]
    let rows: &[(&str, u16, Fields, Second)] = &[
        // Silent: nothing said about freshness.
        ("silent: 200 lives for the ttl of the layer", 200, &[], Hit),
        ("silent: 203", 203, &[], Hit),
        ("silent: 204", 204, &[], Hit),
        ("silent: 301", 301, &[("location", "/a")], Hit),
        ("silent: 308", 308, &[("location", "/a")], Hit),
        ("silent: 201 is not in the list", 201, &[], Not("silent")),
        ("silent: 202 is not in the list", 202, &[], Not("silent")),
        ("silent: 207 is not in the list", 207, &[], Not("silent")),
        ("silent: 300 is not in the list", 300, &[], Not("silent")),
        ("silent: 302 is not in the list", 302, &[("location", "/a")], Not("silent")),
        ("silent: 303 is not in the list", 303, &[("location", "/a")], Not("silent")),
        ("silent: 307 is not in the list", 307, &[("location", "/a")], Not("silent")),
        ("silent: 404 without negative_ttl", 404, &[], Not("silent")),
        ("silent: 410 without negative_ttl", 410, &[], Not("silent")),
        ("silent: public alone is silent", 200, &[("cache-control", "public")], Hit),
        ("silent: must-revalidate alone is silent", 200, &[("cache-control", "must-revalidate")], Hit),
        ("silent: public does not make a 404 fresh", 404, &[("cache-control", "public")], Not("silent")),
        ("silent: an unknown directive says nothing of freshness", 200, &[("cache-control", "x-y=1")], Hit),

        // Explicit freshness and the statuses that it counts for.
        ("§4.2.1: max-age", 200, &[("cache-control", "max-age=10")], Hit),
        ("§4.2.1: s-maxage", 200, &[("cache-control", "s-maxage=10")], Hit),
        ("§4.2.1: s-maxage wins over max-age=0", 200, &[("cache-control", "max-age=0, s-maxage=10")], Hit),
        ("§4.2.1: s-maxage=0 wins over max-age", 200, &[("cache-control", "max-age=10, s-maxage=0")], Not("stale")),
        ("§4.2.1: max-age wins over Expires in the past", 200, &[("cache-control", "max-age=10"), ("expires", "Thu, 01 Jan 1970 00:00:00 GMT")], Hit),
        ("§4.2.1: max-age=0 wins over Expires", 200, &[("cache-control", "max-age=0"), ("expires", "Thu, 01 Jan 2026 13:00:00 GMT")], Not("stale")),
        ("§5.3: Expires in the future", 200, &[("expires", "Thu, 01 Jan 2026 12:10:00 GMT")], Hit),
        ("§5.3: Expires counts from Date", 200, &[("date", "Thu, 01 Jan 2026 11:59:00 GMT"), ("expires", "Thu, 01 Jan 2026 12:10:00 GMT")], Hit),
        ("§5.3: Expires in the form of RFC 850", 200, &[("expires", "Thursday, 01-Jan-26 12:10:00 GMT")], Hit),
        ("§5.3: Expires in the form of asctime", 200, &[("expires", "Thu Jan  1 12:10:00 2026")], Hit),
        ("§5.3: Expires in the past", 200, &[("expires", "Thu, 01 Jan 2026 11:00:00 GMT")], Not("stale")),
        ("§5.3: Expires at Date", 200, &[("date", "Thu, 01 Jan 2026 12:00:00 GMT"), ("expires", "Thu, 01 Jan 2026 12:00:00 GMT")], Not("stale")),
        ("§5.3: Expires: 0", 200, &[("expires", "0")], Not("stale")),
        ("§5.3: Expires that is no date", 200, &[("expires", "tomorrow")], Not("stale")),
        ("§5.3: an empty Expires", 200, &[("expires", "")], Not("stale")),
        ("§5.2.2.1: max-age=0", 200, &[("cache-control", "max-age=0")], Not("stale")),
        ("§1.2.2: a number without end is very long", 200, &[("cache-control", "max-age=99999999999999999999999")], Hit),
        ("§5.1: an Age below the lifetime", 200, &[("age", "9"), ("cache-control", "max-age=10")], Hit),
        ("§5.1: an Age at the lifetime", 200, &[("age", "10"), ("cache-control", "max-age=10")], Not("stale")),
        ("§5.1: an Age above the lifetime", 200, &[("age", "11"), ("cache-control", "max-age=10")], Not("stale")),
        ("§4.2.3: a Date of long ago is an age", 200, &[("date", "Thu, 01 Jan 2026 11:00:00 GMT"), ("cache-control", "max-age=60")], Not("stale")),
        ("explicit: 201", 201, &[("cache-control", "max-age=10")], Hit),
        ("explicit: 202", 202, &[("cache-control", "max-age=10")], Hit),
        ("explicit: 299, any 2xx", 299, &[("cache-control", "max-age=10")], Hit),
        ("§5.2.2.3: a status that must be understood, and is not", 299, &[("cache-control", "must-understand, max-age=10")], Not("status")),
        ("explicit: 300", 300, &[("cache-control", "max-age=10")], Hit),
        ("explicit: 301", 301, &[("cache-control", "max-age=10")], Hit),
        ("explicit: 302", 302, &[("cache-control", "max-age=10")], Hit),
        ("explicit: 303", 303, &[("cache-control", "max-age=10")], Hit),
        ("explicit: 307", 307, &[("expires", "Thu, 01 Jan 2026 12:10:00 GMT")], Hit),
        ("explicit: 308", 308, &[("cache-control", "s-maxage=10")], Hit),
        ("explicit: 404", 404, &[("cache-control", "max-age=10")], Hit),
        ("explicit: 410", 410, &[("cache-control", "max-age=10")], Hit),
        ("explicit: 206 is never a full response (§3.3)", 206, &[("cache-control", "max-age=10"), ("content-range", "bytes 0-5/9")], Not("status")),
        ("explicit: 304 only freshens", 304, &[("cache-control", "max-age=10")], Not("status")),
        ("explicit: 309 is above the list", 309, &[("cache-control", "max-age=10")], Not("status")),
        ("explicit: a blanket field does not share a 400", 400, &[("cache-control", "public, max-age=10")], Not("status")),
        ("explicit: a blanket field does not share a 401", 401, &[("cache-control", "public, max-age=10")], Not("status")),
        ("explicit: a blanket field does not share a 403", 403, &[("cache-control", "public, max-age=10")], Not("status")),
        ("explicit: a blanket field does not share a 405", 405, &[("cache-control", "max-age=10")], Not("status")),
        ("explicit: a blanket field does not share a 414", 414, &[("cache-control", "max-age=10")], Not("status")),
        ("explicit: a blanket field does not share a 429", 429, &[("cache-control", "max-age=10")], Not("status")),
        ("explicit: a blanket field does not share a 500", 500, &[("cache-control", "max-age=10")], Not("status")),
        ("explicit: a blanket field does not share a 501", 501, &[("cache-control", "max-age=10")], Not("status")),
        ("explicit: a blanket field does not share a 503", 503, &[("cache-control", "s-maxage=10")], Not("status")),
        ("an unknown status is not stored", 799, &[("cache-control", "max-age=10")], Not("status")),
        ("silent: 206", 206, &[], Not("status")),
        ("silent: 304", 304, &[], Not("status")),
        ("silent: 401", 401, &[], Not("status")),
        ("silent: 500", 500, &[], Not("status")),

        // What forbids.
        ("§5.2.2.5: no-store", 200, &[("cache-control", "no-store")], Not("no-store")),
        ("§5.2.2.5: no-store beside max-age", 200, &[("cache-control", "no-store, max-age=10")], Not("no-store")),
        ("§5.2.2.3: must-understand lifts no no-store here", 200, &[("cache-control", "must-understand, no-store, max-age=10")], Not("no-store")),
        ("§5.2.2.7: private", 200, &[("cache-control", "private, max-age=10")], Not("private")),
        ("§5.2.2.7: private wins over public", 200, &[("cache-control", "public, private, s-maxage=10")], Not("private")),
        ("§5.2.2.7: private=\"f\" counts as private", 200, &[("cache-control", "private=\"x-user\", max-age=10")], Not("private")),
        ("§5.2.2.4: no-cache", 200, &[("cache-control", "no-cache")], Not("no-cache")),
        ("§5.2.2.4: no-cache wins over max-age", 200, &[("cache-control", "max-age=10, no-cache")], Not("no-cache")),
        ("§5.2.2.4: no-cache=\"f\" counts as no-cache", 200, &[("cache-control", "no-cache=\"x-user\", max-age=10")], Not("no-cache")),
        ("Set-Cookie, silent", 200, &[("set-cookie", "a=b")], Not("set-cookie")),
        ("Set-Cookie, explicit", 200, &[("set-cookie", "a=b"), ("cache-control", "public, max-age=10")], Not("set-cookie")),
        ("Set-Cookie, empty", 200, &[("set-cookie", "")], Not("set-cookie")),
        ("§5.4: Pragma means nothing in a response", 200, &[("pragma", "no-cache")], Hit),

        // Vary, said and unsaid.
        ("§4.1: Vary", 200, &[("vary", "accept")], Hit),
        ("§4.1: an empty Vary", 200, &[("vary", "")], Hit),
        ("§4.1: Vary: *", 200, &[("vary", "*"), ("cache-control", "max-age=10")], Not("vary-any")),
        ("§4.1: Vary: * among names", 200, &[("vary", "accept"), ("vary", "x-a, *")], Not("vary-any")),
        ("Vary: Cookie, undeclared", 200, &[("vary", "Cookie")], Not("vary-credential")),
        ("Vary: Cookie, undeclared, explicit", 200, &[("vary", "accept, COOKIE"), ("cache-control", "public, max-age=10")], Not("vary-credential")),
        ("Vary: Authorization", 200, &[("vary", "authorization"), ("cache-control", "max-age=10")], Not("vary-credential")),
        ("unsaid Vary: everybody's CORS", 200, &[("access-control-allow-origin", "*")], Hit),
        ("unsaid Vary: somebody's CORS", 200, &[("access-control-allow-origin", "https://a.example")], Hit),
        ("unsaid Vary: CORS with credentials", 200, &[("access-control-allow-origin", "https://a.example"), ("access-control-allow-credentials", "true")], Not("cors-credentials")),
        ("unsaid Vary: CORS with credentials, explicit", 200, &[("access-control-allow-origin", "https://a.example"), ("access-control-allow-credentials", "true"), ("cache-control", "max-age=10")], Not("cors-credentials")),
        ("unsaid Vary: an encoding", 200, &[("content-encoding", "gzip")], Hit),
        ("unsaid Vary: a language", 200, &[("content-language", "de")], Hit),
        ("a nonce, silent", 200, &[("content-security-policy", "script-src 'nonce-abc'")], Not("csp-nonce")),
        ("a nonce on the second line, silent", 200, &[("content-security-policy", "img-src *"), ("content-security-policy", "script-src 'NONCE-abc'")], Not("csp-nonce")),
        ("a nonce, public alone is silent", 200, &[("cache-control", "public"), ("content-security-policy", "script-src 'nonce-abc'")], Not("csp-nonce")),
        ("a nonce, explicit", 200, &[("content-security-policy", "script-src 'nonce-abc'"), ("cache-control", "max-age=10")], Hit),
        ("a policy without a nonce", 200, &[("content-security-policy", "script-src 'self'")], Hit),

        // Streams.
        ("events", 200, &[("content-type", "text/event-stream")], Not("stream")),
        ("events, with a parameter and in another case", 200, &[("content-type", "Text/Event-Stream; charset=utf-8"), ("cache-control", "max-age=10")], Not("stream")),
        ("gRPC", 200, &[("content-type", "application/grpc")], Not("stream")),
        ("gRPC with a codec", 200, &[("content-type", "application/grpc+proto"), ("cache-control", "max-age=10")], Not("stream")),
        ("pictures that replace each other", 200, &[("content-type", "multipart/x-mixed-replace; boundary=a")], Not("stream")),
        ("other multiparts", 200, &[("content-type", "multipart/related; boundary=a")], Hit),
        ("a name that only starts like it", 200, &[("content-type", "text/event-streaming")], Hit),
        ("upgrades", 101, &[("upgrade", "x"), ("cache-control", "max-age=10")], Not("stream")),
    ];
    let mut wrong = Vec::new();
    for (sentence, status, fields, expected) in rows {
        if let Err(seen) = asked_twice(&[], *status, fields, *expected).await {
            wrong.push(format!("{sentence}: {status} {fields:?}: {seen}"));
        }
    }
    report(&wrong);
}

const PUBLIC: Fields = &[("cache-control", "public, max-age=10")];
const MAX_AGE: Fields = &[("cache-control", "max-age=10")];

#[tokio::test]
async fn a_request_shares_or_not_as_the_rules_say() {
    #[rustfmt::skip]
    let rows: &[(&str, Fields, Fields, Second)] = &[
        ("§3.5: Authorization", &[("authorization", "a")], &[], Not("authorization")),
        ("§3.5: Authorization and max-age", &[("authorization", "a")], MAX_AGE, Not("authorization")),
        ("§3.5: Authorization and public", &[("authorization", "a")], PUBLIC, Hit),
        ("§3.5: Authorization and public alone", &[("authorization", "a")], &[("cache-control", "public")], Hit),
        ("§3.5: Authorization and s-maxage", &[("authorization", "a")], &[("cache-control", "s-maxage=10")], Hit),
        ("§3.5: Authorization and must-revalidate", &[("authorization", "a")], &[("cache-control", "max-age=10, must-revalidate")], Hit),
        ("§3.5: Authorization and proxy-revalidate", &[("authorization", "a")], &[("cache-control", "max-age=10, proxy-revalidate")], Not("authorization")),
        ("§3.5: an empty Authorization", &[("authorization", "")], &[], Not("authorization")),
        ("Cookie", &[("cookie", "a=b")], &[], Not("cookie")),
        ("Cookie and max-age", &[("cookie", "a=b")], MAX_AGE, Not("cookie")),
        ("Cookie and public", &[("cookie", "a=b")], PUBLIC, Hit),
        ("Cookie and s-maxage", &[("cookie", "a=b")], &[("cache-control", "s-maxage=10")], Hit),
        ("Cookie and must-revalidate", &[("cookie", "a=b")], &[("cache-control", "max-age=10, must-revalidate")], Not("cookie")),
        ("Cookie and private", &[("cookie", "a=b")], &[("cache-control", "private, public")], Not("cookie")),
        ("a credential", &[("x-api-key", "a")], MAX_AGE, Not("credential")),
        ("a credential and public", &[("x-api-key", "a")], PUBLIC, Hit),
        ("a credential and s-maxage", &[("x-forwarded-user", "a")], &[("cache-control", "s-maxage=10")], Hit),
        ("a credential and must-revalidate", &[("x-api-key", "a")], &[("cache-control", "max-age=10, must-revalidate")], Not("credential")),
        ("a field that is like a credential", &[("x-api-keys", "a")], &[], Hit),
        ("a client's address identifies nobody", &[("x-forwarded-for", "192.0.2.1")], &[], Hit),
        ("a request field that no rule names", &[("x-other", "a")], &[], Hit),

        ("§5.2.1.5: no-store", &[("cache-control", "no-store")], &[], Not("request-no-store")),
        ("§5.2.1.5: No-Store on the second line", &[("cache-control", "max-age=5"), ("cache-control", "a=\"b\", No-Store")], PUBLIC, Not("request-no-store")),
        ("§5.2.1.5: no-store in quotes", &[("cache-control", "a=\"no-store\"")], &[], Hit),
        ("§5.2.1.1: max-age of a request is not honoured", &[("cache-control", "max-age=0")], &[], Hit),
        ("§5.2.1.3: min-fresh is not honoured", &[("cache-control", "min-fresh=1000")], &[], Hit),
        ("§5.2.1.6: no-transform", &[("cache-control", "no-transform")], &[], Hit),
        ("§5.4: Pragma is not honoured", &[("pragma", "no-cache")], &[], Hit),
        ("an unknown directive of a request", &[("cache-control", "x-y=\"z\"")], &[], Hit),

        ("a request body by its length", &[("content-length", "3")], &[], Not("request-body")),
        ("a request body by its coding", &[("transfer-encoding", "chunked")], PUBLIC, Not("request-body")),
        ("no request body by its length", &[("content-length", "0")], &[], Hit),
        ("an upgrade", &[("connection", "upgrade"), ("upgrade", "websocket")], &[], Not("upgrade")),
        ("several hosts", &[("host", "a"), ("host", "b")], &[], Not("host-conflict")),
        ("the same host twice", &[("host", "a"), ("host", "a")], &[], Not("host-conflict")),
        ("no range unit is stored", &[("range", "bytes=0-1")], &[], Not("range")),
        ("If-None-Match on a miss", &[("if-none-match", "\"a\"")], &[], Hit),
        ("If-Modified-Since on a miss", &[("if-modified-since", "Thu, 01 Jan 2026 11:00:00 GMT")], &[], Hit),
        ("If-Match on a miss", &[("if-match", "\"a\"")], &[], Not("conditional")),
        ("If-Unmodified-Since on a miss", &[("if-unmodified-since", "Thu, 01 Jan 2026 11:00:00 GMT")], &[], Not("conditional")),
    ];
    let mut wrong = Vec::new();
    for (sentence, asked, fields, expected) in rows {
        if let Err(seen) = asked_twice(asked, 200, fields, *expected).await {
            wrong.push(format!("{sentence}: {asked:?} {fields:?}: {seen}"));
        }
    }
    report(&wrong);
}

/// A nobody fills, a somebody asks: may they reuse what is stored?
#[tokio::test]
async fn what_was_stored_for_nobody_is_reused_for_somebody_only_where_it_says_so() {
    const SOMEBODY: [(Fields, &str); 3] = [
        (&[("authorization", "a")], "authorization"),
        (&[("cookie", "a=b")], "cookie"),
        (&[("x-auth-token", "a")], "credential"),
    ];
    #[rustfmt::skip]
    let rows: [(Fields, [bool; 3]); 6] = [
        (&[], [false; 3]),
        (MAX_AGE, [false; 3]),
        (&[("expires", "Thu, 01 Jan 2026 12:10:00 GMT")], [false; 3]),
        (PUBLIC, [true; 3]),
        (&[("cache-control", "s-maxage=10")], [true; 3]),
        (&[("cache-control", "max-age=10, must-revalidate")], [true, false, false]),
    ];
    for (fields, may) in rows {
        for ((asked, reason), may) in SOMEBODY.iter().zip(may) {
            let (cache, _clock) = cache();
            let origin = scripted(200, fields);
            let app: App = origin.behind(&ResponseCacheLayer::new(&cache));
            send(&app, request("GET", "/", &[])).await;
            let answer = send(&app, request("GET", "/", asked)).await;
            assert_eq!(answer.is_hit(), may, "{fields:?} {asked:?}");
            if !may {
                assert_eq!(answer.x_cache(), "BYPASS");
                assert!(answer.cache_status().contains("fwd=bypass"));
                assert_eq!(&detail(&answer), reason);
                assert_eq!(answer.text(), "call 2");
            }
            assert!(
                send(&app, request("GET", "/", &[])).await.is_hit(),
                "nobody still hits"
            );
        }
    }
}

#[tokio::test]
async fn over_http_2_a_body_is_judged_by_itself() {
    use axum::body::Body;
    let (cache, _clock) = cache();
    let origin = scripted(200, &[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let asked = |body: Body| {
        let mut asked = request("GET", "http://test/", &[]);
        *asked.version_mut() = Version::HTTP_2;
        *asked.body_mut() = body;
        asked
    };
    let with_body = send(&app, asked(Body::from("a query"))).await;
    assert_eq!(detail(&with_body), "request-body");
    assert_eq!(with_body.x_cache(), "BYPASS");
    assert!(!send(&app, asked(Body::empty())).await.is_hit());
    assert!(send(&app, asked(Body::empty())).await.is_hit());
    assert_eq!(origin.calls(), 2);
}

/// A middleware that re-wraps bodies hides the end of an empty one; HTTP/1 says in its fields that
/// there is none.
#[tokio::test]
async fn a_body_that_was_wrapped_again_is_not_a_body() {
    let (cache, _clock) = cache();
    let origin = scripted(200, &[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for is_hit in [false, true] {
        let mut asked = request("GET", "/", &[]);
        *asked.body_mut() = support::scripted::in_frames(vec![]);
        assert_eq!(send(&app, asked).await.is_hit(), is_hit);
    }
}

#[tokio::test]
async fn a_head_or_a_key_over_the_limit_is_passed_through() {
    let (cache, _clock) = cache();
    let many = |count: usize, length: usize| {
        Origin::new(move |call, _| {
            let mut answer = response(200, &[], format!("call {call}"));
            for i in 0..count {
                let name: http::HeaderName = format!("x-field-{i}").parse().unwrap();
                answer
                    .headers_mut()
                    .insert(name, "v".repeat(length).parse().unwrap());
            }
            std::future::ready(answer)
        })
    };
    for (count, length, is_stored) in [
        (120, 10, true),
        (129, 10, false),
        (1, 60_000, true),
        (1, 66_000, false),
        (100, 700, false),
    ] {
        cache.invalidate(tower_response_cache::Selector::all());
        let origin = many(count, length);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let first = send(&app, request("GET", "/", &[])).await;
        assert_eq!(
            first
                .headers
                .keys()
                .filter(|n| n.as_str().starts_with("x-field"))
                .count(),
            count
        );
        let second = send(&app, request("GET", "/", &[])).await;
        assert_eq!(
            second.is_hit(),
            is_stored,
            "{count} fields of {length} bytes"
        );
        if !is_stored {
            assert_eq!(detail(&first), "head-too-large");
        }
    }
    let origin = scripted(200, &[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for (length, is_stored) in [(7_000, true), (8_300, false)] {
        let path = format!("/{}", "p".repeat(length));
        let first = send(&app, request("GET", &path, &[])).await;
        assert_eq!(
            send(&app, request("GET", &path, &[])).await.is_hit(),
            is_stored
        );
        if !is_stored {
            assert_eq!(
                (first.x_cache(), &*detail(&first)),
                ("BYPASS", "key-too-long")
            );
            assert_eq!(cache.stats().bypasses(Reason::KeyTooLong), 2);
        }
    }
}
