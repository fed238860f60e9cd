//! What a router leaves in a request: the matched route, and the URI before nesting.
//!
//! The one place that knows axum's extensions; without the feature `axum` there are none.

use http::{Extensions, Uri};

/// The URI as it was before a nested router took a prefix off it.
#[inline]
pub(crate) fn original_uri(extensions: &Extensions) -> Option<&Uri> {
    #[cfg(feature = "axum")]
    return extensions
        .get::<axum::extract::OriginalUri>()
        .map(|uri| &uri.0);
    #[cfg(not(feature = "axum"))]
    {
        let _ = extensions;
        None
    }
}

/// Gives the extensions a new original URI, where there was one.
pub(crate) fn set_original_uri(extensions: &mut Extensions, uri: Uri) {
    #[cfg(feature = "axum")]
    if let Some(original) = extensions.get_mut::<axum::extract::OriginalUri>() {
        original.0 = uri;
    }
    #[cfg(not(feature = "axum"))]
    let _ = (extensions, uri);
}

/// The pattern of the route that matched, such as `/users/{id}`.
pub(crate) fn matched_route(extensions: &Extensions) -> Option<&str> {
    #[cfg(feature = "axum")]
    return extensions
        .get::<axum::extract::MatchedPath>()
        .map(axum::extract::MatchedPath::as_str);
    #[cfg(not(feature = "axum"))]
    {
        let _ = extensions;
        None
    }
}

#[cfg(feature = "axum")]
mod answer {
    use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};

    use crate::{CachePolicy, Invalidate, Tags};

    /// As a part of a handler's answer: `(CachePolicy::ttl(..), Json(..))`.
    impl IntoResponseParts for CachePolicy {
        type Error = std::convert::Infallible;

        fn into_response_parts(
            self,
            mut parts: ResponseParts,
        ) -> Result<ResponseParts, Self::Error> {
            parts.extensions_mut().insert(self);
            Ok(parts)
        }
    }

    /// As a part of a handler's answer: `(Tags::new(["users"]), Json(..))`.
    impl IntoResponseParts for Tags {
        type Error = std::convert::Infallible;

        fn into_response_parts(
            self,
            mut parts: ResponseParts,
        ) -> Result<ResponseParts, Self::Error> {
            parts.extensions_mut().insert(self);
            Ok(parts)
        }
    }

    /// As a part of a handler's answer: `(Invalidate::tag("users"), Json(..))`. Several add up.
    impl IntoResponseParts for Invalidate {
        type Error = std::convert::Infallible;

        fn into_response_parts(
            self,
            mut parts: ResponseParts,
        ) -> Result<ResponseParts, Self::Error> {
            match parts.extensions_mut().get_mut::<Self>() {
                Some(known) => known.join(self),
                None => {
                    parts.extensions_mut().insert(self);
                }
            }
            Ok(parts)
        }
    }

    /// By itself it is an answer without content: `(StatusCode::NO_CONTENT, Invalidate::tag("users"))`.
    impl IntoResponse for Invalidate {
        fn into_response(self) -> Response {
            (self, ()).into_response()
        }
    }
}
