//! What scripts of an [`Origin`](super::Origin) are written with: responses, doors, and bodies sent by hand.

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

use super::{Answer, App, request};

/// A response in one line.
pub fn response(status: u16, fields: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in fields {
        let name: HeaderName = name.parse().expect("a field name");
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a field value");
        response.headers_mut().append(name, value);
    }
    response
}

/// The `detail` of our member of `Cache-Status`, or `""`.
pub fn detail(answer: &Answer) -> String {
    let lines = answer.fields("cache-status");
    let ours = lines.last().copied().unwrap_or_default();
    ours.split(';')
        .find_map(|parameter| parameter.trim().strip_prefix("detail="))
        .unwrap_or_default()
        .to_owned()
}

/// A door that is shut until somebody opens it.
#[derive(Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn shut() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn pass(&self) {
        let mut door = self.0.subscribe();
        door.wait_for(|is_open| *is_open)
            .await
            .expect("the door is held");
    }

    /// How many wait before it.
    pub fn waiting(&self) -> usize {
        self.0.receiver_count()
    }
}

/// A frame of a body, or its failure.
pub type Frame = Result<Bytes, std::io::Error>;

/// A body whose frames are sent by hand; it ends when the sender is dropped, and the sender sees when the body is.
pub fn by_hand() -> (mpsc::UnboundedSender<Frame>, Body) {
    let (sender, receiver) = mpsc::unbounded_channel::<Frame>();
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    (sender, Body::from_stream(frames))
}

/// A body of these frames, of unknown length, each after a turn of the scheduler.
pub fn in_frames(frames: Vec<Frame>) -> Body {
    Body::from_stream(futures_util::stream::iter(frames).then(|frame| async {
        tokio::task::yield_now().await;
        frame
    }))
}

/// How a body breaks off.
pub fn broken() -> Frame {
    Err(std::io::Error::other("the origin broke off"))
}

/// Asks for the head and leaves the body unread.
pub async fn head_of(app: &App, path: &str) -> Response<Body> {
    let asked = app.clone().oneshot(request("GET", path, &[]));
    asked
        .await
        .unwrap_or_else(|never: Infallible| match never {})
}

/// The next frame, or `None` at the end; panics when the body breaks off.
pub async fn frame(body: &mut Body) -> Option<Bytes> {
    let frame = body.frame().await?.expect("the body goes on");
    Some(frame.into_data().expect("data"))
}
