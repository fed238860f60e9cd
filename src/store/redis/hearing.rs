//! The connection on which messages come: a client of its own, as a refused SUBSCRIBE shifts every
//! later answer of its connection.
//!
//! That it was accepted is proven by words to oneself, once a second, on a channel of one's own. A
//! connection on which they do not come back is thrown away, and another one is made.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fred::{
    clients::Client,
    interfaces::{EventInterface, PubsubInterface},
    types::Value,
};
use tokio::{
    sync::{Mutex as Turns, Notify, broadcast::error::RecvError, mpsc},
    time::Instant,
};

use super::{
    connection::{Router, back_off, either, lock, random},
    link::Connections,
    reply::text,
    shared::message,
};
use crate::{
    error::StoreError,
    store::coherence::Message,
    timer::{pause, until, within},
};

/// What precedes the name of a lease that was given back.
pub(super) const GIVEN_BACK: &str = "lease ";
/// How many messages may wait to be heard; who misses some reads the log.
const MAX_WAITING: usize = 1_024;
/// How often we speak to ourselves.
const PROVE_EVERY: Duration = Duration::from_secs(1);
/// How long our words may take.
const BACK_WITHIN: Duration = Duration::from_millis(900);
/// For SUBSCRIBE.
const SUBSCRIBE: Duration = Duration::from_millis(500);

/// What has come.
pub(super) struct Hearing {
    sender: mpsc::Sender<Message>,
    receiver: Turns<mpsc::Receiver<Message>>,
    is_proven: AtomicBool,
    /// Those who wait for leases, by their names.
    leases: Mutex<HashMap<String, Weak<Notify>>>,
}

impl Hearing {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        Self {
            sender,
            receiver: Turns::new(receiver),
            is_proven: AtomicBool::new(false),
            leases: Mutex::default(),
        }
    }

    /// Told when the lease of this name is given back.
    pub(super) fn given_back(&self, name: &str) -> Arc<Notify> {
        let mut leases = lock(&self.leases);
        if let Some(waiting) = leases.get(name).and_then(Weak::upgrade) {
            return waiting;
        }
        if leases.len() >= MAX_WAITING {
            leases.retain(|_, waiting| waiting.strong_count() > 0);
        }
        let waiting = Arc::new(Notify::new());
        leases.insert(name.to_owned(), Arc::downgrade(&waiting));
        waiting
    }

    fn tell_given_back(&self, name: &str) {
        let waiting = lock(&self.leases).remove(name);
        if let Some(waiting) = waiting.and_then(|waiting| waiting.upgrade()) {
            waiting.notify_waiters();
        }
    }

    pub(super) fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Acquire)
    }

    pub(super) async fn next(&self) -> Result<Message, StoreError> {
        let mut receiver = self.receiver.lock().await;
        let message = receiver.recv().await;
        message.ok_or_else(|| StoreError::new("no messages come any more"))
    }

    /// Keeps a connection on which messages come, for as long as the task lives.
    pub(super) async fn keep(self: Arc<Self>, connections: Arc<Connections>) {
        let mut failures = 0;
        while !connections.is_closed() {
            // Nothing to hear where nobody answers.
            connections.until_up().await;
            // What time it is, is told by those that carry what has a time.
            if let Ok((client, router, _)) = connections.connect().await {
                let _unproven = Unproven(&self);
                if self.hold(&connections, client, router).await {
                    failures = 0;
                }
            }
            pause(back_off(failures)).await;
            failures += 1;
        }
    }

    /// Hears until the connection breaks; says whether it ever worked.
    async fn hold(&self, connections: &Connections, client: Client, mut router: Router) -> bool {
        let channel = connections.names.channel.as_str();
        let mine = format!("{channel}:{:016x}", random());
        let mut incoming = client.message_rx();
        let subscribed = client.subscribe(vec![channel, mine.as_str()]);
        if !matches!(within(SUBSCRIBE, subscribed).await, Some(Ok(()))) {
            return false;
        }
        let mut words = 0_u64;
        let mut is_back = true;
        let mut due = Instant::now();
        loop {
            if Instant::now() >= due {
                if !is_back {
                    return words > 1;
                }
                words += 1;
                let said = say(connections, &mine, words);
                let is_said = matches!(within(BACK_WITHIN, said).await, Some(true));
                if !is_said {
                    // Not this connection's fault, but neither is anything proven.
                    self.is_proven.store(false, Ordering::Release);
                }
                is_back = !is_said;
                due = Instant::now()
                    + if self.is_proven() {
                        PROVE_EVERY
                    } else {
                        BACK_WITHIN
                    };
            }
            let incoming = either(async { Some(incoming.recv().await) }, async {
                let _ = router.ended().await;
                None
            });
            let came = match until(due, incoming).await {
                Some(Some(Ok(came))) => came,
                // Who misses some reads the log.
                Some(Some(Err(RecvError::Lagged(_)))) => continue,
                Some(Some(Err(RecvError::Closed)) | None) => return words > 1,
                None => continue,
            };
            if *came.channel == *mine {
                if text(&came.value) == Some(words.to_string().as_bytes()) {
                    is_back = true;
                    self.is_proven.store(true, Ordering::Release);
                }
            } else if let Some(name) = text(&came.value).and_then(lease) {
                self.tell_given_back(name);
            } else if let Some(message) = text(&came.value).and_then(message) {
                let _ = self.sender.try_send(message);
            }
        }
    }
}

/// The name of a lease that was given back.
fn lease(payload: &[u8]) -> Option<&str> {
    let name = payload.strip_prefix(GIVEN_BACK.as_bytes())?;
    std::str::from_utf8(name).ok()
}

async fn say(connections: &Connections, channel: &str, words: u64) -> bool {
    let Some(asked) = connections.pick(0) else {
        return false;
    };
    let said: Result<Value, _> = asked
        .connection
        .client
        .publish(channel, words.to_string())
        .await;
    if said.is_ok() {
        asked.answered();
    }
    said.is_ok()
}

/// However a connection ends, nothing is proven then.
struct Unproven<'a>(&'a Hearing);

impl Drop for Unproven<'_> {
    fn drop(&mut self) {
        self.0.is_proven.store(false, Ordering::Release);
    }
}
