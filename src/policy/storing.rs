//! Whether a response may be stored, judged by its head
//! ([RFC 9111, section 3](https://www.rfc-editor.org/rfc/rfc9111#section-3)).
//!
//! [`decide`] asks one rule after the other, the strongest first; a response that passes all of
//! them is stored. What only the body tells (its length, its end) is watched by who reads it.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPIRES, SET_COOKIE,
    },
};

use super::{
    directives::ResponseDirectives,
    facts::{Preset, RequestFacts, StoringSettings},
    freshness::{self, Freshness, LONGEST},
    handler::CachePolicy,
    present::Present,
    syntax::{cut, decimal, members, trim},
    targeted, validation,
    vary::{self, VaryRule},
};
use crate::{
    entry::{Said, Staleness, millis},
    status::Reason,
};

/// What can be validated is kept for as long as it was fresh, but at least and at most so long; as far
/// as there is room.
const LEAST_KEPT: Duration = Duration::from_secs(3600);
const MOST_KEPT: Duration = Duration::from_secs(24 * 3600);
/// The most field lines that a stored head may have.
const MAX_HEAD_FIELDS: usize = 128;
/// The most bytes that the names and values of a stored head may have.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What becomes of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "it is taken apart where it was made, and a box would be one for each fill"
)]
pub(crate) enum Decision {
    /// It is stored, and answers whoever the plan lets.
    Store(Plan),
    /// A failure of the server: it may answer those who wait for it already, and is never stored.
    ShareOnly(Plan),
    /// It answers its own request alone.
    Refuse(Reason),
}

/// How a response is stored or shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The length of the body, where the response declares one.
    pub(crate) length: Option<u64>,
    pub(crate) freshness: Freshness,
    /// Why it answers nobody before it was validated; `None` where it is fresh.
    pub(crate) unfit: Option<Reason>,
    pub(crate) staleness: Staleness,
    /// For how long it is of use once it is stale.
    pub(crate) kept: Duration,
    /// It said itself that it is for everybody: `public`, `s-maxage`, or its handler's `public()`.
    pub(crate) shareable: bool,
    /// Likewise, for requests whose only credential is `Authorization` (§3.5: `must-revalidate`).
    pub(crate) shareable_with_authorization: bool,
    pub(crate) vary: VaryRule,
    /// How old it was when it came.
    pub(crate) initial_age: Duration,
    pub(crate) directives: ResponseDirectives,
    /// By its handler, should a 304 not repeat it.
    pub(crate) said: Said,
}

/// Judges the head of a response that came at `response_time`, to a request of `request_time`.
///
/// All fields count, those that `Connection` lists as well: what is dropped on the way was still
/// said.
pub(crate) fn decide(
    settings: &StoringSettings,
    request: &RequestFacts<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    policy: Option<&CachePolicy>,
    request_time: SystemTime,
    response_time: SystemTime,
) -> Decision {
    let present = Present::of(headers);
    let response = Response {
        settings,
        request,
        status,
        headers,
        policy,
        directives: directives(settings, headers, present.cache_control),
        initial_age: match present.age {
            true => freshness::corrected_initial_age(headers, request_time, response_time),
            false => Duration::ZERO,
        },
        present,
    };
    if status.is_server_error() && settings.is_careful() {
        return match response.shared_failure() {
            Ok(plan) => Decision::ShareOnly(plan),
            // Never stored anyway; what else was wrong with it is not worth a word.
            Err(_) => Decision::Refuse(Reason::Status),
        };
    }
    match response.stored(response_time) {
        Ok(plan) => Decision::Store(plan),
        Err(reason) => Decision::Refuse(reason),
    }
}

