//! How long a hit, a bypass and a miss take, against the handler that they stand in front of.
//!
//! Without a runtime, on one thread, and without an allocator that counts (`hit.rs` has one): each
//! counted allocation would add two atomic operations to what is measured.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service};
use tower_response_cache::{Cache, ResponseCacheLayer};

use crate::{
    handler::{Handler, Plain, axum_handler, now, request},
    support::Row,
};

/// Names of the rows.
pub(crate) const NAMES: [&str; 8] = [
    "hit_time",
    "hit_of_64_kib",
    "vary_hit_time",
    "bypass_time",
    "hit_in_router_time",
    "hit_around_router_time",
    "miss_time",
    "miss_by_hand_time",
];

const CALLS: u64 = 4_000;
const ROUNDS: u64 = 60;
/// A connection has just read the request that it hands on. Thousands that were made long before
/// would have to come back from main memory.
const BATCH: u64 = 32;

/// Nanoseconds of each call, over a round of them. Requests are made beforehand: they are the server's work.
fn round<S, B>(service: &mut S, next: &dyn Fn(u64) -> Request<B>, first: u64) -> f64
where
    S: Service<Request<B>, Error = Infallible>,
{
    let mut nanoseconds = 0;
    for batch in 0..CALLS / BATCH {
        let first = first + batch * BATCH;
        let requests: Vec<_> = (first..first + BATCH).map(next).collect();
        let start = Instant::now();
        for request in requests {
            let response = now(service.call(request)).unwrap_or_else(|never| match never {});
            drop(black_box(response));
        }
        nanoseconds += start.elapsed().as_nanos();
    }
    nanoseconds as f64 / CALLS as f64
}

/// A reference and a service in turns, so that both see the same machine; the best round of each counts:
/// noise only adds.
fn measure<R, S, B>(
    reference: &mut R,
    service: &mut S,
    next: impl Fn(u64) -> Request<B>,
) -> [f64; 2]
where
    R: Service<Request<B>, Error = Infallible>,
    S: Service<Request<B>, Error = Infallible>,
{
    let mut best = [f64::INFINITY; 2];
    for number in 0..ROUNDS {
        best[0] = best[0].min(round(reference, &next, number * CALLS));
        best[1] = best[1].min(round(service, &next, number * CALLS));
    }
    best
}

/// The least that a cache does for a miss, by hand and with none of the rules: a key, one flight for it,
/// and `moka`.
struct ByHand {
    inner: Plain,
    stored: moka::future::Cache<String, (HeaderMap, Bytes)>,
    flights: Mutex<HashSet<String>>,
}

impl ByHand {
    fn new(inner: Plain) -> Self {
        let weigh = |key: &String, (head, body): &(HeaderMap, Bytes)| {
            (key.len() + 110 * head.len() + body.len()) as u32
        };
        Self {
            inner,
            stored: moka::future::Cache::builder()
                .weigher(weigh)
                .max_capacity(64 << 20)
                .time_to_live(std::time::Duration::from_secs(600))
                .build(),
            flights: Mutex::default(),
        }
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<Request<Empty<Bytes>>> for ByHand {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        let host = request.headers().get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or("");
        let key = format!("GET {host}{}", request.uri());
        if let Some((head, body)) = now(self.stored.get(&key)) {
            let mut response = Response::new(Full::new(body));
            *response.headers_mut() = head;
            return ready(Ok(response));
        }
        self.flights().insert(key.clone());
        let response = now(self.inner.call(request)).unwrap_or_else(|never| match never {});
        let (head, body) = response.into_parts();
        let body = now(body.collect()).map(|body| body.to_bytes());
        let body = body.unwrap_or_else(|never| match never {});
        self.flights().remove(&key);
        let stored = (head.headers.clone(), Bytes::copy_from_slice(&body));
        now(self.stored.insert(key, stored));
        ready(Ok(Response::from_parts(head, Full::new(body))))
    }
}

/// The rows of this file that are asked for.
pub(crate) fn rows(is_selected: impl Fn(&str) -> bool) -> Vec<Row> {
    let plain = |size| Plain(Handler { size });
    let layer = ResponseCacheLayer::new(Cache::in_memory());
    let bypassing = layer.clone().bypass_when(|_| true);
    let page = |_| request("/page?id=1", None);
    let personal = |_| request("/page?id=1", Some((header::AUTHORIZATION, "Bearer x")));
    let another = |call| {
        let mut request = request("/", None);
        *request.uri_mut() = format!("/miss/{call}").parse().expect("a path");
        request
    };
    // Under axum: the handler that builds the response, behind routing.
    let router = || axum::Router::new().route("/page", axum::routing::get(axum_handler));
    let in_axum = |_| request("/page?id=1", None).map(|_| axum::body::Body::empty());

    let row = |name| {
        let [reference, figure] = match name {
            "hit_time" => measure(&mut plain(1024), &mut layer.layer(plain(1024)), page),
            "hit_of_64_kib" => {
                let large = |_| request("/large", None);
                // Beside a short one.
                let mut short = layer.layer(plain(1024));
                measure(&mut short, &mut layer.layer(plain(65_536)), |call| {
                    large(call)
                })
            }
            "vary_hit_time" => {
                let varying = Handler { size: 1024 };
                let vary = |_| request("/vary", None);
                measure(&mut varying.clone(), &mut layer.layer(varying), vary)
            }
            "bypass_time" => measure(
                &mut plain(1024),
                &mut bypassing.layer(plain(1024)),
                personal,
            ),
            "hit_in_router_time" => {
                measure(&mut router(), &mut router().layer(layer.clone()), in_axum)
            }
            "hit_around_router_time" => measure(&mut router(), &mut layer.layer(router()), in_axum),
            "miss_by_hand_time" => {
                measure(&mut plain(1024), &mut ByHand::new(plain(1024)), another)
            }
            _ => measure(&mut plain(1024), &mut layer.layer(plain(1024)), another),
        };
        let bound = match name {
            "hit_time" => Some(reference),
            "hit_of_64_kib" => Some(1.2 * reference),
            // At most 2 µs more.
            "miss_time" => Some(reference + 2_000.0),
            _ => None,
        };
        Row {
            name,
            reference,
            figure,
            bound,
        }
    };
    NAMES
        .into_iter()
        .filter(|name| is_selected(name))
        .map(row)
        .collect()
}
