//! What a schedule is drawn from: layers, requests, responses.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tower_response_cache::Tags;
use tower_response_cache::{Cache, ResponseCacheLayer};

use crate::support::dice::Dice;

/// The largest body that is stored.
pub const MAX_BODY: usize = 2_000;
/// For how long a 404 is fresh, in seconds.
pub const NEGATIVE_TTL: u64 = 10;
/// The resources; the last of them varies by language.
pub const KEYS: usize = 3;
pub const LANGS: [&str; 2] = ["en", "sv"];

/// The path of a resource.
pub fn path(key: usize) -> String {
    format!("/key/{key}")
}

/// What its responses are tagged with.
pub fn name(key: usize) -> String {
    format!("tag of {key}")
}

/// Whether a resource has a variant for each language.
pub fn varies(key: usize) -> bool {
    key == KEYS - 1
}

/// The settings of a layer, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub ttl: u64,
    pub stale_while_revalidate: u64,
    pub stale_if_error: u64,
    pub detach: bool,
    pub fill_timeout: u64,
    pub wait_timeout: u64,
}

impl Spec {
    pub fn random(dice: &mut Dice) -> Self {
        Self {
            ttl: dice.of(&[5, 60, 60, 600]),
            stale_while_revalidate: dice.of(&[0, 0, 30]),
            stale_if_error: dice.of(&[0, 0, 100]),
            detach: !dice.one_in(4),
            fill_timeout: dice.of(&[3, 30, 30]),
            wait_timeout: dice.of(&[1, 5, 5, 40]),
        }
    }

    pub fn layer(&self, cache: &Cache) -> ResponseCacheLayer {
        let seconds = Duration::from_secs;
        ResponseCacheLayer::new(cache)
            .ttl(seconds(self.ttl))
            .negative_ttl(seconds(NEGATIVE_TTL))
            .stale_while_revalidate(seconds(self.stale_while_revalidate))
            .stale_if_error(seconds(self.stale_if_error))
            .detach(self.detach)
            .fill_timeout(seconds(self.fill_timeout))
            .wait_timeout(seconds(self.wait_timeout))
            .max_body_size(MAX_BODY as u64)
    }
}

/// What kind of response a handler gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    NotFound,
    NoStore,
    Private,
    SetCookie,
    /// A 5xx: for those who wait already, and not stored.
    Failure,
    /// A 5xx for one client alone.
    PrivateFailure,
    /// Stored, and answers nobody before it was validated.
    MustValidate,
    /// What was asked about is still so.
    NotModified,
}

/// How a body is not what it seems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    OverLimit,
    /// Less, or more, than `Content-Length` said.
    TooShort,
    TooLong,
    Trailers,
}

/// A response, as its handler means it.
#[derive(Debug, Clone)]
pub struct Plan {
    pub kind: Kind,
    pub flaw: Flaw,
    pub is_declared: bool,
    pub varies: bool,
    pub ttl: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
    pub tag: Option<String>,
    pub chunks: Vec<Bytes>,
}

/// How wild a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Every response can be stored and no handler fails.
    Calm,
    Wild,
}

/// The tag of a resource as it is at a version.
pub fn tag(key: usize, lang: usize, version: u64) -> String {
    let lang = if varies(key) { LANGS[lang] } else { "any" };
    format!("\"{key}-{lang}-{version}\"")
}

/// What is written on a body.
pub struct Mark {
    pub call: usize,
    pub key: usize,
    pub lang: usize,
    pub version: u64,
}

impl Plan {
    pub fn random(mark: &Mark, asked: Option<&str>, mood: Mood, dice: &mut Dice) -> Self {
        let tag = dice
            .one_in(3)
            .then(|| tag(mark.key, mark.lang, mark.version));
        let mut plan = Self::plain(mark, 1 + dice.below(3));
        plan.tag = tag;
        plan.is_declared = !dice.one_in(3);
        if dice.one_in(4) {
            plan.ttl = Some(dice.of(&[3, 100]));
            plan.stale_while_revalidate = dice.one_in(2).then(|| dice.of(&[10, 50]));
            plan.stale_if_error = dice.one_in(2).then(|| dice.of(&[10, 200]));
        }
        let is_same = asked == Some(&*self::tag(mark.key, mark.lang, mark.version));
        if is_same && !dice.one_in(4) {
            plan.kind = Kind::NotModified;
            plan.tag = asked.map(str::to_owned);
            plan.chunks.clear();
            return plan;
        }
        if mood == Mood::Wild {
            plan.kind = match dice.below(20) {
                0 => Kind::NotFound,
                1 => Kind::NoStore,
                2 => Kind::Private,
                3 => Kind::SetCookie,
                4 | 5 => Kind::Failure,
                6 => Kind::PrivateFailure,
                7 => Kind::MustValidate,
                _ => Kind::Plain,
            };
            if plan.kind == Kind::MustValidate {
                // Without a tag it could never be used.
                plan.tag = Some(self::tag(mark.key, mark.lang, mark.version));
            }
            plan.flaw = match dice.below(24) {
                0 | 1 => Flaw::OverLimit,
                2 => Flaw::TooShort,
                3 => Flaw::TooLong,
                4 => Flaw::Trailers,
                _ => Flaw::None,
            };
        }
        match plan.flaw {
            Flaw::OverLimit => {
                let big = format!("<+{}>", ".".repeat(MAX_BODY));
                plan.chunks.insert(1, big.into());
            }
            Flaw::TooShort | Flaw::TooLong => plan.is_declared = true,
            Flaw::Trailers => plan.is_declared = false,
            Flaw::None => {}
        }
        plan
    }

