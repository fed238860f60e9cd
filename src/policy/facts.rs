//! What the rules are told: the settings of a layer, and what is known of a request.

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderName};

use crate::status::Reason;

/// Whose idea of caching it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Preset {
    /// Safe for an application whose author read nothing: what could be personal is not shared,
    /// and a response that says nothing is stored for a while.
    #[default]
    Careful,
    /// What RFC 9111 allows a shared cache, for responses that say how long they are fresh.
    Rfc9111,
}

/// What a layer was told about storing.
#[derive(Debug, Clone)]
pub(crate) struct StoringSettings {
    pub(crate) preset: Preset,
    /// Of responses that say nothing, those that say when they were changed are fresh for a tenth
    /// of the time since (§4.2.2).
    pub(crate) heuristic: bool,
    /// Fields that count in place of `Cache-Control` and `Expires`, the first that is there (RFC
    /// 9213).
    pub(crate) targeted: Vec<HeaderName>,
    /// For responses that name no window of their own (RFC 5861, 3).
    pub(crate) stale_while_revalidate: Duration,
    /// The same for failures (RFC 5861, 4).
    pub(crate) stale_if_error: Duration,
    /// What is stale is of use by itself: to requests that accept that, or where the inner service
    /// cannot be reached.
    pub(crate) keeps_stale: bool,
    /// The layer itself can say whether a stored response still holds.
    pub(crate) has_validator: bool,
    /// Complete bodies without an entity tag get a weak one.
    pub(crate) weak_etags: bool,
    /// By which part of it the layer's own `ttl` may be shortened, at random.
    pub(crate) jitter: f64,
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
            preset: Preset::Careful,
            heuristic: false,
            targeted: Vec::new(),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            keeps_stale: false,
            has_validator: false,
            weak_etags: true,
            jitter: 0.1,
            ttl: Duration::from_secs(60),
            force_ttl: None,
            negative_ttl: None,
            max_body_size: 1024 * 1024,
            store_set_cookie: false,
            cookies_declared: false,
        }
    }
}

impl StoringSettings {
    /// All that RFC 9111 allows a shared cache, and nothing that it does not.
    pub(crate) fn rfc9111() -> Self {
        Self {
            preset: Preset::Rfc9111,
            heuristic: true,
            keeps_stale: true,
            targeted: vec![HeaderName::from_static("cdn-cache-control")],
            ttl: Duration::ZERO,
            weak_etags: false,
            jitter: 0.0,
            ..Self::default()
        }
    }

    pub(crate) fn is_careful(&self) -> bool {
        self.preset == Preset::Careful
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
