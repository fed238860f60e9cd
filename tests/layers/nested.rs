//! Layers of one cache around each other: the innermost decides, and nobody waits for itself.

use std::{sync::Arc, time::Duration};

use crate::support::{
    self, Answer, App, Origin, app, cache,
    feed::{FeedBody, feed, whole},
    get as get_page, get_with,
    inner::{Inner, at_once},
    request, send, settle,
};
use axum::{Router, body::Body, extract::Path, routing::get};
use http::{Request, Response};
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_response_cache::{
    Cache, CachePolicy, Query, Reason, ResponseCache, ResponseCacheLayer, Selector, StatusHeaders,
};

/// `layers`, the first innermost, around an origin that waits for a permit and names call and URI.
fn nested(layers: &[ResponseCacheLayer]) -> (Arc<Semaphore>, Origin, App) {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let origin = Origin::new(move |call, request| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            Response::new(Body::from(format!("call {call}: {}", request.uri())))
        }
    });
    let around = |inner, layer| app(layer, inner);
    let nested = layers.iter().fold(origin.service(), around);
    (permits, origin, nested)
}

/// Free of waiting: the origin answers at once.
fn nested_open(layers: &[ResponseCacheLayer]) -> (Origin, App) {
    let (permits, origin, app) = nested(layers);
    permits.add_permits(1000);
    (origin, app)
}

fn clients(app: &App, number: usize, path: &'static str) -> Vec<JoinHandle<Answer>> {
    let client = |_| {
        let app = app.clone();
        tokio::spawn(async move { send(&app, request("GET", path, &[])).await })
    };
    (0..number).map(client).collect()
}

fn assert_empty(cache: &Cache) {
    let stats = cache.stats();
    assert_eq!((stats.flights(), stats.buffered_bytes()), (0, 0), "{stats}");
}

