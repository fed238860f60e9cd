//! What is counted of the link to a remote store.

use std::{
    array, fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::status::FrameFault;

const FAULTS: usize = FrameFault::ALL.len();

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        /// Counters of the link, raised by `remote.rs`.
        #[derive(Debug)]
        pub(crate) struct RemoteCounters {
            $(pub(crate) $name: Counter,)+
            faults: [Counter; FAULTS],
            /// Smoothed, in microseconds; 0 as long as nothing was measured.
            latency: AtomicU64,
        }

        impl Default for RemoteCounters {
            fn default() -> Self {
                Self {
                    $($name: Counter::default(),)+
                    faults: array::from_fn(|_| Counter::default()),
                    latency: AtomicU64::default(),
                }
            }
        }

        /// What a cache and its remote store have said to each other: a part of
        /// [`Stats`](crate::Stats). All zero where there is no remote store.
        ///
        /// ```
        /// use tower_response_cache::{Cache, FrameFault};
        ///
        /// let stats = Cache::in_memory().stats();
        /// assert_eq!(stats.remote().reads(), 0);
        /// assert_eq!(stats.remote().refused_frames(FrameFault::Damaged), 0);
        /// ```
        #[derive(Clone, Default, PartialEq, Eq)]
        pub struct RemoteStats {
            $($name: u64,)+
            faults: [u64; FAULTS],
            latency: u64,
            outbox_bytes: u64,
        }

        impl RemoteStats {
            $(
                $(#[doc = $doc])+
                #[must_use]
                pub fn $name(&self) -> u64 {
                    self.$name
                }
            )+
        }

        impl RemoteCounters {
            pub(crate) fn read(&self, outbox_bytes: u64) -> RemoteStats {
                RemoteStats {
                    $($name: self.$name.get(),)+
                    faults: array::from_fn(|i| self.faults[i].get()),
                    latency: self.latency.load(Ordering::Relaxed),
                    outbox_bytes,
                }
            }
        }

        impl fmt::Display for RemoteStats {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(write!(f, concat!(" remote.", $word, "={}"), self.$name)?;)+
                write!(f, " remote.latency={}us outbox={}", self.latency, self.outbox_bytes)?;
                for fault in FrameFault::ALL {
                    let count = self.faults[*fault as usize];
                    if count > 0 {
                        write!(f, " frame.{fault}={count}")?;
                    }
                }
                Ok(())
            }
        }
    };
}

counters! {
    /// Reads that were sent; one that needs the names of the selecting fields first counts twice.
    reads = "reads",
    /// Look-ups that brought a response.
    hits = "hits",
    /// Operations without an answer in time: 50 milliseconds for all of a request.
    timeouts = "timeouts",
    /// Operations that failed otherwise: the link broke, or the store declined.
    errors = "errors",
    /// Answers that cannot be those to their questions.
    mismatches = "mismatches",
    /// Look-ups and writes that were not tried, because the link is not there or a breaker is open.
    skipped = "skipped",
    /// Frames and deletions that the store has taken.
    writes = "writes",
    /// Frames and deletions for which there was no room among what waits.
    dropped = "dropped",
    /// Invalidations that other nodes were told of.
    told = "told",
    /// Invalidations of other nodes that came by message.
    heard = "heard",
    /// How often the shared log was read because some may have been missed.
    caught_up = "caught_up",
    /// How often the shared log was begun anew, because it was empty or had lost something.
    begun_anew = "begun_anew",
    /// Entries that were taken out of the store because they had been invalidated; see
    /// [`CacheBuilder::purge_invalidated`](crate::CacheBuilder::purge_invalidated).
    purged = "purged",
    /// Walks through all entries for that, to their end.
    purges = "purges",
    /// Such walks that were broken off, as the store was in trouble or another node had taken over.
    purges_broken_off = "purges_broken_off",
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl RemoteCounters {
    pub(crate) fn fault(&self, fault: FrameFault) {
        self.faults[fault as usize].raise();
    }

    /// Smoothed as round trips are (RFC 6298, section 2): an eighth of each new one. Two that are
    /// measured at once may lose one of them.
    pub(crate) fn measured(&self, round_trip: Duration) {
        let new = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX / 8);
        let known = self.latency.load(Ordering::Relaxed);
        let smoothed = match known {
            0 => new,
            known => known - known / 8 + new / 8,
        };
        self.latency.store(smoothed.max(1), Ordering::Relaxed);
    }

    /// The smoothed round trip of a read, if any was measured.
    pub(crate) fn latency(&self) -> Option<Duration> {
        match self.latency.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}

impl RemoteStats {
    /// Frames that were read and not used, for this reason; each was a miss, and the next fill
    /// replaces it.
    #[must_use]
    pub fn refused_frames(&self, fault: FrameFault) -> u64 {
        self.faults[fault as usize]
    }

    /// The smoothed round trip of a read.
    #[must_use]
    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency)
    }

    /// Bytes that wait to be written, or are being written; at most 16 MiB, and a quarter more for
    /// deletions.
    #[must_use]
    pub fn outbox_bytes(&self) -> u64 {
        self.outbox_bytes
    }
}

impl fmt::Debug for RemoteStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteStats({})", self.to_string().trim_start())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_what_is_read() {
        let counters = RemoteCounters::default();
        counters.reads.raise();
        counters.reads.raise();
        counters.fault(FrameFault::Damaged);
        counters.measured(Duration::from_micros(800));
        counters.measured(Duration::from_micros(1_600));
        let stats = counters.read(7);
        assert_eq!((stats.reads(), stats.hits()), (2, 0));
        assert_eq!(stats.refused_frames(FrameFault::Damaged), 1);
        assert_eq!(stats.latency(), Duration::from_micros(900));
        assert_eq!(stats.outbox_bytes(), 7);
        let line = stats.to_string();
        assert!(line.contains("remote.reads=2"), "{line}");
        assert!(line.ends_with("outbox=7 frame.damaged=1"), "{line}");
    }
}
