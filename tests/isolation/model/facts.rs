//! What a response says, and what it means: put together in one place, so that nobody has to read it.

use http::{HeaderMap, HeaderName, HeaderValue};
use tower_response_cache::CachePolicy;

use super::dice::Dice;

/// What a response says of who may have it, as it was put together, and not as it is read.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub private: bool,
    pub no_store: bool,
    pub public: bool,
    pub s_maxage: Option<u64>,
    pub must_revalidate: bool,
    pub must_understand: bool,
    /// It says how long it is fresh, or that it is not.
    pub has_freshness: bool,
    pub has_expires: bool,
    pub is_public_by_handler: bool,
    pub is_refused_by_handler: bool,
    pub sets_cookie: bool,
    pub varies_on: Vec<&'static str>,
    pub has_nonce: bool,
    /// `Access-Control-Allow-Origin` names somebody; with credentials.
    pub allows_one_origin: bool,
    pub allows_credentials: bool,
    pub is_encoded: bool,
    pub has_language: bool,
}

impl Facts {
    pub fn is_silent(&self) -> bool {
        !self.has_freshness && !self.has_expires
    }

    /// What a response says after another one without content has updated it (RFC 9111, 3.2).
    pub fn updated(&self, by: Self) -> Self {
        Self {
            has_expires: self.has_expires || by.has_expires,
            is_public_by_handler: self.is_public_by_handler || by.is_public_by_handler,
            varies_on: self.varies_on.clone(),
            has_nonce: self.has_nonce,
            allows_one_origin: self.allows_one_origin,
            allows_credentials: self.allows_credentials,
            is_encoded: self.is_encoded,
            has_language: self.has_language,
            ..by
        }
    }
}

