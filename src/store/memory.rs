//! The memory tier: bounded in bytes, concurrent, with our own expiry.
//!
//! Which entry has to leave is decided by `quick_cache`; what an entry weighs, when it expires,
//! which variant answers a request and which of two responses or values is the newer is decided here.
//! This file is the only one that knows `quick_cache`.

use std::{
    array,
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use http::HeaderMap;
use quick_cache::{Equivalent, Lifecycle, OptionsBuilder, Weighter, sync::Cache};
use smallvec::SmallVec;

use crate::{
    entry::{Entry, Millis, OVERHEAD},
    invalidation::PrehashedBuilder,
    key::{Key, variant_hash, variant_suffix},
    policy::VaryRule,
    status::Reason,
    values::StoredValue,
};

/// How many variants of one key are kept; the oldest leaves (`rules.md`: at most 32).
const MAX_VARIANTS: usize = 32;
/// How many different `Vary` fields of one key are remembered.
const MAX_RULES: usize = 4;

/// What a look-up found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A response whose selecting fields match the request's. It may be stale.
    Entry(Arc<Entry>),
    /// Responses are stored for this key, but none for these request fields.
    OtherVariants,
    /// Nothing is stored for this key.
    Nothing,
}

/// The variants of one key (§4.1).
#[derive(Debug, Clone, Default)]
struct Variants {
    /// Newest first.
    rules: SmallVec<[VaryRule; 1]>,
    /// Where they are stored, oldest first.
    keys: Vec<Key>,
    /// When the last of them ends.
    ends: Millis,
    /// The newest fill among them.
    fill: u64,
}

#[derive(Debug, Clone)]
enum Slot {
    Response(Arc<Entry>),
    Variants(Arc<Variants>),
    Value(Arc<StoredValue>),
}

impl Slot {
    fn ends(&self) -> Millis {
        match self {
            Self::Response(entry) => entry.head.lifetime.ends(),
            Self::Variants(variants) => variants.ends,
            Self::Value(value) => value.lifetime.ends(),
        }
    }

    /// Whether it comes from a later fill than `fill`, and can still be used.
    fn supersedes(&self, fill: u64, now: Millis) -> bool {
        let is_gone = match self {
            Self::Response(known) => known.is_gone(),
            Self::Value(known) => known.is_gone(),
            Self::Variants(_) => false,
        };
        !is_gone && self.fill() > fill && self.ends() > now
    }

    fn fill(&self) -> u64 {
        match self {
            Self::Response(entry) => entry.origin.fill,
            Self::Variants(variants) => variants.fill,
            Self::Value(value) => value.origin.fill,
        }
    }
}

#[derive(Clone)]
struct MapKey(Key);

impl Hash for MapKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl PartialEq for MapKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for MapKey {}

/// A key that is borrowed in two pieces.
struct Borrowed<'k> {
    hash: u64,
    primary: &'k [u8],
    variant: &'k [u8],
}

impl Hash for Borrowed<'_> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<MapKey> for Borrowed<'_> {
    #[inline]
    fn equivalent(&self, key: &MapKey) -> bool {
        self.hash == key.0.hash && key.0.bytes.strip_prefix(self.primary) == Some(self.variant)
    }
}

/// Any key with this hash; only to remove what has expired.
struct AnyWithHash(u64);

