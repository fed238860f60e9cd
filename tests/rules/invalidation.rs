//! What the handle makes unusable: a resource, that of a request, everything; also during a fill.

use crate::support::{
    self, App, Origin, cache, get, get_with,
    scripted::{Gate, response},
    send, settle,
};
use axum::body::Body;
use http::Request;
use tower_response_cache::{Cache, Query, ResponseCacheLayer, Selector};

async fn is_hit(app: &App, path: &str) -> bool {
    get(app, path).await.is_hit()
}

async fn warm(app: &App, paths: &[&str]) {
    for path in paths {
        get(app, path).await;
        assert!(is_hit(app, path).await, "{path}");
    }
}

fn start() -> (Cache, Origin, App) {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    (cache, origin, app)
}

#[tokio::test]
async fn a_resource_is_its_authority_path_and_query() {
    let paths = ["/a", "/a?q=1", "/a?q=2", "/b", "/a/", "/a?"];
    for selected in paths {
        let (cache, _origin, app) = start();
        warm(&app, &paths).await;
        cache.invalidate(Selector::resource("test", selected));
        for path in paths {
            assert_eq!(
                is_hit(&app, path).await,
                path != selected,
                "{path} after {selected}"
            );
        }
        assert!(is_hit(&app, selected).await, "stored again");
    }
}

#[tokio::test]
async fn an_invalidated_entry_is_asked_for_again() {
    let (cache, origin, app) = start();
    warm(&app, &["/a"]).await;
    cache.invalidate(Selector::resource("test", "/a"));
    let next = get(&app, "/a").await;
    assert_eq!(next.text(), "2 GET /a");
    assert!(
        next.cache_status().contains("fwd=stale"),
        "{}",
        next.cache_status()
    );
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn another_authority_is_another_resource() {
    let (cache, _origin, app) = start();
    warm(&app, &["/a"]).await;
    for authority in ["other", "test:81", "test.example", ""] {
        cache.invalidate(Selector::resource(authority, "/a"));
        assert!(is_hit(&app, "/a").await, "{authority}");
    }
    cache.invalidate(Selector::resource("TEST:80", "/a"));
    assert!(
        !is_hit(&app, "/a").await,
        "case and the default port make no difference"
    );
}

#[tokio::test]
async fn the_resource_of_a_request_is_what_a_get_of_its_uri_shows() {
    let (cache, _origin, app) = start();
    warm(&app, &["/a?q=1", "/a"]).await;
    let post = Request::post("/a?q=1")
        .header("host", "test")
        .body(())
        .unwrap();
    cache.invalidate(Selector::request(&post));
    assert!(!is_hit(&app, "/a?q=1").await);
    assert!(is_hit(&app, "/a").await);
    let (parts, ()) = Request::delete("http://test/a")
        .body(())
        .unwrap()
        .into_parts();
    cache.invalidate(Selector::request(&parts));
    assert!(!is_hit(&app, "/a").await);
}

#[tokio::test]
async fn all_is_everything() {
    let (cache, _origin, app) = start();
    let paths = ["/a", "/b?c", "/d"];
    warm(&app, &paths).await;
    cache.invalidate(Selector::all());
    for path in paths {
        assert!(!is_hit(&app, path).await, "{path}");
        assert!(is_hit(&app, path).await, "{path}");
    }
}

#[tokio::test]
async fn a_resource_covers_its_variants_its_partitions_and_the_settings_of_every_layer() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[("vary", "accept")]);
    let layer = ResponseCacheLayer::new(&cache);
    let user = |head: &http::request::Parts| Some(format!("{:?}", head.headers.get("x-user")));
    let layers = [
        layer.clone(),
        layer.clone().ignore_host(),
        layer.clone().query(Query::ignore(["utm_*"])),
        layer.clone().vary_on_cookie("lang"),
        layer.clone().partition_by("user", user),
    ];
    let apps: Vec<_> = layers.iter().map(|layer| origin.behind(layer)).collect();
    let asked: [&[(&str, &str)]; 3] = [
        &[("accept", "text/html")],
        &[("accept", "text/plain"), ("x-user", "a")],
        &[("x-user", "b"), ("hx-request", "true")],
    ];
    for expected in [false, true] {
        for app in &apps {
            for fields in asked {
                assert_eq!(get_with(app, "/a?q=1", fields).await.is_hit(), expected);
            }
        }
    }
    cache.invalidate(Selector::resource("test", "/a?q=1"));
    for (index, app) in apps.iter().enumerate() {
        for fields in asked {
            let answer = get_with(app, "/a?q=1", fields).await;
            assert!(!answer.is_hit(), "layer {index}, {fields:?}");
        }
    }
}

