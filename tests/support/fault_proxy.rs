//! A way to Redis on which things go wrong, as a test wishes.
//!
//! It runs in a thread and a runtime of its own, so that its time passes while a test's is paused.
//! What a client sends goes through as it is; what Redis replies is taken apart into whole
//! replies, so that they can be swapped, left out and repeated. The same seed does the same.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

/// What happens on the way. Probabilities are for each reply.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Fault {
    /// Everything arrives.
    #[default]
    None,
    /// Each reply is on its way for so long; those behind it are not sooner.
    Delay(Range<Duration>),
    /// Each message of a channel is on its way for so long; replies are not.
    DelayMessages(Duration),
    /// The connections of this moment end; later ones live.
    Cut,
    /// A connection ends within a reply, with this probability.
    RandomCuts(f64),
    /// Connections are accepted and stay, but nothing arrives, until something else is set.
    BlackHole,
    /// New connections are closed at once; those that are there stay as they are.
    Refuse,
    /// A reply changes places with the next one. A last one goes on after a few milliseconds.
    SwapReplies(f64),
    /// A reply is left out.
    DropReply(f64),
    /// Before a reply comes a copy of an earlier one, or of itself where there is none.
    InsertReply(f64),
}

/// What the proxy has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    pub refused: u64,
    /// By [`Fault::Cut`] and [`Fault::RandomCuts`].
    pub cut: u64,
    /// Whole replies that came from Redis.
    pub replies: u64,
    pub delayed: u64,
    pub swapped: u64,
    pub dropped: u64,
    pub inserted: u64,
}

impl Counts {
    /// How many replies were not where they belong.
    pub fn mangled(&self) -> u64 {
        self.swapped + self.dropped + self.inserted
    }
}

/// How long a reply is held for the next one to swap with.
const HOLD: Duration = Duration::from_millis(3);
/// What is remembered of a connection to be inserted later.
const MEMORY: usize = 8;
const LONGEST_REMEMBERED: usize = 256 << 10;
/// More than a client's handshake takes: the version, the password, the database, the time.
const HANDSHAKE: u64 = 16;

/// A proxy in front of a Redis; dropping it ends it and its connections.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    seed: u64,
    state: watch::Sender<State>,
    spared: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone, Default)]
struct State {
    fault: Fault,
    /// Connections with a smaller number have been cut.
    cut_before: u64,
}

impl FaultProxy {
    /// On a free port, in front of that address, with nothing going wrong yet.
    pub fn start(to: SocketAddr) -> Self {
        Self::start_with_seed(to, 1)
    }

