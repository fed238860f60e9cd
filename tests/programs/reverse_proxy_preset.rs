//! `reverse_proxy --preset rfc9111`: what the standard demands of a shared cache, over connections.
//!
//! No time passes here: what is to be stale comes with an `Age` that makes it so.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::reverse_proxy::Origin;
use crate::process::{Client, Running};

const PRESET: &[&str] = &["--preset", "rfc9111"];

/// What the origin does in a call: status line and fields, or it hangs up.
type Does = Option<(&'static str, &'static str)>;

/// Does one thing after the other, the last again and again. The body is the number of the call.
fn origin(does: &'static [Does]) -> Origin {
    let calls = Arc::new(AtomicUsize::new(0));
    Origin::new(move |_, stream| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        let Some((status, fields)) = does[call.min(does.len() - 1)] else {
            return false;
        };
        let call = call + 1;
        let body = if status.starts_with("304") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n\r\n{call}", call.to_string().len())
        };
        let end = if body.is_empty() { "\r\n" } else { "" };
        write!(stream, "HTTP/1.1 {status}\r\n{fields}{body}{end}").is_ok()
    })
}

/// A sentence, what the origin does, and what each request (method and fields) gets: `X-Cache`, status
/// and body.
type Row = (
    &'static str,
    &'static [Does],
    &'static [(&'static str, &'static str, &'static str)],
);

const FRESH: Does = Some(("200 OK", "Cache-Control: max-age=60\r\n"));
const STALE: Does = Some((
    "200 OK",
    "Cache-Control: max-age=60\r\nAge: 100\r\nETag: \"a\"\r\n",
));
const SAME: Does = Some((
    "304 Not Modified",
    "Cache-Control: max-age=60\r\nETag: \"a\"\r\nX-New: 1\r\n",
));

