//! The layer in every place where axum takes one.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{self, App, cache, get as get_page, get_with, request, send};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{MethodRouter, get},
};
use http::{Request, Response};
use tower::{Layer, Service, ServiceBuilder};
use tower_response_cache::{Cache, CachePolicy, ResponseCache, ResponseCacheLayer};

#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Calls {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn number(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A route that names its call and what it was asked for, and takes a POST.
fn page(calls: &Calls) -> MethodRouter {
    let reading = calls.clone();
    let writing = calls.clone();
    get(move |Path(id): Path<String>| async move { format!("{} read {id}", reading.next()) }).post(
        move |Path(id): Path<String>, body: String| async move {
            format!("{} wrote {body} to {id}", writing.next())
        },
    )
}

/// GET is cached, POST is not, an unknown path stays 404, another path has its own answer.
async fn check_place(name: &str, calls: &Calls, app: App) {
    let first = get_page(&app, "/page/a").await;
    assert_eq!(
        (first.status, first.text()),
        (StatusCode::OK, "1 read a"),
        "{name}"
    );
    assert_eq!(first.x_cache(), "MISS", "{name}");
    let second = get_page(&app, "/page/a").await;
    assert_eq!(
        (second.x_cache(), second.text()),
        ("HIT", "1 read a"),
        "{name}"
    );
    assert_eq!(
        second.field("content-type"),
        first.field("content-type"),
        "{name}"
    );

    for call in 2..=3 {
        let mut post = request("POST", "/page/a", &[]);
        *post.body_mut() = Body::from("this");
        let posted = send(&app, post).await;
        assert_eq!(posted.text(), format!("{call} wrote this to a"), "{name}");
        assert_eq!(
            posted.x_cache(),
            "",
            "{name}: other methods are passed as they are"
        );
    }
    assert_eq!(get_page(&app, "/page/b").await.text(), "4 read b", "{name}");
    let unknown = get_page(&app, "/unknown").await;
    assert_eq!(
        (unknown.status, unknown.text()),
        (StatusCode::NOT_FOUND, ""),
        "{name}"
    );
    let refused = send(&app, request("DELETE", "/page/a", &[])).await;
    assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED, "{name}");
    assert_eq!(refused.field("allow"), "GET,HEAD,POST", "{name}");
    assert_eq!(calls.number(), 4, "{name}");
}

#[tokio::test]
async fn it_works_in_every_place_of_a_router() {
    type Place = fn(ResponseCacheLayer, MethodRouter) -> App;
    let places: [(&str, Place); 8] = [
        ("Router::layer", |layer, page| {
            App::new(Router::new().route("/page/{id}", page).layer(layer))
        }),
        ("Router::route_layer", |layer, page| {
            App::new(Router::new().route("/page/{id}", page).route_layer(layer))
        }),
        ("MethodRouter::layer", |layer, page| {
            App::new(Router::new().route("/page/{id}", page.layer(layer)))
        }),
        ("MethodRouter::route_layer", |layer, page| {
            App::new(Router::new().route("/page/{id}", page.route_layer(layer)))
        }),
        ("around the Router", |layer, page| {
            support::app(&layer, App::new(Router::new().route("/page/{id}", page)))
        }),
        ("ServiceBuilder around the Router", |layer, page| {
            let router = Router::new().route("/page/{id}", page);
            let app = ServiceBuilder::new()
                .map_response(|response: Response<_>| response.map(Body::new))
                .layer(layer)
                .service(router);
            App::new(app)
        }),
        ("ServiceBuilder in Router::layer", |layer, page| {
            let layers = ServiceBuilder::new().layer(layer);
            App::new(Router::new().route("/page/{id}", page).layer(layers))
        }),
        ("nested", |layer, page| {
            let inside = Router::new().route("/{id}", page).layer(layer);
            App::new(Router::new().nest("/page", inside))
        }),
    ];
    for (name, place) in places {
        let (cache, _) = cache();
        let calls = Calls::default();
        let app = place(ResponseCacheLayer::new(&cache), page(&calls));
        check_place(name, &calls, app).await;
        let stats = cache.stats();
        assert_eq!((stats.hits(), stats.stored()), (1, 2), "{name}: {stats}");
    }
}

#[tokio::test]
async fn a_head_of_a_cached_route_is_answered_from_the_stored_get() {
    let (cache, _) = cache();
    let calls = Calls::default();
    let router = Router::new().route("/page/{id}", page(&calls));
    let app = App::new(router.layer(ResponseCacheLayer::new(&cache)));
    let whole = get_page(&app, "/page/a").await;
    let head = send(&app, request("HEAD", "/page/a", &[])).await;
    assert!(head.is_hit());
    assert_eq!(head.text(), "");
    assert_eq!(head.field("content-length"), whole.body.len().to_string());
    assert_eq!(calls.number(), 1);
}

