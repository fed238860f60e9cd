//! One load for all who ask for a key at once, and what becomes of it.

use std::{future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::Barrier, time::Instant};
use tower_response_cache::{Cache, LoadError, Reason, Selector, ValueError};

use crate::support::{builder, cache, eventually, in_memory, loads::Loads, settle};

const MINUTE: Duration = Duration::from_secs(60);

async fn held(cache: Cache, loads: Loads) -> usize {
    let load = || loads.held();
    *cache.get_or_set("a", MINUTE, load).await.unwrap()
}

async fn failing(cache: Cache, loads: Loads) -> Result<usize, String> {
    let load = || async { Err(loads.held().await) };
    match cache
        .try_get_or_set::<usize, usize, _, _>("a", MINUTE, load)
        .await
    {
        Ok(value) => Ok(*value),
        Err(error) => Err(error.to_string()),
    }
}

async fn found(cache: &Cache) -> Option<usize> {
    cache.get::<usize>("a").await.unwrap().map(|value| *value)
}

#[tokio::test]
async fn a_thousand_calls_at_once_are_one_load() {
    let (cache, loads) = (in_memory(), Loads::default());
    let calls: Vec<_> = (0..1_000)
        .map(|_| tokio::spawn(held(cache.clone(), loads.clone())))
        .collect();
    settle().await;
    loads.open();
    for call in calls {
        assert_eq!(call.await.unwrap(), 1);
    }
    assert_eq!(loads.calls(), 1);
    let stats = cache.stats();
    assert_eq!(
        (
            stats.value_misses(),
            stats.value_loads(),
            stats.value_collapsed()
        ),
        (1_000, 1, 999)
    );
    assert_eq!(held(cache.clone(), loads.clone()).await, 1);
    assert_eq!(
        (cache.stats().value_hits(), cache.stats().flights()),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_on_several_threads_are_one_load_for_each_key() {
    let (cache, loads) = (in_memory(), Loads::default());
    for round in 0..50 {
        let barrier = Arc::new(Barrier::new(20));
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let (cache, loads, barrier) = (cache.clone(), loads.clone(), barrier.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    let load = || async {
                        tokio::task::yield_now().await;
                        loads.at_once()
                    };
                    *cache
                        .get_or_set(("key", round), MINUTE, load)
                        .await
                        .unwrap()
                })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), round + 1);
        }
    }
    assert_eq!(loads.calls(), 50);
}

#[tokio::test]
async fn a_load_may_borrow() {
    let cache = in_memory();
    let text = String::from("borrowed");
    let mut calls = 0;
    for _ in 0..2 {
        let length = cache
            .get_or_set("length", MINUTE, || {
                calls += 1;
                async { text.len() }
            })
            .await
            .unwrap();
        assert_eq!(*length, 8);
    }
    assert_eq!(calls, 1);
}

#[tokio::test]
async fn when_a_caller_is_dropped_the_next_one_runs_its_own_load() {
    let (cache, loads) = (in_memory(), Loads::default());
    let first = tokio::spawn(held(cache.clone(), loads.clone()));
    settle().await;
    let others: Vec<_> = (0..10)
        .map(|_| tokio::spawn(held(cache.clone(), loads.clone())))
        .collect();
    settle().await;
    assert_eq!(loads.calls(), 1);
    for dropped in 0..5 {
        // Who leads by now is the one whose load was called last.
        match dropped {
            0 => first.abort(),
            _ => others[dropped - 1].abort(),
        }
        settle().await;
        assert!(loads.calls() <= 2 + dropped, "never all of them");
    }
    loads.open();
    for other in &others[4..] {
        eventually("all have it", || other.is_finished()).await;
    }
    for other in others.into_iter().skip(4) {
        assert_eq!(other.await.unwrap(), loads.calls());
    }
    assert_eq!(cache.stats().flights(), 0);
}

#[tokio::test]
async fn an_error_is_that_of_all_who_wait_and_is_kept_for_nobody() {
    let (cache, loads) = (in_memory(), Loads::default());
    let calls: Vec<_> = (0..1_000)
        .map(|_| tokio::spawn(failing(cache.clone(), loads.clone())))
        .collect();
    settle().await;
    loads.open();
    for call in calls {
        assert_eq!(call.await.unwrap(), Err("1".to_owned()));
    }
    assert_eq!(loads.calls(), 1);
    assert_eq!(found(&cache).await, None);
    loads.open();
    assert_eq!(held(cache.clone(), loads.clone()).await, 2);
}