/// Asks 100 times at once, twice (cold, warm): one call, no time passes, one `X-Cache`.
async fn one_call_for_a_hundred(
    name: &str,
    caches: &[&Cache],
    permits: &Semaphore,
    origin: &Origin,
    app: &App,
) {
    let cold = clients(app, 100, "/page");
    settle().await;
    assert_eq!(origin.calls(), 1, "{name}");
    permits.add_permits(1);
    for client in cold {
        let answer = at_once(name, client).await.unwrap();
        assert_eq!(answer.text(), "call 1: /page", "{name}");
        assert!(
            matches!(answer.fields("x-cache")[..], ["MISS" | "HIT"]),
            "{name}"
        );
    }
    assert_eq!(origin.calls(), 1, "{name}");
    for client in clients(app, 100, "/page") {
        let answer = at_once(name, client).await.unwrap();
        assert_eq!(answer.text(), "call 1: /page", "{name}");
        assert_eq!(answer.fields("x-cache"), ["HIT"], "{name}");
    }
    assert_eq!(origin.calls(), 1, "{name}");
    settle().await;
    caches.iter().for_each(|cache| assert_empty(cache));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_cold_clients_of_nested_layers_cost_one_call_and_wait_for_no_time_limit() {
    let minute = Duration::from_secs(60);
    for depth in 2..=3 {
        for settings in ["same", "clones", "other ttl", "other keys"] {
            let (cache, _) = cache();
            let template = ResponseCacheLayer::new(&cache);
            let layers: Vec<_> = (0..depth)
                .map(|n: u32| match settings {
                    "same" => ResponseCacheLayer::new(&cache),
                    "clones" => template.clone(),
                    "other ttl" => template.clone().ttl(minute * (n + 1)),
                    _ => template.clone().query(Query::ignore([format!("x{n}")])),
                })
                .collect();
            let (permits, origin, app) = nested(&layers);
            let name = format!("{settings} settings, {depth} deep");
            one_call_for_a_hundred(&name, &[&cache], &permits, &origin, &app).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn later_cold_keys_cost_one_call_too() {
    // The first key is where the outer layers learn that there is an inner one.
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let (permits, origin, app) = nested(&[layer.clone(), layer.clone(), layer]);
    one_call_for_a_hundred("first", &[&cache], &permits, &origin, &app).await;
    for (n, path) in ["/second", "/third"].into_iter().enumerate() {
        let cold = clients(&app, 100, path);
        settle().await;
        assert_eq!(origin.calls(), n + 2);
        permits.add_permits(1);
        for client in cold {
            let answer = at_once("an answer", client).await.unwrap();
            assert_eq!(answer.text(), format!("call {}: {path}", n + 2));
            assert_eq!(answer.fields("x-cache").len(), 1);
        }
        assert_eq!(origin.calls(), n + 2);
    }
    assert_empty(&cache);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_cold_clients_on_several_threads_cost_one_call() {
    for _ in 0..20 {
        let (cache, _) = cache();
        let layer = ResponseCacheLayer::new(&cache);
        let (origin, app) = nested_open(&[
            layer.clone(),
            layer.clone().ttl(Duration::from_secs(5)),
            layer,
        ]);
        for client in clients(&app, 100, "/page") {
            assert_eq!(client.await.unwrap().text(), "call 1: /page");
        }
        assert_eq!(origin.calls(), 1);
        assert_empty(&cache);
    }
}

#[tokio::test(start_paused = true)]
async fn two_caches_around_each_other_are_two_caches() {
    let (inside, _) = cache();
    let (outside, _) = cache();
    let layers = [
        ResponseCacheLayer::new(&inside),
        ResponseCacheLayer::new(&outside),
    ];
    let (permits, origin, app) = nested(&layers);
    one_call_for_a_hundred("two caches", &[&inside, &outside], &permits, &origin, &app).await;
    assert_eq!(
        (inside.stats().entries(), outside.stats().entries()),
        (1, 1)
    );
    assert_eq!(outside.stats().hits(), 100);
}

#[tokio::test]
async fn the_ttl_of_the_inner_layer_holds() {
    let seconds = Duration::from_secs;
    for (inner, outer, same_key) in [(5, 60, true), (60, 5, true), (5, 60, false), (60, 5, false)] {
        let (cache, clock) = cache();
        let layer = ResponseCacheLayer::new(&cache).jitter(0.0);
        let around = layer.clone().ttl(seconds(outer));
        let around = if same_key {
            around
        } else {
            around.ignore_host()
        };
        let layers = [layer.ttl(seconds(inner)), around];
        let (origin, app) = nested_open(&layers);
        assert_eq!(get_page(&app, "/").await.text(), "call 1: /");
        clock.advance(seconds(inner - 1));
        let hit = get_page(&app, "/").await;
        assert!(hit.is_hit(), "inner {inner}, outer {outer}");
        assert_eq!(hit.text(), "call 1: /");
        assert_eq!(hit.field("age"), (inner - 1).to_string());
        clock.advance(seconds(2));
        let miss = get_page(&app, "/").await;
        assert_eq!((miss.x_cache(), miss.text()), ("MISS", "call 2: /"));
        assert_eq!(origin.calls(), 2);
        assert_eq!(cache.stats().entries(), 1, "the outer one stores nothing");
    }
}

#[tokio::test]
async fn the_key_of_the_inner_layer_holds() {
    // The inner one tells tenants apart, the outer one does not know of them.
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let by_tenant = layer.clone().partition_by("tenant", |head| {
        let tenant = head.headers.get("x-tenant")?;
        Some(tenant.to_str().ok()?.to_owned())
    });
    let origin = Origin::new(|call, request| {
        let tenant = request.headers()["x-tenant"].to_str().unwrap().to_owned();
        std::future::ready(Response::new(Body::from(format!("{call} for {tenant}"))))
    });
    let app = app(&layer, origin.behind(&by_tenant));
    for _ in 0..3 {
        for (n, tenant) in ["a", "b", "c"].into_iter().enumerate() {
            let answer = get_with(&app, "/", &[("x-tenant", tenant)]).await;
            assert_eq!(answer.text(), format!("{} for {tenant}", n + 1));
            assert_eq!(answer.fields("x-cache").len(), 1);
        }
    }
    assert_eq!(origin.calls(), 3);
    assert_eq!(cache.stats().hits(), 6);
}

#[tokio::test(start_paused = true)]
async fn tenants_who_ask_for_one_cold_page_at_once_are_told_apart_by_the_inner_layer() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let by_tenant = layer.clone().partition_by("tenant", |head| {
        let tenant = head.headers.get("x-tenant")?;
        Some(tenant.to_str().ok()?.to_owned())
    });
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let origin = Origin::new(move |_, request| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let tenant = request.headers()["x-tenant"].to_str().unwrap().to_owned();
            Response::new(Body::from(format!("for {tenant}")))
        }
    });
    let app = app(&layer, origin.behind(&by_tenant));
    let mut asking = Vec::new();
    for n in 0..40 {
        let tenant = ["a", "b", "c", "d"][n % 4];
        let app = app.clone();
        let client =
            tokio::spawn(async move { get_with(&app, "/", &[("x-tenant", tenant)]).await });
        asking.push((tenant, client));
    }
    settle().await;
    permits.add_permits(100);
    for (tenant, client) in asking {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.text(), format!("for {tenant}"));
    }
    assert_eq!(origin.calls(), 4);
    settle().await;
    assert_empty(&cache);
}

#[tokio::test]
async fn what_the_inner_layer_bypasses_the_outer_one_never_answers() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let inner = layer
        .clone()
        .bypass_when(|head| head.uri.path() == "/live" || head.headers.contains_key("x-debug"));
    let (origin, app) = nested_open(&[inner, layer]);
    for call in 1..=3 {
        let answer = get_page(&app, "/live").await;
        assert_eq!(answer.text(), format!("call {call}: /live"));
        assert_eq!(answer.fields("x-cache"), ["BYPASS"]);
    }
    // Also where the first answer came from a request that was stored, and the other way round.
    assert_eq!(get_page(&app, "/page").await.text(), "call 4: /page");
    for call in 5..=6 {
        let answer = get_with(&app, "/page", &[("x-debug", "1")]).await;
        assert_eq!(answer.text(), format!("call {call}: /page"));
        assert_eq!(answer.x_cache(), "BYPASS");
    }
    let hit = get_page(&app, "/page").await;
    assert_eq!((hit.x_cache(), hit.text()), ("HIT", "call 4: /page"));
    assert_eq!(origin.calls(), 6);
    assert_eq!(cache.stats().stored(), 1);
    assert_eq!(cache.stats().bypasses(Reason::BypassWhen), 5);
}

