use super::*;
use crate::policy::testing::{Random, headers, now};

type Lines<'a> = &'a [(&'a str, &'a str)];

/// A request and the layer it came to.
#[derive(Clone)]
struct Case {
    settings: StoringSettings,
    request: HeaderMap,
    personal: Option<Reason>,
    partitioned: bool,
    policy: Option<CachePolicy>,
    delay: Duration,
}

impl Case {
    fn new() -> Self {
        Self {
            settings: StoringSettings::default(),
            request: HeaderMap::new(),
            personal: None,
            partitioned: false,
            policy: None,
            delay: Duration::ZERO,
        }
    }

    fn personal(reason: Reason, request: Lines<'_>) -> Self {
        Self {
            personal: Some(reason),
            request: headers(request),
            ..Self::new()
        }
    }

    fn policy(policy: CachePolicy) -> Self {
        Self {
            policy: Some(policy),
            ..Self::new()
        }
    }

    fn decide_on(&self, status: u16, response: &HeaderMap) -> Decision {
        let facts = RequestFacts {
            headers: &self.request,
            authorization: self.request.contains_key(AUTHORIZATION),
            personal: self.personal,
            partitioned: self.partitioned,
            is_credential: &|name| name == "x-api-key" || name == "authorization",
        };
        let status = StatusCode::from_u16(status).expect("a test gives statuses");
        decide(
            &self.settings,
            &facts,
            status,
            response,
            self.policy.as_ref(),
            now() - self.delay,
            now(),
        )
    }

    fn decide(&self, status: u16, response: Lines<'_>) -> Decision {
        self.decide_on(status, &headers(response))
    }

