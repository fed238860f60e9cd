//! The content of a QUERY ([RFC 10008](https://www.rfc-editor.org/rfc/rfc10008)): read before anything is
//! looked up, since it is part of the key, and handed on as a body of the same bytes.

use std::{
    any::Any,
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Once},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body::Body;

use crate::{
    body::ResponseBody,
    headers::{StatusHeaders, say_bypass},
    key::MAX_KEY,
    status::Reason,
};

/// Whether a request is a QUERY.
pub(crate) fn is_query<B>(request: &Request<B>) -> bool {
    request.method().as_str() == "QUERY"
}

type Make<B> = Box<dyn Fn(Bytes) -> B + Send + Sync>;

/// Makes bodies of some type.
#[derive(Clone)]
pub(crate) struct QueryContent(Arc<dyn Any + Send + Sync>);

impl QueryContent {
    pub(crate) fn new<B: 'static>(make: impl Fn(Bytes) -> B + Send + Sync + 'static) -> Self {
        let make: Make<B> = Box::new(make);
        Self(Arc::new(make))
    }

    /// Whether the content of this request can be read and handed on.
    pub(crate) fn can_read<B: Body + 'static>(&self, request: &Request<B>) -> bool {
        if self.0.downcast_ref::<Make<B>>().is_none() {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                tracing::warn!(
                    target: "tower_response_cache",
                    "QUERY is not cached: query_content makes a body of another type than the {} that the layer gets",
                    std::any::type_name::<B>()
                );
            });
            return false;
        }
        // Of more nothing could be stored, and what was read could not be handed on.
        let most = MAX_KEY as u64;
        let length = request.body().size_hint().exact();
        length.is_some_and(|length| length <= most)
    }

    /// Reads the content; the request with the same as a body of its own.
    ///
    /// # Errors
    ///
    /// The body broke off, or was not as long as it said: there is no such request.
    pub(crate) async fn read<B: Body + 'static>(
        &self,
        request: Request<B>,
    ) -> Result<(Request<B>, Bytes), ()> {
        let make = self.0.downcast_ref::<Make<B>>().ok_or(())?;
        let (head, body) = request.into_parts();
        let length = body.size_hint().exact().ok_or(())?;
        let content = {
            let mut body = pin!(body);
            let mut content = BytesMut::new();
            while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                let Ok(mut data) = frame.map_err(drop)?.into_data() else {
                    continue;
                };
                if (content.len() + data.remaining()) as u64 > length {
                    return Err(());
                }
                content.extend_from_slice(&data.copy_to_bytes(data.remaining()));
            }
            content.freeze()
        };
        if content.len() as u64 != length {
            return Err(());
        }
        Ok((Request::from_parts(head, make(content.clone())), content))
    }
}

impl fmt::Debug for QueryContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueryContent")
    }
}

/// To a request whose content broke off, or did not come in time.
pub(crate) fn unread<B: Body>(
    status: StatusCode,
    mode: StatusHeaders,
) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    say_bypass(response.headers_mut(), Reason::RequestBody, mode);
    response
}
