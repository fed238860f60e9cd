//! A body whose frames a test hands out one by one.

use std::{
    cell::Cell,
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// How a [`FeedBody`] breaks.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

/// The hand that feeds a [`FeedBody`]; dropping it ends the body.
#[derive(Debug)]
pub struct Feed {
    frames: mpsc::UnboundedSender<Result<Frame<Bytes>, Broken>>,
    taken: Arc<AtomicUsize>,
}

impl Feed {
    pub fn data(&self, data: impl Into<Bytes>) {
        let _ = self.frames.send(Ok(Frame::data(data.into())));
    }

    pub fn trailers(&self, trailers: HeaderMap) {
        let _ = self.frames.send(Ok(Frame::trailers(trailers)));
    }

    pub fn fail(&self, why: &'static str) {
        let _ = self.frames.send(Err(Broken(why)));
    }

    /// How many frames were read.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Whether the body was dropped.
    pub fn is_gone(&self) -> bool {
        self.frames.is_closed()
    }

    /// Waits until the body is dropped.
    pub async fn gone(&self) {
        self.frames.closed().await;
    }
}

/// A body that gives what its [`Feed`] sends; neither `Sync` nor `Clone` nor `Default`.
#[derive(Debug)]
pub struct FeedBody {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, Broken>>,
    left: Option<u64>,
    taken: Arc<AtomicUsize>,
    not_sync: PhantomData<Cell<()>>,
}

/// A body of a declared length, or of an unknown one.
pub fn feed(length: impl Into<Option<u64>>) -> (Feed, FeedBody) {
    let (sender, frames) = mpsc::unbounded_channel();
    let taken = Arc::<AtomicUsize>::default();
    let feed = Feed {
        frames: sender,
        taken: taken.clone(),
    };
    let body = FeedBody {
        frames,
        left: length.into(),
        taken,
        not_sync: PhantomData,
    };
    (feed, body)
}

/// A body with one frame, at once.
pub fn whole(data: impl Into<Bytes>) -> FeedBody {
    let data = data.into();
    let (feed, body) = feed(data.len() as u64);
    if !data.is_empty() {
        feed.data(data);
    }
    body
}

impl Body for FeedBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = ready!(self.frames.poll_recv(cx));
        if let Some(frame) = &frame {
            self.taken.fetch_add(1, Ordering::SeqCst);
            let read = frame.as_ref().ok().and_then(Frame::data_ref);
            let read = read.map_or(0, |data| data.len() as u64);
            self.left = self.left.map(|left| left.saturating_sub(read));
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