    /// Each row against a 200: the seconds that it is stored for, or the reason why not.
    fn check(&self, rows: &[(&str, Lines<'_>, Result<u64, Reason>)]) {
        for (sentence, response, expected) in rows {
            assert_eq!(stored(self.decide(200, response)), *expected, "{sentence}");
        }
    }
}

fn stored(decision: Decision) -> Result<u64, Reason> {
    match decision {
        Decision::Store(plan) => Ok(plan.freshness.lifetime.as_secs()),
        Decision::ShareOnly(plan) => panic!("only shared: {plan:?}"),
        Decision::Refuse(reason) => Err(reason),
    }
}

#[test]
fn what_forbids_storing_wins_over_every_setting_and_over_the_handler() {
    #[rustfmt::skip]
    let rows: &[(&str, Lines<'_>, Result<u64, Reason>)] = &[
        ("§5.2.2.5 no-store", &[("cache-control", "no-store")], Err(Reason::NoStore)),
        ("§5.2.2.5 no-store with max-age", &[("cache-control", "max-age=9, No-Store")], Err(Reason::NoStore)),
        ("§5.2.2.5 on a second line", &[("cache-control", "public"), ("cache-control", "no-store")], Err(Reason::NoStore)),
        ("§5.2.2.3 no-store with must-understand", &[("cache-control", "must-understand, no-store, max-age=9")], Err(Reason::NoStore)),
        ("§5.2.2.7 private", &[("cache-control", "private")], Err(Reason::Private)),
        ("§5.2.2.7 private with public", &[("cache-control", "private, public, s-maxage=9")], Err(Reason::Private)),
        ("§5.2.2.7 qualified private", &[("cache-control", "max-age=9, private=\"x-user\"")], Err(Reason::Private)),
        ("Set-Cookie", &[("set-cookie", "a=b"), ("cache-control", "public, max-age=9")], Err(Reason::SetCookie)),
        ("Set-Cookie, empty", &[("set-cookie", "")], Err(Reason::SetCookie)),
        ("Connection: Set-Cookie hides nothing", &[("connection", "Set-Cookie"), ("set-cookie", "a=b"), ("cache-control", "max-age=9")], Err(Reason::SetCookie)),
        ("Connection: Cache-Control is no word to keep", &[("connection", "close, cache-control"), ("cache-control", "max-age=9")], Err(Reason::Stale)),
        ("Connection: Expires likewise", &[("connection", "expires"), ("expires", "{+9}"), ("cache-control", "max-age=9")], Err(Reason::Stale)),
        ("Connection: Cache-Control hides nothing", &[("connection", "cache-control"), ("cache-control", "no-store")], Err(Reason::NoStore)),
    ];
    let forced = StoringSettings {
        force_ttl: Some(Duration::from_secs(5)),
        ..StoringSettings::default()
    };
    Case::new().check(rows);
    Case {
        settings: forced.clone(),
        ..Case::new()
    }
    .check(rows);
    let policy = CachePolicy::ttl(Duration::from_secs(5)).public();
    Case {
        settings: forced,
        partitioned: true,
        ..Case::policy(policy)
    }
    .check(rows);
}

#[test]
fn a_route_may_opt_in_to_responses_with_set_cookie() {
    let mut case = Case::new();
    case.settings.store_set_cookie = true;
    #[rustfmt::skip]
    case.check(&[
        ("opted in, silent", &[("set-cookie", "a=b")], Ok(60)),
        ("opted in, explicit", &[("set-cookie", "a=b"), ("cache-control", "max-age=9")], Ok(9)),
        ("opted in, private", &[("set-cookie", "a=b"), ("cache-control", "private")], Err(Reason::Private)),
    ]);
    assert_eq!(
        case.decide(500, &[("set-cookie", "a=b")]),
        Decision::Refuse(Reason::Status),
        "a failure is handed on with its fields"
    );
}

#[test]
fn statuses_are_stored_when_silent_when_explicit_or_never() {
    const SILENT: &[u16] = &[200, 203, 204, 301, 308];
    let explicit = |status| matches!(status, 200..=205 | 207..=303 | 305..=308 | 404 | 410);
    let said = [("cache-control", "public, max-age=9")];
    let handler = Case::policy(CachePolicy::ttl(Duration::from_secs(9)));
    for status in (100..1000).filter(|status| !(500..600).contains(status)) {
        let by_silence = stored(Case::new().decide(status, &[]));
        let by_field = stored(Case::new().decide(status, &said));
        let by_expires = stored(Case::new().decide(status, &[("expires", "{+9}")]));
        let by_handler = stored(handler.decide(status, &[]));
        if explicit(status) {
            assert_eq!(by_field, Ok(9), "§3: {status} with max-age");
            assert_eq!(by_expires, Ok(9), "§3: {status} with Expires");
            assert_eq!(by_handler, Ok(9), "§3: {status} with CachePolicy::ttl");
            let expected = if SILENT.contains(&status) {
                Ok(60)
            } else {
                Err(Reason::Silent)
            };
            assert_eq!(by_silence, expected, "silent {status}");
        } else {
            let reason = if status == 101 {
                Reason::Stream
            } else {
                Reason::Status
            };
            for found in [by_silence, by_field, by_expires, by_handler] {
                assert_eq!(found, Err(reason), "§3: {status} is never stored");
            }
        }
    }
}

#[test]
fn streams_and_trailers_are_not_stored() {
    #[rustfmt::skip]
    Case::new().check(&[
        ("events", &[("content-type", "text/event-stream")], Err(Reason::Stream)),
        ("events, explicit", &[("content-type", "text/event-stream"), ("cache-control", "max-age=9")], Err(Reason::Stream)),
        ("events with a parameter, in capitals", &[("content-type", "Text/Event-Stream ; charset=utf-8")], Err(Reason::Stream)),
        ("events on a second line", &[("content-type", "text/html"), ("content-type", "text/event-stream")], Err(Reason::Stream)),
        ("events in a list", &[("content-type", "text/html, text/event-stream")], Err(Reason::Stream)),
        ("gRPC", &[("content-type", "application/grpc")], Err(Reason::Stream)),
        ("gRPC with a codec", &[("content-type", "application/grpc+proto")], Err(Reason::Stream)),
        ("gRPC-web", &[("content-type", "application/GRPC-web")], Err(Reason::Stream)),
        ("camera pictures", &[("content-type", "multipart/x-mixed-replace; boundary=a")], Err(Reason::Stream)),
        ("another multipart", &[("content-type", "multipart/mixed; boundary=a")], Ok(60)),
        ("a name that only begins alike", &[("content-type", "text/event-streams")], Ok(60)),
        ("a stream as a parameter", &[("content-type", "text/html; x=text/event-stream")], Ok(60)),
        ("bytes above 0x7F", &[("content-type", "é")], Ok(60)),
        ("RFC 9110 §7.8 an Upgrade that is only offered", &[("upgrade", "h2c")], Ok(60)),
        ("RFC 9110 §6.6.2 Trailer", &[("trailer", "x-checksum")], Err(Reason::Trailers)),
        ("RFC 9110 §6.6.2 Trailer, explicit", &[("trailer", "x"), ("cache-control", "max-age=9")], Err(Reason::Trailers)),
    ]);
}

#[test]
fn variants_are_planned_or_refused() {
    #[rustfmt::skip]
    Case::new().check(&[
        ("§4.1 Vary: *", &[("vary", "accept, *"), ("cache-control", "max-age=9")], Err(Reason::VaryAny)),
        ("§4.1 Vary: Cookie", &[("vary", "Cookie"), ("cache-control", "max-age=9")], Err(Reason::VaryCredential)),
        ("§4.1 Vary: Accept", &[("vary", "Accept")], Ok(60)),
        ("silent with a nonce", &[("content-security-policy", "script-src 'nonce-a'")], Err(Reason::CspNonce)),
        ("public alone with a nonce is silent", &[("content-security-policy", "script-src 'nonce-a'"), ("cache-control", "public")], Err(Reason::CspNonce)),
        ("explicit with a nonce", &[("content-security-policy", "script-src 'nonce-a'"), ("cache-control", "max-age=9")], Ok(9)),
        ("Expires with a nonce", &[("content-security-policy", "script-src 'nonce-a'"), ("expires", "{+9}")], Ok(9)),
        ("credentials for one origin", &[("access-control-allow-origin", "https://a.example"), ("access-control-allow-credentials", "true")], Err(Reason::CorsCredentials)),
    ]);
    let names = |response: Lines<'_>| match Case::new().decide(200, response) {
        Decision::Store(plan) => plan
            .vary
            .names()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        other => panic!("not stored: {other:?}"),
    };
    assert_eq!(
        names(&[("content-language", "de")]),
        ["accept-language"],
        "silent"
    );
    assert_eq!(
        names(&[("content-language", "de"), ("cache-control", "max-age=9")]),
        [""; 0],
        "explicit"
    );
    assert_eq!(
        names(&[("vary", "b, A"), ("content-encoding", "br")]),
        ["a", "accept-encoding", "b"]
    );
}

#[test]
fn answers_to_personal_requests_must_say_that_they_are_for_everybody() {
    let silent = Err(Reason::NotShareable);
    type Rows<'a> = &'a [(&'a str, Lines<'a>, Result<u64, Reason>)];
    #[rustfmt::skip]
    let common: Rows<'_> = &[
        ("silent", &[], silent),
        ("max-age alone", &[("cache-control", "max-age=9")], silent),
        ("Expires alone", &[("expires", "{+9}")], silent),
        ("proxy-revalidate alone", &[("cache-control", "proxy-revalidate, max-age=9")], silent),
        ("§5.2.2.9 public", &[("cache-control", "public, max-age=9")], Ok(9)),
        ("§5.2.2.9 public, silent", &[("cache-control", "public")], Ok(60)),
        ("§5.2.2.9 public=x", &[("cache-control", "public=x, max-age=9")], silent),
        ("§5.2.2.10 s-maxage", &[("cache-control", "s-maxage=9")], Ok(9)),
        ("§5.2.2.10 s-maxage=0", &[("cache-control", "s-maxage=0")], silent),
        ("§5.2.2.10 an invalid s-maxage", &[("cache-control", "s-maxage=x")], silent),
        ("§5.2.2.7 private stays private", &[("cache-control", "private, public")], Err(Reason::Private)),
    ];
    let must_revalidate = [("cache-control", "must-revalidate, max-age=9")];
    let cases = [
        (
            "cookie",
            Case::personal(Reason::Cookie, &[("cookie", "a=b")]),
            silent,
        ),
        (
            "credential",
            Case::personal(Reason::Credential, &[("x-api-key", "k")]),
            silent,
        ),
        (
            "authorization",
            Case::personal(Reason::Authorization, &[("authorization", "Basic x")]),
            Ok(9),
        ),
        (
            "authorization and a cookie",
            Case::personal(
                Reason::Authorization,
                &[("authorization", "Basic x"), ("cookie", "a=b")],
            ),
            silent,
        ),
        (
            "a cookie and authorization",
            Case::personal(
                Reason::Cookie,
                &[("authorization", "Basic x"), ("cookie", "a=b")],
            ),
            silent,
        ),
        (
            "authorization and a credential",
            Case::personal(
                Reason::Authorization,
                &[("authorization", "Basic x"), ("x-api-key", "k")],
            ),
            silent,
        ),
    ];
    for (name, case, revalidated) in &cases {
        case.check(common);
        assert_eq!(
            stored(case.decide(200, &must_revalidate)),
            *revalidated,
            "§3.5 must-revalidate, {name}"
        );
        let handler = CachePolicy::ttl(Duration::from_secs(5));
        let alone = Case {
            policy: Some(handler.clone()),
            ..case.clone()
        };
        assert_eq!(
            stored(alone.decide(200, &[])),
            silent,
            "a ttl is no word about sharing, {name}"
        );
        let public = Case {
            policy: Some(handler.public()),
            ..case.clone()
        };
        assert_eq!(
            stored(public.decide(200, &[])),
            Ok(5),
            "CachePolicy::public(), {name}"
        );
        let lifted = Case {
            personal: None,
            partitioned: true,
            ..case.clone()
        };
        assert_eq!(
            stored(lifted.decide(200, &[])),
            Ok(60),
            "partition_by lifts it, {name}"
        );
        let forced = StoringSettings {
            force_ttl: Some(Duration::from_secs(7)),
            ..StoringSettings::default()
        };
        let forced = Case {
            settings: forced,
            ..case.clone()
        };
        assert_eq!(
            stored(forced.decide(200, &[])),
            silent,
            "force_ttl is no word about sharing, {name}"
        );
        assert_eq!(
            stored(forced.decide(200, &[("cache-control", "s-maxage=0")])),
            silent,
            "force_ttl does not turn s-maxage=0 into an invitation, {name}"
        );
    }
}

#[test]
fn the_plan_says_who_may_share() {
    #[rustfmt::skip]
    let rows: &[(&str, Lines<'_>, bool, bool)] = &[
        ("silent", &[], false, false),
        ("max-age", &[("cache-control", "max-age=9")], false, false),
        ("§5.2.2.9 public", &[("cache-control", "public")], true, true),
        ("§5.2.2.10 s-maxage", &[("cache-control", "s-maxage=9")], true, true),
        ("§3.5 must-revalidate", &[("cache-control", "must-revalidate")], false, true),
        ("§3.5 not proxy-revalidate", &[("cache-control", "proxy-revalidate")], false, false),
    ];
    for (sentence, response, shareable, with_authorization) in rows {
        match Case::new().decide(200, response) {
            Decision::Store(plan) => {
                assert_eq!(plan.shareable, *shareable, "{sentence}");
                assert_eq!(
                    plan.shareable_with_authorization, *with_authorization,
                    "{sentence}"
                );
                assert_eq!(
                    plan.directives,
                    ResponseDirectives::parse(&headers(response)),
                    "{sentence}"
                );
            }
            other => panic!("{sentence}: {other:?}"),
        }
    }
}

#[test]
fn the_handler_may_forbid_storing() {
    #[rustfmt::skip]
    Case::policy(CachePolicy::no_store()).check(&[
        ("silent", &[], Err(Reason::Policy)),
        ("max-age", &[("cache-control", "public, max-age=9")], Err(Reason::Policy)),
        ("what is stronger is named first", &[("cache-control", "no-store")], Err(Reason::NoStore)),
    ]);
    Case::policy(CachePolicy::ttl(Duration::ZERO)).check(&[("ttl 0", &[], Err(Reason::Stale))]);
    #[rustfmt::skip]
    Case::policy(CachePolicy::new()).check(&[
        ("a policy that says nothing", &[], Ok(60)),
        ("a policy that says nothing, max-age", &[("cache-control", "max-age=9")], Ok(9)),
    ]);
}

#[test]
fn what_is_stale_as_it_comes_is_not_stored() {
    #[rustfmt::skip]
    let rows: &[(&str, Lines<'_>, Result<u64, Reason>)] = &[
        ("max-age=0", &[("cache-control", "max-age=0")], Err(Reason::Stale)),
        ("no-cache", &[("cache-control", "no-cache")], Err(Reason::NoCache)),
        ("§4.2 Age below the lifetime", &[("cache-control", "max-age=9"), ("age", "8")], Ok(9)),
        ("§4.2 Age at the lifetime", &[("cache-control", "max-age=9"), ("age", "9")], Err(Reason::Stale)),
        ("§4.2 Age above the lifetime", &[("cache-control", "max-age=9"), ("age", "10")], Err(Reason::Stale)),
        ("§4.2 Date at the lifetime", &[("cache-control", "max-age=9"), ("date", "{-9}")], Err(Reason::Stale)),
        ("§4.2 silent, too old", &[("age", "60")], Err(Reason::Stale)),
        ("§4.2 silent, young", &[("age", "59")], Ok(60)),
    ];
    Case::new().check(rows);
    let slow = Case {
        delay: Duration::from_secs(9),
        ..Case::new()
    };
    #[rustfmt::skip]
    slow.check(&[
        ("§4.2.3 the answer took as long as it is fresh", &[("cache-control", "max-age=9"), ("date", "{-0}")], Err(Reason::Stale)),
        ("§4.2.3 the answer took less", &[("cache-control", "max-age=10"), ("date", "{-0}")], Ok(10)),
        ("§4.2.3 its handler took as long, and made it now", &[("cache-control", "max-age=9")], Ok(9)),
    ]);
    match slow.decide(200, &[("age", "4")]) {
        Decision::Store(plan) => assert_eq!(plan.initial_age, Duration::from_secs(13), "§4.2.3"),
        other => panic!("not stored: {other:?}"),
    }
}

#[test]
fn no_cache_alone_is_no_permission_to_store() {
    let (tag, no_cache) = (("etag", "\"v1\""), ("cache-control", "no-cache"));
    let (public, aged) = (("cache-control", "public"), ("cache-control", "max-age=0"));
    let expires = ("expires", "0");
    #[rustfmt::skip]
    let rows: &[(&str, u16, Lines<'_>, bool)] = &[
        ("RFC 9110 §15.1 200 is cacheable", 200, &[tag, no_cache], true),
        ("RFC 9110 §15.1 404 is cacheable", 404, &[tag, no_cache], true),
        ("RFC 9110 §15.1 302 is not", 302, &[tag, no_cache], false),
        ("RFC 9110 §15.1 201 is not", 201, &[tag, no_cache], false),
        ("§3 public", 302, &[tag, no_cache, public], true),
        ("§3 max-age", 302, &[tag, no_cache, aged], true),
        ("§3 Expires", 302, &[tag, no_cache, expires], true),
    ];
    for (sentence, status, lines, expected) in rows {
        let decision = Case::new().decide(*status, lines);
        let is_stored = matches!(decision, Decision::Store(_));
        assert_eq!(is_stored, *expected, "{sentence}");
    }
}

#[test]
fn what_is_too_large_by_its_head_is_not_stored() {
    #[rustfmt::skip]
    Case::new().check(&[
        ("no length", &[], Ok(60)),
        ("the longest", &[("content-length", "1048576")], Ok(60)),
        ("one byte more", &[("content-length", "1048577")], Err(Reason::BodyTooLarge)),
        ("more than a number holds", &[("content-length", "99999999999999999999999")], Err(Reason::BodyTooLarge)),
        ("RFC 9110 §8.6 repeated", &[("content-length", "5"), ("content-length", "5")], Ok(60)),
        ("RFC 9110 §8.6 repeated in a list", &[("content-length", "5, 5")], Ok(60)),
        ("RFC 9110 §8.6 contradictory lines", &[("content-length", "5"), ("content-length", "6")], Err(Reason::BodyLength)),
        ("RFC 9110 §8.6 contradictory list", &[("content-length", "5, 6")], Err(Reason::BodyLength)),
        ("RFC 9110 §8.6 no number", &[("content-length", "+5")], Err(Reason::BodyLength)),
        ("RFC 9110 §8.6 empty", &[("content-length", "")], Err(Reason::BodyLength)),
        ("an open quote", &[("content-length", "\"5")], Err(Reason::BodyLength)),
    ]);
    assert_eq!(
        declared_length(&headers(&[("content-length", "007")])),
        Ok(Some(7))
    );
    assert_eq!(declared_length(&headers(&[])), Ok(None));

    let fields = |count: usize| headers(&vec![("x", "y"); count]);
    assert_eq!(
        stored(Case::new().decide_on(200, &fields(128))),
        Ok(60),
        "128 fields"
    );
    assert_eq!(
        stored(Case::new().decide_on(200, &fields(129))),
        Err(Reason::HeadTooLarge),
        "129 fields"
    );
    let bytes = |count: usize| headers(&[("x", &"y".repeat(count - 1))]);
    assert_eq!(
        stored(Case::new().decide_on(200, &bytes(65_536))),
        Ok(60),
        "64 KiB"
    );
    assert_eq!(
        stored(Case::new().decide_on(200, &bytes(65_537))),
        Err(Reason::HeadTooLarge),
        "64 KiB and a byte"
    );
}

#[test]
fn failures_are_shared_with_those_who_wait_and_never_stored() {
    let status = Decision::Refuse(Reason::Status);
    for code in [500, 501, 502, 503, 504, 599] {
        #[rustfmt::skip]
        let rows: &[(&str, Lines<'_>, bool)] = &[
            ("silent", &[], true),
            ("max-age", &[("cache-control", "public, max-age=9")], true),
            ("no-cache", &[("cache-control", "no-cache")], true),
            ("Vary", &[("vary", "accept")], true),
            ("no-store", &[("cache-control", "no-store")], false),
            ("private", &[("cache-control", "private")], false),
            ("Set-Cookie", &[("set-cookie", "a=b")], false),
            ("Vary: *", &[("vary", "*")], false),
            ("Vary: Cookie", &[("vary", "cookie")], false),
            ("a stream", &[("content-type", "text/event-stream")], false),
            ("trailers", &[("trailer", "x")], false),
            ("too large", &[("content-length", "1048577")], false),
            ("contradictory lengths", &[("content-length", "1, 2")], false),
        ];
        for (sentence, response, shared) in rows {
            let found = Case::new().decide(code, response);
            if *shared {
                let Decision::ShareOnly(plan) = found else {
                    panic!("{code}, {sentence}: {found:?}")
                };
                assert_eq!(
                    plan.freshness.lifetime,
                    Duration::ZERO,
                    "{code}, {sentence}"
                );
                let names: Vec<_> = response
                    .iter()
                    .filter(|(name, _)| *name == "vary")
                    .map(|(_, value)| *value)
                    .collect();
                assert_eq!(
                    plan.vary.names(),
                    names,
                    "{code}, {sentence}: its rule applies"
                );
            } else {
                assert_eq!(found, status, "{code}, {sentence}");
            }
        }
        for reason in [Reason::Cookie, Reason::Authorization, Reason::Credential] {
            let case = Case::personal(reason, &[("authorization", "x")]);
            assert_eq!(
                case.decide(code, &[("cache-control", "public")]),
                status,
                "{code}, {reason}"
            );
        }
        assert_eq!(
            Case::policy(CachePolicy::no_store()).decide(code, &[]),
            status,
            "{code}, its handler"
        );
        let policy = Case::policy(CachePolicy::ttl(Duration::from_secs(9)).public());
        assert!(
            matches!(policy.decide(code, &[]), Decision::ShareOnly(_)),
            "{code}, a handler's ttl"
        );
    }
}

#[test]
fn any_head_is_judged_without_a_panic_and_never_stored_where_that_is_forbidden() {
    const NAMES: &[&str] = &[
        "cache-control",
        "vary",
        "expires",
        "date",
        "age",
        "content-type",
        "content-length",
        "set-cookie",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "content-security-policy",
        "trailer",
        "upgrade",
        "connection",
    ];
    let mut random = Random::new(8);
    let mut stored = 0;
    for _ in 0..20_000 {
        let mut response = HeaderMap::new();
        for _ in 0..random.below(4) {
            let name = http::HeaderName::from_bytes(random.pick(NAMES).as_bytes()).expect("a name");
            response.append(name, random.field_value(30));
        }
        let mut case = Case::new();
        case.settings.store_set_cookie = random.below(2) == 0;
        case.settings.force_ttl = (random.below(2) == 0).then_some(Duration::from_secs(9));
        case.policy = (random.below(2) == 0).then(|| CachePolicy::ttl(Duration::from_secs(5)));
        let status = u16::try_from(100 + random.below(600)).expect("a status");
        let status = if random.below(2) == 0 { 200 } else { status };
        let directives = ResponseDirectives::parse(&response);
        let forbidden = directives.no_store || directives.private || !(200..=410).contains(&status);
        match case.decide_on(status, &response) {
            Decision::Store(plan) => {
                assert!(!forbidden, "{status} {response:?}");
                assert!(
                    plan.initial_age < plan.freshness.lifetime,
                    "{status} {response:?}"
                );
                stored += 1;
            }
            Decision::ShareOnly(_) => {
                assert!((500..600).contains(&status), "{status} {response:?}")
            }
            Decision::Refuse(_) => {}
        }
    }
    assert!(stored > 1000, "the input is not only junk: {stored}");
}

#[test]
fn what_is_of_use_once_it_is_stale_is_kept() {
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;
    let rfc9111 = |case: Case| Case {
        settings: StoringSettings {
            preset: Preset::Rfc9111,
            keeps_stale: true,
            ..StoringSettings::default()
        },
        ..case
    };
    let validated = |case: Case| Case {
        settings: StoringSettings {
            has_validator: true,
            ..StoringSettings::default()
        },
        ..case
    };
    let tag = ("etag", "\"a\"");
    let said = |value| ("cache-control", value);
    let minute = said("max-age=60");
    #[rustfmt::skip]
    let rows: [(&str, Case, Lines<'_>, u64); 14] = [
        ("nothing can be done with it", Case::new(), &[minute], 0),
        ("§4.3 it can be validated: for an hour at least", Case::new(), &[minute, tag], HOUR),
        ("for as long as it was fresh", Case::new(), &[said("max-age=7200"), tag], 2 * HOUR),
        ("for a day at the most", Case::new(), &[said("max-age=999999"), tag], DAY),
        ("§4.3 by its date", Case::new(), &[minute, ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")], HOUR),
        ("what is no tag validates nothing", Case::new(), &[minute, ("etag", "a")], 0),
        ("by the layer's own validator", validated(Case::new()), &[minute], HOUR),
        ("§4.2.4 when nobody is in reach", rfc9111(Case::new()), &[minute], HOUR),
        ("§4.2.4 but not where that is forbidden", rfc9111(Case::new()), &[said("max-age=60, must-revalidate")], 0),
        ("RFC 5861 §3", Case::new(), &[said("max-age=60, stale-while-revalidate=7")], 7),
        ("RFC 5861 §4", Case::new(), &[said("max-age=60, stale-if-error=8")], 8),
        ("RFC 5861 the longer window", Case::new(), &[said("max-age=60, stale-while-revalidate=9, stale-if-error=8")], 9),
        ("RFC 5861 §4 beside a tag", Case::new(), &[said("max-age=60, stale-if-error=99999"), tag], 99_999),
        ("§5.2.2.4 no-cache, with a tag", Case::new(), &[said("no-cache"), tag], HOUR),
    ];
    for (sentence, case, lines, expected) in rows {
        match case.decide(200, lines) {
            Decision::Store(plan) => assert_eq!(plan.kept.as_secs(), expected, "{sentence}"),
            other => panic!("{sentence}: {other:?}"),
        }
    }
}

#[test]
fn a_lifetime_of_zero_that_this_cache_was_told_is_not_stored_whatever_it_has() {
    let tag = ("etag", "\"a\"");
    let no_cache = ("cache-control", "no-cache");
    let told = Case::policy(CachePolicy::ttl(Duration::ZERO));
    let forced = Case {
        settings: StoringSettings {
            force_ttl: Some(Duration::ZERO),
            ..StoringSettings::default()
        },
        ..Case::new()
    };
    for case in [told, forced] {
        for lines in [&[tag][..], &[tag, no_cache]] {
            let decision = case.decide(200, lines);
            assert!(matches!(decision, Decision::Refuse(_)), "{decision:?}");
        }
    }
}
