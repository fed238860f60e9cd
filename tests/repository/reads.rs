//! What is read through the cache.

use std::{sync::Arc, time::Duration};

use tower_response_cache::{Cache, LoadError, ManualClock, Repository, ValueError};

use crate::{
    support::{builder, cache, eventually, in_memory, is_on_redis, settle},
    table::Table,
};

const MINUTE: Duration = Duration::from_secs(60);

async fn found(users: &Repository<Table>, key: u64) -> Option<u64> {
    *users.get(key).await.expect("the table is there")
}

#[tokio::test]
async fn what_a_repository_has_loaded_is_a_hit_under_its_name_and_key_until_its_end() {
    let ((cache, clock), table) = (cache(), Table::default());
    table.rows().insert(42, 7);
    let users = cache.repository("user", table.clone()).ttl(MINUTE);
    assert_eq!(found(&users, 42).await, Some(7));
    assert_eq!(found(&users, 42).await, Some(7));
    assert_eq!(table.loads(), [[42]]);
    assert!(cache.exists(("user", 42)).await.unwrap());
    assert_eq!(
        *cache.get::<Option<u64>>("user:42").await.unwrap().unwrap(),
        Some(7)
    );

    clock.advance(MINUTE);
    assert_eq!(found(&users, 42).await, Some(7));
    assert_eq!(table.loads().len(), 2);
    table.rows().insert(42, 8);
    users.forget(42).await.unwrap();
    assert_eq!(found(&users, 42).await, Some(8));
    table.rows().insert(42, 9);
    assert_eq!(*users.refresh(42).await.unwrap(), Some(9));
    assert_eq!(found(&users, 42).await, Some(9));
    assert_eq!(table.loads().len(), 4);
}

#[tokio::test]
async fn a_thousand_reads_of_one_key_are_one_load() {
    let (cache, table) = (in_memory(), Table::default());
    table.rows().insert(1, 7);
    table.hold_reads();
    let users = cache.repository("user", table.clone());
    let reads: Vec<_> = (0..1_000)
        .map(|_| {
            let users = users.clone();
            tokio::spawn(async move { found(&users, 1).await })
        })
        .collect();
    settle().await;
    table.let_read();
    for read in reads {
        assert_eq!(read.await.unwrap(), Some(7));
    }
    assert_eq!(table.loads().len(), 1);
}

#[tokio::test]
async fn what_is_not_there_is_kept_only_where_that_is_asked_for() {
    let ((cache, clock), table) = (cache(), Table::default());
    let users = cache.repository("user", table.clone());
    assert_eq!(
        (found(&users, 1).await, found(&users, 1).await),
        (None, None)
    );
    assert_eq!(table.loads().len(), 2);
    let users = users.cache_absent(Duration::from_secs(10));
    assert_eq!(
        (found(&users, 1).await, found(&users, 1).await),
        (None, None)
    );
    assert_eq!(table.loads().len(), 3);
    // Made by somebody else.
    table.rows().insert(1, 5);
    assert_eq!(found(&users, 1).await, None);
    clock.advance(Duration::from_secs(10));
    assert_eq!(found(&users, 1).await, Some(5));
    // Made here: it is there at once.
    assert_eq!(found(&users, 2).await, None);
    users.save(2, 6).await.unwrap();
    assert_eq!(found(&users, 2).await, Some(6));
}

#[tokio::test]
async fn an_error_of_the_source_is_that_of_its_reader_and_is_not_kept() {
    let (cache, table) = (in_memory(), Table::default());
    let users = cache.repository("user", table.clone());
    table.rows().insert(1, 5);
    table.fail(true);
    let error = users.get(1).await.unwrap_err();
    assert_eq!(error.load().unwrap().to_string(), "the table is away");
    let error = users.get_many([1, 2]).await.unwrap_err();
    assert!(matches!(error, LoadError::Load(_)), "{error:?}");
    table.fail(false);
    assert_eq!(found(&users, 1).await, Some(5));
    assert_eq!(cache.stats().flights(), 0);
}

#[tokio::test]
async fn stale_windows_and_refreshing_ahead_are_those_of_values() {
    let (clock, table) = (ManualClock::new(), Table::default());
    let cache = builder().clock(clock.clone()).build().unwrap();
    let users = cache
        .repository("user", table.clone())
        .ttl(MINUTE)
        .stale_while_revalidate(MINUTE)
        .stale_if_error(2 * MINUTE);
    table.rows().insert(1, 5);
    assert_eq!(found(&users, 1).await, Some(5));
    settle().await;
    table.rows().insert(1, 6);
    clock.advance(MINUTE);
    assert_eq!(found(&users, 1).await, Some(5), "while it is refreshed");
    eventually("it is refreshed", || table.loads().len() == 2).await;
    settle().await;
    assert_eq!(found(&users, 1).await, Some(6));
    table.fail(true);
    clock.advance(2 * MINUTE + MINUTE / 2);
    assert_eq!(found(&users, 1).await, Some(6), "stands in");

    table.fail(false);
    let ahead = cache.repository("ahead", table.clone()).ttl(MINUTE);
    // A load that took nothing is never refreshed ahead, so it is told what it took.
    let ahead = ahead.refresh_ahead(f64::MAX);
    table.hold_reads();
    let before = table.loads().len();
    let first = tokio::spawn({
        let ahead = ahead.clone();
        async move { found(&ahead, 1).await }
    });
    eventually("it loads", || table.loads().len() > before).await;
    settle().await;
    clock.advance(Duration::from_secs(1));
    table.let_read();
    assert_eq!(first.await.unwrap(), Some(6));
    let loads = table.loads().len();
    table.let_read();
    let many = ahead.get_many([1]).await.unwrap();
    assert_eq!(*many[0], Some(6));
    assert_eq!(
        table.loads().len(),
        loads,
        "who would wait for it refreshes nothing"
    );
    assert_eq!(found(&ahead, 1).await, Some(6), "a hit");
    eventually("a load behind it", || table.loads().len() > loads).await;
    settle().await;
    assert_eq!(table.loads().len(), loads + 1, "and only one");
}

