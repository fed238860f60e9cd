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

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    runtime::Handle,
    sync::{Mutex as Turns, Notify},
    time::Instant,
};

use crate::{
    clock::Clock,
    entry::{Millis, millis},
    error::StoreError,
    invalidation::Log,
    selector::Selector,
    store::{StoreFuture, StoreKey, counters::RemoteCounters, record},
    timer::{after, pause, unless, until, within},
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

/// Where the shared log is.
pub(crate) trait Channel: fmt::Debug + Send + Sync + 'static {
    /// Adds records under one number, higher than `seen` and than all before, and has every node hear
    /// of them. A log that has lost something is begun anew first; without records that is all.
    fn add(&self, writer: u64, seen: u64, records: Vec<Vec<u8>>) -> StoreFuture<'_, Added>;

    /// The present number; `None` where the log is not whole.
    fn number(&self) -> StoreFuture<'_, Option<u64>>;

    /// Records from a number on, that included, lowest first; not necessarily all of them.
    fn page(&self, from: u64) -> StoreFuture<'_, Page>;

    /// The next message. Those that are missed are no error.
    fn heard(&self) -> StoreFuture<'_, Message>;

    /// Whether messages are known to come.
    fn is_hearing(&self) -> bool;

    /// What other answers had in them.
    fn seen(&self) -> &Seen;

    /// What the lease of a key is called.
    fn lease_name(&self, key: &StoreKey<'_>) -> String;

    /// Takes a lease for so long, unless somebody has it.
    fn take_lease(&self, name: String, token: u64, life: Duration) -> StoreFuture<'_, bool>;

    /// Gives a lease back, if it is still the one with this token, and has those hear of it who wait.
    fn give_back(&self, name: String, token: u64) -> StoreFuture<'_, ()>;

    /// Told when a lease is given back; messages may be missed.
    fn given_back(&self, name: &str) -> Arc<Notify>;

    /// The time of day by which numbers are made, as far as it is known.
    fn number_time(&self) -> Option<SystemTime>;

    /// From now on connections are made with another password.
    #[cfg(feature = "redis")]
    fn set_password(&self, _password: String) {}
}

/// What answers to other questions say of the number.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    highest: AtomicU64,
    is_lost: AtomicBool,
}

impl Seen {
    /// The highest number in any answer.
    pub(crate) fn highest(&self) -> u64 {
        self.highest.load(Ordering::Acquire)
    }

    /// Takes notice of the number in an answer, where `before` was the highest when it was asked for: on
    /// several connections answers do not come in their order.
    #[cfg(feature = "redis")]
    pub(crate) fn note(&self, number: Option<u64>, before: u64) {
        match number {
            Some(number) if number >= before => {
                self.highest.fetch_max(number, Ordering::AcqRel);
            }
            _ => self.is_lost.store(true, Ordering::Release),
        }
    }
}

/// What became of records that were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Added {
    /// The number before.
    pub(crate) previous: u64,
    pub(crate) number: u64,
    /// The log was begun anew at that number.
    pub(crate) is_new: bool,
}

/// A part of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// The present number; `None` where the log is not whole.
    pub(crate) number: Option<u64>,
    pub(crate) records: Vec<(Vec<u8>, u64)>,
    /// Whether there is nothing after them.
    pub(crate) is_last: bool,
}

/// What one node tells all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) writer: u64,
    pub(crate) previous: u64,
    pub(crate) number: u64,
    pub(crate) records: Vec<Vec<u8>>,
}

