//! Bodies that are being read stay within their room (F9). Alone in its process, because what is
//! measured is its resident memory.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use tower::{Layer, Service, service_fn};
use tower_response_cache::{Cache, ResponseCacheLayer};

const FRAME: usize = 64 << 10;
const FRAMES: usize = 16;
static DATA: [u8; FRAME] = [7; FRAME];

/// 1 MiB in frames of one static, none of them ready at once.
struct Slow {
    left: usize,
    waits: bool,
}

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.waits = !self.waits;
        if self.waits {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&DATA)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.left * FRAME) as u64)
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    let kilobytes: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    kilobytes << 10
}

#[tokio::test]
async fn ten_thousand_large_bodies_with_slow_readers_take_bounded_memory() {
    const BOUND: u64 = 64 << 20;
    const READERS: usize = 10_000;

    let cache = Cache::in_memory();
    let inner = service_fn(|_: Request<Empty<Bytes>>| async {
        let mut response = Response::new(Slow {
            left: FRAMES,
            waits: false,
        });
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, (FRAME * FRAMES).into());
        Ok::<_, Infallible>(response)
    });
    let mut app = ResponseCacheLayer::new(&cache).layer(inner);
    let before = resident();
    let mut bodies = Vec::new();
    let mut peak = before;
    for number in 0..READERS {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = format!("/{number}").parse().expect("a path");
        let response = app
            .call(request)
            .await
            .unwrap_or_else(|never| match never {});
        let mut body = response.into_body();
        // Each reader takes one frame, then is slow.
        let first = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(first.into_data().expect("data").len(), FRAME);
        bodies.push(body);
        if number % 100 == 0 {
            peak = peak.max(resident());
            let buffered = cache.stats().buffered_bytes();
            assert!(buffered <= BOUND / 4, "{buffered} bytes are buffered");
        }
    }
    peak = peak.max(resident());
    let grown = peak - before;
    println!("grown by {} MiB; {}", grown >> 20, cache.stats());
    assert!(grown < BOUND + (64 << 20), "grown by {grown} bytes");

    // And all of them arrive, whole.
    for body in bodies {
        let rest = body.collect().await.expect("a whole body").to_bytes();
        assert_eq!(rest.len(), FRAME * (FRAMES - 1));
    }
    let stats = cache.stats();
    assert_eq!((stats.flights(), stats.buffered_bytes()), (0, 0), "{stats}");
}
