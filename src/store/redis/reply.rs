//! What fred and Redis answer, as values and sentences.

use std::str;

use bytes::Bytes;
use fred::{
    error::{Error, ErrorKind},
    types::Value,
};

use super::settings::Target;
use crate::error::StoreError;

/// The bytes of a string.
pub(super) fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::String(text) => Some(text.as_bytes()),
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// The same, without a copy: a slice of what was read.
pub(super) fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(text.into_inner()),
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        _ => None,
    }
}

/// What `TIME` says, in microseconds since 1970.
pub(super) fn time_of(value: &Value) -> Option<i64> {
    let Value::Array(parts) = value else {
        return None;
    };
    let [seconds, micros] = parts.as_slice() else {
        return None;
    };
    let number = |value| str::from_utf8(text(value)?).ok()?.parse::<i64>().ok();
    number(seconds)?
        .checked_mul(1_000_000)?
        .checked_add(number(micros)?)
}

/// The words of the server, if the error is one of its: they begin with a word in capitals.
fn refusal(error: &Error) -> Option<&str> {
    let details = error.details();
    let code = details.split_whitespace().next()?;
    let is_code = code.len() > 1 && code.bytes().all(|b| b.is_ascii_uppercase());
    let is_client = matches!(
        error.kind(),
        ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Backpressure
    );
    (is_code && !is_client).then_some(details)
}

/// Whether the server has answered, with an error of its own.
pub(super) fn is_answer(error: &Error) -> bool {
    refusal(error).is_some() || is_elsewhere(error)
}

/// Whether the node of a cluster that was asked is not, or soon not, that of the key.
fn is_elsewhere(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Routing)
}

/// A replica answers this to a write: another server has become the primary.
pub(super) fn is_read_only(error: &Error) -> bool {
    refusal(error).is_some_and(|words| words.starts_with("READONLY"))
}

/// The error of a command.
pub(super) fn store_error(error: &Error) -> StoreError {
    if let Some(words) = refusal(error) {
        return match words.starts_with("WRONGTYPE") {
            true => StoreError::not_a_frame(words),
            false => StoreError::refused(words),
        };
    }
    match error.kind() {
        ErrorKind::Timeout => StoreError::timeout("Redis did not answer within 40 ms"),
        ErrorKind::Backpressure => StoreError::timeout("too much waits for Redis already"),
        ErrorKind::Protocol | ErrorKind::Parse => StoreError::mismatched(error.details()),
        ErrorKind::Routing => StoreError::refused("the key moves to another node of the cluster"),
        _ => StoreError::new(format!(
            "the connection to Redis broke: {}",
            in_words(error.details())
        )),
    }
}

/// Why a connection could not be made, or broke: one sentence that says what to do.
pub(super) fn describe(error: &Error, target: &Target) -> String {
    let at = &target.at;
    if let Some(words) = refusal(error) {
        let code = words.split_whitespace().next().unwrap_or_default();
        return match code {
            "WRONGPASS" => format!(
                "Redis at {at} refuses the user or the password; correct them in the URL, \
                 with special characters percent-encoded"
            ),
            "NOAUTH" => format!(
                "Redis at {at} wants a password; write it into the URL as redis://user:password@host"
            ),
            "NOPERM" => format!(
                "the user at {at} may not do what the cache needs ({words}); \
                 allow it what the guide `docs::redis` names, on the keys ~{0}:* and ~{{{0}}}:*",
                target.namespace
            ),
            "LOADING" => {
                format!("Redis at {at} is still loading its data; it will be used after that")
            }
            "CLUSTERDOWN" | "MASTERDOWN" if target.is_clustered() => {
                format!(
                    "the cluster at {at} is not whole ({words}); check it by `redis-cli --cluster check`"
                )
            }
            "MOVED" | "ASK" | "CLUSTERDOWN" => format!(
                "Redis at {at} is a node of a cluster; write the URL as redis-cluster://, \
                 with the hosts of some nodes separated by commas"
            ),
            _ if words.contains("cluster support disabled") => {
                format!("Redis at {at} is no cluster; write the URL as redis://host")
            }
            _ if words.contains("DB index is out of range") => format!(
                "database {} is out of range at {at}; use a lower one in the URL, \
                 or raise `databases` in the configuration of Redis",
                target.config.database.unwrap_or_default()
            ),
            "NOPROTO" => format!("Redis at {at} is too old; use Redis 6.2 or Valkey 7.2, or later"),
            _ if target.is_watched() && words.contains("'SENTINEL'") => format!(
                "what answers for {at} is no sentinel; check their hosts and ports, \
                 or write the URL of a server as redis://host"
            ),
            _ if words.contains("unknown command") => format!(
                "Redis at {at} is too old, or lacks a command ({words}); \
                 use Redis 6.2 or Valkey 7.2, or later"
            ),
            _ => format!("Redis at {at} refuses to be used: {words}"),
        };
    }
    let details = error.details();
    match error.kind() {
        ErrorKind::Timeout => target.too_late(),
        ErrorKind::Protocol if details.contains("cluster state") => {
            format!("the cluster at {at} is not whole; check it by `redis-cli --cluster check`")
        }
        ErrorKind::Protocol | ErrorKind::Parse => {
            format!("what answers at {at} is not Redis; check host and port")
        }
        ErrorKind::Routing => {
            format!("slots of the cluster at {at} have moved; its nodes are asked for again")
        }
        ErrorKind::Sentinel if details.contains("Missing primary address") => format!(
            "no primary of {at} is known to them; \
             check the name of the service in the URL against `sentinel monitor`"
        ),
        ErrorKind::Sentinel if details.contains("connect to all sentinel") => format!(
            "nobody to ask for {at}; check hosts, ports and the sentinels' own password \
             (sentinelPassword in the URL), and that they run and can be reached from here"
        ),
        ErrorKind::Sentinel if details.contains("Invalid role") => {
            format!("what the sentinels call the primary of {at} is a replica still")
        }
        ErrorKind::Config => format!("Redis at {at} cannot be used: {details}"),
        #[cfg(feature = "redis-tls")]
        ErrorKind::Tls => format!(
            "no TLS with {at}: {details}; check the certificate of Redis, or use redis:// without TLS"
        ),
        _ => {
            let place = match at.starts_with('/') {
                true => "the path of its socket is",
                false => "host and port are",
            };
            let details = in_words(details);
            format!(
                "no connection to Redis at {at}: {details}; \
                 check that it runs there and that {place} right"
            )
        }
    }
}

/// fred tells an error of the system as `Os { code: 111, .., message: "Connection refused" }`, and
/// one of a name as `Custom { .., error: "failed to look up" }`.
fn in_words(details: &str) -> &str {
    ["message: \"", "error: \""]
        .into_iter()
        .filter_map(|start| details.split_once(start)?.1.split('"').next())
        .find(|words| !words.is_empty())
        .unwrap_or(details)
}