    /// One that can be stored, and whose length is declared.
    pub fn plain(mark: &Mark, chunks: usize) -> Self {
        let Mark {
            call,
            key,
            lang,
            version,
        } = mark;
        let last = |index| if index + 1 == chunks { "$" } else { "" };
        let chunks = (0..chunks)
            .map(|index| format!("<{call} {key} {lang} {version} {index}{}>", last(index)))
            .map(Bytes::from)
            .collect();
        Self {
            kind: Kind::Plain,
            flaw: Flaw::None,
            is_declared: true,
            varies: varies(*key),
            ttl: None,
            stale_while_revalidate: None,
            stale_if_error: None,
            tag: None,
            chunks,
        }
    }

    pub fn is_failure(&self) -> bool {
        matches!(self.kind, Kind::Failure | Kind::PrivateFailure)
    }

    /// For one client alone.
    pub fn is_private(&self) -> bool {
        matches!(
            self.kind,
            Kind::NoStore | Kind::Private | Kind::SetCookie | Kind::PrivateFailure
        )
    }

    /// Those who wait for its head get nothing of it; with its whole body at once, if so.
    pub fn is_refused(&self, at_once: bool) -> bool {
        let is_for_one = self.kind == Kind::MustValidate || self.is_private();
        !self.is_failure() && (is_for_one || (at_once && self.flaw != Flaw::None))
    }

    /// Nothing keeps it from being shared and stored.
    pub fn is_good(&self) -> bool {
        matches!(self.kind, Kind::Plain | Kind::NotFound) && self.flaw == Flaw::None
    }

    /// For how long it is fresh, by its own word or its layer's; in seconds.
    pub fn fresh(&self, spec: &Spec) -> u64 {
        self.ttl.unwrap_or(match self.kind {
            Kind::NotFound => NEGATIVE_TTL,
            _ => spec.ttl,
        })
    }

    /// For how long it may be served stale.
    pub fn stale(&self, spec: &Spec) -> u64 {
        let revalidate = self.stale_while_revalidate;
        let error = self.stale_if_error;
        let revalidate = revalidate.unwrap_or(spec.stale_while_revalidate);
        revalidate.max(error.unwrap_or(spec.stale_if_error))
    }

    /// Its head.
    pub fn head(&self, mark: &Mark) -> http::response::Builder {
        let status = match self.kind {
            Kind::NotFound => 404,
            Kind::Failure | Kind::PrivateFailure => 503,
            Kind::NotModified => 304,
            _ => 200,
        };
        let mut head = Response::builder().status(status);
        head = head.header("x-call", mark.call);
        if self.kind != Kind::NotModified {
            head = head.extension(Tags::new([name(mark.key)]));
        }
        let mut control = Vec::new();
        if let Some(ttl) = self.ttl {
            control.push(format!("max-age={ttl}"));
        }
        if let Some(window) = self.stale_while_revalidate {
            control.push(format!("stale-while-revalidate={window}"));
        }
        if let Some(window) = self.stale_if_error {
            control.push(format!("stale-if-error={window}"));
        }
        match self.kind {
            Kind::NoStore => control.push("no-store".to_owned()),
            Kind::Private | Kind::PrivateFailure => control.push("private".to_owned()),
            Kind::MustValidate => control.push("no-cache".to_owned()),
            Kind::SetCookie => head = head.header("set-cookie", format!("id={}", mark.call)),
            _ => {}
        }
        if !control.is_empty() {
            head = head.header("cache-control", control.join(", "));
        }
        if let Some(tag) = &self.tag {
            head = head.header("etag", tag);
        }
        if self.varies {
            head = head.header("vary", "accept-language");
        }
        if self.is_declared && self.kind != Kind::NotModified {
            let sum: usize = self.chunks.iter().map(Bytes::len).sum();
            let said = match self.flaw {
                Flaw::TooShort => sum + 5,
                Flaw::TooLong => sum - 5,
                _ => sum,
            };
            head = head.header("content-length", said);
        }
        head
    }
}
