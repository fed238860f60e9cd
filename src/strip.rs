//! Which fields of a response are stored, and the bytes of their values.

use std::time::SystemTime;

use bytes::BytesMut;
use http::{
    HeaderName, HeaderValue,
    header::{AGE, InvalidHeaderValue, SET_COOKIE},
};

use crate::{
    field_values::{DATE_LENGTH, interned, write_date},
    headers::{CACHE_STATUS, X_CACHE},
};

/// Fields that identify the request that happened to fill.
fn is_of_one_exchange(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "x-request-id" | "x-correlation-id" | "traceparent" | "tracestate" | "server-timing"
    ) || name.starts_with("ratelimit")
        || name.starts_with("x-ratelimit-")
}

/// RFC 9111, 3.1: fields of the connection, and those that we put in their places.
fn is_of_the_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "age"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authentication-info"
            | "x-cache"
    )
}

/// How a stored head differs from the response it came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strip<'a> {
    /// Fields of the layer's `strip_fields`.
    pub(crate) fields: &'a [HeaderName],
    /// And those that belong to one exchange, though RFC 9111, 3.1 wants them stored.
    pub(crate) of_one_exchange: bool,
    pub(crate) set_cookie: bool,
}

impl Strip<'_> {
    /// What was stored already lacks what is not stored.
    pub(crate) const NOTHING: Self = Self {
        fields: &[],
        of_one_exchange: false,
        set_cookie: false,
    };
}

/// Whether a field is not stored; `listed` are those that `Connection` lists.
pub(crate) fn is_left_out(name: &HeaderName, strip: Strip<'_>, listed: &[String]) -> bool {
    is_of_the_connection(name)
        || (strip.of_one_exchange && is_of_one_exchange(name))
        || (strip.set_cookie && *name == SET_COOKIE)
        || strip.fields.contains(name)
        || listed.iter().any(|listed| listed == name.as_str())
}

/// Whether a field at the start of a stored head is a slot and no field of the response.
pub(crate) fn is_slot(name: &HeaderName, status_slot: bool) -> bool {
    *name == AGE || *name == X_CACHE || (status_slot && *name == CACHE_STATUS)
}

/// A line of a head that is to be stored.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    pub(crate) name: &'a HeaderName,
    pub(crate) value: &'a [u8],
    pub(crate) is_sensitive: bool,
}

/// Those values of a head that is being made which are not shared with others, in one buffer.
pub(crate) struct Values(BytesMut);

impl Values {
    /// With room for values of so many bytes, and a date.
    pub(crate) fn with_capacity(size: usize) -> Self {
        Self(BytesMut::with_capacity(size + DATE_LENGTH))
    }

    /// A value that shares no buffer with a connection.
    pub(crate) fn own(&mut self, line: Line<'_>) -> Result<HeaderValue, InvalidHeaderValue> {
        let shared = match line.is_sensitive {
            true => None,
            false => interned(line.name, line.value),
        };
        if let Some(shared) = shared {
            return Ok(shared);
        }
        self.0.extend_from_slice(line.value);
        let mut own = self.last()?;
        own.set_sensitive(line.is_sensitive);
        Ok(own)
    }

    /// The date of a response that came now.
    pub(crate) fn date(&mut self, now: SystemTime) -> HeaderValue {
        write_date(now, &mut self.0);
        self.last().expect("an HTTP date is visible ASCII")
    }

    /// What was written last, as a value: a piece of the one buffer of this head.
    fn last(&mut self) -> Result<HeaderValue, InvalidHeaderValue> {
        HeaderValue::from_maybe_shared(self.0.split().freeze())
    }
}

/// The names of fields that belong to one connection by its own word.
pub(crate) fn listed_by<'v>(lines: impl Iterator<Item = &'v [u8]>) -> Vec<String> {
    lines
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect()
}

/// A name that shares no buffer with a connection.
pub(crate) fn own_name(name: &HeaderName) -> HeaderName {
    HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone())
}
