//! What the rules are told: the settings of a layer, and what is known of a request.

use std::{fmt, time::Duration};

use http::HeaderMap;

use crate::status::Reason;

/// What a layer was told about storing.
#[derive(Debug, Clone)]
pub(crate) struct StoringSettings {
    /// For responses that say nothing about freshness; zero: they are not stored.
    pub(crate) ttl: Duration,
    /// In place of what the response says; only handlers win over it.
    pub(crate) force_ttl: Option<Duration>,
    /// For 404 and 410 that say nothing about freshness.
    pub(crate) negative_ttl: Option<Duration>,
    /// The longest body that is stored, in bytes.
    pub(crate) max_body_size: u64,
    /// Responses with `Set-Cookie` are stored, without that field.
    pub(crate) store_set_cookie: bool,
    /// The route said which cookies it varies on, so `Vary: Cookie` is understood.
    pub(crate) cookies_declared: bool,
}

impl Default for StoringSettings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            force_ttl: None,
            negative_ttl: None,
            max_body_size: 1024 * 1024,
            store_set_cookie: false,
            cookies_declared: false,
        }
    }
}

/// What is known of the request that a response answers.
pub(crate) struct RequestFacts<'a> {
    /// The fields as the client sent them.
    pub(crate) headers: &'a HeaderMap,
    /// The request carries `Authorization`.
    pub(crate) authorization: bool,
    /// Why the request is somebody's own, unless `partition_by` lifted that.
    pub(crate) personal: Option<Reason>,
    /// The key has a part from `partition_by`.
    pub(crate) partitioned: bool,
    /// Whether a field name, in lower case, is one that identifies somebody.
    pub(crate) is_credential: &'a dyn Fn(&str) -> bool,
}

impl fmt::Debug for RequestFacts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the fields: they are what must not stand in a log.
        f.debug_struct("RequestFacts")
            .field("authorization", &self.authorization)
            .field("personal", &self.personal)
            .field("partitioned", &self.partitioned)
            .finish_non_exhaustive()
    }
}