#[tokio::test]
async fn a_panic_reaches_its_caller_and_one_of_those_who_wait_loads_again() {
    let (cache, loads) = (in_memory(), Loads::default());
    let caller = |cache: Cache, loads: Loads, panics: usize| async move {
        let load = || async {
            let call = loads.held().await;
            assert!(call > panics, "call {call} panics");
            call
        };
        let call = cache.get_or_set("a", MINUTE, load);
        AssertUnwindSafe(call)
            .catch_unwind()
            .await
            .ok()
            .map(|value| *value.unwrap())
    };
    let calls: Vec<_> = (0..10)
        .map(|_| tokio::spawn(caller(cache.clone(), loads.clone(), 1)))
        .collect();
    settle().await;
    loads.open();
    settle().await;
    assert_eq!(loads.calls(), 2);
    loads.open();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    answers.sort();
    assert_eq!(answers[..2], [None, Some(2)]);
    assert_eq!(answers.iter().flatten().count(), 9);
    assert_eq!(cache.stats().flights(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_asks_for_its_own_key_does_not_wait_for_itself() {
    let (cache, loads) = (in_memory(), Loads::default());
    let begin = Instant::now();
    let inner = || async { loads.at_once() };
    let middle = || async {
        *cache
            .get_or_set(("b", 1), MINUTE, || async {
                *cache.get_or_set("a", MINUTE, inner).await.unwrap() + 10
            })
            .await
            .unwrap()
            + 100
    };
    let value = cache.get_or_set("a", MINUTE, middle).await.unwrap();
    assert_eq!((*value, loads.calls()), (111, 1));
    assert_eq!(begin.elapsed(), Duration::ZERO, "nobody waited");
    assert_eq!(found(&cache).await, Some(111), "the outermost one is kept");
    assert_eq!(*cache.get::<usize>("b:1").await.unwrap().unwrap(), 11);
}

#[tokio::test]
async fn a_load_that_was_outrun_by_a_deletion_or_a_newer_value_is_not_kept() {
    #[derive(Debug)]
    enum Change {
        Delete,
        Pattern,
        Set,
        Tag,
        All,
    }
    for change in [
        Change::Delete,
        Change::Pattern,
        Change::Set,
        Change::Tag,
        Change::All,
    ] {
        let (cache, loads) = (in_memory(), Loads::default());
        let old = tokio::spawn(held(cache.clone(), loads.clone()));
        settle().await;
        let left = match change {
            Change::Delete => cache.delete("a").await.map(|_| None).unwrap(),
            Change::Pattern => {
                cache.delete_pattern("*").await;
                None
            }
            Change::Set => cache.set("a", 7_usize).await.map(|()| Some(7)).unwrap(),
            Change::Tag => {
                cache.invalidate(Selector::tag("another"));
                Some(1)
            }
            Change::All => {
                cache.invalidate(Selector::all());
                None
            }
        };
        loads.open();
        assert_eq!(
            old.await.unwrap(),
            1,
            "who came before has what was loaded then"
        );
        settle().await;
        assert_eq!(found(&cache).await, left, "{change:?}");
        let entries = cache.stats().entries();
        assert_eq!(entries, u64::from(left.is_some()), "{change:?}");
    }
}

#[tokio::test]
async fn who_comes_after_an_invalidation_never_joins_an_older_load() {
    let (cache, loads) = (in_memory(), Loads::default());
    let old = tokio::spawn(held(cache.clone(), loads.clone()));
    settle().await;
    cache.delete("another").await.unwrap();
    let joining = tokio::spawn(held(cache.clone(), loads.clone()));
    settle().await;
    assert_eq!(loads.calls(), 1, "what was deleted is another");
    cache.delete("a").await.unwrap();
    let new = tokio::spawn(held(cache.clone(), loads.clone()));
    settle().await;
    assert_eq!(loads.calls(), 2);
    // The older one first, then the newer one.
    loads.open();
    assert_eq!((old.await.unwrap(), joining.await.unwrap()), (1, 1));
    assert_eq!(found(&cache).await, None);
    loads.open();
    assert_eq!(new.await.unwrap(), 2);
    assert_eq!(found(&cache).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_five_seconds_for_anothers_load() {
    let (cache, loads) = (in_memory(), Loads::default());
    let slow = tokio::spawn(held(cache.clone(), loads.clone()));
    settle().await;
    let begin = Instant::now();
    let load = || async { loads.at_once() };
    let value = cache.get_or_set("a", MINUTE, load).await.unwrap();
    assert_eq!(*value, 2);
    assert_eq!(begin.elapsed().as_secs(), 5);
    loads.open();
    assert_eq!(slow.await.unwrap(), 1);
    assert_eq!(
        found(&cache).await,
        Some(2),
        "what started later is the newer one"
    );
}

#[tokio::test(start_paused = true)]
async fn who_comes_when_a_load_has_taken_five_seconds_leads_another() {
    let (cache, loads) = (in_memory(), Loads::default());
    let hanging = tokio::spawn({
        let cache = cache.clone();
        async move {
            cache
                .get_or_set::<usize, _, _>("a", MINUTE, pending)
                .await
                .map(drop)
        }
    });
    settle().await;
    tokio::time::advance(Duration::from_secs(5)).await;
    let others: Vec<_> = (0..10)
        .map(|_| tokio::spawn(held(cache.clone(), loads.clone())))
        .collect();
    settle().await;
    loads.open();
    for other in others {
        assert_eq!(other.await.unwrap(), 1);
    }
    hanging.abort();
}

#[tokio::test]
async fn loads_of_other_types_of_one_key_share_nothing() {
    let (cache, loads) = (in_memory(), Loads::default());
    let number = tokio::spawn(held(cache.clone(), loads.clone()));
    settle().await;
    let text = tokio::spawn({
        let cache = cache.clone();
        async move {
            cache
                .get_or_set("a", MINUTE, || async { "text".to_owned() })
                .await
                .unwrap()
        }
    });
    settle().await;
    loads.open();
    assert_eq!(number.await.unwrap(), 1);
    assert_eq!(*text.await.unwrap(), "text");
}

#[tokio::test]
async fn absence_and_errors_are_returned_and_kept_for_nobody() {
    let (cache, loads) = (in_memory(), Loads::default());
    for _ in 0..2 {
        let load = || async {
            loads.at_once();
            None::<u8>
        };
        assert_eq!(*cache.get_or_set("none", MINUTE, load).await.unwrap(), None);
        let load = || async {
            loads.at_once();
            Err::<u8, String>("away".to_owned())
        };
        assert_eq!(
            *cache.get_or_set("error", MINUTE, load).await.unwrap(),
            Err("away".to_owned())
        );
        let load = || async {
            loads.at_once();
            Ok::<u8, String>(0)
        };
        assert_eq!(
            *cache.get_or_set("zero", MINUTE, load).await.unwrap(),
            Ok(0)
        );
    }
    assert_eq!(loads.calls(), 5, "only Ok(0) was kept");
    assert_eq!(cache.stats().refusals(Reason::InnerError), 2);
}

#[tokio::test]
async fn what_cannot_be_kept_is_returned_and_counted() {
    let cache = builder().max_value_size(10).build().unwrap();
    let long = || async { "longer than ten bytes".to_owned() };
    let text = cache.get_or_set("long", MINUTE, long).await.unwrap();
    assert_eq!(*text, long().await);
    assert_eq!(cache.stats().refusals(Reason::BodyTooLarge), 1);
    let pairs = || async { std::collections::HashMap::from([((1, 2), 3)]) };
    let map = cache.get_or_set("map", MINUTE, pairs).await.unwrap();
    assert_eq!(*map, pairs().await);
    assert_eq!(cache.stats().refusals(Reason::NotSerializable), 1);
    assert_eq!(cache.stats().entries(), 0);
}

#[tokio::test]
async fn what_was_loaded_is_fresh_for_its_lifetime_alone() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    for (seconds, expected) in [(0, 1), (59, 1), (1, 2), (60, 3)] {
        clock.advance(Duration::from_secs(seconds));
        let load = || async { loads.at_once() };
        let value = cache.get_or_set("a", MINUTE, load).await.unwrap();
        assert_eq!(*value, expected);
        settle().await;
    }
}

#[tokio::test]
async fn a_key_or_lifetime_that_makes_no_sense_is_an_error_before_anything_is_loaded() {
    let cache = in_memory();
    let load = || async { unreachable!("nothing is loaded") };
    let answer = cache.get_or_set::<u8, _, _>("a*", MINUTE, load).await;
    assert_eq!(answer, Err(ValueError::Pattern("a*".to_owned())));
    let answer = cache
        .get_or_set::<u8, _, _>("a", Duration::ZERO, load)
        .await;
    assert_eq!(answer, Err(ValueError::NoTtl));
    let answer = cache.get_or_set::<u8, _, _>("a", Duration::MAX, load).await;
    assert_eq!(answer, Err(ValueError::LongTtl(Duration::MAX)));
    let load = || async { unreachable!("nothing is loaded") };
    let answer = cache
        .try_get_or_set::<u8, String, _, _>(("a", f64::NAN), MINUTE, load)
        .await;
    assert!(matches!(
        answer,
        Err(LoadError::Value(ValueError::NotANumber))
    ));
}

#[tokio::test]
async fn a_cache_that_is_switched_off_loads_every_time() {
    let (cache, loads) = (in_memory(), Loads::default());
    cache.set_enabled(false);
    for call in 1..3 {
        let value = cache
            .get_or_set("a", MINUTE, || async { loads.at_once() })
            .await;
        assert_eq!(*value.unwrap(), call);
    }
    // Nor does one wait for another's.
    let both = [
        held(cache.clone(), loads.clone()),
        held(cache, loads.clone()),
    ]
    .map(tokio::spawn);
    settle().await;
    assert_eq!(loads.calls(), 4);
    loads.open();
    settle().await;
    loads.open();
    for load in both {
        assert!(load.await.unwrap() > 2);
    }
}
