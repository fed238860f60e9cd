//! One flight per key: what is under way, who waits for it, and what its readers get.
//!
//! This file knows neither the inner service nor tokio. A flight starts when somebody is the first
//! to need a response that is not stored; everybody who comes while it is under way gets a
//! [`Ticket`]. The starter holds a [`Guard`]; however the fill ends, by a stored response, a
//! refusal, an error, a panic or by being dropped, the guard ends the flight and wakes all.
//!
//! Two locks: a piece of the table, and the state of one flight; the former may be held when the
//! latter is taken, never the other way round. Wakers are called with neither.

use std::{
    collections::HashMap,
    fmt,
    hash::{Hash, Hasher},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use http::StatusCode;

use crate::{
    budget::Reservation,
    entry::{Entry, Origin, StoredHead},
    invalidation::{PrehashedBuilder, Sequence},
    key::Key,
    policy::{Encoded, VaryRule},
    status::Reason,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    target::Subject,
};

/// What requests must have in common to be answered by one flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlightId {
    /// The layer, by its settings.
    pub(crate) layer: u64,
    pub(crate) purpose: Purpose,
    pub(crate) key: Key,
}

/// What a flight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To answer with what is stored somewhere, or fill.
    Fill = 0,
    /// A fill demanded by `no-cache`: joined only by those who came before it started.
    Forced = 1,
    /// To see what the remote store has, for requests that fill nothing.
    LookUp = 2,
}

impl Hash for FlightId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let sides = self.layer << 2 | self.purpose as u64;
        state.write_u64(self.key.hash ^ sides.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}

/// A response that several requests get.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) head: Arc<StoredHead>,
    pub(crate) rule: VaryRule,
    /// The selecting fields of the starter.
    pub(crate) values: Encoded,
    /// How long the body will be; only then is it certain that nobody has to be left behind.
    pub(crate) length: Option<u64>,
    /// Where it is stored, where that is said by the response itself: it answers only those who would
    /// look there.
    pub(crate) place: Option<Key>,
    /// Why it answers nobody but its starter, before it was validated.
    pub(crate) unfit: Option<Reason>,
    /// The sequence of the log when the oldest of what it was made from was read, where its handler
    /// said so.
    pub(crate) read_at: Option<Sequence>,
}

/// Why a flight has nothing to share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The response may not be shared.
    Refused(Reason),
    /// The inner service answered with an error that is not shared; a stale response may stand in.
    ServerError(StatusCode),
    /// A layer further in answered and decides.
    InnerLayer,
    /// The inner service failed, or panicked.
    Failed,
    /// It takes longer than a fill may.
    Expired,
    /// Nobody was left to poll it.
    Left,
    /// The body broke off, or did not fit. Its starter alone goes on reading it.
    Broken(Reason),
    /// There is something in the store by now.
    Look,
}

#[derive(Debug)]
enum Phase {
    /// The inner service is working.
    Head,
    /// The body is being read.
    Body(Arc<Shared>),
    /// All is there, and stored if it is to be stored.
    Complete(Arc<Shared>, Arc<Entry>),
    Ended(Ending),
}

struct State {
    phase: Phase,
    /// What of the body has been read.
    frames: Vec<Bytes>,
    /// The room that `frames` takes, given back when the last reader has gone.
    room: Option<Reservation>,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    waiting: usize,
    /// To be woken when nobody waits any more.
    abandoned: Option<Waker>,
    carried: Option<Carried>,
}

/// What a flight brings that is no response: a value or an error, each of a type that its readers know.
pub(crate) type Carried = Result<Anything, Anything>;
type Anything = std::sync::Arc<dyn std::any::Any + Send + Sync>;

/// A fill under way.
pub(crate) struct Flight {
    origin: Origin,
    /// That of the origin, raised when the fill begins later than the flight.
    sequence: AtomicU64,
    /// The same in the order of all nodes.
    shared: AtomicU64,
    started: Instant,
    state: Mutex<State>,
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// What somebody who waits for a flight learns.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The head is there, the body is on its way.
    Streaming(Arc<Shared>),
    /// The head is there; how long the body is, is not known.
    Open(Arc<Shared>),
    Complete(Arc<Shared>, Arc<Entry>),
    Ended(Ending),
}

/// What a reader of the body gets next.
#[derive(Debug)]
pub(crate) enum Next {
    Frame(Bytes),
    /// The body is complete.
    End,
    /// The flight ended before the body did.
    Broken,
}

