//! The layer on plain hyper, asked by a real client over a loopback socket, with HTTP/1 and HTTP/2.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support;
use crate::support::feed::{Feed, FeedBody, feed, whole};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tower::Layer;
use tower_response_cache::{Cache, ResponseCacheLayer};

type Script = Arc<dyn Fn(usize, Request<Incoming>) -> Response<FeedBody> + Send + Sync>;

/// A hyper server whose service is behind the layer; ends with the runtime of its test.
struct Server {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    cache: Cache,
}

impl Server {
    async fn start(
        script: impl Fn(usize, Request<Incoming>) -> Response<FeedBody> + Send + Sync + 'static,
    ) -> Self {
        let script: Script = Arc::new(script);
        let calls = Arc::<AtomicUsize>::default();
        let counting = calls.clone();
        let cache = support::in_memory();
        let service = tower::service_fn(move |request| {
            let call = counting.fetch_add(1, Ordering::SeqCst) + 1;
            std::future::ready(Ok::<_, Infallible>(script(call, request)))
        });
        let service = ResponseCacheLayer::new(&cache).layer(service);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(service.clone());
                let server = auto::Builder::new(TokioExecutor::new());
                let connection = server.serve_connection(TokioIo::new(stream), service);
                // An answer that breaks off breaks its connection, which is no matter here.
                tokio::spawn(connection.into_owned());
            }
        });
        Self {
            address,
            calls,
            cache,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// A client with one connection.
enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

impl Client {
    async fn connect(server: &Server, version: Version) -> Self {
        let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
        if version == Version::HTTP_2 {
            let executor = TokioExecutor::new();
            let (client, connection) = hyper::client::conn::http2::handshake(executor, stream)
                .await
                .unwrap();
            tokio::spawn(connection);
            Self::Http2(client)
        } else {
            let (client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(client)
        }
    }

    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Response<Incoming> {
        let request = Request::builder().method(method);
        let mut request = match self {
            Self::Http1(_) => request.uri(path).header("host", "test"),
            Self::Http2(_) => request.uri(format!("http://test{path}")),
        };
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).unwrap();
        match self {
            Self::Http1(client) => {
                client.ready().await.unwrap();
                client.send_request(request).await.unwrap()
            }
            Self::Http2(client) => client.send_request(request).await.unwrap(),
        }
    }

    async fn get(&mut self, path: &str) -> (StatusCode, HeaderMap, String) {
        let (head, body) = self.ask("GET", path, &[]).await.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (head.status, head.headers, text)
    }
}

fn named(call: usize, request: &Request<Incoming>) -> Response<FeedBody> {
    let path = request.uri().path();
    Response::new(whole(format!("{call} {} {path}", request.method())))
}

#[tokio::test]
async fn a_second_request_is_a_hit_on_http_1_and_2() {
    for version in VERSIONS {
        let server = Server::start(|call, request| named(call, &request)).await;
        let mut client = Client::connect(&server, version).await;
        let (status, fields, body) = client.get("/a").await;
        assert_eq!(
            (status, &*body),
            (StatusCode::OK, "1 GET /a"),
            "{version:?}"
        );
        assert_eq!(fields["x-cache"], "MISS");
        let mut other = Client::connect(&server, version).await;
        for client in [&mut client, &mut other] {
            let (status, fields, body) = client.get("/a").await;
            assert_eq!(
                (status, &*body),
                (StatusCode::OK, "1 GET /a"),
                "{version:?}"
            );
            assert_eq!(fields["x-cache"], "HIT");
            assert_eq!(fields["content-length"], "8");
            assert_eq!(fields.get_all("date").iter().count(), 1);
            assert!(fields.contains_key("age"));
        }
        let (_, _, body) = client.get("/b").await;
        assert_eq!(body, "2 GET /b");
        let head = client.ask("HEAD", "/a", &[]).await;
        assert_eq!(head.headers()["x-cache"], "HIT");
        assert_eq!(head.headers()["content-length"], "8");
        assert_eq!(head.into_body().collect().await.unwrap().to_bytes(), "");
        let post = client.ask("POST", "/a", &[]).await;
        assert_eq!(post.headers().get("x-cache"), None);
        let body = post.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "3 POST /a");
        assert_eq!(server.calls(), 3);
    }
}

