//! What waits to be written behind: what the queue does with failures, with what is newer, and without a runtime.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{runtime::Builder, time::advance};
use tower_response_cache::{BatchError, Cache, Repository, SaveError, Source, Write, WriteBehind};

use crate::{
    support::{cache, in_memory, settle},
    table::{PANICS, Table},
};

const DELAY: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3600);

fn behind(settings: WriteBehind) -> (Cache, Table, Repository<Table>) {
    // Memory alone: what is promised here is promised of time, which stands still.
    let (cache, table) = (in_memory(), Table::default());
    let users = cache
        .repository("user", table.clone())
        .write_behind(settings);
    (cache, table, users)
}

/// Lets time pass, and what is due be done.
async fn pass(time: Duration) {
    advance(time).await;
    settle().await;
}

fn pausing(first: Duration, longest: Duration) -> WriteBehind {
    WriteBehind::new().pauses(first, longest)
}

#[tokio::test(start_paused = true)]
async fn what_has_failed_keeps_its_pause_whatever_else_is_written() {
    let (_cache, table, users) = behind(pausing(HOUR, HOUR));
    table.fail(true);
    users.save(1, 5).await.unwrap();
    pass(DELAY).await;
    table.fail(false);
    users.save(2, 6).await.unwrap();
    pass(DELAY).await;
    assert_eq!((table.writes(), table.rows().len()), (2, 1));
    pass(HOUR).await;
    assert_eq!(*table.rows(), BTreeMap::from([(1, 5), (2, 6)]));

    // Nor does anybody gain from its haste who waits for its room.
    let (_cache, table, users) = behind(pausing(HOUR, HOUR).capacity(1).refuse_when_full());
    table.fail(true);
    users.save(1, 5).await.unwrap();
    pass(DELAY).await;
    pass(HOUR - DELAY).await;
    assert_eq!(table.writes(), 1);
    users.save(2, 6).await.unwrap_err();
    settle().await;
    assert_eq!(table.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_makes_the_source_panic_keeps_no_other_from_it() {
    let pause = Duration::from_millis(10);
    let (cache, table, users) = behind(pausing(pause, pause));
    users.save(1, PANICS).await.unwrap();
    users.save(2, 6).await.unwrap();
    let flushed = users.flush().await.unwrap_err();
    assert!(matches!(flushed, SaveError::Panicked), "{flushed}");
    assert!(flushed.to_string().contains("panicked"), "{flushed}");
    pass(pause).await;
    assert_eq!(*table.rows(), BTreeMap::from([(2, 6)]));
    assert_eq!(users.unwritten().len(), 1);
    // Together, and each by itself.
    assert!(cache.stats().failed_writes() >= 3, "{}", cache.stats());
    users.save(1, 7).await.unwrap();
    pass(pause).await;
    assert_eq!(*table.rows(), BTreeMap::from([(1, 7), (2, 6)]));
    users.flush().await.expect("nothing is left");
    users.save(3, PANICS).await.unwrap();
    users.save(4, 8).await.unwrap();
    cache.close().await;
    assert_eq!(table.rows()[&4], 8, "tried by itself while it was closed");
    assert_eq!(cache.stats().lost_writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_pauses_of_a_key_begin_anew_when_it_was_written() {
    let millis = Duration::from_millis;
    let (_cache, table, users) = behind(pausing(millis(10), millis(1_000)));
    table.fail(true);
    users.save(1, 5).await.unwrap();
    for pause in [DELAY, millis(10), millis(20)] {
        pass(pause).await;
    }
    assert_eq!(table.writes(), 3);
    table.fail(false);
    table.hold_writes();
    pass(millis(40)).await;
    users.save(1, 6).await.unwrap();
    table.let_write();
    settle().await;
    assert_eq!((table.rows()[&1], table.writes()), (5, 5), "the newer one");
    table.fail(true);
    table.let_write();
    settle().await;
    table.let_write();
    pass(millis(10)).await;
    assert_eq!(table.writes(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_what_is_read() {
    let (cache, table, users) = behind(WriteBehind::new());
    table.rows().insert(1, 4);
    table.hold_writes();
    users.save(1, 5).await.unwrap();
    pass(DELAY).await;
    assert_eq!(table.writes(), 1);
    // The room was needed for others.
    cache.delete_pattern("*").await;
    assert_eq!(*users.get(1).await.unwrap(), Some(5));
    cache.delete_pattern("*").await;
    assert_eq!(*users.get_many([1]).await.unwrap()[0], Some(5));
    assert_eq!(table.loads().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_newer_write_has_the_options_of_who_saved_it() {
    let ((cache, clock), table) = (cache(), Table::default());
    let users = cache.repository("user", table.clone()).ttl(HOUR);
    let users = users.write_behind(WriteBehind::new());
    users.save(1, 5).await.unwrap();
    let short = users.clone().ttl(Duration::from_secs(4));
    short.save(1, 6).await.unwrap();
    pass(DELAY).await;
    assert_eq!(table.rows()[&1], 6);
    clock.advance(Duration::from_secs(4));
    assert!(!cache.exists("user:1").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_is_saved_while_the_cache_is_closed_is_written_at_once() {
    let (cache, table, users) = behind(WriteBehind::new().delay(HOUR));
    table.hold_writes();
    users.save(1, 5).await.unwrap();
    let closed = tokio::spawn({
        let cache = cache.clone();
        async move { cache.close().await }
    });
    settle().await;
    users.save(2, 6).await.unwrap();
    table.let_write();
    table.let_write();
    closed.await.unwrap();
    assert_eq!(*table.rows(), BTreeMap::from([(1, 5), (2, 6)]));
    assert_eq!(cache.stats().lost_writes(), 0);
}

/// How a batch of a source fails that has a bad row in it.
#[derive(Clone, Copy)]
enum Failing {
    /// As a whole.
    Together,
    /// That row, and no other.
    Alone,
}

/// A source that notes its batches, by the keys of their rows.
#[derive(Clone)]
struct Batches(Arc<Mutex<Vec<Vec<u64>>>>, Failing);

impl Batches {
    fn behind(failing: Failing, settings: WriteBehind) -> (Self, Repository<Self>) {
        let batches = Self(Arc::default(), failing);
        let users = in_memory().repository("user", batches.clone());
        (batches, users.write_behind(settings))
    }

    fn taken(&self) -> Vec<Vec<u64>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

const BAD: u64 = 666;

impl Source for Batches {
    type Key = u64;
    type Value = u64;
    type Error = io::Error;

    async fn load(&self, _: &u64) -> io::Result<Option<u64>> {
        Ok(None)
    }
    async fn save(&self, key: &u64, value: &u64) -> io::Result<()> {
        self.0.lock().unwrap().push(vec![*key]);
        match *value {
            BAD => Err(io::Error::other("a bad row")),
            _ => Ok(()),
        }
    }
    async fn delete(&self, _: &u64) -> io::Result<()> {
        unreachable!("nothing is deleted")
    }
    async fn write_many(&self, writes: &[Write<Self>]) -> Result<(), BatchError<io::Error>> {
        let keys = writes.iter().map(|write| *write.key()).collect();
        self.0.lock().unwrap().push(keys);
        let bad = writes.iter().enumerate();
        let bad = bad.filter(|(_, write)| write.value() == Some(&BAD));
        let bad = bad.map(|(at, _)| (at, io::Error::other("a bad row")));
        let bad: Vec<_> = bad.collect();
        match (bad.is_empty(), self.1) {
            (true, _) => Ok(()),
            (false, Failing::Alone) => Err(BatchError::Some(bad)),
            (false, Failing::Together) => Err(io::Error::other("rolled back").into()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_made_a_batch_fail_is_in_no_other_one_before_or_after_it() {
    let pause = 3 * DELAY;
    let (batches, users) = Batches::behind(Failing::Together, pausing(pause, pause));
    users.save(1, BAD).await.unwrap();
    users.save(2, BAD).await.unwrap();
    pass(DELAY).await;
    assert_eq!(batches.taken(), [[1, 2]]);
    // These are due before it is tried again, and those after it; all of them at the same moment.
    users.save(3, 3).await.unwrap();
    users.save(4, 4).await.unwrap();
    pass(pause + DELAY).await;
    assert_eq!(batches.taken(), [vec![3, 4], vec![1], vec![2]]);
    pass(pause - DELAY / 2).await;
    users.save(5, 5).await.unwrap();
    users.save(6, 6).await.unwrap();
    pass(2 * DELAY).await;
    assert_eq!(batches.taken(), [vec![1], vec![2], vec![5, 6]]);
}

#[tokio::test(start_paused = true)]
async fn rows_that_have_failed_each_by_itself_are_tried_again_together() {
    let pause = 3 * DELAY;
    let (batches, users) = Batches::behind(Failing::Alone, pausing(pause, pause));
    for (key, value) in [(1, BAD), (2, 2), (3, BAD)] {
        users.save(key, value).await.unwrap();
    }
    pass(DELAY).await;
    assert_eq!(batches.taken(), [[1, 2, 3]]);
    users.save(4, 4).await.unwrap();
    pass(DELAY).await;
    assert_eq!(batches.taken(), [[4]], "not before their pause");
    pass(2 * DELAY).await;
    assert_eq!(batches.taken(), [[1, 3]]);
}

#[test]
fn what_waits_when_a_runtime_ends_is_written_by_the_next_one() {
    enum Next {
        Save,
        SaveFull,
        Flush,
        Close,
    }
    for is_under_way in [false, true] {
        for next in [Next::Save, Next::SaveFull, Next::Flush, Next::Close] {
            // Memory alone: a link would end with its runtime, too.
            let (cache, table) = (Cache::in_memory(), Table::default());
            let settings = WriteBehind::new().capacity(match next {
                Next::SaveFull => 1,
                _ => 10,
            });
            let users = cache.repository("user", table.clone());
            let users = users.write_behind(settings);
            let runtime = || {
                let mut runtime = Builder::new_current_thread();
                runtime.enable_time().start_paused(true).build().unwrap()
            };
            table.hold_writes();
            runtime().block_on(async {
                users.save(1, 5).await.unwrap();
                if is_under_way {
                    pass(DELAY).await;
                }
            });
            assert_eq!(users.unwritten().len(), 1);
            table.let_write();
            table.let_write();
            runtime().block_on(async {
                match next {
                    Next::Save | Next::SaveFull => {
                        users.save(2, 6).await.unwrap();
                        pass(DELAY).await;
                    }
                    Next::Flush => users.flush().await.unwrap(),
                    Next::Close => cache.close().await,
                }
            });
            assert_eq!((table.rows()[&1], users.unwritten().len()), (5, 0));
        }
    }
}

#[test]
fn without_a_runtime_or_its_time_nothing_waits_for_a_delay() {
    // Memory alone: a link needs both.
    let (cache, table) = (Cache::in_memory(), Table::default());
    let users = cache.repository("user", table.clone());
    let users = users.write_behind(WriteBehind::new().delay(HOUR));
    let saved = users.save(1, 5).now_or_never();
    saved.expect("nothing is waited for").unwrap();
    assert_eq!(table.rows()[&1], 5);

    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        users.save(2, 6).await.unwrap();
        assert_eq!(users.unwritten().len(), 1);
        settle().await;
        assert_eq!((table.rows()[&2], users.unwritten().len()), (6, 0));
    });
}
