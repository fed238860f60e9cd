//! What an invalidation selects, in the words of those who ask for it.

use std::borrow::Cow;

use http::{HeaderValue, Request, Uri, header::HOST, request::Parts};

use crate::{
    error::SelectorError,
    pattern::Pattern,
    target::{Resource, Space},
};

/// In bytes.
pub(crate) const LONGEST_TAG: usize = 256;
const LONGEST_PATTERN: usize = 4_096;
const MOST_STARS: usize = 64;

/// A name under which responses are invalidated together, whatever their URIs are.
///
/// A text of 1 to 256 bytes, compared as it is, without control characters and without `*`, `,`, `{` and
/// `}`, which mean something elsewhere: a response with another one is not stored, and an invalidation by
/// one is refused ([`Selector::check`]). A response has up to 32 of them, given by its handler ([`Tags`](crate::Tags), [`CachePolicy::tag`](crate::CachePolicy::tag)), by `Cache-Groups`
/// (RFC 9875), or by a field of the layer's choice
/// ([`tag_field`](crate::ResponseCacheLayer::tag_field)).
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Cache, Selector, Tag};
///
/// const USERS: Tag = Tag::from_static("users");
///
/// let cache = Cache::in_memory();
/// cache.invalidate(USERS);
/// cache.invalidate(Tag::new(format!("user:{}", 42)));
/// assert_eq!(Selector::from(USERS), Selector::tag("users"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(Cow<'static, str>);

impl Tag {
    /// A tag of text made while the program runs.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(Cow::Owned(name.into()))
    }

    /// A tag that is known beforehand: nothing is allocated.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one that something stored can have.
    pub(crate) fn check(&self) -> Result<(), SelectorError> {
        let text = self.as_str();
        let says = |what: &str| Err(SelectorError::tag(text, what));
        if text.is_empty() {
            return says("is empty; give it a name");
        }
        if text.len() > LONGEST_TAG {
            return says("is longer than 256 bytes; use a shorter name");
        }
        match text.chars().find(|c| c.is_control() || "*,{}".contains(*c)) {
            None => Ok(()),
            Some('*') => says(
                "has a '*' in it, which means nothing in a tag; use Selector::path or Selector::values for patterns",
            ),
            Some(',') => says("has a ',' in it, which separates tags; give several of them"),
            Some(_) => says("has a brace or a control character in it; leave that out"),
        }
    }
}

impl From<&'static str> for Tag {
    fn from(name: &'static str) -> Self {
        Self::from_static(name)
    }
}

impl From<String> for Tag {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

/// What an invalidation makes unusable.
///
/// A selector names resources, not cache keys: one of them covers every partition, variant and
/// layer under which responses are stored. In patterns `*` stands for any run of characters, `/`
/// included; all else stands for itself. They are compared in linear time, one after the other, with
/// what is read next: where a tag does as well, it is the cheaper way.
///
/// *Hard*, the default, makes unusable. [`soft`](Self::soft) makes stale.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Cache, Selector};
///
/// let cache = Cache::in_memory();
/// cache.invalidate(Selector::resource("example.com", "/users?page=2"));
/// cache.invalidate(Selector::tag("users"));
/// cache.invalidate(Selector::path("/users/*"));
/// cache.invalidate(Selector::all().soft());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    pub(crate) kind: Kind,
    pub(crate) is_soft: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    All,
    Resource(Resource),
    Tag(Tag),
    /// A group of an origin (RFC 9875).
    Group {
        authority: Option<String>,
        name: String,
    },
    Pattern(Space, Pattern),
}

impl From<Kind> for Selector {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            is_soft: false,
        }
    }
}

impl From<Tag> for Selector {
    fn from(tag: Tag) -> Self {
        Kind::Tag(tag).into()
    }
}

