//! S2: those who leave, after any number of polls, cost nobody anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::poll_immediate;
use http::Response;
use http_body_util::BodyExt;
use tokio::{
    sync::{Semaphore, mpsc},
    task::yield_now,
    time::{Instant, advance},
};
use tower::{Layer, Service as _};
use tower_response_cache::ResponseCacheLayer;

use super::crowd::{Alive, Service, answers, crowd, visit};
use crate::support::{
    self, cache,
    feed::{FeedBody, feed},
    inner::{Inner, ask, assert_idle, page, read, soon},
    settle,
};

const PIECES: [&str; 3] = ["one ", "two ", "three"];
const WHOLE: &str = "one two three";

/// Waits in its head and before each piece of its body until a step is allowed: unlike one that
/// yields, it is woken from elsewhere, whoever polled it last.
fn stepping(is_declared: bool) -> (Arc<Semaphore>, Inner) {
    let steps = Arc::new(Semaphore::new(0));
    let allowed = steps.clone();
    let inner = Inner::new(move |_, _| {
        let steps = allowed.clone();
        async move {
            for _ in 0..3 {
                steps.acquire().await.unwrap().forget();
            }
            let (hand, body) = feed(is_declared.then_some(WHOLE.len() as u64));
            tokio::spawn(async move {
                for piece in PIECES {
                    steps.acquire().await.unwrap().forget();
                    hand.data(piece);
                }
            });
            Ok(Response::new(body))
        }
    });
    (steps, inner)
}

/// Polls a request and its body so often, with a step of the handler in between, and leaves; says
/// whether it was answered to the end before.
async fn leave_after(polls: usize, service: Service, steps: &Semaphore) -> bool {
    let mut left = polls;
    let mut asking = Box::pin(service.clone().call(page()));
    let mut body: Option<tower_response_cache::ResponseBody<FeedBody>> = None;
    while left > 0 {
        left -= 1;
        let is_pending = match &mut body {
            None => match poll_immediate(asking.as_mut()).await {
                Some(response) => {
                    body = Some(response.unwrap().into_body());
                    false
                }
                None => true,
            },
            Some(body) => match poll_immediate(body.frame()).await {
                Some(None) => return true,
                Some(Some(frame)) => {
                    frame.expect("the body goes on");
                    false
                }
                None => true,
            },
        };
        if is_pending {
            steps.add_permits(1);
            // Not longer than it takes without Redis, for which this request may be waiting.
            for _ in 0..20 {
                yield_now().await;
            }
        }
    }
    false
}

#[tokio::test(start_paused = true)]
async fn a_starter_alone_that_leaves_after_any_number_of_polls_leaves_a_whole_entry() {
    for is_declared in [true, false] {
        let mut is_done = false;
        // While Redis is asked, a starter may be polled any number of times.
        for polls in (0..100).chain([usize::MAX]) {
            let (cache, _) = cache();
            let (steps, inner) = stepping(is_declared);
            let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
            is_done = leave_after(polls, service.clone(), &steps).await;
            steps.add_permits(100);
            settle().await;
            // A future that was never polled has called nobody.
            let calls = usize::from(polls > 0);
            assert_eq!(inner.calls(), calls, "after {polls} polls");
            let stats = cache.stats();
            assert_eq!(stats.stored(), calls as u64, "after {polls} polls: {stats}");
            assert_idle(&cache).await;
            let next = read(ask(&service, page()).await).await;
            assert_eq!(next.complete(), WHOLE, "after {polls} polls");
            assert_eq!(inner.calls(), 1, "after {polls} polls");
            assert_idle(&cache).await;
            if is_done {
                assert!(polls >= 8, "it left in each phase: {polls}");
                break;
            }
        }
        assert!(is_done, "the last starter reads to the end");
    }
}

