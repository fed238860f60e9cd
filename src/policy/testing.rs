//! What the tests of the rules share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The moment of RFC 9110's examples: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

/// A moment some seconds away from [`now`], as a field says it.
pub(crate) fn date(offset: i64) -> String {
    let by = Duration::from_secs(offset.unsigned_abs());
    httpdate::fmt_http_date(if offset < 0 { now() - by } else { now() + by })
}

/// Field lines in their order; `{+60}` and `{-60}` stand for dates around [`now`].
pub(crate) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a test gives field names");
        let value = match value.strip_prefix('{').and_then(|v| v.strip_suffix('}')) {
            Some(offset) => date(offset.parse().expect("a test gives offsets in seconds")),
            None => (*value).to_owned(),
        };
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a test gives field values");
        map.append(name, value);
    }
    map
}

/// A small deterministic source of input (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Bytes that a field may hold, the troublesome ones often.
    pub(crate) fn field_bytes(&mut self, longest: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.below(longest + 1) {
            match self.below(8) {
                0 => bytes.push(b'"'),
                1 => bytes.push(b','),
                2 => bytes.push(b"\\=;* \t'"[self.below(7)]),
                3 => bytes.push(0x80 + self.below(0x80) as u8),
                4 => bytes.push(b"0123456789.-"[self.below(12)]),
                5 => bytes.extend_from_slice(
                    self.pick(&[
                        "max-age=",
                        "no-store",
                        "private",
                        "q=",
                        "gzip",
                        "s-maxage=",
                        "*",
                    ])
                    .as_bytes(),
                ),
                _ => bytes.push(0x20 + self.below(0x5F) as u8),
            }
        }
        bytes
    }

    pub(crate) fn field_value(&mut self, longest: usize) -> HeaderValue {
        HeaderValue::from_bytes(&self.field_bytes(longest)).expect("no control characters")
    }
}
