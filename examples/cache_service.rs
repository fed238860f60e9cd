//! A service that keeps values of its own: asks a slow supplier once, keeps what changes, and ends well.
//!
//! ```text
//! cargo run --example cache_service                    # serves until ctrl-c, and shows what it does
//! cargo run --example cache_service -- --once          # shows it, then ends
//! cargo run --example cache_service --features redis -- --redis redis://127.0.0.1:6379
//! ```
//!
//! With `--redis` two of them share what they keep, and a restart starts warm. Without it, and while it is
//! away, all comes from memory.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Router, routing::get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_response_cache::{Cache, LoadError, ValueError};

/// What handlers share. The cache is a handle: it goes into the state as it is.
#[derive(Clone)]
struct App {
    cache: Cache,
    supplier: Supplier,
}

/// Somebody who knows prices, and takes his time.
#[derive(Clone, Default)]
struct Supplier {
    calls: Arc<AtomicU64>,
}

/// In cents.
type Price = u64;

#[derive(Debug)]
struct Unknown(String);

impl Supplier {
    async fn price(&self, item: &str) -> Result<Price, Unknown> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        match item {
            "nothing" => Err(Unknown(item.to_owned())),
            _ => Ok(100 * item.len() as u64 + 95),
        }
    }
}

fn app(cache: Cache) -> Router {
    let supplier = Supplier::default();
    Router::new()
        .route("/price/{item}", get(price).put(set_price).delete(ask_again))
        .route("/prices", axum::routing::delete(ask_again_for_all))
        .route("/stats", get(stats))
        .with_state(App { cache, supplier })
}

/// From the cache, or by one call of the supplier for all who ask at the same time. The load borrows.
async fn price(State(app): State<App>, Path(item): Path<String>) -> (StatusCode, String) {
    let load = || app.supplier.price(&item);
    let minute = Duration::from_secs(60);
    match app
        .cache
        .try_get_or_set(("price", &item), minute, load)
        .await
    {
        Ok(price) => (
            StatusCode::OK,
            format!("{}.{:02}\n", *price / 100, *price % 100),
        ),
        // Nobody keeps an error: the next request asks again.
        Err(LoadError::Load(unknown)) => (
            StatusCode::NOT_FOUND,
            format!("{} has no price\n", unknown.0),
        ),
        Err(error) => (StatusCode::BAD_REQUEST, format!("no price: {error:?}\n")),
    }
}

/// A price that somebody has decided: kept, also against a call that is under way.
async fn set_price(
    State(app): State<App>,
    Path(item): Path<String>,
    price: String,
) -> Result<&'static str, (StatusCode, String)> {
    let Ok(price) = price.trim().parse::<Price>() else {
        let sentence = format!("a price is a number of cents, not {price:?}\n");
        return Err((StatusCode::BAD_REQUEST, sentence));
    };
    let kept = app
        .cache
        .set(("price", &item), price)
        .ttl(Duration::from_secs(300));
    kept.await.map_err(refused)?;
    Ok("kept\n")
}

async fn ask_again(
    State(app): State<App>,
    Path(item): Path<String>,
) -> Result<&'static str, (StatusCode, String)> {
    app.cache.delete(("price", &item)).await.map_err(refused)?;
    Ok("forgotten\n")
}

async fn ask_again_for_all(State(app): State<App>) -> &'static str {
    app.cache.delete_pattern("price:*").await;
    "all forgotten\n"
}

async fn stats(State(app): State<App>) -> String {
    let (stats, calls) = (
        app.cache.stats(),
        app.supplier.calls.load(Ordering::Relaxed),
    );
    format!(
        "the supplier was called {calls} times; {} hits, {} misses of which {} waited for another's call\n",
        stats.value_hits(),
        stats.value_misses(),
        stats.value_collapsed()
    )
}

fn refused(error: ValueError) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, format!("{error}\n"))
}

