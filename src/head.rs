//! The head of a request as the cache looks at it.

use http::{Extensions, HeaderMap, Method, Request, Uri, Version};

/// The head of a request, borrowed where it lies: moving it about costs more than looking at it.
#[derive(Clone, Copy)]
pub(crate) struct HeadRef<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) version: Version,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) extensions: &'a Extensions,
}

impl<'a, B> From<&'a Request<B>> for HeadRef<'a> {
    #[inline]
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}
