//! The handler that a hit replaces, and the request of a browser.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{Empty, Full};
use tower::Service;

const BODY: [u8; 1024] = [b'x'; 1024];

/// A handler that builds a response of eight fields and `size` bytes, as a handler does: from what
/// it has computed.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) size: usize,
}

impl Service<Request<Empty<Bytes>>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        let body = match self.size {
            1024 => Bytes::copy_from_slice(black_box(&BODY)),
            size => Bytes::from(vec![b'x'; size]),
        };
        let mut headers = HeaderMap::with_capacity(8);
        for (name, value) in [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            ),
            (
                header::CACHE_CONTROL,
                HeaderValue::from_static("public, max-age=600"),
            ),
            (header::VARY, HeaderValue::from_static("accept-language")),
            (header::SERVER, HeaderValue::from_static("bench")),
            (
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ),
            (
                header::REFERRER_POLICY,
                HeaderValue::from_static("no-referrer"),
            ),
        ] {
            headers.insert(name, value);
        }
        let etag = format!("\"{:x}\"", black_box(body.len()));
        headers.insert(header::ETAG, HeaderValue::try_from(etag).expect("visible"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut response = Response::new(Full::new(body));
        *response.headers_mut() = headers;
        ready(Ok(response))
    }
}

/// The same without `Vary`: one look-up instead of two.
#[derive(Clone)]
pub(crate) struct Plain(pub(crate) Handler);

impl Service<Request<Empty<Bytes>>> for Plain {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> Self::Future {
        let mut response = self
            .0
            .call(request)
            .into_inner()
            .unwrap_or_else(|never| match never {});
        let value = HeaderValue::from_static("no-referrer-when-downgrade");
        response.headers_mut().remove(header::VARY);
        response
            .headers_mut()
            .insert(header::X_FRAME_OPTIONS, value);
        ready(Ok(response))
    }
}

pub(crate) async fn axum_handler() -> axum::response::Response {
    let response = Plain(Handler { size: 1024 })
        .call(Request::new(Empty::new()))
        .into_inner();
    response
        .unwrap_or_else(|never| match never {})
        .map(axum::body::Body::new)
}

/// What a browser sends.
pub(crate) fn request(
    path: &'static str,
    extra: Option<(header::HeaderName, &'static str)>,
) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static(path);
    let headers = request.headers_mut();
    for (name, value) in [
        (header::HOST, "example.com"),
        (
            header::USER_AGENT,
            "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
        ),
        (
            header::ACCEPT,
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        (header::ACCEPT_LANGUAGE, "en-US,en;q=0.5"),
        (header::ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some((name, value)) = extra {
        headers.insert(name, HeaderValue::from_static(value));
    }
    request
}

/// Polls a future that never waits.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// A handler whose answers are nobody else's.
#[derive(Clone)]
pub(crate) struct Uncacheable;

impl Service<Request<Empty<Bytes>>> for Uncacheable {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        let body = Bytes::copy_from_slice(black_box(&BODY));
        let mut response = Response::new(Full::new(body));
        let fields = response.headers_mut();
        let no_store = HeaderValue::from_static("no-store");
        fields.insert(header::CACHE_CONTROL, no_store);
        let json = HeaderValue::from_static("application/json");
        fields.insert(header::CONTENT_TYPE, json);
        ready(Ok(response))
    }
}
