//! The circuit breaker: a store that does not answer is left alone for a while.
//!
//! Without it every request would wait for the whole deadline as long as the trouble lasts. It
//! opens when failures outnumber successes by [`THRESHOLD`]; after a pause one operation is let
//! through as a probe, and its end decides. The pause doubles with each time up to
//! [`LONGEST_PAUSE`], and is short again after a run of successes.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// By how many failures must outnumber successes.
const THRESHOLD: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// So that a store is used again within 2 seconds of its recovery, the link's own pause included.
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// So many successes in a row make a store as good as new.
const GOOD_RUN: u32 = 100;

/// How a circuit breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// All operations pass.
    Closed,
    /// None passes, for at most 0.8 seconds.
    Open,
    /// One is on its way; its end decides.
    HalfOpen,
}

impl BreakerState {
    /// One word: `closed`, `open`, `half-open`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug)]
enum State {
    Closed,
    /// Until then.
    Open(Instant),
    HalfOpen,
}

#[derive(Debug)]
struct Inner {
    state: State,
    score: u32,
    run: u32,
    pause: Duration,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Breaker {
    /// For a look without the lock.
    is_closed: AtomicBool,
    /// No failure is held against it.
    is_clean: AtomicBool,
    inner: Mutex<Inner>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            is_closed: AtomicBool::new(true),
            is_clean: AtomicBool::new(true),
            inner: Mutex::new(Inner {
                state: State::Closed,
                score: 0,
                run: 0,
                pause: FIRST_PAUSE,
            }),
        }
    }
}

/// What the end of an operation changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// Closed until now.
    Opened,
    /// The probe failed.
    Reopened,
    Closed,
}

impl Breaker {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave for one operation, if it may be tried.
    pub(crate) fn permit(&self) -> Option<Permit<'_>> {
        if self.is_closed.load(Ordering::Acquire) {
            return Some(Permit::new(self, false));
        }
        let mut inner = self.inner();
        match inner.state {
            State::Closed => Some(Permit::new(self, false)),
            State::Open(until) if Instant::now() >= until => {
                inner.state = State::HalfOpen;
                Some(Permit::new(self, true))
            }
            State::Open(_) | State::HalfOpen => None,
        }
    }

    /// Whether an operation would be let through now.
    pub(crate) fn would_permit(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
            || matches!(self.inner().state, State::Open(until) if Instant::now() >= until)
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.inner().state {
            State::Closed => BreakerState::Closed,
            State::Open(_) => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        }
    }

    /// Something has changed for the better: the next operation may try.
    pub(crate) fn hope(&self) {
        if self.is_closed.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.inner();
        inner.pause = FIRST_PAUSE;
        if let State::Open(until) = &mut inner.state {
            *until = Instant::now();
        }
    }
}

/// Leave for one operation. One that is dropped without a verdict (its caller has gone) decides
/// nothing; were it the probe, the next one is.
#[must_use]
#[derive(Debug)]
pub(crate) struct Permit<'b> {
    breaker: &'b Breaker,
    is_probe: bool,
    is_over: bool,
}

impl<'b> Permit<'b> {
    fn new(breaker: &'b Breaker, is_probe: bool) -> Self {
        Self {
            breaker,
            is_probe,
            is_over: false,
        }
    }

    pub(crate) fn succeeded(mut self) -> Change {
        self.is_over = true;
        let breaker = self.breaker;
        if !self.is_probe && breaker.is_clean.load(Ordering::Relaxed) {
            return Change::None;
        }
        let mut inner = breaker.inner();
        inner.run += 1;
        inner.score = inner.score.saturating_sub(1);
        if inner.run >= GOOD_RUN {
            inner.pause = FIRST_PAUSE;
        }
        if self.is_probe {
            inner.state = State::Closed;
            inner.score = 0;
            inner.run = 1;
            breaker.is_closed.store(true, Ordering::Release);
            return Change::Closed;
        }
        if inner.score == 0 && inner.pause == FIRST_PAUSE {
            breaker.is_clean.store(true, Ordering::Relaxed);
        }
        Change::None
    }

    pub(crate) fn failed(mut self) -> Change {
        self.is_over = true;
        let breaker = self.breaker;
        let mut inner = breaker.inner();
        breaker.is_clean.store(false, Ordering::Relaxed);
        inner.run = 0;
        match inner.state {
            State::HalfOpen if self.is_probe => {
                inner.pause = (inner.pause * 2).min(LONGEST_PAUSE);
                inner.state = State::Open(Instant::now() + inner.pause);
                Change::Reopened
            }
            // Of those that were under way when it opened.
            State::Open(_) | State::HalfOpen => Change::None,
            State::Closed => {
                inner.score += 1;
                if inner.score < THRESHOLD {
                    return Change::None;
                }
                inner.state = State::Open(Instant::now() + inner.pause);
                breaker.is_closed.store(false, Ordering::Release);
                Change::Opened
            }
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.is_over {
            let mut inner = self.breaker.inner();
            if matches!(inner.state, State::HalfOpen) {
                inner.state = State::Open(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn fail(breaker: &Breaker) -> Change {
        breaker.permit().expect("let through").failed()
    }

    fn succeed(breaker: &Breaker) -> Change {
        breaker.permit().expect("let through").succeeded()
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_when_failures_outnumber_successes() {
        let breaker = Breaker::default();
        for _ in 0..4 {
            assert_eq!(fail(&breaker), Change::None);
        }
        assert_eq!(succeed(&breaker), Change::None);
        assert_eq!(fail(&breaker), Change::None);
        assert_eq!(fail(&breaker), Change::Opened);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.permit().is_none() && !breaker.would_permit());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_one_probe_decides() {
        let breaker = Breaker::default();
        let late = breaker.permit().expect("closed");
        while fail(&breaker) != Change::Opened {}
        advance(FIRST_PAUSE).await;
        assert!(breaker.would_permit());
        let probe = breaker.permit().expect("the probe");
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(breaker.permit().is_none(), "one at a time");
        assert_eq!(late.failed(), Change::None, "it was under way before");
        assert_eq!(probe.failed(), Change::Reopened);
        advance(FIRST_PAUSE).await;
        assert!(breaker.permit().is_none(), "the pause is longer by now");
        advance(FIRST_PAUSE).await;
        assert_eq!(succeed(&breaker), Change::Closed);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_leaves_its_place_to_the_next() {
        let breaker = Breaker::default();
        while fail(&breaker) != Change::Opened {}
        advance(FIRST_PAUSE).await;
        drop(breaker.permit().expect("the probe"));
        assert_eq!(succeed(&breaker), Change::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_to_its_bound_and_shrinks_after_a_good_run() {
        let breaker = Breaker::default();
        while fail(&breaker) != Change::Opened {}
        for _ in 0..10 {
            advance(LONGEST_PAUSE).await;
            assert_eq!(fail(&breaker), Change::Reopened);
        }
        advance(LONGEST_PAUSE).await;
        assert_eq!(succeed(&breaker), Change::Closed);
        for _ in 0..GOOD_RUN {
            succeed(&breaker);
        }
        while fail(&breaker) != Change::Opened {}
        advance(FIRST_PAUSE).await;
        assert!(breaker.would_permit());
    }

    #[tokio::test(start_paused = true)]
    async fn hope_ends_the_pause() {
        let breaker = Breaker::default();
        while fail(&breaker) != Change::Opened {}
        breaker.hope();
        assert_eq!(succeed(&breaker), Change::Closed);
    }
}
