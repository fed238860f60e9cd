//! Durations as people write them in files of settings.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

/// `"5s"`, `"500ms"`, `"2m"`, `"1h"` or `"7d"`; a bare number counts seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Humane(pub(super) Duration);

fn read(text: &str) -> Option<Duration> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let number: u64 = number.parse().ok()?;
    let millis = match unit.trim_start() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

impl<'de> Deserialize<'de> for Humane {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = Humane;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a duration such as \"5s\", \"500ms\", \"2m\" or \"1h\", or a number of seconds",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Humane, E> {
        let unexpected = || E::invalid_value(de::Unexpected::Str(text), &self);
        read(text).map(Humane).ok_or_else(unexpected)
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Humane, E> {
        Ok(Humane(Duration::from_secs(seconds)))
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Humane, E> {
        let unexpected = |_| E::invalid_value(de::Unexpected::Signed(seconds), &self);
        u64::try_from(seconds)
            .map_err(unexpected)
            .and_then(|seconds| self.visit_u64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("500ms", 500),
            ("5s", 5_000),
            ("5 s", 5_000),
            ("5", 5_000),
            ("0", 0),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(read(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "5 seconds",
            "1h30m",
            "5S",
            "99999999999999999999",
            "9999999999999999999d",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
