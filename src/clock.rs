//! What time it is, as the cache sees it.
//!
//! A clock tells the time for freshness, `Age` and deadlines of stored responses. Waiting (for
//! another request's fill, for the next sweep) is tokio's time, which tests pause on their own.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

/// A source of time for a [`Cache`](crate::Cache).
///
/// The default is the system's. Tests use `ManualClock` (feature `test-util`), which stands still
/// until it is moved.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment; never runs backwards. Ages are measured with it.
    fn elapsed(&self) -> Duration;

    /// The time of day, to compare with `Date` and `Expires`.
    fn wall(&self) -> SystemTime;
}

impl fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

/// The time of the operating system.
#[derive(Debug)]
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

#[cfg(any(feature = "test-util", test))]
pub use manual::ManualClock;

#[cfg(any(feature = "test-util", test))]
mod manual {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::{Duration, SystemTime},
    };

    use super::Clock;

    /// A clock that stands still until it is moved, for tests.
    ///
    /// Clones show the same time. It starts on 2026-01-01 at noon UTC. Needs feature `test-util`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Cache, Clock, ManualClock};
    ///
    /// let clock = ManualClock::new();
    /// let cache = Cache::builder().clock(clock.clone()).build()?;
    /// let before = clock.elapsed();
    /// clock.advance(Duration::from_secs(61));
    /// assert_eq!(clock.elapsed() - before, Duration::from_secs(61));
    /// # Ok::<(), tower_response_cache::BuildError>(())
    /// ```
    #[derive(Debug, Clone, Default)]
    pub struct ManualClock(Arc<AtomicU64>);

    impl ManualClock {
        /// A clock at its start.
        #[must_use]
        pub fn new() -> Self {
            Self::default()
        }

        /// Moves the clock forward, by whole milliseconds.
        pub fn advance(&self, by: Duration) {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            self.0.fetch_add(by, Ordering::SeqCst);
        }
    }

    impl Clock for ManualClock {
        fn elapsed(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::SeqCst))
        }

        fn wall(&self) -> SystemTime {
            const NOON: Duration = Duration::from_secs(1_767_268_800);
            SystemTime::UNIX_EPOCH + NOON + self.elapsed()
        }
    }
}
