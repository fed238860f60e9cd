//! Writes around the cache, and through it.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tower_response_cache::{Cache, Repository, Selector, Source};

use crate::{
    support::{eventually, in_memory, settle},
    table::Table,
};

/// How often two threads write one key at the same time.
const ROUNDS: u64 = 5_000;

async fn found(users: &Repository<Table>, key: u64) -> Option<u64> {
    *users.get(key).await.expect("the table is there")
}

/// A read under way, which has read the row already.
async fn reading(
    users: &Repository<Table>,
    table: &Table,
    key: u64,
) -> tokio::task::JoinHandle<Option<u64>> {
    table.hold_reads();
    let (users, before) = (users.clone(), table.loads().len());
    let read = tokio::spawn(async move { found(&users, key).await });
    eventually("it reads", || table.loads().len() > before).await;
    settle().await;
    read
}

#[tokio::test]
async fn the_source_is_written_first_and_then_the_cache_forgets_what_it_had() {
    let (cache, table) = (in_memory(), Table::default());
    let users = cache.repository("user", table.clone());
    users.save(1, 5).await.unwrap();
    assert!(!cache.exists("user:1").await.unwrap(), "written around");
    assert_eq!(found(&users, 1).await, Some(5));

    table.hold_writes();
    let saved = tokio::spawn({
        let users = users.clone();
        async move { users.save(1, 6).await.unwrap() }
    });
    settle().await;
    assert_eq!(table.writes(), 2);
    assert_eq!(
        found(&users, 1).await,
        Some(5),
        "nothing is forgotten before it is written"
    );
    table.let_write();
    saved.await.unwrap();
    assert_eq!(found(&users, 1).await, Some(6));

    table.let_write();
    users.delete(1).await.unwrap();
    assert_eq!(found(&users, 1).await, None);
    assert_eq!(table.rows().len(), 0);
}

#[tokio::test]
async fn a_load_under_way_never_brings_back_what_was_there() {
    for is_through in [false, true] {
        for is_deleted in [false, true] {
            let (cache, table) = (in_memory(), Table::default());
            let mut users = cache.repository("user", table.clone());
            if is_through {
                users = users.write_through();
            }
            table.rows().insert(1, 5);
            let read = reading(&users, &table, 1).await;
            match is_deleted {
                false => users.save(1, 6).await.unwrap(),
                true => users.delete(1).await.unwrap(),
            }
            table.let_read();
            assert_eq!(read.await.unwrap(), Some(5), "it began before");
            table.let_read();
            let left = (!is_deleted).then_some(6);
            assert_eq!(found(&users, 1).await, left, "{is_through} {is_deleted}");
        }
    }
}

#[tokio::test]
async fn what_was_written_through_is_a_hit() {
    let (cache, table) = (in_memory(), Table::default());
    let users = cache
        .repository("user", table.clone())
        .write_through()
        .tags(["users"]);
    users.save(1, 5).await.unwrap();
    assert_eq!(found(&users, 1).await, Some(5));
    users.save(1, 6).await.unwrap();
    assert_eq!(found(&users, 1).await, Some(6));
    assert_eq!(table.loads().len(), 0);
    cache.invalidate(Selector::tag("users"));
    assert_eq!(found(&users, 1).await, Some(6));
    assert_eq!(table.loads().len(), 1);
    users.delete(1).await.unwrap();
    assert_eq!(found(&users, 1).await, None, "and is asked for again");
    assert_eq!(table.loads().len(), 2);

    let absent = cache
        .repository("absent", table.clone())
        .write_through()
        .cache_absent(Duration::from_secs(60));
    absent.delete(1).await.unwrap();
    assert_eq!(found(&absent, 1).await, None);
    assert_eq!(table.loads().len(), 2, "that it is gone is kept, too");
}

#[tokio::test]
async fn of_two_writes_that_overlap_none_is_kept() {
    // What the source has in the end only the source knows.
    let (cache, table) = (in_memory(), Table::default());
    let users = cache.repository("user", table.clone()).write_through();
    users.save(1, 4).await.unwrap();
    table.hold_writes();
    let save = |value| {
        let users = users.clone();
        tokio::spawn(async move { users.save(1, value).await.unwrap() })
    };
    let (one, other) = (save(5), save(6));
    settle().await;
    table.let_write();
    table.let_write();
    one.await.unwrap();
    other.await.unwrap();
    assert_eq!(cache.stats().entries(), 0, "nor is what was there");
    let stored = table.rows()[&1];
    table.rows().insert(1, 100 + stored);
    assert_eq!(
        found(&users, 1).await,
        Some(100 + stored),
        "it is read anew"
    );
    // One after the other they are.
    table.let_write();
    users.save(1, 7).await.unwrap();
    table.rows().insert(1, 8);
    assert_eq!(found(&users, 1).await, Some(7));
}