    /// The same with other chances.
    pub fn start_with_seed(to: SocketAddr, seed: u64) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.expect("there are free ports");
        listener.set_nonblocking(true).expect("a listener");
        let addr = listener.local_addr().expect("bound above");
        let shared = Arc::new(Shared {
            to,
            seed,
            state: watch::Sender::default(),
            spared: AtomicU64::new(HANDSHAKE),
            counts: Mutex::default(),
        });
        let (end, ended) = oneshot::channel();
        let sharing = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("not blocking");
                tokio::select! {
                    () = accept(listener, sharing) => {}
                    _ = ended => {}
                }
            });
        });
        Self {
            addr,
            shared,
            end: Some(end),
            thread: Some(thread),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// From now on this goes wrong, and what was set before does not.
    pub fn set(&self, fault: Fault) {
        let before = self.counts().connections;
        self.shared.state.send_modify(|state| {
            if fault == Fault::Cut {
                state.cut_before = before;
            }
            state.fault = fault;
        });
    }

    /// So many replies at the start of each connection are not mangled; 16 until this is called.
    pub fn spare(&self, replies: u64) {
        self.shared.spared.store(replies, Ordering::SeqCst);
    }

    pub fn counts(&self) -> Counts {
        *self.shared.counts.lock().expect("nobody panics with it")
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.counts.lock().expect("nobody panics with it"));
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // An error is of one connection, or of too many files; the next may be better.
        let Ok((client, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        if shared.state.borrow().fault == Fault::Refuse {
            shared.count(|counts| counts.refused += 1);
            continue;
        }
        let mut number = 0;
        shared.count(|counts| {
            number = counts.connections;
            counts.connections += 1;
        });
        tokio::spawn(connection(number, client, Arc::clone(&shared)));
    }
}

/// One connection to its end: by either side, or by a fault.
async fn connection(number: u64, client: TcpStream, shared: Arc<Shared>) {
    let mut state = shared.state.subscribe();
    // Nobody behind it is a connection that ends, as soon as anything arrives at all.
    let server = TcpStream::connect(shared.to);
    let Some(Ok(server)) = unless_cut(&shared, &mut state, number, server).await else {
        return;
    };
    // Without it, each of many small replies waits 40 ms for an acknowledgement of the one before.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let (to_writer, from_reader) = mpsc::unbounded_channel();
    let replies = Replies {
        shared: Arc::clone(&shared),
        random: Random(shared.seed.wrapping_add(number)),
        seen: 0,
        earlier: VecDeque::new(),
        held: None,
        to_writer,
        last_due: Instant::now(),
    };
    let up = requests(client_reads, server_writes, shared.state.subscribe());
    let down = replies.run(server_reads);
    let writer = write(client_writes, from_reader, shared.state.subscribe());
    let flow = async {
        // The replies that are on their way still arrive when Redis has closed.
        tokio::select! {
            () = up => {}
            () = async { tokio::join!(down, writer); } => {}
        }
    };
    unless_cut(&shared, &mut state, number, flow).await;
}

async fn unless_cut<T>(
    shared: &Shared,
    state: &mut watch::Receiver<State>,
    number: u64,
    flow: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        output = flow => Some(output),
        _ = state.wait_for(|state| number < state.cut_before) => {
            shared.count(|counts| counts.cut += 1);
            None
        }
    }
}

