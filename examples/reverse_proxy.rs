//! A reverse proxy with the cache in front of an HTTP server that exists already.
//!
//! ```text
//! cargo run --release --example reverse_proxy -- --listen 127.0.0.1:8080 --origin http://127.0.0.1:9000
//! curl -i http://127.0.0.1:8080/
//! ```
//!
//! One request passes through three parts, from the outside in:
//!
//! 1. `answer`, the edge: what belongs to one connection only is taken off, errors become `502`.
//! 2. `ResponseCacheLayer`: answers from the store, or asks the part below.
//! 3. `forward`, the hop: sends the request to the origin and hands back what the origin said.
//!
//! The order matters. The request is cleaned *before* the cache sees it: a client may list any field
//! in `Connection`, and the cache must choose by the fields that the origin will see too, otherwise
//! one client could have the answer to a request without `Accept-Language` stored under its own
//! `Accept-Language`. The response is cleaned *after* the cache saw it: an origin that sends
//! `Connection: Set-Cookie` has set a cookie, and such a response must not be stored.
//!
//! The proxy adds nothing to a message, neither `Via` nor `X-Forwarded-For`: the origin shall answer
//! as if it were asked directly, and some servers change their answers (nginx turns compression off)
//! when they see a `Via`. `Date` is the exception: a response that has none gets one, as RFC 9110,
//! section 6.6.1 asks of everybody who passes it on.
//!
//! What hyper does not do is not done here: interim (1xx) responses of the origin are not passed on;
//! a `100 Continue` is sent by the proxy itself.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    self, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::rt;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::util::MapResponse;
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{Cache, CacheBuilder, ResponseCacheLayer};

const HELP: &str = "\
A caching reverse proxy in front of one HTTP/1.1 server.

Usage: reverse_proxy --listen ADDRESS --origin URL [OPTIONS]

  --listen ADDRESS   where to listen, as in 127.0.0.1:8080; port 0 takes a free one
  --origin URL       the server to ask, as in http://127.0.0.1:9000; without a path
  --preset NAME      the rules: default, careful with what could be personal; or rfc9111, all
                     that the standard allows a shared cache [default]
  --ttl SECONDS      how long a response that says nothing about it is fresh;
                     0 stores no such response [60; 0 with rfc9111]
  --memory MIB       the room for stored responses [64]
  --max-body BYTES   the largest body that is stored [1048576]
  --redis URL        a Redis behind the memory, shared with other proxies of this origin,
                     as in redis://127.0.0.1:6379; needs a build with `--features redis`
  --namespace NAME   begins the keys there; proxies that share have the same
                     [reverse_proxy:HOST:PORT, with host and port of the origin]
  --help             show this

Prints `listening on http://ADDRESS` when it is ready. SIGTERM or ctrl-c end it: no new
connection is taken, and requests under way get 10 seconds to finish. Without Redis it goes on
from memory, says so on a line, and uses Redis as soon as it is there.
";

/// How long requests under way may take to finish once the end is asked for.
const GRACE: Duration = Duration::from_secs(10);

/// How long an unused connection to the origin is kept. Short, because a server that closes it just
/// when the next request is on its way would cost that request a `502`; many servers wait 5 s.
const IDLE: Duration = Duration::from_secs(1);

/// More fields than this in one head are refused. hyper's own limit is 100, which real responses
/// reach. The size of a head is limited by hyper's buffer of about 400 KiB, enough for fields of
/// 64 KiB each.
const MAX_FIELDS: usize = 1000;

// ---------------------------------------------------------------------------------------------
// The three parts
// ---------------------------------------------------------------------------------------------

/// The edge: cleans the request, asks the cache, cleans the response.
async fn answer<S, B>(
    cached: S,
    mut request: Request<Incoming>,
) -> Result<Response<Either<B, Full<Bytes>>>, Infallible>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = HopError>,
{
    if let Err((status, sentence)) = clean_request(&mut request) {
        return Ok(say(status, sentence));
    }
    Ok(match cached.oneshot(request).await {
        Ok(mut response) => {
            clean_response(&mut response);
            response.map(Either::Left)
        }
        // Made out here, so that the cache has seen a failure of the origin, not a response of it.
        Err(error) => {
            log(&error);
            say(StatusCode::BAD_GATEWAY, error.sentence)
        }
    })
}

