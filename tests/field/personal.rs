//! Bugs seen elsewhere, each with a test: what belongs to one person or one exchange.

use crate::support::{
    App, Origin, app, cache, get, get_with, request,
    scripted::{Gate, detail, response},
    send, settle,
};
use axum::{Router, body::Body, middleware, response::IntoResponse, routing::get as route_get};
use http::{HeaderValue, Request, StatusCode, header::CACHE_CONTROL};
use tower::{ServiceBuilder, util::BoxCloneSyncService};
use tower_http::{
    ServiceBuilderExt,
    request_id::{MakeRequestId, RequestId},
    set_header::SetResponseHeaderLayer,
};
use tower_response_cache::{Reason, ResponseCacheLayer};

/// Says whose page it is, by a request field; 401 for nobody's.
fn account(field: &'static str, fields: &'static [(&'static str, &'static str)]) -> Origin {
    Origin::new(move |call, request| {
        let whose = request.headers().get(field).map(|v| v.to_str().unwrap());
        std::future::ready(match whose {
            Some(whose) => response(200, fields, format!("{call}: the account of {whose}")),
            None => response(401, fields, format!("{call}: who are you?")),
        })
    })
}

/// Says whose page it is, or that it is anybody's.
fn greeting(field: &'static str) -> Origin {
    Origin::new(move |call, request| {
        let whose = request.headers().get(field).map(|v| v.to_str().unwrap());
        let body = format!("{call}: hello {}", whose.unwrap_or("everybody"));
        std::future::ready(response(200, &[], body))
    })
}

#[tokio::test]
async fn a_401_for_nobody_is_not_the_answer_for_somebody() {
    // The blanket field makes explicit what must not be stored all the same.
    for fields in [&[][..], &[("cache-control", "max-age=600")][..]] {
        let (cache, _clock) = cache();
        let origin = account("authorization", fields);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let refused = get(&app, "/").await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        let alice = get_with(&app, "/", &[("authorization", "alice")]).await;
        assert_eq!(alice.text(), "2: the account of alice");
        let refused = get(&app, "/").await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.text(), "3: who are you?");
        let bob = get_with(&app, "/", &[("authorization", "bob")]).await;
        assert_eq!(bob.text(), "4: the account of bob");
    }
}

