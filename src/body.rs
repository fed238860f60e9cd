//! The body of a response that passed the cache.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    vec,
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::flight::{Next, Reader};

pin_project! {
    /// The body of a response that passed a [`ResponseCache`](crate::ResponseCache): stored bytes,
    /// the untouched body of the inner service, or a reader of a body that is being stored.
    ///
    /// Its data is [`Bytes`], its error [`BodyError`]. A body that cannot be finished ends in an
    /// error, never in a clean end.
    pub struct ResponseBody<B: Body> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B: Body> {
        Stored { bytes: Bytes },
        Inner { #[pin] body: B },
        // Somebody else's fill.
        Shared { reader: Reader, left: Option<u64> },
        // One's own fill, read by a task.
        Filling { reader: Reader, left: Option<u64>, handover: Arc<Handover<B>> },
        // What was read, then the rest, read by its client.
        Rest { read: vec::IntoIter<Bytes>, rest: Option<Rest<B>> },
    }
}

/// What remains of a body when the fill gives it up.
pub(crate) enum Rest<B: Body> {
    /// To be read on.
    Body(Pin<Box<B>>),
    Error(B::Error),
    Trailers(HeaderMap),
    /// It was shorter than it said.
    Incomplete,
}

/// Where a fill leaves the rest of a body for its starter.
pub(crate) struct Handover<B: Body>(Mutex<Option<Rest<B>>>);

impl<B: Body> Handover<B> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(None)))
    }

    pub(crate) fn leave(&self, rest: Rest<B>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
    }

    fn take(&self) -> Option<Rest<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the starter still reads.
    pub(crate) fn is_awaited(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }
}

impl<B: Body> ResponseBody<B> {
    const fn of(kind: Kind<B>) -> Self {
        Self { kind }
    }

    pub(crate) const fn stored(bytes: Bytes) -> Self {
        Self::of(Kind::Stored { bytes })
    }

    pub(crate) const fn empty() -> Self {
        Self::stored(Bytes::new())
    }

    pub(crate) const fn inner(body: B) -> Self {
        Self::of(Kind::Inner { body })
    }

    pub(crate) fn shared(reader: Reader, length: Option<u64>) -> Self {
        Self::of(Kind::Shared {
            reader,
            left: length,
        })
    }

    pub(crate) fn filling(reader: Reader, length: Option<u64>, handover: Arc<Handover<B>>) -> Self {
        Self::of(Kind::Filling {
            reader,
            left: length,
            handover,
        })
    }

    pub(crate) fn rest(read: Vec<Bytes>, rest: Rest<B>) -> Self {
        Self::of(Kind::Rest {
            read: read.into_iter(),
            rest: Some(rest),
        })
    }
}

fn frame_of<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

type Polled<E> = Poll<Option<Result<Frame<Bytes>, BodyError<E>>>>;

impl<B: Body> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = BodyError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B::Error> {
        let mut kind = self.project().kind;
        loop {
            match kind.as_mut().project() {
                KindProj::Stored { bytes } => {
                    let bytes = mem::take(bytes);
                    return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
                }
                KindProj::Inner { body } => {
                    return body.poll_frame(cx).map(|frame| {
                        frame.map(|frame| frame.map(frame_of).map_err(BodyError::Inner))
                    });
                }
                KindProj::Shared { reader, left } => {
                    return Poll::Ready(match ready!(reader.poll_next(cx)) {
                        Next::Frame(bytes) => Some(Ok(counted(bytes, left))),
                        Next::End => None,
                        Next::Broken => Some(Err(BodyError::Incomplete)),
                    });
                }
                KindProj::Filling {
                    reader,
                    left,
                    handover,
                } => match ready!(reader.poll_next(cx)) {
                    Next::Frame(bytes) => return Poll::Ready(Some(Ok(counted(bytes, left)))),
                    Next::End => return Poll::Ready(None),
                    Next::Broken => {
                        let rest = handover.take().unwrap_or(Rest::Incomplete);
                        kind.set(Kind::Rest {
                            read: Vec::new().into_iter(),
                            rest: Some(rest),
                        });
                    }
                },
                KindProj::Rest { read, rest } => {
                    if let Some(bytes) = read.next() {
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                    return poll_rest(rest, cx);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Stored { bytes } => bytes.is_empty(),
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Shared { .. } | Kind::Filling { .. } => false,
            Kind::Rest { read, rest } => match rest {
                None => true,
                Some(Rest::Body(body)) => read.as_slice().is_empty() && body.is_end_stream(),
                Some(_) => false,
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Stored { bytes } => SizeHint::with_exact(bytes.len() as u64),
            Kind::Inner { body } => body.size_hint(),
            Kind::Shared { left, .. } | Kind::Filling { left, .. } => {
                left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Kind::Rest { read, rest } => {
                let read: u64 = read.as_slice().iter().map(|bytes| bytes.len() as u64).sum();
                let Some(Rest::Body(body)) = rest else {
                    return SizeHint::default();
                };
                let of_rest = body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(of_rest.lower().saturating_add(read));
                if let Some(upper) = of_rest.upper() {
                    hint.set_upper(upper.saturating_add(read));
                }
                hint
            }
        }
    }
}

fn counted(bytes: Bytes, left: &mut Option<u64>) -> Frame<Bytes> {
    if let Some(left) = left {
        *left = left.saturating_sub(bytes.len() as u64);
    }
    Frame::data(bytes)
}

fn poll_rest<B: Body>(rest: &mut Option<Rest<B>>, cx: &mut Context<'_>) -> Polled<B::Error> {
    if let Some(Rest::Body(body)) = rest {
        return body
            .as_mut()
            .poll_frame(cx)
            .map(|frame| frame.map(|frame| frame.map(frame_of).map_err(BodyError::Inner)));
    }
    Poll::Ready(match rest.take() {
        Some(Rest::Error(error)) => Some(Err(BodyError::Inner(error))),
        Some(Rest::Incomplete) => Some(Err(BodyError::Incomplete)),
        Some(Rest::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
        Some(Rest::Body(_)) | None => None,
    })
}

impl<B: Body + Default> Default for ResponseBody<B> {
    /// The default body of the inner service.
    fn default() -> Self {
        Self::inner(B::default())
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Stored { .. } => "Stored",
            Kind::Inner { .. } => "Inner",
            Kind::Shared { .. } => "Shared",
            Kind::Filling { .. } => "Filling",
            Kind::Rest { .. } => "Rest",
        };
        f.debug_struct("ResponseBody")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}

/// Why a [`ResponseBody`] could not be read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError<E> {
    /// The error of the inner body, for the one reader who has it.
    Inner(E),
    /// The body that several read broke off; the error itself went to the reader whose request
    /// started it.
    Incomplete,
}

impl<E: fmt::Display> fmt::Display for BodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(error) => error.fmt(f),
            Self::Incomplete => f.write_str("the response body ended before it was complete"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for BodyError<E> {}