impl Selector {
    /// Everything that is stored.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            kind: Kind::All,
            is_soft: false,
        }
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
        Kind::Resource(Resource::new(Some(authority), path, query)).into()
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
        Kind::Resource(Resource::new(authority, uri.path(), uri.query())).into()
    }

    /// Everything with this tag.
    ///
    /// ```
    /// use tower_response_cache::{Selector, Tag};
    ///
    /// assert_eq!(Selector::tag("users"), Tag::from_static("users").into());
    /// ```
    #[must_use]
    pub fn tag(tag: impl Into<Tag>) -> Self {
        tag.into().into()
    }

    /// Responses by their paths, with `*` for any run of characters: any host, query and variant.
    ///
    /// The path is compared as it came, with nothing decoded, and before a nested router has taken
    /// a prefix off it. `/users` is that path alone, whatever the query; `/users/*` is what lies
    /// below, at any depth, but not `/users` itself.
    ///
    /// ```
    /// use tower_response_cache::{Cache, Selector};
    ///
    /// let cache = Cache::in_memory();
    /// let done = cache.invalidate(Selector::path("/users/*/posts"));
    /// assert_eq!(done.sequence(), 1);
    /// ```
    #[must_use]
    pub fn path(pattern: &str) -> Self {
        Kind::Pattern(Space::Path, Pattern::new(pattern)).into()
    }

    /// Responses whose paths start so; a `*` in it stands for itself.
    ///
    /// ```
    /// use tower_response_cache::Selector;
    ///
    /// assert_eq!(Selector::path_prefix("/users/"), Selector::path("/users/*"));
    /// ```
    #[must_use]
    pub fn path_prefix(prefix: &str) -> Self {
        Kind::Pattern(Space::Path, Pattern::Prefix(prefix.into())).into()
    }

    /// Values by the texts of their keys, with `*` for any run of characters: `users_list:*`.
    ///
    /// A record of it is kept like any other. It selects no response, whatever its path is.
    ///
    /// ```
    /// use tower_response_cache::Selector;
    ///
    /// assert_ne!(Selector::values("/users/*"), Selector::path("/users/*"));
    /// ```
    #[must_use]
    pub fn values(pattern: &str) -> Self {
        Kind::Pattern(Space::Value, Pattern::new(pattern)).into()
    }

    /// Values whose keys start so; a `*` in it stands for itself.
    ///
    /// ```
    /// use tower_response_cache::Selector;
    ///
    /// assert_eq!(Selector::value_prefix("users_list:"), Selector::values("users_list:*"));
    /// ```
    #[must_use]
    pub fn value_prefix(prefix: &str) -> Self {
        Kind::Pattern(Space::Value, Pattern::Prefix(prefix.into())).into()
    }

    /// Whether it selects anything that can be stored.
    ///
    /// [`Cache::invalidate`](crate::Cache::invalidate) asks by itself, and invalidates nothing where it does not.
    ///
    /// # Errors
    ///
    /// A tag that nothing stored can have; a pattern of more than 4,096 bytes, or with more than 64 `*`.
    ///
    /// ```
    /// use tower_response_cache::Selector;
    ///
    /// assert!(Selector::tag("users").check().is_ok());
    /// assert!(Selector::tag("").check().is_err());
    /// assert!(Selector::path(&"*a".repeat(65)).check().is_err());
    /// ```
    pub fn check(&self) -> Result<(), SelectorError> {
        match &self.kind {
            Kind::Tag(tag) => tag.check(),
            Kind::Pattern(
                _,
                Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Glob(text),
            ) => {
                let says = |what: &str| Err(SelectorError::pattern(text, what));
                if text.len() > LONGEST_PATTERN {
                    return says("is longer than 4,096 bytes; a prefix or a tag does as well");
                }
                match text.bytes().filter(|byte| *byte == b'*').count() {
                    stars if stars > MOST_STARS => says("has more than 64 '*'; use a tag"),
                    _ => Ok(()),
                }
            }
            Kind::All | Kind::Resource(_) | Kind::Group { .. } => Ok(()),
        }
    }

    /// The same, but what is selected becomes stale instead of unusable.
    ///
    /// It is stale from this moment on. So where a response may be served stale
    /// (`stale-while-revalidate`, `stale-if-error`, or the windows of the layer), it still is, as
    /// long as its window allows, while one request obtains a newer one. Where it may not, this is
    /// the same as a hard invalidation, except that a validator is asked first.
    ///
    /// ```
    /// use tower_response_cache::Selector;
    ///
    /// assert_ne!(Selector::tag("users").soft(), Selector::tag("users"));
    /// ```
    #[must_use]
    pub fn soft(mut self) -> Self {
        self.is_soft = true;
        self
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
