//! What may stand in for a load: stale windows, refreshing ahead, limits.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, advance};
use tower_response_cache::{Cache, LoadError, ManualClock, Selector, ValueError};

use crate::support::{cache, in_memory, loads::Loads, settle};

const SECOND: Duration = Duration::from_secs(1);

/// Asks for a value that is fresh for 10 seconds, and stale for 20 more.
async fn revalidated(cache: &Cache, loads: &Loads) -> usize {
    let loads = loads.clone();
    let entry = cache
        .entry("a")
        .ttl(10 * SECOND)
        .stale_while_revalidate(20 * SECOND);
    *entry
        .get_or_set(move || async move { loads.held().await })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_stale_value_is_used_while_one_load_obtains_a_newer_one() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    loads.open();
    assert_eq!(revalidated(&cache, &loads).await, 1);
    clock.advance(10 * SECOND);
    for _ in 0..10 {
        assert_eq!(revalidated(&cache, &loads).await, 1);
        settle().await;
    }
    assert_eq!(loads.calls(), 2, "one load for all of them");
    loads.open();
    settle().await;
    assert_eq!(revalidated(&cache, &loads).await, 2);

    clock.advance(30 * SECOND);
    loads.open();
    assert_eq!(
        revalidated(&cache, &loads).await,
        3,
        "past its window nothing stands in"
    );
    let stats = cache.stats();
    assert_eq!(
        (
            stats.value_hits(),
            stats.value_misses(),
            stats.value_loads()
        ),
        (11, 2, 3)
    );
}

#[tokio::test]
async fn a_refresh_that_fails_is_tried_again_a_second_later() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    let ask = |fails: bool| {
        let loads = loads.clone();
        let entry = cache
            .entry("a")
            .ttl(10 * SECOND)
            .stale_while_revalidate(20 * SECOND);
        entry.try_get_or_set(move || async move {
            match fails {
                true => Err(loads.at_once()),
                false => Ok(loads.at_once()),
            }
        })
    };
    assert_eq!(*ask(false).await.unwrap(), 1);
    clock.advance(10 * SECOND);
    for (milliseconds, calls) in [(0, 2), (0, 2), (999, 2), (1, 3)] {
        clock.advance(Duration::from_millis(milliseconds));
        assert_eq!(*ask(true).await.unwrap(), 1);
        settle().await;
        assert_eq!(loads.calls(), calls, "{milliseconds}");
    }
    clock.advance(SECOND);
    assert_eq!(*ask(false).await.unwrap(), 1);
    settle().await;
    assert_eq!(*ask(false).await.unwrap(), 4);
}

#[tokio::test]
async fn a_soft_invalidation_makes_stale_and_a_hard_one_is_final() {
    let (cache, _clock) = cache();
    let loads = Loads::default();
    loads.open();
    assert_eq!(revalidated(&cache, &loads).await, 1);
    cache.invalidate(Selector::values("a").soft());
    assert_eq!(
        cache.get::<usize>("a").await.unwrap(),
        None,
        "a plain get takes nothing stale"
    );
    assert_eq!(revalidated(&cache, &loads).await, 1);
    loads.open();
    settle().await;
    assert_eq!(revalidated(&cache, &loads).await, 2);
    cache.invalidate(Selector::values("a"));
    loads.open();
    assert_eq!(revalidated(&cache, &loads).await, 3);
}