impl Flight {
    pub(crate) fn new(origin: Origin, started: Instant) -> Arc<Self> {
        Arc::new(Self {
            sequence: AtomicU64::new(origin.sequence.local),
            shared: AtomicU64::new(origin.sequence.shared),
            origin,
            started,
            state: Mutex::new(State {
                phase: Phase::Head,
                frames: Vec::new(),
                room: None,
                wakers: Vec::new(),
                free: Vec::new(),
                waiting: 0,
                abandoned: None,
                carried: None,
            }),
        })
    }

    /// Of what this flight brings.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            sequence: self.sequence(),
            ..self.origin.clone()
        }
    }

    /// The sequence of its origin.
    pub(crate) fn sequence(&self) -> Sequence {
        Sequence {
            local: self.sequence.load(Ordering::Acquire),
            shared: self.shared.load(Ordering::Acquire),
        }
    }

    /// What an invalidation selects of it, as far as that is known without its head.
    pub(crate) fn subject(&self) -> &Subject {
        &self.origin.subject
    }

    /// The head of what it brings, as soon as that is known.
    pub(crate) fn head(&self) -> Option<Arc<StoredHead>> {
        match &self.state().phase {
            Phase::Body(shared) | Phase::Complete(shared, _) => Some(shared.head.clone()),
            Phase::Head | Phase::Ended(_) => None,
        }
    }

    /// What it has brought, if that is no response.
    pub(crate) fn carried(&self) -> Option<Carried> {
        self.state().carried.clone()
    }

    /// When it started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Its response was made from something older than the flight.
    pub(crate) fn lower_to(&self, sequence: Sequence) {
        self.sequence.fetch_min(sequence.local, Ordering::AcqRel);
        self.shared.fetch_min(sequence.shared, Ordering::AcqRel);
    }

    /// The inner service was not called before now: no earlier invalidation concerns its answer.
    pub(crate) fn begin_fill(&self, sequence: Sequence) {
        self.sequence.store(sequence.local, Ordering::Release);
        self.shared.store(sequence.shared, Ordering::Release);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock but an allocation; the state is whole at each
        // step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place among those who wait, or `None` if there are too many or it is over.
    fn ticket(self: &Arc<Self>, max_waiting: usize) -> Option<Ticket> {
        let mut state = self.state();
        if state.waiting >= max_waiting {
            return None;
        }
        Some(self.seat(&mut state))
    }

    fn seat(self: &Arc<Self>, state: &mut State) -> Ticket {
        state.waiting += 1;
        let seat = state.free.pop().unwrap_or_else(|| {
            state.wakers.push(None);
            state.wakers.len() - 1
        });
        Ticket {
            flight: self.clone(),
            seat,
            is_left: AtomicBool::new(false),
        }
    }

    /// A reader from the first byte on.
    pub(crate) fn reader(self: &Arc<Self>) -> Reader {
        let mut state = self.state();
        let ticket = self.seat(&mut state);
        Reader { ticket, next: 0 }
    }

    /// What of the body has been handed out.
    pub(crate) fn frames(&self) -> Vec<Bytes> {
        self.state().frames.clone()
    }

    fn is_over(&self) -> bool {
        matches!(self.state().phase, Phase::Ended(_))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let woken: Vec<Waker> = state.wakers.iter_mut().filter_map(Option::take).collect();
        drop(state);
        for waker in woken {
            waker.wake();
        }
    }
}

/// A place among those who wait for a flight; given back when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    flight: Arc<Flight>,
    seat: usize,
    /// It was given back with what there was to know, under the same lock.
    is_left: AtomicBool,
}

impl Ticket {
    /// What there is to know, as soon as the head is known.
    pub(crate) fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.flight.state();
        let outcome = match &state.phase {
            Phase::Head => {
                self.register(&mut state, cx);
                return Poll::Pending;
            }
            Phase::Body(shared) if shared.length.is_some() => Outcome::Streaming(shared.clone()),
            Phase::Body(shared) => Outcome::Open(shared.clone()),
            Phase::Complete(shared, entry) => Outcome::Complete(shared.clone(), entry.clone()),
            Phase::Ended(ending) => Outcome::Ended(*ending),
        };
        if matches!(outcome, Outcome::Complete(..) | Outcome::Ended(_)) {
            self.leave(state);
        }
        Poll::Ready(outcome)
    }

    /// What there is to know when all is over.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.flight.state();
        let outcome = match &state.phase {
            Phase::Head | Phase::Body(_) => {
                self.register(&mut state, cx);
                return Poll::Pending;
            }
            Phase::Complete(shared, entry) => Outcome::Complete(shared.clone(), entry.clone()),
            Phase::Ended(ending) => Outcome::Ended(*ending),
        };
        if matches!(outcome, Outcome::Complete(..) | Outcome::Ended(_)) {
            self.leave(state);
        }
        Poll::Ready(outcome)
    }

    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    fn register(&self, state: &mut State, cx: &mut Context<'_>) {
        let waker = &mut state.wakers[self.seat];
        match waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
    }
}

