//! The body phase of a fill: from the head of a storable response to an entry in the store.
//!
//! A body that is ready at once is read here and now. Any other is read to its end by a task, so
//! that "complete" is certain and a slow client slows nobody; the starter streams from what the
//! task has read. When something keeps the body from being stored, the task hands prefix and
//! rest to the starter, who reads on as without a cache.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, header::ETAG};
use http_body::Body;
use smallvec::SmallVec;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    body::{Handover, ResponseBody, Rest},
    cache::{Cache, Placement},
    entry::{Entry, Millis, StoredHead},
    flight::{Ending, Guard, Shared},
    status::Reason,
    stored_head::weak_tag,
    timer::{self, until, within},
};

/// What a frame costs besides its bytes: a body in frames of one byte is no way round the bound.
const FRAME_OVERHEAD: u64 = 64;
/// How long a body that has all its declared bytes may take to say that it is over.
const LINGER: Duration = Duration::from_millis(50);
/// So many frames are read at once before the others get a turn.
const MAX_READY_FRAMES: usize = 256;

/// What is to be done with the response when its body is complete.
pub(crate) struct Job {
    pub(crate) cache: Cache,
    pub(crate) shared: Arc<Shared>,
    pub(crate) place: Placement,
    /// A 5xx goes to those who wait already and nowhere else.
    pub(crate) is_stored: bool,
    /// The response gets a weak entity tag if it has none.
    pub(crate) is_tagged: bool,
    pub(crate) max_body_size: u64,
    /// When the inner service was called, on the cache's clock.
    pub(crate) began: Millis,
    pub(crate) deadline: Instant,
    /// Whether the body is read on when nobody reads it any more.
    pub(crate) detach: bool,
}

impl Job {
    /// Makes the entry, visible to everybody when this returns.
    fn store(&self, guard: &Guard, body: Bytes) -> Arc<Entry> {
        let head = match self.is_tagged {
            true => tagged(&self.shared.head, &body),
            false => self.shared.head.clone(),
        };
        let now = self.cache.now();
        let cost = now.saturating_sub(self.began);
        let entry = Entry::new(head, body, guard.flight().origin()).with_cost(cost);
        let entry = Arc::new(entry);
        if self.is_stored {
            let rule = &self.shared.rule;
            self.cache.store(&self.place, rule, entry.clone(), now);
        }
        entry
    }

    fn refuse(&self, reason: Reason) {
        if self.is_stored {
            self.cache.refuse(reason, self.place.lasting_mark());
        }
    }
}

/// What became of a body that was read as far as it was ready.
pub(crate) struct Filled<B: Body> {
    pub(crate) body: ResponseBody<B>,
    /// Why it is not stored, where that is known already.
    pub(crate) refused: Option<Reason>,
    /// The entity tag that it got.
    pub(crate) tag: Option<HeaderValue>,
}

/// A stored head with a weak entity tag for this body, where that may have one and has none.
fn tagged(head: &Arc<StoredHead>, body: &[u8]) -> Arc<StoredHead> {
    let may_have = matches!(head.status.as_u16(), 200 | 203);
    if !may_have || body.is_empty() || head.headers.contains_key(ETAG) {
        return head.clone();
    }
    let mut head = StoredHead::clone(head);
    head.headers.insert(ETAG, weak_tag(body));
    head.own_tag = true;
    Arc::new(head)
}

/// What nearly every body consists of, without an allocation.
type Frames = SmallVec<[Bytes; 2]>;

