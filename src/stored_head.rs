//! The head of a response as it is stored.
//!
//! It starts with three slots, `Age`, `Cache-Status` and `X-Cache`, so that a hit is a clone of the head
//! with two values put in their places (`headers.rs`).

use std::time::SystemTime;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AGE, CONNECTION, DATE, ETAG, InvalidHeaderValue},
};
use smallvec::SmallVec;
use twox_hash::XxHash3_64;

use crate::{
    entry::StoredHead,
    field_values::{NAME, date_value},
    headers::{CACHE_STATUS, HIT, X_CACHE, word},
    outline::{Lines, Manner, learn, outlined},
    strip::{Line, Strip, Values, is_left_out, listed_by, own_name},
};

/// How many slots a stored head has at the most.
pub(crate) const SLOTS: usize = 3;

/// The fields to store of a response, behind the slots for our own.
pub(crate) fn stored_head(response: &HeaderMap, strip: Strip<'_>, now: SystemTime) -> HeaderMap {
    let manner = Manner {
        strip,
        now: Some(now),
    };
    if let Ok(Some(stored)) = outlined(response, manner) {
        return stored;
    }
    let stored = new_stored_head(response, strip, now);
    learn(response, manner, &stored);
    stored
}

/// The same, whatever was stored before.
pub(crate) fn new_stored_head(
    response: &HeaderMap,
    strip: Strip<'_>,
    now: SystemTime,
) -> HeaderMap {
    let listed = listed_by(response.get_all(CONNECTION).iter().map(AsRef::as_ref));
    let size = response.values().map(HeaderValue::len).sum();
    let mut stored = Stored::new(response.len(), size, has_status_slot(response));
    for (name, value) in response {
        if !is_left_out(name, strip, &listed) {
            stored.keep(name, value);
        }
    }
    if !stored.head.contains_key(DATE) {
        stored.add_date(now);
    }
    stored.head
}

/// A field of a frame: its name has bytes of its own, the value may have not.
pub(crate) struct Field<'v> {
    pub(crate) name: HeaderName,
    pub(crate) value: &'v [u8],
}

/// As many as nearly every response has at the most.
pub(crate) type Fields<'v> = SmallVec<[Field<'v>; 24]>;

impl Lines for Fields<'_> {
    fn count(&self) -> usize {
        self.len()
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.iter().map(|field| Line {
            name: &field.name,
            value: field.value,
            is_sensitive: false,
        })
    }
}

/// The same for fields that were stored before, by any release, and nobody has looked at. Whether
/// there is a slot for `Cache-Status` is said as well; the `Date` is left to the caller.
pub(crate) fn stored_fields(fields: Fields<'_>) -> Result<(HeaderMap, bool), InvalidHeaderValue> {
    let manner = Manner {
        // What was stored already lacks what is not stored.
        strip: Strip::NOTHING,
        now: None,
    };
    let status_slot = fields.iter().all(|field| field.name != CACHE_STATUS);
    if let Some(stored) = outlined(&fields, manner)? {
        return Ok((stored, status_slot));
    }
    let of_connection = fields.iter().filter(|field| field.name == CONNECTION);
    let listed = listed_by(of_connection.map(|field| field.value));
    let size = fields.iter().map(|field| field.value.len()).sum();
    let mut stored = Stored::new(fields.len(), size, status_slot);
    for line in fields.lines() {
        if !is_left_out(line.name, manner.strip, &listed) {
            // The name has bytes of its own.
            stored
                .head
                .append(line.name.clone(), stored.values.own(line)?);
        }
    }
    learn(&fields, manner, &stored.head);
    Ok((stored.head, status_slot))
}

/// A head that is being made to be stored.
struct Stored {
    head: HeaderMap,
    values: Values,
}

impl Stored {
    /// With the slots, and room for so many fields with values of so many bytes.
    ///
    /// The lines of caches behind us come first (RFC 9211, section 2); ours is appended to them on
    /// each hit. Where there are such, there is no slot for ours.
    fn new(fields: usize, size: usize, status_slot: bool) -> Self {
        let mut head = HeaderMap::with_capacity(SLOTS + fields + 1);
        head.append(AGE, HeaderValue::from_static("0"));
        if status_slot {
            head.append(CACHE_STATUS, HeaderValue::from_static(NAME));
        }
        head.append(X_CACHE, word(&HIT));
        let values = Values::with_capacity(size);
        Self { head, values }
    }

    /// A field of a response; both its parts may share a buffer with a connection.
    fn keep(&mut self, name: &HeaderName, value: &HeaderValue) {
        let own = self.values.own(Line {
            name,
            value: value.as_bytes(),
            is_sensitive: value.is_sensitive(),
        });
        self.head
            .append(own_name(name), own.unwrap_or_else(|_| value.clone()));
    }

    /// A response without a date is as old as its arrival here.
    fn add_date(&mut self, now: SystemTime) {
        self.head.insert(DATE, self.values.date(now));
    }
}

/// A response without a date is as old as its arrival here.
pub(crate) fn add_date(head: &mut HeaderMap, now: SystemTime) {
    if !head.contains_key(DATE) {
        head.insert(DATE, date_value(now));
    }
}

/// Whether the second slot of a stored head is `Cache-Status`.
pub(crate) fn has_status_slot(response: &HeaderMap) -> bool {
    !response.contains_key(&CACHE_STATUS)
}

/// The fields of a stored head without those that are ours: the slots, and an entity tag.
pub(crate) fn without_own(stored: &StoredHead) -> HeaderMap {
    let mut fields = stored.headers.clone();
    fields.remove(AGE);
    fields.remove(&X_CACHE);
    if stored.status_slot {
        fields.remove(&CACHE_STATUS);
    }
    if stored.own_tag {
        fields.remove(ETAG);
    }
    fields
}

/// A weak entity tag for a body that has none (RFC 9110, 8.8.1): who made the response promised
/// nothing, so it is not byte for byte that clients may combine it.
pub(crate) fn weak_tag(body: &[u8]) -> HeaderValue {
    let tag = format!("W/\"{:016x}{:x}\"", XxHash3_64::oneshot(body), body.len());
    HeaderValue::try_from(tag).expect("hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::{head, lines};

    #[test]
    fn fields_of_one_exchange_are_not_stored() {
        let response = head(&[
            ("connection", "X-Hop, close"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("x-request-id", "7"),
            ("traceparent", "7"),
            ("server-timing", "db;dur=1"),
            ("ratelimit-remaining", "7"),
            ("x-ratelimit-limit", "7"),
            ("x-cache", "HIT from elsewhere"),
            ("age", "5"),
            ("x-mine", "1"),
            ("link", "<a>"),
            ("link", "<b>"),
            ("content-type", "text/plain"),
        ]);
        let strip = [HeaderName::from_static("x-mine")];
        let stored = stored_head(
            &response,
            Strip {
                fields: &strip,
                of_one_exchange: true,
                set_cookie: true,
            },
            SystemTime::UNIX_EPOCH,
        );
        let mut names: Vec<_> = stored.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "age",
                "cache-status",
                "content-type",
                "date",
                "link",
                "x-cache"
            ]
        );
        assert_eq!(lines(&stored, "link"), ["<a>", "<b>"]);
        assert_eq!(lines(&stored, "date"), ["Thu, 01 Jan 1970 00:00:00 GMT"]);
    }
}