#[tokio::test]
async fn a_stale_value_stands_in_for_an_error_within_its_window() {
    let (cache, clock) = cache();
    let ask = |load: Result<u8, &'static str>| {
        let entry = cache
            .entry("a")
            .ttl(10 * SECOND)
            .stale_if_error(20 * SECOND);
        entry.try_get_or_set(move || async move { load })
    };
    let is_away = |answer: Result<Arc<u8>, LoadError<&str>>| matches!(answer, Err(LoadError::Load(error)) if *error == "away");
    assert!(is_away(ask(Err("away")).await));
    assert_eq!(*ask(Ok(1)).await.unwrap(), 1);
    clock.advance(10 * SECOND);
    assert_eq!(*ask(Err("away")).await.unwrap(), 1);
    clock.advance(Duration::from_millis(19_999));
    assert_eq!(*ask(Err("away")).await.unwrap(), 1);
    clock.advance(Duration::from_millis(1));
    assert!(is_away(ask(Err("away")).await));

    assert_eq!(*ask(Ok(2)).await.unwrap(), 2);
    clock.advance(10 * SECOND);
    cache.delete("a").await.unwrap();
    assert!(
        is_away(ask(Err("away")).await),
        "what was deleted stands in for nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hard_limit_drops_a_load_and_is_a_failure() {
    let (cache, clock) = cache();
    let begin = Instant::now();
    let ask = || {
        cache
            .entry("a")
            .ttl(10 * SECOND)
            .stale_if_error(20 * SECOND)
            .hard_limit(3 * SECOND)
    };
    let error = ask().get_or_set(pending::<u8>).await.unwrap_err();
    assert_eq!(error, ValueError::TooSlow(3 * SECOND));
    assert_eq!(begin.elapsed().as_secs(), 3);
    assert_eq!(*ask().get_or_set(|| async { 1_u8 }).await.unwrap(), 1);
    clock.advance(10 * SECOND);
    assert_eq!(*ask().get_or_set(pending::<u8>).await.unwrap(), 1);
    assert_eq!(begin.elapsed().as_secs(), 6);
    assert_eq!(cache.stats().flights(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_soft_limit_a_stale_value_stands_in_and_the_load_goes_on() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    let ask = || {
        let loads = loads.clone();
        let entry = cache
            .entry("a")
            .ttl(10 * SECOND)
            .stale_if_error(20 * SECOND)
            .soft_limit(SECOND);
        entry.get_or_set(move || async move { loads.held().await })
    };
    loads.open();
    assert_eq!(*ask().await.unwrap(), 1);
    clock.advance(10 * SECOND);
    let begin = Instant::now();
    let (first, second) = tokio::join!(ask(), ask());
    assert_eq!((*first.unwrap(), *second.unwrap()), (1, 1));
    assert_eq!(begin.elapsed().as_secs(), 1);
    assert_eq!(loads.calls(), 2);
    loads.open();
    settle().await;
    assert_eq!(*ask().await.unwrap(), 2);
}

#[tokio::test]
async fn what_cost_much_is_refreshed_before_its_end_and_nobody_waits() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    let ask = |eagerness: f64| {
        let (loads, clock) = (loads.clone(), clock.clone());
        let entry = cache.entry("a").ttl(10 * SECOND).refresh_ahead(eagerness);
        entry.get_or_set(move || async move {
            clock.advance(SECOND);
            loads.at_once()
        })
    };
    assert_eq!(*ask(0.0).await.unwrap(), 1);
    for eagerness in [0.0, -1.0, f64::NAN] {
        assert_eq!(*ask(eagerness).await.unwrap(), 1);
    }
    settle().await;
    assert_eq!(loads.calls(), 1, "nobody was eager");
    // So eager that any draw will do.
    assert_eq!(*ask(1e12).await.unwrap(), 1);
    settle().await;
    assert_eq!(*ask(0.0).await.unwrap(), 2);
    assert_eq!(cache.stats().value_misses(), 1);
}

#[tokio::test]
async fn the_lifetime_may_come_from_the_value() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    let ask = |seconds: u64| {
        let loads = loads.clone();
        let entry = cache
            .entry("a")
            .ttl_by(|(_, seconds)| Duration::from_secs(*seconds));
        entry.get_or_set(move || async move { (loads.at_once(), seconds) })
    };
    assert_eq!(ask(0).await.unwrap().0, 1, "nothing is kept for no time");
    let stale = cache
        .entry("a")
        .ttl_by(|_: &(usize, u64)| Duration::ZERO)
        .stale_while_revalidate(60 * SECOND);
    let never = stale.get_or_set(|| async { (0, 0) }).await;
    assert_eq!(never.unwrap().0, 0, "nor as something stale");
    assert_eq!(ask(5).await.unwrap().0, 2);
    clock.advance(Duration::from_millis(4_999));
    assert_eq!(ask(7).await.unwrap().0, 2);
    clock.advance(Duration::from_millis(1));
    assert_eq!(ask(u64::MAX).await.unwrap().0, 3);
    clock.advance(50 * 366 * 24 * 3600 * SECOND);
    assert_eq!(ask(1).await.unwrap().0, 3);
}

#[tokio::test]
async fn a_load_in_the_background_keeps_nothing_that_was_deleted_meanwhile() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    loads.open();
    assert_eq!(revalidated(&cache, &loads).await, 1);
    clock.advance(10 * SECOND);
    assert_eq!(revalidated(&cache, &loads).await, 1);
    settle().await;
    assert_eq!(loads.calls(), 2);
    cache.delete("a").await.unwrap();
    loads.open();
    settle().await;
    assert!(!cache.exists("a").await.unwrap());
}

#[tokio::test]
async fn an_entry_says_first_what_makes_no_sense() {
    let cache = in_memory();
    let seen = Arc::new(Mutex::new(0));
    let load = {
        let seen = seen.clone();
        move || async move {
            *seen.lock().unwrap() += 1;
            1
        }
    };
    let error = cache
        .entry::<i32>("a*")
        .get_or_set(load.clone())
        .await
        .unwrap_err();
    assert_eq!(error, ValueError::Pattern("a*".to_owned()));
    let error = cache.entry::<i32>("a").ttl(Duration::ZERO).forever();
    assert_eq!(
        error.get_or_set(load.clone()).await.unwrap_err(),
        ValueError::NoTtl
    );
    assert_eq!(*seen.lock().unwrap(), 0);
    let good = cache
        .entry::<i32>("a")
        .forever()
        .tags(["x"])
        .get_or_set(load)
        .await;
    assert_eq!(*good.unwrap(), 1);
}