/// Why a response may not be stored, where the strongest of these rules says so; it asks neither for the
/// time nor for the request. Failures of the server are left to [`decide`].
pub(crate) fn refused_at_once(
    settings: &StoringSettings,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<Reason> {
    if status.is_server_error() {
        return None;
    }
    let directives = directives(settings, headers, true);
    let has_cookie = || headers.contains_key(SET_COOKIE) && !settings.store_set_cookie;
    may_ever_be_stored(settings, &directives, status, has_cookie).err()
}

/// What a response says of being cached: in the first targeted field that is heard, else in
/// `Cache-Control`.
fn directives(
    settings: &StoringSettings,
    headers: &HeaderMap,
    has_cache_control: bool,
) -> ResponseDirectives {
    match targeted::read(headers, &settings.targeted) {
        Some(directives) => directives,
        None if has_cache_control => ResponseDirectives::parse(headers),
        None => ResponseDirectives::default(),
    }
}

/// Whether what a response says of itself lets it be stored at all.
fn may_ever_be_stored(
    settings: &StoringSettings,
    directives: &ResponseDirectives,
    status: StatusCode,
    has_cookie: impl FnOnce() -> bool,
) -> Result<(), Reason> {
    // §5.2.2.5; §5.2.2.3: what must be understood, and is, may be stored all the same.
    let is_understood =
        settings.preset == Preset::Rfc9111 && directives.must_understand && is_understood(status);
    if directives.no_store && !is_understood {
        return Err(Reason::NoStore);
    }
    // §5.2.2.7
    if directives.private {
        return Err(Reason::Private);
    }
    // §7.3: a cookie is for one client; "Connection: Set-Cookie" hides it from nobody.
    if settings.is_careful() && has_cookie() {
        return Err(Reason::SetCookie);
    }
    Ok(())
}

/// A response under judgement.
struct Response<'a> {
    settings: &'a StoringSettings,
    request: &'a RequestFacts<'a>,
    status: StatusCode,
    headers: &'a HeaderMap,
    policy: Option<&'a CachePolicy>,
    directives: ResponseDirectives,
    initial_age: Duration,
    present: Present,
}