#[tokio::test]
async fn empty_answers_and_those_without_a_body_come_back_as_they_were() {
    for version in VERSIONS {
        let server = Server::start(|_, request| {
            let response = match request.uri().path() {
                "/none" => Response::builder().status(204),
                "/moved" => Response::builder().status(301).header("location", "/a"),
                _ => Response::builder().header("x-whose", "empty"),
            };
            response.body(whole("")).unwrap()
        })
        .await;
        let mut client = Client::connect(&server, version).await;
        for (path, status) in [("/none", 204), ("/moved", 301), ("/empty", 200)] {
            let (cold, cold_fields, body) = client.get(path).await;
            assert_eq!((cold.as_u16(), &*body), (status, ""), "{version:?} {path}");
            assert_eq!(cold_fields["x-cache"], "MISS");
            let (warm, warm_fields, body) = client.get(path).await;
            assert_eq!((warm.as_u16(), &*body), (status, ""), "{version:?} {path}");
            assert_eq!(warm_fields["x-cache"], "HIT");
            for name in ["location", "x-whose", "content-length", "date"] {
                assert_eq!(
                    cold_fields.get(name),
                    warm_fields.get(name),
                    "{path}: {name}"
                );
            }
        }
        assert_eq!(server.calls(), 3);
    }
}

/// A server whose every answer is fed by the test, with this field; the feeds in the order of the
/// calls.
async fn fed(
    length: Option<u64>,
    field: (&'static str, &'static str),
) -> (Server, Arc<Mutex<Vec<Feed>>>) {
    let feeds = Arc::<Mutex<Vec<Feed>>>::default();
    let give = feeds.clone();
    let server = Server::start(move |_, _| {
        let (hand, body) = feed(length);
        give.lock().unwrap().push(hand);
        let response = Response::builder().header(field.0, field.1);
        response.body(body).unwrap()
    })
    .await;
    (server, feeds)
}

fn take(feeds: &Mutex<Vec<Feed>>) -> Feed {
    feeds.lock().unwrap().remove(0)
}

async fn next(body: &mut Incoming) -> Bytes {
    let frame = body.frame().await.expect("not the end").unwrap();
    frame.into_data().expect("data")
}

#[tokio::test]
async fn the_first_byte_reaches_the_client_while_the_handler_is_held() {
    for version in VERSIONS {
        for length in [None, Some(10)] {
            let (server, feeds) = fed(length, ("x-whose", "held")).await;
            let mut client = Client::connect(&server, version).await;
            let response = client.ask("GET", "/", &[]).await;
            assert_eq!(response.headers()["x-whose"], "held");
            let mut body = response.into_body();
            let hand = take(&feeds);
            hand.data("first");
            assert_eq!(next(&mut body).await, "first", "{version:?} {length:?}");
            hand.data(" last");
            drop(hand);
            let rest = body.collect().await.unwrap().to_bytes();
            assert_eq!(rest, " last");
            let (_, fields, body) = client.get("/").await;
            assert_eq!(
                (&fields["x-cache"], &*body),
                (&"HIT".parse().unwrap(), "first last")
            );
            assert_eq!(server.calls(), 1);
        }
    }
}

#[tokio::test]
async fn an_event_stream_flows_and_ends_when_its_client_goes() {
    for version in VERSIONS {
        let (server, feeds) = fed(None, ("content-type", "text/event-stream")).await;
        let mut client = Client::connect(&server, version).await;
        let mut body = client.ask("GET", "/", &[]).await.into_body();
        let hand = take(&feeds);
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            hand.data(event);
            assert_eq!(next(&mut body).await, event);
        }
        // Another client has a stream of its own.
        let mut other = Client::connect(&server, version).await;
        let mut others = other.ask("GET", "/", &[]).await.into_body();
        let of_other = take(&feeds);
        of_other.data("data: of the other\n\n");
        assert_eq!(next(&mut others).await, "data: of the other\n\n");
        drop((body, client));
        hand.gone().await;
        assert!(!of_other.is_gone());
        of_other.data("data: still\n\n");
        assert_eq!(next(&mut others).await, "data: still\n\n");
        assert_eq!(server.calls(), 2);
        assert_eq!(server.cache.stats().entries(), 0);
    }
}