#[tokio::test]
async fn a_value_is_refreshed_near_its_end_and_not_long_before_and_once_a_second_where_that_fails()
{
    // Memory alone: in the time of a store nothing of this has passed.
    let clock = ManualClock::new();
    let cache = Cache::builder().clock(clock.clone()).build().unwrap();
    let (loads, (ttl, cost)) = (Loads::default(), (10_000_000 * SECOND, 1_000 * SECOND));
    let counted = (loads.clone(), clock.clone());
    // No draw reaches further than 37 times the eagerness of costs.
    let users = cache
        .try_wrap("user", ttl, move |(): ()| {
            let (loads, clock) = counted.clone();
            async move {
                match loads.at_once() {
                    2 | 3 => Err("away"),
                    call => {
                        clock.advance(cost);
                        Ok(call)
                    }
                }
            }
        })
        .refresh_ahead(200.0);
    let ask = async || {
        let value = *users.get(()).await.unwrap();
        settle().await;
        (value, loads.calls())
    };
    assert_eq!(ask().await, (1, 1));
    for _ in 0..100 {
        assert_eq!(ask().await, (1, 1), "far from its end");
    }
    clock.advance(ttl - 3 * SECOND);
    // All but one draw of a hundred thousand.
    assert_eq!(ask().await, (1, 2));
    assert_eq!(ask().await, (1, 2), "it has just been tried");
    clock.advance(SECOND);
    assert_eq!(ask().await, (1, 3));
    clock.advance(SECOND);
    assert_eq!(ask().await, (1, 4));
    assert_eq!(ask().await, (4, 4), "nobody has waited for it");
}

#[tokio::test]
async fn who_polls_a_load_is_answered_with_nothing_stale() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    loads.open();
    assert_eq!(revalidated(&cache, &loads).await, 1);
    clock.advance(10 * SECOND);
    let load = || async { loads.at_once() };
    let value = cache.get_or_set("a", 10 * SECOND, load).await.unwrap();
    assert_eq!(*value, 2, "it could not go on in the background");
}

#[tokio::test]
async fn what_stands_in_for_an_error_does_so_for_all_who_wait_and_for_no_refresh() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    let counted = loads.clone();
    let users = cache
        .try_wrap("user", 10 * SECOND, move |(): ()| {
            let loads = counted.clone();
            async move {
                match loads.held().await {
                    1 => Ok(7),
                    call => Err(call),
                }
            }
        })
        .stale_if_error(60 * SECOND);
    loads.open();
    assert_eq!(*users.get(()).await.unwrap(), 7);
    clock.advance(10 * SECOND);
    let ask = |is_refresh: bool| {
        let users = users.clone();
        tokio::spawn(async move {
            match is_refresh {
                true => users.refresh(()).await,
                false => users.get(()).await,
            }
        })
    };
    let asking = [ask(false), ask(false), ask(false)];
    settle().await;
    loads.open();
    for asked in asking {
        assert_eq!(*asked.await.unwrap().unwrap(), 7);
    }
    assert_eq!(loads.calls(), 2);
    let leading = ask(true);
    settle().await;
    let following = [ask(true), ask(true)];
    settle().await;
    loads.open();
    assert_eq!(leading.await.unwrap().unwrap_err().load(), Some(&3));
    settle().await;
    loads.open();
    for asked in following {
        assert_eq!(asked.await.unwrap().unwrap_err().load(), Some(&4));
    }
    assert_eq!(loads.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_for_five_seconds_gets_what_stands_in_unless_it_is_a_refresh() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    let counted = loads.clone();
    let users = cache
        .wrap("user", 10 * SECOND, move |(): ()| {
            let loads = counted.clone();
            async move {
                match loads.at_once() {
                    2 | 3 => pending().await,
                    call => call,
                }
            }
        })
        .stale_if_error(60 * SECOND);
    assert_eq!(*users.get(()).await.unwrap(), 1);
    clock.advance(10 * SECOND);
    let ask = |is_refresh: bool| {
        let users = users.clone();
        tokio::spawn(async move {
            match is_refresh {
                true => *users.refresh(()).await.unwrap(),
                false => *users.get(()).await.unwrap(),
            }
        })
    };
    let (begin, _stuck) = (Instant::now(), ask(false));
    settle().await;
    assert_eq!((ask(false).await.unwrap(), loads.calls()), (1, 2));
    assert_eq!(begin.elapsed().as_secs(), 5);
    let (begin, _stuck) = (Instant::now(), ask(true));
    settle().await;
    assert_eq!((ask(true).await.unwrap(), loads.calls()), (4, 4));
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_may_stand_in_is_kept_until_its_window_ends() {
    // Memory alone: what takes away what has expired runs in paused time.
    let clock = ManualClock::new();
    let cache = Cache::builder().clock(clock.clone()).build().unwrap();
    let loads = Loads::default();
    loads.open();
    assert_eq!(revalidated(&cache, &loads).await, 1);
    for (seconds, left) in [(29, 1), (2, 0)] {
        clock.advance(seconds * SECOND);
        advance(2 * SECOND).await;
        settle().await;
        assert_eq!(cache.stats().entries(), left, "{seconds} seconds later");
    }
}
