//! What is still valid: records that are added while fills start and entries are checked.

use shuttle::thread;

use super::{all_schedules, entry, origin, value};
use crate::{
    entry::Entry,
    invalidation::{Log, Verdict},
    selector::Selector,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// What these tests know of the log's interface: a record for the resource that `origin` has.
fn add(log: &Log) -> u64 {
    log.add(&Selector::resource("h", "/a"), 0)
}

/// One for something else.
fn add_other(log: &Log) -> u64 {
    log.add(&Selector::resource("h", "/b"), 0)
}

fn add_all(log: &Log) -> u64 {
    log.add(&Selector::all(), 0)
}

fn is_usable(entry: &Entry, log: &Log) -> bool {
    entry.verdict(log) == Verdict::Usable
}

/// A resource: its data, the log, what is stored of it, and which version was made known.
#[derive(Default)]
struct World {
    data: AtomicU64,
    log: Log,
    stored: Mutex<Option<Arc<Entry>>>,
    invalidated: AtomicU64,
}

impl World {
    /// The data first, the invalidation second.
    fn change(&self, version: u64, add: fn(&Log) -> u64) {
        self.data.fetch_max(version, SeqCst);
        add(&self.log);
        self.invalidated.fetch_max(version, SeqCst);
    }

    fn fill(&self) {
        let sequence = self.log.sequence().number();
        let made = entry(origin(0, sequence), self.data.load(SeqCst));
        *self.stored.lock().unwrap() = Some(made);
    }

    fn read(&self) {
        let known = self.invalidated.load(SeqCst);
        let stored = self.stored.lock().unwrap().clone();
        if let Some(stored) = stored {
            if is_usable(&stored, &self.log) {
                let version = value(&stored);
                assert!(version >= known, "{version} after {known} was made known");
            }
        }
    }
}

/// Runs all of them, each in a thread of its own.
fn at_once(world: &Arc<World>, parts: Vec<fn(&World)>) {
    let threads: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let world = world.clone();
            thread::spawn(move || part(&world))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    world.read();
}

#[test]
fn what_is_older_than_a_record_is_never_usable_once_the_record_is_added() {
    all_schedules(|| {
        at_once(
            &Arc::default(),
            vec![
                |world| {
                    world.change(1, add);
                    world.change(2, add);
                },
                |world| {
                    world.fill();
                    world.fill();
                },
                |world| {
                    for _ in 0..3 {
                        world.read();
                    }
                },
                |world| {
                    for _ in 0..2 {
                        world.read();
                    }
                },
            ],
        );
    });
}

#[test]
fn an_entry_that_is_checked_while_a_record_is_added_is_checked_again() {
    all_schedules(|| {
        let world = Arc::<World>::default();
        world.fill();
        at_once(
            &world,
            vec![
                |world| world.change(1, add),
                |world| {
                    world.read();
                    world.read();
                },
                |world| {
                    add_other(&world.log);
                    world.read();
                },
            ],
        );
    });
}

#[test]
fn a_record_for_all_ends_what_is_stored_and_what_is_being_made() {
    all_schedules(|| {
        at_once(
            &Arc::default(),
            vec![
                |world| world.change(1, add_all),
                World::fill,
                |world| {
                    world.fill();
                    world.read();
                },
                World::read,
            ],
        );
    });
}

#[test]
fn what_was_made_after_the_last_record_is_usable() {
    all_schedules(|| {
        let world = Arc::<World>::default();
        at_once(
            &world,
            vec![
                |world| world.change(1, add),
                |world| world.change(2, add_all),
                |world| {
                    add_other(&world.log);
                },
                World::fill,
            ],
        );
        world.fill();
        add_other(&world.log);
        let stored = world.stored.lock().unwrap().clone().unwrap();
        assert!(is_usable(&stored, &world.log));
    });
}

#[test]
fn records_of_several_threads_have_numbers_of_their_own_in_the_order_of_their_calls() {
    all_schedules(|| {
        let log = Arc::<Log>::default();
        let threads: Vec<_> = [add as fn(&Log) -> u64, add_other, add_all]
            .map(|add| {
                let log = log.clone();
                thread::spawn(move || {
                    let (first, second) = (add(&log), add(&log));
                    assert!(first < second);
                    assert!(log.sequence().number() >= second);
                    [first, second]
                })
            })
            .into();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        let mut numbers: Vec<u64> = joined.flatten().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
        assert_eq!(log.generation(), 6, "one for each record");
    });
}
