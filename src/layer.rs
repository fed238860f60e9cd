//! `ResponseCacheLayer`: the options of a route.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName,
    header::{CACHE_CONTROL, DATE, EXPIRES, VARY},
    request, response,
};
use tower_layer::Layer;

use crate::{
    cache::Cache,
    content::QueryContent,
    headers::StatusHeaders,
    personal::Credentials,
    policy::Preset,
    query::Query,
    service::ResponseCache,
    settings::{CacheableMethod, HonoredDirectives, PartitionBy, Settings},
    shapes::Shape,
};

mod waiting;

/// A [`Layer`] that answers repeated requests from a [`Cache`].
///
/// Works on a router, on one route, around a whole axum `Router`, in a `ServiceBuilder`, and on any
/// tower service that takes an [`http::Request`] and gives an [`http::Response`]. A clone is a
/// template: change one option and use it for another route.
///
/// Without options: silent responses live 60 seconds, bodies up to 1 MiB are kept, everything that
/// could be personal is passed through, and every answer says in `X-Cache` and `Cache-Status` what
/// happened. The rules are in [`docs::rules`](crate::docs::rules).
///
/// A POST, PUT, PATCH or DELETE that succeeds makes unusable what is stored of its URI, and of those
/// that its answer names in `Location` and `Content-Location` ([RFC 9111, section 4.4][unsafe]). The
/// layer has to see it for that: add it after all methods of a route, `get(list).post(create)
/// .layer(layer)`, or around the router. What goes another way is invalidated by
/// [`Cache::invalidate`].
///
/// Responses are shared between routes and layers only where the settings that decide over key and
/// admission are the same; a lifetime or a limit does not matter for that.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, routing::get};
/// use tower_response_cache::{Cache, ResponseCacheLayer};
///
/// let cache = Cache::in_memory();
/// let layer = ResponseCacheLayer::new(&cache);
/// let app: Router = Router::new()
///     .route("/", get(|| async { "home" }).layer(layer.clone()))
///     .route("/report", get(|| async { "report" }).layer(layer.ttl(Duration::from_secs(300))));
/// # let _ = app;
/// ```
///
/// [unsafe]: https://www.rfc-editor.org/rfc/rfc9111#section-4.4
#[derive(Clone)]
#[must_use = "a layer does nothing until it is put on a service"]
pub struct ResponseCacheLayer {
    settings: Arc<Settings>,
}

impl fmt::Debug for ResponseCacheLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl ResponseCacheLayer {
    /// A layer with the defaults, on this cache (`Cache` or `&Cache`).
    pub fn new(cache: impl Into<Cache>) -> Self {
        Self {
            settings: Arc::new(Settings::new(cache.into(), Preset::Careful)),
        }
    }

    /// A layer that does all that RFC 9111 allows a shared cache, and nothing that it forbids.
    ///
    /// For services whose responses say themselves what may be done with them, such as a proxy in
    /// front of others. It differs from [`new`](Self::new) in this:
    ///
    /// - A response is stored only if it says how long it is fresh (or when it was changed last:
    ///   [`heuristic`](Self::heuristic) is on), but then whatever its status is.
    /// - `CDN-Cache-Control` counts in place of `Cache-Control` ([`targeted`](Self::targeted)).
    /// - Only `Authorization` keeps a request from being shared (RFC 9111, 3.5): **a response with
    ///   `max-age` to a request with a cookie is stored and handed to others**, with its
    ///   `Set-Cookie`, as the standard has it. Say `private` where that must not be.
    /// - All demands of requests count ([`request_directives`](Self::request_directives)), `Pragma` too.
    /// - No other request field than those in `Vary` tells responses apart.
    /// - When the inner service fails, a stale response stands in, if nothing forbids that (4.2.4).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::rfc9111(Cache::in_memory());
    /// # let _ = layer;
    /// ```
    pub fn rfc9111(cache: impl Into<Cache>) -> Self {
        Self {
            settings: Arc::new(Settings::new(cache.into(), Preset::Rfc9111)),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        let settings = Arc::make_mut(&mut self.settings);
        change(settings);
        settings.renew();
        self
    }

    /// How long a response is fresh that says nothing about it: no `max-age`, `s-maxage`,
    /// `Expires`, `no-cache`.
    ///
    /// Default: 60 seconds. Zero: such responses are not stored. Applies to 200, 203, 204, 301 and
    /// 308.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|settings| settings.storing.ttl = ttl)
    }

