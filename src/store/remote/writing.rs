//! Writing: what the outbox holds, and how it is sent.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use tokio::{runtime::Handle, time::Instant};

use super::{DEADLINE, FIRST_LINK, Inner, Remote, since_1970, unpanicked};
use crate::{
    entry::{Entry, Watched, millis},
    error::{StoreError, StoreErrorKind},
    invalidation::Verdict,
    key::Key,
    policy::VaryRule,
    store::{
        Link, StoreKey,
        codec::{encode_response, encode_rule},
        lease::Lease,
        outbox::{Next, Replace, Sending, Worker},
    },
    target::Resource,
    timer::{pause, within},
    values::StoredValue,
};

const RETRY: Duration = Duration::from_millis(250);
/// The same for a deletion that the store has declined.
const RETRY_REFUSED: Duration = Duration::from_secs(5);
/// Names of selecting fields are kept longer than the response that brought them: other variants
/// may live longer.
const LEAST_LIFE_OF_RULES: Duration = Duration::from_secs(3600);

/// What is to be written.
#[derive(Debug)]
pub(super) struct Job {
    path: Arc<str>,
    what: What,
    since: Instant,
    /// It took the place of a deletion: should it not be written, that is still owed.
    owes_deletion: bool,
    /// Given back when the job is done.
    _lease: Option<Arc<Lease>>,
}

impl Job {
    fn is_deletion(&self) -> bool {
        matches!(self.what, What::Delete)
    }
}

impl Replace for Job {
    fn replace(&mut self, older: Self) {
        self.owes_deletion |= older.owes_deletion || older.is_deletion();
    }
}

#[derive(Debug)]
enum What {
    Response(Arc<Entry>),
    /// The names of selecting fields, with the entry that brought them.
    Rule(Vec<HeaderName>, Arc<Entry>),
    Value(Arc<StoredValue>),
    Delete,
}

impl Remote {
    /// Writes an entry, some time soon; with a rule, as the variant of `request`.
    pub(crate) fn put(
        &self,
        path: &str,
        key: &Key,
        rule: &VaryRule,
        request: &HeaderMap,
        entry: Arc<Entry>,
        lease: Option<Arc<Lease>>,
    ) {
        if rule.is_empty() {
            return self.post_under(key, path.into(), What::Response(entry), lease);
        }
        let path: Arc<str> = path.into();
        let variant = key.with_variant(&rule.values(request));
        let names = rule.names().to_vec();
        let first = What::Response(entry.clone());
        self.post_under(&variant, path.clone(), first, lease.clone());
        self.post_under(key, path, What::Rule(names, entry), lease);
    }

    /// Deletes what is stored of a resource under the keys that every layer of this cache gives it,
    /// with those `variants` of a key that memory knows.
    pub(crate) fn delete(&self, resource: &Resource, variants: impl Fn(&Key) -> Vec<Key>) {
        let path: Arc<str> = resource.path().into();
        for key in self.inner.shapes.keys(resource) {
            for variant in variants(&key) {
                self.post(&variant, path.clone(), What::Delete);
            }
            self.post(&key, path.clone(), What::Delete);
        }
    }

    /// Deletes what is stored under these keys.
    pub(crate) fn delete_at(&self, path: &str, keys: &[Key]) {
        let path: Arc<str> = path.into();
        for key in keys {
            self.post(key, path.clone(), What::Delete);
        }
    }

    /// Writes a value, some time soon.
    pub(crate) fn put_value(&self, name: &str, key: &Key, value: Arc<StoredValue>) {
        self.post(key, name.into(), What::Value(value));
    }

    fn post(&self, key: &Key, path: Arc<str>, what: What) {
        self.post_under(key, path, what, None);
    }

    fn post_under(&self, key: &Key, path: Arc<str>, what: What, lease: Option<Arc<Lease>>) {
        let inner = &self.inner;
        let is_urgent = matches!(what, What::Delete);
        if !is_urgent && inner.is_hopeless() {
            return inner.counters.skipped.raise();
        }
        let bytes = match &what {
            What::Response(entry) => entry.weight(0),
            What::Rule(names, _) => 64 * names.len() as u64,
            What::Value(value) => value.weight(0),
            What::Delete => 0,
        } + path.len() as u64;
        let job = Job {
            path,
            what,
            since: Instant::now(),
            owes_deletion: false,
            _lease: lease,
        };
        if inner
            .outbox
            .put(key.bytes.clone(), job, bytes, is_urgent)
            .is_err()
        {
            return inner.counters.dropped.raise();
        }
        self.start_worker();
    }

    /// One more that sends, if there is something for it to do; what was posted where there was no
    /// runtime, or in one that has ended, waits for this.
    pub(super) fn start_worker(&self) -> bool {
        let Ok(runtime) = Handle::try_current() else {
            return false;
        };
        let worker = self.inner.outbox.worker();
        let is_needed = worker.is_some();
        if let Some(worker) = worker {
            runtime.spawn(work(self.inner.clone(), worker));
        }
        is_needed
    }
}

/// What came of a job.
enum Sent {
    /// It is done, or given up, or to be done again.
    Tried,
    /// It is owed, and cannot be tried as things are.
    NotNow,
}

