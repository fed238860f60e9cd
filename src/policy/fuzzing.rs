//! One entry for each parser, for the fuzz targets in `tests/fuzz`: whatever the bytes, none may panic,
//! and none may read what was not written. No part of the API.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_ORIGIN, AGE,
        CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, EXPIRES,
        IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, VARY,
    },
};

use super::{
    Decision, RequestDirectives, RequestFacts, Selected, StoringSettings, VaryRule, dates,
    directives::ResponseDirectives, groups, has_not_changed, is_not_modified, search, select,
    syntax::MAX_SECONDS, targeted,
};

/// What takes bytes, and panics where something is wrong.
pub type Parser = fn(&[u8]);

/// All of them, by the names of their fuzz targets.
pub const PARSERS: &[(&str, Parser)] = &[
    ("dates", dates),
    ("directives", directives),
    ("groups", groups),
    ("nominated", nominated),
    ("ranges", ranges),
    ("response", response),
    ("search", search),
    ("targeted", targeted),
    ("validation", validation),
];

/// Field lines: the first byte of each line of `data` chooses a name, the others are the value.
fn fields(data: &[u8], names: &[HeaderName]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some((first, value)) = line.split_first() else {
            continue;
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.append(&names[usize::from(*first) % names.len()], value);
        }
    }
    fields
}

/// The moment of RFC 9110's examples.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

/// `Expires`, `Date`, `Last-Modified` and their kin.
pub fn dates(data: &[u8]) {
    let read = dates::http_date(data, now());
    // None of the three forms has so few or so many bytes, spaces aside.
    let length = super::syntax::trim(data).len();
    assert!(read.is_none() || (23..=33).contains(&length), "{data:?}");
}

/// `Cache-Control`, of requests and of responses.
pub fn directives(data: &[u8]) {
    let headers = fields(data, &[CACHE_CONTROL]);
    let said = ResponseDirectives::parse(&headers);
    let times = [
        said.max_age,
        said.s_maxage,
        said.stale_if_error,
        said.stale_while_revalidate,
    ];
    assert!(times.iter().flatten().all(|time| *time <= MAX_SECONDS));
    let asked = RequestDirectives::parse(&headers);
    assert!(asked.min_fresh.is_none_or(|time| time <= MAX_SECONDS));
    // What allows something was written somewhere.
    let is_written = |word: &[u8]| {
        let mut windows = data.windows(word.len());
        windows.any(|window| window.eq_ignore_ascii_case(word))
    };
    assert!(!said.public || is_written(b"public"));
    assert!(!said.immutable || is_written(b"immutable"));
    assert!(said.max_age.is_none_or(|time| time == 0) || is_written(b"max-age="));
    assert!(said.s_maxage.is_none_or(|time| time == 0) || is_written(b"s-maxage="));
}

/// The fields of a response that decide whether it is stored.
pub fn response(data: &[u8]) {
    let headers = fields(
        data,
        &[
            CACHE_CONTROL,
            EXPIRES,
            DATE,
            AGE,
            VARY,
            CONTENT_LENGTH,
            CONTENT_TYPE,
            CONTENT_ENCODING,
            ACCESS_CONTROL_ALLOW_ORIGIN,
        ],
    );
    let request = HeaderMap::new();
    let facts = RequestFacts {
        headers: &request,
        authorization: false,
        personal: None,
        partitioned: false,
        is_credential: &|name| name == "x-api-key",
    };
    let settings = StoringSettings::default();
    let decision = super::decide(
        &settings,
        &facts,
        StatusCode::OK,
        &headers,
        None,
        now(),
        now(),
    );
    if let Decision::Store(plan) = decision {
        let longest = Duration::from_secs(MAX_SECONDS);
        assert!(plan.initial_age < plan.freshness.lifetime);
        assert!(plan.freshness.lifetime <= longest);
        assert!(!plan.directives.no_store && !plan.directives.private);
        let has_star = |value: &HeaderValue| value.as_bytes().contains(&b'*');
        assert!(!headers.get_all(VARY).iter().any(has_star));
    }
}

/// The request fields that `Vary` chooses by.
pub fn nominated(data: &[u8]) {
    let names = [
        ACCEPT,
        ACCEPT_ENCODING,
        ACCEPT_LANGUAGE,
        HeaderName::from_static("x"),
    ];
    let rule = VaryRule::from_names(names.to_vec());
    let headers = fields(data, &names);
    let values = rule.values(&headers);
    // Each name is written with its length, and no value is longer than its lines.
    let written: usize = names.iter().map(|name| name.as_str().len()).sum();
    assert!(values.len() >= written);
    assert_eq!(values, rule.values(&headers));
}