impl Ticket {
    /// Gives the place back.
    fn leave(&self, mut state: MutexGuard<'_, State>) {
        if self.is_left.swap(true, Ordering::Relaxed) {
            return;
        }
        state.waiting -= 1;
        state.free.push(self.seat);
        let waker = state.wakers[self.seat].take();
        let abandoned = match state.waiting {
            0 => state.abandoned.take(),
            _ => None,
        };
        drop(state);
        // A waker may run foreign code when dropped.
        drop(waker);
        if let Some(abandoned) = abandoned {
            abandoned.wake();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_left.load(Ordering::Relaxed) {
            self.leave(self.flight.state());
        }
    }
}

/// Reads the body of a flight from its start.
#[derive(Debug)]
pub(crate) struct Reader {
    ticket: Ticket,
    next: usize,
}

impl Reader {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut state = self.ticket.flight.state();
        if let Some(frame) = state.frames.get(self.next) {
            self.next += 1;
            return Poll::Ready(Next::Frame(frame.clone()));
        }
        match state.phase {
            Phase::Head | Phase::Body(_) => {
                self.ticket.register(&mut state, cx);
                Poll::Pending
            }
            Phase::Complete(..) => Poll::Ready(Next::End),
            Phase::Ended(_) => Poll::Ready(Next::Broken),
        }
    }
}

/// The starter's hold on a flight: when it goes, the flight is over.
#[derive(Debug)]
pub(crate) struct Guard {
    flight: Arc<Flight>,
    /// `None` for a fill that nobody may join, or when it has left the table.
    place: Option<(Weak<Table>, FlightId)>,
    is_over: bool,
}

impl Guard {
    /// Of a fill that nobody may join.
    pub(crate) fn alone(origin: Origin, started: Instant) -> Self {
        Self {
            flight: Flight::new(origin, started),
            place: None,
            is_over: false,
        }
    }

    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Whether others may come to wait for it.
    pub(crate) fn is_joinable(&self) -> bool {
        self.place.is_some()
    }

    /// The head is known, and so much of the body.
    pub(crate) fn publish(&mut self, shared: Arc<Shared>, frames: Vec<Bytes>, room: Reservation) {
        self.flight.change(|state| {
            state.frames = frames;
            state.room = Some(room);
            state.phase = Phase::Body(shared);
        });
    }

