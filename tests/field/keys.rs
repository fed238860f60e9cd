//! Bugs seen elsewhere, each with a test: one resource never answers for another, and limits inside
//! and outside.

use crate::support::{
    App, Origin, app, cache, get, get_with, request,
    scripted::{Gate, response},
    send, settle,
};
use axum::{
    Router,
    body::Body,
    extract::{Path, RawQuery},
    routing::get as route_get,
};
use http::{Request, Uri, Version};
use http_body_util::BodyExt;
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_response_cache::ResponseCacheLayer;

#[tokio::test]
async fn one_path_or_query_never_answers_for_another() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let all = [
        "/",
        "/a",
        "/b",
        "/A",
        "/a/",
        "//a",
        "/a//",
        "/a/b",
        "/a%2Fb",
        "/a%2fb",
        "/%61",
        "/a?",
        "/?a",
        "/a?q=a",
        "/a?q=b",
        "/a?q=a&",
        "/a?q=a&q=b",
        "/a?q=b&q=a",
        "/a?q=ab",
        "/a?q=a%20b",
        "/a?q=a+b",
        "/a?Q=a",
        "/a;v=1",
        "/aq=a",
        "/ab",
        "/a?b",
        "/a/?b",
        "/a?/b",
        "/*",
        "/a?*",
    ];
    for round in 0..2 {
        for (index, path) in all.iter().enumerate() {
            let answer = get(&app, path).await;
            assert_eq!(answer.text(), format!("{} GET {path}", index + 1));
            assert_eq!(answer.is_hit(), round == 1, "{path}");
        }
    }
    assert_eq!(origin.calls(), all.len());
}

#[tokio::test]
async fn a_handler_with_a_path_extractor_answers_for_its_own_path() {
    let (cache, _clock) = cache();
    let router = Router::new()
        .route(
            "/users/{id}",
            route_get(
                |Path(id): Path<String>, RawQuery(query): RawQuery| async move {
                    format!("user {id} {query:?}")
                },
            ),
        )
        .layer(ResponseCacheLayer::new(&cache));
    let app: App = BoxCloneSyncService::new(router);
    for round in 0..2 {
        for id in ["1", "2", "12"] {
            let answer = get(&app, &format!("/users/{id}")).await;
            assert_eq!(answer.text(), format!("user {id} None"));
            assert_eq!(answer.is_hit(), round == 1);
            let answer = get(&app, &format!("/users/{id}?x={id}")).await;
            assert_eq!(answer.text(), format!("user {id} Some(\"x={id}\")"));
            assert_eq!(answer.is_hit(), round == 1);
        }
    }
}

/// Says for which host it answers.
fn tenants() -> Origin {
    Origin::new(|call, request| {
        let named = request.headers().get("host");
        let named = named.map(|host| host.to_str().unwrap().to_owned());
        let authority = request.uri().authority().map(ToString::to_string);
        let host = authority.or(named);
        std::future::ready(response(200, &[], format!("{call} {host:?}")))
    })
}

#[tokio::test]
async fn one_host_never_answers_for_another() {
    let (cache, _clock) = cache();
    let origin = tenants();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let hosts = [
        "a.example",
        "b.example",
        "a.example:8080",
        "a.example.",
        "aa.example",
        "",
    ];
    for round in 0..2 {
        for host in hosts {
            let answer = get_with(&app, "/", &[("host", host)]).await;
            assert!(
                answer.text().ends_with(&format!("Some({host:?})")),
                "{host}"
            );
            assert_eq!(answer.is_hit(), round == 1, "{host}");
        }
    }
}

