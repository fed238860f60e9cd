//! Who shares: cookies, credentials, partitions.

use crate::support::{
    Answer, App, Origin, cache, get, get_with, request,
    scripted::{detail, response},
    send,
};
use axum::body::Body;
use http::{HeaderName, Request};
use tower_response_cache::{ANALYTICS_COOKIES, Credentials, ResponseCacheLayer};

/// Answers with what it sees of this field.
fn seeing(field: &'static str) -> Origin {
    Origin::new(move |call, request| {
        let seen: Vec<_> = request
            .headers()
            .get_all(field)
            .iter()
            .map(|line| line.to_str().unwrap().to_owned())
            .collect();
        std::future::ready(response(200, &[], format!("{call} {}", seen.join(" | "))))
    })
}

async fn with_cookie(app: &App, cookie: &str) -> Answer {
    get_with(app, "/", &[("cookie", cookie)]).await
}

#[tokio::test]
async fn ignored_cookies_share_and_are_hidden_from_the_handler() {
    let (cache, _clock) = cache();
    let origin = seeing("cookie");
    let layer = ResponseCacheLayer::new(&cache).ignore_cookies(["_ga", "_ga_*"]);
    let app = origin.behind(&layer);
    let first = with_cookie(&app, "_ga=GA1.2; _ga_X=7").await;
    assert_eq!(first.text(), "1 ");
    assert!(with_cookie(&app, "_ga=another").await.is_hit());
    assert!(get(&app, "/").await.is_hit(), "as if there were none");
    let other = with_cookie(&app, "_ga=1; session=alice").await;
    assert_eq!((other.x_cache(), &*detail(&other)), ("BYPASS", "cookie"));
    // Names are compared as they are, and as a whole.
    for cookie in ["_gaX=1", "x_ga=1", "_GA=1", "session=_ga=1"] {
        assert_eq!(
            with_cookie(&app, cookie).await.x_cache(),
            "BYPASS",
            "{cookie}"
        );
    }
}

#[tokio::test]
async fn a_bypassed_request_with_ignored_cookies_answers_for_itself() {
    let (cache, _clock) = cache();
    let origin = seeing("cookie");
    let app = origin.behind(&ResponseCacheLayer::new(&cache).ignore_cookies(["_ga"]));
    for (call, user) in [(1, "alice"), (2, "bob")] {
        let answer = with_cookie(&app, &format!("_ga=1; session={user}")).await;
        assert_eq!(answer.text(), format!("{call} session={user}"));
    }
    assert_eq!(get(&app, "/").await.text(), "3 ");
}

#[tokio::test]
async fn a_cookie_that_is_varied_on_has_entries_of_its_own() {
    let (cache, _clock) = cache();
    let origin = seeing("cookie");
    let layer = ResponseCacheLayer::new(&cache)
        .vary_on_cookie("lang")
        .ignore_cookies(ANALYTICS_COOKIES);
    let app = origin.behind(&layer);
    let bodies = ["1 lang=de", "2 lang=en", "3 ", "4 lang="];
    for round in 0..2 {
        for (cookie, body) in ["lang=de", "lang=en", "_ga=1", "lang="].iter().zip(bodies) {
            let answer = with_cookie(&app, cookie).await;
            assert_eq!(
                (answer.is_hit(), answer.text()),
                (round == 1, body),
                "{cookie}"
            );
        }
    }
    for cookie in ["_ga=1; lang=de", "lang=de; _gid=2", "_fbp=1;lang=de"] {
        let answer = with_cookie(&app, cookie).await;
        assert_eq!(
            (answer.is_hit(), answer.text()),
            (true, "1 lang=de"),
            "{cookie}"
        );
    }
    assert!(
        get(&app, "/").await.is_hit(),
        "none is like only ignored ones"
    );
    let session = with_cookie(&app, "lang=de; session=alice").await;
    assert_eq!(
        (session.x_cache(), &*detail(&session)),
        ("BYPASS", "cookie")
    );
}

#[tokio::test]
async fn cookies_on_several_lines_are_all_seen() {
    let (cache, _clock) = cache();
    let origin = seeing("cookie");
    let layer = ResponseCacheLayer::new(&cache)
        .vary_on_cookie("lang")
        .ignore_cookies(["_ga"]);
    let app = origin.behind(&layer);
    let lines = [("cookie", "_ga=1"), ("cookie", "session=alice")];
    assert_eq!(get_with(&app, "/", &lines).await.x_cache(), "BYPASS");
    let lines = [("cookie", "_ga=1"), ("cookie", "lang=de")];
    assert_eq!(get_with(&app, "/", &lines).await.x_cache(), "MISS");
    assert!(with_cookie(&app, "lang=de").await.is_hit());
    assert!(!with_cookie(&app, "lang=en").await.is_hit());
}