    /// Ready when neither the starter nor anybody else reads the body.
    pub(crate) fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.flight.state();
        if state.waiting == 0 {
            return Poll::Ready(());
        }
        match &state.abandoned {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => state.abandoned = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Room for more of the body, if there is any.
    pub(crate) fn grow(&self, more: u64) -> bool {
        let mut state = self.flight.state();
        state.room.as_mut().is_some_and(|room| room.grow(more))
    }

    /// More of the body.
    pub(crate) fn push(&self, frame: Bytes) {
        self.flight.change(|state| state.frames.push(frame));
    }

    /// More of the body, and its end; the entry is in the store already.
    pub(crate) fn complete(mut self, shared: Arc<Shared>, entry: Arc<Entry>, last: Vec<Bytes>) {
        self.is_over = true;
        // Out of the table first, here too: who wants a newer one is woken and asks again.
        self.leave();
        self.flight.change(|state| {
            state.frames.extend(last);
            state.phase = Phase::Complete(shared, entry);
        });
    }

    /// What was to be brought, where that is no response; if it was to be stored, it is.
    pub(crate) fn bring(self, carried: Carried) {
        self.flight.state().carried = Some(carried);
        self.end(Ending::Look, Vec::new());
    }

    /// Nothing to share; in the middle of a body, `last` still belongs to what was read.
    pub(crate) fn end(mut self, ending: Ending, last: Vec<Bytes>) {
        self.end_now(ending, last);
    }

    fn end_now(&mut self, ending: Ending, last: Vec<Bytes>) {
        self.is_over = true;
        // Out of the table first: who is woken and asks again must not meet this flight.
        self.leave();
        self.flight.change(|state| {
            state.frames.extend(last);
            state.phase = Phase::Ended(ending);
        });
    }

    /// The fill takes too long: it leaves the table, and those who wait act as if it had failed.
    /// The starter goes on, unshared.
    pub(crate) fn expire(&mut self) {
        self.end_now(Ending::Expired, Vec::new());
    }

    /// Lets no more newcomers in.
    pub(crate) fn leave(&mut self) {
        let Some((table, id)) = self.place.take() else {
            return;
        };
        if let Some(table) = table.upgrade() {
            table.remove(&id, &self.flight);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_over {
            let ending = match std::thread::panicking() {
                true => Ending::Failed,
                false => Ending::Left,
            };
            self.end_now(ending, Vec::new());
        }
    }
}

/// What a request that needs a response becomes.
#[derive(Debug)]
pub(crate) enum Joined {
    /// The first: it calls the inner service.
    Lead(Guard),
    /// It waits for what is under way.
    Follow(Ticket),
    /// What is under way started too early for it; it waits for the end and asks again.
    Behind(Ticket),
    /// Too many wait already.
    Full,
}

/// What a request expects of a flight that it joins.
pub(crate) struct Terms<'t> {
    /// How many may wait for it.
    pub(crate) max_waiting: usize,
    /// Only a fill with a higher number.
    pub(crate) after: u64,
    /// Whether this flight may still be joined: not invalidated, as far as is known, and not too old.
    pub(crate) is_current: &'t dyn Fn(&Flight) -> bool,
}

const PIECES: usize = 16;

/// The flights of one cache.
#[derive(Default)]
pub(crate) struct Table {
    pieces: [Mutex<HashMap<FlightId, Arc<Flight>, PrehashedBuilder>>; PIECES],
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("len", &self.len()).finish()
    }
}

impl Table {
    fn piece(
        &self,
        id: &FlightId,
    ) -> MutexGuard<'_, HashMap<FlightId, Arc<Flight>, PrehashedBuilder>> {
        // The low bits choose the bucket inside the piece.
        let piece = &self.pieces[(id.key.hash >> 32) as usize % PIECES];
        piece.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight of `id`, or starts one with an origin made by `start`.
    pub(crate) fn join(
        self: &Arc<Self>,
        id: &FlightId,
        terms: &Terms<'_>,
        start: impl FnOnce() -> (Origin, Instant),
    ) -> Joined {
        let mut piece = self.piece(id);
        if let Some(flight) = piece.get(id) {
            if (terms.is_current)(flight) && !flight.is_over() {
                let is_early = flight.origin.fill <= terms.after;
                return match flight.ticket(terms.max_waiting) {
                    Some(ticket) if is_early => Joined::Behind(ticket),
                    Some(ticket) => Joined::Follow(ticket),
                    None => Joined::Full,
                };
            }
        }
        let (origin, started) = start();
        let flight = Flight::new(origin, started);
        piece.insert(id.clone(), flight.clone());
        Joined::Lead(Guard {
            flight,
            place: Some((Arc::downgrade(self), id.clone())),
            is_over: false,
        })
    }

    /// Joins the flight of `id` if there is one that answers.
    pub(crate) fn join_existing(&self, id: &FlightId, terms: &Terms<'_>) -> Option<Ticket> {
        let piece = self.piece(id);
        let flight = piece.get(id)?;
        let answers =
            flight.origin.fill > terms.after && (terms.is_current)(flight) && !flight.is_over();
        if answers {
            flight.ticket(terms.max_waiting)
        } else {
            None
        }
    }

    fn remove(&self, id: &FlightId, flight: &Arc<Flight>) {
        let mut piece = self.piece(id);
        let mut removed = piece.remove(id);
        // Another one may have taken its place, and keeps that.
        if let Some(other) = removed.take_if(|known| !Arc::ptr_eq(known, flight)) {
            piece.insert(id.clone(), other);
        }
        drop(piece);
        drop(removed);
    }

    /// How many flights are under way.
    pub(crate) fn len(&self) -> usize {
        let len = |piece: &Mutex<HashMap<_, _, _>>| {
            piece.lock().unwrap_or_else(PoisonError::into_inner).len()
        };
        self.pieces.iter().map(len).sum()
    }
}
