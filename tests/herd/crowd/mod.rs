//! Many who ask at once, and handlers that say how many of them run.

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::body::Body;
use http::Request;
use tokio::task::{JoinError, JoinHandle};
use tower::ServiceExt;
use tower_response_cache::ResponseCache;

use crate::support::{
    feed::FeedBody,
    inner::{Inner, Read, at_once, page, read},
    settle,
};

/// An inner service with an error of its own, behind a layer.
pub(crate) type Service<E = Infallible> = ResponseCache<Inner<FeedBody, E>>;

/// A client in a task of its own.
pub(crate) type Visit<E = Infallible> = JoinHandle<Result<Read, E>>;

/// Asks and reads to the end, in a task of its own.
pub(crate) fn visit<E: Send + 'static>(service: &Service<E>, request: Request<Body>) -> Visit<E> {
    let service = service.clone();
    tokio::spawn(async move { Ok(read(service.oneshot(request).await?).await) })
}

/// So many who ask for the page at once; all wait, or have ended, when this returns.
pub(crate) async fn crowd<E: Send + 'static>(service: &Service<E>, count: usize) -> Vec<Visit<E>> {
    crowd_of(service, count, |_| page()).await
}

/// The same with requests that differ.
pub(crate) async fn crowd_of<E: Send + 'static>(
    service: &Service<E>,
    count: usize,
    request: impl Fn(usize) -> Request<Body>,
) -> Vec<Visit<E>> {
    let visits = (0..count).map(|n| visit(service, request(n))).collect();
    settle().await;
    visits
}

/// What all of them got, without any time passing.
pub(crate) async fn outcomes<E>(visits: Vec<Visit<E>>) -> Vec<Result<Result<Read, E>, JoinError>> {
    let mut outcomes = Vec::with_capacity(visits.len());
    for visit in visits {
        outcomes.push(at_once("an end", visit).await);
    }
    outcomes
}

/// What all of them read, where nobody fails.
pub(crate) async fn answers<E: fmt::Debug>(visits: Vec<Visit<E>>) -> Vec<Read> {
    let outcomes = outcomes(visits).await.into_iter();
    outcomes
        .map(|outcome| outcome.expect("no panic").expect("no error"))
        .collect()
}

/// Counts what is there of something.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alive(Arc<AtomicUsize>);

impl Alive {
    /// One more, until it is dropped.
    pub(crate) fn one(&self) -> One {
        self.0.fetch_add(1, Ordering::SeqCst);
        One(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// See [`Alive::one`].
#[derive(Debug)]
pub(crate) struct One(Alive);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}
