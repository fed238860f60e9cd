//! A slow function, called once for all who ask at the same time, and not again while its result is kept.
//!
//! ```text
//! cargo run --example cached_function
//! cargo run --example cached_function --features redis -- --redis redis://127.0.0.1:6379
//! ```
//!
//! It counts the primes below a number the slow way. With `--redis` the second run of the program calls the
//! function no more: what the first one has kept is there.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tower_response_cache::{Cache, CachedFn, LoadError};

/// So many times a function was called.
type Calls = Arc<AtomicU64>;

/// Primes below `limit`, by trial division, on a thread where that keeps nobody waiting.
async fn primes_below(limit: u64, calls: Calls) -> u64 {
    calls.fetch_add(1, Ordering::Relaxed);
    let counting = tokio::task::spawn_blocking(move || {
        let is_prime = |n: &u64| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0);
        (2..limit).filter(is_prime).count() as u64
    });
    counting.await.expect("counting does not panic")
}

/// A word and what it means, if it means anything; the dictionary is not always at hand.
async fn meaning(word: String, calls: Calls) -> Result<Option<String>, io::Error> {
    calls.fetch_add(1, Ordering::Relaxed);
    match &*word {
        "prime" => Ok(Some("a number that only 1 and itself divide".to_owned())),
        "lost" => Err(io::Error::other("the dictionary is not at hand")),
        _ => Ok(None),
    }
}

async fn show(cache: &Cache) -> Result<(), Box<dyn std::error::Error>> {
    let calls = Calls::default();
    let counted = calls.clone();
    // The function as it was, under a name, with a lifetime: `primes:200000` is a key like any other.
    let primes: CachedFn<u64, u64> = cache.wrap("primes", Duration::from_secs(600), move |limit| {
        primes_below(limit, counted.clone())
    });

    let start = Instant::now();
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let primes = primes.clone();
            tokio::spawn(async move { primes.get(200_000).await })
        })
        .collect();
    for asked in asking {
        assert_eq!(*asked.await??, 17_984);
    }
    let first = start.elapsed();
    let start = Instant::now();
    let count = *primes.get(200_000).await?;
    say(&format!(
        "17984 primes below 200000, for 100 callers at once: {} calls (took {first:.1?})\n",
        calls.load(Ordering::Relaxed)
    ))?;
    say(&format!("{count} again (took {:.1?})\n", start.elapsed()))?;

    calls.store(0, Ordering::Relaxed);
    primes.forget(200_000).await?;
    primes.get(200_000).await?;
    say(&format!(
        "forgotten and asked again: {} call\n",
        calls.load(Ordering::Relaxed)
    ))?;
    cache.delete_pattern("primes:*").await;
    primes.get(200_000).await?;
    say(&format!(
        "after delete_pattern(\"primes:*\"): {} calls\n",
        calls.load(Ordering::Relaxed)
    ))?;
    primes.refresh(200_000).await?;
    primes.uncached(200_000).await?;
    say(&format!(
        "refreshed, and called past the cache: {} calls\n\n",
        calls.load(Ordering::Relaxed)
    ))?;

    let calls = Calls::default();
    let counted = calls.clone();
    let meanings = cache
        .try_wrap("meaning", Duration::from_secs(600), move |word: String| {
            meaning(word, counted.clone())
        })
        // That a word means nothing is kept as well, for a shorter time. An error is kept for nobody.
        .cache_absent(Duration::from_secs(60));
    for word in ["prime", "prime", "xyzzy", "xyzzy", "lost", "lost"] {
        let before = calls.load(Ordering::Relaxed);
        let found = match meanings.get(word.to_owned()).await {
            Ok(found) => found.as_deref().unwrap_or("means nothing").to_owned(),
            Err(LoadError::Load(error)) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        let kind = match calls.load(Ordering::Relaxed) > before {
            true => "called",
            false => "kept",
        };
        say(&format!("{word:6} {kind:6} {found}\n"))?;
    }
    Ok(())
}

const HELP: &str = "\
Calls a slow function, and keeps its results.

Usage: cached_function [--redis URL]

  --redis URL   a Redis or Valkey server behind memory [none]
  --help        show this
";

/// Reads the command line: `Ok(None)` is the wish for help, an error is a sentence for the user.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Cache>, String> {
    let mut cache = Cache::in_memory();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--redis") => {
                let url = arguments.next().unwrap_or_default().into_string();
                let url = url.ok().filter(|url| !url.is_empty());
                let wrong = "--redis takes a URL: write --redis redis://127.0.0.1:6379.";
                cache = behind_memory(&url.ok_or(wrong)?)?;
            }
            _ => {
                return Err(format!(
                    "There is no option {argument:?}: see --help for all."
                ));
            }
        }
    }
    Ok(Some(cache))
}

#[cfg(feature = "redis")]
fn behind_memory(url: &str) -> Result<Cache, String> {
    let built = Cache::redis(url, "cached-function").build();
    built.map_err(|error| format!("Redis cannot be used like this: {error}."))
}

#[cfg(not(feature = "redis"))]
fn behind_memory(url: &str) -> Result<Cache, String> {
    Err(format!(
        "--redis {url} needs the feature redis: cargo run --example cached_function --features redis."
    ))
}

#[tokio::main]
async fn main() -> ExitCode {
    let cache = match parse(std::env::args_os().skip(1)) {
        Ok(Some(cache)) => cache,
        Ok(None) => return finish(say(HELP).map_err(Into::into)),
        Err(sentence) => {
            let _ = writeln!(io::stderr(), "{sentence}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = cache.connect().await {
        let _ = writeln!(io::stderr(), "No Redis, so all comes from memory: {error}.");
    }
    let shown = show(&cache).await;
    // So that what waits is written.
    cache.close().await;
    finish(shown)
}

/// Prints; unlike `print!` without a panic where nobody reads it any more.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn finish(result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    let is_broken_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.downcast_ref().is_some_and(is_broken_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "This had to stop: {error}.");
            ExitCode::FAILURE
        }
    }
}