type Origin = Client<MapResponse<HttpConnector, fn(Socket) -> StillHeard>, Incoming>;

/// The hop: sends the request to the origin. Bodies stream in both directions, and a side that reads
/// slowly slows the other.
async fn forward(
    client: Origin,
    authority: Authority,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>, HopError> {
    // The `Host` field stays as the client wrote it; this URI only says where to connect.
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(authority);
    *request.uri_mut() = Uri::from_parts(target).map_err(|error| HopError {
        sentence: "The request names no path that can be asked for.",
        cause: Some(Box::new(error)),
    })?;
    *request.version_mut() = Version::HTTP_11;
    let client_side = request
        .headers()
        .contains_key(UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));

    let mut response = client.request(request).await.map_err(|error| HopError {
        sentence: if error.is_connect() {
            "The server behind this proxy cannot be reached."
        } else {
            "The server behind this proxy gave no complete answer."
        },
        cause: Some(Box::new(error)),
    })?;

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_side) = client_side else {
            return Err(HopError {
                sentence: "The server behind this proxy changed protocols unasked.",
                cause: None,
            });
        };
        let origin_side = hyper::upgrade::on(&mut response);
        tokio::spawn(tunnel(client_side, origin_side));
    }
    // RFC 9112, section 6.3: where both are there, Transfer-Encoding says how the body ends, and
    // the length is void. It goes before anybody believes it.
    if response.headers().contains_key(TRANSFER_ENCODING) {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    Ok(response)
}

/// After `101 Switching Protocols` (a WebSocket, for instance): bytes in both directions until both
/// sides have ended.
async fn tunnel(client: hyper::upgrade::OnUpgrade, origin: hyper::upgrade::OnUpgrade) {
    // Either side may be gone before it comes to this; then dropping the other ends it, too.
    if let (Ok(client), Ok(origin)) = tokio::join!(client, origin) {
        let (mut client, mut origin) = (TokioIo::new(client), TokioIo::new(origin));
        let _ = tokio::io::copy_bidirectional(&mut client, &mut origin).await;
    }
}

/// The origin gave no response.
#[derive(Debug)]
struct HopError {
    /// For the client: nothing about addresses in here.
    sentence: &'static str,
    /// For the log.
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl fmt::Display for HopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence)
    }
}

impl Error for HopError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// The plain connection to the origin.
type Socket = TokioIo<TcpStream>;

/// A connection to an origin that is still heard when it no longer listens.
///
/// A server may answer before it has read the body of a request (`413`, most often), and close. The
/// rest of the body then cannot be written, and hyper would give up with that error although the
/// answer has arrived. So what the origin does not want to hear is dropped here, and the answer is
/// read. Without one the request fails all the same, at the end of what there is to read.
#[derive(Debug)]
struct StillHeard {
    socket: Socket,
    listens: bool,
}

impl StillHeard {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            listens: true,
        }
    }

    /// Does `write`, unless the origin has stopped listening; then `otherwise` is the answer.
    fn while_listening<T>(
        &mut self,
        otherwise: T,
        write: impl FnOnce(Pin<&mut Socket>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.listens {
            match write(Pin::new(&mut self.socket)) {
                Poll::Ready(Err(error)) if is_closed(&error) => self.listens = false,
                written => return written,
            }
        }
        Poll::Ready(Ok(otherwise))
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionReset | ConnectionAborted
    )
}

