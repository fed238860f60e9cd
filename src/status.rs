//! What happened to a request, in the words of [RFC 9211][rfc], and why.
//!
//! The names here are the ones seen in `Cache-Status`, in the counters of
//! [`Cache::stats`](crate::Cache::stats) and in log lines, so that one word found in one
//! place can be searched for in the others. Writing them into fields is the work of `headers.rs`.
//!
//! [rfc]: https://www.rfc-editor.org/rfc/rfc9211

use std::fmt;

/// Why a request went to the inner service: the `fwd` parameter of `Cache-Status`
/// ([RFC 9211, section 2.2](https://www.rfc-editor.org/rfc/rfc9211#section-2.2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Forward {
    /// The cache was configured not to handle this request.
    Bypass,
    /// The method is not one that is answered from the store.
    Method,
    /// Nothing is stored for this URI.
    UriMiss,
    /// Responses are stored for this URI, but none for these request fields (`Vary`).
    VaryMiss,
    /// Nothing usable is stored, for a reason that is not told apart further.
    Miss,
    /// The request demanded it (`Cache-Control: no-cache`).
    Request,
    /// A stored response was found, but it is stale or was invalidated.
    Stale,
    /// A stored response was found, but it holds only part of what was asked for.
    Partial,
}

impl Forward {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::Partial as usize + 1;