/// Returns when something may arrive; `false` at the end of the proxy.
async fn passage(state: &mut watch::Receiver<State>) -> bool {
    let open = state.wait_for(|state| state.fault != Fault::BlackHole);
    open.await.is_ok()
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(1..) = from.peek(&mut [0]).await {
        // Looked at after there is something, so that nothing slips through.
        if !passage(&mut state).await {
            return;
        }
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Bytes on their way to the client.
struct OnTheWay {
    due: Instant,
    bytes: Bytes,
    /// And then the connection ends.
    is_last: bool,
}

async fn write(
    mut to: OwnedWriteHalf,
    mut from: mpsc::UnboundedReceiver<OnTheWay>,
    mut state: watch::Receiver<State>,
) {
    while let Some(next) = from.recv().await {
        sleep_until(next.due).await;
        if !passage(&mut state).await || to.write_all(&next.bytes).await.is_err() || next.is_last {
            return;
        }
    }
}

/// The replies on one connection.
struct Replies {
    shared: Arc<Shared>,
    random: Random,
    seen: u64,
    earlier: VecDeque<Bytes>,
    /// Waits for the next one, to let it pass first.
    held: Option<(Bytes, Instant)>,
    to_writer: mpsc::UnboundedSender<OnTheWay>,
    last_due: Instant,
}

impl Replies {
    async fn run(mut self, mut from: OwnedReadHalf) {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            while let Some(length) = whole_reply(&buffer) {
                let reply = buffer.split_to(length).freeze();
                if self.pass(reply).is_none() {
                    return;
                }
            }
            let read = match self.held.as_ref().map(|(_, until)| *until) {
                None => from.read_buf(&mut buffer).await,
                Some(until) => tokio::select! {
                    biased;
                    read = from.read_buf(&mut buffer) => read,
                    () = sleep_until(until) => {
                        self.let_go();
                        continue;
                    }
                },
            };
            if !matches!(read, Ok(1..)) {
                self.let_go();
                return;
            }
        }
    }

    /// Deals with a reply; `None` when the connection ends here.
    fn pass(&mut self, reply: Bytes) -> Option<()> {
        let shared = Arc::clone(&self.shared);
        let fault = shared.state.borrow().fault.clone();
        shared.count(|counts| counts.replies += 1);
        self.seen += 1;
        // A message is no reply, and nothing waits for it.
        let may_mangle = self.seen > shared.spared.load(Ordering::SeqCst) && reply[0] != b'>';
        let held = if may_mangle { self.held.take() } else { None };
        if let Some((held, _)) = held {
            self.send(reply.clone());
            self.send(held);
            self.remember(reply);
            shared.count(|counts| counts.swapped += 1);
            return Some(());
        }
        match fault {
            Fault::RandomCuts(chance) if may_mangle && self.random.is(chance) => {
                let length = self.random.below(reply.len());
                shared.count(|counts| counts.cut += 1);
                let _ = self.to_writer.send(OnTheWay {
                    due: self.last_due,
                    bytes: reply.slice(..length),
                    is_last: true,
                });
                return None;
            }
            Fault::Delay(range) => {
                let width = range.end.saturating_sub(range.start);
                let after = range.start + width.mul_f64(self.random.part());
                self.last_due = self.last_due.max(Instant::now() + after);
                shared.count(|counts| counts.delayed += 1);
            }
            Fault::DelayMessages(after) if reply[0] == b'>' => {
                self.last_due = self.last_due.max(Instant::now() + after);
                shared.count(|counts| counts.delayed += 1);
            }
            Fault::SwapReplies(chance) if may_mangle && self.random.is(chance) => {
                self.held = Some((reply, Instant::now() + HOLD));
                return Some(());
            }
            Fault::DropReply(chance) if may_mangle && self.random.is(chance) => {
                self.remember(reply);
                shared.count(|counts| counts.dropped += 1);
                return Some(());
            }
            Fault::InsertReply(chance) if may_mangle && self.random.is(chance) => {
                let at = self.random.below(self.earlier.len());
                let copy = self.earlier.get(at).unwrap_or(&reply).clone();
                self.send(copy);
                shared.count(|counts| counts.inserted += 1);
            }
            _ => {}
        }
        self.send(reply.clone());
        if may_mangle {
            self.remember(reply);
        }
        Some(())
    }

    fn let_go(&mut self) {
        if let Some((held, _)) = self.held.take() {
            self.send(held.clone());
            self.remember(held);
        }
    }

    fn send(&self, bytes: Bytes) {
        // Refused when the client has gone, which ends this as well.
        let _ = self.to_writer.send(OnTheWay {
            due: self.last_due,
            bytes,
            is_last: false,
        });
    }

    fn remember(&mut self, reply: Bytes) {
        if reply.len() <= LONGEST_REMEMBERED {
            self.earlier.truncate(MEMORY - 1);
            self.earlier.push_front(reply);
        }
    }
}

/// The length of the first reply, if all of it is there; of RESP2 or RESP3. What is neither goes
/// through as it comes.
pub fn whole_reply(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut missing = 1_usize;
    while missing > 0 {
        let rest = bytes.get(at..)?;
        let line = rest.iter().position(|byte| *byte == b'\n')?;
        at += line + 1;
        missing -= 1;
        let number = rest
            .get(1..line)
            .and_then(|text| std::str::from_utf8(text).ok());
        let number = number.and_then(|number| number.trim_end().parse::<usize>().ok());
        match (rest[0], number) {
            (b'$' | b'!' | b'=', Some(length)) => at += length + 2,
            (b'*' | b'~' | b'>', Some(parts)) => missing += parts,
            (b'%', Some(pairs)) => missing += 2 * pairs,
            // Attributes stand before what they are about.
            (b'|', Some(pairs)) => missing += 2 * pairs + 1,
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}

/// Chances that are the same in each run.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// The next of SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    fn part(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).expect("32 bits")) / (f64::from(u32::MAX) + 1.0)
    }

    fn is(&mut self, chance: f64) -> bool {
        self.part() < chance
    }

    /// Below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("64 bits").max(1);
        usize::try_from(self.next() % end).expect("smaller than a usize")
    }
}
