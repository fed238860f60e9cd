//! Who leads, who waits, who is woken.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Instant,
};

use bytes::Bytes;
use shuttle::{future::block_on, thread};

use super::{all_schedules, below, entry, head, origin};
use crate::{
    budget::Budget,
    flight::{
        Ending, Flight, FlightId, Guard, Joined, Next, Outcome, Purpose, Reader, Shared, Table,
        Terms, Ticket,
    },
    key::Key,
    policy::{Encoded, VaryRule},
    status::Reason,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// The end of a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Refused,
    /// In mid-body, when that was reached.
    Broken,
    /// Leaves the table while its starter goes on.
    Expired,
    Dropped,
    Panicked,
}

const ENDS: [End; 6] = [
    End::Complete,
    End::Refused,
    End::Broken,
    End::Expired,
    End::Dropped,
    End::Panicked,
];

/// How many frames a body has.
const FRAMES: u64 = 3;

struct World {
    table: Arc<Table>,
    budget: Arc<Budget>,
    fills: AtomicU64,
    /// How many lead just now.
    leading: AtomicU64,
    /// The fill that completed last.
    completed: AtomicU64,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            table: Arc::default(),
            budget: Budget::new(1_000),
            fills: AtomicU64::new(0),
            leading: AtomicU64::new(0),
            completed: AtomicU64::new(0),
        })
    }

    /// What these tests know of the table's interface.
    fn join(&self, id: &FlightId, after: u64) -> Joined {
        let terms = Terms {
            after,
            max_waiting: usize::MAX,
            is_current: &|_| true,
        };
        self.table.join(id, &terms, || {
            let fill = self.fills.fetch_add(1, SeqCst) + 1;
            (origin(fill, 0), now())
        })
    }

    fn join_existing(&self, id: &FlightId) -> Option<Ticket> {
        let terms = Terms {
            after: 0,
            max_waiting: usize::MAX,
            is_current: &|_| true,
        };
        self.table.join_existing(id, &terms)
    }

    fn lead(&self) -> Guard {
        match self.join(&id(), 0) {
            Joined::Lead(guard) => guard,
            other => panic!("nobody else is there: {other:?}"),
        }
    }

    /// Nothing of a flight is left.
    fn assert_idle(&self) {
        assert_eq!(self.table.len(), 0, "a flight is left in the table");
        assert_eq!(self.budget.used(), 0, "room is left taken");
    }

    /// Leads to an end. A body is published first, if `is_streaming`.
    fn fill(&self, mut guard: Guard, end: End, is_streaming: bool) {
        assert_eq!(self.leading.fetch_add(1, SeqCst), 0, "two lead");
        let fill = guard.flight().origin().fill;
        let shared = shared(Some(FRAMES));
        if is_streaming {
            let room = self.budget.reserve(10).expect("room");
            guard.publish(shared.clone(), vec![frame(0)], room);
            assert!(guard.grow(1));
            guard.push(frame(1));
        }
        let last: Vec<Bytes> = if is_streaming { 2..FRAMES } else { 0..FRAMES }
            .map(frame)
            .collect();
        // From its next step on another may lead.
        self.leading.fetch_sub(1, SeqCst);
        match end {
            End::Complete => {
                self.completed.fetch_max(fill, SeqCst);
                let made = entry(guard.flight().origin(), fill);
                guard.complete(shared, made, last);
            }
            End::Refused => guard.end(Ending::Refused(Reason::SetCookie), Vec::new()),
            End::Broken => guard.end(Ending::Broken(Reason::BodyError), last),
            End::Expired => {
                guard.expire();
                thread::yield_now();
                drop(guard);
            }
            End::Dropped => drop(guard),
            End::Panicked => {
                let unwound = catch_unwind(AssertUnwindSafe(move || {
                    let _guard = guard;
                    std::panic::resume_unwind(Box::new("the inner service panics"));
                }));
                unwound.expect_err("it panics");
            }
        }
    }
}

/// Nothing here depends on the time.
fn now() -> Instant {
    Instant::now()
}

fn id() -> FlightId {
    id_of(7)
}

