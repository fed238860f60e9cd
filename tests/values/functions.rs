//! Functions whose results are kept.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_response_cache::{CachedFn, LoadError, Selector, ValueError};

use crate::support::{cache, in_memory, loads::Loads, settle};

const MINUTE: Duration = Duration::from_secs(60);

async fn number(function: &CachedFn<u64, usize>, argument: u64) -> usize {
    *function.get(argument).await.unwrap()
}

#[tokio::test]
async fn a_thousand_calls_of_one_function_are_one_run_for_each_argument() {
    let (cache, loads) = (in_memory(), Loads::default());
    let counted = loads.clone();
    let users = cache.wrap("user", MINUTE, move |_: u64| {
        let loads = counted.clone();
        async move { loads.held().await }
    });
    let calls: Vec<_> = (0..1_000)
        .map(|number| {
            let users = users.clone();
            tokio::spawn(async move { *users.get(number % 2).await.unwrap() })
        })
        .collect();
    settle().await;
    loads.open();
    settle().await;
    loads.open();
    let mut answers = [0, 0];
    for call in calls {
        answers[call.await.unwrap() - 1] += 1;
    }
    assert_eq!(answers, [500, 500]);
    assert_eq!(loads.calls(), 2);
}

#[tokio::test]
async fn a_failing_function_runs_once_for_all_who_wait_and_once_for_the_next() {
    let (cache, loads) = (in_memory(), Loads::default());
    let counted = loads.clone();
    let users = cache.try_wrap("user", MINUTE, move |_: u64| {
        let loads = counted.clone();
        async move { Err::<u8, String>(format!("failure {}", loads.held().await)) }
    });
    let calls: Vec<_> = (0..1_000)
        .map(|_| {
            let users = users.clone();
            tokio::spawn(async move { users.get(42).await })
        })
        .collect();
    settle().await;
    loads.open();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "failure 1");
    }
    loads.open();
    let error = users.get(42).await.unwrap_err();
    assert_eq!(error.load().map(String::as_str), Some("failure 2"));
    assert_eq!(cache.stats().entries(), 0);
}