#[tokio::test]
async fn a_client_gone_midway_leaves_a_whole_answer_for_the_next() {
    for version in VERSIONS {
        let (server, feeds) = fed(Some(10), ("x-whose", "shared")).await;
        let mut client = Client::connect(&server, version).await;
        let mut body = client.ask("GET", "/", &[]).await.into_body();
        let hand = take(&feeds);
        hand.data("first");
        assert_eq!(next(&mut body).await, "first");
        drop((body, client));
        let mut other = Client::connect(&server, version).await;
        let mut others = other.ask("GET", "/", &[]).await.into_body();
        assert_eq!(next(&mut others).await, "first");
        hand.data(" last");
        drop(hand);
        assert_eq!(others.collect().await.unwrap().to_bytes(), " last");
        assert_eq!(server.calls(), 1);
        let (_, fields, body) = other.get("/").await;
        assert_eq!(
            (&fields["x-cache"], &*body),
            (&"HIT".parse().unwrap(), "first last")
        );
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_for_its_client_and_for_those_who_share_it() {
    for version in VERSIONS {
        for length in [None, Some(10)] {
            let (server, feeds) = fed(length, ("x-whose", "broken")).await;
            let mut client = Client::connect(&server, version).await;
            let mut body = client.ask("GET", "/", &[]).await.into_body();
            let hand = take(&feeds);
            hand.data("half");
            assert_eq!(next(&mut body).await, "half");
            let sharing = if length.is_some() {
                let mut other = Client::connect(&server, version).await;
                let mut others = other.ask("GET", "/", &[]).await.into_body();
                assert_eq!(next(&mut others).await, "half");
                Some((other, others))
            } else {
                None
            };
            hand.fail("the disk is gone");
            assert!(body.collect().await.is_err(), "{version:?} {length:?}");
            if let Some((_, others)) = sharing {
                assert!(others.collect().await.is_err(), "{version:?}");
            }
            assert_eq!((server.calls(), server.cache.stats().stored()), (1, 0));
        }
    }
}

#[tokio::test]
async fn trailers_reach_the_client_on_http_2() {
    let (server, feeds) = fed(None, ("x-whose", "with trailers")).await;
    let mut client = Client::connect(&server, Version::HTTP_2).await;
    for call in 1..=2 {
        let body = client.ask("GET", "/", &[]).await.into_body();
        let hand = take(&feeds);
        hand.data("body");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "of the body".parse().unwrap());
        hand.trailers(trailers);
        drop(hand);
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-checksum"], "of the body");
        assert_eq!(collected.to_bytes(), "body");
        assert_eq!(server.calls(), call, "nothing is stored");
    }
}

#[tokio::test]
async fn an_axum_server_around_which_the_layer_stands_answers_from_the_store() {
    use axum::{Router, ServiceExt, routing::get};

    let cache = support::in_memory();
    let calls = Arc::<AtomicUsize>::default();
    let counting = calls.clone();
    let router = Router::new().route(
        "/",
        get(move || {
            let call = counting.fetch_add(1, Ordering::SeqCst) + 1;
            async move { format!("call {call}") }
        }),
    );
    let app = ResponseCacheLayer::new(&cache).layer(router);
    let app = tower::ServiceExt::<Request<axum::body::Body>>::map_response(app, |response| {
        Response::map(response, axum::body::Body::new)
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let make = ServiceExt::<axum::extract::Request>::into_make_service(app);
    tokio::spawn(async move { axum::serve(listener, make).await });
    let server = Server {
        address,
        calls,
        cache,
    };
    for version in VERSIONS {
        let mut client = Client::connect(&server, version).await;
        for _ in 0..2 {
            let (status, _, body) = client.get("/").await;
            assert_eq!(status, StatusCode::OK);
            // Its scheme and authority are those of HTTP/1 or of HTTP/2: one key or two.
            assert!(
                ["call 1", "call 2"].contains(&&*body),
                "{version:?}: {body}"
            );
        }
    }
    assert!((1..=2).contains(&server.calls()));
    assert!(server.cache.stats().hits() >= 2);
}
