//! The caching rules: pure functions of heads and times.
//!
//! Nothing here is async, reads a clock or touches a store; `now` is an argument. The names of
//! sections are those of [RFC 9111](https://www.rfc-editor.org/rfc/rfc9111). These rules hold; (R) is the
//! preset `rfc9111()`:
//!
//! **Who wins**
//! - `no-store`, `private` (of the targeted field, where one is heard) and `Set-Cookie` win over every
//!   setting and over the handler.
//! - Then [`CachePolicy`] of the handler, `force_ttl` of the layer, a targeted field (RFC 9213),
//!   `s-maxage`, `max-age`, `Expires`, a heuristic (R), and the layer's `ttl`, in this order (§4.2.1).
//! - A handler's ttl wins over `no-cache`, too; `force_ttl` does not.
//! - Silent is a response without max-age, s-maxage, Expires, no-cache, no-store, private and
//!   Set-Cookie; `public` or `must-revalidate` alone is silent.
//!
//! **`Cache-Control`** (`directives.rs`)
//! - All lines are one list; names have no case; quoted strings hide commas (§5.2).
//! - Of duplicates the smaller time counts; a time that cannot be read is 0 (§4.2.1).
//! - `private="f"` and `no-cache="f"` count as unqualified (§5.2.2.4, §5.2.2.7).
//! - A member that is no directive may forbid, but not allow; an unterminated quoted string forbids
//!   storing.
//!
//! **What may be stored** (`storing.rs`)
//! - `no-store` and `private`: never (§5.2.2.5, §5.2.2.7).
//! - `Set-Cookie`: never, unless the route opted in; then as if the field were not there.
//! - Silent: 200, 203, 204, 301, 308 for `ttl`; 404 and 410 for `negative_ttl`; zero is never.
//! - Explicit: any 2xx but 206, 300-308 but 304, 404, 410.
//! - Other statuses: never; (R) all final ones, those of `must-understand` only where they are
//!   understood (§3, §5.2.2.3). 206 and 304 are no full responses (§3.3, §4.3.4); 1xx are not final.
//! - 5xx: only to those who wait already, if nothing but the status forbids storing.
//! - Event streams, gRPC, `multipart/x-mixed-replace`, 101, announced trailers: never.
//! - An answer to a personal request: only if it is explicitly shareable: `public`, `s-maxage`
//!   above 0, `CachePolicy::public()`; where `Authorization` is all, `must-revalidate` (§3.5).
//! - `CachePolicy::no_store()`: never.
//! - `no-cache`, and what is stale as it comes: only with something by which it can be validated, or
//!   a window in which it may be stale (§5.2.2.4, §4.2).
//!   `no-cache` alone lets no status be stored that is not cacheable where nothing is said (§3).
//! - A declared length above `max_body_size`, or several that differ: never.
//! - More than 128 fields, or 64 KiB of them: never.
//!
//! **Freshness** (`freshness.rs`)
//! - `Expires` counts from `Date`, else from now; invalid or contradictory, it is past (§5.3).
//! - Age at arrival: `Age`, `Date` and the time that the answer took (§4.2.3).
//! - (R) A tenth of the time since `Last-Modified`, a day at the most, for the statuses of RFC 9110,
//!   15.1 and for `public` (§4.2.2).
//! - No lifetime and no age is above 2^31 seconds (§1.2.2).
//!
//! **Reuse** (`reuse.rs`)
//! - `no-cache` of a request: not without validation (§5.2.1.4). (R) `max-age`: not older, `min-fresh`: not
//!   shorter, and neither stale (§5.2.1.1, §5.2.1.3); `max-stale`: as stale as that (§5.2.1.2).
//! - Stale: in the window of `stale-while-revalidate`; for a failure in that of `stale-if-error` (RFC 5861),
//!   (R) and where the inner service cannot be reached (§4.2.4).
//! - `must-revalidate`, `proxy-revalidate`, `no-cache` forbid all of that; `s-maxage` what the response
//!   does not say itself (§5.2.2).
//! - Ahead of its end (`ahead.rs`): by chance, by what is left and what the fill cost.
//!
//! **Targeted fields, groups, `No-Vary-Search`** (`targeted.rs`, `groups.rs`, `search.rs`)
//! - They are structured fields: one bad member, and the field is not there.
//!
//! **Variants** (`vary.rs`, `nominated.rs`)
//! - `Vary` is one list over all lines, without case; `*` in any syntax: not stored (§4.1).
//! - `Vary`, `Cache-Control` or `Expires` that `Connection` lists: not stored, since it would not be
//!   kept (RFC 9110, 7.6.1).
//! - `Cookie` undeclared, `Authorization` and credentials, not partitioned: not stored.
//! - A specific `Access-Control-Allow-Origin` counts as `Vary: Origin`; with
//!   `Access-Control-Allow-Credentials: true` and without `Vary: Origin`: not stored.
//! - `Content-Encoding` counts as `Vary: Accept-Encoding`.
//! - Silent with `Content-Language` counts as `Vary: Accept-Language`.
//! - Silent with a nonce in a content security policy: not stored.
//! - Values are compared without spaces around commas; Accept, Accept-Charset, Accept-Encoding and
//!   Accept-Language without case; Accept-Encoding and Accept-Language by what they mean.
//! - An absent field differs from an empty one.
//!
//! **What a client has already, and what the inner service still has** (`validation.rs`)
//! - A stale response is asked for by its only `ETag` and `Last-Modified` (§4.3.1). A 304 speaks of it if
//!   its tag is the same, strongly where it is strong; without one its date; without any of both (§4.3.4).
//! - The fields of a 304 replace those stored, but those about the bytes of the body (§3.2).
//! - The answer to a HEAD is of the stored GET if tag, date and length are the same (§4.3.5).
//! - `If-None-Match` is compared weakly, over all lines; `*` matches (§4.3.2; RFC 9110, 13.1.2).
//! - `If-Modified-Since` counts only without it, against `Last-Modified`, else `Date` (§4.3.2); what is
//!   no date is ignored.
//! - `If-Match` and `If-Unmodified-Since` are for origins (RFC 9110, 13.1.1, 13.1.4): a stored response
//!   answers as if they were not there, and a request that has one fills nothing.
//! - A fill is sent on without conditions, and its answer judged by those of each who waits for it;
//!   its `Date` says nothing then.
//!
//! **What a client wants of it** (`ranges.rs`)
//! - One range, a suffix, or up to 32 of them; those that overlap or touch become one (RFC 9110, 14).
//! - What is no range of bytes is ignored; what begins behind the end is not satisfiable.
//! - `If-Range` is compared strongly, a date only where it is strong (RFC 9110, 13.1.5, 8.8.2.2).
//! - All of it: several ranges of an encoded body, `Accept-Ranges: none`, and where there is `If-Match` or
//!   `If-Unmodified-Since`, too.
//!
//! **Tags** (`tags.rs`)
//! - Of the extension `Tags`, of the handler's policy, of the layer's field, and the groups: at most 32 of 256
//!   bytes each, or it is not stored.
//!
//! **What an unsafe method invalidates** (`invalidation.rs`)
//! - Safe are GET, HEAD, OPTIONS and TRACE (RFC 9110, 9.2.1) and QUERY (RFC 10008); a method that is not
//!   known is unsafe (§4.4).
//! - An answer of 2xx or 3xx to an unsafe method invalidates the target URI; any other nothing (§4.4).
//! - So it does with the URIs in `Location` and `Content-Location` that have the same origin; schemes are
//!   compared where both are known, several values of one field say nothing (§4.4; RFC 3986, 5).

