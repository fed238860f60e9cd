//! A table that counts what is asked of it, and can be held or made to fail.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Semaphore;
use tower_response_cache::Source;

/// Who writes this into the table makes it panic.
pub(crate) const PANICS: u64 = u64::MAX;

/// Rows by their numbers.
#[derive(Clone)]
pub(crate) struct Table(Arc<Inside>);

struct Inside {
    rows: Mutex<BTreeMap<u64, u64>>,
    loads: Mutex<Vec<Vec<u64>>>,
    /// Reads wait here after they have read, writes before they write.
    read: Semaphore,
    written: Semaphore,
    fails: AtomicBool,
    writes: AtomicUsize,
}

impl Default for Table {
    fn default() -> Self {
        Self(Arc::new(Inside {
            rows: Mutex::default(),
            loads: Mutex::default(),
            read: Semaphore::new(Semaphore::MAX_PERMITS),
            written: Semaphore::new(Semaphore::MAX_PERMITS),
            fails: AtomicBool::new(false),
            writes: AtomicUsize::new(0),
        }))
    }
}

impl Table {
    pub(crate) fn rows(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.0.rows.lock().unwrap()
    }

    /// The keys of each load, one by one or together.
    pub(crate) fn loads(&self) -> Vec<Vec<u64>> {
        self.0.loads.lock().unwrap().clone()
    }

    /// How many writes were begun.
    pub(crate) fn writes(&self) -> usize {
        self.0.writes.load(Ordering::SeqCst)
    }

    pub(crate) fn fail(&self, fails: bool) {
        self.0.fails.store(fails, Ordering::SeqCst);
    }

    pub(crate) fn hold_reads(&self) {
        self.0.read.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_read(&self) {
        self.0.read.add_permits(1);
    }

    pub(crate) fn hold_writes(&self) {
        self.0.written.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_write(&self) {
        self.0.written.add_permits(1);
    }

    async fn read(&self, keys: &[u64]) -> io::Result<Vec<Option<u64>>> {
        self.0.loads.lock().unwrap().push(keys.to_vec());
        let found = keys.iter().map(|key| self.rows().get(key).copied());
        let found = found.collect();
        self.0.read.acquire().await.unwrap().forget();
        self.checked().map(|()| found)
    }

    async fn write(&self, key: u64, value: Option<u64>) -> io::Result<()> {
        self.0.writes.fetch_add(1, Ordering::SeqCst);
        self.0.written.acquire().await.unwrap().forget();
        self.checked()?;
        assert_ne!(value, Some(PANICS), "as the test wants it");
        match value {
            Some(value) => self.rows().insert(key, value),
            None => self.rows().remove(&key),
        };
        Ok(())
    }

    fn checked(&self) -> io::Result<()> {
        match self.0.fails.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the table is away")),
            false => Ok(()),
        }
    }
}

impl Source for Table {
    type Key = u64;
    type Value = u64;
    type Error = io::Error;

    async fn load(&self, key: &u64) -> io::Result<Option<u64>> {
        Ok(self.read(&[*key]).await?.pop().flatten())
    }

    async fn load_many(&self, keys: &[u64]) -> io::Result<Vec<Option<u64>>> {
        self.read(keys).await
    }

    async fn save(&self, key: &u64, value: &u64) -> io::Result<()> {
        self.write(*key, Some(*value)).await
    }

    async fn delete(&self, key: &u64) -> io::Result<()> {
        self.write(*key, None).await
    }
}
