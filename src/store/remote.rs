//! The remote store as the flights see it: an entry or none, in bounded time.

use std::{
    fmt,
    future::Future,
    hash::Hasher,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName};

use crate::{
    entry::{Entry, Lifetime, Millis, Origin, StoredHead, millis},
    error::StoreError,
    headers::{Strip, has_status_slot, stored_head},
    key::Key,
    policy::VaryRule,
    store::{
        Store, StoreKey,
        codec::{Frame, decode, encode_response, encode_rule},
    },
    timer::within,
};

/// For all that one request does in the remote store.
const LIMIT: usize = 2 << 20;
const DEADLINE: Duration = Duration::from_millis(50);

/// A remote store, and what its frames say of this cache.
#[derive(Clone)]
pub(crate) struct Remote {
    store: Arc<dyn Store>,
    /// Tells the frames of this cache from others'.
    writer: u64,
    version: Option<Arc<str>>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

/// An entry that was read, and by what its variants are told apart.
pub(crate) struct Read {
    pub(crate) entry: Entry,
    pub(crate) rule: VaryRule,
}

/// This moment on both clocks.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now: Millis,
    pub(crate) wall: SystemTime,
}

impl Moment {
    fn since_1970(self) -> Millis {
        self.wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, millis)
    }
}

impl Remote {
    pub(crate) fn new(store: Arc<dyn Store>, version: Option<&str>) -> Self {
        use std::hash::BuildHasher;
        // As random as the seed of a map.
        let writer = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        Self {
            store,
            writer,
            version: version.map(Into::into),
        }
    }

    fn place<'a>(&'a self, path: &'a str, key: &'a [u8]) -> StoreKey<'a> {
        StoreKey {
            version: self.version.as_deref(),
            path,
            key,
        }
    }

    /// The response for `request` under the primary key, if the store has one and says so in time.
    pub(crate) async fn get(
        &self,
        path: &str,
        key: &Key,
        request: &HeaderMap,
        origin: Origin,
        moment: Moment,
    ) -> Result<Option<Read>, StoreError> {
        within_deadline(async {
            let Some(frame) = self.store.get(&self.place(path, &key.bytes), LIMIT).await? else {
                return Ok(None);
            };
            let (frame, rule) = match decode(&key.bytes, &frame.frame, LIMIT) {
                Ok(Frame::Response(frame)) => (frame, VaryRule::default()),
                Ok(Frame::Rule(names)) => {
                    let rule = VaryRule::from_names(names);
                    let place = key.with_variant(&rule.values(request));
                    let Some(frame) = self
                        .store
                        .get(&self.place(path, &place.bytes), LIMIT)
                        .await?
                    else {
                        return Ok(None);
                    };
                    match decode(&place.bytes, &frame.frame, LIMIT) {
                        Ok(Frame::Response(frame)) => (frame, rule),
                        _ => return Ok(None),
                    }
                }
                Err(_) => return Ok(None),
            };
            let Ok(body) = frame.copy_body() else {
                return Ok(None);
            };
            let resident = moment.since_1970().saturating_sub(frame.response_time);
            let head = StoredHead {
                status: frame.status,
                version: frame.version,
                headers: stored_head(&frame.headers, Strip { fields: &[] }, moment.wall),
                status_slot: has_status_slot(&frame.headers),
                lifetime: Lifetime {
                    response_time: moment.now,
                    initial_age: frame.initial_age.saturating_add(resident),
                    freshness: frame.freshness,
                },
                shareable: frame.shareable,
                shareable_with_authorization: frame.shareable_with_authorization,
            };
            // Another cache's numbers mean nothing here: its entries count as older than every
            // invalidation of this one.
            let is_ours = frame.writer == self.writer;
            let sequence = if is_ours { frame.sequence } else { 0 };
            // And however lately it was read, every fill of this node is newer.
            let origin = Origin {
                sequence,
                fill: 0,
                ..origin
            };
            let entry = Entry::new(Arc::new(head), body, origin);
            Ok(Some(Read { entry, rule }))
        })
        .await
    }

    /// Writes an entry; with a rule, as the variant of `request`.
    pub(crate) async fn set(
        self,
        path: String,
        key: Key,
        rule: VaryRule,
        request: HeaderMap,
        entry: Arc<Entry>,
        moment: Moment,
    ) -> Result<(), StoreError> {
        let lifetime = entry.head.lifetime;
        let resident = moment.now.saturating_sub(lifetime.response_time);
        let response_time = moment.since_1970().saturating_sub(resident);
        let life = Duration::from_millis(lifetime.ends().saturating_sub(moment.now));
        let until = moment.wall + life;
        let named = (self.writer, entry.origin.sequence);
        let frame =
            |key: &[u8]| encode_response(key, &entry.head, response_time, named, &entry.body);
        within_deadline(async {
            if rule.is_empty() {
                let place = self.place(&path, &key.bytes);
                return self.store.set(&place, frame(&key.bytes), until).await;
            }
            let variant = key.with_variant(&rule.values(&request));
            let place = self.place(&path, &variant.bytes);
            self.store.set(&place, frame(&variant.bytes), until).await?;
            let names: &[HeaderName] = rule.names();
            let place = self.place(&path, &key.bytes);
            self.store
                .set(&place, encode_rule(&key.bytes, names), until)
                .await
        })
        .await
    }

    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        within_deadline(self.store.close()).await
    }
}

async fn within_deadline<T>(
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match within(DEADLINE, work).await {
        Some(result) => result,
        None => Err(StoreError::new("no answer within 50 ms")),
    }
}
