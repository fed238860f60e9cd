//! One call of the handler for everybody who asks for one cold key at once, also when the one who
//! started it leaves.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{
    self, cache,
    feed::{feed, whole},
    inner::{Inner, Read, Shared, ask, assert_idle, at_once, client, held, page, read},
    log::Log,
    request, settle,
};
use futures_util::{FutureExt, future::poll_immediate};
use http::Response;
use http_body_util::BodyExt;
use tokio::{
    sync::{Barrier, Semaphore},
    task::yield_now,
    time::advance,
};
use tower::{Layer, Service};
use tower_response_cache::ResponseCacheLayer;

/// Says when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_requests_for_one_cold_key_call_the_handler_once() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let together = Arc::new(Barrier::new(200));
    let asked = Arc::<AtomicUsize>::default();
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let (service, together, asked) = (service.clone(), together.clone(), asked.clone());
            tokio::spawn(async move {
                together.wait().await;
                ask_and_say(service, asked).await
            })
        })
        .collect();
    support::eventually("all have asked", || asked.load(Ordering::SeqCst) == 200).await;
    assert_eq!(cache.stats().flights(), 1);
    permits.add_permits(200);
    let mut collapsed = 0;
    for client in clients {
        let answer = client.await.unwrap();
        assert_eq!(answer.complete(), "call 1: GET /page");
        assert_eq!(answer.field("x-cache"), "MISS");
        collapsed += usize::from(answer.field("cache-status").contains("collapsed"));
    }
    assert_eq!(inner.calls(), 1);
    assert_eq!(collapsed, 199);
    assert_eq!(cache.stats().collapsed(), 199);
    assert_eq!(cache.stats().fills(), 1);
    assert_idle(&cache).await;
    let hit = read(ask(&service, page()).await).await;
    assert_eq!(
        (hit.field("x-cache"), hit.complete()),
        ("HIT", "call 1: GET /page")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_over_many_keys_calls_once_for_each() {
    let (cache, _) = cache();
    let inner: Inner = Inner::new(|_, request| async move {
        for _ in 0..5 {
            yield_now().await;
        }
        Ok(Response::new(whole(request.uri().path().to_owned())))
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let together = Arc::new(Barrier::new(400));
    let clients: Vec<_> = (0..400)
        .map(|n| {
            let (service, together) = (service.clone(), together.clone());
            tokio::spawn(async move {
                let path = format!("/{}", n % 20);
                together.wait().await;
                let answer = read(ask(&service, request("GET", &path, &[])).await).await;
                assert_eq!(answer.complete(), path);
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(inner.calls(), 20);
    assert_eq!(cache.stats().entries(), 20);
    assert_idle(&cache).await;
}

// ---- the starter leaves ----

/// Drops the starter after `polls` polls of its future, then of its body; says whether it was done
/// before.
async fn start_and_leave(service: &Shared, polls: usize) -> bool {
    let mut left = polls;
    let mut asking = Box::pin(service.clone().call(page()));
    let mut body = loop {
        if left == 0 {
            return false;
        }
        left -= 1;
        match poll_immediate(asking.as_mut()).await {
            Some(response) => break response.unwrap().into_body(),
            None => yield_now().await,
        }
    };
    drop(asking);
    loop {
        if left == 0 {
            return false;
        }
        left -= 1;
        match poll_immediate(body.frame()).await {
            Some(Some(frame)) => assert!(frame.is_ok()),
            Some(None) => return true,
            None => yield_now().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_starter_dropped_after_any_number_of_polls_costs_no_second_call() {
    for declared in [true, false] {
        let mut finished = false;
        // While Redis is asked, a starter may be polled any number of times.
        let most = if support::is_on_redis() {
            usize::MAX
        } else {
            100
        };
        for polls in (0..100).chain([most]) {
            let (cache, _) = cache();
            let inner: Inner = Inner::new(move |call, _| async move {
                for _ in 0..4 {
                    yield_now().await;
                }
                let (hand, body) = feed(declared.then_some(12));
                tokio::spawn(async move {
                    for piece in ["call", " num", "ber "] {
                        yield_now().await;
                        hand.data(piece);
                    }
                    hand.data(call.to_string().repeat(usize::from(!declared)));
                });
                Ok(Response::new(body))
            });
            let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
            let starting = service.clone();
            let starter = tokio::spawn(async move { start_and_leave(&starting, polls).await });
            // They come while the starter is there; those of an earlier round prove nothing.
            yield_now().await;
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    let service = service.clone();
                    tokio::spawn(async move { read(ask(&service, page()).await).await })
                })
                .collect();
            finished = starter.await.unwrap();
            let whole = if declared {
                "call number "
            } else {
                "call number 1"
            };
            for client in clients {
                let answer = at_once("an answer", client).await.unwrap();
                assert_eq!(answer.complete(), whole, "after {polls} polls");
            }
            assert_eq!(inner.calls(), 1, "after {polls} polls");
            assert_idle(&cache).await;
            let hit = read(ask(&service, page()).await).await;
            assert_eq!(hit.field("x-cache"), "HIT", "after {polls} polls");
            if finished {
                assert!(polls > 8, "the starter was dropped in each phase: {polls}");
                break;
            }
        }
        assert!(finished, "the last starter reads to the end");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_requests_whose_starter_is_dropped_midway_call_the_handler_once() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let starter = tokio::spawn(ask_and_read(service.clone()));
    support::eventually("it is called", || inner.calls() == 1).await;
    let asked = Arc::<AtomicUsize>::default();
    let clients: Vec<_> = (0..199)
        .map(|_| tokio::spawn(ask_and_say(service.clone(), asked.clone())))
        .collect();
    support::eventually("all have asked", || asked.load(Ordering::SeqCst) == 199).await;
    starter.abort();
    assert!(starter.await.unwrap_err().is_cancelled());
    permits.add_permits(200);
    for client in clients {
        assert_eq!(client.await.unwrap().complete(), "call 1: GET /page");
    }
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

/// Counts itself once its future has been polled.
async fn ask_and_say(service: Shared, asked: Arc<AtomicUsize>) -> Read {
    let mut asking = Box::pin(ask(&service, page()));
    let first = poll_immediate(asking.as_mut()).await;
    asked.fetch_add(1, Ordering::SeqCst);
    read(match first {
        Some(response) => response,
        None => asking.await,
    })
    .await
}

async fn ask_and_read(service: Shared) -> String {
    read(ask(&service, page()).await)
        .await
        .complete()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_fill_whose_clients_have_all_left_is_stored_for_the_next() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let starter = client(&service, page()).await;
    let follower = client(&service, page()).await;
    starter.abort();
    follower.abort();
    settle().await;
    assert_eq!(cache.stats().flights(), 1, "it goes on without them");
    permits.add_permits(1);
    settle().await;
    let hit = read(ask(&service, page()).await).await;
    assert_eq!(hit.field("x-cache"), "HIT");
    assert_eq!(hit.complete(), "call 1: GET /page");
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_leaves_changes_nothing() {
    let (cache, _) = cache();
    let (permits, inner, service) = held(ResponseCacheLayer::new(&cache));
    let starter = client(&service, page()).await;
    let leaves = client(&service, page()).await;
    let stays = client(&service, page()).await;
    leaves.abort();
    settle().await;
    permits.add_permits(1);
    for client in [starter, stays] {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), "call 1: GET /page");
    }
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn without_detach_the_handler_is_dropped_with_its_client_and_one_of_those_waiting_starts_again()
 {
    let (cache, _) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let is_dropped = Arc::<AtomicBool>::default();
    let (held, says) = (permits.clone(), is_dropped.clone());
    let inner: Inner = Inner::new(move |call, _| {
        let held = held.clone();
        let guard = (call == 1).then(|| Dropped(says.clone()));
        async move {
            held.acquire().await.unwrap().forget();
            drop(guard);
            Ok(Response::new(whole(format!("call {call}"))))
        }
    });
    let service = ResponseCacheLayer::new(&cache)
        .detach(false)
        .layer(inner.clone());
    let starter = client(&service, page()).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(client(&service, page()).await);
    }
    assert_eq!(inner.calls(), 1);
    starter.abort();
    settle().await;
    assert!(is_dropped.load(Ordering::SeqCst));
    assert_eq!(inner.calls(), 2, "one starts again, the others wait for it");
    permits.add_permits(20);
    for client in clients {
        let answer = at_once("an answer", client).await.unwrap();
        assert_eq!(answer.complete(), "call 2");
    }
    assert_eq!(inner.calls(), 2);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn with_detach_the_handler_is_not_dropped_with_its_client() {
    let (cache, _) = cache();
    let is_dropped = Arc::<AtomicBool>::default();
    let says = is_dropped.clone();
    let inner: Inner = Inner::new(move |_, _| {
        let guard = Dropped(says.clone());
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok(Response::new(whole("")))
        }
    });
    let service = ResponseCacheLayer::new(&cache)
        .fill_timeout(Duration::from_secs(30))
        .layer(inner.clone());
    let starter = client(&service, page()).await;
    starter.abort();
    settle().await;
    assert!(!is_dropped.load(Ordering::SeqCst));
    assert_eq!(cache.stats().flights(), 1);
    // A handler that never ends is dropped all the same.
    advance(Duration::from_secs(31)).await;
    settle().await;
    assert!(is_dropped.load(Ordering::SeqCst));
    assert_idle(&cache).await;
}

// ---- the handler's surroundings ----

tokio::task_local! {
    static TENANT: &'static str;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_reads_an_outer_task_local_works_cold() {
    let (cache, _) = cache();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let inner: Inner = Inner::new(move |call, _| {
        let held = held.clone();
        let in_call = TENANT.get();
        async move {
            held.acquire().await.unwrap().forget();
            let in_future = TENANT.get();
            Ok(Response::new(whole(format!(
                "{call}: {in_call}, {in_future}"
            ))))
        }
    });
    let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
    let ask = |tenant| {
        let service = service.clone();
        tokio::spawn(TENANT.scope(tenant, async move { ask_and_read(service).await }))
    };
    let clients = [ask("first"), ask("second"), ask("third")];
    settle().await;
    permits.add_permits(3);
    for client in clients {
        let text = at_once("an answer", client).await.unwrap();
        assert_eq!(text, "1: first, first");
    }
    assert_eq!(inner.calls(), 1);
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn the_handler_runs_in_the_span_of_the_request_that_started_it_also_when_that_left() {
    let _listening = Log::default().listen();
    for leaves in [false, true] {
        let (cache, _) = cache();
        let permits = Arc::new(Semaphore::new(0));
        let held = permits.clone();
        let inner: Inner = Inner::new(move |_, _| {
            let held = held.clone();
            async move {
                held.acquire().await.unwrap().forget();
                let span = tracing::Span::current();
                let name = span.metadata().map_or("none", |metadata| metadata.name());
                Ok(Response::new(whole(name)))
            }
        });
        let service = ResponseCacheLayer::new(&cache).layer(inner.clone());
        let span = tracing::info_span!("of the starter");
        let starting = service.clone();
        let starter = tokio::spawn(async move {
            let mut asking = pin!(ask_and_read(starting));
            poll_fn(|cx| span.in_scope(|| asking.poll_unpin(cx))).await
        });
        settle().await;
        let follower = client(&service, page()).await;
        if leaves {
            starter.abort();
            settle().await;
        }
        permits.add_permits(1);
        let answer = at_once("an answer", follower).await.unwrap();
        assert_eq!(answer.complete(), "of the starter", "leaves: {leaves}");
    }
}