impl rt::Read for StillHeard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl rt::Write for StillHeard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.while_listening(bytes.len(), |socket| socket.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = pieces.iter().map(|piece| piece.len()).sum();
        self.while_listening(all, |socket| socket.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.while_listening((), |socket| socket.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.while_listening((), |socket| socket.poll_shutdown(cx))
    }
}

impl Connection for StillHeard {
    fn connected(&self) -> Connected {
        self.socket.connected()
    }
}

// ---------------------------------------------------------------------------------------------
// What belongs to one connection only (RFC 9110, section 7.6.1)
// ---------------------------------------------------------------------------------------------

/// Brings the request into the form in which the origin will see it.
fn clean_request<B>(request: &mut Request<B>) -> Result<(), (StatusCode, &'static str)> {
    if request.method() == Method::CONNECT {
        return Err((
            StatusCode::NOT_IMPLEMENTED,
            "This proxy stands in front of one server and opens no tunnels.",
        ));
    }

    // RFC 9112, section 3.2.2: a request line with a whole URI decides which host is meant.
    if let Some(authority) = request.uri().authority() {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(HOST, host);
        }
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.unwrap_or(PathAndQuery::from_static("/")).into();
    }
    // RFC 9112, section 3.2: two hosts, or none, is how one server is made to answer for another.
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err((
            StatusCode::BAD_REQUEST,
            "A request needs exactly one Host field.",
        ));
    }

    let is_11 = request.version() == Version::HTTP_11;
    let fields = request.headers_mut();
    // Two wishes concern the next hop as well, and are told to it anew: to be sent trailers, and to
    // go on in another protocol.
    let trailers = fields
        .get(TE)
        .filter(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"))
        .cloned();
    let upgrade = fields
        .get(UPGRADE)
        .filter(|_| is_11 && listed_in_connection(fields).contains(&UPGRADE))
        .cloned();
    // `Transfer-Encoding` stays: it says that a body follows, and tells hyper to send it as it came.
    remove_hop_by_hop(fields);
    for (name, wish) in [(TE, trailers), (UPGRADE, upgrade)] {
        if let Some(wish) = wish {
            fields.append(CONNECTION, HeaderValue::from(name.clone()));
            fields.insert(name, wish);
        }
    }
    Ok(())
}

/// Takes off what the origin said to this proxy, not to the client.
fn clean_response<B>(response: &mut Response<B>) {
    *response.version_mut() = Version::HTTP_11;
    // A 101 is about this very connection.
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        remove_hop_by_hop(response.headers_mut());
        // hyper chooses the framing that fits this client.
        response.headers_mut().remove(TRANSFER_ENCODING);
    }
}

fn remove_hop_by_hop(fields: &mut HeaderMap) {
    for name in listed_in_connection(fields) {
        fields.remove(name);
    }
    for name in [
        CONNECTION,
        TE,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        fields.remove(name);
    }
}

/// The fields that `Connection` lists, but for those that a message cannot be understood without.
fn listed_in_connection(fields: &HeaderMap) -> Vec<HeaderName> {
    fields
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name))
        .collect()
}

/// A response of the proxy's own.
fn say<B>(status: StatusCode, sentence: &'static str) -> Response<Either<B, Full<Bytes>>> {
    let body = Full::new(Bytes::from_static(sentence.as_bytes()));
    let mut response = Response::new(Either::Right(body));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

// ---------------------------------------------------------------------------------------------
// The server
// ---------------------------------------------------------------------------------------------

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let _ = io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(sentence) => return fail(2, &sentence),
    };
    let mut builder = Cache::builder().memory(options.memory);
    if let Some((url, namespace)) = &options.redis {
        builder = match with_redis(builder, url, namespace) {
            Ok(builder) => builder,
            Err(sentence) => return fail(2, sentence),
        };
        log_changes();
    }
    let cache = match builder.build() {
        Ok(cache) => cache,
        Err(error) => return fail(2, &format!("The options cannot be used: {error}.")),
    };
    // Before there is a client, so that the first one may have a hit already. Without Redis it goes
    // on: the cache itself has said why, and keeps trying.
    let _ = cache.connect().await;
    let listener = match TcpListener::bind(&options.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            let listen = &options.listen;
            return fail(
                1,
                &format!("Cannot listen on {listen} ({error}): choose another --listen."),
            );
        }
    };
    match serve(options, &cache, listener).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &format!("The proxy had to stop: {error}.")),
    }
}

async fn serve(options: Options, cache: &Cache, listener: TcpListener) -> io::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(10)));
    let client: Origin = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_max_headers(MAX_FIELDS)
        // RFC 9112, sections 5.1 and 5.2: two old spellings that a proxy has to repair.
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .build(connector.map_response(StillHeard::new as fn(Socket) -> StillHeard));

    let origin = options.origin;
    let hop = tower::service_fn(move |request| forward(client.clone(), origin.clone(), request));
    let layer = match options.is_rfc9111 {
        true => ResponseCacheLayer::rfc9111(cache),
        false => ResponseCacheLayer::new(cache),
    };
    let cached = layer
        .ttl(options.ttl)
        .max_body_size(options.max_body)
        .layer(hop);

    // Before the line below: whoever has read it may end the process, and in good order.
    let end = end_asked_for()?;
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on http://{}", listener.local_addr()?)?;
    stdout.flush()?;

    accept(listener, cached, end).await;
    cache.close().await;
    Ok(())
}

