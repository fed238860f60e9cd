//! Page views that are counted in the cache, and written to a slow, unreliable table behind it.
//!
//! ```text
//! cargo run --example write_behind
//! cargo run --example write_behind --features redis -- --redis redis://127.0.0.1:6379
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tower_response_cache::{Cache, CacheBuilder, Source, WriteBehind};

/// A table that takes 2 ms for a write, and fails one time in five.
#[derive(Clone, Default)]
struct Views(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    rows: BTreeMap<String, u64>,
    writes: u64,
    failures: u64,
}

impl Source for Views {
    type Key = String;
    type Value = u64;
    type Error = io::Error;

    async fn load(&self, page: &String) -> io::Result<Option<u64>> {
        Ok(self.table().rows.get(page).copied())
    }

    async fn save(&self, page: &String, views: &u64) -> io::Result<()> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut table = self.table();
        table.writes += 1;
        if table.writes % 5 == 0 {
            table.failures += 1;
            return Err(io::Error::other("the table is busy"));
        }
        table.rows.insert(page.clone(), *views);
        Ok(())
    }

    async fn delete(&self, page: &String) -> io::Result<()> {
        self.table().rows.remove(page);
        Ok(())
    }
}

impl Views {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // No line that holds the lock can panic.
        self.0.lock().expect("the table is whole")
    }
}

async fn run(cache: Cache) -> io::Result<()> {
    let table = Views::default();
    let behind = WriteBehind::new()
        .delay(Duration::from_millis(50))
        .pauses(Duration::from_millis(5), Duration::from_millis(100));
    let views = cache
        .repository("views", table.clone())
        .write_behind(behind);

    let begin = Instant::now();
    for view in 0..50_000_u64 {
        let page = format!("/articles/{}", view * view % 20);
        // One task counts here. Where several do, let the table add up.
        let seen = views
            .get(page.clone())
            .await
            .map_err(io::Error::other)?
            .unwrap_or(0);
        views.save(page, seen + 1).await.map_err(io::Error::other)?;
    }
    say(&format!(
        "50000 views were counted in {} ms\n",
        begin.elapsed().as_millis()
    ))?;

    // After the server has stopped: writes what waits.
    cache.close().await;
    let stats = cache.stats();
    let (written, sum) = {
        let table = table.table();
        (table.writes, table.rows.values().sum::<u64>())
    };
    say(&format!(
        "{written} writes of the table, of which {} failed and were repeated\n",
        stats.failed_writes()
    ))?;
    say(&format!(
        "the table says {sum} views; lost: {}\n",
        stats.lost_writes()
    ))
}

const HELP: &str = "\
Counts page views in the cache, and writes them to a slow table behind it.

Usage: write_behind [--redis URL]

  --redis URL        a Redis behind the memory; needs a build with `--features redis`
  --help             show this
";

#[cfg(feature = "redis")]
fn with_redis(url: &str) -> Result<CacheBuilder, String> {
    Ok(Cache::redis(url, "views"))
}

#[cfg(not(feature = "redis"))]
fn with_redis(_: &str) -> Result<CacheBuilder, String> {
    Err(
        "This build cannot do --redis: build it with `--features redis`, or leave --redis out."
            .to_owned(),
    )
}

/// Reads the command line; an error is a sentence for the user.
fn builder(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<CacheBuilder>, String> {
    let mut builder = Cache::builder();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--redis") => {
                let url = arguments.next().and_then(|url| url.into_string().ok());
                let wrong = "--redis takes a URL: write --redis redis://127.0.0.1:6379.";
                builder = with_redis(&url.ok_or(wrong)?)?;
            }
            _ => {
                return Err(format!(
                    "There is no option {argument:?}: see --help for all."
                ));
            }
        }
    }
    Ok(Some(builder))
}

#[tokio::main]
async fn main() -> ExitCode {
    let built = match builder(std::env::args_os().skip(1)) {
        Ok(Some(builder)) => builder.build().map_err(|error| format!("{error}.")),
        Ok(None) => return finish(say(HELP)),
        Err(sentence) => Err(sentence),
    };
    match built {
        Ok(cache) => finish(run(cache).await),
        Err(sentence) => {
            let _ = writeln!(io::stderr(), "{sentence}");
            ExitCode::from(2)
        }
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}.");
            ExitCode::FAILURE
        }
    }
}
