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
