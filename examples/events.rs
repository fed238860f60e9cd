//! Orders that are placed: one event says what that makes unusable, here and on every other node.
//!
//! ```text
//! cargo run --example events
//! cargo run --example events --features redis -- --redis redis://127.0.0.1:6379
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower_response_cache::{Cache, CacheBuilder, Selector};

/// What has happened, in the words of the shop.
struct OrderPlaced {
    product: u64,
    customer: String,
}

/// The database: how many of each product there are.
type Stock = Arc<Mutex<BTreeMap<u64, u64>>>;

/// Said once, at the start: what each event means for the cache. Whoever places an order knows nothing of it.
fn subscribe(cache: &Cache) {
    cache.on(|order: &OrderPlaced| {
        [
            Selector::values(&format!("stock:{}", order.product)),
            Selector::values(&format!("orders_of:{}:*", order.customer)),
            Selector::tag("bestsellers"), // Pages and values alike.
        ]
    });
}

async fn place(cache: &Cache, stock: &Stock, order: OrderPlaced) -> io::Result<()> {
    let commit = async {
        let mut stock = stock
            .lock()
            .map_err(|_| io::Error::other("the stock is broken"))?;
        let left = stock.entry(order.product).or_default();
        *left = left
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("sold out"))?;
        Ok::<_, io::Error>(())
    };
    // The commit first, and nothing at all if it fails.
    commit.await?;
    // Other nodes have heard of it when this returns; without Redis there are none.
    let done = cache.emit(&order).await;
    done.everywhere().await.map_err(io::Error::other)
}

async fn left(cache: &Cache, stock: &Stock, product: u64) -> io::Result<u64> {
    let hour = Duration::from_secs(3600);
    let load = || async {
        stock
            .lock()
            .map_or(0, |stock| stock.get(&product).copied().unwrap_or(0))
    };
    let left = cache.get_or_set(("stock", product), hour, load).await;
    left.map(|left| *left).map_err(io::Error::other)
}

async fn run(cache: Cache) -> io::Result<()> {
    if let Err(error) = cache.connect().await {
        say(&format!("No Redis, so this goes on from memory: {error}\n"))?;
    }
    subscribe(&cache);
    let stock: Stock = Arc::new(Mutex::new(BTreeMap::from([(1, 2), (2, 7)])));
    let line = |what: &str, one: u64, two: u64| {
        format!("{what:24} product 1: {one} left, product 2: {two} left\n")
    };
    say(&line(
        "at first",
        left(&cache, &stock, 1).await?,
        left(&cache, &stock, 2).await?,
    ))?;
    for round in 1..=3 {
        let order = OrderPlaced {
            product: 1,
            customer: "ada".to_owned(),
        };
        let what = match place(&cache, &stock, order).await {
            Ok(()) => format!("order {round} was placed"),
            Err(error) => format!("order {round}: {error}"),
        };
        say(&line(
            &what,
            left(&cache, &stock, 1).await?,
            left(&cache, &stock, 2).await?,
        ))?;
    }
    let stats = cache.stats();
    say(&format!(
        "loads: {}, hits: {}\n",
        stats.value_loads(),
        stats.value_hits()
    ))?;
    cache.close().await;
    Ok(())
}

const HELP: &str = "\
Places orders, and has one event say what that makes unusable.

Usage: events [--redis URL]

  --redis URL        a Redis behind the memory; needs a build with `--features redis`
  --help             show this
";

#[cfg(feature = "redis")]
fn with_redis(url: &str) -> Result<CacheBuilder, String> {
    Ok(Cache::redis(url, "orders"))
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