/// Sends what waits until nothing does.
async fn work(inner: Arc<Inner>, mut worker: Worker<Job>) {
    loop {
        let rest = match worker.next() {
            Next::Send(sending, job) => match inner.send(sending, job).await {
                Sent::Tried => continue,
                // Whatever else waits would fare no better.
                Sent::NotNow => RETRY,
            },
            Next::Wait(time) => time.min(RETRY),
            Next::Nothing => return,
        };
        if !pause(rest).await {
            return;
        }
    }
}

impl Inner {
    /// Whether a write need not even wait: the link has failed, or the store takes nothing.
    fn is_hopeless(&self) -> bool {
        match self.store.link() {
            Link::Up => !self.writes.would_permit(),
            Link::Idle | Link::Connecting(None) => false,
            Link::Connecting(Some(_)) | Link::Closed => true,
        }
    }
    async fn send(&self, sending: Sending<Job>, job: Job) -> Sent {
        if self.is_closed.load(Ordering::Acquire) {
            self.counters.skipped.raise();
            return Sent::Tried;
        }
        let permit = if self.is_up() {
            self.writes.permit()
        } else {
            None
        };
        let Some(permit) = permit else {
            // A response is worth a moment while the link is made for the first time.
            let is_first = !self.is_hopeless() && job.since.elapsed() < FIRST_LINK;
            if is_first && !job.is_deletion() {
                sending.again(job, FIRST_LINK / 20);
                return Sent::Tried;
            }
            return match self.give_up(sending, job, RETRY) {
                true => Sent::NotNow,
                false => Sent::Tried,
            };
        };
        let write = unpanicked(self.write(sending.key(), &job), StoreError::new);
        let result = match within(DEADLINE, write).await {
            Some(result) => result,
            None => Err(StoreError::timeout("nothing was written within 50 ms")),
        };
        match result {
            // Where there is no room for responses, deletions still succeed.
            Ok(true) if job.is_deletion() => {
                drop(permit);
                self.counters.writes.raise();
            }
            Ok(true) => {
                self.settle("writes", permit, None);
                self.counters.writes.raise();
                let watched: Option<&Watched> = match &job.what {
                    What::Response(entry) => Some(entry),
                    What::Value(value) => Some(value),
                    What::Rule(..) | What::Delete => None,
                };
                if let Some(watched) = watched {
                    let now = millis(self.clock.elapsed());
                    watched.answer_until(self.memory_until(now));
                }
            }
            Ok(false) => {
                self.give_up(sending, job, RETRY);
            }
            // It may be that only deletions are not permitted, which says nothing of writes; and
            // nobody will change that soon.
            Err(error) if job.is_deletion() && error.kind() == StoreErrorKind::Refused => {
                self.note(&error);
                drop(permit);
                self.give_up(sending, job, RETRY_REFUSED);
            }
            Err(error) => {
                self.settle("writes", permit, Some(error));
                self.give_up(sending, job, RETRY);
            }
        }
        Sent::Tried
    }

    /// Leaves a job undone. A deletion is owed, and tried until it is done or all is over; says
    /// whether it is one.
    fn give_up(&self, mut sending: Sending<Job>, job: Job, retry: Duration) -> bool {
        let is_owed = job.owes_deletion || job.is_deletion();
        let is_over = self.is_abandoned.load(Ordering::Relaxed)
            || self.is_closed.load(Ordering::Acquire)
            || self.store.link() == Link::Closed;
        if !is_owed || is_over {
            self.counters.skipped.raise();
            return false;
        }
        let job = Job {
            what: What::Delete,
            ..job
        };
        sending.shrink_to(job.path.len() as u64);
        sending.again(job, retry);
        true
    }

    /// Says whether there was anything to be written.
    async fn write(&self, key: &[u8], job: &Job) -> Result<bool, StoreError> {
        let place = self.place(&job.path, key);
        let _place = self.in_flight.acquire().await;
        let (entry, least) = match &job.what {
            What::Delete => return self.store.delete(&place).await.map(|()| true),
            What::Value(value) => return self.write_value(&place, value).await,
            What::Response(entry) => (entry, Duration::ZERO),
            What::Rule(_, entry) => (entry, LEAST_LIFE_OF_RULES),
        };
        let now = millis(self.clock.elapsed());
        let lifetime = entry.head.lifetime;
        let life = Duration::from_millis(lifetime.ends().saturating_sub(now));
        if life.is_zero() || entry.verdict(&self.log) != Verdict::Usable {
            return Ok(false);
        }
        let time = self.time();
        let frame = match &job.what {
            What::Rule(names, _) => encode_rule(key, names),
            _ => {
                let resident = now.saturating_sub(lifetime.response_time);
                let response_time = since_1970(time).saturating_sub(resident);
                let named = (self.writer, entry.origin.sequence);
                encode_response(key, &entry.head, response_time, named, &entry.body)
            }
        };
        let until = time.checked_add(life.max(least)).unwrap_or(time);
        self.set(&place, frame, until).await
    }

    /// Writes a frame, sealed if it is to be.
    pub(super) async fn set(
        &self,
        place: &StoreKey<'_>,
        frame: Bytes,
        until: SystemTime,
    ) -> Result<bool, StoreError> {
        let frame = match &self.seal {
            Some(seal) => seal.seal(frame),
            None => frame,
        };
        self.store.set(place, frame, until).await.map(|()| true)
    }
}
