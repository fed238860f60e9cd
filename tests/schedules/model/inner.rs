//! The inner service: each of its calls waits until the schedule says how it goes on.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tower::Service;

use super::plan::{Flaw, KEYS, LANGS, Mark, Plan, path};

/// How a handler or a body fails.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handler fails")
    }
}

impl std::error::Error for Failure {}

/// How far a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The handler works.
    Called,
    /// Its head is out, and something of its body is not.
    Body,
    /// All of it is out.
    Whole,
    /// It failed, panicked or broke off.
    Failed,
    /// Nobody wanted it any more.
    Dropped,
}

/// What a handler is told.
#[derive(Debug)]
pub enum Order {
    /// With its whole body at once, if so.
    Answer(Plan, bool),
    Fail,
    Panic,
}

/// A call of the inner service.
pub struct Call {
    pub number: usize,
    pub client: usize,
    pub app: usize,
    pub key: usize,
    pub lang: usize,
    pub is_head: bool,
    /// The tag that it is asked about.
    pub asked: Option<String>,
    /// Of the data when it was called.
    pub version: u64,
    /// When it was called, answered, over: in steps of the schedule.
    pub called: u64,
    pub answered: Option<u64>,
    pub ended: Option<u64>,
    /// The same in tokio's time.
    pub called_at: Instant,
    pub answered_at: Option<Instant>,
    /// Of the head, on the cache's clock, in milliseconds.
    pub made: u64,
    /// It takes longer than a fill may.
    pub is_late: bool,
    /// The handler itself failed, and not its body.
    pub has_failed: bool,
    /// There was a reason for others not to wait for it.
    pub is_alone: bool,
    /// What became of it was judged.
    pub is_judged: bool,
    pub phase: Phase,
    pub plan: Option<Plan>,
    /// The calls for the same resource through the same layer that were under way.
    pub beside: Vec<usize>,
    order: Option<Order>,
    frames: VecDeque<Option<Result<Frame<Bytes>, Failure>>>,
    /// How many chunks are sent.
    pub sent: usize,
    /// All of its body is sent, and perhaps not read yet.
    pub is_sent: bool,
    waker: Option<Waker>,
}

impl Call {
    pub fn mark(&self) -> Mark {
        Mark {
            call: self.number,
            key: self.key,
            lang: self.lang,
            version: self.version,
        }
    }

    /// Whether it waits for an order.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Called && self.order.is_none()
    }

    /// Whether its body waits for more.
    pub fn is_reading(&self) -> bool {
        self.phase == Phase::Body && !self.is_sent
    }

    pub fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::Called | Phase::Body)
    }

    /// Whether all of its data was read.
    fn is_read(&self) -> bool {
        let is_data = |frame: &Option<Result<_, _>>| matches!(frame, Some(Ok(_)));
        let chunks = self.plan.as_ref().map_or(0, |plan| plan.chunks.len());
        self.sent == chunks && !self.frames.iter().any(is_data)
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub fn order(&mut self, order: Order) {
        self.order = Some(order);
        self.wake();
    }

    /// Sends the next chunk, if there is one.
    pub fn send(&mut self) -> bool {
        let chunk = self
            .plan
            .as_ref()
            .and_then(|plan| plan.chunks.get(self.sent));
        let Some(chunk) = chunk.cloned() else {
            return false;
        };
        self.sent += 1;
        self.frames.push_back(Some(Ok(Frame::data(chunk))));
        self.wake();
        true
    }

    /// Sends what is left, and the end.
    pub fn finish(&mut self, has_trailers: bool) {
        while self.send() {}
        if has_trailers {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-trailer", 1.into());
            self.frames.push_back(Some(Ok(Frame::trailers(trailers))));
        }
        self.frames.push_back(None);
        self.is_sent = true;
        self.wake();
    }

    pub fn break_off(&mut self) {
        self.frames.push_back(Some(Err(Failure)));
        self.is_sent = true;
        self.wake();
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = if self.is_head { "HEAD" } else { "GET" };
        write!(
            f,
            "call {} of client {}: {method}, layer {}, key {}, language {}, {:?}, called {}, \
             answered {:?}, ended {:?}",
            self.number,
            self.client,
            self.app,
            self.key,
            self.lang,
            self.phase,
            self.called,
            self.answered,
            self.ended,
        )?;
        if self.is_late {
            write!(f, ", late")?;
        }
        Ok(())
    }
}

/// What handlers and the schedule share.
#[derive(Default)]
pub struct World {
    pub step: u64,
    /// On the cache's clock.
    pub millis: u64,
    /// The version of each resource.
    pub data: [u64; KEYS],
    pub calls: Vec<Call>,
}

pub type Shared = Arc<Mutex<World>>;