#[tokio::test]
async fn many_keys_are_loaded_together_and_only_those_that_are_missing() {
    let (cache, table) = (in_memory(), Table::default());
    table.rows().extend((0..10).map(|key| (key, 100 + key)));
    let users = cache.repository("user", table.clone());
    assert_eq!(found(&users, 3).await, Some(103));
    let values = users.get_many([1, 3, 1, 99, 2]).await.unwrap();
    let values: Vec<_> = values.iter().map(|value| **value).collect();
    assert_eq!(values, [Some(101), Some(103), Some(101), None, Some(102)]);
    assert_eq!(table.loads(), [vec![3], vec![1, 99, 2]]);
    assert_eq!(found(&users, 2).await, Some(102));
    assert_eq!(table.loads().len(), 2);
    assert_eq!(users.get_many([]).await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn two_who_ask_for_the_same_keys_in_another_order_wait_for_each_other_only_once() {
    let (cache, table) = (in_memory(), Table::default());
    table.rows().extend([(1, 101), (2, 102), (3, 103)]);
    table.hold_reads();
    let users = cache.repository("user", table.clone());
    let begin = tokio::time::Instant::now();
    let asks: Vec<_> = [[1, 2], [2, 3], [3, 1]]
        .into_iter()
        .map(|keys| {
            let users = users.clone();
            tokio::spawn(async move {
                let values = users.get_many(keys).await.unwrap();
                values
                    .iter()
                    .map(|value| value.unwrap())
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    eventually("both load", || table.loads().len() == 2).await;
    settle().await;
    let mut loads = table.loads();
    if is_on_redis() {
        // Which look-up is answered first is its business.
        loads.sort();
    }
    assert_eq!(loads, [vec![1, 2], vec![3]]);
    table.let_read();
    table.let_read();
    for (ask, values) in asks.into_iter().zip([[101, 102], [102, 103], [103, 101]]) {
        assert_eq!(ask.await.unwrap(), values);
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_load_for_many_that_was_outrun_is_kept_for_those_keys_only_that_were_not_touched() {
    let (cache, table) = (in_memory(), Table::default());
    table.rows().extend([(1, 1), (2, 2)]);
    table.hold_reads();
    let users = cache.repository("user", table.clone());
    let asked = tokio::spawn({
        let users = users.clone();
        async move { users.get_many([1, 2]).await.unwrap() }
    });
    eventually("it loads", || !table.loads().is_empty()).await;
    users.save(1, 10).await.unwrap();
    table.let_read();
    asked.await.unwrap();
    assert!(!cache.exists("user:1").await.unwrap());
    assert!(cache.exists("user:2").await.unwrap());
    table.let_read();
    assert_eq!(found(&users, 1).await, Some(10));
}

#[tokio::test]
async fn a_reader_that_leaves_does_not_end_the_load() {
    let (cache, table) = (in_memory(), Table::default());
    table.rows().extend([(1, 1), (2, 2)]);
    table.hold_reads();
    let users = Arc::new(cache.repository("user", table.clone()));
    let one = tokio::spawn({
        let users = users.clone();
        async move { users.get(1).await }
    });
    let many = tokio::spawn({
        let users = users.clone();
        async move { users.get_many([2]).await }
    });
    settle().await;
    one.abort();
    many.abort();
    settle().await;
    table.let_read();
    table.let_read();
    settle().await;
    assert!(cache.exists("user:1").await.unwrap());
    assert!(cache.exists("user:2").await.unwrap());
}

#[tokio::test]
async fn what_makes_no_sense_is_the_error_of_each_call() {
    let (cache, table) = (in_memory(), Table::default());
    let of = |users: Repository<Table>| async move {
        let read = users.get(1).await.unwrap_err();
        let many = users.get_many([1]).await.unwrap_err();
        let written = users.save(1, 1).await.unwrap_err();
        assert_eq!(read.to_string(), many.to_string());
        assert_eq!(read.to_string(), written.to_string());
        match read {
            LoadError::Value(error) => error,
            other => panic!("{other:?}"),
        }
    };
    let named = |cache: &Cache, name: &str| cache.repository(name, table.clone());
    assert_eq!(
        of(named(&cache, "a:b")).await,
        ValueError::Separator("a:b".to_owned())
    );
    assert_eq!(of(named(&cache, "")).await, ValueError::EmptyKey);
    assert_eq!(
        of(named(&cache, "a").ttl(Duration::ZERO)).await,
        ValueError::NoTtl
    );
    assert_eq!((table.loads().len(), table.writes()), (0, 0));
}
