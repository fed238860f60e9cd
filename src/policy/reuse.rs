//! Whether a stored response may answer a request
//! ([RFC 9111, section 4](https://www.rfc-editor.org/rfc/rfc9111#section-4)), by its age and by what the
//! request demands. Whether it was chosen by its variant, and whether it may be shared with this
//! request, is asked elsewhere.

use http::StatusCode;

use super::directives::RequestDirectives;
use crate::{
    entry::{Lifetime, Millis, Staleness},
    status::Forward,
};

/// What a stored response is to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// It answers.
    Fresh,
    /// It answers although it is stale; a newer one is obtained meanwhile, if true.
    Stale(bool),
    /// It does not, for this reason.
    No(Forward),
}

/// Judges by times alone.
pub(crate) fn reuse(
    lifetime: &Lifetime,
    staleness: &Staleness,
    demands: &RequestDirectives,
    now: Millis,
) -> Reuse {
    // §5.2.1.4: not without validation.
    if demands.no_cache {
        return Reuse::No(Forward::Request);
    }
    let age = lifetime.age(now);
    let millis = |seconds: u64| seconds.saturating_mul(1000);
    let Some(stale_for) = lifetime.stale_for(now) else {
        // §5.2.1.1 and §5.2.1.3; §5.2.1.1: a client that takes stale ones does so up to this age.
        let is_too_old = demands
            .max_age
            .is_some_and(|most| most == 0 || age > millis(most));
        let left = lifetime.freshness - age;
        let is_too_short = demands.min_fresh.is_some_and(|least| left < millis(least));
        return match is_too_old || is_too_short {
            true => Reuse::No(Forward::Request),
            false => Reuse::Fresh,
        };
    };
    // Whoever wants it young does not want it stale.
    let wants_fresh =
        demands.min_fresh.is_some() || demands.max_age.is_some_and(|most| age > millis(most));
    if wants_fresh {
        return Reuse::No(Forward::Stale);
    }
    // RFC 5861, 3
    if stale_for < staleness.while_revalidate {
        return Reuse::Stale(true);
    }
    // §5.2.1.2: never more than the response allows.
    let is_accepted = match demands.max_stale {
        Some(Some(most)) => stale_for <= millis(most),
        Some(None) => true,
        None => false,
    };
    match is_accepted && staleness.allowed {
        true => Reuse::Stale(false),
        false => Reuse::No(Forward::Stale),
    }
}

/// For what a stale response may stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The inner service answered with 5xx.
    Status(StatusCode),
    /// It failed, so that it cannot be reached.
    Error,
    /// It takes longer than one waits.
    Slow,
}

