//! A cache on a Redis of its own, under load, while something goes wrong with it.
//!
//! The allocator counts everything in the process: the sum of all trials that run at the same time
//! has to stay below the bound of one.

use std::{
    alloc::System,
    time::{Duration, Instant},
};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Runtime;
use tower_response_cache::{Cache, RemoteStats, ResponseCacheLayer};
use tracing::dispatcher::DefaultGuard;

use crate::support::{
    App, Origin, eventually,
    load::{DEADLINE, LATE, Load, ask, origin},
    log::Log,
    redis_server::{RedisServer, Reply},
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How long after Redis accepts again it is in use at the latest.
const BACK: Duration = Duration::from_secs(2);
const MOST_GROWTH: u64 = 32 << 20;
/// Of the memory tier, so that it is full before the fault and does not count as growth.
const MEMORY: u64 = 1 << 20;
/// The end of every wait, for a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);
/// So long that the pauses of breakers and of the link have grown to their longest.
pub(crate) const LONG: Duration = Duration::from_secs(4);

fn live_bytes() -> u64 {
    let stats = ALLOCATOR.stats();
    u64::try_from(stats.bytes_allocated as i64 - stats.bytes_deallocated as i64).unwrap_or(0)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) server: RedisServer,
    pub(crate) cache: Cache,
    name: &'static str,
    app: App,
    load: Option<Load>,
    runtime: Runtime,
    log: Log,
    _listening: DefaultGuard,
    /// What was live before the load.
    base: u64,
}

/// A cache that asks Redis each time, and its app.
fn cached(url: &str) -> (Cache, Origin, App) {
    let cache = Cache::redis(url, "trial")
        .memory(MEMORY)
        .memory_ttl(Duration::ZERO)
        .build()
        .expect("good settings");
    let origin = origin();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    (cache, origin, app)
}

impl Trial {
    /// Puts a cache at that URL under load.
    pub(crate) fn start(name: &'static str, server: RedisServer, url: &str) -> Self {
        let base = live_bytes();
        let log = Log::default();
        let listening = log.listen();
        let runtime = log.runtime();
        let (cache, _, app) = cached(url);
        let load = runtime.block_on(async { Load::start(&app, live_bytes) });
        Self {
            server,
            cache,
            name,
            app,
            load: Some(load),
            runtime,
            log,
            _listening: listening,
            base,
        }
    }

    /// The same, and Redis is in use.
    pub(crate) fn start_in_use(name: &'static str, server: RedisServer, url: &str) -> Self {
        let trial = Self::start(name, server, url);
        let is_used = |stats: &RemoteStats| stats.hits() > 100 && stats.writes() > 100;
        trial.until("Redis is in use", || is_used(trial.cache.stats().remote()));
        trial
    }

    /// Polls, and leaves the processors to the clients in between.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !condition() {
            let health = self.cache.health();
            let name = self.name;
            assert!(
                begin.elapsed() < LIMIT,
                "{name}: still not {what}; {health}"
            );
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    fn requests(&self) -> u64 {
        self.load.as_ref().map_or(0, |load| load.sum().requests)
    }

    /// Lets the fault last so long under load.
    pub(crate) fn suffer(&self, time: Duration) {
        let (begin, before) = (Instant::now(), self.requests());
        self.until("asked often enough", || {
            begin.elapsed() > time && self.requests() > before + 1_000
        });
    }

    /// The health says this word.
    pub(crate) fn until_said(&self, word: &str) {
        self.until(word, || self.cache.health().to_string().contains(word));
    }

    /// What went wrong has gone. Redis is in use again soon, and nobody was hurt: at most so many
    /// lines in the log.
    pub(crate) fn ends_well(mut self, most_lines: usize) {
        let name = self.name;
        self.until("it answers", || {
            self.server.command(&["PING"]) == Reply::Simple("PONG".to_owned())
        });
        let back = self.back_in_use();
        let load = self.load.take().expect("taken here");
        let sum = self.runtime.block_on(load.end());
        let grown = sum.most_bytes.saturating_sub(self.base);
        let lines = self.log.lines();
        let stats = self.cache.stats();
        println!(
            "{name}: {} requests, {} hits, longest {:?}, back in use after {back:?}, grown by {} KiB, \
             {} lines; {:?}",
            sum.requests,
            sum.hits,
            sum.longest,
            grown >> 10,
            lines.len(),
            stats.remote(),
        );
        let lines = lines.join("\n");
        println!("{lines}");
        assert_eq!(
            (sum.failures, sum.wrong),
            (0, 0),
            "{name}: failures, wrong bodies"
        );
        assert_eq!(
            sum.late, 0,
            "{name}: waited for more than {LATE:?}: {sum:?}"
        );
        assert!(back < BACK, "{name}: in use again only after {back:?}");
        assert!(grown < MOST_GROWTH, "{name}: grown by {grown} bytes");
        let said = lines.lines().count();
        assert!(said <= most_lines, "{name}: {said} lines:\n{lines}");
        self.runtime.block_on(self.cache.close());
    }

    /// How long it takes until both are so: another cache finds what this one has stored, and this
    /// one finds what another has stored.
    fn back_in_use(&self) -> Duration {
        let begin = Instant::now();
        let (other, origin, app) = cached(&self.server.url());
        self.runtime
            .block_on(other.connect())
            .expect("Redis is well");
        let (mut turn, mut is_written, mut is_read) = (0, false, false);
        self.until("in use again", || {
            turn += 1;
            let (here, there) = (format!("/here/{turn}"), format!("/there/{turn}"));
            self.runtime.block_on(async {
                let (before, writes) = (self.cache.stats(), other.stats().remote().writes());
                ask(&self.app, &here).await;
                ask(&app, &there).await;
                // Each is written soon, if at all.
                let in_time = Instant::now() + DEADLINE;
                eventually("a write is over", || {
                    other.stats().remote().writes() > writes || Instant::now() > in_time
                })
                .await;
                let hits = before.remote().hits();
                let is_hit = ask(&self.app, &there).await.is_hit();
                is_read |= is_hit && self.cache.stats().remote().hits() > hits;
                let calls = origin.calls();
                is_written |= ask(&app, &here).await.is_hit() && origin.calls() == calls;
            });
            is_written && is_read && self.cache.health().is_good()
        });
        let back = begin.elapsed();
        self.runtime.block_on(other.close());
        back
    }
}
