//! Settings of Redis that may come from a file.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use super::{POOL_SIZE, duration::Humane};
use crate::store::redis::Given;

/// Settings of Redis as the second tier, such as they stand in a file.
///
/// For [`CacheBuilder::redis_settings`](crate::CacheBuilder::redis_settings), which says the same as
/// the methods of the builder. Fields when deserialised:
///
/// | field | |
/// |---|---|
/// | `url` | of a server, a cluster or sentinels, see [`CacheBuilder::redis`](crate::CacheBuilder::redis) |
/// | `namespace` | what comes first in every key |
/// | `user`, `password` | beside the URL nothing in them is encoded; not both there and here |
/// | `pool_size` | 1 to 64, 2 where it is left out |
/// | `version` | see [`CacheBuilder::version`](crate::CacheBuilder::version) |
/// | `purge_invalidated` | `true` or `false`, see [`CacheBuilder::purge_invalidated`](crate::CacheBuilder::purge_invalidated) |
/// | `memory_ttl` | `"5s"`, `"500ms"`, `"2m"`, `"1h"`, or a number of seconds, see [`CacheBuilder::memory_ttl`](crate::CacheBuilder::memory_ttl) |
///
/// The first two are needed; a field that is not known is an error. What the values mean is checked by
/// [`build`](crate::CacheBuilder::build), in which settings that contradict each other are errors. No
/// message and no `Debug` shows the password.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Cache, RedisSettings};
///
/// let settings: RedisSettings = serde_json::from_str(
///     r#"{
///         "url": "redis-cluster://10.0.0.1,10.0.0.2",
///         "namespace": "shop",
///         "user": "cache",
///         "password": "p@ss/word",
///         "memory_ttl": "5s"
///     }"#,
/// )?;
/// let cache = Cache::builder().redis_settings(settings).build()?;
/// assert!(!cache.health().is_good(), "nothing is connected yet");
///
/// let error = serde_json::from_str::<RedisSettings>(r#"{"uri": "redis://127.0.0.1"}"#).unwrap_err();
/// assert!(error.to_string().starts_with("unknown field `uri`, expected one of `url`"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RedisSettings {
    given: Given,
    version: Option<String>,
    memory_ttl: Option<Duration>,
    purge_invalidated: Option<bool>,
}

impl RedisSettings {
    /// Settings with a pool of 2, and nothing else said.
    pub fn new(url: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self {
            given: Given {
                url: url.into(),
                namespace: namespace.into(),
                pool_size: POOL_SIZE,
                user: None,
                password: None,
            },
            version: None,
            memory_ttl: None,
            purge_invalidated: None,
        }
    }

    /// The user, as it is. Default: that of the URL, or the default user.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.given.user = Some(user.into());
        self
    }

    /// The password, as it is. Default: that of the URL, or none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.given.password = Some(password.into());
        self
    }

    /// See [`CacheBuilder::pool_size`](crate::CacheBuilder::pool_size). Default: 2.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.given.pool_size = connections;
        self
    }

    /// See [`CacheBuilder::version`](crate::CacheBuilder::version). Default: that of the builder.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// See [`CacheBuilder::memory_ttl`](crate::CacheBuilder::memory_ttl). Default: that of the builder.
    pub fn memory_ttl(mut self, ttl: Duration) -> Self {
        self.memory_ttl = Some(ttl);
        self
    }

    /// See [`CacheBuilder::purge_invalidated`](crate::CacheBuilder::purge_invalidated). Default: that of the
    /// builder.
    pub fn purge_invalidated(mut self, purge: bool) -> Self {
        self.purge_invalidated = Some(purge);
        self
    }

    pub(super) fn into_given(self) -> Given {
        self.given
    }

    pub(super) fn take_version(&mut self) -> Option<String> {
        self.version.take()
    }

    pub(super) fn life_in_memory(&self) -> Option<Duration> {
        self.memory_ttl
    }

    pub(super) fn purges(&self) -> Option<bool> {
        self.purge_invalidated
    }
}

/// The URL may hold a password.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("given", &self.given)
            .field("version", &self.version)
            .field("memory_ttl", &self.memory_ttl)
            .field("purge_invalidated", &self.purge_invalidated)
            .finish()
    }
}

const FIELDS: &[&str] = &[
    "url",
    "namespace",
    "user",
    "password",
    "pool_size",
    "version",
    "memory_ttl",
    "purge_invalidated",
];

// By hand, as the derive of serde would be a dependency more.
impl<'de> Deserialize<'de> for RedisSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("RedisSettings", FIELDS, Reader)
    }
}

struct Reader;

/// Takes a value once.
fn once<'de, T: Deserialize<'de>, M: MapAccess<'de>>(
    map: &mut M,
    field: &'static str,
    place: &mut Option<T>,
) -> Result<(), M::Error> {
    if place.is_some() {
        return Err(de::Error::duplicate_field(field));
    }
    *place = Some(map.next_value()?);
    Ok(())
}