    /// How long every storable response is fresh, whatever it says about it.
    ///
    /// Default: not set. Overrides `max-age`, `s-maxage` and `Expires` towards this cache; the
    /// client still sees the fields as they are. Does not override `no-store`, `private`,
    /// `no-cache` or `Set-Cookie`.
    pub fn force_ttl(self, ttl: Duration) -> Self {
        self.with(|settings| settings.storing.force_ttl = Some(ttl))
    }

    /// How long a silent 404 or 410 is fresh.
    ///
    /// Default: not set, so that they are not stored.
    pub fn negative_ttl(self, ttl: Duration) -> Self {
        self.with(|settings| settings.storing.negative_ttl = Some(ttl))
    }

    /// Whether a response that says nothing about its freshness, but when it was changed last, is
    /// fresh for a tenth of the time since, a day at the most (RFC 9111, 4.2.2).
    ///
    /// Default: no, its `ttl` is the layer's; yes with [`rfc9111`](Self::rfc9111).
    pub fn heuristic(self, heuristic: bool) -> Self {
        self.with(|settings| settings.storing.heuristic = heuristic)
    }

    /// Fields that count for this cache in place of `Cache-Control` and `Expires`: the first of them
    /// that a response has ([RFC 9213](https://www.rfc-editor.org/rfc/rfc9213)).
    ///
    /// Default: none; `CDN-Cache-Control` with [`rfc9111`](Self::rfc9111). One that cannot be read
    /// as a whole is ignored. The client sees all fields as they are.
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .targeted([HeaderName::from_static("cdn-cache-control")]);
    /// # let _ = layer;
    /// ```
    pub fn targeted(self, fields: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|settings| settings.storing.targeted = fields.into_iter().collect())
    }

    /// Whether a complete body without an `ETag` gets a weak one, by which clients that have it already
    /// are answered with 304.
    ///
    /// Default: yes; no with [`rfc9111`](Self::rfc9111). The client whose request fills the cache sees
    /// it where the body is there at once, the others see it always. For 200 and 203.
    pub fn weak_etags(self, weak_etags: bool) -> Self {
        self.with(|settings| settings.storing.weak_etags = weak_etags)
    }

    /// Which directives of a request are honoured. Default: `no-cache`, `no-store` and `only-if-cached`.
    ///
    /// ```
    /// use tower_response_cache::{Cache, HonoredDirectives, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .request_directives(HonoredDirectives::All);
    /// # let _ = layer;
    /// ```
    pub fn request_directives(self, honored: HonoredDirectives) -> Self {
        self.with(|settings| settings.request_directives = honored)
    }

    /// No demand of a request counts but `only-if-cached`: for public sites where clients must not
    /// be able to force work. Short for [`HonoredDirectives::OnlyIfCached`].
    pub fn ignore_request_directives(self) -> Self {
        self.request_directives(HonoredDirectives::OnlyIfCached)
    }

    /// The longest body that is stored, in bytes.
    ///
    /// Default: 1 MiB. A longer one is passed through untouched, with backpressure. A body that the
    /// memory tier has no room for is not stored either: up to 15 MiB always fit, or 97 % of a
    /// memory below 16 MiB.
    pub fn max_body_size(self, bytes: u64) -> Self {
        self.with(|settings| settings.storing.max_body_size = bytes)
    }

    /// Which methods are answered from the store; others are passed on as they are.
    ///
    /// Default: GET and HEAD. Nothing else than these three ever is: the answer to a POST is that of one
    /// act, and a request that looks the same is another one.
    ///
    /// ```
    /// use tower_response_cache::{Cache, CacheableMethod, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .methods([CacheableMethod::Get]);
    /// # let _ = layer;
    /// ```
    pub fn methods(self, methods: impl IntoIterator<Item = CacheableMethod>) -> Self {
        self.with(|settings| settings.methods = methods.into_iter().collect())
    }

    /// Answers QUERY from the store, too ([RFC 10008](https://www.rfc-editor.org/rfc/rfc10008)): its content
    /// and the fields about it (`Content-Type`, `Content-Encoding`, `Content-Language`) are part of the key.
    ///
    /// To know the content, the layer reads it, for as long as a fill may take, and `body` makes the body
    /// that the inner service gets instead: the same bytes without trailers, as a body of the type that
    /// this service takes. With another type, of unknown length, or with more than the 8 KiB that a key
    /// may have, a QUERY is passed on unread. Default: QUERY is passed on.
    ///
    /// An invalidation of the resource covers its queries on this node; in Redis they are left to the end
    /// of their life.
    ///
    /// ```
    /// use axum::body::Body;
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory()).query_content(Body::from);
    /// # let _ = layer;
    /// ```
    pub fn query_content<B: 'static>(
        self,
        body: impl Fn(Bytes) -> B + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| {
            settings.methods.query = true;
            settings.query_content = Some(QueryContent::new(body));
        })
    }

    /// Which parameters of the query count; the handler sees the same reduced query.
    ///
    /// Default: all of them, in the order in which they come.
    pub fn query(self, query: Query) -> Self {
        self.with(|settings| settings.query = Some(query))
    }

    /// Whether a response may say in `No-Vary-Search` which parameters of the query made no difference
    /// to it ([draft](https://datatracker.ietf.org/doc/draft-ietf-httpbis-no-vary-search/)): it then answers
    /// all requests whose queries are the same but for those.
    ///
    /// Default: no; the standard is a draft. An invalidation of a resource selects such responses
    /// whatever their query is, on this node; in Redis they are left to the end of their life. Unlike with [`query`](Self::query), the handler sees the query as it came.
    pub fn no_vary_search(self, no_vary_search: bool) -> Self {
        self.with(|settings| settings.no_vary_search = no_vary_search)
    }

    /// Leaves scheme and authority out of the key: one entry for all hosts.
    ///
    /// Default: hosts are told apart. Only for services that answer every host alike.
    pub fn ignore_host(self) -> Self {
        self.with(|settings| settings.ignore_host = true)
    }

    /// Passes a request straight to the inner service when `condition` holds. May be given several
    /// times: one is enough.
    ///
    /// ```
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .bypass_when(|head| head.uri.path().starts_with("/admin"));
    /// # let _ = layer;
    /// ```
    pub fn bypass_when(
        self,
        condition: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| {
            settings.bypass_when.push(Arc::new(condition));
            settings.add_closure();
        })
    }

    /// Stores a response only when `condition` holds for its head as well. May be given several times: all must
    /// hold.
    ///
    /// It only narrows: what the rules refuse stays refused.
    ///
    /// ```
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .store_when(|head| !head.headers.contains_key("x-debug"));
    /// # let _ = layer;
    /// ```
    pub fn store_when(
        self,
        condition: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| {
            settings.store_when.push(Arc::new(condition));
            settings.add_closure();
        })
    }

    /// A cheap way to know whether what is stored still holds: a version, a time of change, a count.
    ///
    /// It is asked before the inner service is called to fill, with the head of that request, and what
    /// it says is remembered with the response. When that has become stale and the same is said again,
    /// it is fresh anew, and the inner service is not called. `None`, and more than 256 bytes, say
    /// nothing, and so does what takes longer than a second. It has to change whenever the response does,
    /// for whoever asks. What it says is stored as it is: other layers, other processes and the next
    /// release compare it with theirs, so where the question changes let the words change, too
    /// (`"articles-2:42"`). Default: none.
    ///
    /// ```
    /// use std::{sync::Arc, sync::atomic::{AtomicU64, Ordering}};
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// // In place of `SELECT max(updated_at) FROM articles`.
    /// let version = Arc::new(AtomicU64::new(1));
    /// let layer = ResponseCacheLayer::new(Cache::in_memory()).validator(move |_head| {
    ///     let version = version.clone();
    ///     async move { Some(version.load(Ordering::Acquire).to_string()) }
    /// });
    /// # let _ = layer;
    /// ```
    pub fn validator<F>(
        self,
        validator: impl Fn(&request::Parts) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Option<String>> + Send + 'static,
    {
        self.with(|settings| {
            settings.validator = Some(Arc::new(move |head| Box::pin(validator(head))));
        })
    }

    /// Gives each value of `partition` (a tenant, a user) entries of its own.
    ///
    /// This is how a signed-in API gets hits: the value becomes part of the key, and cookies and
    /// credentials no longer keep a request from sharing. Take it from what authentication
    /// *outside* of this layer has established, never from a field that a client may write. `None`
    /// passes the request on. Responses that say `private` stay unstored. The `name` tells
    /// partitions with different meanings apart; in a remote store it is all that does, so give one
    /// name to one meaning in all services of a namespace.
    ///
    /// ```
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// #[derive(Clone)]
    /// struct Tenant(String);
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .partition_by("tenant", |head| head.extensions.get::<Tenant>().map(|t| t.0.clone()));
    /// # let _ = layer;
    /// ```
    pub fn partition_by(
        self,
        name: impl Into<String>,
        partition: impl Fn(&request::Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| {
            settings.partition_by = Some(PartitionBy::new(name.into(), Arc::new(partition)));
        })
    }

    /// Which request fields identify somebody.
    pub fn credentials(self, credentials: Credentials) -> Self {
        self.with(|settings| settings.credentials = credentials)
    }

    /// Cookies that no response depends on; a `*` stands for any number of characters.
    ///
    /// They are taken out of what the handler sees. A request whose cookies are all ignored, or
    /// named in [`vary_on_cookie`](Self::vary_on_cookie), is shared; with any other cookie it is
    /// passed on. Default: none.
    ///
    /// ```
    /// use tower_response_cache::{ANALYTICS_COOKIES, Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .ignore_cookies(ANALYTICS_COOKIES)
    ///     .vary_on_cookie("lang");
    /// # let _ = layer;
    /// ```
    pub fn ignore_cookies<P: AsRef<str>>(self, patterns: impl IntoIterator<Item = P>) -> Self {
        let patterns = patterns
            .into_iter()
            .map(|pattern| pattern.as_ref().to_owned());
        self.with(|settings| settings.cookies.ignored.extend(patterns))
    }

    /// A cookie whose value is part of the key: each value has entries of its own.
    ///
    /// For cookies with few values (language, theme), never for a session.
    pub fn vary_on_cookie(self, name: impl Into<String>) -> Self {
        self.with(|settings| settings.cookies.varying.push(name.into()))
    }

    /// Stores responses that set a cookie, without the `Set-Cookie` field.
    ///
    /// Default: such responses are not stored and not handed to anyone else. The client whose
    /// request filled the cache still gets its cookie. Only for routes whose *body* is the same for
    /// everybody.
    pub fn store_without_set_cookie(self) -> Self {
        self.with(|settings| settings.storing.store_set_cookie = true)
    }

    /// Response fields that are not stored, besides those that belong to one exchange anyway
    /// (`x-request-id`, `traceparent`, `server-timing`, `ratelimit-*` and their like).
    ///
    /// `Vary`, `Cache-Control`, `Expires` and `Date` stay: they say how the response may be used.
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .strip_fields([HeaderName::from_static("x-served-by")]);
    /// # let _ = layer;
    /// ```
    pub fn strip_fields(self, fields: impl IntoIterator<Item = HeaderName>) -> Self {
        let fields = fields
            .into_iter()
            .filter(|name| ![VARY, CACHE_CONTROL, EXPIRES, DATE].contains(name));
        self.with(|settings| settings.strip_fields.extend(fields))
    }

    /// A response field with tags, separated by commas or spaces, as other caches read them from
    /// `Surrogate-Key` or `Cache-Tag`; default: none.
    ///
    /// They count like those of [`Tags`](crate::Tags). The field is taken off every response that
    /// passes the layer, stored or not: no client sees it.
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_response_cache::{Cache, ResponseCacheLayer, Selector};
    ///
    /// let cache = Cache::in_memory();
    /// let layer = ResponseCacheLayer::new(&cache).tag_field(HeaderName::from_static("cache-tag"));
    /// // A handler answers with `Cache-Tag: users, user:42`. Later:
    /// cache.invalidate(Selector::tag("user:42"));
    /// # let _ = layer;
    /// ```
    pub fn tag_field(self, name: HeaderName) -> Self {
        self.with(|settings| settings.tag_field = Some(name))
    }

    /// Which fields tell the client what the cache did. Default: `X-Cache` and `Cache-Status`.
    pub fn status_headers(self, fields: StatusHeaders) -> Self {
        self.with(|settings| settings.status_headers = fields)
    }
}

