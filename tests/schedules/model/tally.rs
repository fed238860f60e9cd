//! What was reached while schedules were played.

use std::{collections::BTreeMap, fmt};

/// How often each kind of event and outcome was met.
#[derive(Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

/// In ten thousand schedules at least so often, or the schedules say little.
#[rustfmt::skip]
const LEAST: &[(&str, u64)] = &[
    // What happened.
    ("event: arrive", 1_000), ("event: leave", 1_000), ("event: head", 1_000), ("event: chunk", 1_000),
    ("event: end", 1_000), ("event: error", 500), ("event: panic", 500), ("event: invalidate", 1_000),
    ("event: change", 500), ("event: expire", 500), ("event: time", 500), ("event: disable", 200),
    ("event: hold", 500),
    // What came of it.
    ("hit", 5_000), ("hit for HEAD", 500), ("stale", 200), ("stand-in", 20), ("collapsed", 2_000),
    ("collapsed HEAD", 50), ("collapsed while it streamed", 500), ("collapsed at the end of an open body", 100),
    ("shared 5xx", 50), ("validated by a call of its own", 100), ("bypass", 500), ("alone: wait-timeout", 100),
    ("alone: inner-error", 50), ("not stored: set-cookie", 100), ("not stored: no-store", 100),
    ("not stored: private", 100), ("not stored: body-too-large", 50), ("not stored: status", 50),
    ("regrouped by Vary", 100), ("no-cache answered by another's newer call", 20),
    ("unsatisfied only-if-cached", 50), ("client met the error", 500), ("client met the panic", 200),
    ("body error for its own client", 100), ("broken body for who shared it", 50),
    ("short body ended in an error", 20), ("trailers", 20),
    ("two calls at once, with a reason", 1_000), ("whole although its client left", 500),
    ("refused, and each called for itself", 200), ("dropped with its client", 200), ("late call", 200), ("outrun by an invalidation", 200),
    ("nothing was left waiting", 10_000),
];

impl Tally {
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn count_if(&mut self, what: &'static str, holds: bool) {
        if holds {
            self.count(what);
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// That each kind of event and outcome was reached.
    pub fn shows_enough(&self, schedules: u64) {
        for (what, least) in LEAST {
            let seen = self.0.get(what).copied().unwrap_or_default();
            let seen = seen * 10_000 / schedules;
            assert!(
                seen >= *least,
                "{what}: {seen} in ten thousand schedules, not {least}"
            );
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &self.0 {
            writeln!(f, "{count:>9} {what}")?;
        }
        Ok(())
    }
}
