//! What a layer was told: every setting of a route, once.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, request, response};

use crate::{
    cache::Cache,
    content::QueryContent,
    headers::StatusHeaders,
    personal::{Cookies, Credentials},
    policy::{Preset, StoringSettings},
    query::Query,
    status::Reason,
    streaks::Streaks,
};

pub(crate) type RequestCondition = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;
pub(crate) type ResponseCondition = Arc<dyn Fn(&response::Parts) -> bool + Send + Sync>;
pub(crate) type Partition = Arc<dyn Fn(&request::Parts) -> Option<String> + Send + Sync>;

pub(crate) type Validator = Arc<
    dyn Fn(&request::Parts) -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync,
>;

/// A partition: its name, what tells it, and the number of that closure.
#[derive(Clone)]
pub(crate) struct PartitionBy {
    pub(crate) name: String,
    pub(crate) of: Partition,
    number: u64,
}

impl PartitionBy {
    pub(crate) fn new(name: String, of: Partition) -> Self {
        Self {
            name,
            of,
            number: next_number(),
        }
    }
}

/// Numbers for layers and for closures, which cannot be compared.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Which directives of a request's `Cache-Control` a layer honours
/// ([RFC 9111, section 5.2.1](https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HonoredDirectives {
    /// `only-if-cached` alone: for public sites whose clients must not be able to force work.
    OnlyIfCached,
    /// `no-cache`, `no-store` and `only-if-cached`. Not `max-age`, which every reload of a browser
    /// sends.
    #[default]
    Common,
    /// All of them, with `max-age`, `min-fresh`, `max-stale`, and `Pragma: no-cache` where there is
    /// no `Cache-Control`.
    All,
}

/// A method whose responses are stored, or answered from what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheableMethod {
    /// GET.
    Get,
    /// HEAD: answered from the stored response to a GET.
    Head,
    /// QUERY (RFC 10008): a GET with content. Needs
    /// [`query_content`](crate::ResponseCacheLayer::query_content).
    Query,
}

/// What becomes of a request that may not wait, or not any longer, for somebody else's fill, and for which
/// nothing stale may stand in; for [`ResponseCacheLayer::overflow`](crate::ResponseCacheLayer::overflow).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// It calls the inner service for itself.
    #[default]
    Alone,
    /// It is answered with 503 (Service Unavailable), to try again after this time, in whole seconds.
    Unavailable {
        /// What `Retry-After` says (RFC 9110, 10.2.3).
        retry_after: Duration,
    },
}

/// The methods of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Methods {
    pub(crate) get: bool,
    pub(crate) head: bool,
    pub(crate) query: bool,
}

impl Default for Methods {
    fn default() -> Self {
        Self {
            get: true,
            head: true,
            query: false,
        }
    }
}

impl FromIterator<CacheableMethod> for Methods {
    fn from_iter<I: IntoIterator<Item = CacheableMethod>>(methods: I) -> Self {
        let mut chosen = Self {
            get: false,
            head: false,
            query: false,
        };
        for method in methods {
            match method {
                CacheableMethod::Get => chosen.get = true,
                CacheableMethod::Head => chosen.head = true,
                CacheableMethod::Query => chosen.query = true,
            }
        }
        chosen
    }
}

/// What a layer was told.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) cache: Cache,
    /// Flights and marks are kept by layer and key; clones share them, a changed clone does not.
    pub(crate) id: u64,
    pub(crate) storing: StoringSettings,
    pub(crate) methods: Methods,
    pub(crate) query_content: Option<QueryContent>,
    pub(crate) query: Option<Query>,
    pub(crate) no_vary_search: bool,
    pub(crate) ignore_host: bool,
    pub(crate) bypass_when: Vec<RequestCondition>,
    pub(crate) store_when: Vec<ResponseCondition>,
    pub(crate) validator: Option<Validator>,
    pub(crate) partition_by: Option<PartitionBy>,
    pub(crate) credentials: Credentials,
    pub(crate) cookies: Cookies,
    pub(crate) strip_fields: Vec<HeaderName>,
    pub(crate) tag_field: Option<HeaderName>,
    pub(crate) request_directives: HonoredDirectives,
    pub(crate) status_headers: StatusHeaders,
    pub(crate) detach: bool,
    pub(crate) fill_timeout: Duration,
    pub(crate) wait_timeout: Duration,
    pub(crate) soft_timeout: Option<Duration>,
    pub(crate) max_waiting: usize,
    /// So long a fill waits for that of another node.
    pub(crate) lease: Option<Duration>,
    pub(crate) overflow: Overflow,
    /// How eagerly what is fresh is refreshed ahead of its end; 0: not at all.
    pub(crate) refresh_ahead: f64,
    /// One number for each closure; see [`Settings::fingerprint`].
    closures: Vec<u64>,
    /// What tells the key and admission settings from other layers'; empty for the defaults.
    pub(crate) fingerprint: String,
    pub(crate) streaks: Arc<Streaks>,
}

