//! How long a response is fresh, and how old it is when it comes
//! ([RFC 9111, section 4.2](https://www.rfc-editor.org/rfc/rfc9111#section-4.2)).
//!
//! Whether it may be stored at all is decided in `storing.rs`, which asks here last.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{AGE, DATE, EXPIRES, LAST_MODIFIED},
};

use super::{
    dates::http_date,
    directives::ResponseDirectives,
    facts::StoringSettings,
    handler::CachePolicy,
    syntax::{MAX_SECONDS, delta_seconds, members, trim},
};
use crate::status::Reason;

/// §1.2.2: no lifetime and no age is counted beyond this.
pub(super) const LONGEST: Duration = Duration::from_secs(MAX_SECONDS);

/// How long a response is fresh, counted from its generation (§4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freshness {
    pub(crate) lifetime: Duration,
    /// Somebody named this lifetime: the response, its handler, or `force_ttl`. Otherwise it is the
    /// layer's own for silent responses, which may be shortened (`jitter`).
    pub(crate) explicit: bool,
}

impl Freshness {
    /// A lifetime that somebody named.
    pub(super) fn explicit(lifetime: Duration) -> Self {
        Self {
            lifetime: lifetime.min(LONGEST),
            explicit: true,
        }
    }
}

/// Whether a response says nothing about its freshness, so that the layer's own `ttl` applies.
///
/// `public` or `must-revalidate` alone is silent. `Set-Cookie` is not looked at: where it is
/// allowed it is stripped, and the response judged as if it had none.
pub(crate) fn is_silent(directives: &ResponseDirectives, headers: &HeaderMap) -> bool {
    !says_how_long(directives, headers)
        && !directives.no_cache
        && !directives.no_store
        && !directives.private
        && !directives.targeted
}

/// §3: whether a lifetime is spelled out, if only one of nothing.
pub(super) fn says_how_long(directives: &ResponseDirectives, headers: &HeaderMap) -> bool {
    directives.max_age.is_some()
        || directives.s_maxage.is_some()
        || (!directives.targeted && headers.contains_key(EXPIRES))
}