#[tokio::test]
async fn what_the_inner_layer_refuses_to_store_the_outer_one_does_not_store() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    for inner in [
        layer.clone().store_when(|_| false),
        layer.clone().ttl(Duration::ZERO),
        layer.clone().max_body_size(1),
    ] {
        let (origin, app) = nested_open(&[inner, layer.clone()]);
        for call in 1..=3 {
            let answer = get_page(&app, "/page").await;
            assert_eq!(answer.text(), format!("call {call}: /page"));
            assert_eq!(answer.fields("x-cache"), ["MISS"]);
        }
        assert_eq!(origin.calls(), 3);
    }
    assert_eq!(cache.stats().entries(), 0);
}

#[tokio::test]
async fn the_inner_layer_is_known_whatever_it_says_of_itself() {
    for status in [
        StatusHeaders::None,
        StatusHeaders::XCache,
        StatusHeaders::Full,
    ] {
        let (cache, clock) = cache();
        let layer = ResponseCacheLayer::new(&cache);
        let inner = layer
            .clone()
            .ttl(Duration::from_secs(5))
            .status_headers(status);
        let (origin, app) = nested_open(&[inner, layer]);
        for _ in 0..3 {
            let answer = get_page(&app, "/").await;
            assert_eq!(answer.text(), "call 1: /", "{status:?}");
            assert!(answer.fields("x-cache").len() <= 1, "{status:?}");
        }
        clock.advance(Duration::from_secs(6));
        assert_eq!(get_page(&app, "/").await.text(), "call 2: /", "{status:?}");
        assert_eq!(origin.calls(), 2);
    }
}

#[tokio::test]
async fn a_middleware_between_the_layers_changes_nothing() {
    // Compression makes a new body and new fields of what the inner layer answers.
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let origin = Origin::new(|call, _| {
        let body = format!("{call} {}", "x".repeat(1000));
        std::future::ready(
            Response::builder()
                .header("content-type", "text/plain")
                .body(Body::from(body))
                .unwrap(),
        )
    });
    let inner = origin.behind(&layer.clone().ttl(Duration::from_secs(5)));
    let compressing = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(Body::new))
        .layer(CompressionLayer::new())
        .service(inner);
    let app = app(&layer, App::new(compressing));
    for (n, coding) in ["gzip", "identity", "br", "gzip"].into_iter().enumerate() {
        let answer = get_with(&app, "/", &[("accept-encoding", coding)]).await;
        assert_eq!(
            answer.fields("x-cache"),
            [if n == 0 { "MISS" } else { "HIT" }]
        );
        if coding == "identity" {
            assert_eq!(answer.field("content-encoding"), "");
            assert!(answer.text().starts_with("1 xxx"));
        } else {
            assert_eq!(answer.field("content-encoding"), coding, "request {n}");
        }
    }
    assert_eq!(origin.calls(), 1);
    clock.advance(Duration::from_secs(6));
    assert!(get_page(&app, "/").await.text().starts_with("2 xxx"));
}

