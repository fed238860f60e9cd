//! What a handler says to the cache: [`CachePolicy`].
//!
//! Only the words are here; who wins over whom is decided in `freshness.rs` and `storing.rs`.

use std::time::Duration;

use crate::{invalidation::Sequence, selector::Tag};

/// What a handler wants the cache to do with its response, put into the response's extensions.
///
/// It speaks to this cache alone: no field that a client or a proxy sees is changed by it. It wins
/// over the settings of the layer and over `s-maxage`, `max-age`, `no-cache` and `Expires`, but not
/// over what forbids storing: `no-store`, `private`, `Set-Cookie`, `Vary: *`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::CachePolicy;
///
/// let mut response = http::Response::new("the news");
/// response.extensions_mut().insert(CachePolicy::ttl(Duration::from_secs(5)));
/// assert!(response.extensions().get::<CachePolicy>().is_some());
/// assert!(response.headers().is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a policy does nothing until it is in the extensions of a response"]
pub struct CachePolicy {
    ttl: Option<Duration>,
    no_store: bool,
    public: bool,
    tags: Vec<Tag>,
    read_at: Option<Sequence>,
}

impl CachePolicy {
    /// A policy that says nothing yet: the response is judged by its fields and by the layer.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::CachePolicy;
    ///
    /// // As long as the layer says, and to everybody.
    /// let policy = CachePolicy::new().public();
    /// assert_ne!(policy, CachePolicy::new());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The response is fresh for this long; zero means that it is not stored.
    ///
    /// Lifetimes above 2^31 seconds (68 years) count as that.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::CachePolicy;
    ///
    /// let five = CachePolicy::ttl(Duration::from_secs(5));
    /// assert_ne!(five, CachePolicy::ttl(Duration::from_secs(6)));
    /// ```
    pub fn ttl(ttl: Duration) -> Self {
        Self {
            ttl: Some(ttl),
            ..Self::default()
        }
    }

    /// The response is not stored.
    ///
    /// Clients and proxies do not learn of it; `Cache-Control: no-store` tells them too.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::CachePolicy;
    ///
    /// assert_ne!(CachePolicy::no_store(), CachePolicy::new());
    /// ```
    pub fn no_store() -> Self {
        Self {
            no_store: true,
            ..Self::default()
        }
    }

    /// The response is the same for everybody, whatever cookies or credentials came with the
    /// request.
    ///
    /// Without it (and without `public` or `s-maxage` in the response), what was made for a request
    /// with a cookie or a credential is not stored.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::CachePolicy;
    ///
    /// let shared = CachePolicy::ttl(Duration::from_secs(60)).public();
    /// assert_ne!(shared, CachePolicy::ttl(Duration::from_secs(60)));
    /// ```
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    /// The response is invalidated with this tag ([`Selector::tag`](crate::Selector::tag)).
    ///
    /// May be called several times; see [`Tags`](crate::Tags) for the bounds.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::CachePolicy;
    ///
    /// let policy = CachePolicy::ttl(Duration::from_secs(5)).tag("hot").tag(format!("user:{}", 42));
    /// assert_ne!(policy, CachePolicy::ttl(Duration::from_secs(5)).tag("hot"));
    /// ```
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The response was made from something that was read when the log of invalidations was at this
    /// number ([`Cache::sequence`](crate::Cache::sequence)), before its handler was called.
    ///
    /// For handlers that keep values of their own: a page that is made from an old value must not look
    /// new. What has been invalidated since then, by a selector that selects the response, makes it
    /// unusable, as if its handler had been called at that time. Called several times, the lowest
    /// number counts. Default: when the handler was called.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_response_cache::{Cache, CachePolicy, Tag};
    ///
    /// let cache = Cache::in_memory();
    /// let (sequence, value) = (cache.sequence(), "read just now");
    /// let policy = CachePolicy::new().tag("users").read_at(sequence);
    /// cache.invalidate(Tag::from_static("users"));
    /// assert_eq!(policy, policy.clone().read_at(cache.sequence()));
    /// # let _ = value;
    /// ```
    pub fn read_at(mut self, sequence: Sequence) -> Self {
        self.read_at = Some(self.read_at.map_or(sequence, |known| known.min(sequence)));
        self
    }

    /// The same, said after another one: what that was tagged with, and made from, still counts.
    #[cfg(feature = "axum")]
    pub(crate) fn after(mut self, mut earlier: Self) -> Self {
        earlier.tags.append(&mut self.tags);
        let read_at = [self.read_at, earlier.read_at].into_iter().flatten();
        let read_at = read_at.reduce(Sequence::min);
        Self {
            tags: earlier.tags,
            read_at,
            ..self
        }
    }

    /// What was said before, should it not be said again.
    pub(crate) fn said_before(ttl: Option<Duration>, public: bool) -> Option<Self> {
        let said = Self {
            ttl,
            public,
            ..Self::default()
        };
        (said != Self::default()).then_some(said)
    }

    pub(crate) fn ttl_value(&self) -> Option<Duration> {
        self.ttl
    }

    pub(crate) fn is_no_store(&self) -> bool {
        self.no_store
    }

    pub(crate) fn is_public(&self) -> bool {
        self.public
    }

    pub(crate) fn tags(&self) -> &[Tag] {
        &self.tags
    }

    pub(crate) fn read_at_value(&self) -> Option<Sequence> {
        self.read_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_only_what_it_was_told() {
        let minute = Duration::from_secs(60);
        #[rustfmt::skip]
        let rows = [
            ("nothing", CachePolicy::new(), None, false, false),
            ("the default is nothing", CachePolicy::default(), None, false, false),
            ("a ttl", CachePolicy::ttl(minute), Some(minute), false, false),
            ("a ttl of zero", CachePolicy::ttl(Duration::ZERO), Some(Duration::ZERO), false, false),
            ("no-store", CachePolicy::no_store(), None, true, false),
            ("public alone", CachePolicy::new().public(), None, false, true),
            ("a public ttl", CachePolicy::ttl(minute).public(), Some(minute), false, true),
        ];
        for (sentence, policy, ttl, no_store, public) in rows {
            assert_eq!(policy.ttl_value(), ttl, "{sentence}");
            assert_eq!(policy.is_no_store(), no_store, "{sentence}");
            assert_eq!(policy.is_public(), public, "{sentence}");
        }
    }
}