fn id_of(hash: u64) -> FlightId {
    FlightId {
        layer: 0,
        purpose: Purpose::Fill,
        key: Key {
            hash,
            bytes: hash.to_be_bytes().to_vec().into(),
        },
    }
}

fn shared(length: Option<u64>) -> Arc<Shared> {
    Arc::new(Shared {
        head: head(),
        rule: VaryRule::default(),
        values: Encoded::default(),
        length,
        place: None,
        unfit: None,
        read_at: None,
    })
}

fn frame(number: u64) -> Bytes {
    Bytes::from(vec![number as u8])
}

/// Waits for what `poll` brings, or leaves after some polls if `leaves` says after how many. Between
/// two polls of one that leaves others get a turn, and nobody needs to wake it.
fn wait<T>(
    leaves: Option<u64>,
    mut poll: impl FnMut(&mut std::task::Context<'_>) -> Poll<T>,
) -> Option<T> {
    let Some(polls) = leaves else {
        return Some(block_on(poll_fn(poll)));
    };
    let mut left = polls;
    block_on(poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let polled = poll(cx).map(Some);
        if polled.is_pending() {
            cx.waker().wake_by_ref();
        }
        polled
    }))
}

/// Reads to the end; each frame once and in order, all of them if the end is clean.
fn read(mut reader: Reader, leaves: Option<u64>) {
    let mut next = 0;
    loop {
        match wait(leaves, |cx| reader.poll_next(cx)) {
            None => return,
            Some(Next::Frame(read)) => {
                assert_eq!(read, frame(next), "a frame is lost or repeated");
                next += 1;
            }
            Some(Next::End) => {
                assert_eq!(next, FRAMES, "a clean end too early");
                return;
            }
            Some(Next::Broken) => return,
        }
    }
}

/// What somebody who waits sees, until there is no more to see.
fn follow(ticket: Ticket, leaves: Option<u64>) -> Option<Ending> {
    match wait(leaves, |cx| ticket.poll_head(cx))? {
        Outcome::Streaming(_) => {
            let reader = ticket.flight().reader();
            drop(ticket);
            read(reader, leaves);
            None
        }
        Outcome::Open(_) => match wait(leaves, |cx| ticket.poll_end(cx))? {
            Outcome::Ended(ending) => Some(ending),
            _ => None,
        },
        Outcome::Complete(_, entry) => {
            assert_eq!(entry.origin.fill, ticket.flight().origin().fill);
            None
        }
        Outcome::Ended(ending) => Some(ending),
    }
}

/// A client: asks until it is answered, and leads where it is the first.
fn client(world: &World, id: &FlightId) {
    for _ in 0..3 {
        // Half of those who wait leave, after so many polls.
        let leaves = (below(2) == 0).then(|| below(3));
        match world.join(id, 0) {
            Joined::Lead(guard) => {
                let end = ENDS[below(ENDS.len() as u64) as usize];
                return world.fill(guard, end, below(2) == 0);
            }
            Joined::Follow(ticket) => {
                if follow(ticket, leaves).is_none() {
                    return;
                }
            }
            Joined::Behind(_) | Joined::Full => panic!("nobody asks for that"),
        }
    }
}

fn in_threads(world: &Arc<World>, parts: Vec<Box<dyn FnOnce(&World) + Send>>) {
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
    world.assert_idle();
}

#[test]
fn one_leads_at_a_time_and_nobody_who_waits_is_left_behind_whatever_happens() {
    all_schedules(|| {
        let world = World::new();
        let client =
            || -> Box<dyn FnOnce(&World) + Send> { Box::new(|world| client(world, &id())) };
        in_threads(&world, (0..4).map(|_| client()).collect());
    });
}

#[test]
fn two_keys_are_led_apart() {
    all_schedules(|| {
        let world = World::new();
        let (first, second) = (world.lead(), world.join(&id_of(8), 0));
        let Joined::Lead(second) = second else {
            panic!("another key has a flight of its own");
        };
        in_threads(
            &world,
            vec![
                Box::new(|world| world.fill(first, End::Complete, false)),
                Box::new(|world| {
                    let ticket = world.join_existing(&id_of(8));
                    let ending = ticket.and_then(|ticket| follow(ticket, None));
                    assert!(matches!(ending, None | Some(Ending::Left)), "{ending:?}");
                }),
                Box::new(|_| drop(second)),
            ],
        );
    });
}