/// See the [module](self).
pub(crate) struct Coherence {
    channel: Arc<dyn Channel>,
    log: Arc<Log>,
    clock: Arc<dyn Clock>,
    /// Tells the messages of this node from others'.
    writer: u64,
    /// All records up to this number are in the log of this node.
    caught: AtomicU64,
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
        followed.is_ok() || self.caught() >= number
    }

    // ---- telling ----

    /// Adds a record to the log of this node, and has it told; its number here.
    pub(crate) fn invalidate(self: &Arc<Self>, selector: &Selector) -> u64 {
        let mut own = self.own();
        if own.waiting.len() >= MAX_WAITING {
            own.waiting.clear();
            let all = Selector::all();
            let sequence = self.log.add(&all, self.now());
            own.waiting.push_back((sequence, all));
            tracing::warn!(
                target: "tower_response_cache",
                "{MAX_WAITING} invalidations wait for the remote store: everything is invalidated in their place"
            );
        }
        // Under the lock: they are told in the order of their numbers.
        let sequence = self.log.add(selector, self.now());
        own.waiting.push_back((sequence, selector.clone()));
        drop(own);
        self.start();
        sequence
    }

    pub(crate) fn is_told(&self, sequence: u64) -> bool {
        self.told.load(Ordering::Acquire) >= sequence
    }

    /// Waits until a record of this node is in the shared log.
    pub(crate) async fn told(self: &Arc<Self>, sequence: u64) -> Result<(), StoreError> {
        self.start();
        let end = after(ANSWER_WITHIN);
        let told = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.is_told(sequence) {
                    return Ok(());
                }
                if let Some(why) = self.own().why.clone() {
                    return Err(why);
                }
                changed.await;
            }
        };
        let late = || {
            StoreError::timeout(
                "the other nodes were not told within 500 ms; they will be as soon as that is possible",
            )
        };
        until(end, told).await.unwrap_or_else(|| Err(late()))
    }

    /// The shared number of a record of this node, as soon as it has one.
    pub(crate) async fn number_of(&self, sequence: u64) -> u64 {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let own = self.own();
                let at = own.numbers.partition_point(|(last, _)| *last < sequence);
                // Of one that is forgotten, too low a number: then it looks older than it is.
                if let Some((_, number)) = own.numbers.get(at) {
                    return if at == 0 && own.numbers.len() == MAX_NUMBERS {
                        0
                    } else {
                        *number
                    };
                }
            }
            changed.await;
        }
    }

    /// Sends what waits, in its order, until nothing does.
    async fn tell(&self, teller: &mut Teller) {
        loop {
            let Some(batch) = self.batch(teller) else {
                return;
            };
            let seen = self.log.sequence().shared;
            let records = batch.iter().map(|(_, selector)| record::encode(selector));
            let add = self.channel.add(self.writer, seen, records.collect());
            let error = match within(ANSWER_WITHIN, add).await {
                Some(Ok(added)) => {
                    self.was_told(&batch, added);
                    continue;
                }
                Some(Err(error)) => error,
                None => StoreError::timeout("no answer within 500 ms"),
            };
            tracing::debug!(target: "tower_response_cache", "invalidations wait: {error}");
            self.own().why = Some(error);
            self.changed.notify_waiters();
            if !pause(TELL_AGAIN).await {
                return;
            }
        }
    }

    /// What is to be told next; it stays where it is until that is done.
    fn batch(&self, teller: &mut Teller) -> Option<Vec<(u64, Selector)>> {
        let mut own = self.own();
        if own.waiting.is_empty() {
            // Under the lock: who has something to tell after this starts another one.
            own.is_sending = false;
            teller.is_counted = false;
            return None;
        }
        let mut bytes = 0;
        let fits = |(_, selector): &&(u64, Selector)| {
            bytes += record::encode(selector).len();
            bytes <= MAX_BYTES_TOGETHER
        };
        let first = own.waiting.iter().take(1);
        let more = own.waiting.iter().take(MAX_TOGETHER).skip(1);
        Some(first.chain(more.take_while(fits)).cloned().collect())
    }

    fn was_told(&self, batch: &[(u64, Selector)], added: Added) {
        let last = batch.iter().map(|(sequence, _)| *sequence).max();
        let last = last.unwrap_or_default();
        if added.is_new {
            self.has_begun_anew(added.number);
        }
        let selectors = batch.iter().map(|(_, selector)| selector);
        self.log.settle(selectors, last, added.number);
        self.follow(added.previous, added.number);
        self.counters.told.add(batch.len() as u64);
        let mut own = self.own();
        let now = Instant::now();
        for (sequence, selector) in batch {
            // They may have been given up in between, for one that selects everything.
            if own
                .waiting
                .front()
                .is_some_and(|front| front.0 == *sequence)
            {
                own.waiting.pop_front();
            }
            own.told.push_back((now, selector.clone()));
        }
        own.numbers.push_back((last, added.number));
        if own.numbers.len() > MAX_NUMBERS {
            own.numbers.pop_front();
        }
        let surplus = own.told.len().saturating_sub(MAX_TOLD);
        own.told.drain(..surplus);
        own.why = None;
        drop(own);
        self.told.fetch_max(last, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Tells again what was told lately: who took over may not have it.
    fn assert_again(&self) {
        let mut own = self.own();
        let told = std::mem::take(&mut own.told);
        let lately = told.into_iter().rev();
        let lately = lately.take_while(|(at, _)| at.elapsed() < ASSERT_AGAIN);
        // Their numbers here are those of records that were told: nothing new is known by them.
        for (_, selector) in lately {
            own.waiting.push_front((0, selector));
        }
    }

    // ---- hearing ----

    fn take(&self, message: &Message) {
        let Message {
            writer,
            previous,
            number,
            ref records,
        } = *message;
        if writer != self.writer {
            self.counters.heard.add(records.len() as u64);
            for record in records {
                self.hear(record, number);
            }
        }
        self.log.saw(number);
        let caught = self.caught();
        self.follow(previous, number);
        if (previous + 1..number).contains(&caught) {
            // The number before is not the one that was known: who took over has lost some.
            self.assert_again();
        }
    }

    fn hear(&self, record: &[u8], number: u64) {
        // The number is the time at which it was made, in microseconds, or little more.
        let made = Duration::from_micros(number);
        let time = self
            .channel
            .number_time()
            .unwrap_or_else(|| self.clock.wall());
        let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ago = time.saturating_sub(made);
        let at = self.now().saturating_sub(millis(ago));
        self.log.hear(&record::decode(record), number, at);
    }

    fn has_begun_anew(&self, number: u64) {
        self.counters.begun_anew.raise();
        self.hear(&record::EVERYTHING, number);
        self.channel.seen().is_lost.store(false, Ordering::Release);
        tracing::warn!(
            target: "tower_response_cache",
            "the invalidation log in the remote store was empty or had lost something: nothing that is older is used any more"
        );
    }

    /// What a look-up has brought is to be judged by all that is known when it was asked for: makes
    /// sure that it is.
    ///
    /// # Errors
    ///
    /// When the log could not be read.
    pub(crate) async fn keep_up(&self, asked: Millis) -> Result<(), StoreError> {
        let seen = self.channel.seen();
        self.log.saw(seen.highest());
        let is_lost = seen.is_lost.load(Ordering::Acquire);
        if is_lost || self.caught() < self.log.sequence().shared {
            return self.catch_up().await;
        }
        self.vouch(asked);
        Ok(())
    }

    /// Reads what is missing. One at a time; who waited has often nothing left to do.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        let _turn = self.catching.lock().await;
        let asked = self.now();
        let was_sure = self.is_sure(asked);
        let before = self.caught();
        let seen = self.log.sequence().shared;
        let read = match self.channel.number().await? {
            Some(number) if number >= seen && number <= before => Some(number),
            Some(number) if number >= seen => {
                self.counters.caught_up.raise();
                self.read_on(before, number).await?
            }
            _ => None,
        };
        let number = match read {
            Some(number) => number,
            None => self.begin_anew(seen, before).await?,
        };
        self.channel.seen().is_lost.store(false, Ordering::Release);
        self.log.saw(number);
        self.caught.fetch_max(number, Ordering::AcqRel);
        if !was_sure && before > 0 {
            self.assert_again();
        }
        self.vouch(asked);
        Ok(())
    }

    /// Has a log that has lost something begun anew, unless somebody else was faster; the number to which
    /// this node has then caught up.
    async fn begin_anew(&self, seen: u64, before: u64) -> Result<u64, StoreError> {
        let added = self.channel.add(self.writer, seen, Vec::new()).await?;
        if added.is_new {
            self.has_begun_anew(added.number);
            self.assert_again();
            return Ok(added.number);
        }
        let read = self.read_on(before, added.number).await?;
        read.ok_or_else(|| StoreError::new("the shared log was lost while it was read"))
    }

    /// Reads all records after a number; that to which this node has then caught up, or `None` where the
    /// log is not whole.
    async fn read_on(&self, after: u64, number: u64) -> Result<Option<u64>, StoreError> {
        let mut from = after + 1;
        loop {
            let page = self.channel.page(from).await?;
            if page.number.is_none() {
                return Ok(None);
            }
            for (record, number) in &page.records {
                self.hear(record, *number);
                from = from.max(*number);
            }
            if page.is_last {
                return Ok(Some(number.max(from - 1)));
            }
        }
    }

    // ---- the tasks ----

    /// Lets somebody listen and tell, if nobody does and there is a runtime.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.is_over.load(Ordering::Acquire) {
            return;
        }
        let is_idle = {
            let own = self.own();
            own.is_sending || own.waiting.is_empty()
        };
        let is_listening = self.is_listening.load(Ordering::Acquire);
        if is_idle && is_listening {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.is_listening.swap(true, Ordering::AcqRel) {
            let listener = Listener(self.clone());
            runtime.spawn(async move {
                unless(listener.0.ended(), listener.0.listen()).await;
            });
        }
        let mut own = self.own();
        if !own.is_sending && !own.waiting.is_empty() {
            own.is_sending = true;
            let mut teller = Teller {
                coherence: self.clone(),
                is_counted: true,
            };
            runtime.spawn(async move {
                let coherence = teller.coherence.clone();
                unless(coherence.ended(), coherence.tell(&mut teller)).await;
            });
        }
    }

    async fn listen(&self) {
        let mut next = Instant::now();
        let mut is_there = true;
        while is_there {
            if Instant::now() >= next {
                let caught_up = within(ANSWER_WITHIN, self.catch_up()).await;
                self.say();
                let often = !matches!(caught_up, Some(Ok(()))) || !self.channel.is_hearing();
                next = Instant::now() + if often { ASK_OFTEN } else { ASK_EVERY };
            }
            match until(next, self.channel.heard()).await {
                Some(Ok(message)) => {
                    self.take(&message);
                    if self.caught() < self.log.sequence().shared {
                        next = Instant::now();
                    }
                }
                Some(Err(_)) => is_there = pause(ASK_OFTEN).await,
                None => {}
            }
        }
    }

    /// One line for each change.
    fn say(&self) {
        let is_sure = self.is_sure(self.now());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == Some(is_sure) || (said.is_none() && !is_sure) {
            return;
        }
        let is_first = said.replace(is_sure).is_none();
        match is_sure {
            true if is_first => {}
            true => {
                tracing::info!(target: "tower_response_cache", "invalidations of other nodes are heard of again");
            }
            false => tracing::warn!(
                target: "tower_response_cache",
                "invalidations of other nodes may be missed: memory answers for a short time only until the link is back"
            ),
        }
    }

    async fn ended(&self) {
        let mut over = std::pin::pin!(self.over.notified());
        over.as_mut().enable();
        if !self.is_over.load(Ordering::Acquire) {
            over.await;
        }
    }

    /// Tells what waits, as far as that can be done until then, and ends what runs.
    pub(crate) async fn close(self: &Arc<Self>, end: Instant) {
        self.start();
        let all_told = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.own().waiting.is_empty() {
                    return;
                }
                changed.await;
            }
        };
        if until(end, all_told).await.is_none() {
            let left = self.waiting();
            tracing::warn!(target: "tower_response_cache", "closed with {left} invalidations that other nodes were not told of");
        }
        self.end();
    }

    /// Nobody is left.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.over.notify_waiters();
    }
}

/// The task that listens; when it ends with its runtime, another may.
struct Listener(Arc<Coherence>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.is_listening.store(false, Ordering::Release);
    }
}

/// The task that tells; however it ends, its place is free again.
struct Teller {
    coherence: Arc<Coherence>,
    is_counted: bool,
}

impl Drop for Teller {
    fn drop(&mut self) {
        if self.is_counted {
            self.coherence.own().is_sending = false;
        }
    }
}
