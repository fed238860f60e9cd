//! The invalidation log that nodes share: how a node tells the others, hears of them, and knows that
//! it has heard everything.
//!
//! - *Numbers.* Every record of the shared log has a number, of all nodes the same. A node that has all
//!   records up to one has [caught up](Coherence::caught) to it. Each message names the number
//!   before its own, so that a gap is seen; whoever sees one reads the log from where it was.
//! - *Proof.* Twice a second, and with each look-up, the present number is read. When a node has caught
//!   up to it, it is [sure](Coherence::is_sure) for one second from the moment of asking: so long
//!   memory answers, whatever becomes of messages. Messages make it quick, numbers make it true.
//! - *Own records* are in this node's log first, then told in their order, and again until it is
//!   done. What was told in the last half minute is told once more where the link was lost, because a
//!   server that took over may not have it.
//! - *Loss.* A shared log that is empty, or whose number is lower than one that was seen, has lost
//!   something. Whoever meets that has it begun anew, with a record that nothing older is to be used.
//!
//! Where records are kept and how messages come is the business of a [`Channel`].

mod channel;
mod hearing;
mod tasks;
mod telling;

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex as Turns, Notify},
    time::Instant,
};

pub(crate) use self::channel::{Added, Channel, Message};
#[cfg(feature = "redis")]
pub(crate) use self::channel::{Page, Seen};
use crate::{
    clock::Clock,
    entry::{Millis, millis},
    error::StoreError,
    invalidation::Log,
    selector::Selector,
    store::counters::RemoteCounters,
};

/// For so long after a number was asked for, a node that has caught up to it is sure.
pub(crate) const SURE_FOR: Duration = Duration::from_secs(1);
/// How often the number is read.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// The same while no messages come.
const ASK_OFTEN: Duration = Duration::from_millis(100);
/// For one question.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Before records that could not be told are told again.
const TELL_AGAIN: Duration = Duration::from_millis(100);
/// What was told so lately is told again after the link was lost.
const ASSERT_AGAIN: Duration = Duration::from_secs(30);
/// So many records are told together, or fewer if they are long.
const MAX_TOGETHER: usize = 256;
const MAX_BYTES_TOGETHER: usize = 64 << 10;
/// So many wait to be told; then one takes their place that selects everything.
const MAX_WAITING: usize = 100_000;
/// So many shared numbers of what was told are remembered.
const MAX_NUMBERS: usize = 1_024;
/// So many that were told are remembered.
const MAX_TOLD: usize = 10_000;

/// See the [module](self).
pub(crate) struct Coherence {
    channel: Arc<dyn Channel>,
    log: Arc<Log>,
    clock: Arc<dyn Clock>,
    /// Tells the messages of this node from others'.
    writer: u64,
    /// All records up to this number are in the log of this node.
    caught: AtomicU64,
    /// The highest number of a record that makes unusable.
    hard: AtomicU64,
    hardened: Notify,
    /// Until when that is known to be all there is, by the cache's clock.
    sure_until: AtomicU64,
    /// Own records up to this number, in the order of this node, were told.
    told: AtomicU64,
    own: Mutex<Own>,
    catching: Turns<()>,
    changed: Notify,
    is_listening: AtomicBool,
    is_over: AtomicBool,
    over: Notify,
    said: Mutex<Option<bool>>,
    counters: Arc<RemoteCounters>,
}

#[derive(Default)]
struct Own {
    /// With their numbers in the order of this node, which is theirs here.
    waiting: VecDeque<(u64, Selector)>,
    told: VecDeque<(Instant, Selector)>,
    /// Up to which number here what was told has which shared one, latest last.
    numbers: VecDeque<(u64, u64)>,
    is_sending: bool,
    why: Option<StoreError>,
}

impl fmt::Debug for Coherence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coherence")
            .field("channel", &self.channel)
            .field("caught", &self.caught())
            .finish_non_exhaustive()
    }
}

impl Coherence {
    pub(crate) fn new(
        channel: Arc<dyn Channel>,
        log: Arc<Log>,
        clock: Arc<dyn Clock>,
        writer: u64,
        counters: Arc<RemoteCounters>,
    ) -> Arc<Self> {
        Arc::new(Self {
            channel,
            log,
            clock,
            writer,
            caught: AtomicU64::new(0),
            hard: AtomicU64::new(0),
            hardened: Notify::new(),
            sure_until: AtomicU64::new(0),
            told: AtomicU64::new(0),
            own: Mutex::default(),
            catching: Turns::default(),
            changed: Notify::new(),
            is_listening: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            over: Notify::new(),
            said: Mutex::default(),
            counters,
        })
    }

    fn now(&self) -> Millis {
        millis(self.clock.elapsed())
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn channel(&self) -> &Arc<dyn Channel> {
        &self.channel
    }

    // ---- what is known ----

    /// Up to which number every record is in the log of this node.
    pub(crate) fn caught(&self) -> u64 {
        self.caught.load(Ordering::Acquire)
    }

    /// The highest number of a record that makes something unusable, as soon as it is above `known` and every
    /// record up to it is known here. For one who waits.
    pub(crate) async fn hard_after(&self, known: u64) -> u64 {
        loop {
            let hard = self.hard.load(Ordering::Acquire);
            if known < hard && hard <= self.caught() {
                return hard;
            }
            self.hardened.notified().await;
        }
    }

    fn note_hard(&self, number: u64) {
        if self.hard.fetch_max(number, Ordering::AcqRel) < number {
            self.hardened.notify_one();
        }
    }

    /// Waits until every record up to a number is in the log of this node.
    pub(crate) async fn caught_up_to(&self, number: u64) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.caught() >= number {
                return;
            }
            changed.await;
        }
    }

    /// Until when the log of this node is known to have all there is.
    #[inline]
    pub(crate) fn sure_until(&self) -> Millis {
        self.sure_until.load(Ordering::Acquire)
    }

    pub(crate) fn is_sure(&self, now: Millis) -> bool {
        now < self.sure_until()
    }

    pub(crate) fn is_hearing(&self) -> bool {
        self.channel.is_hearing()
    }

    /// How many records wait to be told.
    pub(crate) fn waiting(&self) -> u64 {
        self.own().waiting.len() as u64
    }

    /// Knows that it has caught up with what was there at `asked`.
    fn vouch(&self, asked: Millis) {
        let until = asked.saturating_add(millis(SURE_FOR));
        self.sure_until.fetch_max(until, Ordering::AcqRel);
    }

    /// Every record up to `previous` is known here, and those of `number` are.
    fn follow(&self, previous: u64, number: u64) -> bool {
        let follows = |caught| (previous <= caught && caught < number).then_some(number);
        let acquire = Ordering::AcqRel;
        let followed = self
            .caught
            .fetch_update(acquire, Ordering::Acquire, follows);
        self.hardened.notify_one();
        if followed.is_ok() {
            self.changed.notify_waiters();
        }
        followed.is_ok() || self.caught() >= number
    }
}
