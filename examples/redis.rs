//! Two processes that share one cache in Redis.
//!
//! ```text
//! redis-server                                                      # or one that is there already
//! cargo run --example redis --features redis                        # serves, and shows what it saw
//! cargo run --example redis --features redis -- --once              # shows what it saw, then ends
//! REDIS_URL=redis://:password@host cargo run --example redis --features redis
//! ```
//!
//! The program starts itself a second time. What a handler of the first process has made is a hit in
//! the second, although nobody called a handler there; what is changed through the second is seen
//! through the first. Without Redis both go on, each from its own memory.

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::{Router, routing::get};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tower_response_cache::{BuildError, Cache, ResponseCacheLayer, Selector};

/// The cache: memory, and Redis behind it. Nothing is connected yet.
fn cache(url: &str) -> Result<Cache, BuildError> {
    Cache::redis(url, "example") // The namespace begins each key: give each service its own.
        .version(env!("CARGO_PKG_VERSION")) // A deployment that changed a page starts cold.
        .build()
}

/// The application; nothing in it knows of Redis.
fn app(cache: &Cache, who: &'static str) -> Router {
    let layer = ResponseCacheLayer::new(cache)
        // Behind a load balancer all processes see the same host. Here each has a port of its own,
        // and that is no reason to keep their pages apart.
        .ignore_host();
    Router::new()
        .route("/", get(page).post(change).layer(layer))
        .route("/health", get(health)) // Not cached.
        .with_state(App {
            cache: cache.clone(),
            who,
            calls: Arc::default(),
        })
}

#[derive(Clone)]
struct App {
    cache: Cache,
    who: &'static str,
    calls: Arc<AtomicU64>,
}

/// The slow handler.
async fn page(State(app): State<App>) -> String {
    tokio::time::sleep(Duration::from_millis(300)).await;
    let call = app.calls.fetch_add(1, Ordering::Relaxed) + 1;
    format!("made by the {} process in call {call}\n", app.who)
}

/// Changes what the page shows (that would stand here), then invalidates it: here at once, and in the other
/// process as soon as that hears of it.
async fn change(State(app): State<App>, request: Request) -> &'static str {
    app.cache.invalidate(Selector::request(&request));
    "changed\n"
}

/// How the link to Redis is doing, for people. A probe that restarts processes must not look here:
/// without Redis the service works.
async fn health(State(app): State<App>) -> String {
    format!("{}\n{}\n", app.cache.health(), app.cache.stats())
}

// All that follows is there to make this a program: the second process, and a client that asks.

const HELP: &str = "\
Shares a cache in Redis between two processes: this one, and one that it starts.

Usage: redis [--redis URL] [--listen ADDRESS] [--once]

  --redis URL        the Redis or Valkey server
                     [the environment's REDIS_URL, or redis://127.0.0.1:6379]
  --listen ADDRESS   where to listen [127.0.0.1:3000]; another port if it is taken
  --once             end after what is shown
  --help             show this
";

const REDIS_URL: &str = "REDIS_URL";

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return finish(say(HELP)),
        Err(sentence) => return fail(&sentence),
    };
    let cache = match cache(&options.redis) {
        Ok(cache) => cache,
        Err(error) => return fail(&format!("Redis cannot be used like this: {error}.")),
    };
    finish(match options.is_second {
        true => second(options, cache).await,
        false => first(options, cache).await,
    })
}

/// The process that was started by hand.
async fn first(options: Options, cache: Cache) -> io::Result<()> {
    // Optional, half a second at the most: so that the first request may be a hit already.
    let connected = cache.connect().await;
    if let Err(error) = &connected {
        say(&format!(
            "No Redis, so each process goes on from its own memory: {error} \
             (`redis-server` starts one, --redis URL names another).\n"
        ))?;
    }
    // From now on: a line for each change of the link.
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        .log_internal_errors(false)
        .init();

    let (listener, address) = listen(options.listen).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let end = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = stopped => {}
        }
    };
    let server = serve(listener, app(&cache, "first"), end);
    let server = tokio::spawn(server);
    let mut second = Second::start(&options.redis).await?;
    say(&format!(
        "The first process serves on http://{address}, the second on http://{}.\n\n",
        second.address
    ))?;

    show(&cache, address, second.address, connected.is_ok()).await?;

    if options.once {
        let _ = stop.send(());
    } else {
        say("\nServing until ctrl-c; stop and start Redis to see what happens. Try it:\n")?;
        let other = second.address;
        say(&format!("    curl -i http://{address}/\n"))?;
        say(&format!("    curl -i -X POST http://{other}/\n"))?;
        say(&format!("    curl http://{address}/health\n"))?;
    }
    server.await??;
    second.end().await?;
    // Last of all: writes what waits and says good-bye to Redis.
    cache.close().await;
    say("Closed.\n")
}

/// The process that the first one started: ends with it.
async fn second(options: Options, cache: Cache) -> io::Result<()> {
    let _ = cache.connect().await;
    let (listener, address) = listen(options.listen).await?;
    let (gone, first_is_gone) = tokio::sync::oneshot::channel();
    // A thread of its own, which no end of the runtime waits for.
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = gone.send(());
    });
    // A terminal's ctrl-c reaches both processes: here it waits for the word of the first.
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let end = async move {
        let _ = first_is_gone.await;
    };
    say(&format!("{address}\n"))?;
    let served = serve(listener, app(&cache, "second"), end).await;
    cache.close().await;
    served
}

