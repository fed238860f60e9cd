//! S3: a thousand wait for a handler that fails.

use std::sync::Arc;

use http::{Response, StatusCode};
use tokio::sync::{Barrier, Semaphore};
use tower::Layer;
use tower_response_cache::{Cache, ResponseCacheLayer};

use super::crowd::{Service, answers, crowd, outcomes};
use crate::support::{
    cache,
    feed::{FeedBody, whole},
    inner::{Inner, assert_idle},
    settle,
};

const CROWD: usize = 1_000;

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Answers,
    Panics,
    Fails,
    Says500,
    Says500WithACookie,
}

/// The inner service's own error.
#[derive(Debug, PartialEq, Eq)]
struct Away(usize);

/// Call after call waits for a permit, and from the third on for all the others that are left of
/// the crowd, if the second fails, too.
fn failing(
    cache: &Cache,
    script: [Call; 3],
) -> (Arc<Semaphore>, Inner<FeedBody, Away>, Service<Away>) {
    let permits = Arc::new(Semaphore::new(0));
    let (held, together) = (permits.clone(), Arc::new(Barrier::new(CROWD - 2)));
    let inner = Inner::new(move |call, _| {
        let (held, together) = (held.clone(), together.clone());
        async move {
            if call <= 2 {
                held.acquire().await.unwrap().forget();
            } else {
                together.wait().await;
            }
            let mut response = Response::new(whole(format!("call {call}")));
            match script[call.min(3) - 1] {
                Call::Answers => {}
                Call::Panics => panic!("told to"),
                Call::Fails => return Err(Away(call)),
                Call::Says500 => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
                Call::Says500WithACookie => {
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    let cookie = format!("session={call}").parse().unwrap();
                    response.headers_mut().insert("set-cookie", cookie);
                }
            }
            Ok(response)
        }
    });
    let service = ResponseCacheLayer::new(cache).layer(inner.clone());
    (permits, inner, service)
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_who_wait_for_a_call_that_panics_or_fails_one_notices() {
    for first in [Call::Panics, Call::Fails] {
        let (cache, _) = cache();
        let (permits, inner, service) = failing(&cache, [first, Call::Answers, Call::Answers]);
        let visits = crowd(&service, CROWD).await;
        assert_eq!(inner.calls(), 1, "{first:?}");
        permits.add_permits(1);
        settle().await;
        assert_eq!(inner.calls(), 2, "{first:?}: one leads again");
        permits.add_permits(1);
        let (mut answered, mut noticed) = (0, 0);
        for outcome in outcomes(visits).await {
            match outcome {
                Ok(Ok(answer)) => {
                    assert_eq!(answer.complete(), "call 2", "{first:?}");
                    answered += 1;
                }
                Ok(Err(error)) => {
                    assert_eq!((first, error), (Call::Fails, Away(1)));
                    noticed += 1;
                }
                Err(error) => {
                    assert!(first == Call::Panics && error.is_panic());
                    noticed += 1;
                }
            }
        }
        assert_eq!((answered, noticed), (999, 1), "{first:?}");
        assert_eq!(inner.calls(), 2, "{first:?}");
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_every_call_fails_all_of_a_thousand_end_and_none_in_a_chain() {
    for every in [Call::Panics, Call::Fails] {
        let (cache, _) = cache();
        let (permits, inner, service) = failing(&cache, [every; 3]);
        let visits = crowd(&service, CROWD).await;
        permits.add_permits(1);
        settle().await;
        assert_eq!(inner.calls(), 2, "{every:?}");
        // After the second failure the others meet behind a barrier that one less would not open.
        permits.add_permits(1);
        let mut noticed = 0;
        for outcome in outcomes(visits).await {
            let failed = match outcome {
                Ok(outcome) => every == Call::Fails && outcome.is_err(),
                Err(error) => every == Call::Panics && error.is_panic(),
            };
            assert!(failed, "{every:?}");
            noticed += 1;
        }
        assert_eq!((noticed, inner.calls()), (CROWD, CROWD), "{every:?}");
        assert_eq!(cache.stats().entries(), 0);
        assert_idle(&cache).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_wait_for_a_500_cost_at_most_two_calls() {
    for first in [Call::Says500, Call::Says500WithACookie] {
        let (cache, _) = cache();
        let (permits, inner, service) = failing(&cache, [first, Call::Answers, Call::Answers]);
        let visits = crowd(&service, CROWD).await;
        assert_eq!(inner.calls(), 1, "{first:?}");
        permits.add_permits(2);
        settle().await;
        assert!(inner.calls() <= 2, "{first:?}: {} calls", inner.calls());
        let answers = answers(visits).await;
        let with_cookie = answers
            .iter()
            .filter(|answer| !answer.field("set-cookie").is_empty());
        assert_eq!(
            with_cookie.count(),
            usize::from(first == Call::Says500WithACookie)
        );
        for answer in &answers {
            let call = if answer.head.status == StatusCode::OK {
                "call 2"
            } else {
                "call 1"
            };
            assert_eq!(answer.complete(), call, "{first:?}");
        }
        assert_idle(&cache).await;
    }
}