/// Every way to end, with two that wait from the start and stay.
fn each_end(end: End, is_streaming: bool) {
    let world = World::new();
    let guard = world.lead();
    let wait = || -> Box<dyn FnOnce(&World) + Send> {
        let Joined::Follow(ticket) = world.join(&id(), 0) else {
            panic!("one leads already");
        };
        Box::new(move |world| {
            let ending = follow(ticket, None);
            if ending.is_some() {
                assert_eq!(
                    world.table.len(),
                    0,
                    "who is told of the end meets it again"
                );
            }
            let expected = match end {
                End::Complete => None,
                End::Refused => Some(Ending::Refused(Reason::SetCookie)),
                End::Broken => Some(Ending::Broken(Reason::BodyError)),
                End::Expired => Some(Ending::Expired),
                End::Dropped => Some(Ending::Left),
                End::Panicked => Some(Ending::Failed),
            };
            // Who came to read before the end has no more to learn than that the body broke off.
            assert!(ending == expected || (is_streaming && ending.is_none()));
        })
    };
    let parts = vec![wait(), wait()];
    let lead: Box<dyn FnOnce(&World) + Send> =
        Box::new(move |world| world.fill(guard, end, is_streaming));
    in_threads(&world, parts.into_iter().chain([lead]).collect());
}

#[test]
fn a_complete_response_wakes_all() {
    all_schedules(|| each_end(End::Complete, below(2) == 0));
}

#[test]
fn a_refusal_wakes_all() {
    all_schedules(|| each_end(End::Refused, below(2) == 0));
}

#[test]
fn a_body_that_breaks_off_wakes_all() {
    all_schedules(|| each_end(End::Broken, below(2) == 0));
}

#[test]
fn a_fill_that_takes_too_long_wakes_all() {
    all_schedules(|| each_end(End::Expired, below(2) == 0));
}

#[test]
fn a_leader_that_is_dropped_wakes_all() {
    all_schedules(|| each_end(End::Dropped, below(2) == 0));
}

#[test]
fn a_panic_wakes_all() {
    all_schedules(|| each_end(End::Panicked, below(2) == 0));
}

#[test]
fn a_body_of_unknown_length_is_waited_for_to_its_end() {
    all_schedules(|| {
        let world = World::new();
        let mut guard = world.lead();
        let tickets = [0, 1].map(|_| match world.join(&id(), 0) {
            Joined::Follow(ticket) => ticket,
            other => panic!("one leads already: {other:?}"),
        });
        let waits = tickets.map(|ticket| -> Box<dyn FnOnce(&World) + Send> {
            Box::new(move |_| {
                let ending = follow(ticket, None);
                assert_eq!(ending, None, "it completes");
            })
        });
        let lead: Box<dyn FnOnce(&World) + Send> = Box::new(move |world| {
            let room = world.budget.reserve(10).expect("room");
            guard.publish(shared(None), vec![frame(0)], room);
            guard.push(frame(1));
            let made = entry(guard.flight().origin(), 0);
            guard.complete(shared(None), made, vec![frame(2)]);
        });
        in_threads(&world, waits.into_iter().chain([lead]).collect());
    });
}

#[test]
fn each_reader_gets_each_frame_once_and_in_order() {
    all_schedules(|| {
        let world = World::new();
        let mut guard = world.lead();
        let room = world.budget.reserve(10).expect("room");
        guard.publish(shared(Some(FRAMES)), Vec::new(), room);
        let reader = |flight: &Arc<Flight>| -> Box<dyn FnOnce(&World) + Send> {
            let reader = flight.reader();
            let leaves = (below(4) == 0).then(|| below(4));
            Box::new(move |_| read(reader, leaves))
        };
        let mut parts = vec![reader(guard.flight()), reader(guard.flight())];
        parts.push(Box::new(|world| {
            // Comes while it is read; finds the end, or nobody.
            if let Some(ticket) = world.join_existing(&id()) {
                follow(ticket, None);
            }
        }));
        parts.push(Box::new(move |_| {
            guard.push(frame(0));
            guard.push(frame(1));
            let made = entry(guard.flight().origin(), 0);
            guard.complete(shared(Some(FRAMES)), made, vec![frame(2)]);
        }));
        in_threads(&world, parts);
    });
}

