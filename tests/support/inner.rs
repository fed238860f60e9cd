//! An inner service with any body and any error, for tests below the level of an application.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body_util::BodyExt;
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{BodyError, Cache, ResponseBody, ResponseCache, ResponseCacheLayer};

use super::{
    feed::{Broken, FeedBody, whole},
    request,
};

type Calling<B, E> = Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

type Script<B, E> = Arc<dyn Fn(usize, Request<Body>) -> Calling<B, E> + Send + Sync>;

/// An inner service that counts its calls and answers from a script, or fails with an `E`.
pub struct Inner<B = FeedBody, E = Infallible> {
    calls: Arc<AtomicUsize>,
    script: Script<B, E>,
}

impl<B, E> Clone for Inner<B, E> {
    fn clone(&self) -> Self {
        Self {
            calls: self.calls.clone(),
            script: self.script.clone(),
        }
    }
}

impl<B, E> Inner<B, E> {
    /// Answers each call by `script`, which gets the number of the call, from 1, and the request.
    pub fn new<F>(script: impl Fn(usize, Request<Body>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    {
        Self {
            calls: Arc::default(),
            script: Arc::new(move |call, request| Box::pin(script(call, request))),
        }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl<B, E> Service<Request<Body>> for Inner<B, E> {
    type Response = Response<B>;
    type Error = E;
    type Future = Calling<B, E>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        (self.script)(call, request)
    }
}

/// A service with whole bodies behind a layer.
pub type Shared = ResponseCache<Inner<FeedBody>>;

/// Each call waits for a permit, then answers with its number, its method and its path.
pub fn held(layer: ResponseCacheLayer) -> (Arc<Semaphore>, Inner, Shared) {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner = Inner::new(move |call, request| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let body = format!("call {call}: {} {}", request.method(), request.uri());
            let mut response = Response::new(if request.method() == "HEAD" {
                whole("")
            } else {
                whole(body)
            });
            response.headers_mut().insert("x-call", call.into());
            Ok(response)
        }
    });
    let service = layer.layer(inner.clone());
    (permits, inner, service)
}

/// Answers call after call with the given bodies, and 200 with these
/// fields; after the last one with bodies of its own.
pub fn script(
    fields: &'static [(&'static str, &'static str)],
    bodies: Vec<FeedBody>,
) -> Inner<FeedBody> {
    let bodies = Mutex::new(bodies.into_iter());
    Inner::new(move |call, _| {
        let body = bodies.lock().unwrap().next();
        let body = body.unwrap_or_else(|| whole(format!("own answer {call}")));
        let mut response = Response::new(body);
        for (name, value) in fields {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        std::future::ready(Ok(response))
    })
}

/// The service behind a layer; the test keeps its hand on the service.
pub fn behind<E>(
    layer: ResponseCacheLayer,
    inner: &Inner<FeedBody, E>,
) -> ResponseCache<Inner<FeedBody, E>> {
    layer.layer(inner.clone())
}

/// The request for one page.
pub fn page() -> Request<Body> {
    request("GET", "/page", &[])
}

/// How an answer ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Clean,
    Inner(Broken),
    Incomplete,
}

/// What was read of an answer, and how it ended.
#[derive(Debug)]
pub struct Read {
    pub head: Parts,
    pub body: Bytes,
    pub end: End,
}

impl Read {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn field(&self, name: &str) -> &str {
        self.head
            .headers
            .get(name)
            .map_or("", |value| value.to_str().expect("visible ASCII"))
    }

    /// The body of an answer that ended as it should.
    #[track_caller]
    pub fn complete(&self) -> &str {
        assert_eq!(self.end, End::Clean, "read: {:?}", self.body);
        self.text()
    }
}

/// Reads a body to its end, whichever it is.
pub async fn read(response: Response<ResponseBody<FeedBody>>) -> Read {
    let (head, mut body) = response.into_parts();
    let mut read = Vec::new();
    let end = loop {
        match body.frame().await {
            None => break End::Clean,
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    read.extend_from_slice(&data);
                }
            }
            Some(Err(BodyError::Inner(error))) => break End::Inner(error),
            Some(Err(_)) => break End::Incomplete,
        }
    };
    Read {
        head,
        body: read.into(),
        end,
    }
}

/// The next piece of data; panics at the end, at trailers and at an error.
pub async fn next(body: &mut ResponseBody<FeedBody>) -> Bytes {
    let frame = body.frame().await.expect("not the end");
    frame.expect("no error").into_data().expect("data")
}

/// Asks and waits for the head.
pub async fn ask<E: fmt::Debug + Send + 'static>(
    service: &ResponseCache<Inner<FeedBody, E>>,
    request: Request<Body>,
) -> Response<ResponseBody<FeedBody>> {
    service.clone().oneshot(request).await.expect("an answer")
}

/// Asks and reads in a task of its own, which has begun to wait when this returns.
pub async fn client<E: fmt::Debug + Send + 'static>(
    service: &ResponseCache<Inner<FeedBody, E>>,
    request: Request<Body>,
) -> JoinHandle<Read> {
    let service = service.clone();
    let task = tokio::spawn(async move { read(ask(&service, request).await).await });
    super::settle().await;
    task
}

/// Checks that nothing of a fill is left behind.
pub async fn assert_idle(cache: &Cache) {
    super::settle().await;
    let stats = cache.stats();
    assert_eq!(stats.flights(), 0, "a flight is left in the table");
    assert_eq!(stats.buffered_bytes(), 0, "a buffer is still counted");
}

/// Fails instead of waiting for ever: with paused time the limit is reached at once when nothing else can happen.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(3600), future)
        .await
        .unwrap_or_else(|_| panic!("it never happens: {what}"))
}

/// The same, and no (paused) time may pass: whoever waits for a time limit is found out.
pub async fn at_once<F: Future>(what: &str, future: F) -> F::Output {
    let begin = Instant::now();
    let output = soon(what, future).await;
    assert_eq!(begin.elapsed(), Duration::ZERO, "it took time: {what}");
    output
}