#[tokio::test]
async fn fields_that_are_set_between_the_layers_are_on_every_answer() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let origin = Origin::with_fields(&[]);
    let between = ServiceBuilder::new()
        .map_response(|mut response: Response<Body>| {
            let frame = "DENY".parse().unwrap();
            response.headers_mut().insert("x-frame-options", frame);
            response
        })
        .service(origin.behind(&layer));
    let app = app(&layer, App::new(between));
    for n in 0..4 {
        let answer = get_page(&app, "/").await;
        assert_eq!(answer.text(), "1 GET /");
        assert_eq!(
            answer.fields("x-cache"),
            [if n == 0 { "MISS" } else { "HIT" }]
        );
        assert_eq!(answer.field("x-frame-options"), "DENY", "request {n}");
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_rewrite_between_the_layers_never_answers_one_page_for_another() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let origin = Origin::with_fields(&[]);
    // `/new` is made from `/page`, and `/page` from `/old`.
    let between = ServiceBuilder::new()
        .map_request(|mut request: Request<Body>| {
            *request.uri_mut() = match request.uri().path() {
                "/new" => "/page".parse().unwrap(),
                _ => "/old".parse().unwrap(),
            };
            request
        })
        .service(origin.behind(&layer));
    let app = app(&layer, App::new(between));
    for _ in 0..3 {
        assert_eq!(get_page(&app, "/new").await.text(), "1 GET /page");
        assert_eq!(get_page(&app, "/page").await.text(), "2 GET /old");
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn an_invalidation_reaches_what_the_inner_layer_stored() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let (origin, app) = nested_open(&[layer.clone(), layer.clone(), layer]);
    assert_eq!(get_page(&app, "/").await.text(), "call 1: /");
    assert!(get_page(&app, "/").await.is_hit());
    cache.invalidate(Selector::resource("test", "/"));
    let miss = get_page(&app, "/").await;
    assert_eq!((miss.x_cache(), miss.text()), ("MISS", "call 2: /"));
    assert!(get_page(&app, "/").await.is_hit());
    assert_eq!(origin.calls(), 2);
}

// ---- bodies that stream ----

type Twice = ResponseCache<support::inner::Shared>;

fn twice(cache: &Cache, inner: &Inner<FeedBody>) -> Twice {
    let layer = ResponseCacheLayer::new(cache);
    let around = layer.clone().ttl(Duration::from_secs(5));
    around.layer(layer.layer(inner.clone()))
}

#[tokio::test(start_paused = true)]
async fn a_streamed_body_passes_nested_layers_from_its_first_byte_on() {
    use http_body_util::BodyExt;

    for length in [None, Some(10)] {
        let (cache, _) = cache();
        let (hand, body) = feed(length);
        let first = std::sync::Mutex::new(Some(body));
        let inner: Inner = Inner::new(move |call, _| {
            let body = first.lock().unwrap().take();
            let body = body.unwrap_or_else(|| whole(format!("own {call}")));
            std::future::ready(Ok(Response::new(body)))
        });
        let service = twice(&cache, &inner);
        let page = || request("GET", "/", &[]);
        let starting = at_once("the head", service.clone().oneshot(page())).await;
        let mut body = starting.unwrap().into_body();
        hand.data("first");
        let frame = at_once("the first byte", body.frame()).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "first");
        let others: Vec<_> = (0..99)
            .map(|_| {
                let service = service.clone();
                tokio::spawn(async move {
                    let response = service.oneshot(page()).await.unwrap();
                    response.into_body().collect().await.unwrap().to_bytes()
                })
            })
            .collect();
        settle().await;
        hand.data(" last");
        drop(hand);
        for other in others {
            let body = at_once("an answer", other).await.unwrap();
            assert_eq!(body, "first last", "length {length:?}");
        }
        let rest = at_once("the rest", body.collect()).await.unwrap();
        assert_eq!(rest.to_bytes(), " last");
        assert_eq!(inner.calls(), 1, "length {length:?}");
        let hit = at_once("a hit", service.oneshot(page())).await.unwrap();
        assert_eq!(hit.headers()["x-cache"], "HIT");
        drop(hit);
        settle().await;
        assert_empty(&cache);
    }
}

