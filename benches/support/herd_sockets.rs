//! What a route costs that is never cached, over sockets: an axum server with and without the layer,
//! each in a thread of its own, and one client thread with some connections that are kept.
//!
//! The client knows how long an answer is and reads no more of it than that: the server is what
//! takes the time.

use std::{net::SocketAddr, thread, time::Instant};

use axum::{Router, response::IntoResponse, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tower_response_cache::{Cache, ResponseCacheLayer};

use crate::support::Row;

/// The name of the row.
pub(crate) const NAME: &str = "uncacheable_over_sockets";

const CONNECTIONS: usize = 16;
/// On each connection, one after the other.
const REQUESTS: usize = 250;
const ROUNDS: usize = 60;
const REQUEST: &[u8] = b"GET /mine HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\
    user-agent: bench/1.0\r\naccept-encoding: gzip, br\r\n\r\n";

async fn mine() -> impl IntoResponse {
    let fields = [
        ("cache-control", "no-store"),
        ("content-type", "application/json"),
    ];
    (fields, "x".repeat(1024))
}

/// Serves until the process ends; says where.
fn serve(app: Router) -> SocketAddr {
    let (tell, told) = oneshot::channel();
    thread::spawn(move || {
        local().block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let here = listener.local_addr().expect("bound");
            tell.send(here).expect("somebody wants to know");
            let served = axum::serve(
                axum::serve::ListenerExt::tap_io(listener, |stream| {
                    stream.set_nodelay(true).expect("a socket");
                }),
                app,
            );
            served.await.expect("it goes on");
        });
    });
    told.blocking_recv().expect("it serves")
}

fn local() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A connection, and how long an answer on it is.
struct Connection {
    stream: TcpStream,
    length: usize,
}

impl Connection {
    async fn new(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let mut this = Self { stream, length: 0 };
        // The first answer of all may be said to be missed in other words than the later ones.
        for _ in 0..2 {
            this.stream.write_all(REQUEST).await.expect("open");
            this.length = this.read_first().await;
        }
        this
    }

    async fn read_first(&mut self) -> usize {
        let mut read = Vec::new();
        loop {
            self.stream.read_buf(&mut read).await.expect("open");
            let head = read.windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(head) = head.filter(|head| read.len() >= head + 4 + 1024) {
                assert!(read.starts_with(b"HTTP/1.1 200"));
                assert_eq!(read.len(), head + 4 + 1024);
                return read.len();
            }
        }
    }

    async fn ask(mut self) -> Self {
        let mut buffer = vec![0; self.length];
        for _ in 0..REQUESTS {
            self.stream.write_all(REQUEST).await.expect("open");
            self.stream.read_exact(&mut buffer).await.expect("open");
            assert!(buffer.ends_with(b"x"), "another length");
        }
        self
    }
}

/// Nanoseconds of each request.
async fn round(connections: &mut Vec<Connection>) -> f64 {
    let begin = Instant::now();
    let asking: Vec<_> = connections
        .drain(..)
        .map(|connection| tokio::spawn(connection.ask()))
        .collect();
    for asking in asking {
        connections.push(asking.await.expect("no request fails"));
    }
    begin.elapsed().as_nanos() as f64 / (CONNECTIONS * REQUESTS) as f64
}

/// In turns, and the best round of each: noise only adds.
pub(crate) fn row() -> Row {
    let app = Router::new().route("/mine", get(mine));
    let cache = Cache::in_memory();
    let cached = app.clone().layer(ResponseCacheLayer::new(&cache));
    let servers = [serve(app), serve(cached)];
    let mut times = [f64::INFINITY; 2];
    local().block_on(async {
        let mut connections = [Vec::new(), Vec::new()];
        for (connections, server) in connections.iter_mut().zip(servers) {
            for _ in 0..CONNECTIONS {
                connections.push(Connection::new(server).await);
            }
        }
        for _ in 0..ROUNDS {
            for (time, connections) in times.iter_mut().zip(&mut connections) {
                *time = time.min(round(connections).await);
            }
        }
    });
    let stats = cache.stats();
    assert_eq!((stats.stored(), stats.hits()), (0, 0), "{stats}");
    assert!(stats.fills() as usize > ROUNDS * CONNECTIONS * REQUESTS);
    Row {
        name: NAME,
        reference: times[0],
        figure: times[1],
        bound: Some(1.05 * times[0]),
    }
}
