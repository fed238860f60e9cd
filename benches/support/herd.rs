//! What a crowd pays: a thousand who ask for one cold key at once.
//!
//! In real time, on a runtime with two workers. Times are those of the median round: a crowd of a
//! thousand is on both workers, and whatever else runs adds to some rounds.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty, Full};
use tokio::{
    runtime::Runtime,
    sync::{Barrier, Notify},
};
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{Cache, ResponseCache, ResponseCacheLayer};

use crate::support::Row;

const STORM: &str = "storm_of_1000_p99_us";
const WAKING: &str = "wake_of_1000_us";
const BY_HAND: &str = "wake_of_1000_by_hand_us";

/// Names of the rows.
pub(crate) const NAMES: [&str; 3] = [STORM, WAKING, BY_HAND];

const CROWD: usize = 1_000;
const HANDLER: Duration = Duration::from_millis(20);
const ROUNDS: usize = 15;

/// Works for some milliseconds, and remembers when it has ended.
#[derive(Clone, Default)]
struct Handler {
    calls: Arc<AtomicUsize>,
    ended: Arc<Mutex<Option<Instant>>>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

impl Service<Request<Empty<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Answering {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let ended = self.ended.clone();
        Box::pin(async move {
            tokio::time::sleep(HANDLER).await;
            *ended.lock().expect("nobody panics with it") = Some(Instant::now());
            Ok(Response::new(Full::new(Bytes::from(vec![b'x'; 1024]))))
        })
    }
}

fn request(round: usize) -> Request<Empty<Bytes>> {
    let request = Request::builder().uri(format!("/page/{round}"));
    let request = request.header("host", "example.com").body(Empty::new());
    request.expect("a request")
}

/// Asks, reads, and says when that was over.
async fn ask(service: ResponseCache<Handler>, request: Request<Empty<Bytes>>) -> Instant {
    let response = service.oneshot(request).await;
    let response = response.unwrap_or_else(|never| match never {});
    let body = response.into_body().collect().await.expect("a whole body");
    assert_eq!(body.to_bytes().len(), 1024);
    Instant::now()
}

/// What one of them saw of a storm, in microseconds each: how long an answer took, and how long
/// after the end of the handler it was there.
struct Seen {
    took: f64,
    woke: f64,
}

/// Runs so many in tasks of their own. Who waits for all of them is woken once, by the last: else it
/// would take part in what is measured.
async fn each<T, F>(mut work: impl FnMut() -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let done = Arc::new((Mutex::new(Vec::with_capacity(CROWD)), Notify::new()));
    for _ in 0..CROWD {
        let (work, done) = (work(), done.clone());
        tokio::spawn(async move {
            let output = work.await;
            let mut outputs = done.0.lock().expect("nobody panics with it");
            outputs.push(output);
            if outputs.len() == CROWD {
                done.1.notify_one();
            }
        });
    }
    let all = done.1.notified();
    let all = tokio::time::timeout(Duration::from_secs(60), all).await;
    all.expect("no client panics");
    std::mem::take(&mut *done.0.lock().expect("nobody panics with it"))
}

async fn storm(service: &ResponseCache<Handler>, handler: &Handler, round: usize) -> Vec<Seen> {
    let together = Arc::new(Barrier::new(CROWD));
    let times = each(|| {
        let (service, together) = (service.clone(), together.clone());
        let request = request(round);
        async move {
            together.wait().await;
            let begin = Instant::now();
            (begin, ask(service, request).await)
        }
    });
    let times = times.await;
    assert_eq!(handler.calls.load(Ordering::Relaxed), round + 1, "one call");
    let ended = handler.ended.lock().expect("nobody panics with it");
    let ended = ended.expect("it was called");
    let seen = |(begin, end): (Instant, Instant)| Seen {
        took: micros(end - begin),
        woke: micros(end.saturating_duration_since(ended)),
    };
    times.into_iter().map(seen).collect()
}