#[test]
fn who_reads_a_body_hears_that_nobody_listens_any_more() {
    all_schedules(|| {
        let world = World::new();
        let mut guard = world.lead();
        let room = world.budget.reserve(10).expect("room");
        guard.publish(shared(Some(FRAMES)), vec![frame(0)], room);
        let readers = [0, 1].map(|_| guard.flight().reader());
        let leave = readers.map(|mut reader| -> Box<dyn FnOnce(&World) + Send> {
            let polls = below(4);
            Box::new(move |_| {
                for _ in 0..polls {
                    wait(Some(1), |cx| reader.poll_next(cx));
                }
            })
        });
        let lead: Box<dyn FnOnce(&World) + Send> = Box::new(move |world| {
            guard.leave();
            let mut abandoned = pin!(poll_fn(|cx| guard.poll_abandoned(cx)));
            block_on(abandoned.as_mut());
            assert!(world.join_existing(&id()).is_none(), "it has left");
            guard.end(Ending::Left, Vec::new());
        });
        in_threads(&world, leave.into_iter().chain([lead]).collect());
    });
}

#[test]
fn who_wants_a_newer_fill_waits_for_the_end_of_the_older_one() {
    all_schedules(|| {
        let world = World::new();
        let guard = world.lead();
        let old = guard.flight().origin().fill;
        in_threads(
            &world,
            vec![
                Box::new(move |world| {
                    let end = ENDS[below(ENDS.len() as u64) as usize];
                    world.fill(guard, end, below(2) == 0);
                }),
                Box::new(move |world| {
                    loop {
                        match world.join(&id(), old) {
                            Joined::Behind(ticket) => {
                                block_on(poll_fn(|cx| ticket.poll_end(cx)));
                            }
                            Joined::Lead(guard) => {
                                assert!(guard.flight().origin().fill > old);
                                return world.fill(guard, End::Complete, false);
                            }
                            other => panic!("only the old one is there: {other:?}"),
                        }
                    }
                }),
            ],
        );
    });
}

#[test]
fn the_head_and_each_frame_wake_those_who_wait_for_them() {
    all_schedules(|| {
        let world = World::new();
        let mut guard = world.lead();
        let Joined::Follow(ticket) = world.join(&id(), 0) else {
            panic!("one leads already");
        };
        let (seen, has_seen) = shuttle::sync::mpsc::channel();
        in_threads(
            &world,
            vec![
                Box::new(move |_| {
                    block_on(poll_fn(|cx| ticket.poll_head(cx)));
                    let mut reader = ticket.flight().reader();
                    drop(ticket);
                    seen.send(()).unwrap();
                    for _ in 0..FRAMES {
                        block_on(poll_fn(|cx| reader.poll_next(cx)));
                        seen.send(()).unwrap();
                    }
                    read_end(reader);
                }),
                Box::new(move |world| {
                    let room = world.budget.reserve(10).expect("room");
                    guard.publish(shared(Some(FRAMES)), Vec::new(), room);
                    // Goes on only when the other has it, which nothing later could wake.
                    has_seen.recv().unwrap();
                    for number in 0..FRAMES {
                        guard.push(frame(number));
                        has_seen.recv().unwrap();
                    }
                    let made = entry(guard.flight().origin(), 0);
                    guard.complete(shared(Some(FRAMES)), made, Vec::new());
                }),
            ],
        );
    });
}

/// Reads a clean end.
fn read_end(mut reader: Reader) {
    let next = block_on(poll_fn(|cx| reader.poll_next(cx)));
    assert!(matches!(next, Next::End), "{next:?}");
}