#[tokio::test(start_paused = true)]
async fn any_of_those_who_wait_may_leave_after_any_number_of_polls_too() {
    for is_declared in [true, false] {
        // Up to more polls than a client needs for the whole answer.
        for polls in 0..16 {
            let (cache, _) = cache();
            let (steps, inner) = stepping(is_declared);
            let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
            let starter = visit(&service, page());
            let stays = visit(&service, page());
            settle().await;
            leave_after(polls, service.clone(), &steps).await;
            // And the starter at the same time as one of the others.
            if polls % 2 == 0 {
                starter.abort();
            }
            steps.add_permits(100);
            let [stays] = &answers(vec![stays]).await[..] else {
                unreachable!("one was asked for")
            };
            assert_eq!(stays.complete(), WHOLE, "after {polls} polls");
            assert_eq!(inner.calls(), 1, "after {polls} polls");
            assert_idle(&cache).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn starters_that_are_aborted_at_random_on_several_threads_cost_no_second_call() {
    for round in 0..200 {
        let (cache, _) = cache();
        let (steps, inner) = stepping(round % 2 == 0);
        let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        let starter = visit(&service, page());
        support::eventually("it is called", || inner.calls() == 1).await;
        let stays: Vec<_> = (0..8).map(|_| visit(&service, page())).collect();
        // Steps and the end of the starter race.
        let walking = tokio::spawn(async move {
            for _ in 0..100 {
                steps.add_permits(1);
                yield_now().await;
            }
        });
        for _ in 0..round % 20 {
            yield_now().await;
        }
        starter.abort();
        for visit in stays {
            let answer = visit.await.unwrap().unwrap();
            assert_eq!(answer.complete(), WHOLE, "round {round}");
        }
        walking.await.unwrap();
        assert_eq!(inner.calls(), 1, "round {round}");
        support::eventually("it is over", || cache.stats().flights() == 0).await;
    }
}

// ---- held, but not polled ----

/// Waits for a permit; says how many calls are alive.
fn waiting_handler() -> (Arc<Semaphore>, Alive, Inner) {
    let (permits, running) = (Arc::new(Semaphore::new(0)), Alive::default());
    let (held, alive) = (permits.clone(), running.clone());
    let inner = Inner::new(move |call, _| {
        let held = held.clone();
        let one = alive.one();
        async move {
            let _one = one;
            if call == 1 {
                held.acquire().await.unwrap().forget();
            }
            Ok(Response::new(support::feed::whole(format!("call {call}"))))
        }
    });
    (permits, running, inner)
}

/// Polls a request until the handler is called, and no longer.
async fn started(service: &Service, inner: &Inner) -> impl Future<Output = ()> + use<> {
    let mut starter = Box::pin(service.clone().call(page()));
    while inner.calls() == 0 {
        assert!(poll_immediate(starter.as_mut()).await.is_none());
        yield_now().await;
    }
    async move {
        let _ = starter.await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_starter_that_is_held_but_no_longer_polled_keeps_others_for_the_wait_limit_alone() {
    let (cache, _) = cache();
    let (permits, running, inner) = waiting_handler();
    let service: Service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let starter = started(&service, &inner).await;
    let begin = Instant::now();
    let visits = crowd(&service, 50).await;
    // It could go on, but nobody lets it.
    permits.add_permits(1);
    settle().await;
    assert_eq!((inner.calls(), begin.elapsed()), (1, Duration::ZERO));
    for visit in visits {
        let answer = soon("an answer", visit).await.unwrap().unwrap();
        assert_ne!(answer.complete(), "call 1");
    }
    let waited = begin.elapsed();
    assert!((5_000..5_100).contains(&waited.as_millis()), "{waited:?}");
    // When it is dropped, its call ends by itself.
    drop(starter);
    settle().await;
    assert_eq!(running.count(), 0);
    assert_idle(&cache).await;
    let calls = inner.calls();
    let hit = read(ask(&service, page()).await).await;
    assert_eq!((hit.field("x-cache"), inner.calls()), ("HIT", calls));
}

#[tokio::test(start_paused = true)]
async fn a_starter_that_is_not_polled_beyond_the_time_of_a_fill_leads_nobody_any_more() {
    let (cache, clock) = cache();
    let (_permits, running, inner) = waiting_handler();
    let service: Service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let starter = started(&service, &inner).await;
    let limit = Duration::from_secs(31);
    clock.advance(limit);
    advance(limit).await;
    settle().await;
    // One leads again, and nobody waits for the first.
    for answer in answers(crowd(&service, 50).await).await {
        assert_eq!(answer.complete(), "call 2");
    }
    assert_eq!(inner.calls(), 2);
    drop(starter);
    settle().await;
    assert_eq!(running.count(), 0, "too late, and nobody wants it");
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_held_but_not_read_keeps_nobody() {
    let (cache, _) = cache();
    let calls = Arc::<AtomicUsize>::default();
    let counted = calls.clone();
    let (give, mut given) = mpsc::unbounded_channel();
    let inner: Inner = Inner::new(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        let (hand, body) = feed(None);
        give.send(hand).unwrap();
        std::future::ready(Ok(Response::new(body)))
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner);
    let unread = ask(&service, page()).await;
    let visits = crowd(&service, 50).await;
    let hand = given.recv().await.unwrap();
    for piece in PIECES {
        hand.data(piece);
    }
    drop(hand);
    for answer in answers(visits).await {
        assert_eq!(answer.complete(), WHOLE);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(cache.stats().flights(), 0);
    assert_eq!(read(unread).await.complete(), WHOLE);
    assert_idle(&cache).await;
}