#[tokio::test]
async fn a_caller_that_is_dropped_harms_nobody_and_its_call_goes_on() {
    let (cache, loads) = (in_memory(), Loads::default());
    let counted = loads.clone();
    let users = cache.wrap("user", MINUTE, move |_: u64| {
        let loads = counted.clone();
        async move { loads.held().await }
    });
    let call = |users: CachedFn<u64, usize>| tokio::spawn(async move { number(&users, 42).await });
    let (first, second) = (call(users.clone()), call(users.clone()));
    settle().await;
    first.abort();
    settle().await;
    loads.open();
    assert_eq!(second.await.unwrap(), 1);

    let third = tokio::spawn({
        let users = users.clone();
        async move { number(&users, 43).await }
    });
    settle().await;
    third.abort();
    settle().await;
    loads.open();
    settle().await;
    assert_eq!(number(&users, 43).await, 2, "although nobody waited for it");
    assert_eq!(loads.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_function_that_asks_for_its_own_key_does_not_wait_for_itself() {
    let cache = in_memory();
    let begin = Instant::now();
    let asked = cache.clone();
    let users = cache.wrap("user", MINUTE, move |id: u64| {
        let cache = asked.clone();
        async move {
            let inner = cache.get_or_set(("user", id), MINUTE, || async { 1_usize });
            *inner.await.unwrap() + 1
        }
    });
    assert_eq!(number(&users, 42).await, 2);
    assert_eq!(begin.elapsed(), Duration::ZERO, "nobody waited");
    assert_eq!(number(&users, 42).await, 2);
}

#[tokio::test]
async fn what_a_function_has_kept_is_removed_by_its_key_in_every_form() {
    let (cache, loads) = (in_memory(), Loads::default());
    let counted = loads.clone();
    let users = cache
        .wrap("user", MINUTE, move |_: u64| {
            let loads = counted.clone();
            async move { loads.at_once() }
        })
        .tags(["users"]);
    for removal in 1..=6 {
        assert_eq!(number(&users, 42).await, removal);
        settle().await;
        assert_eq!(number(&users, 42).await, removal, "it is kept");
        assert!(cache.exists("user:42").await.unwrap());
        match removal {
            1 => cache.delete(("user", 42)).await.unwrap(),
            2 => cache.delete("user:42").await.unwrap(),
            3 => cache.delete_pattern("user:*").await,
            4 => users.forget(42).await.unwrap(),
            5 => cache.invalidate(Selector::tag("users")),
            _ => cache.invalidate(Selector::values("user:42")),
        };
        settle().await;
        assert!(!cache.exists("user:42").await.unwrap(), "removal {removal}");
    }
}

#[tokio::test]
async fn a_refresh_calls_again_and_those_who_refresh_at_once_share_a_later_call() {
    let (cache, loads) = (in_memory(), Loads::default());
    let counted = loads.clone();
    let users = cache.wrap("user", MINUTE, move |_: u64| {
        let loads = counted.clone();
        async move { loads.held().await }
    });
    loads.open();
    assert_eq!(number(&users, 42).await, 1);
    let refresh = |users: CachedFn<u64, usize>| {
        tokio::spawn(async move { *users.refresh(42).await.unwrap() })
    };
    let first = refresh(users.clone());
    settle().await;
    let later: Vec<_> = (0..10).map(|_| refresh(users.clone())).collect();
    settle().await;
    assert_eq!(
        loads.calls(),
        2,
        "they wait for the end of a call that is older than they are"
    );
    assert_eq!(
        number(&users, 42).await,
        1,
        "what is kept is served meanwhile"
    );
    loads.open();
    assert_eq!(first.await.unwrap(), 2);
    settle().await;
    loads.open();
    for refresh in later {
        assert_eq!(refresh.await.unwrap(), 3);
    }
    assert_eq!(number(&users, 42).await, 3);
    assert_eq!(loads.calls(), 3);
}

#[tokio::test]
async fn uncached_neither_looks_nor_keeps() {
    let (cache, loads) = (in_memory(), Loads::default());
    let counted = loads.clone();
    let users = cache.wrap("user", MINUTE, move |id: u64| {
        let loads = counted.clone();
        async move { loads.at_once() + id as usize }
    });
    assert_eq!(users.uncached(10).await, Ok(11));
    assert_eq!(number(&users, 10).await, 12);
    assert_eq!(users.uncached(10).await, Ok(13));
    assert_eq!(number(&users, 10).await, 12);
}

#[tokio::test]
async fn absence_is_kept_when_asked_for_and_for_a_time_of_its_own() {
    let (cache, clock) = cache();
    let loads = Loads::default();
    let find = |loads: &Loads| {
        let loads = loads.clone();
        move |id: u64| {
            let loads = loads.clone();
            async move {
                loads.at_once();
                Ok::<_, String>((id == 42).then_some("Ada".to_owned()))
            }
        }
    };
    let plain = cache.try_wrap("plain", MINUTE, find(&loads));
    for _ in 0..2 {
        assert_eq!(*plain.get(1).await.unwrap(), None);
    }
    assert_eq!(loads.calls(), 2);

    let both = cache
        .try_wrap("both", MINUTE, find(&loads))
        .cache_absent(Duration::from_secs(5));
    for (seconds, of_absent, of_ada) in [(0, 3, 4), (4, 4, 4), (1, 5, 5), (5, 6, 6), (50, 7, 8)] {
        clock.advance(Duration::from_secs(seconds));
        assert_eq!(*both.get(1).await.unwrap(), None);
        settle().await;
        assert_eq!(loads.calls(), of_absent, "{seconds} seconds later");
        assert_eq!(both.get(42).await.unwrap().as_deref(), Some("Ada"));
        settle().await;
        assert_eq!(loads.calls(), of_ada, "{seconds} seconds later");
    }
}

#[tokio::test]
async fn a_key_is_made_of_the_argument_or_as_was_said() {
    let cache = in_memory();
    let hello = cache.wrap("hello", MINUTE, |(): ()| async { 1 });
    hello.get(()).await.unwrap();
    let pair = cache.wrap("pair", MINUTE, |(_, _): (u8, String)| async { 2 });
    pair.get((1, "a:b".to_owned())).await.unwrap();
    let said = pair.clone().key(|(id, _)| format!("said:{id}"));
    said.get((1, "whatever".to_owned())).await.unwrap();
    for key in ["hello", "pair:1:a%3Ab", "said:1"] {
        assert!(cache.exists(key).await.unwrap(), "{key}");
    }
    said.forget((1, String::new())).await.unwrap();
    assert!(!cache.exists("said:1").await.unwrap());
    assert!(cache.exists("pair:1:a%3Ab").await.unwrap());
}

#[tokio::test]
async fn a_function_that_makes_no_sense_says_so_at_every_call() {
    let cache = in_memory();
    let load = |_: f64| async { unreachable!("nothing is loaded") };
    let error = |function: CachedFn<f64, u8>, argument| async move {
        match function.get(argument).await {
            Err(LoadError::Value(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let named = |name: &str| cache.wrap(name, MINUTE, load);
    assert_eq!(
        error(named("a:b"), 1.0).await,
        ValueError::Separator("a:b".to_owned())
    );
    assert_eq!(error(named(""), 1.0).await, ValueError::EmptyKey);
    assert_eq!(error(named("a"), f64::NAN).await, ValueError::NotANumber);
    let zero = cache.wrap("a", Duration::ZERO, load);
    assert_eq!(error(zero.clone(), 1.0).await, ValueError::NoTtl);
    assert_eq!(error(zero.tags(["fine"]), 1.0).await, ValueError::NoTtl);
    let long = error(named("a").tags(["x".repeat(300)]), 1.0).await;
    assert!(matches!(long, ValueError::BadTag(_)), "{long:?}");
    assert_eq!(
        error(named("a").cache_absent(Duration::ZERO), 1.0).await,
        ValueError::NoTtl
    );
    assert_eq!(
        named("a").forget(f64::NAN).await.unwrap_err(),
        ValueError::NotANumber
    );
}

#[tokio::test]
async fn a_panic_of_a_function_is_that_of_its_caller() {
    let cache = in_memory();
    let users = cache.wrap("user", MINUTE, |id: u64| async move {
        assert!(id != 13, "no luck");
        id
    });
    let call = tokio::spawn({
        let users = users.clone();
        async move { users.get(13).await.map(drop) }
    });
    let panic = call.await.unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"no luck"));
    assert_eq!(users.get(14).await.map(|id| *id).unwrap(), 14);
    assert_eq!(cache.stats().flights(), 0);
}

#[tokio::test(start_paused = true)]
async fn closing_the_cache_ends_what_still_runs() {
    let cache = in_memory();
    let users = cache.wrap("user", MINUTE, |_: u64| async {
        std::future::pending::<u8>().await
    });
    let call = tokio::spawn({
        let users = users.clone();
        async move { users.get(1).await }
    });
    settle().await;
    cache.close().await;
    let answer = call.await.unwrap();
    assert!(
        matches!(answer, Err(LoadError::Value(ValueError::Closed))),
        "{answer:?}"
    );
    let after = cache.wrap("after", MINUTE, |id: u64| async move { id });
    assert_eq!(
        after.get(1).await.map(|id: Arc<u64>| *id).unwrap(),
        1,
        "from memory, in place"
    );
}

#[tokio::test]
async fn a_refresh_does_not_wait_for_a_call_that_began_before_it() {
    let (cache, loads) = (in_memory(), Loads::default());
    let counted = loads.clone();
    let users = cache.wrap("user", MINUTE, move |_: u64| {
        let loads = counted.clone();
        async move { loads.held().await }
    });
    let ask = |is_refresh: bool| {
        let users = users.clone();
        tokio::spawn(async move {
            match is_refresh {
                true => *users.refresh(42).await.unwrap(),
                false => *users.get(42).await.unwrap(),
            }
        })
    };
    let older = ask(false);
    settle().await;
    let newer = ask(true);
    settle().await;
    assert_eq!(loads.calls(), 2);
    loads.open();
    loads.open();
    settle().await;
    loads.open();
    assert_eq!((older.await.unwrap(), newer.await.unwrap()), (1, 2));
    assert_eq!(number(&users, 42).await, 2);
}
