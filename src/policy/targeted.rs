//! Targeted fields ([RFC 9213](https://www.rfc-editor.org/rfc/rfc9213)): to come.

use http::{HeaderMap, HeaderName};

use super::directives::ResponseDirectives;

pub(crate) fn read(_: &HeaderMap, _: &[HeaderName]) -> Option<ResponseDirectives> {
    None
}