/// HTTP/2 names the authority in the URI and no `Host`.
fn absolute(uri: &'static str, version: Version, host: Option<&str>) -> Request<Body> {
    let mut asked = Request::builder()
        .uri(Uri::from_static(uri))
        .version(version);
    if let Some(host) = host {
        asked = asked.header("host", host);
    }
    asked.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn the_authority_of_the_uri_tells_hosts_apart() {
    let (cache, _clock) = cache();
    let origin = tenants();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for version in [Version::HTTP_2, Version::HTTP_11] {
        cache.invalidate(tower_response_cache::Selector::all());
        for round in 0..2 {
            for (uri, host) in [
                ("http://a.example/", "a.example"),
                ("http://b.example/", "b.example"),
                ("http://b.example:81/", "b.example:81"),
            ] {
                let host_field = (version == Version::HTTP_11).then_some(host);
                let answer = send(&app, absolute(uri, version, host_field)).await;
                assert!(answer.text().ends_with(&format!("Some({host:?})")), "{uri}");
                assert_eq!(answer.is_hit(), round == 1, "{uri}");
            }
        }
    }
}

#[tokio::test]
async fn a_host_is_the_same_in_any_case_and_with_the_default_port_of_its_scheme() {
    let (cache, _clock) = cache();
    let origin = tenants();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get_with(&app, "/", &[("host", "a.example")]).await;
    assert!(get_with(&app, "/", &[("host", "A.Example")]).await.is_hit());
    send(&app, absolute("http://b.example/", Version::HTTP_2, None)).await;
    for (uri, is_hit) in [
        ("http://b.example:80/", true),
        ("http://B.EXAMPLE/", true),
        ("http://b.example:443/", false),
    ] {
        let answer = send(&app, absolute(uri, Version::HTTP_2, None)).await;
        assert_eq!(answer.is_hit(), is_hit, "{uri}");
    }
}

#[tokio::test]
async fn https_does_not_answer_for_http() {
    let (cache, _clock) = cache();
    let origin = tenants();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for uri in ["http://a.example/", "https://a.example/"] {
        let answer = send(&app, absolute(uri, Version::HTTP_2, None)).await;
        assert!(!answer.is_hit(), "{uri}");
    }
}

#[tokio::test]
async fn two_authorities_in_one_request_are_passed_on() {
    let (cache, _clock) = cache();
    let origin = tenants();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get_with(&app, "/", &[("host", "a.example")]).await;
    for call in 2..=3 {
        let asked = absolute("http://b.example/", Version::HTTP_11, Some("a.example"));
        let answer = send(&app, asked).await;
        assert_eq!(answer.text(), format!("{call} Some(\"b.example\")"));
        assert!(
            answer
                .cache_status()
                .ends_with("fwd=bypass; detail=host-conflict")
        );
    }
    let twice = [("host", "a.example"), ("host", "b.example")];
    let answer = get_with(&app, "/", &twice).await;
    assert!(
        answer
            .cache_status()
            .ends_with("fwd=bypass; detail=host-conflict")
    );
    assert_eq!(origin.calls(), 4);
}

/// Axum takes the prefix off the URI that a nested router sees: `/` is both of them.
#[tokio::test]
async fn two_nested_routers_with_one_cache_do_not_answer_for_each_other() {
    let (cache, _clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let area = |name: &'static str| {
        let page = move |uri: Uri| std::future::ready(format!("{name} {uri}"));
        Router::new()
            .route("/", route_get(page))
            .route("/list", route_get(page).layer(layer.clone()))
    };
    let router = Router::new()
        .nest("/users", area("users").layer(layer.clone()))
        .nest("/orders", area("orders").layer(layer.clone()))
        .nest_service(
            "/deep",
            Router::new().nest("/users", area("deep").layer(layer.clone())),
        );
    let app: App = BoxCloneSyncService::new(router);
    for round in 0..2 {
        for (path, text) in [
            ("/users", "users /"),
            ("/orders", "orders /"),
            ("/deep/users", "deep /"),
            ("/users/list", "users /list"),
            ("/orders/list", "orders /list"),
            ("/deep/users/list", "deep /list"),
            ("/users?a", "users /?a"),
            ("/orders?a", "orders /?a"),
        ] {
            let answer = get(&app, path).await;
            assert_eq!(answer.text(), text, "{path}");
            assert_eq!(answer.is_hit(), round == 1, "{path}");
        }
    }
}

/// An origin whose calls on `/slow` wait before a door.
fn slow_and_quick() -> (Gate, Origin) {
    let gate = Gate::shut();
    let held = gate.clone();
    let origin = Origin::new(move |call, request| {
        let held = held.clone();
        async move {
            let path = request.uri().path().to_owned();
            if path.starts_with("/slow") {
                held.pass().await;
            }
            response(200, &[], format!("{call} {path}"))
        }
    });
    (gate, origin)
}

async fn answer_of<S, B>(service: S, path: &str) -> (bool, String)
where
    S: tower::Service<Request<Body>, Response = http::Response<B>>,
    S::Error: std::fmt::Debug,
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    let response = service.oneshot(request("GET", path, &[])).await.unwrap();
    let is_hit = response.headers()["x-cache"] == "HIT";
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (is_hit, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn hits_are_served_while_a_concurrency_limit_inside_is_exhausted() {
    let (cache, _clock) = cache();
    let (gate, origin) = slow_and_quick();
    let inner = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(origin.service());
    let app = app(
        &ResponseCacheLayer::new(&cache),
        BoxCloneSyncService::new(inner),
    );
    assert_eq!(get(&app, "/quick").await.text(), "1 /quick");
    let ask = |path: &'static str| {
        let app = app.clone();
        tokio::spawn(async move { get(&app, path).await })
    };
    let slow = ask("/slow");
    settle().await;
    let queued = ask("/other");
    settle().await;
    assert_eq!(origin.calls(), 2, "the limit holds");
    for _ in 0..100 {
        let answer = get(&app, "/quick").await;
        assert_eq!((answer.is_hit(), answer.text()), (true, "1 /quick"));
    }
    gate.open();
    assert_eq!(slow.await.unwrap().text(), "2 /slow");
    assert_eq!(queued.await.unwrap().text(), "3 /other");
}

#[tokio::test]
async fn a_buffer_inside_works_and_hits_pass_it_by() {
    let (cache, _clock) = cache();
    let (gate, origin) = slow_and_quick();
    let service = ServiceBuilder::new()
        .layer(ResponseCacheLayer::new(&cache))
        .buffer(1)
        .concurrency_limit(1)
        .service(origin.service());
    assert_eq!(
        answer_of(service.clone(), "/quick").await,
        (false, "1 /quick".into())
    );
    let ask = |path: &'static str| tokio::spawn(answer_of(service.clone(), path));
    let slow: Vec<_> = ["/slow/1", "/slow/2", "/slow/3", "/slow/4"].map(ask).into();
    settle().await;
    for _ in 0..100 {
        assert_eq!(
            answer_of(service.clone(), "/quick").await,
            (true, "1 /quick".into())
        );
    }
    gate.open();
    for (index, slow) in slow.into_iter().enumerate() {
        let (is_hit, text) = slow.await.unwrap();
        assert!(!is_hit);
        assert!(text.ends_with(&format!("/slow/{}", index + 1)));
    }
    assert_eq!(origin.calls(), 5);
}

#[tokio::test]
async fn a_concurrency_limit_outside_counts_hits_and_misses_alike() {
    let (cache, _clock) = cache();
    let (gate, origin) = slow_and_quick();
    let service = ServiceBuilder::new()
        .concurrency_limit(2)
        .layer(ResponseCacheLayer::new(&cache))
        .service(origin.service());
    assert_eq!(
        answer_of(service.clone(), "/quick").await,
        (false, "1 /quick".into())
    );
    let slow = tokio::spawn(answer_of(service.clone(), "/slow"));
    settle().await;
    for _ in 0..100 {
        // One place is taken by the slow one; a hit gives the other back.
        assert_eq!(
            answer_of(service.clone(), "/quick").await,
            (true, "1 /quick".into())
        );
    }
    gate.open();
    assert_eq!(slow.await.unwrap(), (false, "2 /slow".into()));
}

#[tokio::test]
async fn a_buffer_outside_works() {
    let (cache, _clock) = cache();
    let (gate, origin) = slow_and_quick();
    let service = ServiceBuilder::new()
        .buffer(4)
        .layer(ResponseCacheLayer::new(&cache))
        .service(origin.service());
    let slow: Vec<_> = (0..50)
        .map(|_| tokio::spawn(answer_of(service.clone(), "/slow")))
        .collect();
    settle().await;
    assert_eq!(answer_of(service.clone(), "/quick").await.1, "2 /quick");
    assert_eq!(
        answer_of(service.clone(), "/quick").await,
        (true, "2 /quick".into())
    );
    gate.open();
    for slow in slow {
        assert_eq!(slow.await.unwrap().1, "1 /slow");
    }
    assert_eq!(origin.calls(), 2);
}
