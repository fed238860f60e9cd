//! A response cache for axum, tower and hyper.
#![warn(missing_docs)]

mod admission;
mod body;
mod budget;
mod cache;
mod clock;
mod entry;
mod error;
mod fill;
mod flight;
mod future;
mod headers;
mod invalidation;
mod key;
mod layer;
mod marks;
mod miss;
mod nesting;
mod policy;
mod router;
mod selector;
mod service;
mod stats;
mod status;
mod store;
mod streaks;

pub mod docs;

pub use admission::Credentials;
pub use body::{BodyError, ResponseBody};
pub use cache::{Cache, CacheBuilder};
pub use clock::Clock;
#[cfg(any(feature = "test-util", test))]
pub use clock::ManualClock;
pub use error::BuildError;
pub use future::ResponseFuture;
pub use headers::StatusHeaders;
pub use invalidation::Invalidated;
pub use key::Query;
pub use layer::{ANALYTICS_COOKIES, ResponseCacheLayer};
pub use policy::CachePolicy;
pub use selector::{RequestHead, Selector};
pub use service::ResponseCache;
pub use stats::Stats;
pub use status::{Forward, Reason};