#[tokio::test]
async fn a_write_that_is_outrun_by_an_invalidation_is_not_kept() {
    let (cache, table) = (in_memory(), Table::default());
    let users = cache
        .repository("user", table.clone())
        .write_through()
        .tags(["users"]);
    for selector in [
        Selector::tag("users"),
        Selector::values("user:*"),
        Selector::all(),
    ] {
        table.hold_writes();
        let saved = tokio::spawn({
            let users = users.clone();
            async move { users.save(1, 5).await.unwrap() }
        });
        settle().await;
        cache.invalidate(selector.clone());
        table.let_write();
        saved.await.unwrap();
        assert!(!cache.exists("user:1").await.unwrap(), "{selector:?}");
        table.let_write();
    }
}

#[tokio::test]
async fn a_write_that_fails_or_is_dropped_has_the_cache_forget_what_it_had() {
    for is_through in [false, true] {
        let (cache, table) = (in_memory(), Table::default());
        let mut users = cache.repository("user", table.clone());
        if is_through {
            users = users.write_through();
        }
        table.rows().insert(1, 5);
        assert_eq!(found(&users, 1).await, Some(5));
        table.fail(true);
        let error = users.save(1, 6).await.unwrap_err();
        assert_eq!(
            error.source_error().unwrap().to_string(),
            "the table is away"
        );
        table.fail(false);
        // It was written for all that.
        table.rows().insert(1, 6);
        assert_eq!(found(&users, 1).await, Some(6));

        table.hold_writes();
        let saved = tokio::spawn({
            let users = users.clone();
            async move { users.save(1, 7).await }
        });
        settle().await;
        saved.abort();
        assert!(saved.await.is_err());
        table.rows().insert(1, 7);
        assert_eq!(found(&users, 1).await, Some(7));
    }
}

#[tokio::test]
async fn a_value_that_is_too_large_to_be_kept_is_written_all_the_same() {
    let cache = crate::support::builder().max_value_size(2).build().unwrap();
    let table = Table::default();
    let users = cache.repository("user", table.clone()).write_through();
    users.save(1, 12).await.unwrap();
    assert!(cache.exists("user:1").await.unwrap());
    users.save(1, 12_345).await.unwrap();
    assert_eq!(cache.stats().entries(), 0, "it takes no room");
    assert!(!cache.exists("user:1").await.unwrap());
    assert_eq!(table.rows()[&1], 12_345);
}

/// A row whose writes need not wait.
struct Row(Arc<AtomicU64>);

impl Source for Row {
    type Key = u64;
    type Value = u64;
    type Error = Infallible;

    async fn load(&self, _: &u64) -> Result<Option<u64>, Infallible> {
        Ok(Some(self.0.load(Ordering::SeqCst)))
    }
    async fn save(&self, _: &u64, value: &u64) -> Result<(), Infallible> {
        self.0.store(*value, Ordering::SeqCst);
        Ok(())
    }
    async fn delete(&self, _: &u64) -> Result<(), Infallible> {
        unreachable!("nothing is deleted")
    }
}

#[test]
fn of_writes_of_one_key_by_several_threads_none_is_kept_that_the_source_has_not() {
    // Memory alone: two threads without a runtime, as close together as they come.
    let (cache, row) = (Cache::in_memory(), Arc::new(AtomicU64::new(0)));
    let rows = cache.repository("row", Row(row.clone())).write_through();
    let begun: [AtomicU64; 2] = Default::default();
    let save = |thread: usize, round: u64| {
        begun[thread].store(round, Ordering::SeqCst);
        while begun[1 - thread].load(Ordering::SeqCst) < round {
            std::hint::spin_loop();
        }
        let saving = rows.save(0, 2 * round + thread as u64).now_or_never();
        saving.expect("nothing is waited for").unwrap();
    };
    let wait = |number: &AtomicU64, round: u64| {
        while number.load(Ordering::SeqCst) < round {
            std::thread::yield_now();
        }
    };
    let (is_saved, is_seen) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut kept, mut wrong) = (0, None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                save(0, round);
                is_saved.store(round, Ordering::SeqCst);
                wait(&is_seen, round);
            }
        });
        for round in 1..=ROUNDS {
            save(1, round);
            wait(&is_saved, round);
            let known = cache.get::<Option<u64>>("row:0").now_or_never();
            if let Some(known) = known.expect("nothing is waited for").unwrap() {
                kept += 1;
                // Said at the end: the other one would wait for ever.
                let there = row.load(Ordering::SeqCst);
                if *known != Some(there) {
                    wrong = Some((round, *known, there));
                }
            }
            is_seen.store(round, Ordering::SeqCst);
        }
    });
    assert_eq!(wrong, None, "the round, what is kept, what the source has");
    assert!(kept > 0, "nothing was ever kept");
}
