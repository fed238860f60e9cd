//! What an invalidation selects.

use std::hash::Hasher;

use http::{HeaderValue, Request, Uri, header::HOST, request::Parts};

use crate::key::{hasher, normal_authority};

/// Which stored responses an invalidation makes unusable.
///
/// A selector names resources, not cache keys: one of them covers every partition, variant and
/// layer under which responses of the resource are stored.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Cache, Selector};
///
/// let cache = Cache::in_memory();
/// cache.invalidate(Selector::resource("example.com", "/users?page=2"));
/// cache.invalidate(Selector::all());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector(pub(crate) Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    All,
    Resource(Resource),
}

impl Selector {
    /// Everything that is stored.
    #[must_use]
    pub const fn all() -> Self {
        Self(Kind::All)
    }

    /// One resource: its authority (`example.com`, `localhost:3000`) and its path, with the query
    /// if it has one, as they stand in the request.
    ///
    /// The authority is what clients send as `Host`: with the port if it is not the default one,
    /// without a scheme. The path starts with `/`; `/users` does not cover `/users?page=2`. What
    /// names nothing that is stored is not an error.
    ///
    /// Responses of a layer that ignores the host are selected whatever the authority is; those
    /// of a layer with [`Query`](crate::Query) settings whatever the query is.
    #[must_use]
    pub fn resource(authority: &str, path_and_query: &str) -> Self {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        Self(Kind::Resource(Resource::new(Some(authority), path, query)))
    }

    /// The resource that `request` is about: a [`Request`] or its [`Parts`].
    ///
    /// The natural form inside a handler that has just changed what a GET of the same URI shows.
    ///
    /// ```
    /// use http::Request;
    /// use tower_response_cache::{Cache, Selector};
    ///
    /// let cache = Cache::in_memory();
    /// let request = Request::post("http://example.com/users").body(())?;
    /// cache.invalidate(Selector::request(&request));
    /// assert_eq!(Selector::request(&request), Selector::resource("example.com", "/users"));
    /// # Ok::<(), http::Error>(())
    /// ```
    #[must_use]
    pub fn request(request: &impl RequestHead) -> Self {
        let uri = request.original_uri();
        let authority = authority(uri, request.host());
        Self(Kind::Resource(Resource::new(
            authority,
            uri.path(),
            uri.query(),
        )))
    }
}

/// A request, or the head of one. Not to be implemented elsewhere.
pub trait RequestHead: sealed::Sealed {}
impl<B> RequestHead for Request<B> {}
impl RequestHead for Parts {}

mod sealed {
    use super::{HOST, HeaderValue, Parts, Request, Uri, original_uri};

    pub trait Sealed {
        fn original_uri(&self) -> &Uri;
        fn host(&self) -> Option<&HeaderValue>;
    }

    impl<B> Sealed for Request<B> {
        fn original_uri(&self) -> &Uri {
            original_uri(self.extensions(), self.uri())
        }
        fn host(&self) -> Option<&HeaderValue> {
            self.headers().get(HOST)
        }
    }

    impl Sealed for Parts {
        fn original_uri(&self) -> &Uri {
            original_uri(&self.extensions, &self.uri)
        }
        fn host(&self) -> Option<&HeaderValue> {
            self.headers.get(HOST)
        }
    }
}

/// The URI as the client sent it, where a nested router has taken a prefix off it.
#[inline]
pub(crate) fn original_uri<'a>(extensions: &'a http::Extensions, uri: &'a Uri) -> &'a Uri {
    crate::router::original_uri(extensions).unwrap_or(uri)
}

/// The authority of a request. RFC 9112, 3.2.2: that of the absolute form wins over `Host`.
pub(crate) fn authority<'a>(uri: &'a Uri, host: Option<&'a HeaderValue>) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => std::str::from_utf8(host?.as_bytes()).ok(),
    }
}

/// An authority, a path and a query, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    authority: String,
    path: String,
    query: Option<String>,
}

/// What an entry is compared with when records are looked up: a hash, because a collision only
/// makes one more miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Target(pub(crate) u64);

impl Resource {
    pub(crate) fn new(authority: Option<&str>, path: &str, query: Option<&str>) -> Self {
        Self {
            authority: comparable(authority),
            path: path.to_owned(),
            query: query.map(str::to_owned),
        }
    }

    pub(crate) fn authority(&self) -> Option<&str> {
        (!self.authority.is_empty()).then_some(&*self.authority)
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Every target under which an entry of this resource may have been stored.
    pub(crate) fn targets(&self) -> [Target; 4] {
        let authority = Some(self.authority.as_str());
        let query = Some(self.query.as_deref());
        [
            target(authority, &self.path, query),
            target(authority, &self.path, None),
            target(None, &self.path, query),
            target(None, &self.path, None),
        ]
    }
}

impl Target {
    /// The target of a stored response; `None` for the authority or the query where its layer
    /// does not tell them apart.
    pub(crate) fn of(
        authority: Option<Option<&str>>,
        path: &str,
        query: Option<Option<&str>>,
    ) -> Self {
        let authority = authority.map(comparable);
        target(authority.as_deref(), path, query)
    }
}

/// Over-invalidating is harmless, so both default ports are dropped whatever the scheme is.
fn comparable(authority: Option<&str>) -> String {
    let authority = authority.unwrap_or("");
    let without = normal_authority(Some("http"), authority);
    normal_authority(Some("https"), &without).into_owned()
}

fn target(authority: Option<&str>, path: &str, query: Option<Option<&str>>) -> Target {
    let mut hasher = hasher();
    let mut part = |mark: u8, text: &str| {
        hasher.write_u64(u64::from(mark) << 56 | text.len() as u64);
        hasher.write(text.as_bytes());
    };
    if let Some(authority) = authority {
        part(1, authority);
    }
    part(2, path);
    match query {
        Some(Some(query)) => part(3, query),
        Some(None) => part(4, ""),
        None => {}
    }
    Target(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_selects_what_layers_store_of_it() {
        let resource = Resource::new(Some("Example.com:443"), "/a", Some("q"));
        let targets = resource.targets();
        let host = Some("example.com");
        for stored in [
            Target::of(Some(host), "/a", Some(Some("q"))),
            Target::of(Some(host), "/a", None),
            Target::of(None, "/a", Some(Some("q"))),
            Target::of(None, "/a", None),
        ] {
            assert!(targets.contains(&stored));
        }
        for other in [
            Target::of(Some(host), "/b", Some(Some("q"))),
            Target::of(Some(host), "/a", Some(Some("r"))),
            Target::of(Some(host), "/a", Some(None)),
            Target::of(Some(host), "/a", Some(Some(""))),
            Target::of(Some(Some("other.com")), "/a", Some(Some("q"))),
            Target::of(Some(None), "/a", Some(Some("q"))),
        ] {
            assert!(!targets.contains(&other));
        }
    }
}