/// Directives, and what they say.
type Directive = (&'static str, fn(&mut Facts));

const DIRECTIVES: &[Directive] = &[
    ("max-age=20", |facts| facts.has_freshness = true),
    ("max-age=20", |facts| facts.has_freshness = true),
    ("Max-Age=\"100\"", |facts| facts.has_freshness = true),
    ("max-age=0", |facts| facts.has_freshness = true),
    ("max-age=x", |facts| facts.has_freshness = true),
    ("s-maxage=30", |facts| facts.shared(30)),
    ("S-MAXAGE=\"90\"", |facts| facts.shared(90)),
    ("s-maxage=0", |facts| facts.shared(0)),
    ("s-maxage", |facts| facts.shared(0)),
    ("public", |facts| facts.public = true),
    ("PuBlic", |facts| facts.public = true),
    ("private", |facts| facts.private = true),
    ("PRIVATE", |facts| facts.private = true),
    ("private=\"set-cookie\"", |facts| facts.private = true),
    ("private=yes", |facts| facts.private = true),
    ("no-store", |facts| facts.no_store = true),
    ("No-Store", |facts| facts.no_store = true),
    ("no-cache", |facts| facts.has_freshness = true),
    ("no-cache=\"x-a\"", |facts| facts.has_freshness = true),
    ("must-revalidate", |facts| facts.must_revalidate = true),
    ("proxy-revalidate", |_| {}),
    ("must-understand", |facts| facts.must_understand = true),
    ("stale-while-revalidate=60", |_| {}),
    ("stale-if-error=200", |_| {}),
    ("immutable", |_| {}),
    ("no-transform", |_| {}),
    // None of these allows anything.
    ("x-public", |_| {}),
    ("x=\"public, s-maxage=9\"", |_| {}),
    ("public=\"x\"", |_| {}),
    ("public; x", |_| {}),
    // And these forbid.
    ("x private", |facts| facts.private = true),
    ("private; max-age=9", |facts| {
        facts.private = true;
        facts.has_freshness = true;
    }),
];

const USUAL: &[&[Directive]] = &[
    &[],
    &[],
    &[("max-age=30", |facts| facts.has_freshness = true)],
    &[("max-age=30", |facts| facts.has_freshness = true)],
    &[
        ("public", |facts| facts.public = true),
        ("max-age=30", |facts| facts.has_freshness = true),
    ],
    &[("s-maxage=30", |facts| facts.shared(30))],
    &[
        ("max-age=30", |facts| facts.has_freshness = true),
        ("must-revalidate", |facts| facts.must_revalidate = true),
    ],
    &[("public", |facts| facts.public = true)],
    &[
        ("max-age=30", |facts| facts.has_freshness = true),
        ("stale-while-revalidate=90", |_| {}),
    ],
    &[
        ("public", |facts| facts.public = true),
        ("max-age=30", |facts| facts.has_freshness = true),
        ("stale-if-error=600", |_| {}),
    ],
    &[
        ("private", |facts| facts.private = true),
        ("max-age=30", |facts| facts.has_freshness = true),
    ],
];

impl Facts {
    fn shared(&mut self, seconds: u64) {
        self.has_freshness = true;
        self.s_maxage = Some(self.s_maxage.map_or(seconds, |known| known.min(seconds)));
    }

    /// Puts `Cache-Control` together.
    pub fn cache_control(&mut self, dice: &mut Dice, fields: &mut HeaderMap) {
        let mut chosen = match dice.one_in(3) {
            true => (0..dice.below(4)).map(|_| dice.of(DIRECTIVES)).collect(),
            false => dice.of(USUAL).to_vec(),
        };
        if chosen.len() > 1 && dice.one_in(2) {
            chosen.reverse();
        }
        for (_, say) in &chosen {
            say(self);
        }
        let mut lines: Vec<_> = chosen.iter().map(|(text, _)| (*text).to_owned()).collect();
        if dice.one_in(40) {
            // A quoted string without an end may hide anything.
            lines.push("x=\"public".to_owned());
            self.no_store = true;
        } else if !dice.one_in(4) {
            let comma = dice.of(&[", ", ",", " ,, "]);
            lines = vec![lines.join(comma)];
        }
        for line in lines.iter().filter(|line| !line.is_empty()) {
            append(fields, "cache-control", line);
        }
    }

    /// Other fields that rules read.
    pub fn others(&mut self, dice: &mut Dice, serial: usize, fields: &mut HeaderMap) {
        if dice.one_in(8) {
            append(fields, "expires", "Thu, 01 Jan 2026 13:00:00 GMT");
            self.has_expires = true;
        }
        if dice.one_in(3) {
            // Each its own: what has the date of another one is taken for the same.
            let changed = format!(
                "Thu, 01 Jan 2026 10:{:02}:{:02} GMT",
                serial / 60,
                serial % 60
            );
            append(fields, "last-modified", &changed);
        }
        if dice.one_in(4) {
            const NAMES: &[&str] = &[
                "accept-language",
                "accept-language",
                "x-theme",
                "x-theme",
                "origin",
                "cookie",
                "authorization",
                "x-api-key",
                "accept-encoding",
                "*",
            ];
            for _ in 0..=dice.below(2) {
                let name = dice.of(NAMES);
                self.varies_on.push(name);
                match dice.one_in(3) {
                    true => append(fields, "vary", &name.to_uppercase()),
                    false => append(fields, "vary", name),
                }
            }
        }
        if dice.one_in(8) {
            append(fields, "set-cookie", &format!("sid=<{serial}>; Path=/"));
            self.sets_cookie = true;
        }
        if dice.one_in(20) {
            // It hides nothing.
            append(
                fields,
                "connection",
                dice.of(&["set-cookie", "cache-control, vary"]),
            );
        }
        if dice.one_in(10) {
            let origin = dice.of(&["*", "https://a.example"]);
            append(fields, "access-control-allow-origin", origin);
            self.allows_one_origin = origin != "*";
            if dice.one_in(2) {
                append(fields, "access-control-allow-credentials", "true");
                self.allows_credentials = true;
            }
        }
        if dice.one_in(12) {
            append(fields, "content-security-policy", "script-src 'nonce-abc'");
            self.has_nonce = true;
        }
        if dice.one_in(12) {
            append(fields, "content-encoding", "gzip");
            self.is_encoded = true;
        }
        if dice.one_in(12) {
            append(fields, "content-language", "de");
            self.has_language = true;
        }
    }

    /// What the handler says to the cache alone.
    pub fn policy(&mut self, dice: &mut Dice) -> Option<CachePolicy> {
        let ttl = std::time::Duration::from_secs(dice.of(&[0, 20, 20]));
        let kind = dice.below(24);
        self.is_public_by_handler = kind < 2;
        self.is_refused_by_handler = kind == 3;
        match kind {
            0 => Some(CachePolicy::new().public()),
            1 => Some(CachePolicy::ttl(ttl).public()),
            2 => Some(CachePolicy::ttl(ttl)),
            3 => Some(CachePolicy::no_store()),
            _ => None,
        }
    }
}

pub fn append(fields: &mut HeaderMap, name: &'static str, value: &str) {
    let value = HeaderValue::from_str(value).expect("a field value");
    fields.append(HeaderName::from_static(name), value);
}