impl Hash for AnyWithHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Equivalent<MapKey> for AnyWithHash {
    fn equivalent(&self, key: &MapKey) -> bool {
        self.0 == key.0.hash
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<MapKey, Slot> for Weight {
    fn weight(&self, key: &MapKey, slot: &Slot) -> u64 {
        let key = key.0.bytes.len();
        match slot {
            Slot::Response(entry) => entry.weight(key),
            Slot::Variants(variants) => {
                let rules = variants.rules.iter().flat_map(VaryRule::names);
                let rules: usize = rules
                    .map(|name| size_of_val(name) + name.as_str().len())
                    .sum();
                let places = variants.keys.len() * size_of::<Key>();
                (OVERHEAD + key + rules + places) as u64
            }
            Slot::Value(value) => value.weight(key),
        }
    }
}

/// Counts what leaves for lack of room, and lets it go only after the shard is unlocked.
#[derive(Clone)]
struct Evictions(Arc<AtomicU64>);

#[derive(Default)]
struct Gone {
    inserting: u64,
    slots: SmallVec<[(MapKey, Slot); 4]>,
}

impl Lifecycle<MapKey, Slot> for Evictions {
    type RequestState = Gone;

    fn on_evict(&self, gone: &mut Gone, key: MapKey, slot: Slot) {
        // The map also reports what an insertion replaces.
        if key.0.hash != gone.inserting {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        gone.slots.push((key, slot));
    }
}

/// So many more places in the queue of expiry, and it is compared with the map again.
const COMPARED_EVERY: usize = 64;

/// When entries end, in whole seconds: the sweeper takes what is due without a look at the rest.
#[derive(Default)]
struct Expiry {
    by_second: BTreeMap<u64, Vec<u64>>,
    len: usize,
    /// At this length it is compared with the number of entries, for which each part of the map has
    /// to be locked.
    compared_at: usize,
}

impl Expiry {
    fn add(&mut self, ends: Millis, hash: u64) {
        self.by_second
            .entry(ends / 1000 + 1)
            .or_default()
            .push(hash);
        self.len += 1;
    }

    fn take_due(&mut self, second: u64) -> Option<Vec<u64>> {
        let first = self.by_second.first_entry()?;
        if *first.key() > second {
            return None;
        }
        let due = first.remove();
        self.len -= due.len();
        self.compared_at = self.compared_at.min(self.len);
        Some(due)
    }
}

/// The memory tier of one cache.
pub(crate) struct Memory {
    map: Cache<MapKey, Slot, Weight, PrehashedBuilder, Evictions>,
    /// The heaviest entry that the map does not silently refuse.
    heaviest: u64,
    expiry: Mutex<Expiry>,
    evictions: Arc<AtomicU64>,
    expirations: AtomicU64,
    /// Writers of one key take turns: which response is newer must not change between the look
    /// and the insertion.
    writers: [Mutex<()>; 16],
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("entries", &self.map.len())
            .field("bytes", &self.map.weight())
            .field("capacity", &self.map.capacity())
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// Room for `capacity` bytes; 0 stores nothing.
    pub(crate) fn new(capacity: u64) -> Self {
        // Shards of 16 MiB at the least, so that an entry of some megabytes always finds room;
        // more of them than cores do not help.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // A power of two, rounded down, as the map would round it up.
        let shards = usize::try_from(capacity >> 24)
            .unwrap_or(usize::MAX)
            .clamp(1, 4 * cores);
        let shards = 1_usize << shards.ilog2();
        let items = usize::try_from(capacity / 4096)
            .unwrap_or(usize::MAX)
            .clamp(64, 1 << 20);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items)
            .weight_capacity(capacity)
            .ghost_allocation(0.25)
            .build()
            .expect("capacity and items are set");
        let evictions = Arc::new(AtomicU64::new(0));
        let map = Cache::with_options(
            options,
            Weight,
            PrehashedBuilder::default(),
            Evictions(evictions.clone()),
        );
        Self {
            // The map takes nothing that is heavier than the hot part of one shard.
            heaviest: map.shard_capacity() / 100 * 97,
            map,
            expiry: Mutex::default(),
            evictions,
            expirations: AtomicU64::new(0),
            writers: array::from_fn(|_| Mutex::default()),
        }
    }

    /// The stored response that `request` selects: the newest whose variant matches (§4).
    #[inline]
    pub(crate) fn find(&self, primary: &[u8], hash: u64, request: &HeaderMap) -> Found {
        let place = Borrowed {
            hash,
            primary,
            variant: &[],
        };
        match self.map.get(&place) {
            Some(Slot::Response(entry)) => Found::Entry(entry),
            Some(Slot::Variants(variants)) => self.find_variant(&variants, primary, hash, request),
            // Under the key of a response there is no value.
            Some(Slot::Value(_)) | None => Found::Nothing,
        }
    }

    /// The value under a key.
    #[inline]
    pub(crate) fn find_value(&self, key: &Key) -> Option<Arc<StoredValue>> {
        let place = Borrowed {
            hash: key.hash,
            primary: &key.bytes,
            variant: &[],
        };
        match self.map.get(&place) {
            Some(Slot::Value(value)) => Some(value),
            _ => None,
        }
    }

    fn find_variant(
        &self,
        variants: &Variants,
        primary: &[u8],
        hash: u64,
        request: &HeaderMap,
    ) -> Found {
        let mut newest: Option<Arc<Entry>> = None;
        for rule in &variants.rules {
            let suffix = variant_suffix(&rule.values(request));
            let place = Borrowed {
                hash: variant_hash(hash, &suffix),
                primary,
                variant: &suffix,
            };
            if let Some(Slot::Response(entry)) = self.map.get(&place) {
                // §4.1: of several matches the most recent is to be used.
                let is_newer = newest
                    .as_ref()
                    .is_none_or(|known| entry.origin.fill > known.origin.fill);
                if is_newer {
                    newest = Some(entry);
                }
            }
        }
        match newest {
            Some(entry) => Found::Entry(entry),
            None => Found::OtherVariants,
        }
    }

    /// By what the variants of a key are told apart, if it has any: the rule of the newest.
    pub(crate) fn rule(&self, primary: &[u8], hash: u64) -> Option<VaryRule> {
        let place = Borrowed {
            hash,
            primary,
            variant: &[],
        };
        match self.map.peek(&place) {
            Some(Slot::Variants(variants)) => variants.rules.first().cloned(),
            _ => None,
        }
    }

    /// The variants of a key that were stored here.
    pub(crate) fn variants(&self, key: &Key) -> Vec<Key> {
        match self.map.peek(&MapKey(key.clone())) {
            Some(Slot::Variants(variants)) => variants.keys.clone(),
            _ => Vec::new(),
        }
    }

    /// Removes `entry`, wherever under its primary key it is; returns where that was.
    pub(crate) fn remove(&self, key: &Key, entry: &Arc<Entry>) -> Vec<Key> {
        let is_it =
            |slot: &Slot| matches!(slot, Slot::Response(known) if Arc::ptr_eq(known, entry));
        let mut places = self.variants(key);
        places.push(key.clone());
        places.retain(|place| self.map.remove_if(&MapKey(place.clone()), is_it).is_some());
        places
    }

    /// The heaviest entry that there is room for, in bytes.
    pub(crate) fn heaviest(&self) -> u64 {
        self.heaviest
    }

    /// Stores `entry` under `key`; with a rule, as the variant of `request`.
    pub(crate) fn put(
        &self,
        key: &Key,
        rule: &VaryRule,
        request: &HeaderMap,
        entry: Arc<Entry>,
        now: Millis,
    ) -> Result<(), Reason> {
        let writer = &self.writers[(key.hash % 16) as usize];
        let _turn = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if rule.is_empty() {
            return self.put_at(key.clone(), entry, now);
        }
        let place = key.with_variant(&rule.values(request));
        let ends = entry.head.lifetime.ends();
        let listed = self.map.peek(&MapKey(key.clone()));
        let is_response = matches!(listed, Some(Slot::Response(_)));
        if is_response
            && listed
                .as_ref()
                .is_some_and(|known| known.supersedes(entry.origin.fill, now))
        {
            return Err(Reason::Superseded);
        }
        let fill = entry.origin.fill;
        // The variant first: who finds it in the list must find it in the map.
        self.put_at(place.clone(), entry, now)?;
        let mut variants = match listed {
            Some(Slot::Variants(known)) => Variants::clone(&known),
            _ => Variants::default(),
        };
        variants.ends = variants.ends.max(ends);
        variants.fill = variants.fill.max(fill);
        self.list_variant(key, rule, place, variants);
        Ok(())
    }

    /// Stores a value under `key`.
    pub(crate) fn put_value(
        &self,
        key: &Key,
        value: Arc<StoredValue>,
        now: Millis,
    ) -> Result<(), Reason> {
        let writer = &self.writers[(key.hash % 16) as usize];
        let _turn = writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.put_slot(key.clone(), Slot::Value(value), now)
    }

    /// Removes the value under a key.
    pub(crate) fn remove_value(&self, key: &Key) {
        self.map.remove(&MapKey(key.clone()));
    }

    fn put_at(&self, place: Key, entry: Arc<Entry>, now: Millis) -> Result<(), Reason> {
        self.put_slot(place, Slot::Response(entry), now)
    }

    fn put_slot(&self, place: Key, slot: Slot, now: Millis) -> Result<(), Reason> {
        let hash = place.hash;
        let key = MapKey(place);
        if Weight.weight(&key, &slot) > self.heaviest {
            return Err(Reason::BodyTooLarge);
        }
        let known = self.map.peek(&key);
        if known.is_some_and(|known| known.supersedes(slot.fill(), now)) {
            return Err(Reason::Superseded);
        }
        let ends = slot.ends();
        self.insert(key, slot);
        self.schedule(ends, hash);
        Ok(())
    }

    fn list_variant(&self, key: &Key, rule: &VaryRule, place: Key, mut variants: Variants) {
        variants.rules.retain(|known| known != rule);
        variants.rules.insert(0, rule.clone());
        variants.rules.truncate(MAX_RULES);
        variants.keys.retain(|known| *known != place);
        variants.keys.push(place);
        let surplus = variants.keys.len().saturating_sub(MAX_VARIANTS);
        for oldest in variants.keys.drain(..surplus) {
            self.map.remove(&MapKey(oldest));
        }
        let ends = variants.ends;
        self.insert(MapKey(key.clone()), Slot::Variants(Arc::new(variants)));
        self.schedule(ends, key.hash);
    }

    fn insert(&self, key: MapKey, slot: Slot) {
        let mut gone = Gone {
            inserting: key.0.hash,
            ..Gone::default()
        };
        self.map.insert_with_lifecycle(key, slot, &mut gone);
    }

    fn schedule(&self, ends: Millis, hash: u64) {
        let mut expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
        expiry.add(ends, hash);
        // Evicted and replaced entries leave their places behind; when those outnumber the
        // entries, the queue is written anew.
        if expiry.len <= expiry.compared_at {
            return;
        }
        expiry.compared_at = expiry.len + COMPARED_EVERY;
        if expiry.len > 2 * self.map.len() + 1024 {
            *expiry = Expiry::default();
            for (key, slot) in self.map.iter() {
                expiry.add(slot.ends(), key.0.hash);
            }
        }
    }

    /// Gives back what has ended at `now`. Returns whether anything is left that will end.
    pub(crate) fn sweep(&self, now: Millis) -> bool {
        loop {
            let due = {
                let mut expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
                match expiry.take_due(now / 1000) {
                    Some(due) => due,
                    None => return expiry.len > 0,
                }
            };
            for hash in due {
                let gone = self
                    .map
                    .remove_if(&AnyWithHash(hash), |slot| slot.ends() <= now);
                if gone.is_some() {
                    self.expirations.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    pub(crate) fn clear(&self) {
        self.map.clear();
        *self.expiry.lock().unwrap_or_else(PoisonError::into_inner) = Expiry::default();
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.map.weight()
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.map.capacity()
    }

    pub(crate) fn entries(&self) -> u64 {
        self.map.len() as u64
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    pub(crate) fn expirations(&self) -> u64 {
        self.expirations.load(Ordering::Relaxed)
    }
}
