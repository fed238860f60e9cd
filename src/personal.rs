//! What in a request belongs to one person: credentials and cookies; and what every other field
//! means to a cache.

use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};

use crate::{key::CookieParts, query::glob};

/// What a field of a request means to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Other,
    /// Identifies somebody.
    Credential,
    Authorization,
    Cookie,
    CacheControl,
    Pragma,
    Range,
    Conditional,
    ContentLength,
    TransferEncoding,
    Upgrade,
    Host,
    /// A handler may read it without saying so in `Vary`.
    Unseen,
    /// Of `Forwarded` only host and proto shape a response.
    Forwarded,
    /// Only whether it is there.
    Origin,
}

/// Sorts a field name, in lower case, into its meaning.
#[inline]
pub(crate) fn meaning(name: &str) -> Field {
    // By the first letter: most fields of most requests end here.
    let Some(first) = name.as_bytes().first() else {
        return Field::Other;
    };
    match first {
        b'a' => match name {
            "authorization" => Field::Authorization,
            "api-key" | "apikey" => Field::Credential,
            _ => Field::Other,
        },
        b'c' => match name {
            "cookie" => Field::Cookie,
            "cache-control" => Field::CacheControl,
            "content-length" => Field::ContentLength,
            _ if name.starts_with("cf-access-") => Field::Credential,
            _ => Field::Other,
        },
        b'f' if name == "forwarded" => Field::Forwarded,
        b'h' => match name {
            "host" => Field::Host,
            "hx-request" | "hx-target" | "hx-boosted" => Field::Unseen,
            _ => Field::Other,
        },
        b'i' => match name {
            "if-none-match" | "if-modified-since" | "if-match" | "if-unmodified-since" => {
                Field::Conditional
            }
            "if-range" => Field::Range,
            _ => Field::Other,
        },
        b'o' => match name {
            "origin" => Field::Origin,
            "ocp-apim-subscription-key" => Field::Credential,
            _ => Field::Other,
        },
        b'p' => match name {
            "pragma" => Field::Pragma,
            "proxy-authorization" => Field::Credential,
            _ => Field::Other,
        },
        b'r' => match name {
            "range" => Field::Range,
            "remote-user" => Field::Credential,
            _ => Field::Other,
        },
        b's' if name.starts_with("ssl-client-") => Field::Credential,
        b't' => match name {
            "transfer-encoding" => Field::TransferEncoding,
            "turbo-frame" => Field::Unseen,
            _ if name.starts_with("tailscale-user-") => Field::Credential,
            _ => Field::Other,
        },
        b'u' if name == "upgrade" => Field::Upgrade,
        b'x' => meaning_of_extension(name),
        _ => Field::Other,
    }
}

/// Names that start with `x`.
fn meaning_of_extension(name: &str) -> Field {
    match name {
        "x-forwarded-host"
        | "x-forwarded-proto"
        | "x-forwarded-prefix"
        | "x-forwarded-scheme"
        | "x-forwarded-port"
        | "x-forwarded-ssl"
        | "x-original-url"
        | "x-rewrite-url"
        | "x-http-method-override"
        | "x-http-method"
        | "x-method-override"
        | "x-pjax"
        | "x-requested-with" => Field::Unseen,
        "x-api-key"
        | "x-auth-token"
        | "x-access-token"
        | "x-csrf-token"
        | "x-xsrf-token"
        | "x-goog-api-key"
        | "x-remote-user"
        | "x-client-cert"
        | "x-forwarded-user"
        | "x-forwarded-email"
        | "x-forwarded-groups"
        | "x-forwarded-preferred-username"
        | "x-forwarded-access-token"
        | "x-forwarded-client-cert" => Field::Credential,
        _ => {
            const FAMILIES: &[&str] = &[
                "x-auth-request-",
                "x-authentik-",
                "x-amzn-oidc-",
                "x-goog-authenticated-user-",
                "x-goog-iap-",
                "x-ms-client-principal",
                "x-ssl-client-",
            ];
            if name.starts_with("x-inertia") {
                Field::Unseen
            } else if FAMILIES.iter().any(|family| name.starts_with(family)) {
                Field::Credential
            } else {
                Field::Other
            }
        }
    }
}

