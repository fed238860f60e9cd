//! An application with most of what a cache meets: several lifetimes, a write that makes an answer
//! stale, users who must not see each other's answers, compression, cross-origin requests, ids.
//!
//! ```text
//! cargo run --example cache_middleware            # serves on 127.0.0.1:3000
//! cargo run --example cache_middleware -- --once  # asks itself, shows what it saw, ends
//! ```
//!
//! # The order of layers
//!
//! From the outside in, as a request meets them:
//!
//! | layer | why there |
//! |---|---|
//! | request ids, tracing | each request has its own id and its own line in the log, hits included |
//! | CORS | its fields depend on who asks, so they are put on after the cache; preflights end here |
//! | **authentication** | **always outside: what is in the store has no guard of its own** |
//! | the cache | |
//! | compression | inside: each encoding is made once and stored as it is; see below |
//! | the handler | |
//!
//! *Compression inside the cache* costs room (one entry for each encoding that clients ask for) and
//! saves time: a hit is sent as it was stored. *Outside* it is the other way round: one entry, and
//! each hit is compressed anew. Inside is right, unless memory is what is short.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router, routing::get};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::request_id::MakeRequestUuid;
use tower_http::{ServiceBuilderExt, trace::TraceLayer};
use tower_response_cache::{Cache, CachePolicy, Invalidate, ResponseCacheLayer, Tags};

/// What the handlers share. The cache is cheap to clone and goes into the state as it is.
#[derive(Clone)]
struct App {
    cache: Cache,
    notes: Arc<Mutex<Vec<String>>>,
    /// The calls that reached a handler.
    calls: Arc<AtomicU64>,
}

impl App {
    fn new(cache: Cache) -> Self {
        Self {
            cache,
            notes: Arc::default(),
            calls: Arc::default(),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Vec<String>> {
        // No line that holds the lock can panic.
        self.notes.lock().expect("the notes are whole")
    }

    fn count_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Who asks; put into the request by [`authenticate`].
#[derive(Clone)]
struct User(String);

fn router(app: App) -> Router {
    // A template: each route takes a clone and says what is different. All of them share the room
    // and the invalidations of one cache.
    let cached = ResponseCacheLayer::new(&app.cache);

    Router::new()
        // 60 seconds, the default.
        .route("/", get(home).layer(cached.clone()))
        // A lifetime of its own. In a tuple of layers the first is outside: what is stored has been
        // compressed already.
        .route(
            "/report",
            get(report).layer((
                cached.clone().ttl(Duration::from_secs(300)),
                CompressionLayer::new(),
            )),
        )
        // Fresh for an hour, since every change is told to the cache. `.layer` comes after all
        // methods of the route, so that the cache sees the writes as well.
        .route(
            "/notes",
            get(list_notes)
                .post(add_note)
                .layer(cached.clone().ttl(Duration::from_secs(3600))),
        )
        // Here the handler itself decides how long.
        .route("/rate", get(rate).layer(cached.clone()))
        // Each user has an answer of their own. Without `partition_by` a request with
        // `Authorization` would pass the cache by, which is safe, but never a hit.
        .route(
            "/me",
            get(me).layer((
                middleware::from_fn(authenticate),
                cached.partition_by("user", |head| {
                    head.extensions.get::<User>().map(|user| user.0.clone())
                }),
            )),
        )
        // Around all of it. In a `ServiceBuilder`, too, the first is outside.
        .layer(
            ServiceBuilder::new()
                .set_x_request_id(MakeRequestUuid)
                .layer(TraceLayer::new_for_http())
                .propagate_x_request_id()
                .layer(CorsLayer::permissive()),
        )
        .with_state(app)
}

async fn home(State(app): State<App>) -> String {
    format!("call {}", app.count_call())
}

async fn report() -> String {
    "A report that took long to make, and that is much the same all the way down.\n".repeat(100)
}

async fn list_notes(State(app): State<App>) -> impl IntoResponse {
    (Tags::new(["notes"]), Json(app.notes().clone()))
}

/// Changes the data, then says which answers were made from it: whatever has the tag is not used any
/// more, before this answer leaves. In this order: the other way round, a GET in between would store the
/// old notes again. Elsewhere `app.cache.invalidate(Selector::tag("notes"))` does the same.
async fn add_note(State(app): State<App>, note: String) -> impl IntoResponse {
    app.notes().push(note);
    (StatusCode::CREATED, Invalidate::tag("notes"))
}

/// A policy speaks to the cache alone: no field of the answer says it.
async fn rate(State(app): State<App>) -> impl IntoResponse {
    let policy = CachePolicy::ttl(Duration::from_secs(5));
    (policy, Json([("EUR", app.count_call())]))
}

async fn me(Extension(User(name)): Extension<User>) -> String {
    format!("hello {name}")
}

/// A stand-in for real authentication: the token is the name. What matters is where it stands.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let token = authorization
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match token {
        Some(name) => {
            let user = User(name.to_owned());
            request.extensions_mut().insert(user);
            next.run(request).await
        }
        None => (StatusCode::UNAUTHORIZED, "who are you?").into_response(),
    }
}

// The rest makes this a program.

/// Asks the application, without a network, and shows what came back.
async fn tour(app: &Router) -> io::Result<()> {
    let (get, post) = (Method::GET, Method::POST);
    let (alice, bob) = (
        (header::AUTHORIZATION, "Bearer alice"),
        (header::AUTHORIZATION, "Bearer bob"),
    );
    let gzip = (header::ACCEPT_ENCODING, "gzip");

    say("From the store the second time:\n")?;
    ask(app, &get, "/", None, "").await?;
    ask(app, &get, "/", None, "").await?;

    say("\nStored as it was compressed:\n")?;
    ask(app, &get, "/report", Some(&gzip), "").await?;
    ask(app, &get, "/report", Some(&gzip), "").await?;
    ask(app, &get, "/report", None, "").await?;

    say("\nStale as soon as it has changed:\n")?;
    ask(app, &get, "/notes", None, "").await?;
    ask(app, &get, "/notes", None, "").await?;
    ask(app, &post, "/notes", None, "buy milk").await?;
    ask(app, &get, "/notes", None, "").await?;

    say("\nFor five seconds, as the handler says:\n")?;
    ask(app, &get, "/rate", None, "").await?;
    ask(app, &get, "/rate", None, "").await?;

    say("\nFor each user, and for nobody else:\n")?;
    ask(app, &get, "/me", Some(&alice), "").await?;
    ask(app, &get, "/me", Some(&alice), "").await?;
    ask(app, &get, "/me", Some(&bob), "").await?;
    ask(app, &get, "/me", None, "").await
}

async fn ask(
    app: &Router,
    method: &Method,
    path: &str,
    field: Option<&(HeaderName, &str)>,
    body: &'static str,
) -> io::Result<()> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "example.com");
    if let Some((name, value)) = field {
        request = request.header(name, *value);
    }
    let request = request.body(Body::from(body)).map_err(io::Error::other)?;
    let answer = app.clone().oneshot(request).await;
    let answer = answer.unwrap_or_else(|never: Infallible| match never {});