/// An origin that waits before a door and then answers with its number.
fn held() -> (Gate, Origin) {
    let gate = Gate::shut();
    let held = gate.clone();
    let origin = Origin::new(move |call, _| {
        let held = held.clone();
        async move {
            held.pass().await;
            response(200, &[], format!("call {call}"))
        }
    });
    (gate, origin)
}

#[tokio::test]
async fn an_invalidation_during_a_fill_wins() {
    type Make = fn() -> Selector;
    let rows: [(&str, Make, bool); 5] = [
        ("all", Selector::all, true),
        ("the resource", || Selector::resource("test", "/a"), true),
        (
            "the request",
            || Selector::request(&Request::post("http://test/a").body(()).unwrap()),
            true,
        ),
        (
            "another resource",
            || Selector::resource("test", "/b"),
            false,
        ),
        ("another host", || Selector::resource("other", "/a"), false),
    ];
    for (sentence, selector, wins) in rows {
        let (cache, _clock) = cache();
        let (gate, origin) = held();
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let early = tokio::spawn({
            let app = app.clone();
            async move { get(&app, "/a").await }
        });
        settle().await;
        assert_eq!(origin.calls(), 1);
        cache.invalidate(selector());
        gate.open();
        assert_eq!(
            early.await.unwrap().text(),
            "call 1",
            "its own client is answered"
        );
        let next = get(&app, "/a").await;
        assert_eq!(next.is_hit(), !wins, "{sentence}");
        assert_eq!(
            next.text(),
            if wins { "call 2" } else { "call 1" },
            "{sentence}"
        );
        assert!(get(&app, "/a").await.is_hit());
    }
}

#[tokio::test]
async fn who_asks_after_an_invalidation_is_not_answered_by_an_earlier_flight() {
    let (cache, _clock) = cache();
    let (gate, origin) = held();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let ask = || {
        let app = app.clone();
        tokio::spawn(async move { get(&app, "/a").await })
    };
    let early = ask();
    settle().await;
    cache.invalidate(Selector::resource("test", "/a"));
    let late = ask();
    settle().await;
    gate.open();
    assert_eq!(early.await.unwrap().text(), "call 1");
    assert_eq!(late.await.unwrap().text(), "call 2");
    assert_eq!(get(&app, "/a").await.text(), "call 2");
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_handler_invalidates_what_it_has_changed() {
    use axum::{Router, extract::State, routing::get as route_get};
    use tower::util::BoxCloneSyncService;
    let (cache, _clock) = cache();
    let value = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let read = value.clone();
    let write = move |State(cache): State<Cache>, request: Request<Body>| async move {
        value.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        cache.invalidate(Selector::request(&request));
    };
    let show = move || std::future::ready(format!("{read:?}"));
    let area = Router::new()
        .route("/counter", route_get(show).post(write))
        .layer(ResponseCacheLayer::new(&cache))
        .with_state(cache.clone());
    // Nested: the handler sees a shorter URI than the client asked for.
    let app: App = BoxCloneSyncService::new(Router::new().nest("/api", area));
    warm(&app, &["/api/counter"]).await;
    for expected in ["1", "2"] {
        send(&app, support::request("POST", "/api/counter", &[])).await;
        let next = get(&app, "/api/counter").await;
        assert_eq!((next.is_hit(), next.text()), (false, expected));
        assert!(is_hit(&app, "/api/counter").await);
    }
}

#[tokio::test]
async fn switching_off_and_on_starts_cold() {
    let (cache, origin, app) = start();
    warm(&app, &["/a"]).await;
    cache.set_enabled(false);
    let off = get(&app, "/a").await;
    assert_eq!((off.x_cache(), off.text()), ("BYPASS", "2 GET /a"));
    assert!(off.cache_status().ends_with("fwd=bypass; detail=disabled"));
    cache.set_enabled(true);
    assert_eq!(get(&app, "/a").await.text(), "3 GET /a");
    assert!(is_hit(&app, "/a").await);
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn invalidations_are_numbered_in_their_order() {
    let (cache, _origin, _app) = start();
    let first = cache.invalidate(Selector::all()).sequence();
    let second = cache.invalidate(Selector::resource("test", "/")).sequence();
    let third = cache.invalidate(Selector::all()).sequence();
    assert!(first < second && second < third);
}