/// Serves until `end`, and then as long as requests are under way.
async fn serve(
    listener: TcpListener,
    app: Router,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, app).with_graceful_shutdown(end).await
}

/// Asks both processes and shows the answers.
async fn show(
    cache: &Cache,
    first: SocketAddr,
    second: SocketAddr,
    is_shared: bool,
) -> io::Result<()> {
    let written = cache.stats().remote().writes();
    let made = ask("GET", "first", first).await?;
    if made.x_cache == "HIT" {
        say("             (Redis has it from an earlier run)\n")?;
    } else if is_shared {
        // Nobody waits for writes to Redis, except a program that wants to show them.
        wait(|| cache.stats().remote().writes() > written).await;
    }
    ask("GET", "second", second).await?;
    ask("GET", "second", second).await?;
    say("\n")?;

    ask("POST", "second", second).await?;
    ask("GET", "second", second).await?;
    if is_shared {
        // Nobody waits for writes, nor for what another process says; except to show them.
        until_written(second).await?;
        let start = Instant::now();
        while fetch("GET", first).await?.body == made.body {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if start.elapsed() > Duration::from_secs(10) {
                say("The first process does not see the change; was Redis stopped?\n")?;
                break;
            }
        }
        ask("GET", "first", first).await?;
    } else {
        ask("GET", "first", first).await?;
        say("             (without Redis it does not know of the change)\n")?;
    }

    for (name, address) in [("first", first), ("second", second)] {
        let health = fetch_path("GET", address, "/health").await?.body;
        let mut lines = health.lines();
        let link = lines.next().unwrap_or_default();
        let stats = lines.next().unwrap_or_default();
        say(&format!("\nhealth() of the {name} process: {link}\n"))?;
        say(&format!("stats() of the {name} process: {stats}\n"))?;
    }
    Ok(())
}

/// Waits until a process has written to Redis what it has to write.
async fn until_written(address: SocketAddr) -> io::Result<()> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let health = fetch_path("GET", address, "/health").await?.body;
        if health.contains(" outbox=0") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The second process; dropping it ends it at once.
struct Second {
    child: Child,
    address: SocketAddr,
}

impl Second {
    async fn start(url: &str) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--second", "--listen", "127.0.0.1:0"])
            // Not as an argument: everybody on this machine can read those.
            .env(REDIS_URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        let address = line.trim().parse();
        let address =
            address.map_err(|_| io::Error::other("the second process did not start to serve"))?;
        Ok(Self { child, address })
    }

    /// Has it finish what it does, write what waits, and end.
    async fn end(&mut self) -> io::Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().await.map(|_| ())
    }
}

async fn listen(wanted: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = match TcpListener::bind(wanted).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let port = wanted.port();
            say(&format!("Port {port} is taken, so this is another.\n"))?;
            TcpListener::bind(SocketAddr::new(wanted.ip(), 0)).await?
        }
        bound => bound?,
    };
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// What an answer said.
struct Answer {
    x_cache: String,
    age: Option<String>,
    body: String,
}

/// Asks for the page, and shows the answer on a line.
async fn ask(method: &str, who: &str, address: SocketAddr) -> io::Result<Answer> {
    let start = Instant::now();
    let answer = fetch(method, address).await?;
    let taken = start.elapsed().as_secs_f64() * 1000.0;
    let age = answer.age.as_ref();
    let age = age.map_or(String::new(), |age| format!("Age {age}"));
    say(&format!(
        "{method:4} {who:7} {:4} {age:6} {taken:7.2} ms  {}\n",
        answer.x_cache,
        answer.body.trim_end()
    ))?;
    Ok(answer)
}

async fn fetch(method: &str, address: SocketAddr) -> io::Result<Answer> {
    fetch_path(method, address, "/").await
}

/// Sends a request over a real connection, as curl would.
async fn fetch_path(method: &str, address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        let found = fields.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    Ok(Answer {
        x_cache: field("x-cache").unwrap_or_else(|| "-".to_owned()),
        age: field("age"),
        body: body.to_owned(),
    })
}

/// Waits for something that is about to happen, 2 seconds at the most.
async fn wait(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() && start.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct Options {
    redis: String,
    listen: SocketAddr,
    once: bool,
    is_second: bool,
}

/// Reads the command line: `Ok(None)` is the wish for help, an error is a sentence for the user.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut redis = None;
    let mut listen = SocketAddr::from(([127, 0, 0, 1], 3000));
    let (mut once, mut is_second) = (false, false);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--once") => once = true,
            // Not in the help: how this program starts itself.
            Some("--second") => is_second = true,
            Some("--redis") => {
                let url = arguments.next().unwrap_or_default().into_string();
                let url = url.ok().filter(|url| !url.is_empty());
                let wrong = "--redis takes a URL: write --redis redis://127.0.0.1:6379.";
                redis = Some(url.ok_or(wrong)?);
            }
            Some("--listen") => {
                let value = arguments.next().unwrap_or_default();
                let address = value.to_str().and_then(|text| text.parse().ok());
                listen = address.ok_or_else(|| {
                    format!("--listen takes an address, not {value:?}: write 127.0.0.1:3000.")
                })?;
            }
            _ => {
                return Err(format!(
                    "There is no option {argument:?}: see --help for all."
                ));
            }
        }
    }
    let redis = match redis {
        Some(url) => url,
        None => match std::env::var(REDIS_URL) {
            Ok(url) if !url.is_empty() => url,
            _ => "redis://127.0.0.1:6379".to_owned(),
        },
    };
    Ok(Some(Options {
        redis,
        listen,
        once,
        is_second,
    }))
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