    /// The token that stands in `Cache-Status`.
    ///
    /// ```
    /// use tower_response_cache::Forward;
    ///
    /// assert_eq!(Forward::UriMiss.as_str(), "uri-miss");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An enum whose variants have a word each, for fields, counters and log lines.
macro_rules! words {
    (
        $(#[doc = $about:literal])+
        $enum:ident {
            $($(#[doc = $doc:literal])+ $name:ident = $token:literal,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $enum {
            $($(#[doc = $doc])+ $name,)+
        }

        impl $enum {
            /// Every one there is, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word that stands for it: a token of lower-case letters and `-`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $token,)+ }
            }
        }

        impl fmt::Display for $enum {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $token:literal,)+) => {
        words! {
            /// Why a request was not looked up, or why a response was not stored.
            ///
            /// The same word stands in `Cache-Status; detail=…`, in [`Stats`](crate::Stats) and in
            /// warnings.
            ///
            /// ```
            /// use tower_response_cache::Reason;
            ///
            /// assert_eq!(Reason::SetCookie.as_str(), "set-cookie");
            /// assert_eq!(Reason::SetCookie.to_string(), "set-cookie");
            /// ```
            Reason { $($(#[doc = $doc])+ $name = $token,)+ }
        }

        impl Reason {
            /// What a bypass with this reason says in `Cache-Status`.
            pub(crate) const fn bypass_status(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("tower-response-cache; fwd=bypass; detail=", $token),)+
                }
            }
        }
    };
}

reasons! {
    // ---- of the request ----
    /// The cache is switched off ([`Cache::disabled`](crate::Cache::disabled)).
    Disabled = "disabled",
    /// A `bypass_when` of the layer said so.
    BypassWhen = "bypass-when",
    /// The request carries `Cache-Control: no-store` (RFC 9111, 5.2.1.5).
    RequestNoStore = "request-no-store",
    /// A GET or HEAD with a body.
    RequestBody = "request-body",
    /// The request asks for another protocol (`Upgrade`, or HTTP/2 extended CONNECT).
    Upgrade = "upgrade",
    /// The request carries cookies that the layer was told nothing about.
    Cookie = "cookie",
    /// The request carries `Authorization` (RFC 9111, 3.5).
    Authorization = "authorization",
    /// The request carries another field that identifies somebody.
    Credential = "credential",
    /// The `partition_by` of the layer returned `None`.
    Partition = "partition",
    /// Two authorities are named: several `Host` fields, or one that contradicts the URI.
    HostConflict = "host-conflict",
    /// The cache key would be longer than 8 KiB.
    KeyTooLong = "key-too-long",
    /// The inner service answered by a layer of the same cache, which decides.
    InnerLayer = "inner-layer",
    /// A request with `Range` found nothing complete and was passed on as it came.
    Range = "range",
    /// A conditional request found nothing fresh and was passed on as it came: it has `If-Match` or
    /// `If-Unmodified-Since`, which are for origins, is a HEAD, or its layer has `detach(false)`.
    Conditional = "conditional",
    /// A HEAD found neither a stored GET nor one under way, and was passed on as it came.
    Head = "head",
    /// `only-if-cached` found nothing fresh (504, RFC 9111, 5.2.1.7).
    OnlyIfCached = "only-if-cached",

    // ---- of waiting for somebody else's fill ----
    /// Waited for another request's fill as long as is allowed, then went alone, or got 503.
    WaitTimeout = "wait-timeout",
    /// As many as are allowed were waiting already.
    TooManyWaiting = "too-many-waiting",
    /// Fills of this key failed in a row, or it is known not to be storable.
    NotCollapsed = "not-collapsed",

    // ---- of the response ----
    /// The status is not one that is stored.
    Status = "status",
    /// The response carries `no-store` (RFC 9111, 5.2.2.5).
    NoStore = "no-store",
    /// The response carries `private` (RFC 9111, 5.2.2.7).
    Private = "private",
    /// The response carries `no-cache`: it must not be used without validation (RFC 9111, 5.2.2.4).
    NoCache = "no-cache",
    /// The response sets a cookie.
    SetCookie = "set-cookie",
    /// `Vary: *` (RFC 9111, 4.1).
    VaryAny = "vary-any",
    /// `Vary` names `Cookie` or a credential, and the layer was told nothing about it.
    VaryCredential = "vary-credential",
    /// The request was personal, and the response does not say that it may be shared.
    NotShareable = "not-shareable",
    /// The response says nothing about freshness, and the layer gives it none.
    Silent = "silent",
    /// The response is stale as it comes: `max-age=0`, an `Expires` in the past, an `Age` too high.
    Stale = "stale",
    /// A handler's [`CachePolicy`](crate::CachePolicy) said so.
    Policy = "policy",
    /// A `store_when` of the layer said so.
    StoreWhen = "store-when",
    /// A stream without a meaningful end: events, gRPC, `multipart/x-mixed-replace`, an upgrade.
    Stream = "stream",
    /// `Access-Control-Allow-Credentials: true` without a `Vary: Origin`.
    CorsCredentials = "cors-credentials",
    /// A content security policy with a nonce in a response that does not ask to be stored.
    CspNonce = "csp-nonce",
    /// The body is longer than `max_body_size`, or than the memory tier can hold.
    BodyTooLarge = "body-too-large",
    /// The head has too many fields or bytes.
    HeadTooLarge = "head-too-large",
    /// The response has more than 32 tags or groups, or one of more than 256 bytes.
    TooManyTags = "too-many-tags",
    /// A tag that nothing can be invalidated by ([`Selector::check`](crate::Selector::check)).
    BadTag = "bad-tag",
    /// The body carries trailers.
    Trailers = "trailers",
    /// The body ended with an error.
    BodyError = "body-error",
    /// The body was shorter or longer than its `Content-Length`.
    BodyLength = "body-length",
    /// The bodies being read take all the room they may have.
    NoRoom = "no-room",
    /// The fill took longer than is allowed for one that is stored.
    FillTimeout = "fill-timeout",
    /// A fill that started later was stored already.
    Superseded = "superseded",
    /// The inner service failed, panicked, or was dropped.
    InnerError = "inner-error",
    /// A value that was loaded cannot be serialized.
    NotSerializable = "not-serializable",
}

impl Reason {
    /// Whether it is likely to hold for other responses of a route, too: its handler makes them so, and
    /// not one of them what it is.
    pub(crate) const fn is_of_route(self) -> bool {
        matches!(
            self,
            Self::NoStore
                | Self::Private
                | Self::NoCache
                | Self::SetCookie
                | Self::VaryAny
                | Self::VaryCredential
                | Self::Silent
                | Self::Stale
                | Self::Policy
                | Self::StoreWhen
                | Self::Stream
                | Self::CorsCredentials
                | Self::CspNonce
        )
    }
}

words! {
    /// Why what a remote store had under a key was refused.
    ///
    /// Each is a miss, and the next fill replaces what is there. In a healthy deployment all of them
    /// stay at zero, but for [`Version`](Self::Version) while one release follows another.
    ///
    /// ```
    /// use tower_response_cache::FrameFault;
    ///
    /// assert_eq!(FrameFault::OtherKey.as_str(), "other-key");
    /// assert_eq!(FrameFault::OtherKey.to_string(), "other-key");
    /// ```
    FrameFault {
        /// Not a frame of this crate: something else wrote under the same key.
        Foreign = "foreign",
        /// A frame in the layout of another release.
        Version = "version",
        /// A frame whose end is missing.
        Truncated = "truncated",
        /// More bytes than are ever fetched.
        TooLarge = "too-large",
        /// A frame whose bytes are not those that were written: a checksum differs.
        Damaged = "damaged",
        /// The frame of another key: two digests are equal, or the link mixed up its replies.
        OtherKey = "other-key",
        /// A frame as it was written, but with content that makes no sense.
        Malformed = "malformed",
        /// A value of another type than was asked for, or one that its type cannot be made of any more.
        OtherType = "other-type",
        /// Not even a string in the store: a list, a hash.
        WrongType = "wrong-type",
        /// The `open` function of the seal refused it: written with another key, or tampered with.
        Unsealed = "unsealed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_told_apart(tokens: &[&str]) {
        for (number, token) in tokens.iter().enumerate() {
            assert!(!tokens[..number].contains(token), "{token} twice");
            // RFC 8941: a token, so that `detail` needs no quotes.
            assert!(
                token.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{token}"
            );
        }
    }

    #[test]
    fn reasons_and_faults_are_told_apart_by_their_tokens() {
        let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        is_told_apart(&reasons);
        let faults: Vec<_> = FrameFault::ALL.iter().map(|fault| fault.as_str()).collect();
        is_told_apart(&faults);
    }

    #[test]
    fn reasons_and_faults_are_numbered_in_the_order_of_all() {
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
        for (number, fault) in FrameFault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, number);
        }
    }
}
