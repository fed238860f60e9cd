//! What the cache says in the log, kept line by line.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use tracing::{
    Dispatch, Level,
    dispatcher::{DefaultGuard, set_default},
};
use tracing_subscriber::fmt::MakeWriter;

/// The lines of the log from `INFO` on: those that people see.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What has been said so far, each line without its time.
    pub fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("nobody panics with it").clone();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::to_owned).collect()
    }

    fn dispatch(&self) -> Dispatch {
        let subscriber = tracing_subscriber::fmt()
            .with_writer(self.clone())
            .with_max_level(Level::INFO)
            .without_time()
            .with_ansi(false)
            .finish();
        Dispatch::new(subscriber)
    }

    /// Makes this the log of this thread.
    pub fn listen(&self) -> DefaultGuard {
        set_default(&self.dispatch())
    }

    /// A runtime of two threads more on which this is the log.
    pub fn runtime(&self) -> tokio::runtime::Runtime {
        let dispatch = self.dispatch();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            // For as long as the thread lives.
            .on_thread_start(move || std::mem::forget(set_default(&dispatch)))
            .build()
            .expect("a runtime")
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut log = self.0.lock().expect("nobody panics with it");
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
