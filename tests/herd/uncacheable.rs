//! S4: what may not be stored is not made one after another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Path, response::IntoResponse, routing::get};
use http::Response;
use tokio::sync::{Barrier, Semaphore};
use tower::Layer;
use tower_response_cache::ResponseCacheLayer;

use super::crowd::{Alive, answers, crowd};
use crate::support::{
    self, App, cache,
    feed::whole,
    inner::{Inner, ask, assert_idle, at_once, page, read},
    settle,
};

const CROWD: usize = 100;

/// How a head says that it may not be stored; and one that is over the limit, which says it by its length.
const UNCACHEABLE: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    ("cache-control", "private"),
    ("set-cookie", "session=1"),
    ("vary", "*"),
    ("content-length", "2000000"),
];

#[tokio::test(start_paused = true)]
async fn from_the_second_wave_on_a_hundred_handlers_of_an_uncacheable_page_run_together() {
    for (name, value) in UNCACHEABLE {
        let (cache, _) = cache();
        let waves = [
            Barrier::new(CROWD - 1),
            Barrier::new(CROWD),
            Barrier::new(CROWD),
        ];
        let waves = Arc::new(waves);
        let inner: Inner = Inner::new(move |call, _| {
            let waves = waves.clone();
            async move {
                // None of a wave goes on before all of it are in the handler.
                if call > 1 {
                    waves[(call - 1) / CROWD].wait().await;
                }
                let body = if name == "content-length" {
                    whole(vec![b'x'; 2_000_000])
                } else {
                    whole("mine")
                };
                Ok(Response::builder().header(name, value).body(body).unwrap())
            }
        });
        let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        for wave in 1..=3 {
            for answer in answers(crowd(&service, CROWD).await).await {
                assert!(["mine".len(), 2_000_000].contains(&answer.complete().len()));
            }
            assert_eq!(inner.calls(), wave * CROWD, "{value}");
        }
        assert_eq!(cache.stats().entries(), 0, "{value}");
        assert_idle(&cache).await;
    }
}

/// A page whose cacheability is switched; each call waits for a permit.
struct Switched {
    is_cacheable: Arc<AtomicBool>,
    permits: Arc<Semaphore>,
    running: Alive,
}

impl Switched {
    fn new() -> Self {
        Self {
            is_cacheable: Arc::default(),
            permits: Arc::new(Semaphore::new(0)),
            running: Alive::default(),
        }
    }

    /// How the page answers.
    fn handler(&self) -> impl Fn() -> Answering + Clone + Send + Sync + 'static {
        let (is_cacheable, permits) = (self.is_cacheable.clone(), self.permits.clone());
        let running = self.running.clone();
        move || {
            let (is_cacheable, permits) = (is_cacheable.clone(), permits.clone());
            let one = running.one();
            Box::pin(async move {
                let _one = one;
                permits.acquire().await.unwrap().forget();
                let control = match is_cacheable.load(Ordering::SeqCst) {
                    true => "max-age=10",
                    false => "no-store",
                };
                ([("cache-control", control)], "page").into_response()
            })
        }
    }
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

fn wave(
    app: &App,
    path: impl Fn(usize) -> String,
) -> Vec<tokio::task::JoinHandle<support::Answer>> {
    let ask = |n| {
        let (app, path) = (app.clone(), path(n));
        tokio::spawn(async move { support::get(&app, &path).await })
    };
    (0..CROWD).map(ask).collect()
}

#[tokio::test(start_paused = true)]
async fn a_route_that_becomes_cacheable_is_cached() {
    let (cache, clock) = cache();
    let page = Switched::new();
    let handler = page.handler();
    let router = Router::new()
        .route("/items/{id}", get(move |_: Path<u32>| handler()))
        .layer(ResponseCacheLayer::new(&cache).jitter(0.0));
    let app = App::new(support_infallible(router));
    // For several of its keys it is known to be uncacheable.
    for _ in 0..2 {
        let visits = wave(&app, |n| format!("/items/{}", n % 5));
        page.permits.add_permits(CROWD);
        for visit in visits {
            assert_eq!(at_once("an answer", visit).await.unwrap().x_cache(), "MISS");
        }
    }
    settle().await;
    let visits = wave(&app, |n| format!("/items/{}", n % 5));
    settle().await;
    assert_eq!(page.running.count(), CROWD, "none waits for another");
    // From the head of this wave on it may be stored: the next who come do it.
    page.is_cacheable.store(true, Ordering::SeqCst);
    page.permits.add_permits(CROWD);
    for visit in visits {
        at_once("an answer", visit).await.unwrap();
    }
    let visits = wave(&app, |n| format!("/items/{}", n % 5));
    settle().await;
    assert_eq!(page.running.count(), 5, "one for each key");
    page.permits.add_permits(5);
    for visit in visits {
        at_once("an answer", visit).await.unwrap();
    }
    for id in 0..5 {
        assert!(support::get(&app, &format!("/items/{id}")).await.is_hit());
    }
    // The mark is lifted: when it has expired, and for keys that are new, one calls for all.
    clock.advance(Duration::from_secs(11));
    let visits = wave(&app, |n| format!("/items/{}", n % 10));
    settle().await;
    assert_eq!(page.running.count(), 10, "one for each key");
    page.permits.add_permits(10);
    for visit in visits {
        assert_eq!(at_once("an answer", visit).await.unwrap().text(), "page");
    }
    assert_idle(&cache).await;
}

/// With the bodies of the tests.
fn support_infallible(
    router: Router,
) -> impl tower::Service<
    http::Request<Body>,
    Response = Response<Body>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    router
}

#[tokio::test(start_paused = true)]
async fn one_uncacheable_answer_does_not_mark_what_is_cacheable_otherwise() {
    // A key of its own is marked, not its neighbours.
    let (cache, _) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |_, request| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let control = match request.uri().path() {
                "/mine" => "private",
                _ => "max-age=10",
            };
            Ok(Response::builder()
                .header("cache-control", control)
                .body(whole("a page"))
                .unwrap())
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    permits.add_permits(1);
    let mine = support::request("GET", "/mine", &[]);
    read(ask(&service, mine).await).await.complete();
    let visits = crowd(&service, CROWD).await;
    assert_eq!(inner.calls(), 2, "they wait for one");
    permits.add_permits(1);
    answers(visits).await;
    assert_eq!(
        read(ask(&service, page()).await).await.field("x-cache"),
        "HIT"
    );
    assert_idle(&cache).await;
}