/// Which request fields identify somebody, besides those that always do.
///
/// A request with such a field is answered by the inner service alone, unless a stored response was
/// made explicitly shareable, or `partition_by` gives each user entries of their own. Default: the
/// fields named in the [storing rules](crate::docs::rules).
///
/// # Examples
///
/// ```
/// use http::HeaderName;
/// use tower_response_cache::{Cache, Credentials, ResponseCacheLayer};
///
/// let credentials = Credentials::default()
///     .add(HeaderName::from_static("x-session"))
///     .allow(HeaderName::from_static("x-csrf-token"));
/// let layer = ResponseCacheLayer::new(Cache::in_memory()).credentials(credentials);
/// # let _ = layer;
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    added: Vec<HeaderName>,
    allowed: Vec<HeaderName>,
}

impl Credentials {
    /// Counts `name` among the fields that identify somebody.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // Nobody adds credentials with a `+`.
    pub fn add(mut self, name: HeaderName) -> Self {
        self.allowed.retain(|known| *known != name);
        self.added.push(name);
        self
    }

    /// Says that `name` identifies nobody here, and that no response depends on it.
    ///
    /// `Authorization` and `Cookie` are not allowed by this: for the one there is
    /// `partition_by`, for the other `ignore_cookies` and `vary_on_cookie`.
    #[must_use]
    pub fn allow(mut self, name: HeaderName) -> Self {
        self.added.retain(|known| *known != name);
        self.allowed.push(name);
        self
    }

    /// Whether the field `name`, in lower case, identifies somebody.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match meaning(name) {
            Field::Authorization => true,
            Field::Credential => !self.allowed.iter().any(|known| known.as_str() == name),
            _ => self.added.iter().any(|known| known.as_str() == name),
        }
    }

    #[inline]
    pub(crate) fn adds(&self, name: &HeaderName) -> bool {
        !self.added.is_empty() && self.added.contains(name)
    }

    pub(crate) fn allows(&self, name: &HeaderName) -> bool {
        !self.allowed.is_empty() && self.allowed.contains(name)
    }
}

/// Which cookies a route reads, and which it does not care about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cookies {
    pub(crate) ignored: Vec<String>,
    pub(crate) varying: Vec<String>,
}

impl Cookies {
    pub(crate) fn are_declared(&self) -> bool {
        !self.ignored.is_empty() || !self.varying.is_empty()
    }

    fn is_ignored(&self, name: &[u8]) -> bool {
        let Ok(name) = std::str::from_utf8(name) else {
            return false;
        };
        !self.varying.iter().any(|known| known == name)
            && self.ignored.iter().any(|pattern| glob(pattern, name))
    }

    /// The declared cookies of a request as parts of its key; whether it has others as well.
    pub(crate) fn read<'a>(&'a self, headers: &'a HeaderMap) -> (CookieParts<'a>, bool) {
        let mut parts = CookieParts::new();
        let mut has_others = false;
        for (name, value) in pairs(headers) {
            let known = self.varying.iter().find(|known| known.as_bytes() == name);
            match known {
                Some(known) => parts.push((known.as_str(), value)),
                None => has_others |= !self.is_ignored(name),
            }
        }
        // Stable: of two cookies with one name the order counts.
        parts.sort_by_key(|(name, _): &(&str, _)| *name);
        (parts, has_others)
    }

    /// Takes the ignored cookies out of what the handler sees.
    pub(crate) fn reduce(&self, headers: &mut HeaderMap) {
        if self.ignored.is_empty() || !pairs(headers).any(|(name, _)| self.is_ignored(name)) {
            return;
        }
        let mut kept = Vec::new();
        for (name, value) in pairs(headers) {
            if !self.is_ignored(name) {
                if !kept.is_empty() {
                    kept.extend_from_slice(b"; ");
                }
                kept.extend_from_slice(name);
                kept.push(b'=');
                kept.extend_from_slice(value);
            }
        }
        if kept.is_empty() {
            headers.remove(COOKIE);
        } else if let Ok(value) = HeaderValue::from_bytes(&kept) {
            headers.insert(COOKIE, value);
        }
    }
}

/// The cookies of a request, from all its lines (RFC 6265, 4.2.1; HTTP/2 sends several lines).
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.iter().position(|b| *b == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &[][..]),
        })
}