impl Settings {
    /// The defaults of a preset.
    pub(crate) fn new(cache: Cache, preset: Preset) -> Self {
        let is_careful = preset == Preset::Careful;
        let storing = match is_careful {
            true => StoringSettings::default(),
            false => StoringSettings::rfc9111(),
        };
        let mut settings = Self {
            cache,
            id: next_number(),
            storing,
            methods: Methods::default(),
            query_content: None,
            query: None,
            no_vary_search: false,
            ignore_host: false,
            bypass_when: Vec::new(),
            store_when: Vec::new(),
            validator: None,
            partition_by: None,
            credentials: Credentials::default(),
            cookies: Cookies::default(),
            strip_fields: Vec::new(),
            tag_field: None,
            request_directives: match is_careful {
                true => HonoredDirectives::Common,
                false => HonoredDirectives::All,
            },
            status_headers: StatusHeaders::default(),
            detach: true,
            fill_timeout: Duration::from_secs(30),
            wait_timeout: Duration::from_secs(5),
            soft_timeout: None,
            max_waiting: 16_384,
            lease: None,
            overflow: Overflow::default(),
            refresh_ahead: 0.0,
            closures: Vec::new(),
            fingerprint: String::new(),
            streaks: Arc::default(),
        };
        settings.fingerprint = settings.fingerprint();
        settings
    }

    /// To be called when something was changed.
    pub(crate) fn renew(&mut self) {
        self.id = next_number();
        self.storing.keeps_stale =
            !self.storing.is_careful() || self.request_directives == HonoredDirectives::All;
        self.storing.has_validator = self.validator.is_some();
        self.storing.cookies_declared = self.cookies.are_declared();
        self.fingerprint = self.fingerprint();
        self.streaks = Arc::default();
    }

    /// Notes that one more closure decides.
    pub(crate) fn add_closure(&mut self) {
        self.closures.push(next_number());
    }

    /// Whether all cookies that the handler sees are part of the key. By the standard alone a request
    /// with others as well is nobody's own, and they are not.
    pub(crate) fn key_holds_cookies(&self, personal: Option<Reason>) -> bool {
        self.cookies.are_declared()
            && self.storing.is_careful()
            && self.partition_by.is_none()
            && personal.is_none()
    }

    /// Whether a request has to be shown as a whole to somebody.
    #[inline]
    pub(crate) fn has_closures(&self) -> bool {
        !self.bypass_when.is_empty() || self.partition_by.is_some()
    }

    /// Whether the entries are told from other layers' by something that means nothing to another
    /// process.
    pub(crate) fn has_own_entries(&self) -> bool {
        !self.closures.is_empty()
    }

    fn fingerprint(&self) -> String {
        let mut text = String::new();
        let mut say = |name: &str, value: &dyn fmt::Debug, is_default: bool| {
            use fmt::Write;
            if !is_default {
                let _ = write!(text, "{name}={value:?};");
            }
        };
        let preset = self.storing.preset;
        say("r", &preset, preset == Preset::default());
        let targeted = &self.storing.targeted;
        let is_default = match preset {
            Preset::Careful => targeted.is_empty(),
            Preset::Rfc9111 => *targeted == StoringSettings::rfc9111().targeted,
        };
        say("t", targeted, is_default);
        say("q", &self.query, self.query.is_none());
        say("h", &self.ignore_host, !self.ignore_host);
        let credentials = &self.credentials;
        say("c", credentials, *credentials == Credentials::default());
        say("k", &self.cookies, !self.cookies.are_declared());
        say("s", &self.strip_fields, self.strip_fields.is_empty());
        // What was stored without looking at it has no tags.
        say("g", &self.tag_field, self.tag_field.is_none());
        let store_set_cookie = self.storing.store_set_cookie;
        say("o", &store_set_cookie, !store_set_cookie);
        let partition = self.partition_by.as_ref();
        // Two closures of one name are the same to a remote store, and two others without one.
        let number = |by: &PartitionBy| (!self.cache.has_remote()).then_some(by.number);
        let partition = partition.map(|by| (&by.name, number(by)));
        say("p", &partition, partition.is_none());
        say("f", &self.closures, self.closures.is_empty());
        text
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseCacheLayer")
            .field("storing", &self.storing)
            .field("methods", &self.methods)
            .field("query", &self.query)
            .field("no_vary_search", &self.no_vary_search)
            .field("ignore_host", &self.ignore_host)
            .field("bypass_when", &self.bypass_when.len())
            .field("store_when", &self.store_when.len())
            .field("validator", &self.validator.is_some())
            .field(
                "partition_by",
                &self.partition_by.as_ref().map(|by| &by.name),
            )
            .field("credentials", &self.credentials)
            .field("cookies", &self.cookies)
            .field("strip_fields", &self.strip_fields)
            .field("request_directives", &self.request_directives)
            .field("status_headers", &self.status_headers)
            .field("detach", &self.detach)
            .field("fill_timeout", &self.fill_timeout)
            .field("wait_timeout", &self.wait_timeout)
            .field("soft_timeout", &self.soft_timeout)
            .field("max_waiting", &self.max_waiting)
            .field("lease", &self.lease)
            .field("overflow", &self.overflow)
            .field("refresh_ahead", &self.refresh_ahead)
            .finish_non_exhaustive()
    }
}
