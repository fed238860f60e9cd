//! Values: what the rest of a program computes and loads, in the same cache as its responses.
//!
//! The memory tier, its bound, the invalidation log, the flights, the remote store and the counters are
//! those of responses; here is what is peculiar to values: keys that are texts ([`key`], [`text`]), entries
//! that are an `Arc` of their own type ([`stored`]), and what callers see of it ([`client`]).

mod answer;
mod client;
mod entry;
mod error;
mod fetch;
mod get_or_set;
mod key;
mod load;
pub(crate) mod options;
mod set;
mod stored;
pub(crate) mod terms;
mod text;
mod wrap;

pub(crate) use self::{
    answer::{Answer, finished},
    load::{Asked, Found, Lead, load_together},
    options::{Making, options},
    stored::StoredValue,
    terms::{Terms, Ttl, checked_ttl},
};
pub use self::{
    entry::ValueEntry,
    error::{LoadError, ValueError},
    key::{IntoValueKey, ValueKey},
    set::SetValue,
    stored::CachedValue,
    wrap::CachedFn,
};