#[tokio::test]
async fn a_cookie_that_comes_twice_is_not_one_of_its_values() {
    let (cache, _clock) = cache();
    let origin = seeing("cookie");
    let app = origin.behind(&ResponseCacheLayer::new(&cache).vary_on_cookie("lang"));
    for cookie in ["lang=de", "lang=en", "lang=de; lang=en", "lang=en; lang=de"] {
        let answer = with_cookie(&app, cookie).await;
        assert!(!answer.is_hit(), "{cookie}");
        assert!(answer.text().ends_with(cookie));
    }
}

/// A response that varies on the whole field would depend on what the key does not hold.
#[tokio::test]
async fn vary_cookie_is_stored_where_the_cookies_are_declared() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[("vary", "Cookie")]);
    let undeclared = origin.behind(&ResponseCacheLayer::new(&cache));
    assert_eq!(detail(&get(&undeclared, "/a").await), "vary-credential");
    let declared = origin.behind(&ResponseCacheLayer::new(&cache).vary_on_cookie("lang"));
    for (cookie, is_hit) in [("lang=de", false), ("lang=de", true), ("lang=en", false)] {
        assert_eq!(with_cookie(&declared, cookie).await.is_hit(), is_hit);
    }
}

/// Other cookies than those that are declared make no request personal then, and reach the handler.
#[tokio::test]
async fn by_the_standard_vary_cookie_is_about_all_cookies_that_the_handler_sees() {
    let (cache, _clock) = cache();
    let fields = [("vary", "Cookie"), ("cache-control", "max-age=60")];
    let origin = Origin::with_fields(&fields);
    let layer = ResponseCacheLayer::rfc9111(&cache)
        .ignore_cookies(["_ga"])
        .vary_on_cookie("lang");
    let app = origin.behind(&layer);
    let alice = "lang=de; session=alice";
    for (cookie, is_hit) in [
        (alice, false),
        ("lang=de; session=bob", false),
        (alice, true),
    ] {
        assert_eq!(with_cookie(&app, cookie).await.is_hit(), is_hit, "{cookie}");
    }
}

#[tokio::test]
async fn set_cookie_is_stored_without_itself_where_the_route_says_so() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, _| {
        let cookie = format!("visit={call}");
        let fields = [
            ("set-cookie", &*cookie),
            ("set-cookie", "b=c"),
            ("x-kept", "yes"),
        ];
        std::future::ready(response(200, &fields, "page"))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache).store_without_set_cookie());
    let first = get(&app, "/").await;
    assert_eq!(first.fields("set-cookie"), ["visit=1", "b=c"]);
    let second = get(&app, "/").await;
    assert!(second.is_hit());
    assert_eq!(second.fields("set-cookie"), [""; 0]);
    assert_eq!((second.field("x-kept"), second.text()), ("yes", "page"));
}

#[tokio::test]
async fn a_field_that_is_added_to_the_credentials_identifies_somebody() {
    let (cache, _clock) = cache();
    let field = HeaderName::from_static("x-session");
    let origin = seeing("x-session");
    let plain = origin.behind(&ResponseCacheLayer::new(&cache));
    get_with(&plain, "/", &[("x-session", "a")]).await;
    assert!(
        get_with(&plain, "/", &[("x-session", "b")]).await.is_hit(),
        "no rule names it"
    );
    let layer = ResponseCacheLayer::new(&cache).credentials(Credentials::default().add(field));
    let app = origin.behind(&layer);
    for (call, user) in [(2, "a"), (3, "b")] {
        let answer = get_with(&app, "/", &[("x-session", user)]).await;
        assert_eq!(answer.text(), format!("{call} {user}"));
        assert_eq!(
            (answer.x_cache(), &*detail(&answer)),
            ("BYPASS", "credential")
        );
    }
}

#[tokio::test]
async fn a_field_that_is_allowed_identifies_nobody() {
    let (cache, _clock) = cache();
    let field = HeaderName::from_static("x-api-key");
    let credentials = Credentials::default().allow(field.clone());
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache).credentials(credentials));
    get_with(&app, "/", &[("x-api-key", "a")]).await;
    assert!(get_with(&app, "/", &[("x-api-key", "b")]).await.is_hit());
    let other = get_with(&app, "/", &[("x-auth-token", "a")]).await;
    assert_eq!(other.x_cache(), "BYPASS", "the others stay what they are");
    let both = Credentials::default().allow(field.clone()).add(field);
    let app = origin.behind(&ResponseCacheLayer::new(&cache).credentials(both));
    assert_eq!(
        get_with(&app, "/", &[("x-api-key", "a")]).await.x_cache(),
        "BYPASS"
    );
}