    let status = answer.status().as_u16();
    let text = |name: &str| {
        let value = answer.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let cached = text("x-cache").unwrap_or_else(|| "-".to_owned());
    let encoding = text("content-encoding");
    let body = to_bytes(answer.into_body(), usize::MAX).await;
    let body = body.map_err(io::Error::other)?;
    let shown = match encoding {
        None if body.len() < 100 => String::from_utf8_lossy(&body).into_owned(),
        None => format!("({} bytes)", body.len()),
        Some(encoding) => format!("({} bytes of {encoding})", body.len()),
    };
    let line = format!(
        "  {:4} {path:7} {status} {cached:4} {shown}",
        method.as_str()
    );
    say(&format!("{}\n", line.trim_end()))
}

const HELP: &str = "\
An application with a cache in several of its places.

Usage: cache_middleware [--listen ADDRESS] [--once]

  --listen ADDRESS   where to listen [127.0.0.1:3000]
  --once             ask a few times, show the answers, and end
  --help             show this
";

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return finish(say(HELP)),
        Err(sentence) => {
            let _ = writeln!(io::stderr(), "{sentence}");
            return ExitCode::from(2);
        }
    };
    let cache = Cache::in_memory();
    let app = router(App::new(cache.clone()));
    let result = if options.once {
        tour(&app).await
    } else {
        serve(app, options.listen).await
    };
    let _ = say(&format!("\n{}\n", cache.stats()));
    // Ends what still runs in the background.
    cache.close().await;
    finish(result)
}

async fn serve(app: Router, address: SocketAddr) -> io::Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(io::stderr)
        .init();
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let choose = "choose another address with --listen";
        io::Error::new(error.kind(), format!("{error} on {address}; {choose}"))
    })?;
    say(&format!("listening on http://{}\n", listener.local_addr()?))?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await
}

struct Options {
    listen: SocketAddr,
    once: bool,
}

/// Reads the command line: `Ok(None)` is the wish for help, an error is a sentence for the user.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut options = Options {
        listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
        once: false,
    };
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--once") => options.once = true,
            Some("--listen") => {
                let value = arguments.next().unwrap_or_default();
                let address = value.to_str().and_then(|text| text.parse().ok());
                options.listen = address.ok_or_else(|| {
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
    Ok(Some(options))
}

/// Prints; unlike `print!` without a panic where nobody reads it any more.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
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