/// Takes connections until `end`, then waits for those that still have a request under way.
async fn accept<S, B>(listener: TcpListener, cached: S, end: impl Future<Output = ()>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = HopError>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut end = pin!(end);
    // Each connection holds a receiver: it hears of the end, and "no receiver left" is "all done".
    let (stop, stopping) = watch::channel(());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of file descriptors, most likely: some will come free.
                Err(error) => {
                    log(&error);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut end => break,
        };
        let _ = stream.set_nodelay(true);
        let cached = cached.clone();
        let mut stopping = stopping.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(cached.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                // With a timer, a client has 30 seconds to send a head.
                .timer(TokioTimer::new())
                .max_headers(MAX_FIELDS)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let mut connection = pin!(connection);
            // What goes wrong on one connection (the client went away, the origin broke off in
            // mid-body) ends that connection and concerns no other.
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = stopping.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
    drop((listener, stopping));
    let _ = stop.send(());
    let _ = tokio::time::timeout(GRACE, stop.closed()).await;
}

/// Ends with SIGTERM or ctrl-c; they are listened to from this call on.
#[cfg(unix)]
fn end_asked_for() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Ends with ctrl-c.
#[cfg(not(unix))]
fn end_asked_for() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// Redis behind the memory.
#[cfg(feature = "redis")]
fn with_redis(
    builder: CacheBuilder,
    url: &str,
    namespace: &str,
) -> Result<CacheBuilder, &'static str> {
    Ok(builder.redis(url, namespace))
}

#[cfg(not(feature = "redis"))]
fn with_redis(_: CacheBuilder, _: &str, _: &str) -> Result<CacheBuilder, &'static str> {
    Err("This build cannot do --redis: build it with `--features redis`, or leave --redis out.")
}

/// What the cache says of Redis, a line for each change, goes to stderr with the rest.
fn log_changes() {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        // Where nobody reads stderr any more, that is no reason to panic.
        .log_internal_errors(false)
        .init();
}

/// One line on stderr, with all causes. (`eprintln!` would panic where nobody reads stderr any more.)
fn log(error: &dyn Error) {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(&format!(" <- {cause}"));
        source = cause.source();
    }
    let _ = writeln!(io::stderr(), "{line}");
}

fn fail(code: u8, sentence: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{sentence}");
    ExitCode::from(code)
}

// ---------------------------------------------------------------------------------------------
// The command line
// ---------------------------------------------------------------------------------------------

struct Options {
    listen: String,
    origin: Authority,
    is_rfc9111: bool,
    ttl: Duration,
    memory: u64,
    max_body: u64,
    /// URL and namespace.
    redis: Option<(String, String)>,
}

/// Each option with a value that could be given to it, to be shown where one is missing or wrong.
const OPTIONS: [(&str, &str); 8] = [
    ("--listen", "127.0.0.1:8080"),
    ("--origin", "http://127.0.0.1:9000"),
    ("--preset", "default"),
    ("--ttl", "60"),
    ("--memory", "64"),
    ("--max-body", "1048576"),
    ("--redis", "redis://127.0.0.1:6379"),
    ("--namespace", "shop"),
];

