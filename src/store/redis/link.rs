//! The connections, and the tasks that keep them.
//!
//! Each connection is one client of fred's without a policy for reconnecting: whatever goes wrong
//! with it, its keeper throws it away with all that waits in it, and makes another one. fred's own
//! way waits for a write that blocks or a close that takes 5 s, and tells nobody.

use std::{
    fmt,
    future::{Future, poll_fn},
    mem,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike, ClusterInterface, KeysInterface},
    types::{
        ClusterHash, CustomCommand, Value,
        config::{Options, Server},
    },
    util::redis_keyslot as keyslot,
};
use tokio::sync::Notify;

use super::{
    connection::{Asked, Connection, Router, Slot, back_off, either, late, lock, random},
    reply::{describe, integer, text, time_of},
    settings::{COMMAND, CONNECT, Target},
    shared::Names,
};
use crate::{
    clock::Clock,
    timer::{pause, within},
};

/// A connection that lived for so long was a good one.
const STABLE: Duration = Duration::from_secs(1);
/// How often the time is asked for, and the connection tried.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// No time was read yet.
const UNKNOWN: i64 = i64::MIN;

/// All connections to one server.
pub(super) struct Connections {
    pub(super) target: Target,
    pub(super) names: Names,
    clock: Arc<dyn Clock>,
    slots: Box<[Slot]>,
    next: AtomicUsize,
    /// How many slots have a connection in use.
    up: AtomicUsize,
    is_closed: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
    /// Redis' time of day less the clock's elapsed time, in microseconds.
    offset: AtomicI64,
}

#[derive(Default)]
struct State {
    said: Said,
    why: Option<String>,
}