#[tokio::test(start_paused = true)]
async fn a_starter_that_leaves_nested_layers_costs_no_second_call() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let (permits, origin, app) = nested(&[layer.clone(), layer.clone(), layer]);
    let starter = clients(&app, 1, "/page").remove(0);
    settle().await;
    let others = clients(&app, 20, "/page");
    settle().await;
    starter.abort();
    settle().await;
    permits.add_permits(1);
    for client in others {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.text(), "call 1: /page");
    }
    assert_eq!(origin.calls(), 1);
    settle().await;
    assert_empty(&cache);
}

#[tokio::test]
async fn a_handler_that_wants_nothing_stored_is_heard_by_every_cache_around_it() {
    let policies = [
        CachePolicy::no_store(),
        CachePolicy::ttl(Duration::ZERO),
        CachePolicy::new(),
    ];
    for policy in policies {
        let is_stored = policy == CachePolicy::new();
        let origin = Origin::new(move |call, _| {
            let mut response = Response::new(Body::from(call.to_string()));
            response.extensions_mut().insert(policy.clone());
            std::future::ready(response)
        });
        let ((inner, _), (outer, _)) = (cache(), cache());
        let within = origin.behind(&ResponseCacheLayer::new(&inner));
        let app = app(&ResponseCacheLayer::new(&outer), within);
        get_page(&app, "/").await;
        assert_eq!(get_page(&app, "/").await.is_hit(), is_stored);
        assert_eq!(origin.calls(), if is_stored { 1 } else { 2 });
    }
}

// ---- axum ----

/// A router with layered and unlayered routes, behind `outer`; each answer names its handler, the
/// call and the path.
fn routed(cache: &Cache, origin: &Origin) -> Router {
    let layer = ResponseCacheLayer::new(cache);
    let service = |name: &'static str| {
        let service = origin.service();
        tower::service_fn(move |request: Request<Body>| {
            let service = service.clone();
            async move {
                let response = service.oneshot(request).await?;
                let (head, body) = response.into_parts();
                let body = axum::body::to_bytes(body, 1000).await.unwrap();
                let body = [name.as_bytes(), b" ", &body[..]].concat();
                Ok::<_, std::convert::Infallible>(Response::from_parts(head, Body::from(body)))
            }
        })
    };
    let five = layer.clone().ttl(Duration::from_secs(5));
    Router::new()
        .route_service("/five/{id}", five.layer(service("five")))
        .route_service("/plain/{id}", service("plain"))
        .route(
            "/id/{id}",
            get(|Path(id): Path<String>| async move { id }).layer(layer),
        )
}

#[tokio::test(start_paused = true)]
async fn a_layered_route_inside_a_layered_router_keeps_its_own_ttl() {
    for around in [false, true] {
        let (cache, clock) = cache();
        let origin = Origin::with_fields(&[]);
        let router = routed(&cache, &origin);
        let outer = ResponseCacheLayer::new(&cache);
        let app = if around {
            support::app(&outer, App::new(router))
        } else {
            App::new(router.layer(outer))
        };
        for path in ["/five/1", "/five/2", "/plain/1"] {
            let cold: Vec<_> = (0..100)
                .map(|_| {
                    let app = app.clone();
                    tokio::spawn(async move { get_page(&app, path).await })
                })
                .collect();
            let calls = origin.calls();
            let mut first = None;
            for client in cold {
                let answer = at_once("an answer", client).await.unwrap();
                let text = answer.text().to_owned();
                assert!(text.ends_with(&format!("GET {path}")), "{text}");
                assert_eq!(*first.get_or_insert_with(|| text.clone()), text);
                assert_eq!(answer.fields("x-cache").len(), 1);
            }
            assert_eq!(origin.calls(), calls + 1, "{path}, around: {around}");
        }
        clock.advance(Duration::from_secs(6));
        assert_eq!(get_page(&app, "/five/1").await.text(), "five 4 GET /five/1");
        assert_eq!(
            get_page(&app, "/plain/1").await.text(),
            "plain 3 GET /plain/1"
        );
        assert!(get_page(&app, "/plain/1").await.is_hit());
        assert!(get_page(&app, "/five/1").await.is_hit());
        for id in ["a", "b", "a"] {
            assert_eq!(get_page(&app, &format!("/id/{id}")).await.text(), id);
        }
        settle().await;
        assert_empty(&cache);
    }
}