impl Response<'_> {
    fn stored(&self, now: SystemTime) -> Result<Plan, Reason> {
        self.may_ever_be_stored(self.settings.store_set_cookie)?;
        self.has_a_status_that_is_stored()?;
        self.has_an_end()?;
        let vary = self.vary()?;
        let plan = self.plan(vary);
        self.may_be_shared(&plan)?;
        self.is_wanted_by_its_handler()?;
        let (freshness, unfit) = self.freshness(now)?;
        let (staleness, kept) = self.staleness(freshness, unfit.is_none());
        if let (Some(reason), true) = (unfit, kept.is_zero()) {
            // Nothing by which it could be validated, and no window in which it may be stale.
            return Err(reason);
        }
        let length = self.fits()?;
        Ok(Plan {
            length,
            freshness,
            unfit,
            staleness,
            kept,
            ..plan
        })
    }

    /// How long it is fresh; and if not at all, why.
    fn freshness(&self, now: SystemTime) -> Result<(Freshness, Option<Reason>), Reason> {
        // RFC 9110, section 7.6.1: not kept, and once the rest was updated by a 304 (§3.2) nobody would
        // know what it said.
        let is_lost = |is_there: bool, name: &HeaderName| {
            is_there && vary::is_for_the_connection(name, self.headers)
        };
        let present = &self.present;
        let are_lost = present.connection
            && (is_lost(present.cache_control, &CACHE_CONTROL)
                || is_lost(present.expires, &EXPIRES));
        if are_lost {
            return Err(Reason::Stale);
        }
        let freshness = freshness::lifetime(
            self.settings,
            self.policy,
            &self.directives,
            self.status,
            self.headers,
            now,
        );
        let reason = match freshness {
            // §4.2: fresh as long as the lifetime is greater than the age.
            Ok(freshness) if self.initial_age < freshness.lifetime => return Ok((freshness, None)),
            Ok(freshness) => return Ok((freshness, Some(Reason::Stale))),
            Err(reason) => reason,
        };
        // A lifetime of zero from those who speak to this cache alone means: not stored.
        let ttl = self.policy.and_then(CachePolicy::ttl_value);
        let is_ours = ttl.or(self.settings.force_ttl) == Some(Duration::ZERO);
        match reason {
            // §3: "no-cache" alone is no permission.
            Reason::NoCache if !self.says_that_it_may_be_stored() => Err(reason),
            // §5.2.2.4, §4.2: it may be stored, and is not used before it was validated.
            Reason::NoCache | Reason::Stale if !is_ours => {
                Ok((Freshness::explicit(Duration::ZERO), Some(reason)))
            }
            reason => Err(reason),
        }
    }

    /// §3: `public`, a freshness that is spelled out, or a status that is cacheable without (RFC 9110,
    /// 15.1).
    fn says_that_it_may_be_stored(&self) -> bool {
        self.directives.public
            || freshness::says_how_long(&self.directives, self.headers)
            || freshness::is_heuristically_cacheable(self.status)
    }

    /// §4.2.4, RFC 5861: what may be done with it once it is stale, and for how long it is kept for
    /// that, or for being validated.
    fn staleness(&self, freshness: Freshness, was_fresh: bool) -> (Staleness, Duration) {
        let Self {
            directives,
            settings,
            ..
        } = self;
        // §5.2.2.2, §5.2.2.8, §5.2.2.4
        let is_forbidden =
            directives.must_revalidate || directives.proxy_revalidate || directives.no_cache;
        // §5.2.2.10: s-maxage means proxy-revalidate, too, but for what it says itself.
        let allowed = !is_forbidden && directives.s_maxage.is_none();
        let window = |own: Option<u64>, added: Duration| match own {
            Some(_) if is_forbidden => Duration::ZERO,
            Some(seconds) => Duration::from_secs(seconds),
            // For what has become stale: who sends `max-age=0` has not asked for a window.
            None if allowed && was_fresh => added.min(LONGEST),
            None => Duration::ZERO,
        };
        let while_revalidate = window(
            directives.stale_while_revalidate,
            settings.stale_while_revalidate,
        );
        let if_error = window(directives.stale_if_error, settings.stale_if_error);
        // Where the inner service cannot be reached any age is better than none (§4.2.4).
        let has_validator = self.present.validator && validation::has_validator(self.headers);
        let is_of_use =
            has_validator || settings.has_validator || (allowed && settings.keeps_stale);
        let kept = match is_of_use {
            true => freshness.lifetime.clamp(LEAST_KEPT, MOST_KEPT),
            false => Duration::ZERO,
        };
        let staleness = Staleness {
            while_revalidate: millis(while_revalidate),
            if_error: millis(if_error),
            allowed,
        };
        (staleness, kept.max(while_revalidate).max(if_error))
    }

    /// A 5xx may answer those who wait for it, where it could be stored but for its status.
    fn shared_failure(&self) -> Result<Plan, Reason> {
        // Stripping a cookie is for what is stored; here the field would be handed to others.
        self.may_ever_be_stored(false)?;
        self.has_an_end()?;
        let vary = self.vary()?;
        // A failure is nobody's promise that it is the same for all: no `public` helps.
        if self.request.personal.is_some() {
            return Err(Reason::NotShareable);
        }
        self.is_wanted_by_its_handler()?;
        let length = self.fits()?;
        Ok(Plan {
            length,
            ..self.plan(vary)
        })
    }

    fn may_ever_be_stored(&self, set_cookie_allowed: bool) -> Result<(), Reason> {
        may_ever_be_stored(self.settings, &self.directives, self.status, || {
            self.present.set_cookie && !set_cookie_allowed
        })
    }

    fn has_a_status_that_is_stored(&self) -> Result<(), Reason> {
        match self.status.as_u16() {
            // RFC 9110, section 15.2.2: the connection becomes something else.
            101 => Err(Reason::Stream),
            // §3.3: never as a full response. §4.3.4: only freshens.
            206 | 304 => Err(Reason::Status),
            // §5.2.2.3
            _ if self.directives.must_understand && !is_understood(self.status) => {
                Err(Reason::Status)
            }
            // §3: all final ones.
            _ if !self.settings.is_careful() => Ok(()),
            // §3: these when their freshness is explicit, some of them when it is not.
            200..=299 | 300..=308 | 404 | 410 => Ok(()),
            // §3: only final status codes; and no client's 400 becomes everybody's page.
            _ => Err(Reason::Status),
        }
    }

    /// Streams are passed on at once: whoever waited for their end would wait in vain.
    fn has_an_end(&self) -> Result<(), Reason> {
        if self.present.content_type {
            for line in self.headers.get_all(CONTENT_TYPE) {
                let line = line.as_bytes();
                let has_stream = match line.contains(&b',') {
                    true => line.split(|&byte| byte == b',').any(is_stream),
                    false => is_stream(line),
                };
                if has_stream {
                    return Err(Reason::Stream);
                }
            }
        }
        // RFC 9110, section 6.6.2: what comes after the body cannot be stored with the head.
        if self.present.trailer {
            return Err(Reason::Trailers);
        }
        Ok(())
    }

    /// §4.1, and what goes unsaid.
    fn vary(&self) -> Result<VaryRule, Reason> {
        if !self.present.vary {
            return Ok(VaryRule::default());
        }
        let silent = freshness::is_silent(&self.directives, self.headers);
        vary::rule(self.request, self.settings, self.headers, silent)
    }

    /// §3.5 for `Authorization`, and by analogy for whatever else identifies somebody.
    fn may_be_shared(&self, plan: &Plan) -> Result<(), Reason> {
        let enough = match self.request.personal {
            None => true,
            Some(Reason::Authorization) if self.authorization_is_all() => {
                plan.shareable_with_authorization
            }
            Some(_) => plan.shareable,
        };
        if enough {
            Ok(())
        } else {
            Err(Reason::NotShareable)
        }
    }

    /// Whether nothing but `Authorization` identifies the client.
    fn authorization_is_all(&self) -> bool {
        self.request.authorization
            && self.request.headers.keys().all(|name| {
                name == AUTHORIZATION
                    || ((name != COOKIE || !self.settings.is_careful())
                        && !(self.request.is_credential)(name.as_str()))
            })
    }

    fn is_wanted_by_its_handler(&self) -> Result<(), Reason> {
        if self.policy.is_some_and(CachePolicy::is_no_store) {
            return Err(Reason::Policy);
        }
        Ok(())
    }

    /// The length that it declares, if it is not too long.
    fn fits(&self) -> Result<Option<u64>, Reason> {
        let length = match self.present.content_length {
            true => declared_length(self.headers)?,
            false => None,
        };
        if length.is_some_and(|bytes| bytes > self.settings.max_body_size) {
            return Err(Reason::BodyTooLarge);
        }
        if self.headers.len() > MAX_HEAD_FIELDS || self.present.bytes > MAX_HEAD_BYTES {
            return Err(Reason::HeadTooLarge);
        }
        Ok(length)
    }

    /// Everything but the freshness, which is asked for last.
    fn plan(&self, vary: VaryRule) -> Plan {
        // §5.2.2.9 and §5.2.2.10. An s-maxage of 0 (or none that can be read) invites nobody.
        let shareable = self.directives.public
            || self.directives.s_maxage.is_some_and(|seconds| seconds > 0)
            || self.policy.is_some_and(CachePolicy::is_public);
        Plan {
            length: None,
            freshness: Freshness::explicit(Duration::ZERO),
            unfit: None,
            staleness: Staleness::default(),
            kept: Duration::ZERO,
            shareable,
            // §3.5: must-revalidate, public, s-maxage.
            shareable_with_authorization: shareable || self.directives.must_revalidate,
            vary,
            initial_age: self.initial_age,
            directives: self.directives,
            said: self.policy.map_or_else(Said::default, |said| Said {
                ttl: said.ttl_value().map(millis),
                public: said.is_public(),
            }),
        }
    }
}

/// Those statuses whose rules of caching are kept here (RFC 9110, 15).
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505
    )
}

/// The length of the body, where the response declares one.
///
/// # Errors
///
/// [`Reason::BodyLength`] if it is no number, or several that differ (RFC 9110, section 8.6).
pub(crate) fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, Reason> {
    let mut declared = None;
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    if let (Some(line), None) = (lines.next(), lines.next()) {
        if let Some(length) = decimal(line.as_bytes()) {
            return Ok(Some(length));
        }
    }
    for line in headers.get_all(CONTENT_LENGTH) {
        for member in members(line.as_bytes()) {
            let length = member.ok().and_then(decimal).ok_or(Reason::BodyLength)?;
            if *declared.get_or_insert(length) != length {
                return Err(Reason::BodyLength);
            }
        }
    }
    Ok(declared)
}

fn is_stream(media_type: &[u8]) -> bool {
    let essence = trim(cut(media_type, b';').0);
    let starts_with = |prefix: &[u8]| {
        essence
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    essence.eq_ignore_ascii_case(b"text/event-stream")
        || essence.eq_ignore_ascii_case(b"multipart/x-mixed-replace")
        || starts_with(b"application/grpc")
}

#[cfg(test)]
mod tests;