/// Reads the body of a storable response.
///
/// No future: what is ready at once is read at once, and the rest is for a task.
pub(crate) fn fill_body<B>(mut guard: Guard, job: Job, body: B, length: Option<u64>) -> Filled<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    let mut reading = Reading {
        body: Box::pin(body),
        limit: job.max_body_size,
        length,
        size: 0,
    };
    let mut frames = Frames::new();
    // Nobody has to be woken for what comes later: whoever reads on asks anew.
    let cx = &mut Context::from_waker(Waker::noop());
    // What is ready at once is stored or handed out before anybody waits: it takes no room.
    let stop = match reading.read_ready(cx, &mut frames) {
        Some(Read::End) => {
            let body = joined(&frames);
            let entry = job.store(&guard, body.clone());
            let head = &entry.head;
            let tag = head.own_tag.then(|| head.headers.get(ETAG).cloned());
            guard.complete(job.shared.clone(), entry.clone(), Vec::new());
            return Filled {
                body: ResponseBody::stored(body),
                refused: None,
                tag: tag.flatten(),
            };
        }
        Some(stop) => stop,
        None => match (
            job.cache.reserve_room(reading.room(frames.len())),
            Handle::try_current(),
        ) {
            (Some(room), Ok(runtime)) => {
                let held = if reading.is_all() { frames.pop() } else { None };
                guard.publish(job.shared.clone(), frames.into_vec(), room);
                let handover = Handover::new();
                let body = ResponseBody::filling(guard.flight().reader(), length, handover.clone());
                // Counted before whoever filled the head ends: `close` waits for both.
                let counted = job.cache.body_task();
                let task = async move {
                    let _counted = counted;
                    read_on(guard, job, reading, handover, held).await;
                };
                let span = tracing::Span::current();
                runtime.spawn(tracing::Instrument::instrument(task, span));
                return Filled {
                    body,
                    refused: None,
                    tag: None,
                };
            }
            // No room, or nobody who could read on while the client pauses.
            _ => Read::Stop(Reason::NoRoom, None, None),
        },
    };
    let Read::Stop(reason, last, rest) = stop else {
        unreachable!("a frame is never what reading stops at");
    };
    job.refuse(reason);
    guard.end(Ending::Refused(reason), Vec::new());
    frames.extend(last);
    let rest = rest.unwrap_or(Rest::Body(reading.body));
    Filled {
        body: ResponseBody::rest(frames.into_vec(), rest),
        refused: Some(reason),
        tag: None,
    }
}

/// Reads a published body to its end, whoever listens.
async fn read_on<B>(
    mut guard: Guard,
    job: Job,
    mut reading: Reading<B>,
    handover: Arc<Handover<B>>,
    held: Option<Bytes>,
) where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    // Of a body of known length the last frame waits until the end is certain and the entry is
    // visible: who has read everything and asks again gets a hit.
    let mut held: Vec<Bytes> = held.into_iter().collect();
    // What has room, but not as frames of its own; handed out with the end.
    let mut tail = BytesMut::new();
    let mut place = None;
    let cache = job.cache.clone();
    let mut over = pin!(cache.over());
    let mut is_all = reading.is_all();
    let (reason, last, rest) = loop {
        let next = poll_fn(|cx| {
            if place.is_none() && guard.poll_abandoned(cx).is_ready() {
                // Nobody reads any more: from here on it is background work, if it goes on at all.
                place = match job.detach && job.is_stored {
                    true => job.cache.background_place(),
                    false => None,
                };
                if place.is_none() {
                    // Out of the table first: whoever came just now still gets all of it.
                    guard.leave();
                    if guard.poll_abandoned(cx).is_ready() {
                        return Poll::Ready(Read::Stop(Reason::InnerError, None, None));
                    }
                }
            }
            let is_background = place.is_some() && guard.poll_abandoned(cx).is_ready();
            if is_background && over.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Read::Stop(Reason::InnerError, None, None));
            }
            reading.poll_next(cx)
        });
        let read = match is_all {
            // RFC 9112, 6.3: with all of its bytes the message is complete.
            true => linger(next).await.unwrap_or(Read::End),
            false => match until(job.deadline, next).await {
                Some(read) => read,
                None => Read::Stop(Reason::FillTimeout, None, None),
            },
        };
        match read {
            Read::Frame(frame) => {
                is_all = reading.is_all();
                let has_room = tail.is_empty() && guard.grow(reading.room_of(&frame));
                match (has_room, reading.length) {
                    (true, _) if is_all => held.push(frame),
                    (true, _) => guard.push(frame),
                    // The bytes have their room, and those who stream along a promise.
                    (false, Some(_)) => tail.extend_from_slice(&frame),
                    (false, None) => break (Reason::NoRoom, Some(frame), None),
                }
            }
            Read::End => {
                held.extend(with_tail(&mut tail));
                let mut frames = guard.flight().frames();
                frames.extend(held.iter().cloned());
                let entry = job.store(&guard, joined(&frames));
                guard.complete(job.shared.clone(), entry, held);
                return;
            }
            Read::Stop(reason, last, rest) => break (reason, last, rest),
        }
    };
    job.refuse(reason);
    held.extend(with_tail(&mut tail));
    held.extend(last);
    if handover.is_awaited() {
        handover.leave(rest.unwrap_or(Rest::Body(reading.body)));
    }
    guard.end(Ending::Broken(reason), held);
}

