//! Clients, polled by the schedule itself, and only when they were woken.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake},
};

use axum::body::Body;
use http::{Request, response::Parts};
use http_body::Body as _;
use tokio::time::Instant;
use tower::{Layer, Service};
use tower_response_cache::{BodyError, ResponseBody, ResponseCache, ResponseFuture};

use super::{
    inner::{Failure, Scripted, ScriptedBody},
    plan::{KEYS, LANGS, path},
};
use crate::support::{dice::Dice, request};

pub type App = ResponseCache<Scripted>;

pub fn app(layer: &tower_response_cache::ResponseCacheLayer, inner: Scripted) -> App {
    layer.layer(inner)
}

/// Notes that somebody called it.
pub struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    pub app: usize,
    pub key: usize,
    pub lang: usize,
    pub is_head: bool,
    pub no_cache: bool,
    pub has_cookie: bool,
    pub only_if_cached: bool,
}

impl Asked {
    pub fn random(apps: usize, keys: usize, is_wild: bool, dice: &mut Dice) -> Self {
        Self {
            app: dice.below(apps),
            key: KEYS - 1 - dice.below(keys),
            lang: dice.below(2),
            is_head: dice.one_in(8),
            no_cache: is_wild && dice.one_in(8),
            has_cookie: is_wild && dice.one_in(12),
            only_if_cached: is_wild && dice.one_in(16),
        }
    }

    fn request(&self, number: usize) -> Request<Body> {
        let number = number.to_string();
        let mut fields = vec![
            ("x-client", &*number),
            ("accept-language", LANGS[self.lang]),
        ];
        if self.no_cache {
            fields.push(("cache-control", "no-cache"));
        }
        if self.only_if_cached {
            fields.push(("cache-control", "only-if-cached"));
        }
        if self.has_cookie {
            fields.push(("cookie", "who=me"));
        }
        let method = if self.is_head { "HEAD" } else { "GET" };
        request(method, &path(self.key), &fields)
    }
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Clean,
    /// With the error of the handler's body.
    Inner,
    Incomplete,
}

/// What a client has come to.
pub enum State {
    Head(Pin<Box<ResponseFuture<Scripted, Body, ScriptedBody>>>),
    Body(Box<Parts>, Pin<Box<ResponseBody<ScriptedBody>>>),
    Answered(Box<Parts>, End),
    Failed,
    Panicked,
    Left,
}

/// A client, from its request on.
pub struct Client {
    pub number: usize,
    pub asked: Asked,
    /// The cache was switched off when it came.
    pub is_passed: bool,
    /// When it came: in steps, in tokio's time, on the cache's clock.
    pub came: u64,
    pub came_at: Instant,
    /// It has paused: it may learn late of what is over and forgotten.
    pub has_paused: bool,
    pub came_millis: u64,
    /// When its head came.
    pub headed: Option<u64>,
    /// No older version may reach it.
    pub floor: u64,
    pub state: State,
    pub read: Vec<u8>,
    pub has_trailers: bool,
    /// It is there, and does not go on.
    pub is_held: bool,
    /// Its answer was judged.
    pub is_judged: bool,
    /// The call of another that it waits for, where it can be no other.
    pub waits_for: Option<usize>,
    flag: Arc<Flag>,
}

impl Client {
    pub fn new(number: usize, asked: Asked, app: &App, step: u64, millis: u64) -> Self {
        let future = app.clone().call(asked.request(number));
        Self {
            number,
            asked,
            is_passed: !app.cache().is_enabled(),
            came: step,
            came_at: Instant::now(),
            has_paused: false,
            came_millis: millis,
            headed: None,
            floor: 0,
            state: State::Head(Box::pin(future)),
            read: Vec::new(),
            has_trailers: false,
            is_held: false,
            is_judged: false,
            waits_for: None,
            flag: Arc::new(Flag(AtomicBool::new(true))),
        }
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Head(_) | State::Body(..))
    }

    pub fn leave(&mut self) {
        if self.is_waiting() {
            self.state = State::Left;
        }
    }

    /// Polls it, if it was woken; says whether it was.
    pub fn poll(&mut self, step: u64) -> bool {
        if self.is_held || !self.is_waiting() || !self.flag.0.swap(false, Ordering::SeqCst) {
            return false;
        }
        let waker = self.flag.clone().into();
        let mut cx = Context::from_waker(&waker);
        if let State::Head(future) = &mut self.state {
            let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)));
            self.state = match polled {
                Ok(Poll::Pending) => return true,
                Err(_) => State::Panicked,
                Ok(Poll::Ready(Err(Failure))) => State::Failed,
                Ok(Poll::Ready(Ok(response))) => {
                    self.headed = Some(step);
                    let (head, body) = response.into_parts();
                    State::Body(Box::new(head), Box::pin(body))
                }
            };
        }
        loop {
            let State::Body(_, body) = &mut self.state else {
                return true;
            };
            let end = match body.as_mut().poll_frame(&mut cx) {
                Poll::Pending => return true,
                Poll::Ready(Some(Ok(frame))) => {
                    self.has_trailers |= frame.is_trailers();
                    self.read.extend(frame.into_data().unwrap_or_default());
                    continue;
                }
                Poll::Ready(None) => End::Clean,
                Poll::Ready(Some(Err(BodyError::Inner(_)))) => End::Inner,
                Poll::Ready(Some(Err(_))) => End::Incomplete,
            };
            if let State::Body(head, _) = std::mem::replace(&mut self.state, State::Left) {
                self.state = State::Answered(head, end);
            }
        }
    }
}
