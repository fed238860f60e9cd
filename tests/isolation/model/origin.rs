//! The origin: answers of all kinds, each made for one request and marked with it.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::{
    dice::Dice,
    facts::{Facts, append},
    people::{Asked, Held, Number},
};
use crate::support::scripted::{broken, in_frames};

/// A response of the origin.
#[derive(Debug, Clone)]
pub struct Made {
    /// For which request.
    pub asked: usize,
    /// What was seen of that.
    pub seen_query: String,
    pub seen_cookies: String,
    pub status: u16,
    pub facts: Facts,
    /// The response that it updates.
    pub base: Option<usize>,
    /// Its client asked whether it has that already.
    pub is_for_own_condition: bool,
}

/// What a case has come to so far.
#[derive(Debug)]
pub struct World {
    pub dice: Dice,
    pub asked: Vec<Asked>,
    pub made: Vec<Made>,
    /// Entity tags of the origin, and the responses that they are of.
    pub tags: Vec<(String, usize)>,
    /// Those that clients have seen, made by the origin or by a cache.
    pub seen_tags: Vec<(String, usize)>,
}

/// Answers a request, or fails.
pub async fn answer(
    world: Arc<Mutex<World>>,
    gate: Arc<Semaphore>,
    request: Request<Body>,
) -> Result<Response<Body>, &'static str> {
    if request.extensions().get::<Held>().is_some() {
        gate.acquire().await.expect("the gate is there").forget();
    }
    let mut world = world.lock().expect("nobody panics here");
    match world.dice.one_in(15) {
        true => Err("the origin failed"),
        false => Ok(world.make(&request)),
    }
}

impl World {
    fn make(&mut self, request: &Request<Body>) -> Response<Body> {
        let serial = self.made.len();
        let Number(asked) = *request.extensions().get().expect("a numbered request");
        let (mut response, mut facts) = (Response::new(Body::empty()), Facts::default());
        let fields = response.headers_mut();
        append(fields, "x-head", &format!("<{serial}>"));
        facts.cache_control(&mut self.dice, fields);
        let known = self.tag_of(request);
        let is_head = request.method() == "HEAD";
        let base = match known {
            Some(known) if self.dice.one_in(2) => Some(known),
            _ => None,
        };
        let mut status = match self.dice.below(40) {
            0..30 => 200,
            30 => 203,
            31 => 204,
            32 => 301,
            33 | 34 => 404,
            35 => 410,
            36 => 401,
            37 => 403,
            38 => 500,
            _ => 503,
        };
        let is_for_own_condition = self.has_own_condition(request, asked);
        let policy = match base {
            None => facts.policy(&mut self.dice),
            Some(_) => None,
        };
        if let Some(base) = base {
            status = if is_head { 200 } else { 304 };
            let tag = self.tags.iter().find(|(_, of)| *of == base);
            append(fields, "etag", &tag.expect("a known tag").0);
            if fields.get("cache-control").is_none() {
                append(fields, "cache-control", "x-nothing");
            }
            if is_for_own_condition {
                // The client's own question: whether it is answered to anybody else nobody knows, so
                // it widens nothing.
                fields.remove("cache-control");
                append(fields, "cache-control", "max-age=20");
                facts = Facts {
                    has_freshness: true,
                    ..Facts::default()
                };
            }
            if self.dice.one_in(8) {
                append(fields, "set-cookie", &format!("sid=<{serial}>"));
                facts.sets_cookie = true;
            }
            facts = self.made[base].facts.updated(facts);
        } else {
            facts.others(&mut self.dice, serial, fields);
            let weak = self.dice.of(&["", "", "W/"]);
            if is_head || self.dice.one_in(2) {
                let tag = format!("{weak}\"e{serial}\"");
                append(fields, "etag", &tag);
                self.tags.push((tag, serial));
            }
        }
        if let Some(policy) = policy {
            response.extensions_mut().insert(policy);
        }
        let headers = request.headers();
        let line = |name: &str| headers.get(name).and_then(|line| line.to_str().ok());
        self.made.push(Made {
            asked,
            seen_query: request.uri().query().unwrap_or_default().to_owned(),
            seen_cookies: line("cookie").unwrap_or_default().to_owned(),
            status,
            facts,
            base,
            is_for_own_condition,
        });
        let has_body = !is_head && ![204, 304].contains(&status);
        let mut text = format!("<{serial}>").repeat(30);
        if has_body && status == 200 && line("range").is_some() && self.dice.one_in(2) {
            status = 206;
            let whole = text.len();
            text.truncate(61);
            let range = format!("bytes 0-60/{whole}");
            append(response.headers_mut(), "content-range", &range);
            self.made[serial].status = status;
        }
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        if has_body {
            *response.body_mut() = self.body(text.into());
        }
        response
    }

    fn body(&mut self, text: Bytes) -> Body {
        let (begin, end) = (text.slice(..20), text.slice(20..));
        match self.dice.below(20) {
            0..4 => in_frames(vec![Ok(begin), Ok(end)]),
            4 => in_frames(vec![Ok(begin), broken()]),
            _ => Body::from(text),
        }
    }

    /// The response that a request asks about, if it asks about one that was made for its resource.
    fn tag_of(&mut self, request: &Request<Body>) -> Option<usize> {
        let lines = request.headers().get_all("if-none-match").iter();
        let lines: Vec<_> = lines.filter_map(|line| line.to_str().ok()).collect();
        let path = request.uri().path();
        let asked = |serial: usize| &self.asked[self.made[serial].asked];
        let mut about = self.tags.iter().rev().filter(|(tag, serial)| {
            let is_asked = match request.method() == "HEAD" {
                true => true,
                false => lines.iter().any(|line| line.contains(tag.as_str())),
            };
            is_asked
                && self.made[*serial].status == 200
                && self.made[*serial].base.is_none()
                && path == format!("/p{}", asked(*serial).path)
        });
        about.next().map(|(_, serial)| *serial)
    }

    /// Whether the condition is what the client sent.
    fn has_own_condition(&self, request: &Request<Body>, asked: usize) -> bool {
        let sent = self.asked[asked].lines("if-none-match");
        let mut seen = request.headers().get_all("if-none-match").iter();
        sent.first()
            .is_some_and(|sent| seen.any(|line| line == *sent))
    }
}