/// The life of a cache: made, connected, served, closed last of all.
async fn run(options: Options, cache: Cache) -> io::Result<()> {
    // Optional, half a second at the most: it works all the same.
    if let Err(error) = cache.connect().await {
        say(&format!("No Redis, so all comes from memory: {error}\n"))?;
    }
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let end = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = stopped => {}
        }
    };
    let server = axum::serve(listener, app(cache.clone())).with_graceful_shutdown(end);
    let server = tokio::spawn(server.into_future());
    say(&format!("Serving on http://{address}\n\n"))?;
    show(address).await?;
    match options.once {
        true => drop(stop.send(())),
        false => say(&format!(
            "\nServing until ctrl-c. Try it:\n    curl http://{address}/price/tea\n"
        ))?,
    }
    server.await??;
    // When the last request is answered: waits for what runs in the background and what is on its way to
    // Redis, and ends the link.
    cache.close().await;
    say("Closed.\n")
}

/// What somebody sees who asks.
async fn show(address: SocketAddr) -> io::Result<()> {
    let asked: Vec<_> = (0..20)
        .map(|_| tokio::spawn(ask(address, "GET", "/price/tea", "")))
        .collect();
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await??);
    }
    answers.dedup();
    say(&format!(
        "20 at once  GET    /price/tea     {}",
        answers.concat()
    ))?;
    for (method, path, body) in [
        ("GET", "/stats", ""),
        ("PUT", "/price/tea", "250"),
        ("GET", "/price/tea", ""),
        ("DELETE", "/price/tea", ""),
        ("GET", "/price/tea", ""),
        ("GET", "/price/nothing", ""),
        ("PUT", "/price/tea", "cheap"),
        ("DELETE", "/prices", ""),
        ("GET", "/stats", ""),
    ] {
        let answer = ask(address, method, path, body).await?;
        say(&format!("            {method:6} {path:14} {answer}"))?;
    }
    Ok(())
}

/// Sends a request over a connection of its own, as curl would.
async fn ask(
    address: SocketAddr,
    method: &'static str,
    path: &'static str,
    body: &'static str,
) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    Ok(body.unwrap_or_default().to_owned())
}

const HELP: &str = "\
Keeps values: prices of a slow supplier.

Usage: cache_service [--redis URL] [--listen ADDRESS] [--once]

  --redis URL        a Redis or Valkey server behind memory [none]
  --listen ADDRESS   where to listen [127.0.0.1:3000]
  --once             end after what is shown
  --help             show this
";

struct Options {
    redis: Option<String>,
    listen: SocketAddr,
    once: bool,
}

/// Reads the command line: `Ok(None)` is the wish for help, an error is a sentence for the user.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut options = Options {
        redis: None,
        listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
        once: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = |what: &str| {
            let value = arguments.next().unwrap_or_default().into_string();
            let value = value.ok().filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("{argument:?} takes {what}: see --help."))
        };
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--once") => options.once = true,
            Some("--redis") => options.redis = Some(value("a URL")?),
            Some("--listen") => {
                let text = value("an address")?;
                options.listen = text.parse().map_err(|_| {
                    format!("--listen takes an address, not {text:?}: write 127.0.0.1:3000.")
                })?;
            }
            _ => {
                return Err(format!(
                    "There is no option {argument:?}: see --help for all."
                ));
            }
        }
    }
    Ok(Some(options))
}

/// The cache: memory, and Redis behind it if there is a URL.
fn cache(redis: Option<&str>) -> Result<Cache, String> {
    let Some(url) = redis else {
        return Ok(Cache::in_memory());
    };
    #[cfg(feature = "redis")]
    return Cache::redis(url, "cache-service")
        .build()
        .map_err(|error| format!("Redis cannot be used like this: {error}."));
    #[cfg(not(feature = "redis"))]
    return Err(format!(
        "--redis {url} needs the feature redis: cargo run --example cache_service --features redis."
    ));
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return finish(say(HELP)),
        Err(sentence) => return fail(&sentence),
    };
    match cache(options.redis.as_deref()) {
        Ok(cache) => finish(run(options, cache).await),
        Err(sentence) => fail(&sentence),
    }
}

/// Prints; unlike `print!` without a panic where nobody reads it any more.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn fail(sentence: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{sentence}");
    ExitCode::from(2)
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "This had to stop: {error}.");
            ExitCode::FAILURE
        }
    }
}