#[tokio::test]
async fn a_304_of_the_inner_layer_is_no_answer_to_who_has_not_asked_for_one() {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicBool, Ordering},
    };
    let (cache, clock) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let page = || {
        Response::builder()
            .header("etag", "\"a\"")
            .header("cache-control", "max-age=10")
            .body(Body::from("page"))
            .unwrap()
    };
    let origin = Origin::new(move |_, _| std::future::ready(page()));
    let inner = app(&layer, origin.service());
    // What stands between the layers answers by itself, at first.
    let by_itself = Arc::new(AtomicBool::new(true));
    let is_by_itself = by_itself.clone();
    let between =
        tower::util::BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
            let (inner, answers) = (inner.clone(), is_by_itself.load(Ordering::SeqCst));
            async move {
                match answers {
                    true => Ok::<_, Infallible>(page()),
                    false => inner.oneshot(request).await,
                }
            }
        }));
    let app = app(&layer, between);
    assert_eq!(get_page(&app, "/").await.text(), "page");
    by_itself.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(11));
    let validated = get_page(&app, "/").await;
    assert_eq!((validated.status.as_u16(), validated.text()), (200, "page"));
    // And from then on the inner layer answers.
    for _ in 0..2 {
        let hit = get_page(&app, "/").await;
        assert_eq!((hit.x_cache(), hit.text()), ("HIT", "page"));
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn what_the_inner_layer_serves_stale_the_outer_one_does_not_store() {
    for window in ["stale-while-revalidate", "stale-if-error"] {
        let (cache, clock) = cache();
        let origin = Origin::new(move |call, _| {
            let response = Response::builder()
                .status(if call == 1 { 200 } else { 503 })
                .header("cache-control", format!("max-age=10, {window}=10000"))
                .header("etag", "\"a\"");
            std::future::ready(response.body(Body::from(call.to_string())).unwrap())
        });
        let layer = ResponseCacheLayer::new(&cache);
        let app = app(&layer, origin.behind(&layer));
        assert_eq!(get_page(&app, "/").await.text(), "1");
        settle().await;
        assert_eq!(cache.stats().entries(), 1, "{window}");
        // So long that the outer layer has forgotten who answers.
        clock.advance(Duration::from_secs(700));
        let stale = get_page(&app, "/").await;
        settle().await;
        assert_eq!((stale.x_cache(), stale.text()), ("STALE", "1"), "{window}");
        assert_eq!(cache.stats().entries(), 1, "{window}");
        assert_empty(&cache);
    }
}

#[tokio::test(start_paused = true)]
async fn where_an_inner_layer_answers_by_now_the_outer_one_serves_nothing_stale() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[(
        "cache-control",
        "max-age=10, stale-while-revalidate=60, stale-if-error=60",
    )]);
    let layer = ResponseCacheLayer::new(&cache);
    // Only some requests find a layer further in, which keeps for longer.
    let inner = layer.clone().force_ttl(Duration::from_secs(100));
    let (plain, layered) = (origin.service(), origin.behind(&inner));
    let some = tower::service_fn(move |request: Request<Body>| {
        let is_layered = request.headers().contains_key("x-inner");
        let chosen = if is_layered { &layered } else { &plain };
        chosen.clone().oneshot(request)
    });
    let app = app(&layer, App::new(some));
    assert_eq!(get_page(&app, "/").await.text(), "1 GET /");
    let newer = [("x-inner", "1"), ("cache-control", "no-cache")];
    assert_eq!(get_with(&app, "/", &newer).await.text(), "2 GET /");
    clock.advance(Duration::from_secs(12));
    let answer = get_with(&app, "/", &[("x-inner", "1")]).await;
    assert_eq!((answer.x_cache(), answer.text()), ("HIT", "2 GET /"));
    assert_eq!(origin.calls(), 2);
}