/// What the log has said last.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Said {
    #[default]
    Nothing,
    Up,
    Down,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("at", &self.target.at)
            .field("up", &self.up.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl Connections {
    pub(super) fn new(target: Target, clock: Arc<dyn Clock>) -> Self {
        let slots = (0..target.pool_size).map(|_| Slot::default()).collect();
        Self {
            names: Names::new(&target.namespace),
            target,
            clock,
            slots,
            next: AtomicUsize::new(0),
            up: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Notify::new(),
            offset: AtomicI64::new(UNKNOWN),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) > 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Why the last connection was lost, or could not be made.
    pub(super) fn why(&self) -> Option<String> {
        lock(&self.state).why.clone()
    }

    pub(super) fn cannot_start(&self, why: &str) {
        lock(&self.state).why = Some(why.to_owned());
    }

    pub(super) fn time(&self) -> Option<SystemTime> {
        let offset = self.offset.load(Ordering::Acquire);
        if offset == UNKNOWN {
            return None;
        }
        let elapsed = i64::try_from(self.clock.elapsed().as_micros()).ok()?;
        let micros = u64::try_from(offset.checked_add(elapsed)?).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))
    }

    /// Waits until one connection can be used, or all is over.
    pub(super) async fn until_up(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_up() || self.is_closed() {
                return;
            }
            changed.await;
        }
    }

    /// The next connection in turn, for a command of so many bytes.
    pub(super) fn pick(&self, bytes: usize) -> Option<Asked<'_>> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..self.slots.len())
            .find_map(|step| self.slots[first.wrapping_add(step) % self.slots.len()].pick(bytes))
    }

    /// Has every connection made anew; nothing is sent on the present ones any more.
    pub(super) fn renew(&self) {
        for slot in &self.slots {
            slot.renew.store(true, Ordering::Release);
            slot.wake.notify_one();
        }
    }

    /// Has every connection asked whether its answers are those to the questions.
    pub(super) fn look(&self) {
        for slot in &self.slots {
            slot.wake.notify_one();
        }
    }

    /// Has every connection made anew, but uses the present ones until then.
    pub(super) fn replace(&self) {
        for slot in &self.slots {
            slot.replace.store(true, Ordering::Release);
            slot.wake.notify_one();
        }
    }

    pub(super) async fn close(&self, limit: Duration) {
        self.is_closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
        let limit = Instant::now() + limit;
        for slot in &self.slots {
            let connection = lock(&slot.connection).clone();
            if let Some(connection) = connection {
                let left = limit.saturating_duration_since(Instant::now());
                let _ = within(left, connection.client.quit()).await;
            }
        }
    }

    fn came_up(&self, slot: &Slot, connection: Arc<Connection>) {
        let mut state = lock(&self.state);
        let before = lock(&slot.connection).replace(connection);
        if before.is_none() {
            self.up.fetch_add(1, Ordering::AcqRel);
        }
        state.why = None;
        if state.said != Said::Up && !self.is_closed() {
            state.said = Said::Up;
            let at = &self.target.at;
            tracing::info!(target: "tower_response_cache", "Redis at {at} is in use");
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Nothing is said where nobody could do anything: at the end of the runtime, or of the cache.
    fn went_down(&self, slot: &Slot) {
        if lock(&slot.connection).take().is_some() {
            self.up.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn failed(&self, why: String) {
        let mut state = lock(&self.state);
        if !self.is_up() && state.said != Said::Down && !self.is_closed() {
            state.said = Said::Down;
            tracing::warn!(
                target: "tower_response_cache",
                "Redis is not in use, the cache goes on with memory and keeps trying: {why}"
            );
        }
        state.why = Some(why);
    }

    /// Keeps one connection, for as long as the task lives.
    pub(super) async fn keep(self: Arc<Self>, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let mut failures = 0;
        while !self.is_closed() {
            slot.renew.store(false, Ordering::Release);
            slot.replace.store(false, Ordering::Release);
            let why = match self.connect().await {
                Ok((client, router, offset)) => {
                    self.offset.store(offset, Ordering::Release);
                    let began = Instant::now();
                    let why = self.hold(slot, client, router).await;
                    if began.elapsed() > STABLE {
                        failures = 0;
                    }
                    why
                }
                Err(why) => why,
            };
            self.failed(why);
            pause(back_off(failures)).await;
            failures += 1;
        }
    }

    /// A connection that was tried: it answers the right questions, and may be used. With it comes what
    /// [`offset`](Self::offset) is by its answer.
    pub(super) async fn connect(&self) -> Result<(Client, Router, i64), String> {
        let client = self.target.client();
        let mut router;
        {
            // Made to listen before there is anything to hear.
            let mut connected = pin!(client.wait_for_connect());
            let heard = poll_fn(|cx| Poll::Ready(connected.as_mut().poll(cx))).await;
            router = Router(client.connect());
            let made = async {
                match heard {
                    Poll::Ready(result) => result,
                    Poll::Pending => either(connected, router.ended()).await,
                }
            };
            match within(self.target.to_connect(), made).await {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(describe(&error, &self.target)),
                None => return Err(describe(&late(), &self.target)),
            }
        }
        let offset = self.check(&client).await?;
        Ok((client, router, offset))
    }

    /// Uses the connection until it breaks; says why it did.
    async fn hold(&self, slot: &Slot, client: Client, mut router: Router) -> String {
        let mut held = Held::new(self, slot, client);
        loop {
            let woken = async {
                slot.wake.notified().await;
                Ok(())
            };
            let ended = within(CHECK_EVERY, either(woken, router.ended())).await;
            if let Some(Err(error)) = ended {
                return describe(&error, &self.target);
            }
            if slot.renew.swap(false, Ordering::AcqRel) {
                return format!(
                    "Redis at {} answered late, or not what was asked; its connections are made anew",
                    self.target.at
                );
            }
            if slot.replace.swap(false, Ordering::AcqRel) {
                // The old one is better than none, and has some answers on their way.
                if let Ok((client, other, offset)) = self.connect().await {
                    self.offset.store(offset, Ordering::Release);
                    held = held.replaced(client);
                    let mut old = mem::replace(&mut router, other);
                    let _ = within(COMMAND, old.ended()).await;
                }
                continue;
            }
            match self.check(&held.connection.client).await {
                Ok(offset) => self.offset.store(offset, Ordering::Release),
                Err(why) => return why,
            }
            held.connection.is_good();
        }
    }

    /// Asks for the time, and for our own words: another answer would be that to another question.
    async fn check(&self, client: &Client) -> Result<i64, String> {
        let nonce = format!("{:016x}", random());
        // Each node of a cluster by itself, as each may have stopped answering by itself.
        let nodes: Vec<_> = match client.cached_cluster_state() {
            Some(cluster) => cluster
                .unique_primary_nodes()
                .into_iter()
                .map(Some)
                .collect(),
            None => vec![None],
        };
        let pipeline = client.pipeline();
        let on = |node: Option<Server>| {
            pipeline.with_options(&Options {
                timeout: Some(CONNECT),
                cluster_node: node,
                ..Options::default()
            })
        };
        let echo = CustomCommand::new_static("ECHO", ClusterHash::Random, false);
        // By the clock of one node for all who share the log.
        let where_the_log_is = ClusterHash::Custom(keyslot(&self.names.seq));
        let time = CustomCommand::new_static("TIME", where_the_log_is, false);
        let nothing = format!("{}:response:", self.target.namespace);
        let describe = |error: Error| describe(&error, &self.target);
        for node in &nodes {
            let _: () = on(node.clone())
                .custom(echo.clone(), vec![nonce.as_str()])
                .await
                .map_err(describe)?;
        }
        let _: () = on(None)
            .custom(time, Vec::<Value>::new())
            .await
            .map_err(describe)?;
        // Whether keys of ours may be read is better known now than with the first request.
        let _: () = on(None).pttl(nothing).await.map_err(describe)?;
        let before = self.clock.elapsed();
        let replies = pipeline.try_all::<Value>().await;
        let after = self.clock.elapsed();
        let mut replies = replies.into_iter();
        let mut next = || match replies.next() {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => Err(describe(error)),
            None => Err(describe(late())),
        };
        let shifted = || {
            format!(
                "what Redis at {} answers is not what was asked",
                self.target.at
            )
        };
        for _ in &nodes {
            if text(&next()?) != Some(nonce.as_bytes()) {
                return Err(shifted());
            }
        }
        let time = time_of(&next()?).ok_or_else(shifted)?;
        integer(&next()?).ok_or_else(shifted)?;
        let middle = before.saturating_add(after.saturating_sub(before) / 2);
        let middle = i64::try_from(middle.as_micros()).map_err(|_| shifted())?;
        Ok(time.saturating_sub(middle))
    }
}

/// A connection in its slot; taken out however its keeper ends.
struct Held<'a> {
    connections: &'a Connections,
    slot: &'a Slot,
    connection: Arc<Connection>,
    is_replaced: bool,
}

impl<'a> Held<'a> {
    fn new(connections: &'a Connections, slot: &'a Slot, client: Client) -> Self {
        let connection = Arc::new(Connection::new(client, connections.names.seq.clone()));
        connections.came_up(slot, connection.clone());
        Self {
            connections,
            slot,
            connection,
            is_replaced: false,
        }
    }

    fn replaced(mut self, client: Client) -> Self {
        self.is_replaced = true;
        Self::new(self.connections, self.slot, client)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.is_replaced {
            self.connections.went_down(self.slot);
        }
    }
}