/// What was kept together, as one frame.
fn with_tail(tail: &mut BytesMut) -> Option<Bytes> {
    (!tail.is_empty()).then(|| tail.split().freeze())
}

/// What a body that has all its bytes still says, if it says it soon. Without a clock there is no
/// soon: what is not there at once is not waited for.
async fn linger<T>(next: impl Future<Output = T>) -> Option<T> {
    let mut next = pin!(next);
    if !timer::is_there() {
        let polled = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        return match polled {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        };
    }
    within(LINGER, next).await
}

/// What reading a body came upon.
enum Read<B: Body> {
    Frame(Bytes),
    End,
    /// It will not be stored; the data that came last, and what remains if it is not the body
    /// itself.
    Stop(Reason, Option<Bytes>, Option<Rest<B>>),
}

/// A body being read, and how much of it there may be.
struct Reading<B: Body> {
    body: Pin<Box<B>>,
    limit: u64,
    length: Option<u64>,
    size: u64,
}

impl<B: Body> Reading<B> {
    /// How much room it takes when others wait for it: all of it, as far as is known.
    fn room(&self, frames: usize) -> u64 {
        self.length.unwrap_or(self.size) + FRAME_OVERHEAD * frames as u64
    }

    /// How much more room one more frame takes; that of a body of known length is there already.
    fn room_of(&self, frame: &Bytes) -> u64 {
        match self.length {
            Some(_) => FRAME_OVERHEAD,
            None => FRAME_OVERHEAD + frame.len() as u64,
        }
    }

    fn is_all(&self) -> bool {
        self.length == Some(self.size)
    }

    /// Reads what is there without waiting.
    fn read_ready(&mut self, cx: &mut Context<'_>, frames: &mut Frames) -> Option<Read<B>> {
        loop {
            match self.poll_next(cx) {
                Poll::Ready(Read::Frame(frame)) => {
                    frames.push(frame);
                    if frames.len() >= MAX_READY_FRAMES {
                        return None;
                    }
                }
                Poll::Ready(read) => return Some(read),
                Poll::Pending => return None,
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Read<B>> {
        loop {
            let frame = match ready!(self.body.as_mut().poll_frame(cx)) {
                None if self.length.is_some_and(|length| length != self.size) => {
                    // RFC 9111, 3.3: an incomplete response must not be stored as complete.
                    return Poll::Ready(Read::Stop(
                        Reason::BodyLength,
                        None,
                        Some(Rest::Incomplete),
                    ));
                }
                None => return Poll::Ready(Read::End),
                Some(Err(error)) => {
                    return Poll::Ready(Read::Stop(
                        Reason::BodyError,
                        None,
                        Some(Rest::Error(error)),
                    ));
                }
                Some(Ok(frame)) => frame,
            };
            let mut data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => {
                        let rest = Some(Rest::Trailers(trailers));
                        return Poll::Ready(Read::Stop(Reason::Trailers, None, rest));
                    }
                    Err(_) => continue,
                },
            };
            let bytes = data.copy_to_bytes(data.remaining());
            if bytes.is_empty() {
                // A body of nothing but empty frames must not keep its thread.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.size += bytes.len() as u64;
            return Poll::Ready(if self.length.is_some_and(|length| self.size > length) {
                Read::Stop(Reason::BodyLength, Some(bytes), None)
            } else if self.size > self.limit {
                Read::Stop(Reason::BodyTooLarge, Some(bytes), None)
            } else {
                Read::Frame(bytes)
            });
        }
    }
}

/// One piece with bytes of its own: frames are slices of buffers that are much larger, and an
/// entry must not keep those alive.
fn joined(frames: &[Bytes]) -> Bytes {
    let size = frames.iter().map(Bytes::len).sum();
    let mut all = BytesMut::with_capacity(size);
    for frame in frames {
        all.extend_from_slice(frame);
    }
    all.freeze()
}
