//! The options about waiting: how long a request waits for an answer, which stale response it may get
//! instead, and when a newer one is obtained.

use std::time::Duration;

use super::ResponseCacheLayer;
use crate::settings::Overflow;

impl ResponseCacheLayer {
    /// For how long a response is still served when it has become stale, while a newer one is
    /// obtained in the background, once for all who ask.
    ///
    /// Applies to responses without a `stale-while-revalidate` of their own ([RFC 5861, section
    /// 3](https://www.rfc-editor.org/rfc/rfc5861#section-3)). Default: zero, so that the first who asks
    /// waits. Not where the response forbids it: `must-revalidate`, `proxy-revalidate`, `no-cache`, or
    /// `s-maxage`, which means the same. When that fails it is not tried again for a second, then for 2,
    /// 4, up to 60, until it succeeds; what is stale is served meanwhile, but no longer than this.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .stale_while_revalidate(Duration::from_secs(30))
    ///     .stale_if_error(Duration::from_secs(3600));
    /// # let _ = layer;
    /// ```
    pub fn stale_while_revalidate(self, window: Duration) -> Self {
        self.with(|settings| settings.storing.stale_while_revalidate = window)
    }

    /// For how long a stale response stands in when the inner service answers with 5xx, fails or
    /// takes longer than `fill_timeout`.
    ///
    /// Applies to responses without a `stale-if-error` of their own ([RFC 5861, section
    /// 4](https://www.rfc-editor.org/rfc/rfc5861#section-4)); the same forbids it as
    /// [`stale_while_revalidate`](Self::stale_while_revalidate). Default: zero.
    pub fn stale_if_error(self, window: Duration) -> Self {
        self.with(|settings| settings.storing.stale_if_error = window)
    }

    /// By how much the layer's own `ttl` is shortened at the most, at random, as a part of it: so
    /// that what was stored together does not expire together.
    ///
    /// Default: 0.1, so 54 to 60 seconds of 60; 0 with [`rfc9111`](Self::rfc9111). What is not between
    /// 0 and 1 counts as the nearer of them. Lifetimes that a response, its handler or `force_ttl`
    /// names are kept exactly.
    pub fn jitter(self, part: f64) -> Self {
        let part = if part.is_nan() {
            0.0
        } else {
            part.clamp(0.0, 1.0)
        };
        self.with(|settings| settings.storing.jitter = part)
    }