mod ahead;
mod dates;
mod directives;
mod facts;
mod freshness;
#[cfg(any(fuzzing, feature = "test-util", test))]
pub(crate) mod fuzzing;
mod groups;
mod handler;
mod invalidation;
mod nominated;
mod present;
mod ranges;
mod reuse;
mod search;
mod storing;
mod structured;
mod syntax;
mod tags;
mod targeted;
#[cfg(test)]
pub(crate) mod testing;
mod validation;
mod vary;

pub(crate) use ahead::is_ahead;
pub(crate) use directives::RequestDirectives;
pub(crate) use facts::{Preset, RequestFacts, StoringSettings};
pub(crate) use groups::cache_group_invalidation;
pub use handler::CachePolicy;
pub(crate) use invalidation::{TargetUri, is_no_error, is_safe, named_by};
pub(crate) use nominated::Encoded;
pub(crate) use ranges::{Selected, select};
pub(crate) use reuse::{Failure, Reuse, reuse, stands_in};
pub(crate) use search::SearchVariance;
pub(crate) use storing::{Decision, Plan, decide, declared_length, refused_at_once};
pub use tags::Tags;
pub(crate) use tags::{MOST as MOST_TAGS, Tagged, says_tags, tagged, take_tag_field};
pub(crate) use validation::{
    ask, has_not_changed, has_validator, is_for_origin, is_not_modified, is_same_by_head,
    speaks_of, take_conditions, updated,
};
pub(crate) use vary::VaryRule;