/// Reads the command line: `Ok(None)` is the wish for help, an error is a sentence for the user.
fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut given = HashMap::new();
    let mut arguments = arguments.map(|argument| {
        argument
            .into_string()
            .map_err(|argument| format!("{argument:?} is not UTF-8: write the option as text."))
    });
    while let Some(argument) = arguments.next() {
        let argument = argument?;
        if argument == "--help" || argument == "-h" {
            return Ok(None);
        }
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let Some(&(name, example)) = OPTIONS.iter().find(|(known, _)| *known == name) else {
            return Err(format!("There is no option {name:?}: see --help for all."));
        };
        let value = match inline {
            Some(value) => value,
            None => arguments.next().transpose()?.unwrap_or_default(),
        };
        if value.is_empty() || value.starts_with("--") {
            return Err(format!("{name} needs a value, as in {name} {example}."));
        }
        if given.insert(name, value).is_some() {
            return Err(format!("{name} is given twice: leave one out."));
        }
    }

    let is_rfc9111 = match given.get("--preset").map(String::as_str) {
        None | Some("default") => false,
        Some("rfc9111") => true,
        Some(other) => {
            return Err(format!(
                "There is no preset {other:?}: write --preset default, or --preset rfc9111."
            ));
        }
    };

    let needed = |name: &str, example: &str| {
        given
            .get(name)
            .cloned()
            .ok_or_else(|| format!("{name} is missing: add it, as in {name} {example}."))
    };
    let number = |name: &str, default: u64| match given.get(name) {
        None => Ok(default),
        Some(text) => text.parse::<u64>().map_err(|_| {
            format!("{name} takes a whole number, not {text:?}: write {name} {default}.")
        }),
    };

    let origin = needed("--origin", "http://127.0.0.1:9000")?;
    let listen = needed("--listen", "127.0.0.1:8080")?;
    let port = listen
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        return Err(format!(
            "--listen takes a host and a port, not {listen:?}: write 127.0.0.1:8080."
        ));
    }
    let origin = parse_origin(&origin)?;
    let is_itself = |address: SocketAddr| address.port() != 0 && origin.as_str() == listen;
    if listen.parse().is_ok_and(is_itself) {
        return Err("The proxy would ask itself: --listen and --origin must differ.".to_owned());
    }
    let memory = number("--memory", 64)?;
    if memory == 0 {
        return Err("A cache needs room: give --memory at least 1.".to_owned());
    }
    let redis = match (given.get("--redis"), given.get("--namespace")) {
        (None, None) => None,
        (None, Some(_)) => {
            return Err("--namespace is for Redis: add --redis, or leave it out.".to_owned());
        }
        (Some(url), Some(namespace)) => Some((url.clone(), namespace.clone())),
        (Some(url), None) => Some((url.clone(), namespace_of(&origin)?)),
    };
    Ok(Some(Options {
        listen,
        origin,
        is_rfc9111,
        ttl: Duration::from_secs(number("--ttl", if is_rfc9111 { 0 } else { 60 })?),
        memory: memory
            .checked_mul(1024 * 1024)
            .ok_or_else(|| format!("No machine has {memory} MiB: give --memory less."))?,
        max_body: number("--max-body", 1024 * 1024)?,
        redis,
    }))
}

/// Where nobody named one: each origin has its own, so that two proxies with one Redis never answer
/// for each other's origin.
fn namespace_of(origin: &Authority) -> Result<String, String> {
    let port = origin.port_u16().unwrap_or(80);
    let mut namespace = format!("reverse_proxy:{}:{port}", origin.host());
    // The brackets of an IPv6 address cannot be part of it.
    namespace.retain(|sign| sign.is_ascii_alphanumeric() || "._-:".contains(sign));
    if namespace.len() > 64 {
        return Err(
            "The name of the origin is too long to begin Redis keys: add --namespace, \
             as in --namespace shop."
                .to_owned(),
        );
    }
    Ok(namespace)
}

/// The origin is scheme, host and port. A path would have to be taken off and put on again in
/// `Location`, in cookies and in pages, which no faithful hop can do, so there is none.
fn parse_origin(text: &str) -> Result<Authority, String> {
    let wrong = |what: &str| {
        Err(format!(
            "--origin {text:?} {what}: write it as in http://127.0.0.1:9000."
        ))
    };
    let Ok(uri) = text.parse::<Uri>() else {
        return wrong("is not a URL");
    };
    let parts = uri.into_parts();
    match parts.scheme.as_ref().map(Scheme::as_str) {
        Some("http") => {}
        Some("https") => return wrong("needs TLS, which this example does not speak"),
        _ => return wrong("is not an http URL"),
    }
    if parts.path_and_query.is_some_and(|path| path != "/") {
        return wrong("has a path, and only whole servers can be proxied");
    }
    match parts.authority {
        Some(authority) if authority.as_str().contains('@') => wrong("has a user name"),
        // A port that is no number between 1 and 65535 reads as none.
        Some(authority)
            if authority.as_str() != authority.host()
                && !matches!(authority.port_u16(), Some(1..)) =>
        {
            wrong("has an impossible port")
        }
        Some(authority) if !authority.host().is_empty() => Ok(authority),
        _ => wrong("names no host"),
    }
}
