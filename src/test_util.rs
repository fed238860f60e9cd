//! Assertions for the tests of services that use the cache.

use std::future::poll_fn;

use http::{Request, Response};
use tower_service::Service;

/// What the assertions ask with: a path (with feature `axum`), or a whole request.
pub trait Asked {
    /// The body of the request.
    type Body;

    /// The request.
    fn into_request(self) -> Request<Self::Body>;
}

impl<B> Asked for Request<B> {
    type Body = B;

    fn into_request(self) -> Self {
        self
    }
}

#[cfg(feature = "axum")]
impl Asked for &str {
    type Body = axum::body::Body;

    fn into_request(self) -> Request<Self::Body> {
        let request = Request::get(self).body(axum::body::Body::empty());
        request.expect("a path such as /users?page=2")
    }
}

/// Asks, and says what stands in `X-Cache`; the body of the answer is dropped unread.
#[doc(hidden)]
pub async fn x_cache_of<S, A, B>(service: &S, asked: A) -> Option<String>
where
    S: Service<Request<A::Body>, Response = Response<B>> + Clone,
    A: Asked,
{
    let mut service = service.clone();
    let is_ready = poll_fn(|cx| service.poll_ready(cx)).await.is_ok();
    assert!(is_ready, "the service is not ready");
    let response = match service.call(asked.into_request()).await {
        Ok(response) => response,
        Err(_) => panic!("the service answered with an error"),
    };
    let value = response.headers().get("x-cache")?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Asserts that a GET of a path is answered from the store; in an async test. Needs feature
/// `test-util`.
///
/// The service is anything that is [`Clone`], such as an axum `Router`; asked is a path (with
/// feature `axum`, without a `Host` field) or a whole [`Request`](http::Request).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use axum::{Router, routing::get};
/// use tower_response_cache::{Cache, ResponseCacheLayer, assert_cached, assert_not_cached};
///
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(ResponseCacheLayer::new(Cache::in_memory()));
/// assert_not_cached!(app, "/");
/// assert_cached!(app, "/");
/// # }
/// ```
///
/// # Panics
///
/// When the answer says anything but `X-Cache: HIT`.
#[macro_export]
macro_rules! assert_cached {
    ($service:expr, $asked:expr $(,)?) => {
        assert_eq!(
            $crate::x_cache_of(&$service, $asked).await.as_deref(),
            Some("HIT"),
            "{} is answered from the store",
            stringify!($asked),
        )
    };
}

/// Asserts that a GET of a path is not answered from the store; it may fill it. Needs feature
/// `test-util`.
///
/// See [`assert_cached!`].
///
/// # Panics
///
/// When the answer says `X-Cache: HIT`.
#[macro_export]
macro_rules! assert_not_cached {
    ($service:expr, $asked:expr $(,)?) => {
        assert_ne!(
            $crate::x_cache_of(&$service, $asked).await.as_deref(),
            Some("HIT"),
            "{} is not answered from the store",
            stringify!($asked),
        )
    };
}
