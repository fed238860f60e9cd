//! Writes behind the cache: what is promised of their order, their number and their loss.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, advance};
use tower_response_cache::{Cache, Repository, SaveError, Source, WriteBehind};

use crate::{
    support::{dice::Dice, in_memory, settle},
    table::Table,
};

const DELAY: Duration = Duration::from_millis(100);

fn behind(settings: WriteBehind) -> (Cache, Table, Repository<Table>) {
    // Memory alone: what is promised here is promised of time, which stands still.
    let (cache, table) = (in_memory(), Table::default());
    let users = cache
        .repository("user", table.clone())
        .write_behind(settings);
    (cache, table, users)
}

async fn found(users: &Repository<Table>, key: u64) -> Option<u64> {
    *users.get(key).await.expect("the table is there")
}

#[tokio::test(start_paused = true)]
async fn what_is_written_behind_is_read_at_once_and_reaches_the_source_after_its_delay() {
    let (cache, table, users) = behind(WriteBehind::new());
    users.save(1, 5).await.unwrap();
    users.save(2, 6).await.unwrap();
    users.delete(3).await.unwrap();
    table.rows().insert(3, 7);
    assert_eq!(found(&users, 1).await, Some(5));
    assert_eq!(found(&users, 3).await, None);
    let many = users.get_many([3, 2, 1]).await.unwrap();
    assert_eq!(
        many.iter().map(|value| **value).collect::<Vec<_>>(),
        [None, Some(6), Some(5)]
    );
    // The room was needed for others.
    cache.delete_pattern("*").await;
    assert_eq!(found(&users, 1).await, Some(5));
    cache.delete_pattern("*").await;
    assert_eq!(*users.get_many([1]).await.unwrap()[0], Some(5));
    assert_eq!(table.loads().len(), 0);
    users.save(1, 5).await.unwrap();

    advance(DELAY - Duration::from_millis(1)).await;
    settle().await;
    assert_eq!((table.writes(), users.unwritten().len()), (0, 3));
    advance(Duration::from_millis(1)).await;
    settle().await;
    assert_eq!((table.writes(), users.unwritten().len()), (3, 0));
    assert_eq!(*table.rows(), BTreeMap::from([(1, 5), (2, 6)]));
    assert_eq!(found(&users, 1).await, Some(5));
    assert_eq!(table.loads().len(), 0, "it is kept");
}

