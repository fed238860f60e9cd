//! What a response says besides its fields, heard on its way out whatever else becomes of it: what it
//! invalidates, and the field with its tags.

use http::Response;

use crate::{
    policy::{Tags, take_tag_field},
    selector::{Selector, Tag},
    settings::Settings,
};

/// What a handler's change makes unusable, as a part of its answer.
///
/// Put into the extensions of a response; on axum it is a part of a handler's answer. The layer
/// invalidates before the answer leaves, whatever method and status it has: the client that reads it and
/// asks again gets what is new. Nothing is told to the client.
///
/// The handler returns it after the data was changed: a transaction that was not committed yet would
/// let a fill in between store what it is about to replace. A handler that is dropped because its
/// client left returns nothing; where that matters, call
/// [`Cache::invalidate`](crate::Cache::invalidate) in a task that goes on.
///
/// # Examples
///
/// ```
/// use axum::{Json, response::IntoResponse};
/// use tower_response_cache::{Invalidate, Selector};
///
/// async fn create() -> impl IntoResponse {
///     // let user = db.insert(user).await?;
///     (Invalidate::tag("users").and(Selector::path("/top/*")), Json("Ada"))
/// }
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let response = create().await.into_response();
/// assert!(response.extensions().get::<Invalidate>().is_some());
/// assert_eq!(response.headers().len(), 1);
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is invalidated until it is in the extensions of a response"]
pub struct Invalidate {
    selectors: Vec<Selector>,
    /// How many of them which cache has heard: each layer that a response passes would do it again, and
    /// between two layers more may be added.
    heard: Vec<(u64, usize)>,
}

impl Invalidate {
    /// Whatever this selects.
    pub fn new(selector: impl Into<Selector>) -> Self {
        Self {
            selectors: vec![selector.into()],
            heard: Vec::new(),
        }
    }

    /// Everything with this tag.
    pub fn tag(tag: impl Into<Tag>) -> Self {
        Self::new(tag.into())
    }

    /// And what this selects, too.
    pub fn and(mut self, selector: impl Into<Selector>) -> Self {
        self.selectors.push(selector.into());
        self
    }

    /// For one answer that has several of them.
    #[cfg(feature = "axum")]
    pub(crate) fn join(&mut self, other: Self) {
        self.selectors.extend(other.selectors);
    }
}

/// Hears what the inner service says on a response, before anybody else sees that.
#[inline]
pub(crate) fn hear<B>(settings: &Settings, response: &mut Response<B>) {
    if response.extensions().is_empty() && settings.tag_field.is_none() {
        return;
    }
    heard(settings, response);
}

fn heard<B>(settings: &Settings, response: &mut Response<B>) {
    let cache = &settings.cache;
    if let Some(said) = response.extensions_mut().get_mut::<Invalidate>() {
        let known = said.heard.iter().position(|(id, _)| *id == cache.id());
        let known = known.map_or(0, |at| said.heard.swap_remove(at).1);
        for selector in &said.selectors[known..] {
            cache.invalidate(selector.clone());
        }
        said.heard.push((cache.id(), said.selectors.len()));
    }
    if let Some(name) = &settings.tag_field {
        let tags = take_tag_field(response.headers_mut(), name);
        if !tags.is_empty() {
            let extensions = response.extensions_mut();
            extensions
                .get_or_insert_default::<Tags>()
                .join(Tags::new(tags));
        }
    }
}