/// As many who wait for a `Notify` of tokio: what waking them costs at least.
async fn notified() -> f64 {
    let (notify, waiting) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let begin = Arc::new(Mutex::new(None));
    let (notifies, counted, began) = (notify.clone(), waiting.clone(), begin.clone());
    tokio::spawn(async move {
        while counted.load(Ordering::Relaxed) < CROWD {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(HANDLER).await;
        *began.lock().expect("nobody panics with it") = Some(Instant::now());
        notifies.notify_waiters();
    });
    let times = each(|| {
        let (notify, waiting) = (notify.clone(), waiting.clone());
        async move {
            let notified = notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            waiting.fetch_add(1, Ordering::Relaxed);
            notified.await;
            Instant::now()
        }
    });
    let times = times.await;
    let begin = begin.lock().expect("nobody panics with it");
    let begin = begin.expect("they were woken");
    let mut times: Vec<f64> = times
        .into_iter()
        .map(|end| micros(end.saturating_duration_since(begin)))
        .collect();
    quantile(&mut times, 0.5)
}

/// As many who wait for one load of `moka`, and make a response of what it brings: the same by hand,
/// with none of the rules.
async fn by_hand(round: usize) -> f64 {
    let stored = moka::future::Cache::<String, (HeaderMap, Bytes)>::new(1_000);
    let ended = Arc::new(Mutex::new(None));
    let together = Arc::new(Barrier::new(CROWD));
    let times = each(|| {
        let (stored, ended) = (stored.clone(), ended.clone());
        let (together, request) = (together.clone(), request(round));
        async move {
            together.wait().await;
            let load = async {
                tokio::time::sleep(HANDLER).await;
                *ended.lock().expect("nobody panics with it") = Some(Instant::now());
                let mut head = HeaderMap::new();
                head.insert(header::DATE, HeaderValue::from_static("today"));
                head.insert(header::AGE, HeaderValue::from_static("0"));
                (head, Bytes::from(vec![b'x'; 1024]))
            };
            let (head, body) = stored.get_with(request.uri().to_string(), load).await;
            let mut response = Response::new(Full::new(body));
            *response.headers_mut() = head;
            let body = response.into_body().collect().await;
            let body = body.unwrap_or_else(|never| match never {});
            assert_eq!(body.to_bytes().len(), 1024);
            Instant::now()
        }
    });
    let times = times.await;
    let ended = ended.lock().expect("nobody panics with it");
    let ended = ended.expect("it was loaded");
    let mut times: Vec<f64> = times
        .into_iter()
        .map(|end| micros(end.saturating_duration_since(ended)))
        .collect();
    quantile(&mut times, 0.5)
}

/// A call of the handler by itself.
async fn bare(handler: &Handler) -> f64 {
    let begin = Instant::now();
    let response = handler.clone().oneshot(request(0)).await;
    drop(response.unwrap_or_else(|never| match never {}));
    micros(begin.elapsed())
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// Of all of them, so many are not larger.
pub(crate) fn quantile(times: &mut [f64], part: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let last = times.len() - 1;
    times[(last as f64 * part).round() as usize]
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be made")
}

/// The rows of this file that are asked for.
pub(crate) fn rows(is_selected: impl Fn(&str) -> bool) -> Vec<Row> {
    if !NAMES.iter().any(|name| is_selected(name)) {
        return Vec::new();
    }
    runtime().block_on(async {
        let (handler, by_itself) = (Handler::default(), Handler::default());
        let service = ResponseCacheLayer::new(Cache::in_memory()).layer(handler.clone());
        let (mut bares, mut p99s) = (Vec::new(), Vec::new());
        let (mut notifies, mut wakes, mut by_hands) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            bares.push(bare(&by_itself).await);
            notifies.push(notified().await);
            by_hands.push(by_hand(round).await);
            let seen = storm(&service, &handler, round).await;
            let mut took: Vec<f64> = seen.iter().map(|seen| seen.took).collect();
            let mut woke: Vec<f64> = seen.iter().map(|seen| seen.woke).collect();
            p99s.push(quantile(&mut took, 0.99));
            wakes.push(quantile(&mut woke, 0.5));
        }
        let handler_time = quantile(&mut bares, 0.5);
        let rows = [
            Row {
                name: STORM,
                reference: handler_time,
                figure: quantile(&mut p99s, 0.5),
                bound: Some(1.5 * handler_time),
            },
            Row {
                name: WAKING,
                reference: quantile(&mut notifies, 0.5),
                figure: quantile(&mut wakes, 0.5),
                bound: Some(1000.0),
            },
            Row {
                name: BY_HAND,
                reference: quantile(&mut notifies, 0.5),
                figure: quantile(&mut by_hands, 0.5),
                bound: None,
            },
        ];
        rows.into_iter()
            .filter(|row| is_selected(row.name))
            .collect()
    })
}
