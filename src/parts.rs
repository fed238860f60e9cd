//! What a handler on axum says to the cache, as parts of its answer. What comes several times, of handlers and
//! of middlewares around them, adds up.

use std::convert::Infallible;

use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};

use crate::{CachePolicy, Invalidate, Tags};

/// `(CachePolicy::ttl(..), Json(..))`. Of several, the last one counts, with the tags of all.
impl IntoResponseParts for CachePolicy {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        let extensions = parts.extensions_mut();
        let policy = match extensions.remove::<Self>() {
            Some(known) => self.after(known),
            None => self,
        };
        extensions.insert(policy);
        Ok(parts)
    }
}

/// `(Tags::new(["users"]), Json(..))`. Several add up.
impl IntoResponseParts for Tags {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        let known = parts.extensions_mut().get_or_insert_default::<Self>();
        known.join(self);
        Ok(parts)
    }
}

/// `(Invalidate::tag("users"), Json(..))`. Several add up.
impl IntoResponseParts for Invalidate {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
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