#[tokio::test]
async fn authorization_and_cookie_are_not_lifted_by_allowing_them() {
    let (cache, _clock) = cache();
    let credentials = Credentials::default()
        .allow(http::header::AUTHORIZATION)
        .allow(http::header::COOKIE);
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache).credentials(credentials));
    for field in ["authorization", "cookie"] {
        for _ in 0..2 {
            assert_eq!(
                get_with(&app, "/", &[(field, "a=b")]).await.x_cache(),
                "BYPASS"
            );
        }
    }
}

#[derive(Clone)]
struct Tenant(&'static str);

fn of_tenant(tenant: Option<&'static str>, fields: &[(&str, &str)]) -> Request<Body> {
    let mut asked = request("GET", "/", fields);
    if let Some(tenant) = tenant {
        asked.extensions_mut().insert(Tenant(tenant));
    }
    asked
}

fn by_tenant(layer: ResponseCacheLayer) -> ResponseCacheLayer {
    layer.partition_by("tenant", |head| {
        head.extensions
            .get::<Tenant>()
            .map(|tenant| tenant.0.to_owned())
    })
}

fn tenants(fields: &'static [(&'static str, &'static str)]) -> Origin {
    Origin::new(move |call, request| {
        let tenant = request.extensions().get::<Tenant>().map(|tenant| tenant.0);
        std::future::ready(response(200, fields, format!("{call} {tenant:?}")))
    })
}

#[tokio::test]
async fn each_partition_has_entries_of_its_own_whatever_credentials_come() {
    let (cache, _clock) = cache();
    let origin = tenants(&[]);
    let app = origin.behind(&by_tenant(ResponseCacheLayer::new(&cache)));
    let signed_in = [
        ("authorization", "t"),
        ("cookie", "s=1"),
        ("x-api-key", "k"),
    ];
    for round in 0..2 {
        for (call, tenant) in [(1, "a"), (2, "b"), (3, "")] {
            let answer = send(&app, of_tenant(Some(tenant), &signed_in)).await;
            assert_eq!(answer.text(), format!("{call} Some({tenant:?})"));
            assert_eq!(answer.is_hit(), round == 1);
        }
    }
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn no_partition_means_no_sharing() {
    let (cache, _clock) = cache();
    let origin = tenants(&[("cache-control", "public, max-age=600")]);
    let app = origin.behind(&by_tenant(ResponseCacheLayer::new(&cache)));
    send(&app, of_tenant(Some("a"), &[])).await;
    for call in 2..=3 {
        let answer = send(&app, of_tenant(None, &[])).await;
        assert_eq!(answer.text(), format!("{call} None"));
        assert_eq!(
            (answer.x_cache(), &*detail(&answer)),
            ("BYPASS", "partition")
        );
    }
}

#[tokio::test]
async fn a_partition_lifts_no_private_and_no_set_cookie() {
    for (fields, reason) in [
        (&[("cache-control", "private, max-age=600")][..], "private"),
        (&[("cache-control", "no-store")][..], "no-store"),
        (&[("set-cookie", "a=b")][..], "set-cookie"),
    ] {
        let (cache, _clock) = cache();
        let origin = tenants(fields);
        let app = origin.behind(&by_tenant(ResponseCacheLayer::new(&cache)));
        let first = send(&app, of_tenant(Some("a"), &[])).await;
        assert_eq!(detail(&first), reason);
        assert!(
            !send(&app, of_tenant(Some("a"), &[])).await.is_hit(),
            "{fields:?}"
        );
    }
}

#[tokio::test]
async fn layers_with_closures_of_their_own_share_nothing_and_clones_do() {
    let (cache, _clock) = cache();
    let origin = tenants(&[]);
    let layer = by_tenant(ResponseCacheLayer::new(&cache));
    let other = by_tenant(ResponseCacheLayer::new(&cache));
    let clone = layer.clone().ttl(std::time::Duration::from_secs(5));
    let plain = ResponseCacheLayer::new(&cache);
    send(&origin.behind(&layer), of_tenant(Some("a"), &[])).await;
    assert!(
        send(&origin.behind(&clone), of_tenant(Some("a"), &[]))
            .await
            .is_hit()
    );
    for layer in [other, plain] {
        assert!(
            !send(&origin.behind(&layer), of_tenant(Some("a"), &[]))
                .await
                .is_hit()
        );
    }
}