pub fn lock(world: &Shared) -> MutexGuard<'_, World> {
    // A handler that panics does so without the lock.
    world.lock().expect("nobody panics with the lock")
}

/// The inner service of one layer.
#[derive(Clone)]
pub struct Scripted {
    pub world: Shared,
    pub app: usize,
}

impl Service<Request<Body>> for Scripted {
    type Response = Response<ScriptedBody>;
    type Error = Failure;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let field = |name: &str| request.headers().get(name)?.to_str().ok();
        let number_of = |name| field(name).and_then(|text| text.parse().ok());
        let key = (0..KEYS).find(|key| path(*key) == request.uri().path());
        let lang = field("accept-language");
        let lang = LANGS.iter().position(|known| Some(*known) == lang);
        let (app, key) = (self.app, key.expect("a resource of ours"));
        let mut world = lock(&self.world);
        let number = world.calls.len();
        let is_beside = |call: &&Call| call.app == app && call.key == key && call.is_under_way();
        let beside = world.calls.iter().filter(is_beside);
        let beside = beside.map(|call| call.number).collect();
        let call = Call {
            number,
            client: number_of("x-client").expect("each client says who it is"),
            app,
            key,
            lang: lang.expect("each client says its language"),
            is_head: request.method() == "HEAD",
            asked: field("if-none-match").map(str::to_owned),
            version: world.data[key],
            called: world.step,
            answered: None,
            ended: None,
            called_at: Instant::now(),
            answered_at: None,
            made: 0,
            is_late: false,
            has_failed: false,
            is_alone: false,
            is_judged: false,
            phase: Phase::Called,
            plan: None,
            beside,
            order: None,
            frames: VecDeque::new(),
            sent: 0,
            is_sent: false,
            waker: None,
        };
        world.calls.push(call);
        Answering {
            world: self.world.clone(),
            number,
        }
    }
}

impl World {
    fn end(&mut self, number: usize, phase: Phase) {
        let step = self.step;
        let call = &mut self.calls[number];
        if call.is_under_way() {
            call.phase = phase;
            call.ended = Some(step);
        }
    }
}

/// A handler at work.
pub struct Answering {
    world: Shared,
    number: usize,
}

impl Future for Answering {
    type Output = Result<Response<ScriptedBody>, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut world = lock(&self.world);
        let (step, millis) = (world.step, world.millis);
        let call = &mut world.calls[self.number];
        let Some(order) = call.order.take() else {
            call.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let (plan, at_once) = match order {
            Order::Answer(plan, at_once) => (plan, at_once),
            Order::Fail => {
                call.has_failed = true;
                world.end(self.number, Phase::Failed);
                return Poll::Ready(Err(Failure));
            }
            Order::Panic => {
                call.has_failed = true;
                world.end(self.number, Phase::Failed);
                drop(world);
                // Without the hook, which would fill the log.
                std::panic::resume_unwind(Box::new("the handler panics"));
            }
        };
        let head = plan.head(&call.mark());
        call.answered = Some(step);
        call.answered_at = Some(Instant::now());
        call.made = millis;
        call.phase = Phase::Body;
        if call.is_head || plan.chunks.is_empty() {
            call.frames.clear();
            call.frames.push_back(None);
            call.is_sent = true;
        }
        let has_trailers = plan.flaw == Flaw::Trailers;
        call.plan = Some(plan);
        if at_once && !call.is_sent {
            call.finish(has_trailers);
        }
        Poll::Ready(Ok(head
            .body(ScriptedBody {
                world: self.world.clone(),
                number: self.number,
            })
            .expect("a response")))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut world = lock(&self.world);
        if world.calls[self.number].phase == Phase::Called {
            world.end(self.number, Phase::Dropped);
        }
    }
}

/// A body whose frames the schedule sends.
pub struct ScriptedBody {
    world: Shared,
    number: usize,
}

impl http_body::Body for ScriptedBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let mut world = lock(&self.world);
        let call = &mut world.calls[self.number];
        let Some(frame) = call.frames.pop_front() else {
            if !call.is_under_way() {
                return Poll::Ready(None);
            }
            call.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        match &frame {
            None => world.end(self.number, Phase::Whole),
            Some(Err(_)) => world.end(self.number, Phase::Failed),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for ScriptedBody {
    fn drop(&mut self) {
        let mut world = lock(&self.world);
        let call = &world.calls[self.number];
        let plan = call.plan.as_ref().expect("it has a body");
        // RFC 9112, 6.3: with all of its bytes the message is complete.
        let is_whole = plan.is_declared && plan.flaw == Flaw::None && call.is_read();
        let phase = match is_whole {
            true => Phase::Whole,
            false => Phase::Dropped,
        };
        world.end(self.number, phase);
    }
}
