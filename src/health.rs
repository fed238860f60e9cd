//! How the link to a remote store is doing.

use std::{fmt, time::Duration};

use crate::{
    error::StoreError,
    store::{Link, breaker::BreakerState},
};

/// How the link of a [`Cache`](crate::Cache) to its remote store is doing, at this moment.
///
/// For a page or a probe that people look at. It says nothing about the service: the cache goes on
/// from memory, and requests are answered as without a remote store.
///
/// # Examples
///
/// ```
/// use tower_response_cache::Cache;
///
/// let health = Cache::in_memory().health();
/// assert!(health.is_good());
/// assert!(health.link().is_none(), "there is no remote store");
/// assert_eq!(health.to_string(), "memory only");
/// ```
#[derive(Debug, Clone)]
pub struct Health {
    pub(crate) link: Option<Link>,
    pub(crate) reads: BreakerState,
    pub(crate) writes: BreakerState,
    pub(crate) latency: Option<Duration>,
    /// With its age.
    pub(crate) last_error: Option<(StoreError, Duration)>,
    pub(crate) outbox_bytes: u64,
    /// Where nodes share a log of invalidations.
    pub(crate) log: Option<LogHealth>,
}

/// How this node hears of the invalidations of others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogHealth {
    pub(crate) is_hearing: bool,
    pub(crate) is_sure: bool,
    pub(crate) waiting: u64,
}

impl Health {
    pub(crate) fn memory_only() -> Self {
        Self {
            link: None,
            reads: BreakerState::Closed,
            writes: BreakerState::Closed,
            latency: None,
            last_error: None,
            outbox_bytes: 0,
            log: None,
        }
    }

    /// Whether the remote store is read and written, and all invalidations are known; true where there is
    /// none.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.link.as_ref().is_none_or(|link| *link == Link::Up)
            && self.reads == BreakerState::Closed
            && self.writes == BreakerState::Closed
            && self.log.is_none_or(|log| log.is_sure)
    }

    /// The link; `None` where there is no remote store.
    #[must_use]
    pub fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// The breaker of look-ups.
    #[must_use]
    pub fn reads(&self) -> BreakerState {
        self.reads
    }

    /// The breaker of writes and deletions: a replica, or a server out of memory, is read all the
    /// same.
    #[must_use]
    pub fn writes(&self) -> BreakerState {
        self.writes
    }

    /// The smoothed round trip of a look-up; `None` before the first.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// What failed last, however long ago that was.
    #[must_use]
    pub fn last_error(&self) -> Option<&StoreError> {
        self.last_error.as_ref().map(|(error, _)| error)
    }

    /// How long ago that was, by the cache's clock.
    #[must_use]
    pub fn last_error_age(&self) -> Option<Duration> {
        self.last_error.as_ref().map(|(_, age)| *age)
    }

    /// Whether messages about the invalidations of other nodes come; `None` where nodes share no log.
    ///
    /// Without them the log is read more often instead.
    #[must_use]
    pub fn is_hearing(&self) -> Option<bool> {
        self.log.map(|log| log.is_hearing)
    }

    /// Whether this node is sure to have heard of all invalidations of the last second but one; `None`
    /// where nodes share no log. Where it is not, memory answers for a second at the most.
    #[must_use]
    pub fn is_sure(&self) -> Option<bool> {
        self.log.map(|log| log.is_sure)
    }

    /// How many invalidations wait until other nodes can be told.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.log.map_or(0, |log| log.waiting)
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn outbox_bytes(&self) -> u64 {
        self.outbox_bytes
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(link) = &self.link else {
            return f.write_str("memory only");
        };
        let Self { reads, writes, .. } = self;
        write!(f, "link {link}, reads {reads}, writes {writes}")?;
        if let Some(LogHealth {
            is_sure, waiting, ..
        }) = self.log
        {
            let state = if is_sure { "known" } else { "perhaps missed" };
            write!(f, ", invalidations {state}")?;
            if waiting > 0 {
                write!(f, " ({waiting} untold)")?;
            }
        }
        if let Some(latency) = self.latency {
            write!(f, ", latency {} us", latency.as_micros())?;
        }
        if let Some((error, age)) = &self.last_error {
            write!(f, ", last error {} s ago: {error}", age.as_secs())?;
        }
        Ok(())
    }
}