#[test]
fn what_the_standard_demands_holds_over_connections() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("3: any final status that says how long", &[Some(("400 Bad Request", "Cache-Control: max-age=60\r\n"))],
            &[("GET", "", "MISS 400 1"), ("GET", "", "HIT 400 1")]),
        ("3: nothing said is not stored", &[Some(("200 OK", ""))],
            &[("GET", "", "MISS 200 1"), ("GET", "", "MISS 200 2")]),
        ("3: no-store", &[Some(("200 OK", "Cache-Control: no-store, max-age=60\r\n"))],
            &[("GET", "", "MISS 200 1"), ("GET", "", "MISS 200 2")]),
        ("3.5: Authorization", &[FRESH],
            &[("GET", "Authorization: a\r\n", "BYPASS 200 1"), ("GET", "Authorization: a\r\n", "BYPASS 200 2")]),
        ("3.5: Authorization and s-maxage", &[Some(("200 OK", "Cache-Control: s-maxage=60\r\n"))],
            &[("GET", "Authorization: a\r\n", "BYPASS 200 1"), ("GET", "", "HIT 200 1")]),
        ("4.1: Vary", &[Some(("200 OK", "Cache-Control: max-age=60\r\nVary: X-A\r\n"))],
            &[("GET", "X-A: 1\r\n", "MISS 200 1"), ("GET", "X-A: 2\r\n", "MISS 200 2"), ("GET", "X-A: 1\r\n", "HIT 200 1")]),
        ("4.2.1: s-maxage before max-age", &[Some(("200 OK", "Cache-Control: max-age=60, s-maxage=0\r\n"))],
            &[("GET", "", "MISS 200 1"), ("GET", "", "MISS 200 2")]),
        ("4.2.2: heuristic", &[Some(("200 OK", "Last-Modified: Thu, 01 Jan 2015 12:00:00 GMT\r\n"))],
            &[("GET", "", "MISS 200 1"), ("GET", "", "HIT 200 1")]),
        ("4.2.3: the age that it brought", &[Some(("200 OK", "Cache-Control: max-age=60\r\nAge: 60\r\n"))],
            &[("GET", "", "MISS 200 1"), ("GET", "", "MISS 200 2")]),
        ("4.2.4: out of reach", &[STALE, None],
            &[("GET", "", "MISS 200 1"), ("GET", "", "STALE 200 1")]),
        ("4.2.4: out of reach, but must-revalidate", &[Some(("200 OK", "Cache-Control: max-age=60, must-revalidate\r\nAge: 100\r\nETag: \"a\"\r\n")), None],
            &[("GET", "", "MISS 200 1"), ("GET", "", " 502 The server behind this proxy gave no complete answer.")]),
        ("4.3: validated, and fresh again", &[STALE, SAME],
            &[("GET", "", "MISS 200 1"), ("GET", "", "MISS 200 1"), ("GET", "", "HIT 200 1")]),
        ("4.3.2: a client that has it", &[Some(("200 OK", "Cache-Control: max-age=60\r\nETag: \"a\"\r\n"))],
            &[("GET", "", "MISS 200 1"), ("GET", "If-None-Match: \"a\"\r\n", "HIT 304 ")]),
        ("4.4: an unsafe method", &[FRESH],
            &[("GET", "", "MISS 200 1"), ("DELETE", "", " 200 2"), ("GET", "", "MISS 200 3")]),
        ("5.2.1.1: max-age=0", &[FRESH],
            &[("GET", "", "MISS 200 1"), ("GET", "Cache-Control: max-age=0\r\n", "MISS 200 2")]),
        ("5.2.1.7: only-if-cached", &[FRESH],
            &[("GET", "Cache-Control: only-if-cached\r\n", "MISS 504 ")]),
        ("5.2.2.3: must-understand lifts no-store", &[Some(("200 OK", "Cache-Control: max-age=60, no-store, must-understand\r\n"))],
            &[("GET", "", "MISS 200 1"), ("GET", "", "HIT 200 1")]),
        ("5.4: Pragma", &[FRESH],
            &[("GET", "", "MISS 200 1"), ("GET", "Pragma: no-cache\r\n", "MISS 200 2")]),
        ("RFC 5861, 4: an error", &[Some(("200 OK", "Cache-Control: max-age=60, stale-if-error=600\r\nAge: 100\r\n")), Some(("503 Busy", ""))],
            &[("GET", "", "MISS 200 1"), ("GET", "", "STALE 200 1")]),
        ("RFC 9110, 14: a range of what is stored", &[FRESH],
            &[("GET", "", "MISS 200 1"), ("GET", "Range: bytes=0-0\r\n", "HIT 206 1")]),
        ("RFC 9213: CDN-Cache-Control", &[Some(("200 OK", "Cache-Control: no-store\r\nCDN-Cache-Control: max-age=60\r\n"))],
            &[("GET", "", "MISS 200 1"), ("GET", "", "HIT 200 1")]),
    ];
    for (sentence, does, asks) in rows {
        let origin = origin(does);
        let (_proxy, address) = Running::reverse_proxy(origin.address, PRESET);
        for (number, (method, fields, expected)) in asks.iter().enumerate() {
            let answer = Client::connect(address).ask(method, "/", fields);
            let told = format!(
                "{} {} {}",
                answer.fields.get("x-cache"),
                answer.status,
                answer.text()
            );
            assert_eq!(told, *expected, "{sentence}: request {}", number + 1);
        }
    }
}

#[test]
fn a_validation_reaches_the_origin_and_its_fields_the_clients() {
    let origin = origin(&[STALE, SAME]);
    let (_proxy, address) = Running::reverse_proxy(origin.address, PRESET);
    for _ in 0..2 {
        assert_eq!(Client::connect(address).get("/").text(), "1");
    }
    let asked = origin.last();
    assert_eq!(asked.fields.get("if-none-match"), "\"a\"");
    assert!(asked.line.starts_with("GET / "), "{}", asked.line);
    let hit = Client::connect(address).get("/");
    assert_eq!((hit.x_cache(), hit.fields.get("x-new")), ("HIT", "1"));
    assert_eq!(origin.calls(), 2);
}