#[tokio::test(start_paused = true)]
async fn of_each_key_the_newest_is_written_and_never_two_at_once() {
    let (_cache, table, users) = behind(WriteBehind::new());
    for value in 0..1_000 {
        users.save(1, value).await.unwrap();
    }
    table.hold_writes();
    advance(DELAY).await;
    settle().await;
    assert_eq!(table.writes(), 1);
    for value in 1_000..2_000 {
        users.save(1, value).await.unwrap();
        assert_eq!(found(&users, 1).await, Some(value));
    }
    advance(10 * DELAY).await;
    settle().await;
    assert_eq!(table.writes(), 1, "one is under way");
    table.let_write();
    settle().await;
    assert_eq!((table.rows()[&1], table.writes()), (999, 2));
    assert_eq!(
        found(&users, 1).await,
        Some(1_999),
        "not what the source has for now"
    );
    table.let_write();
    settle().await;
    assert_eq!((table.rows()[&1], users.unwritten().len()), (1_999, 0));
    assert_eq!(table.writes(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_reads_past_the_queue_sees_what_was_written_as_soon_as_it_is() {
    let (cache, table, users) = behind(WriteBehind::new());
    // Another node knows nothing of the queue.
    let other = cache.repository("user", table.clone());
    table.rows().insert(1, 4);
    users.save(1, 5).await.unwrap();
    cache.delete("user:1").await.unwrap();
    assert_eq!(found(&other, 1).await, Some(4), "what the source has");
    advance(DELAY).await;
    settle().await;
    assert_eq!(table.rows()[&1], 5);
    assert_eq!(found(&other, 1).await, Some(5));
}

#[tokio::test(start_paused = true)]
async fn beyond_its_capacity_saving_waits_or_is_refused_and_nothing_is_lost() {
    let settings = WriteBehind::new().capacity(2);
    let (_cache, table, users) = behind(settings.clone().refuse_when_full());
    users.save(1, 1).await.unwrap();
    users.save(2, 2).await.unwrap();
    let error = users.save(3, 3).await.unwrap_err();
    assert!(matches!(error, SaveError::Full(2)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "2 keys wait to be written, and no more may: try again later"
    );
    users.save(1, 10).await.expect("it takes no room");
    assert_eq!(found(&users, 3).await, None, "it was not taken");
    settle().await;
    assert_eq!(
        *table.rows(),
        BTreeMap::from([(1, 10), (2, 2)]),
        "at once: others wait"
    );
    users.save(3, 3).await.unwrap();

    let (_cache, table, users) = behind(settings);
    table.hold_writes();
    users.save(1, 1).await.unwrap();
    users.save(2, 2).await.unwrap();
    let third = tokio::spawn({
        let users = users.clone();
        async move { users.save(3, 3).await }
    });
    advance(10 * DELAY).await;
    settle().await;
    assert!(!third.is_finished());
    table.let_write();
    table.let_write();
    third.await.unwrap().unwrap();
    table.let_write();
    users.flush().await.unwrap();
    assert_eq!(*table.rows(), BTreeMap::from([(1, 1), (2, 2), (3, 3)]));
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_with_growing_pauses_and_never_instead_of_something_newer() {
    let pauses = (Duration::from_millis(10), Duration::from_millis(40));
    let (cache, table, users) = behind(WriteBehind::new().pauses(pauses.0, pauses.1));
    table.fail(true);
    users.save(1, 5).await.unwrap();
    let begin = Instant::now();
    let mut tries = Vec::new();
    while tries.len() < 6 {
        advance(Duration::from_millis(1)).await;
        settle().await;
        if table.writes() > tries.len() {
            tries.push(begin.elapsed().as_millis());
        }
    }
    let pauses: Vec<_> = tries.windows(2).map(|tries| tries[1] - tries[0]).collect();
    assert_eq!(pauses, [10, 20, 40, 40, 40]);
    assert_eq!(cache.stats().failed_writes(), 6);
    assert_eq!(found(&users, 1).await, Some(5));
    users.save(1, 6).await.unwrap();
    table.fail(false);
    advance(Duration::from_millis(40)).await;
    settle().await;
    assert_eq!((table.rows()[&1], table.writes()), (6, 7));

    // One that fails while a newer one has come.
    table.fail(true);
    table.hold_writes();
    users.save(1, 7).await.unwrap();
    advance(DELAY).await;
    settle().await;
    users.save(1, 8).await.unwrap();
    table.let_write();
    settle().await;
    table.fail(false);
    table.let_write();
    advance(Duration::from_millis(10)).await;
    settle().await;
    assert_eq!((table.rows()[&1], users.unwritten().len()), (8, 0));
}

/// A source that takes all of a batch or none, and never a bad row.
#[derive(Clone, Default)]
struct Transactions(Arc<Mutex<Written>>);

/// What a table holds, and how many rows each transaction had.
type Written = (BTreeMap<u64, u64>, Vec<usize>);

impl Source for Transactions {
    type Key = u64;
    type Value = u64;
    type Error = io::Error;

    async fn load(&self, key: &u64) -> io::Result<Option<u64>> {
        Ok(self.0.lock().unwrap().0.get(key).copied())
    }
    async fn save(&self, key: &u64, value: &u64) -> io::Result<()> {
        let mut inside = self.0.lock().unwrap();
        inside.1.push(1);
        if *value == 666 {
            return Err(io::Error::other("a bad row"));
        }
        inside.0.insert(*key, *value);
        Ok(())
    }
    async fn delete(&self, key: &u64) -> io::Result<()> {
        self.0.lock().unwrap().0.remove(key);
        Ok(())
    }
    async fn write_many(
        &self,
        writes: &[tower_response_cache::Write<Self>],
    ) -> Result<(), tower_response_cache::BatchError<io::Error>> {
        let mut inside = self.0.lock().unwrap();
        inside.1.push(writes.len());
        if writes.iter().any(|write| write.value() == Some(&666)) {
            return Err(io::Error::other("rolled back").into());
        }
        for write in writes {
            inside.0.insert(*write.key(), *write.value().unwrap());
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn writes_are_done_in_batches_and_a_bad_row_keeps_no_other_from_being_written() {
    let (cache, source) = (in_memory(), Transactions::default());
    let users = cache
        .repository("user", source.clone())
        .write_behind(WriteBehind::new().batch(4));
    for key in 0..10 {
        users.save(key, key).await.unwrap();
    }
    advance(DELAY).await;
    settle().await;
    assert_eq!(source.0.lock().unwrap().1, [4, 4, 2]);
    for key in 0..4 {
        let value = if key == 1 { 666 } else { 100 + key };
        users.save(key, value).await.unwrap();
    }
    advance(DELAY).await;
    settle().await;
    advance(DELAY).await;
    settle().await;
    let rows = source.0.lock().unwrap().0.clone();
    assert_eq!([rows[&0], rows[&1], rows[&2], rows[&3]], [100, 1, 102, 103]);
    let left: Vec<_> = users.unwritten();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].key(), left[0].value()), (&1, Some(&666)));
}

#[tokio::test(start_paused = true)]
async fn flush_writes_now_and_says_what_has_failed() {
    let (_cache, table, users) = behind(WriteBehind::new().delay(Duration::from_secs(3600)));
    users.flush().await.expect("nothing waits");
    let begin = Instant::now();
    users.save(1, 5).await.unwrap();
    users.flush().await.unwrap();
    assert_eq!(table.rows()[&1], 5);
    table.fail(true);
    users.save(1, 6).await.unwrap();
    let error = users.flush().await.unwrap_err();
    assert_eq!(error.to_string(), "the table is away");
    assert_eq!(users.unwritten().len(), 1);
    table.fail(false);
    users.flush().await.unwrap();
    assert_eq!((table.rows()[&1], users.unwritten().len()), (6, 0));
    assert_eq!(
        begin.elapsed(),
        Duration::ZERO,
        "nobody waited for a delay or a pause"
    );
}

#[tokio::test(start_paused = true)]
async fn close_writes_what_waits_within_its_bound_and_says_what_is_lost() {
    let (cache, table, users) = behind(WriteBehind::new().delay(Duration::from_secs(3600)));
    users.save(1, 5).await.unwrap();
    let begin = Instant::now();
    cache.close().await;
    assert_eq!(table.rows()[&1], 5);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(cache.stats().lost_writes(), 0);
    users.save(2, 6).await.unwrap();
    assert_eq!(table.rows()[&2], 6, "at once from now on");

    // Neither a row that has failed nor a long delay keeps the others.
    let hour = Duration::from_secs(3600);
    let (cache, table, users) = behind(WriteBehind::new().delay(hour).pauses(hour, hour));
    table.fail(true);
    users.save(1, 5).await.unwrap();
    users.flush().await.unwrap_err();
    table.fail(false);
    users.save(2, 6).await.unwrap();
    cache.close().await;
    assert_eq!(*table.rows(), BTreeMap::from([(2, 6)]));
    assert_eq!(cache.stats().lost_writes(), 1);
    let late = cache.repository("late", table.clone());
    let late = late.write_behind(WriteBehind::new().delay(hour));
    late.save(3, 7).await.unwrap();
    assert_eq!(table.rows()[&3], 7, "made after it was closed");

    let (cache, table, users) = behind(WriteBehind::new());
    table.fail(true);
    users.save(1, 5).await.unwrap();
    users.save(2, 6).await.unwrap();
    let begin = Instant::now();
    cache.close().await;
    assert!(
        begin.elapsed() <= Duration::from_secs(6),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(cache.stats().lost_writes(), 2);
    let mut lost: Vec<_> = users.unwritten();
    lost.sort_by_key(|write| *write.key());
    let lost: Vec<_> = lost
        .iter()
        .map(|write| (*write.key(), write.value().copied()))
        .collect();
    assert_eq!(lost, [(1, Some(5)), (2, Some(6))]);
    let writes = table.writes();
    advance(Duration::from_secs(60)).await;
    settle().await;
    assert_eq!(table.writes(), writes, "nothing goes on");
}

/// A source that is slow, fails one time in ten, and sees whether an older value follows a newer one.
#[derive(Clone)]
struct Slow(Arc<Mutex<Inside>>);

struct Inside {
    rows: BTreeMap<u64, u64>,
    dice: Dice,
    writes: usize,
    fails: bool,
}

impl Slow {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inside {
            rows: BTreeMap::new(),
            dice: Dice::new(seed),
            writes: 0,
            fails: true,
        })))
    }

    fn rows(&self) -> BTreeMap<u64, u64> {
        self.0.lock().unwrap().rows.clone()
    }
}

impl Source for Slow {
    type Key = u64;
    type Value = u64;
    type Error = io::Error;

    async fn load(&self, key: &u64) -> io::Result<Option<u64>> {
        Ok(self.rows().get(key).copied())
    }
    async fn save(&self, key: &u64, value: &u64) -> io::Result<()> {
        let pause = self.0.lock().unwrap().dice.below(2_000) as u64;
        tokio::time::sleep(Duration::from_micros(pause)).await; // Of paused time: so slow the source is.
        let mut inside = self.0.lock().unwrap();
        inside.writes += 1;
        if inside.fails && inside.dice.one_in(10) {
            return Err(io::Error::other("away"));
        }
        let before = inside.rows.insert(*key, *value);
        assert!(
            before.is_none_or(|before| before <= *value),
            "{key}: {before:?}, then {value}"
        );
        Ok(())
    }
    async fn delete(&self, _: &u64) -> io::Result<()> {
        unreachable!("nothing is deleted")
    }
}

#[tokio::test(start_paused = true)]
async fn after_close_the_source_has_the_last_of_a_hundred_thousand_values() {
    let (cache, source) = (in_memory(), Slow::new(7));
    let users = cache.repository("user", source.clone()).write_behind(
        WriteBehind::new().pauses(Duration::from_millis(5), Duration::from_millis(50)),
    );
    let mut dice = Dice::new(8);
    let mut last = BTreeMap::new();
    for value in 0..100_000 {
        let key = dice.below(1_000) as u64;
        users.save(key, value).await.unwrap();
        last.insert(key, value);
        if dice.one_in(1_000) {
            tokio::time::sleep(Duration::from_millis(50)).await; // Of paused time: writers get a turn.
        }
        if dice.one_in(100) {
            let key = dice.below(1_000) as u64;
            assert_eq!(*users.get(key).await.unwrap(), last.get(&key).copied());
        }
    }
    cache.close().await;
    assert_eq!(cache.stats().lost_writes(), 0);
    assert!(
        cache.stats().failed_writes() > 100,
        "{}",
        cache.stats().failed_writes()
    );
    assert_eq!(source.rows(), last);
}

#[test]
fn what_is_killed_loses_no_more_than_the_delay() {
    let mut lost = 0;
    // Whatever the queue is at just then.
    for moment in (100..200).step_by(5) {
        lost += lost_when_killed(moment);
    }
    assert!(lost > 0, "it was killed");
}

/// How many of the writes that were taken the source does not have.
fn lost_when_killed(moment: u64) -> usize {
    let source = Slow::new(9);
    // What the source has kept up with; how far it may lag is not for the cache to promise.
    source.0.lock().unwrap().fails = false;
    let saved = Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let (saving, written) = (saved.clone(), source.clone());
    let killed_at = runtime.block_on(async move {
        let cache = in_memory();
        let users = cache
            .repository("user", written)
            .write_behind(WriteBehind::new());
        let begin = Instant::now();
        for value in 0..moment {
            tokio::time::sleep(Duration::from_millis(5)).await;
            users.save(value, value).await.unwrap();
            saving.lock().unwrap().push((value, begin.elapsed()));
        }
        begin.elapsed()
    });
    // No close: all tasks are gone from one moment to the next.
    drop(runtime);
    let rows = source.rows();
    // A batch of some 20 rows takes up to 40 ms, and may have begun just before.
    let bound = killed_at - DELAY - Duration::from_millis(2 * 40);
    let mut lost = 0;
    for (value, at) in saved.lock().unwrap().iter() {
        let is_there = rows.contains_key(value);
        assert!(is_there || *at > bound, "{value} of {at:?} is lost");
        lost += usize::from(!is_there);
    }
    lost
}