#[tokio::test]
async fn extractors_state_and_policy_work_behind_the_layer() {
    let (cache, clock) = cache();
    let calls = Calls::default();
    let handler = |State(calls): State<Calls>, Query(pairs): Query<HashMap<String, String>>| async move {
        let Some(name) = pairs.get("name") else {
            return Err(StatusCode::BAD_REQUEST);
        };
        let policy = CachePolicy::ttl(Duration::from_secs(5));
        Ok((policy, Json([calls.next().to_string(), name.clone()])))
    };
    let app = App::new(
        Router::new()
            .route("/", get(handler))
            .layer(ResponseCacheLayer::new(&cache))
            .with_state(calls.clone()),
    );
    assert_eq!(get_page(&app, "/?name=a").await.text(), r#"["1","a"]"#);
    assert_eq!(get_page(&app, "/?name=b").await.text(), r#"["2","b"]"#);
    let hit = get_page(&app, "/?name=a").await;
    assert_eq!((hit.x_cache(), hit.text()), ("HIT", r#"["1","a"]"#));
    assert_eq!(hit.field("content-type"), "application/json");
    clock.advance(Duration::from_secs(6));
    assert_eq!(get_page(&app, "/?name=a").await.text(), r#"["3","a"]"#);
    // A refusal is nobody's answer but one's own.
    let rejected = get_page(&app, "/").await;
    assert_eq!(rejected.status, StatusCode::BAD_REQUEST);
    assert_eq!(get_page(&app, "/?name=a").await.text(), r#"["3","a"]"#);
}

// ---- nested routers ----

#[tokio::test]
async fn two_nested_routers_with_one_cache_never_answer_for_each_other() {
    type Place = fn(&'static str, ResponseCacheLayer) -> Router;
    let places: [(&str, Place); 3] = [
        ("Router::layer", |name, layer| {
            Router::new()
                .route("/", get(move || async move { format!("root of {name}") }))
                .route("/page", get(move || async move { name }))
                .layer(layer)
        }),
        ("MethodRouter::layer", |name, layer| {
            let root = get(move || async move { format!("root of {name}") });
            Router::new()
                .route("/", root.layer(layer.clone()))
                .route("/page", get(move || async move { name }).layer(layer))
        }),
        ("deeper", |name, layer| {
            let inside = Router::new()
                .route("/page", get(move || async move { name }))
                .layer(layer);
            let root = get(move || async move { format!("root of {name}") });
            Router::new().route("/", root).merge(inside)
        }),
    ];
    for (place, router) in places {
        let (cache, _) = cache();
        let layer = ResponseCacheLayer::new(&cache);
        let app = App::new(
            Router::new()
                .nest("/cats", router("cats", layer.clone()))
                .nest("/dogs", router("dogs", layer.clone()))
                .nest("/{kind}/pets", router("pets", layer.clone()))
                .nest_service("/birds", router("birds", layer.clone()))
                .route("/page", get(|| async { "the page" }).layer(layer)),
        );
        for round in 0..3 {
            for (path, body) in [
                ("/cats/page", "cats"),
                ("/dogs/page", "dogs"),
                ("/old/pets/page", "pets"),
                ("/birds/page", "birds"),
                ("/page", "the page"),
                ("/cats", "root of cats"),
                ("/dogs", "root of dogs"),
            ] {
                let answer = get_page(&app, path).await;
                assert_eq!(answer.text(), body, "{place}: {path}, round {round}");
                if path.ends_with("page") {
                    assert_eq!(answer.is_hit(), round > 0, "{place}: {path}, round {round}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_nested_router_and_a_fallback_have_their_own_answers() {
    let (cache, _) = cache();
    let layer = ResponseCacheLayer::new(&cache);
    let inside = Router::new()
        .route("/page", get(|| async { "inside" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "nothing inside") })
        .layer(layer.clone());
    let app = App::new(
        Router::new()
            .nest("/in", inside)
            .fallback(|| async { "the single page" })
            .layer(layer),
    );
    for _ in 0..2 {
        assert_eq!(get_page(&app, "/in/page").await.text(), "inside");
        let inside = get_page(&app, "/in/else").await;
        assert_eq!(
            (inside.status.as_u16(), inside.text()),
            (404, "nothing inside")
        );
        assert_eq!(get_page(&app, "/page").await.text(), "the single page");
    }
}

#[tokio::test]
async fn one_host_never_answers_for_another() {
    let (cache, _) = cache();
    let calls = Calls::default();
    let counting = calls.clone();
    let handler = move |request: Request<Body>| async move {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        format!("{} for {host}", counting.next())
    };
    let app = App::new(
        Router::new()
            .route("/", get(handler))
            .layer(ResponseCacheLayer::new(&cache)),
    );
    for _ in 0..2 {
        assert_eq!(
            get_with(&app, "/", &[("host", "a.example")]).await.text(),
            "1 for a.example"
        );
        assert_eq!(
            get_with(&app, "/", &[("host", "b.example")]).await.text(),
            "2 for b.example"
        );
    }
    assert_eq!(calls.number(), 2);
}

// ---- types ----

/// Compiles only where the error stays what it was.
fn assert_infallible<S>(_: &S)
where
    S: Service<Request<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Response: IntoResponse,
{
}

#[test]
fn infallible_stays_infallible() {
    let cache = Cache::in_memory();
    let layer = ResponseCacheLayer::new(&cache);
    let router: Router = Router::new().route("/", get(|| async { "home" }));
    assert_infallible(&router.clone().layer(layer.clone()));
    let around: ResponseCache<Router> = layer.layer(router.clone());
    assert_infallible(&around);
    assert_infallible(&layer.layer(layer.layer(router)));
    let method: MethodRouter = get(|| async { "home" }).layer(layer.clone());
    assert_infallible(&method);
    // And the router around a cached service takes it without an error handler.
    let plain = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let routed: Router = Router::new().route_service("/", layer.layer(plain));
    assert_infallible(&routed);
}

/// Compiles only where an error of any type stays what it was.
#[test]
fn any_error_stays_what_it_is() {
    #[derive(Debug, PartialEq)]
    struct Own;
    fn error_of<S: Service<Request<Body>, Error = Own>>(_: &S) {}
    let failing = tower::service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>(Own) });
    error_of(&ResponseCacheLayer::new(Cache::in_memory()).layer(failing));
}