impl<'de> Visitor<'de> for Reader {
    type Value = RedisSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings of Redis with their names")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RedisSettings, M::Error> {
        let (mut url, mut namespace, mut pool_size) =
            (None::<Secret>, None::<String>, None::<usize>);
        let (mut user, mut password) = (None::<Option<String>>, None::<Option<Secret>>);
        let (mut version, mut memory_ttl) = (None::<Option<String>>, None::<Option<Humane>>);
        let mut purge_invalidated = None::<Option<bool>>;
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "url" => once(&mut map, "url", &mut url)?,
                "namespace" => once(&mut map, "namespace", &mut namespace)?,
                "user" => once(&mut map, "user", &mut user)?,
                "password" => once(&mut map, "password", &mut password)?,
                "pool_size" => once(&mut map, "pool_size", &mut pool_size)?,
                "version" => once(&mut map, "version", &mut version)?,
                "memory_ttl" => once(&mut map, "memory_ttl", &mut memory_ttl)?,
                "purge_invalidated" => {
                    once(&mut map, "purge_invalidated", &mut purge_invalidated)?;
                }
                other => return Err(de::Error::unknown_field(other, FIELDS)),
            }
        }
        let missing = de::Error::missing_field;
        let url = url.ok_or_else(|| missing("url"))?.0;
        let namespace = namespace.ok_or_else(|| missing("namespace"))?;
        let mut settings = RedisSettings::new(url, namespace);
        settings.given.user = user.flatten();
        settings.given.password = password.flatten().map(|password| password.0);
        settings.given.pool_size = pool_size.unwrap_or(POOL_SIZE);
        settings.version = version.flatten();
        settings.memory_ttl = memory_ttl.flatten().map(|ttl| ttl.0);
        settings.purge_invalidated = purge_invalidated.flatten();
        Ok(settings)
    }
}

/// A text that no message shows, be it of the wrong type.
struct Secret(String);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretReader)
    }
}

struct SecretReader;

fn not_a_text<E: de::Error>() -> E {
    E::custom("url and password are texts; write them in quotes")
}

impl Visitor<'_> for SecretReader {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Err(not_a_text())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        Err(not_a_text())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        Err(not_a_text())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Err(not_a_text())
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Secret, E> {
        Err(not_a_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cache;

    fn read(text: &str) -> Result<RedisSettings, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_read_from_a_file() {
        let settings = read(
            r#"{"url": "redis://h", "namespace": "shop", "user": "me", "password": "s/e@c", "pool_size": 4,
                "version": "1.2", "memory_ttl": "500ms", "purge_invalidated": true}"#,
        )
        .unwrap();
        assert_eq!(settings.given.url, "redis://h");
        assert_eq!(settings.given.namespace, "shop");
        assert_eq!(settings.given.user.as_deref(), Some("me"));
        assert_eq!(settings.given.password.as_deref(), Some("s/e@c"));
        assert_eq!(settings.given.pool_size, 4);
        assert_eq!(settings.version.as_deref(), Some("1.2"));
        assert_eq!(settings.memory_ttl, Some(Duration::from_millis(500)));
        assert_eq!(settings.purges(), Some(true));
        let shown = format!(
            "{settings:?} {:?}",
            Cache::builder().redis_settings(settings.clone())
        );
        assert!(!shown.contains("s/e@c"), "{shown}");

        let short = r#"{"url": "redis://h", "namespace": "shop", "user": null, "memory_ttl": 2}"#;
        let settings = read(short).unwrap();
        assert_eq!(
            (&settings.given.user, settings.given.pool_size),
            (&None, POOL_SIZE)
        );
        assert_eq!(settings.memory_ttl, Some(Duration::from_secs(2)));
        assert_eq!(settings.purges(), None, "as the builder says");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_shows_no_password() {
        for (text, says) in [
            (r#"{"namespace": "shop"}"#, "missing field `url`"),
            (r#"{"url": "redis://h"}"#, "missing field `namespace`"),
            (
                r#"{"url": "redis://h", "namespace": "shop", "passwort": "hunter2"}"#,
                "unknown field `passwort`",
            ),
            (
                r#"{"url": "redis://:hunter2@h", "url": ""}"#,
                "duplicate field `url`",
            ),
            (r#"{"password": 77377}"#, "write them in quotes"),
            (r#"{"password": -7.7377}"#, "write them in quotes"),
            (r#"{"url": ["redis://:hunter2@h"]}"#, "expected a text"),
            (r#"{"pool_size": -1}"#, "expected usize"),
            (r#"{"memory_ttl": "soon"}"#, "expected a duration such as"),
            (r#"{"purge_invalidated": "yes"}"#, "expected a boolean"),
            (r#"{"memory_ttl": -1}"#, "expected a duration such as"),
            ("[]", "expected settings of Redis"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(
                !error.contains("hunter2") && !error.contains("7377"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_errors_of_build() {
        for (settings, says) in [
            (
                RedisSettings::new("redis://:hunter2@h", "shop").password("hunter2"),
                "a password in the Redis URL and another beside it",
            ),
            (
                RedisSettings::new("redis://me@h", "shop").user("you"),
                "a user in the Redis URL and another beside it",
            ),
            (
                RedisSettings::new("redis://h", "shop").pool_size(0),
                "a pool of 0 connections makes no sense",
            ),
            (
                RedisSettings::new("redis-cluster://h/service", "shop"),
                "nor the name of a service",
            ),
            (
                RedisSettings::new("redis://h", "shop").version("a:b"),
                "cannot be part of a key",
            ),
        ] {
            let error = Cache::builder()
                .redis_settings(settings)
                .build()
                .unwrap_err();
            let error = error.to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