/// Cookies of analytics and advertising scripts, which no handler reads; for
/// [`ResponseCacheLayer::ignore_cookies`].
pub const ANALYTICS_COOKIES: &[&str] = &[
    "_ga",
    "_ga_*",
    "_gid",
    "_gat",
    "_gat_*",
    "_gcl_*",
    "_gac_*",
    "__utm*",
    "_fbp",
    "_fbc",
    "_pk_*",
    "_hj*",
    "_clck",
    "_clsk",
    "_uetsid",
    "_uetvid",
    "_tt_*",
    "_ttp",
    "_scid*",
    "_pin_unauth",
    "_rdt_uuid",
    "ajs_*",
    "amplitude_*",
    "mp_*_mixpanel",
    "_mkto_trk",
    "__hssc",
    "__hssrc",
    "__hstc",
    "hubspotutk",
    "optimizelyEndUserId",
    "_vwo_*",
    "ph_*_posthog",
];

impl<S> Layer<S> for ResponseCacheLayer {
    type Service = ResponseCache<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let settings = &self.settings;
        if let (Some(remote), false) = (settings.cache.remote(), settings.has_own_entries()) {
            remote.learn(Shape {
                fingerprint: settings.fingerprint.clone(),
                ignore_host: settings.ignore_host,
                query: settings.query.clone(),
            });
        }
        ResponseCache::new(inner, self.settings.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_key_and_admission_are_in_the_fingerprint() {
        let cache = Cache::in_memory();
        let layer = ResponseCacheLayer::new(&cache);
        let print = |layer: &ResponseCacheLayer| layer.settings.fingerprint.clone();
        assert_eq!(print(&layer), "");
        let limits = layer
            .clone()
            .ttl(Duration::from_secs(1))
            .force_ttl(Duration::from_secs(1))
            .negative_ttl(Duration::from_secs(1))
            .max_body_size(1)
            .status_headers(StatusHeaders::None)
            .detach(false);
        assert_eq!(print(&limits), "");
        let named = |name: &'static str| layer.clone().partition_by(name, |_| None);
        let all = [
            layer.clone(),
            layer.clone().query(Query::ignore(["a"])),
            layer.clone().query(Query::ignore(["b"])),
            layer.clone().query(Query::only(["a"])),
            layer.clone().ignore_host(),
            layer.clone().bypass_when(|_| false),
            layer.clone().bypass_when(|_| false),
            layer.clone().store_when(|_| true),
            named("a"),
            named("a"),
            named("b"),
            layer.clone().ignore_cookies(["a"]),
            layer.clone().vary_on_cookie("a"),
            layer.clone().store_without_set_cookie(),
            layer.clone().strip_fields([http::header::ETAG]),
            layer.clone().targeted([http::header::EXPIRES]),
            layer.clone().tag_field(http::header::ETAG),
            layer
                .clone()
                .credentials(Credentials::default().add(http::header::FROM)),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(print(a), print(b));
            }
        }
        let template = layer.bypass_when(|_| false);
        assert_eq!(
            print(&template.clone().ttl(Duration::ZERO)),
            print(&template)
        );
    }
}
