//! A request with an unsafe method on its way, and what its answer makes unusable
//! ([RFC 9111, section 4.4](https://www.rfc-editor.org/rfc/rfc9111#section-4.4)). The rules are in
//! `policy/invalidation.rs`.

use http::{HeaderMap, HeaderValue, StatusCode, Uri, header::HOST};

use crate::{
    cache::Cache,
    head::HeadRef,
    policy::{TargetUri, cache_group_invalidation, is_no_error, named_by},
    selector::{Kind, authority, original_uri},
    target::Resource,
};

/// What is needed to invalidate when the answer comes, or when it will never be known.
pub(crate) struct UnsafeMethod {
    cache: Cache,
    /// As the client sent it: what keys are made of.
    uri: Uri,
    host: Option<HeaderValue>,
    is_open: bool,
}

impl UnsafeMethod {
    pub(crate) fn new(cache: &Cache, head: HeadRef<'_>) -> Self {
        Self {
            cache: cache.clone(),
            uri: original_uri(head.extensions, head.uri).clone(),
            host: head.headers.get(HOST).cloned(),
            is_open: false,
        }
    }

    /// The inner service is called: from now on it may have changed something.
    pub(crate) fn called(&mut self) {
        self.is_open = true;
    }

    /// §4.4: an answer that is no error invalidates the target URI, and what it names. To be called
    /// before the answer leaves; a cache that is switched off does it, too, for those who share its
    /// remote store.
    pub(crate) fn answered(mut self, status: StatusCode, headers: &HeaderMap) {
        self.is_open = false;
        if !is_no_error(status) {
            return;
        }
        let authority = authority(&self.uri, self.host.as_ref());
        let mut resources = vec![self.target()];
        for named in named_by(headers, TargetUri::new(&self.uri, authority)) {
            let resource = Resource::new(authority, &named.path, named.query.as_deref());
            if !resources.contains(&resource) {
                resources.push(resource);
            }
        }
        for resource in resources {
            self.invalidate(resource);
        }
        // RFC 9875, 3: the groups of its own origin, and no others that their members are in.
        for name in cache_group_invalidation(headers) {
            let authority = authority.map(str::to_owned);
            self.cache.invalidate(Kind::Group { authority, name });
        }
    }

    /// The inner service failed.
    pub(crate) fn failed(mut self) {
        self.is_open = false;
    }

    fn target(&self) -> Resource {
        let authority = authority(&self.uri, self.host.as_ref());
        Resource::new(authority, self.uri.path(), self.uri.query())
    }

    fn invalidate(&self, resource: Resource) {
        self.cache.invalidate(Kind::Resource(resource));
    }
}

impl Drop for UnsafeMethod {
    /// §4.4 speaks of answers. Where the client has left before there was one (or the inner service
    /// panicked), nobody will know whether something was changed: an entry too few costs one call,
    /// an old one too many is wrong until it expires.
    fn drop(&mut self) {
        if self.is_open {
            self.invalidate(self.target());
        }
    }
}
