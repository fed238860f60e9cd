//! What the cache says in the log, kept line by line.

use std::{
    io::Write,
    sync::{Arc, Mutex, Once},
};

use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    dispatcher::{DefaultGuard, set_default, set_global_default},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};
use tracing_subscriber::fmt::MakeWriter;

/// What is said on a thread: from `INFO` on, the lines that people see.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What has been said so far, each line without its time.
    pub fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("nobody panics with it").clone();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::to_owned).collect()
    }

    fn dispatch(&self, level: Level) -> Dispatch {
        // Before the one below is made, which has every place in the code asked once more.
        keep_asking();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(self.clone())
            .with_max_level(level)
            .without_time()
            .with_ansi(false)
            .finish();
        Dispatch::new(subscriber)
    }

    /// Makes this the log of this thread.
    pub fn listen(&self) -> DefaultGuard {
        self.listen_from(Level::INFO)
    }

    /// Makes this the log of this thread, for what is as bad as `level` or worse.
    pub fn listen_from(&self, level: Level) -> DefaultGuard {
        set_default(&self.dispatch(level))
    }

    /// A runtime of two threads more on which this is the log.
    pub fn runtime(&self) -> tokio::runtime::Runtime {
        let dispatch = self.dispatch(Level::INFO);
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            // For as long as the thread lives.
            .on_thread_start(move || std::mem::forget(set_default(&dispatch)))
            .build()
            .expect("a runtime")
    }
}

/// Makes sure that the log of a thread gets all of its lines, whatever other threads do.
///
/// Whether anybody wants a line is asked when it is said first, and remembered for the process. While
/// there is just one subscriber, only the thread that says the line is asked (`Rebuilder::JustOne` of
/// `tracing-core`): if it has no log, as in most tests, the line is lost to those that have one. With
/// a subscriber for all threads that cannot tell beforehand, it is asked each time.
fn keep_asking() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        set_global_default(Dispatch::new(Undecided)).expect("nobody else sets one");
    });
}

/// Listens on threads that have no log, and writes nothing.
struct Undecided;

impl Subscriber for Undecided {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // What costs most, and what no test looks for, is not even asked about.
        Some(LevelFilter::INFO)
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
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