/// The conditions of a request.
pub fn validation(data: &[u8]) {
    let request = fields(data, &[IF_NONE_MATCH, IF_MODIFIED_SINCE]);
    let stored = fields(data, &[ETAG, LAST_MODIFIED, DATE]);
    for stored in [stored, as_stored()] {
        let is_known = is_not_modified(&request, &stored);
        assert!(is_known || !has_not_changed(&request, &stored));
        assert!(!is_known || !request.is_empty());
    }
}

/// What a request wants of a body.
pub fn ranges(data: &[u8]) {
    const LENGTH: usize = 1_000;
    let request = fields(data, &[RANGE, RANGE, IF_RANGE, IF_MATCH]);
    let stored = fields(data, &[ETAG, LAST_MODIFIED, DATE, ACCEPT_RANGES]);
    for stored in [stored, as_stored()] {
        for length in [0, 1, LENGTH] {
            if let Selected::Parts(parts) = select(&request, &stored, length) {
                assert!(request.contains_key(RANGE) && !parts.is_empty());
                assert!(parts.iter().all(|p| p.start < p.end && p.end <= length));
            }
        }
    }
}

fn as_stored() -> HeaderMap {
    let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
    let earlier = HeaderValue::from_static("Sun, 06 Nov 1994 07:49:37 GMT");
    HeaderMap::from_iter([
        (ETAG, HeaderValue::from_static("\"a\"")),
        (LAST_MODIFIED, earlier),
        (DATE, date),
    ])
}

/// Targeted fields.
pub fn targeted(data: &[u8]) {
    let names = ["example-cache-control", "cdn-cache-control"].map(HeaderName::from_static);
    let headers = fields(data, &names);
    if let Some(said) = targeted::read(&headers, &names) {
        let times = [said.max_age, said.s_maxage];
        assert!(times.iter().flatten().all(|time| *time <= MAX_SECONDS));
    }
}

/// `Cache-Groups` and `Cache-Group-Invalidation`.
pub fn groups(data: &[u8]) {
    let names = [groups::CACHE_GROUPS, groups::CACHE_GROUP_INVALIDATION];
    let headers = fields(data, &names);
    for groups in [
        groups::cache_groups(&headers),
        groups::cache_group_invalidation(&headers),
    ] {
        let known: HashSet<&String> = groups.iter().collect();
        assert_eq!(known.len(), groups.len());
    }
}

/// `No-Vary-Search`, and a query: what stands before the first line.
pub fn search(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let query = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let headers = fields(lines.next().unwrap_or_default(), &[search::NO_VARY_SEARCH]);
    let variance = search::SearchVariance::read(&headers);
    let canonical = variance.canonical(Some(&query));
    assert_eq!(variance.canonical(canonical.as_deref()), canonical);
    assert!(!variance.is_default() || canonical.as_deref() == Some(&*query));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::Random;

    /// What each parser understands, so that what is made of it comes further than noise.
    const KNOWN: &[&str] = &[
        "max-age=60, public",
        "no-cache=\"a\", private",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "bytes=0-5,7-",
        "\"a\"",
        "W/\"a\", \"b\"",
        "*",
        "gzip;q=0.5, br",
        "accept, x",
        "60",
        "key-order, params=(\"a\")",
        "params, except=(\"b\")",
        "a=1&b=%61+c&a",
        "\"scripts\", \"styles\"",
    ];

    #[test]
    fn no_parser_panics_at_what_looks_like_fields() {
        let mut random = Random::new(40);
        for (name, parser) in PARSERS {
            for data in [&b""[..], b"\n", b"a", b"\0\n\n\xff", b"%", b"\"", b"=("] {
                parser(data);
            }
            for _ in 0..4_000 {
                let mut data = Vec::new();
                for _ in 0..=random.below(4) {
                    if *name != "dates" {
                        data.push(random.below(12) as u8);
                    }
                    match random.below(4) {
                        0 => data.extend(random.field_bytes(30)),
                        kind => {
                            let mut known = random.pick(KNOWN).as_bytes().to_vec();
                            let at = random.below(known.len());
                            if kind == 1 {
                                known[at] = b"\",=;()*\\%+-0 \xE9"[random.below(14)];
                            }
                            data.extend(known);
                        }
                    }
                    if *name != "dates" {
                        data.push(b'\n');
                    }
                }
                parser(&data);
            }
        }
    }

    #[test]
    fn each_parser_has_a_fuzz_target() {
        let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
        // No part of the published crate.
        if !project.exists() {
            return;
        }
        let manifest = std::fs::read_to_string(project.join("Cargo.toml")).expect("a manifest");
        for (name, _) in PARSERS {
            let target = project.join(format!("fuzz_targets/{name}.rs"));
            let target = std::fs::read_to_string(target).expect(name);
            assert!(target.contains(&format!("::{name}(data)")), "{name}");
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }
}