/// The freshness lifetime of a response whose status may be stored when it is explicit.
///
/// `now` is when the response came; it stands in for a missing `Date`. With targeted fields (RFC
/// 9213) `Expires` does not count.
///
/// # Errors
///
/// The reason why nothing makes it fresh: [`Reason::NoCache`], [`Reason::Silent`] or
/// [`Reason::Stale`].
pub(crate) fn lifetime(
    settings: &StoringSettings,
    policy: Option<&CachePolicy>,
    directives: &ResponseDirectives,
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<Freshness, Reason> {
    // The handler wins: it speaks to this cache alone, so its ttl beats `no-cache` as well.
    if let Some(ttl) = policy.and_then(CachePolicy::ttl_value) {
        return explicit(ttl);
    }
    // §5.2.2.4: not without validation; `force_ttl` is no permission by who made the response.
    if directives.no_cache {
        return Err(Reason::NoCache);
    }
    if is_silent(directives, headers) {
        // What the layer forces is no guess.
        let heuristic = (settings.heuristic && settings.force_ttl.is_none())
            .then(|| heuristic(directives, status, headers, now));
        return match heuristic.flatten() {
            Some(lifetime) => explicit(lifetime),
            None => silent(settings, status),
        };
    }
    if let Some(ttl) = settings.force_ttl {
        return explicit(ttl);
    }
    // §4.2.1: s-maxage wins in a shared cache, then max-age, then Expires.
    if let Some(seconds) = directives.s_maxage.or(directives.max_age) {
        return explicit(Duration::from_secs(seconds));
    }
    // RFC 9213, 2.2: a targeted field is all that counts.
    if directives.targeted {
        return Err(Reason::Stale);
    }
    explicit(expires_after(headers, now))
}

/// §4.2.2: a tenth of the time since the last change, a day at the most; nothing where that is not
/// said, or the status has its freshness spelled out (RFC 9110, 15.1).
fn heuristic(
    directives: &ResponseDirectives,
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Option<Duration> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let allowed = directives.public || is_heuristically_cacheable(status);
    // Of several dates those that leave the shortest time.
    let changed = dates(headers, LAST_MODIFIED, now)
        .max()
        .filter(|_| allowed)?;
    let date = dates(headers, DATE, now).min().unwrap_or(now);
    let since = date.duration_since(changed).ok()?;
    Some((since / 10).min(DAY)).filter(|lifetime| !lifetime.is_zero())
}

/// RFC 9110, 15.1: statuses that are cacheable where nothing is said. Not 206, which is never stored.
pub(super) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

/// §4.2.1: what is already stale as it comes is not worth storing without validation.
fn explicit(lifetime: Duration) -> Result<Freshness, Reason> {
    if lifetime.is_zero() {
        return Err(Reason::Stale);
    }
    Ok(Freshness::explicit(lifetime))
}

/// The layer's own lifetimes; these statuses are a part of those that §4.2.2 calls heuristically
/// cacheable (RFC 9110, section 15.1).
fn silent(settings: &StoringSettings, status: StatusCode) -> Result<Freshness, Reason> {
    let (lifetime, explicit) = match (status.as_u16(), settings.force_ttl) {
        (200 | 203 | 204 | 301 | 308, Some(ttl)) => (ttl, true),
        (200 | 203 | 204 | 301 | 308, None) => (settings.ttl, false),
        // `force_ttl` replaces a lifetime, but only `negative_ttl` admits these.
        (404 | 410, _) => (settings.negative_ttl.unwrap_or_default(), false),
        _ => return Err(Reason::Silent),
    };
    if lifetime.is_zero() {
        return Err(if explicit {
            Reason::Stale
        } else {
            Reason::Silent
        });
    }
    Ok(Freshness {
        lifetime: lifetime.min(LONGEST),
        explicit,
    })
}

/// §5.3 and §4.2.1: `Expires` minus `Date`; nothing if it is invalid or contradicts itself.
fn expires_after(headers: &HeaderMap, now: SystemTime) -> Duration {
    let mut lines = headers
        .get_all(EXPIRES)
        .iter()
        .map(|line| trim(line.as_bytes()));
    let Some(first) = lines.next() else {
        return Duration::ZERO;
    };
    // §4.2.1: several that differ leave no lifetime to believe.
    if lines.any(|line| line != first) {
        return Duration::ZERO;
    }
    // §5.3: an invalid date, especially "0", is a time in the past.
    let Some(expires) = http_date(first, now) else {
        return Duration::ZERO;
    };
    // §4.2.1: of several dates the latest leaves the shortest lifetime.
    let date = dates(headers, DATE, now).max().unwrap_or(now);
    expires.duration_since(date).unwrap_or_default()
}

/// The age of a response when it came (§4.2.3), from `Age`, `Date` and the time it took.
pub(crate) fn corrected_initial_age(
    headers: &HeaderMap,
    request_time: SystemTime,
    response_time: SystemTime,
) -> Duration {
    // A response with neither Date nor Age has come through no network: its handler has just made it,
    // however long that took.
    if !headers.contains_key(DATE) && !headers.contains_key(AGE) {
        return Duration::ZERO;
    }
    // §4.2.3: apparent_age = max(0, response_time - date_value); of several dates the earliest.
    let apparent_age = dates(headers, DATE, response_time)
        .min()
        .and_then(|date| response_time.duration_since(date).ok())
        .unwrap_or_default();
    // §4.2.3: response_delay = response_time - request_time; a clock may have been set back. It
    // stands for the way through a network.
    let response_delay = response_time
        .duration_since(request_time)
        .unwrap_or_default();
    // §4.2.3: corrected_age_value = age_value + response_delay; neither overflows, Age is capped.
    let corrected_age_value = age_value(headers).saturating_add(response_delay);
    apparent_age.max(corrected_age_value).min(LONGEST)
}

/// §5.1: a single number of seconds. Of several the first; where that is no number, the field is
/// ignored.
fn age_value(headers: &HeaderMap) -> Duration {
    let first = headers
        .get(AGE)
        .and_then(|line| members(line.as_bytes()).next()?.ok());
    Duration::from_secs(first.and_then(delta_seconds).unwrap_or(0))
}

/// The lines of a field that are dates.
fn dates(
    headers: &HeaderMap,
    name: HeaderName,
    now: SystemTime,
) -> impl Iterator<Item = SystemTime> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(move |line| http_date(line.as_bytes(), now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Random, headers, now};

    const HOUR: Duration = Duration::from_secs(3600);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn judged(
        settings: &StoringSettings,
        policy: Option<&CachePolicy>,
        status: u16,
        lines: &[(&str, &str)],
    ) -> Result<(u64, bool), Reason> {
        let headers = headers(lines);
        let status = StatusCode::from_u16(status).expect("a test gives statuses");
        let directives = ResponseDirectives::parse(&headers);
        lifetime(settings, policy, &directives, status, &headers, now())
            .map(|freshness| (freshness.lifetime.as_secs(), freshness.explicit))
    }

    type Row = (
        &'static str,
        &'static [(&'static str, &'static str)],
        Result<(u64, bool), Reason>,
    );

    #[test]
    fn a_response_says_how_long_it_is_fresh() {
        #[rustfmt::skip]
        let rows: &[Row] = &[
            ("silent: the layer's ttl", &[], Ok((60, false))),
            ("public alone is silent", &[("cache-control", "public")], Ok((60, false))),
            ("must-revalidate alone is silent", &[("cache-control", "must-revalidate")], Ok((60, false))),
            ("§5.2.2.1 max-age", &[("cache-control", "max-age=5")], Ok((5, true))),
            ("§5.2.2.1 max-age=0", &[("cache-control", "max-age=0")], Err(Reason::Stale)),
            ("§4.2.1 invalid max-age", &[("cache-control", "max-age=x")], Err(Reason::Stale)),
            ("§5.2.2.10 s-maxage", &[("cache-control", "s-maxage=7")], Ok((7, true))),
            ("§5.2.2.4 no-cache", &[("cache-control", "no-cache")], Err(Reason::NoCache)),
            ("§5.2.2.4 no-cache with max-age", &[("cache-control", "no-cache, max-age=5")], Err(Reason::NoCache)),
            ("§5.2.2.4 qualified no-cache", &[("cache-control", "no-cache=\"a\", max-age=5")], Err(Reason::NoCache)),
            ("§4.2.1 s-maxage over max-age", &[("cache-control", "max-age=5, s-maxage=9")], Ok((9, true))),
            ("§4.2.1 a smaller s-maxage over max-age", &[("cache-control", "s-maxage=3, max-age=5")], Ok((3, true))),
            ("§4.2.1 s-maxage=0 over max-age", &[("cache-control", "s-maxage=0, max-age=5")], Err(Reason::Stale)),
            ("§4.2.1 max-age over Expires", &[("cache-control", "max-age=5"), ("expires", "{+100}")], Ok((5, true))),
            ("§4.2.1 max-age over a past Expires", &[("cache-control", "max-age=5"), ("expires", "0")], Ok((5, true))),
            ("§5.3 Expires", &[("expires", "{+100}"), ("date", "{+0}")], Ok((100, true))),
            ("§4.2.1 Expires counts from Date", &[("expires", "{+100}"), ("date", "{-20}")], Ok((120, true))),
            ("§4.2.1 Expires counts from a later Date", &[("expires", "{+100}"), ("date", "{+20}")], Ok((80, true))),
            ("§4.2.1 Expires without Date counts from now", &[("expires", "{+100}")], Ok((100, true))),
            ("§4.2.1 Expires with an invalid Date", &[("expires", "{+100}"), ("date", "x")], Ok((100, true))),
            ("§4.2.1 of several dates the latest", &[("expires", "{+100}"), ("date", "{-20}"), ("date", "{+0}")], Ok((100, true))),
            ("§5.3 Expires is Date", &[("expires", "{+0}"), ("date", "{+0}")], Err(Reason::Stale)),
            ("§5.3 Expires before Date", &[("expires", "{-1}"), ("date", "{+0}")], Err(Reason::Stale)),
            ("§5.3 Expires: 0", &[("expires", "0")], Err(Reason::Stale)),
            ("§5.3 Expires: -1", &[("expires", "-1")], Err(Reason::Stale)),
            ("§5.3 Expires is empty", &[("expires", "")], Err(Reason::Stale)),
            ("§5.3 Expires in another zone", &[("expires", "Sun, 06 Nov 1994 09:49:37 UTC")], Err(Reason::Stale)),
            ("§5.3 Expires on a wrong day", &[("expires", "Mon, 06 Nov 1994 09:49:37 GMT")], Err(Reason::Stale)),
            ("§5.3 Expires in bytes above 0x7F", &[("expires", "é")], Err(Reason::Stale)),
            ("§4.2 dates in another case", &[("expires", "SUN, 06 nov 1994 08:50:37 Gmt")], Ok((60, true))),
            ("§4.2 dates in another case, asctime", &[("expires", "sun NOV  6 08:50:37 1994")], Ok((60, true))),
            ("§4.2 dates in another case, RFC 850", &[("expires", "sunday, 06-NOV-94 08:50:37 gmt")], Ok((60, true))),
            ("§4.2.1 Expires repeated", &[("expires", "{+9}"), ("expires", "{+9}")], Ok((9, true))),
            ("§4.2.1 Expires repeated differently", &[("expires", "{+9}"), ("expires", "{+8}")], Err(Reason::Stale)),
            ("RFC 9110 §5.6.7 IMF-fixdate", &[("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], Ok((60, true))),
            ("RFC 9110 §5.6.7 RFC 850", &[("expires", "Sunday, 06-Nov-94 08:50:37 GMT")], Ok((60, true))),
            ("RFC 9110 §5.6.7 asctime", &[("expires", "Sun Nov  6 08:50:37 1994")], Ok((60, true))),
            ("§1.2.2 max-age is capped", &[("cache-control", "max-age=9999999999")], Ok((1 << 31, true))),
            ("§1.2.2 Expires is capped", &[("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], Ok((1 << 31, true))),
        ];
        for (sentence, lines, expected) in rows {
            assert_eq!(
                judged(&StoringSettings::default(), None, 200, lines),
                *expected,
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_guess_counts_for_less_than_what_the_layer_forces() {
        let old = &[("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT")];
        let guessing = StoringSettings {
            heuristic: true,
            ..StoringSettings::default()
        };
        let forced = StoringSettings {
            force_ttl: Some(seconds(5)),
            ..guessing.clone()
        };
        assert_eq!(judged(&guessing, None, 200, old), Ok((24 * 3600, true)));
        assert_eq!(judged(&forced, None, 200, old), Ok((5, true)));
    }

    #[test]
    fn silent_is_who_says_nothing_about_freshness() {
        let rows = [
            ("max-age=9", false),
            ("max-age=x", false),
            ("s-maxage=9", false),
            ("no-cache", false),
            ("no-store", false),
            ("private", false),
            ("x=\"open", false),
            ("", true),
            (
                "public, must-revalidate, proxy-revalidate, immutable, must-understand",
                true,
            ),
            ("stale-while-revalidate=9, stale-if-error=9", true),
            ("unknown, x=\"max-age=9\"", true),
        ];
        for (value, silent) in rows {
            let headers = headers(&[("cache-control", value), ("set-cookie", "a=b")]);
            let directives = ResponseDirectives::parse(&headers);
            assert_eq!(is_silent(&directives, &headers), silent, "{value}");
        }
        let expires = headers(&[("expires", "junk")]);
        assert!(
            !is_silent(&ResponseDirectives::default(), &expires),
            "Expires"
        );
    }

    #[test]
    fn silent_responses_get_the_ttl_of_the_layer_by_status() {
        let default = StoringSettings::default();
        let negative = StoringSettings {
            negative_ttl: Some(seconds(5)),
            ..default.clone()
        };
        let zero = StoringSettings {
            ttl: Duration::ZERO,
            negative_ttl: Some(Duration::ZERO),
            ..default.clone()
        };
        for status in [200, 203, 204, 301, 308] {
            assert_eq!(
                judged(&default, None, status, &[]),
                Ok((60, false)),
                "{status}"
            );
            assert_eq!(
                judged(&negative, None, status, &[]),
                Ok((60, false)),
                "{status}"
            );
            assert_eq!(
                judged(&zero, None, status, &[]),
                Err(Reason::Silent),
                "{status}, ttl 0"
            );
        }
        for status in [404, 410] {
            assert_eq!(
                judged(&default, None, status, &[]),
                Err(Reason::Silent),
                "{status}"
            );
            assert_eq!(
                judged(&negative, None, status, &[]),
                Ok((5, false)),
                "{status}"
            );
            assert_eq!(
                judged(&zero, None, status, &[]),
                Err(Reason::Silent),
                "{status}, ttl 0"
            );
            let said = [("cache-control", "max-age=9")];
            assert_eq!(
                judged(&negative, None, status, &said),
                Ok((9, true)),
                "{status}"
            );
        }
        for status in [201, 202, 207, 300, 302, 303, 307] {
            assert_eq!(
                judged(&negative, None, status, &[]),
                Err(Reason::Silent),
                "{status}"
            );
        }
    }

    #[test]
    fn force_ttl_wins_over_freshness_of_the_response() {
        let forced = StoringSettings {
            force_ttl: Some(HOUR),
            ..StoringSettings::default()
        };
        #[rustfmt::skip]
        let rows: &[Row] = &[
            ("silent", &[], Ok((3600, true))),
            ("max-age", &[("cache-control", "max-age=5")], Ok((3600, true))),
            ("max-age=0", &[("cache-control", "max-age=0")], Ok((3600, true))),
            ("s-maxage", &[("cache-control", "s-maxage=5")], Ok((3600, true))),
            ("Expires in the past", &[("expires", "0")], Ok((3600, true))),
            ("not over no-cache", &[("cache-control", "no-cache")], Err(Reason::NoCache)),
        ];
        for (sentence, lines, expected) in rows {
            assert_eq!(judged(&forced, None, 200, lines), *expected, "{sentence}");
        }
        assert_eq!(
            judged(&forced, None, 404, &[]),
            Err(Reason::Silent),
            "it admits no status"
        );
        assert_eq!(
            judged(&forced, None, 302, &[]),
            Err(Reason::Silent),
            "it admits no status"
        );
        let said = [("cache-control", "max-age=9")];
        assert_eq!(
            judged(&forced, None, 404, &said),
            Ok((3600, true)),
            "a stated lifetime is replaced"
        );
        let negative = StoringSettings {
            negative_ttl: Some(seconds(5)),
            ..forced.clone()
        };
        assert_eq!(
            judged(&negative, None, 404, &[]),
            Ok((5, false)),
            "negative_ttl stays"
        );
        let zero = StoringSettings {
            force_ttl: Some(Duration::ZERO),
            ..forced.clone()
        };
        assert_eq!(
            judged(&zero, None, 200, &[]),
            Err(Reason::Stale),
            "force_ttl 0"
        );
        assert_eq!(
            judged(&zero, None, 200, &[("cache-control", "max-age=5")]),
            Err(Reason::Stale),
            "force_ttl 0"
        );
    }

    #[test]
    fn the_handlers_ttl_wins_over_everything_about_freshness() {
        let forced = StoringSettings {
            force_ttl: Some(HOUR),
            ..StoringSettings::default()
        };
        let policy = CachePolicy::ttl(seconds(5));
        #[rustfmt::skip]
        let rows: &[Row] = &[
            ("silent", &[], Ok((5, true))),
            ("s-maxage", &[("cache-control", "s-maxage=50")], Ok((5, true))),
            ("max-age=0", &[("cache-control", "max-age=0")], Ok((5, true))),
            ("Expires in the past", &[("expires", "0")], Ok((5, true))),
            ("no-cache", &[("cache-control", "no-cache")], Ok((5, true))),
        ];
        for (sentence, lines, expected) in rows {
            for settings in [&StoringSettings::default(), &forced] {
                assert_eq!(
                    judged(settings, Some(&policy), 200, lines),
                    *expected,
                    "{sentence}"
                );
                assert_eq!(
                    judged(settings, Some(&policy), 404, lines),
                    *expected,
                    "{sentence}"
                );
            }
        }
        let zero = CachePolicy::ttl(Duration::ZERO);
        assert_eq!(
            judged(&forced, Some(&zero), 200, &[]),
            Err(Reason::Stale),
            "ttl 0"
        );
        let longest = CachePolicy::ttl(Duration::MAX);
        assert_eq!(
            judged(&forced, Some(&longest), 200, &[]),
            Ok((1 << 31, true)),
            "capped"
        );
        let nothing = CachePolicy::new().public();
        let default = StoringSettings::default();
        assert_eq!(
            judged(&default, Some(&nothing), 200, &[]),
            Ok((60, false)),
            "no ttl, no say"
        );
    }

    #[test]
    fn layers_lifetimes_are_capped() {
        let settings = StoringSettings {
            ttl: Duration::MAX,
            ..StoringSettings::default()
        };
        assert_eq!(judged(&settings, None, 200, &[]), Ok((1 << 31, false)));
        let settings = StoringSettings {
            force_ttl: Some(Duration::MAX),
            ..settings
        };
        assert_eq!(judged(&settings, None, 200, &[]), Ok((1 << 31, true)));
    }

    #[test]
    fn the_age_at_arrival_counts_age_date_and_delay() {
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], u64, u64);
        #[rustfmt::skip]
        let rows: &[Row<'_>] = &[
            ("§4.2.3 no Age, no Date", &[], 0, 0),
            ("§4.2.3 a handler that took its time has just made the response", &[], 3, 0),
            ("§4.2.3 the delay of what came through a network", &[("date", "{-0}")], 3, 3),
            ("§5.1 Age", &[("age", "30")], 0, 30),
            ("§4.2.3 Age and the delay", &[("age", "30")], 3, 33),
            ("§4.2.3 Date, apparent", &[("date", "{-20}")], 3, 20),
            ("§4.2.3 a Date in the future is no age", &[("date", "{+20}")], 3, 3),
            ("§4.2.3 the larger of both: Age", &[("date", "{-20}"), ("age", "30")], 3, 33),
            ("§4.2.3 the larger of both: Date", &[("date", "{-40}"), ("age", "30")], 3, 40),
            ("§4.2.3 of several dates the earliest", &[("date", "{-5}"), ("date", "{-40}")], 0, 40),
            ("an invalid Date is none", &[("date", "yesterday")], 3, 3),
            ("§5.1 Age with junk is ignored", &[("age", "abc")], 3, 3),
            ("§5.1 negative Age is ignored", &[("age", "-7")], 3, 3),
            ("§5.1 fractional Age is ignored", &[("age", "7.5")], 0, 0),
            ("§5.1 empty Age is ignored", &[("age", "")], 0, 0),
            ("§5.1 Age as a list, the first is larger", &[("age", "7200, 0")], 0, 7200),
            ("§5.1 Age as a list, a later one is larger", &[("age", "9,7200")], 0, 9),
            ("§5.1 Age on two lines", &[("age", "9"), ("age", "7200")], 0, 9),
            ("§5.1 Age after junk", &[("age", "x, 9")], 0, 0),
            ("§5.1 Age in bytes above 0x7F", &[("age", "é")], 0, 0),
            ("§1.2.2 a large Age is capped", &[("age", "99999999999999999999")], 9, 1 << 31),
        ];
        for (sentence, lines, delay, expected) in rows {
            let age = corrected_initial_age(&headers(lines), now() - seconds(*delay), now());
            assert_eq!(age, seconds(*expected), "{sentence}");
        }
        let backwards = corrected_initial_age(&headers(&[]), now() + HOUR, now());
        assert_eq!(
            backwards,
            Duration::ZERO,
            "a clock that was set back is no age"
        );
    }

    #[test]
    fn any_bytes_make_no_panic_and_no_endless_lifetime() {
        let mut random = Random::new(4);
        let settings = StoringSettings::default();
        for _ in 0..20_000 {
            let mut map = HeaderMap::new();
            for name in [EXPIRES, DATE, AGE] {
                for _ in 0..random.below(3) {
                    map.append(name.clone(), random.field_value(30));
                }
            }
            if random.below(2) == 0 {
                // A date with one byte changed comes further than noise.
                let mut date = *b"Sun, 06 Nov 1994 08:49:37 GMT";
                date[random.below(29)] = b"0123456789 :,JFMASONDx"[random.below(22)];
                map.insert(
                    EXPIRES,
                    http::HeaderValue::from_bytes(&date).expect("visible"),
                );
            }
            let directives = ResponseDirectives::parse(&map);
            if let Ok(freshness) =
                lifetime(&settings, None, &directives, StatusCode::OK, &map, now())
            {
                assert!(freshness.lifetime <= LONGEST, "{map:?}");
            }
            assert!(
                corrected_initial_age(&map, now(), now()) <= LONGEST,
                "{map:?}"
            );
        }
    }
}