/// Whether a stale response stands in for a failure of the inner service (RFC 5861, 4; §4.2.4: or
/// where it cannot be reached, `is_out_of_reach`).
pub(crate) fn stands_in(
    lifetime: &Lifetime,
    staleness: &Staleness,
    demands: &RequestDirectives,
    is_out_of_reach: bool,
    now: Millis,
) -> bool {
    let is_demanding = demands.no_cache || demands.max_age.is_some() || demands.min_fresh.is_some();
    let is_fresh_enough = lifetime
        .stale_for(now)
        .is_none_or(|stale_for| stale_for < staleness.if_error);
    !is_demanding && (is_fresh_enough || (is_out_of_reach && staleness.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Lifetime = Lifetime {
        response_time: 0,
        initial_age: 0,
        freshness: 60_000,
        kept: 600_000,
    };
    const ALLOWED: Staleness = Staleness {
        while_revalidate: 0,
        if_error: 0,
        allowed: true,
    };
    const FORBIDDEN: Staleness = Staleness {
        allowed: false,
        ..ALLOWED
    };
    const WINDOWS: Staleness = Staleness {
        while_revalidate: 10_000,
        if_error: 30_000,
        allowed: false,
    };
    const NONE: RequestDirectives = RequestDirectives {
        no_cache: false,
        no_store: false,
        only_if_cached: false,
        max_age: None,
        min_fresh: None,
        max_stale: None,
    };

    #[test]
    fn a_stored_response_answers_by_its_age_and_by_what_is_demanded() {
        const NO_CACHE: RequestDirectives = RequestDirectives {
            no_cache: true,
            ..NONE
        };
        const fn max_age(seconds: u64) -> RequestDirectives {
            RequestDirectives {
                max_age: Some(seconds),
                ..NONE
            }
        }
        const fn min_fresh(seconds: u64) -> RequestDirectives {
            RequestDirectives {
                min_fresh: Some(seconds),
                ..NONE
            }
        }
        const fn max_stale(seconds: Option<u64>) -> RequestDirectives {
            RequestDirectives {
                max_stale: Some(seconds),
                ..NONE
            }
        }
        const BY_REQUEST: Reuse = Reuse::No(Forward::Request);
        const BY_AGE: Reuse = Reuse::No(Forward::Stale);
        const ACCEPTED: Reuse = Reuse::Stale(false);
        const REFRESHED: Reuse = Reuse::Stale(true);
        let both = RequestDirectives {
            max_age: Some(5),
            ..max_stale(Some(600))
        };
        #[rustfmt::skip]
        let rows: &[(&str, Staleness, RequestDirectives, Millis, Reuse)] = &[
            ("§4.2 fresh while the lifetime exceeds the age", ALLOWED, NONE, 59_999, Reuse::Fresh),
            ("§4.2 stale when it does not", ALLOWED, NONE, 60_000, BY_AGE),
            ("§5.2.1.4 no-cache", ALLOWED, NO_CACHE, 1, BY_REQUEST),
            ("§5.2.1.4 no-cache, whatever window", WINDOWS, NO_CACHE, 60_000, BY_REQUEST),
            ("§5.2.1.1 max-age, young enough", ALLOWED, max_age(5), 5_000, Reuse::Fresh),
            ("§5.2.1.1 max-age, too old", ALLOWED, max_age(5), 5_001, BY_REQUEST),
            ("§5.2.1.1 max-age=0, however young", ALLOWED, max_age(0), 0, BY_REQUEST),
            ("§5.2.1.1 max-age takes no stale one", ALLOWED, max_age(600), 60_000, BY_AGE),
            ("§5.2.1.1 max-age bounds a window, too", WINDOWS, max_age(60), 60_001, BY_AGE),
            ("§5.2.1.3 min-fresh, enough left", ALLOWED, min_fresh(10), 50_000, Reuse::Fresh),
            ("§5.2.1.3 min-fresh, too little left", ALLOWED, min_fresh(10), 50_001, BY_REQUEST),
            ("§5.2.1.3 min-fresh takes no stale one", WINDOWS, min_fresh(0), 60_000, BY_AGE),
            ("§5.2.1.2 max-stale, within", ALLOWED, max_stale(Some(5)), 65_000, ACCEPTED),
            ("§5.2.1.2 max-stale, beyond", ALLOWED, max_stale(Some(5)), 65_001, BY_AGE),
            ("§5.2.1.2 max-stale without a limit", ALLOWED, max_stale(None), 600_000, ACCEPTED),
            ("§5.2.1.2 max-stale of a fresh one", ALLOWED, max_stale(None), 1, Reuse::Fresh),
            ("§4.2.4 forbidden by the response", FORBIDDEN, max_stale(None), 60_000, BY_AGE),
            ("§5.2.1.1 max-age and max-stale", ALLOWED, both, 60_001, BY_AGE),
            ("RFC 5861 §3 within the window", WINDOWS, NONE, 69_999, REFRESHED),
            ("RFC 5861 §3 after the window", WINDOWS, NONE, 70_000, BY_AGE),
            ("RFC 5861 §3 max-stale=0 says nothing of the window", WINDOWS, max_stale(Some(0)), 60_000, REFRESHED),
        ];
        for (sentence, staleness, demands, now, expected) in rows {
            assert_eq!(
                reuse(&LIFETIME, staleness, demands, *now),
                *expected,
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_stale_response_stands_in_for_a_failure() {
        let no_cache = RequestDirectives {
            no_cache: true,
            ..NONE
        };
        let max_age = RequestDirectives {
            max_age: Some(600),
            ..NONE
        };
        let min_fresh = RequestDirectives {
            min_fresh: Some(0),
            ..NONE
        };
        #[rustfmt::skip]
        let rows = [
            ("what is fresh still, whatever the window", FORBIDDEN, NONE, false, 59_999, true),
            ("RFC 5861 §4 within the window", WINDOWS, NONE, false, 89_999, true),
            ("RFC 5861 §4 after the window", WINDOWS, NONE, false, 90_000, false),
            ("RFC 5861 §4 a failure to connect is one", WINDOWS, NONE, true, 89_999, true),
            ("§4.2.4 out of reach, nothing forbids", ALLOWED, NONE, true, 600_000, true),
            ("§4.2.4 out of reach, forbidden", FORBIDDEN, NONE, true, 60_000, false),
            ("§4.2.4 an error is an answer", ALLOWED, NONE, false, 60_000, false),
            ("§5.2.1.4 not without validation", WINDOWS, no_cache, true, 60_000, false),
            ("§5.2.1.1 a request that wants it young", WINDOWS, max_age, true, 60_000, false),
            ("§5.2.1.3 a request that wants it fresh", WINDOWS, min_fresh, true, 60_000, false),
        ];
        for (sentence, staleness, demands, out, now, expected) in rows {
            let stands = stands_in(&LIFETIME, &staleness, &demands, out, now);
            assert_eq!(stands, expected, "{sentence}");
        }
    }
}