/// The order that the README demands: authentication outside of the cache.
#[tokio::test]
async fn authentication_outside_is_asked_before_every_hit() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache).partition_by("user", |head| {
        let user = head.headers.get("authorization")?;
        user.to_str().ok().map(str::to_owned)
    });
    let origin = account("authorization", &[]);
    let guard = middleware::from_fn(
        |request: Request<Body>, next: middleware::Next| async move {
            match request.headers().get("authorization") {
                Some(user) if user != "mallory" => next.run(request).await,
                _ => StatusCode::FORBIDDEN.into_response(),
            }
        },
    );
    let router = Router::new()
        .route_service("/", origin.service())
        .layer(layer)
        .layer(guard);
    let app: App = BoxCloneSyncService::new(router);
    for user in ["alice", "bob", "alice", "bob"] {
        let answer = get_with(&app, "/", &[("authorization", user)]).await;
        assert!(answer.text().ends_with(&format!("the account of {user}")));
    }
    assert_eq!(origin.calls(), 2);
    for fields in [&[("authorization", "mallory")][..], &[]] {
        let refused = get_with(&app, "/", fields).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_request_with_authorization_or_cookie_neither_gives_nor_takes() {
    for (field, reason) in [
        ("authorization", Reason::Authorization),
        ("cookie", Reason::Cookie),
    ] {
        let (cache, _clock) = cache();
        let origin = greeting(field);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let alice = get_with(&app, "/", &[(field, "u=alice")]).await;
        assert_eq!(alice.text(), "1: hello u=alice");
        assert_eq!(
            (alice.x_cache(), &*detail(&alice)),
            ("BYPASS", reason.as_str())
        );
        let nobody = get(&app, "/").await;
        assert_eq!(nobody.text(), "2: hello everybody");
        assert!(get(&app, "/").await.is_hit());
        for (call, user) in [(3, "u=alice"), (4, "u=bob"), (5, "u=bob")] {
            let answer = get_with(&app, "/", &[(field, user)]).await;
            assert_eq!(answer.text(), format!("{call}: hello {user}"));
            assert_eq!(answer.x_cache(), "BYPASS");
        }
        assert_eq!(cache.stats().bypasses(reason), 4, "{field}");
    }
}

#[tokio::test]
async fn personal_requests_at_once_wait_for_nobody_and_share_nothing() {
    let (cache, _clock) = cache();
    let gate = Gate::shut();
    let held = gate.clone();
    let origin = Origin::new(move |_, request| {
        let held = held.clone();
        async move {
            let whose = request.headers()["cookie"].to_str().unwrap().to_owned();
            held.pass().await;
            response(200, &[], whose)
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let asked: Vec<_> = (0..20)
        .map(|user| {
            let app = app.clone();
            tokio::spawn(async move {
                let user = format!("u={user}");
                let answer = get_with(&app, "/", &[("cookie", &user)]).await;
                assert_eq!(answer.text(), user);
            })
        })
        .collect();
    settle().await;
    assert_eq!(
        origin.calls(),
        20,
        "all of them are inside at the same time"
    );
    gate.open();
    for asked in asked {
        asked.await.unwrap();
    }
    assert_eq!(cache.stats().entries(), 0);
}

#[tokio::test]
async fn a_response_that_sets_a_cookie_reaches_one_client() {
    for control in ["", "public, max-age=600", "s-maxage=600"] {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |call, _| {
            let cookie = format!("session={call}");
            let fields = [("set-cookie", &*cookie), ("cache-control", control)];
            let fields = &fields[..1 + usize::from(!control.is_empty())];
            std::future::ready(response(200, fields, format!("page {call}")))
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        for call in 1..=3 {
            let answer = get(&app, "/").await;
            assert_eq!(answer.field("set-cookie"), format!("session={call}"));
            assert_eq!(answer.text(), format!("page {call}"));
        }
        assert_eq!(cache.stats().entries(), 0, "{control:?}");
    }
}

#[tokio::test]
async fn clients_that_waited_together_get_cookies_of_their_own() {
    let (cache, _clock) = cache();
    let gate = Gate::shut();
    let held = gate.clone();
    let origin = Origin::new(move |call, _| {
        let held = held.clone();
        async move {
            held.pass().await;
            let cookie = format!("session={call}");
            response(200, &[("set-cookie", &cookie)], format!("page {call}"))
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { get(&app, "/").await })
        })
        .collect();
    settle().await;
    assert_eq!(origin.calls(), 1, "they wait for the first");
    gate.open();
    let mut cookies = Vec::new();
    for asked in asked {
        let answer = asked.await.unwrap();
        let number = answer.field("set-cookie").strip_prefix("session=").unwrap();
        assert_eq!(answer.text(), format!("page {number}"));
        cookies.push(number.to_owned());
    }
    cookies.sort_unstable();
    cookies.dedup();
    assert_eq!(cookies.len(), 20);
}

#[tokio::test]
async fn a_connection_field_hides_nothing() {
    #[rustfmt::skip]
    let rows: [(_, &[(&str, &str)], _); 6] = [
        ("a cookie", &[("connection", "Set-Cookie"), ("set-cookie", "session=1")], Reason::SetCookie),
        ("no-store", &[("connection", "cache-control"), ("cache-control", "no-store")], Reason::NoStore),
        ("private", &[("connection", "close, Cache-Control"), ("cache-control", "private")], Reason::Private),
        ("a Vary", &[("connection", "vary"), ("vary", "*")], Reason::VaryAny),
        ("a Vary that a 304 would not say again", &[("connection", "close, VARY"), ("vary", "accept"), ("etag", "\"v1\"")], Reason::VaryAny),
        ("an Expires", &[("connection", "expires"), ("expires", "0")], Reason::Stale),
    ];
    for (sentence, fields, reason) in rows {
        let (cache, _clock) = cache();
        let fields: Vec<_> = fields
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let origin = Origin::new(move |call, _| {
            let fields: Vec<_> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
            std::future::ready(response(200, &fields, format!("page {call}")))
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let first = get(&app, "/").await;
        assert_eq!(detail(&first), reason.as_str(), "{sentence}");
        assert_eq!(get(&app, "/").await.text(), "page 2", "{sentence}");
        assert_eq!(cache.stats().entries(), 0, "{sentence}");
    }
}

#[tokio::test]
async fn a_connection_field_of_the_request_hides_no_credential() {
    for field in ["authorization", "cookie", "x-api-key"] {
        let (cache, _clock) = cache();
        let origin = greeting(field);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        for (call, user) in [(1, "alice"), (2, "bob")] {
            let answer = get_with(&app, "/", &[("connection", field), (field, user)]).await;
            assert_eq!(answer.text(), format!("{call}: hello {user}"));
        }
        assert_eq!(get(&app, "/").await.text(), "3: hello everybody");
    }
}

/// Every field of the list in the rules, and a member of each family.
const IDENTITY_FIELDS: &[&str] = &[
    "Proxy-Authorization",
    "X-Api-Key",
    "X-Auth-Token",
    "X-Access-Token",
    "X-Csrf-Token",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Client-Cert",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Access-Token",
    "Remote-User",
    "X-Remote-User",
    "X-Amzn-Oidc-Data",
    "X-Amzn-Oidc-Identity",
    "X-Amzn-Oidc-Accesstoken",
    "X-Goog-Authenticated-User-Email",
    "X-Goog-Authenticated-User-Id",
    "X-Goog-Iap-Jwt-Assertion",
    "Cf-Access-Jwt-Assertion",
    "Cf-Access-Authenticated-User-Email",
    "X-Ms-Client-Principal",
    "X-Ms-Client-Principal-Name",
    "Tailscale-User-Login",
    "Tailscale-User-Name",
    "X-Client-Cert",
    "X-SSL-Client-Cert",
    "X-SSL-Client-S-DN",
    "Ssl-Client-Cert",
    "Ssl-Client-S-Dn",
];

#[tokio::test]
async fn an_identity_field_of_a_proxy_is_a_credential() {
    for field in IDENTITY_FIELDS {
        let (cache, _clock) = cache();
        let origin = greeting(field);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        assert_eq!(get(&app, "/").await.text(), "1: hello everybody");
        for (call, user) in [(2, "alice"), (3, "bob"), (4, "alice")] {
            let answer = get_with(&app, "/", &[(field, user)]).await;
            assert_eq!(answer.text(), format!("{call}: hello {user}"), "{field}");
            assert_eq!(
                (answer.x_cache(), &*detail(&answer)),
                ("BYPASS", "credential"),
                "{field}"
            );
        }
        assert!(get(&app, "/").await.is_hit(), "{field}");
    }
}

/// Counts from 1, so that ids can be told apart.
#[derive(Clone, Default)]
struct Counting(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl MakeRequestId for Counting {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        let id = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        Some(RequestId::new(HeaderValue::from(id)))
    }
}

#[tokio::test]
async fn a_request_id_made_inside_is_not_replayed() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let inner = ServiceBuilder::new()
        .set_x_request_id(Counting::default())
        .propagate_x_request_id()
        .service(origin.service());
    let app = app(
        &ResponseCacheLayer::new(&cache),
        BoxCloneSyncService::new(inner),
    );
    assert_eq!(get(&app, "/").await.field("x-request-id"), "1");
    let second = get(&app, "/").await;
    assert!(second.is_hit());
    assert_eq!(second.fields("x-request-id"), [""; 0]);
}

#[tokio::test]
async fn a_request_id_made_outside_is_new_on_every_hit() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let outer = ServiceBuilder::new()
        .set_x_request_id(Counting::default())
        .propagate_x_request_id()
        .service(origin.behind(&ResponseCacheLayer::new(&cache)));
    let app: App = BoxCloneSyncService::new(outer);
    for id in 1..=3 {
        let answer = get(&app, "/").await;
        assert_eq!(answer.is_hit(), id > 1);
        assert_eq!(answer.field("x-request-id"), id.to_string());
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn fields_that_belong_to_one_exchange_are_not_replayed() {
    for field in [
        "X-Request-Id",
        "X-Correlation-Id",
        "Traceparent",
        "Tracestate",
        "Server-Timing",
        "RateLimit",
        "RateLimit-Policy",
        "RateLimit-Remaining",
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
    ] {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |call, _| {
            let value = format!("of call {call}");
            let fields = [(field, &*value), (field, "again"), ("x-kept", "yes")];
            std::future::ready(response(200, &fields, "page"))
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let first = get(&app, "/").await;
        assert_eq!(
            first.fields(field),
            ["of call 1", "again"],
            "its own client has it"
        );
        let second = get(&app, "/").await;
        assert!(second.is_hit());
        assert_eq!(second.fields(field), [""; 0], "{field}");
        assert_eq!(second.field("x-kept"), "yes");
    }
}

#[tokio::test]
async fn a_nonce_of_a_content_security_policy_is_not_replayed() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, _| {
        let policy = format!("default-src 'self'; script-src 'nonce-{call}'");
        let page = format!("<script nonce={call}>");
        std::future::ready(response(200, &[("content-security-policy", &policy)], page))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for call in 1..=3 {
        let answer = get(&app, "/").await;
        assert_eq!(answer.text(), format!("<script nonce={call}>"));
        assert!(
            answer
                .field("content-security-policy")
                .contains(&format!("'nonce-{call}'"))
        );
        if call == 1 {
            assert_eq!(detail(&answer), "csp-nonce");
        }
    }
    assert_eq!(cache.stats().entries(), 0);
}

#[tokio::test]
async fn a_policy_without_a_nonce_and_one_that_asks_for_storing_are_kept() {
    for fields in [
        &[(
            "content-security-policy",
            "default-src 'self'; script-src 'sha256-x'",
        )][..],
        &[
            ("content-security-policy", "script-src 'nonce-1'"),
            ("cache-control", "max-age=600"),
        ],
    ] {
        let (cache, _clock) = cache();
        let origin = Origin::with_fields(fields);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        get(&app, "/").await;
        let second = get(&app, "/").await;
        assert!(second.is_hit(), "{fields:?}");
        assert_eq!(second.field("content-security-policy"), fields[0].1);
    }
}

/// A blanket field set by a layer that knows nothing of what it stands on.
#[tokio::test]
async fn a_blanket_max_age_does_not_share_what_was_made_for_somebody() {
    let (cache, _clock) = cache();
    let router = Router::new()
        .route(
            "/",
            route_get(|request: Request<Body>| async move {
                let whose = request.headers().get("cookie").cloned();
                format!("hello {whose:?}")
            }),
        )
        .layer(SetResponseHeaderLayer::overriding(
            CACHE_CONTROL,
            HeaderValue::from_static("max-age=600"),
        ));
    let app = app(
        &ResponseCacheLayer::new(&cache),
        BoxCloneSyncService::new(router),
    );
    for user in ["u=alice", "u=bob", "u=alice"] {
        let answer = send(&app, request("GET", "/", &[("cookie", user)])).await;
        assert_eq!(answer.text(), format!("hello Some({user:?})"));
        assert_eq!(answer.x_cache(), "BYPASS");
    }
    assert_eq!(get(&app, "/").await.text(), "hello None");
    assert!(get(&app, "/").await.is_hit());
}
