//! Which of the fields that the rules of storing ask for a response has: found in one pass, because
//! most have few of them, and each question costs as much as the pass.

use http::HeaderMap;

/// What is there; what it says is for the rules.
#[derive(Debug, Default)]
pub(super) struct Present {
    pub(super) cache_control: bool,
    pub(super) connection: bool,
    pub(super) content_length: bool,
    pub(super) content_type: bool,
    pub(super) expires: bool,
    pub(super) set_cookie: bool,
    pub(super) trailer: bool,
    /// `Age` or `Date`.
    pub(super) age: bool,
    /// `ETag` or `Last-Modified`.
    pub(super) validator: bool,
    /// `Vary`, or what says the like without it.
    pub(super) vary: bool,
    /// Of all names and values.
    pub(super) bytes: usize,
}

impl Present {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            present.bytes += name.len() + value.len();
            match name {
                "cache-control" => present.cache_control = true,
                "connection" => present.connection = true,
                "content-length" => present.content_length = true,
                "content-type" => present.content_type = true,
                "expires" => present.expires = true,
                "set-cookie" => present.set_cookie = true,
                "trailer" => present.trailer = true,
                "age" | "date" => present.age = true,
                "etag" | "last-modified" => present.validator = true,
                "vary"
                | "access-control-allow-origin"
                | "content-encoding"
                | "content-language"
                | "content-security-policy"
                | "content-security-policy-report-only" => present.vary = true,
                _ => {}
            }
        }
        present
    }
}
