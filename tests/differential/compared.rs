//! Both are asked, and their answers compared.

use std::{collections::BTreeMap, time::Duration};

use axum::body::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
use tower_response_cache::{Cache, ManualClock, ResponseCacheLayer};

use crate::{
    heads::{Dice, Exchange, map, noon},
    support::{Answer, Origin, send},
    table::{ROWS, Who},
};

const CASES: u64 = 60_000;

/// What is done with the second request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The stored response answers, so many seconds old.
    Reused(u64),
    /// The inner service is asked whether it still holds.
    Validated,
    Forwarded,
}

impl Verdict {
    pub fn rank(self) -> u8 {
        match self {
            Self::Reused(_) => 2,
            Self::Validated => 1,
            Self::Forwarded => 0,
        }
    }
}

fn request(fields: HeaderMap) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = "/x".parse().expect("a path");
    *request.headers_mut() = fields;
    request
}

/// What the clients here never send.
fn is_conditional(fields: &HeaderMap) -> bool {
    fields.contains_key("if-none-match") || fields.contains_key("if-modified-since")
}

fn age(fields: &HeaderMap) -> u64 {
    let age = fields.get("age").expect("Age of a stored response");
    let age = age.to_str().expect("a number");
    age.parse().expect("a number")
}

/// Our answer to the second request.
async fn ask_us(exchange: &Exchange) -> Answer {
    let clock = ManualClock::new();
    let cache = Cache::builder().clock(clock.clone()).build();
    let layer = ResponseCacheLayer::rfc9111(cache.expect("the defaults are good"));
    let (status, fields) = (exchange.status, map(&exchange.response));
    let origin = Origin::new(move |call, request| {
        let mut response = Response::new(Body::empty());
        if is_conditional(request.headers()) {
            response.headers_mut().insert("x-validated", call.into());
        }
        if call == 1 {
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            *response.headers_mut() = fields.clone();
        }
        response.headers_mut().insert("x-call", call.into());
        std::future::ready(response)
    });
    let app = origin.behind(&layer);
    send(&app, request(map(&exchange.first))).await;
    clock.advance(Duration::from_secs(exchange.later));
    send(&app, request(map(&exchange.second))).await
}

async fn ours(exchange: &Exchange) -> Verdict {
    let answer = ask_us(exchange).await;
    match answer.x_cache() {
        "HIT" | "STALE" => {
            assert_eq!(answer.field("x-call"), "1", "{exchange:?}");
            Verdict::Reused(age(&answer.headers))
        }
        _ if answer.headers.contains_key("x-validated") => Verdict::Validated,
        _ => Verdict::Forwarded,
    }
}

/// Theirs; nothing where they do not store the response to the first.
fn ask_them(exchange: &Exchange) -> Option<BeforeRequest> {
    let options = CacheOptions {
        shared: true,
        cache_heuristic: 0.1,
        immutable_min_time_to_live: Duration::ZERO,
        ignore_cargo_cult: false,
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(exchange.status).expect("a status");
    *response.headers_mut() = map(&exchange.response);
    let first = request(map(&exchange.first));
    let policy = CachePolicy::new_options(&first, &response, noon(), options);
    let now = noon() + Duration::from_secs(exchange.later);
    let second = request(map(&exchange.second));
    policy
        .is_storable()
        .then(|| policy.before_request(&second, now))
}

fn theirs(exchange: &Exchange) -> Verdict {
    match ask_them(exchange) {
        Some(BeforeRequest::Fresh(parts)) => Verdict::Reused(age(&parts.headers)),
        Some(BeforeRequest::Stale { request, .. }) if is_conditional(&request.headers) => {
            Verdict::Validated
        }
        Some(BeforeRequest::Stale { .. }) | None => Verdict::Forwarded,
    }
}

#[tokio::test(start_paused = true)]
async fn every_disagreement_with_http_cache_semantics_is_decided_by_a_sentence_of_the_rfc() {
    let mut dice = Dice(9111);
    let mut explained = vec![0_u64; ROWS.len()];
    let mut alone = vec![0_u64; ROWS.len()];
    let mut open = Vec::new();
    let (mut agreed, mut reused, mut validated) = (0, 0, 0);
    for _ in 0..CASES {
        let exchange = Exchange::random(&mut dice);
        let (ours, theirs) = (ours(&exchange).await, theirs(&exchange));
        if ours == theirs {
            agreed += 1;
            reused += u64::from(ours.rank() == 2);
            validated += u64::from(ours.rank() == 1);
            continue;
        }
        let rows: Vec<usize> = (0..ROWS.len())
            .filter(|row| (ROWS[*row].explains)(&exchange, ours, theirs))
            .collect();
        for row in &rows {
            explained[*row] += 1;
        }
        match rows[..] {
            [] => open.push((exchange, ours, theirs)),
            [row] => alone[row] += 1,
            _ => {}
        }
    }
    let mut by_who: BTreeMap<&str, u64> = BTreeMap::new();
    for (row, (explained, alone)) in ROWS.iter().zip(explained.iter().zip(&alone)) {
        println!(
            "{explained:>6} {alone:>6} {:?}: {} ({})",
            row.who, row.kind, row.rule
        );
        *by_who.entry(row.who.name()).or_default() += explained;
    }
    println!("{agreed} agreed, {reused} on reuse, {validated} on validation; {by_who:?}");
    open.sort_by_key(|(exchange, ..)| {
        exchange.response.len() + exchange.first.len() + exchange.second.len()
    });
    let shown: Vec<_> = open.iter().take(8).collect();
    assert!(
        open.is_empty(),
        "{} without a row, such as {shown:?}",
        open.len()
    );
    for (row, alone) in ROWS.iter().zip(&alone) {
        assert!(*alone > 0, "never the reason by itself: {}", row.kind);
    }
    assert!(
        ROWS.iter().all(|row| row.who != Who::Theirs),
        "to be mended"
    );
    assert!(
        agreed > CASES / 2 && reused > CASES / 20,
        "too little in common"
    );
}

#[tokio::test(start_paused = true)]
async fn what_they_change_in_a_reused_response_stays_as_it_came() {
    let date = "Thu, 01 Jan 2026 11:59:58 GMT";
    let links = ["</a>; rel=preload", "</b>; rel=preload"];
    let response = [
        ("cache-control", "max-age=60"),
        ("date", date),
        ("link", links[0]),
        ("link", links[1]),
    ];
    let exchange = Exchange {
        first: Vec::new(),
        status: 200,
        response: response
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
        later: 5,
        second: Vec::new(),
    };
    let ours = ask_us(&exchange).await;
    let Some(BeforeRequest::Fresh(theirs)) = ask_them(&exchange) else {
        panic!("they reuse it as well");
    };
    // RFC 9111, 4.2.3: with Age they say together when it was made; RFC 9110, 6.6.1: when it came.
    assert_eq!(ours.field("date"), date);
    assert_ne!(theirs.headers["date"], date);
    assert_eq!(
        (ours.field("age"), &theirs.headers["age"]),
        ("7", &"5".parse().unwrap())
    );
    // RFC 9110, 5.3: the lines of a field are a list, and all of it is sent.
    assert_eq!(ours.fields("link"), links);
    assert_eq!(theirs.headers.get_all("link").iter().count(), 1);
}