    /// How eagerly a response is refreshed before it becomes stale, so that nobody ever waits for it and
    /// no crowd meets at its end.
    ///
    /// Default: 0, off. 1 is the optimum of [XFetch]: a request that finds a response fresh refreshes it in
    /// the background, once for all who ask, with a chance of `e^(-left / (eagerness * cost))`, where
    /// `left` is for how long it is fresh still, and `cost` how long the handler took to make it, body
    /// included. With a cost of one second and a thousand requests a second that is about seven seconds
    /// before its end; what is asked for seldom becomes stale as without it. Greater numbers refresh
    /// earlier. What is not between 0 and 100 counts as the nearer of them.
    ///
    /// A response that another process stored in Redis has no cost that is known here: the process that
    /// made it refreshes it. Not with `detach(false)`. One that fails leaves what is stored, and is tried again
    /// as with [`stale_while_revalidate`](Self::stale_while_revalidate).
    ///
    /// ```
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory()).refresh_ahead(1.0);
    /// assert!(format!("{layer:?}").contains("refresh_ahead: 1.0"));
    /// ```
    ///
    /// [XFetch]: https://www.vldb.org/pvldb/vol8/p886-vattani.pdf
    pub fn refresh_ahead(self, eagerness: f64) -> Self {
        let eagerness = if eagerness.is_nan() {
            0.0
        } else {
            eagerness.clamp(0.0, 100.0)
        };
        self.with(|settings| settings.refresh_ahead = eagerness)
    }

    /// Whether a fill goes on when the client that started it has left.
    ///
    /// Default: `true`, so that a disconnect never costs a second handler call. With `false` the
    /// handler is dropped as without a cache, and one of those waiting starts again; and a conditional
    /// request that finds nothing fresh is passed on as it came, since its client wants no body that
    /// could be stored.
    pub fn detach(self, detach: bool) -> Self {
        self.with(|settings| settings.detach = detach)
    }

    /// How long a fill may take to be stored and shared.
    ///
    /// Default: 30 seconds. A longer one runs on for its client as without a cache; nobody waits
    /// for it, nothing is stored, and without its client it is dropped. Where a stale response stands
    /// in ([`stale_if_error`](Self::stale_if_error)), its client gets that, and the call is dropped; those
    /// who come next get it at once, while the inner service is tried in the background, after pauses of 1,
    /// 2, 4, up to 60 seconds.
    pub fn fill_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.fill_timeout = timeout)
    }

    /// How long a request waits where a stale response may stand in, before it gets that one.
    ///
    /// Default: not set, so that it waits for [`fill_timeout`](Self::fill_timeout) and
    /// [`wait_timeout`](Self::wait_timeout). The call goes on in the background, and what it brings is
    /// for those who come later; until then they get the stale one at once. It may stand in within
    /// `stale-if-error`, of the response or of the layer ([`stale_if_error`](Self::stale_if_error)); where
    /// nothing may, this limit does not count. It is for the head, not for the body. With `detach(false)`,
    /// and where the call is for its client alone, it is dropped instead.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory())
    ///     .stale_if_error(Duration::from_secs(3600))
    ///     .soft_timeout(Duration::from_millis(300));
    /// assert!(format!("{layer:?}").contains("soft_timeout: Some(300ms)"));
    /// ```
    pub fn soft_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.soft_timeout = Some(timeout))
    }

    /// How long a request waits for somebody else's fill before it calls the inner service itself.
    ///
    /// Default: 5 seconds. Once the head is there, a body of unknown length is waited for 250 ms at
    /// the most; one of known length is shared as it streams. Where a stale response may stand in
    /// ([`stale_if_error`](Self::stale_if_error)), it gets that instead; see also
    /// [`overflow`](Self::overflow).
    pub fn wait_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.wait_timeout = timeout)
    }

    /// How many requests may wait for one fill, counting those who read its body as it streams.
    ///
    /// Default: 16,384 for each key, and each variant where they are known. Those beyond get what is
    /// stale, where that may stand in, and else go the way of [`overflow`](Self::overflow). With 0
    /// nobody waits.
    pub fn max_waiting(self, requests: usize) -> Self {
        self.with(|settings| settings.max_waiting = requests)
    }

    /// Has one node fill a key that no node has, while the others wait for what it stores; so long at the
    /// most, then each fills for itself.
    ///
    /// Default: not set: each node fills once, which is one call of the inner service for each. Needs
    /// Redis, and costs two commands more for each fill; for what is expensive to make and asked for on many nodes
    /// at the same time. Where something stale may stand in, those who would wait get that instead. It saves calls, and
    /// nothing depends on it: without Redis, and when the node that fills dies, the rest go on by
    /// themselves. Give less than [`wait_timeout`](Self::wait_timeout).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Cache, ResponseCacheLayer};
    ///
    /// let layer = ResponseCacheLayer::new(Cache::in_memory()).lease(Duration::from_secs(2));
    /// assert!(format!("{layer:?}").contains("lease: Some(2s)"));
    /// ```
    pub fn lease(self, within: Duration) -> Self {
        self.with(|settings| settings.lease = Some(within).filter(|within| !within.is_zero()))
    }

    /// What becomes of a request that may not wait because [`max_waiting`](Self::max_waiting) do, or has
    /// waited for [`wait_timeout`](Self::wait_timeout), when nothing stale may stand in.
    ///
    /// Default: it calls the inner service for itself. With [`Overflow::Unavailable`] it is answered with
    /// 503 and `Retry-After`, which protects a service that would not survive them all; `Cache-Status`
    /// says `detail=too-many-waiting` or `wait-timeout`, and [`Stats::turned_away`] counts them. What is known not to be
    /// storable, or failed, still runs for each by itself, and a HEAD that may not wait is passed on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Cache, Overflow, ResponseCacheLayer};
    ///
    /// let cache = Cache::in_memory();
    /// let layer = ResponseCacheLayer::new(&cache)
    ///     .max_waiting(1_000)
    ///     .overflow(Overflow::Unavailable { retry_after: Duration::from_secs(1) });
    /// # let _ = layer;
    /// assert_eq!(cache.stats().turned_away(), 0);
    /// ```
    ///
    /// [`Stats::turned_away`]: crate::Stats::turned_away
    pub fn overflow(self, overflow: Overflow) -> Self {
        self.with(|settings| settings.overflow = overflow)
    }
}
