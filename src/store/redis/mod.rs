//! Redis or Valkey as a remote store, through `fred`; only the files in here know it.
//!
//! What stands here is how a [`Store`] is told in commands: which key, which command, which
//! answers are possible. The connections are kept in `link.rs`.

mod connection;
mod hearing;
mod lane;
mod link;
mod reply;
mod settings;
mod shared;
#[cfg(test)]
mod tests;
mod url;
mod walking;

use std::{
    fmt::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use fred::{
    interfaces::KeysInterface,
    types::{Expiration, Key, Value},
};
use md5::{Digest, Md5};
use smallvec::SmallVec;
use tokio::{runtime::Handle, task::JoinHandle};

pub(crate) use self::settings::Given;
use self::{
    connection::Asked,
    hearing::Hearing,
    link::Connections,
    reply::{bytes, integer, is_answer, is_read_only, store_error, text},
    settings::Target,
    shared::number_or_none,
};
use crate::{
    clock::Clock,
    error::{BuildError, StoreError},
    store::{Link, Store, StoreFuture, StoreKey, Stored, coherence::Seen},
    timer::{self, within},
};

/// How long `connect` waits.
const CONNECT: Duration = Duration::from_millis(500);
/// How long `close` waits for what is on its way.
const CLOSE: Duration = Duration::from_millis(200);
/// Connections are not made anew more often than this.
const RENEW_EVERY: Duration = Duration::from_millis(250);
/// A server that has become a replica may stay one.
const REPLACE_EVERY: Duration = Duration::from_secs(10);
/// The same where sentinels will have made another one the primary.
const ASK_SENTINELS_EVERY: Duration = Duration::from_secs(1);
/// What of a path is readable in a key.
const MOST_PATH: usize = 200;

const NO_TIMERS: &str =
    "Redis needs a tokio runtime with timers; make one with #[tokio::main] or enable_all()";

/// What names a key.
pub(crate) type DigestFn = fn(&[u8]) -> [u8; 16];

/// One Redis server.
pub(crate) struct RedisStore {
    connections: Arc<Connections>,
    keepers: Mutex<Vec<JoinHandle<()>>>,
    renewed: Mutex<Renewed>,
    hearing: Arc<Hearing>,
    listener: Mutex<Option<JoinHandle<()>>>,
    /// What look-ups said of the number of the shared log.
    seen: Seen,
    digest: DigestFn,
}

/// When connections were made anew for the last time.
#[derive(Default)]
struct Renewed {
    by_force: Option<Instant>,
    for_writing: Option<Instant>,
    /// When they were looked at because of a strange answer.
    by_doubt: Option<Instant>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Checks the settings; nothing else happens before the first use.
    pub(crate) fn new(settings: Given, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let target = Target::new(settings)?;
        Ok(Self {
            connections: Arc::new(Connections::new(target, clock)),
            keepers: Mutex::default(),
            renewed: Mutex::default(),
            hearing: Arc::new(Hearing::new()),
            listener: Mutex::default(),
            seen: Seen::default(),
            digest: |bytes| Md5::digest(bytes).into(),
        })
    }

    /// Another way to name keys, so that a test can let names collide.
    pub(crate) fn with_digest(mut self, digest: DigestFn) -> Self {
        self.digest = digest;
        self
    }

    /// `{namespace}:{version}:{kind}:{path or name}:{digest}`, without braces, so that no two keys are
    /// bound to one slot.
    fn name(&self, key: &StoreKey<'_>) -> String {
        let namespace = &self.connections.target.namespace;
        let mut name = String::with_capacity(namespace.len() + key.path().len().min(256) + 112);
        name.push_str(namespace);
        if let Some(version) = key.version() {
            name.push(':');
            name.push_str(version);
        }
        name.push(':');
        name.push_str(key.kind().as_str());
        name.push(':');
        push_path(&mut name, key.path());
        name.push(':');
        let version = key.version().map_or(&[][..], str::as_bytes);
        // The length tells where the version ends; one more than that, where there is one.
        let length = key.version().map_or(0, |version| version.len() as u64 + 1);
        let mut named = SmallVec::<[u8; 256]>::new();
        named.extend_from_slice(&length.to_le_bytes());
        named.extend_from_slice(version);
        named.extend_from_slice(key.bytes());
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in (self.digest)(&named) {
            for digit in [byte >> 4, byte & 15] {
                name.push(char::from(DIGITS[usize::from(digit)]));
            }
        }
        name
    }

    /// Lets the connections be made, if nobody does it now.
    fn start(&self) {
        if self.connections.is_closed() {
            return;
        }
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        if keepers.len() == self.connections.len()
            && keepers.iter().all(|keeper| !keeper.is_finished())
        {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !timer::is_there() {
            self.connections.cannot_start(NO_TIMERS);
            return;
        }
        for (index, keeper) in keepers.iter_mut().enumerate() {
            if keeper.is_finished() {
                *keeper = runtime.spawn(self.connections.clone().keep(index));
            }
        }
        for index in keepers.len()..self.connections.len() {
            keepers.push(runtime.spawn(self.connections.clone().keep(index)));
        }
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if listener.as_ref().is_none_or(JoinHandle::is_finished) {
            let listen = self.hearing.clone().keep(self.connections.clone());
            *listener = Some(runtime.spawn(listen));
        }
    }

    fn pick(&self, bytes: usize) -> Result<Asked<'_>, StoreError> {
        if self.connections.is_closed() {
            return Err(StoreError::new("the store was closed"));
        }
        match self.connections.pick(bytes) {
            Some(asked) => Ok(asked),
            None if self.connections.is_up() => {
                Err(StoreError::timeout("too much waits for Redis already"))
            }
            None => {
                self.start();
                let why = self.connections.why();
                Err(StoreError::new(why.unwrap_or_else(not_yet)))
            }
        }
    }

    /// Whether it is time again.
    fn is_due(&self, which: fn(&mut Renewed) -> &mut Option<Instant>, every: Duration) -> bool {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = which(&mut renewed);
        if last.is_some_and(|last| last.elapsed() < every) {
            return false;
        }
        *last = Some(Instant::now());
        true
    }

    async fn read(&self, name: Key, limit: usize) -> Result<Option<Stored>, StoreError> {
        let asked = self.pick(0)?;
        let before = self.seen.highest();
        let (life, frame, number) = asked.connection.lanes.read(name, limit).await;
        let is_answered =
            |reply: &Result<Value, _>| reply.as_ref().map_or_else(is_answer, |_| true);
        if is_answered(&life) && is_answered(&frame) && is_answered(&number) {
            asked.answered();
        }
        let (life, frame, number) = match (life, frame, number) {
            (Ok(life), Ok(frame), Ok(number)) => (life, frame, number),
            // The last first: a connection that breaks leaves the others merely unanswered. But what
            // is no frame is one answer of three.
            (_, Err(error), Ok(_)) | (_, _, Err(error)) | (Err(error), ..) => {
                return Err(store_error(&error));
            }
        };
        self.seen.note(number_or_none(&number)?, before);
        let life = integer(&life).ok_or_else(|| mismatched("PTTL"))?;
        let frame = bytes(frame).ok_or_else(|| mismatched("GETRANGE"))?;
        Ok(match u64::try_from(life) {
            Ok(life) => Some(Stored::new(frame).remaining(Duration::from_millis(life))),
            Err(_) if life == -1 => Some(Stored::new(frame)),
            Err(_) if life == -2 => None,
            Err(_) => return Err(mismatched("PTTL")),
        })
    }

    async fn write(
        &self,
        key: &StoreKey<'_>,
        frame: Bytes,
        until: SystemTime,
    ) -> Result<(), StoreError> {
        let until = until
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .filter(|millis| *millis > 0)
            .ok_or_else(|| StoreError::refused("an end that no clock shows"))?;
        let asked = self.pick(frame.len())?;
        let client = &asked.connection.client;
        let expiration = Some(Expiration::PXAT(until));
        let reply: Result<Value, _> = client
            .set(self.name(key), Value::Bytes(frame), expiration, None, false)
            .await;
        let reply = self.judged(asked, reply)?;
        match text(&reply) {
            Some(b"OK") => Ok(()),
            _ => Err(mismatched("SET")),
        }
    }

    async fn forget(&self, key: &StoreKey<'_>) -> Result<(), StoreError> {
        let asked = self.pick(0)?;
        let reply: Result<Value, _> = asked.connection.client.unlink(self.name(key)).await;
        let reply = self.judged(asked, reply)?;
        match integer(&reply) {
            Some(0 | 1) => Ok(()),
            _ => Err(mismatched("UNLINK")),
        }
    }

    /// The reply to a command that writes.
    fn judged(
        &self,
        asked: Asked<'_>,
        reply: Result<Value, fred::error::Error>,
    ) -> Result<Value, StoreError> {
        let error = match reply {
            Ok(reply) => {
                asked.answered();
                return Ok(reply);
            }
            Err(error) => error,
        };
        if is_answer(&error) {
            asked.answered();
        }
        // The name in the URL may lead to the new primary by now.
        let every = match self.connections.target.is_watched() {
            true => ASK_SENTINELS_EVERY,
            false => REPLACE_EVERY,
        };
        if is_read_only(&error) && self.is_due(|renewed| &mut renewed.for_writing, every) {
            self.connections.replace();
        }
        Err(store_error(&error))
    }

    async fn wait_until_up(&self) -> Result<(), StoreError> {
        self.start();
        // Nothing could end the waiting.
        if !timer::is_there() {
            return Err(StoreError::new(NO_TIMERS));
        }
        within(CONNECT, self.connections.until_up()).await;
        if self.connections.is_closed() {
            return Err(StoreError::new("the store was closed"));
        }
        if self.connections.is_up() {
            return Ok(());
        }
        let why = self.connections.why();
        Err(StoreError::new(
            why.unwrap_or_else(|| self.connections.target.too_late()),
        ))
    }
}

fn not_yet() -> String {
    "there is no connection to Redis yet".to_owned()
}

fn mismatched(command: &str) -> StoreError {
    StoreError::mismatched(format!("Redis answered {command} with something else"))
}

/// Up to 200 bytes of a path, without what means something in patterns or to people who type.
fn push_path(name: &mut String, path: &str) {
    let mut end = path.len().min(MOST_PATH);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    let path = &path[..end];
    let means_nothing = |byte: u8| byte.is_ascii_graphic() && !b"{}*?[]\\".contains(&byte);
    if path.bytes().all(means_nothing) {
        name.push_str(path);
        return;
    }
    for byte in path.bytes() {
        match means_nothing(byte) {
            true => name.push(char::from(byte)),
            false => {
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
}

impl Store for RedisStore {
    fn get<'a>(&'a self, key: &'a StoreKey<'a>, limit: usize) -> StoreFuture<'a, Option<Stored>> {
        // The text is shared between the two commands.
        let name = Key::from(Bytes::from(self.name(key)));
        Box::pin(self.read(name, limit))
    }

    fn set<'a>(
        &'a self,
        key: &'a StoreKey<'a>,
        frame: Bytes,
        until: SystemTime,
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.write(key, frame, until))
    }

    fn delete<'a>(&'a self, key: &'a StoreKey<'a>) -> StoreFuture<'a, ()> {
        Box::pin(self.forget(key))
    }

    fn connect(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.wait_until_up())
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {
            self.connections.close(CLOSE).await;
            self.stop();
            Ok(())
        })
    }

    fn time(&self) -> Option<SystemTime> {
        self.connections.time()
    }

    fn link(&self) -> Link {
        if self.connections.is_closed() {
            return Link::Closed;
        }
        if self.connections.is_up() {
            return Link::Up;
        }
        self.start();
        let keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        match self.connections.why() {
            None if keepers.is_empty() => Link::Idle,
            why => Link::Connecting(why),
        }
    }

    fn renew(&self) {
        if self.is_due(|renewed| &mut renewed.by_force, RENEW_EVERY) {
            self.connections.renew();
        }
    }

    fn check(&self) {
        if self.is_due(|renewed| &mut renewed.by_doubt, RENEW_EVERY) {
            self.connections.look();
        }
    }
}

impl RedisStore {
    fn stop(&self) {
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        for keeper in keepers.drain(..).chain(listener.take()) {
            keeper.abort();
        }
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.stop();
    }
}
