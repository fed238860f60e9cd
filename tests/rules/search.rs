//! `No-Vary-Search`: parameters of the query that make no difference.

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tower_response_cache::{Cache, ResponseCacheLayer, Selector};

use crate::support::{App, Origin, cache, feed::whole, get, get_with, inner, request};

fn layer(cache: &Cache) -> ResponseCacheLayer {
    ResponseCacheLayer::new(cache).no_vary_search(true)
}

/// Says `No-Vary-Search` as the fragment behind the path has it.
fn origin(said: &'static str) -> Origin {
    Origin::with_fields(&[("no-vary-search", said)])
}

/// The first fills; whether each of the others is answered by that.
async fn hits(app: &App, first: &str, others: &[&str]) -> Vec<bool> {
    assert_eq!(get(app, first).await.x_cache(), "MISS", "{first}");
    let mut hits = Vec::new();
    for other in others {
        hits.push(get(app, other).await.is_hit());
    }
    hits
}

#[tokio::test]
async fn queries_that_are_the_same_by_the_rule_are_answered_by_one_response() {
    type Row = (&'static str, &'static str, &'static [(&'static str, bool)]);
    let rows: &[Row] = &[
        (
            "params=(\"utm\")",
            "/a?id=1&utm=x",
            &[
                ("/a?id=1&utm=x", true),
                ("/a?id=1&utm=y", true),
                ("/a?id=1", true),
                ("/a?utm=z&id=1", true),
                ("/a?id=2&utm=x", false),
                ("/a", false),
            ],
        ),
        (
            "params",
            "/a?x",
            &[("/a?y", true), ("/a", true), ("/a?", true), ("/b?x", false)],
        ),
        (
            "params, except=(\"id\")",
            "/a?id=1&b=2",
            &[("/a?id=1", true), ("/a?b=2", false)],
        ),
        (
            "key-order",
            "/a?a=1&b=2",
            &[("/a?b=2&a=1", true), ("/a?a=1", false)],
        ),
        ("key-order=?0", "/a?a=1&b=2", &[("/a?b=2&a=1", false)]),
        ("params=utm", "/a?id=1&utm=x", &[("/a?id=1&utm=y", false)]),
        ("", "/a?id=1", &[("/a?id=1", true), ("/a?id=2", false)]),
    ];
    for (said, first, others) in rows {
        let (cache, _) = cache();
        let origin = origin(said);
        let app = origin.behind(&layer(&cache));
        // Those that are none come each with another first.
        for (other, expected) in *others {
            cache.invalidate(Selector::all());
            let seen = hits(&app, first, &[other]).await;
            assert_eq!(seen, [*expected], "{said}: {first} for {other}");
        }
    }
}

#[tokio::test]
async fn by_default_the_whole_query_counts_whatever_a_response_says() {
    let (cache, _) = cache();
    let origin = origin("params");
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    assert_eq!(hits(&app, "/a?x", &["/a?y", "/a?x"]).await, [false, true]);
}

#[tokio::test]
async fn the_handler_sees_the_query_as_it_came() {
    let (cache, _) = cache();
    let origin = origin("params=(\"utm\")");
    let app = origin.behind(&layer(&cache));
    get(&app, "/a?utm=x&id=1").await;
    assert_eq!(
        get(&app, "/a?id=2&utm=y").await.text(),
        "2 GET /a?id=2&utm=y"
    );
}

#[tokio::test]
async fn each_response_answers_by_its_own_rule() {
    // One path, two rules: what is stored by one does not answer by the other.
    let (cache, _) = cache();
    let origin = Origin::new(|call, request: Request<Body>| {
        let is_loose = request.uri().query().unwrap_or("").contains("loose");
        let said = if is_loose { "params=(\"utm\")" } else { "" };
        let body = Body::from(format!("{call} {}", request.uri()));
        ready(
            Response::builder()
                .header("no-vary-search", said)
                .body(body)
                .unwrap(),
        )
    });
    let app = origin.behind(&layer(&cache));
    assert_eq!(
        get(&app, "/a?strict&utm=1").await.text(),
        "1 /a?strict&utm=1"
    );
    assert_eq!(get(&app, "/a?loose&utm=1").await.text(), "2 /a?loose&utm=1");
    assert_eq!(get(&app, "/a?loose&utm=2").await.text(), "2 /a?loose&utm=1");
    assert_eq!(
        get(&app, "/a?strict&utm=2").await.text(),
        "3 /a?strict&utm=2"
    );
    assert_eq!(
        get(&app, "/a?strict&utm=1").await.text(),
        "1 /a?strict&utm=1"
    );
    assert_eq!(
        get(&app, "/a?strict&utm=2").await.text(),
        "3 /a?strict&utm=2"
    );
}

/// Each call says the next rule; the last again and again.
fn changing(rules: &'static [&'static str]) -> Origin {
    Origin::new(move |call, request: Request<Body>| {
        let said = rules[call.min(rules.len()) - 1];
        let body = Body::from(format!("{call} {}", request.uri()));
        let response = Response::builder().header("no-vary-search", said);
        ready(response.body(body).unwrap())
    })
}

#[tokio::test]
async fn what_is_stored_by_one_rule_does_not_answer_by_another() {
    // What is left of the first and of the last query is the same text; by the first rule they are
    // not equivalent.
    let rows: [(&'static [&'static str], [&str; 3]); 4] = [
        (
            &["params=(\"x\")", "params=(\"utm\")"],
            ["/a?id=1&x=1", "/a?id=2&utm=1", "/a?id=1&utm=9"],
        ),
        (
            &["params=(\"x\")", "params=(\"x\"), key-order"],
            ["/a?a=1&b=2&x=1", "/a?z=1", "/a?b=2&a=1"],
        ),
        (
            &["params=(\"x\")", "params, except=(\"x\")"],
            ["/a?x=1", "/a?x=2&id=1", "/a?id=7"],
        ),
        (
            &["", "params=(\"utm\")"],
            ["/a?id=1", "/a?id=2&utm=1", "/a?id=1&utm=9"],
        ),
    ];
    for (rules, [first, second, third]) in rows {
        let (cache, _) = cache();
        let app = changing(rules).behind(&layer(&cache));
        assert_eq!(get(&app, first).await.text(), format!("1 {first}"));
        assert_eq!(get(&app, second).await.text(), format!("2 {second}"));
        let third_text = get(&app, third).await;
        assert_eq!(third_text.text(), format!("3 {third}"), "{rules:?}");
    }
}

#[tokio::test]
async fn a_rule_that_comes_later_counts_from_then_on() {
    let (cache, clock) = cache();
    let app = changing(&["", "params=(\"utm\")"]).behind(&layer(&cache));
    get(&app, "/a?utm=1").await;
    clock.advance(Duration::from_secs(61));
    assert_eq!(get(&app, "/a?utm=1").await.text(), "2 /a?utm=1");
    assert_eq!(get(&app, "/a?utm=2").await.text(), "2 /a?utm=1");
}

#[tokio::test]
async fn each_path_has_its_own_rule() {
    let (cache, _) = cache();
    let origin = Origin::new(|call, request: Request<Body>| {
        let said = match request.uri().path() {
            "/a" => "params=(\"a\")",
            _ => "params=(\"b\")",
        };
        let response = Response::builder().header("no-vary-search", said);
        ready(response.body(Body::from(call.to_string())).unwrap())
    });
    let app = origin.behind(&layer(&cache));
    get(&app, "/a?a=1").await;
    get(&app, "/b?b=1").await;
    assert_eq!(get(&app, "/a?a=2").await.text(), "1");
    assert_eq!(get(&app, "/b?b=2").await.text(), "2");
}

#[tokio::test]
async fn a_304_that_names_another_rule_stores_by_that() {
    let (cache, clock) = cache();
    let origin = Origin::new(|call, request: Request<Body>| {
        let is_asked = request.headers().contains_key("if-none-match");
        let said = if call == 1 { "params=(\"utm\")" } else { "" };
        let response = Response::builder()
            .header("no-vary-search", said)
            .header("etag", "\"a\"");
        let (status, body) = match is_asked {
            true => (304, Body::empty()),
            false => (200, Body::from(format!("{call} {}", request.uri()))),
        };
        ready(response.status(status).body(body).unwrap())
    });
    let app = origin.behind(&layer(&cache));
    get(&app, "/a?utm=1").await;
    clock.advance(Duration::from_secs(61));
    assert_eq!(get(&app, "/a?utm=1").await.text(), "1 /a?utm=1");
    assert_eq!(origin.calls(), 2);
    assert_eq!(get(&app, "/a?utm=1").await.x_cache(), "HIT");
    let other = get(&app, "/a?utm=2").await;
    assert_ne!(other.x_cache(), "HIT", "it varies on that now");
}

#[tokio::test]
async fn variants_are_told_apart_all_the_same() {
    let (cache, _) = cache();
    let fields = [("no-vary-search", "params"), ("vary", "x-tenant")];
    let origin = Origin::with_fields(&fields);
    let app = origin.behind(&layer(&cache));
    let (one, two) = ([("x-tenant", "1")], [("x-tenant", "2")]);
    assert_eq!(get_with(&app, "/a?x", &one).await.x_cache(), "MISS");
    assert_eq!(get_with(&app, "/a?y", &two).await.x_cache(), "MISS");
    assert_eq!(get_with(&app, "/a?z", &one).await.text(), "1 GET /a?x");
    assert_eq!(get_with(&app, "/a?z", &two).await.text(), "2 GET /a?y");
}

#[tokio::test]
async fn an_invalidation_of_any_of_the_queries_is_one_of_all() {
    let (cache, _) = cache();
    let origin = origin("params=(\"utm\")");
    let app = origin.behind(&layer(&cache));
    assert_eq!(
        hits(&app, "/a?id=1&utm=x", &["/a?id=1&utm=y"]).await,
        [true]
    );
    cache.invalidate(Selector::resource("test", "/a?id=1&utm=y"));
    assert_eq!(get(&app, "/a?id=1&utm=x").await.x_cache(), "MISS");
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_answered_only_where_the_new_response_says_the_same() {
    let (cache, clock) = cache();
    let permits = Arc::new(Semaphore::new(1));
    let held = permits.clone();
    let inner = inner::Inner::<_, Infallible>::new(move |call, request: Request<Body>| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            let said = if call == 1 { "params=(\"utm\")" } else { "" };
            let body = whole(format!("{call} {}", request.uri()));
            Ok(Response::builder()
                .header("no-vary-search", said)
                .body(body)
                .unwrap())
        }
    });
    let service = inner::behind(layer(&cache), &inner);
    let ask = |path: &'static str| inner::client(&service, request("GET", path, &[]));
    for query in ["/a?utm=1", "/a?utm=2"] {
        let read = inner::at_once("an answer", ask(query).await).await;
        assert_eq!(read.unwrap().complete(), "1 /a?utm=1");
    }
    clock.advance(Duration::from_secs(61));
    let clients = [
        ask("/a?utm=1").await,
        ask("/a?utm=2").await,
        ask("/a?utm=1").await,
    ];
    assert_eq!(inner.calls(), 2, "they are thought to be the same");
    permits.add_permits(2);
    for (client, query) in clients.into_iter().zip(["utm=1", "utm=2", "utm=1"]) {
        let read = inner::at_once("an answer", client).await.unwrap();
        assert!(
            read.complete().ends_with(query),
            "{} for {query}",
            read.complete()
        );
    }
    assert_eq!(inner.calls(), 3);
}

#[tokio::test]
async fn what_was_stored_by_the_whole_query_does_not_hide_what_comes_by_a_rule() {
    let (cache, clock) = cache();
    let origin = Origin::new(|call, _| {
        let said = if call > 1 { "params" } else { "" };
        let response = Response::builder()
            .header("no-vary-search", said)
            .header("etag", format!("\"{call}\""));
        ready(response.body(Body::from(call.to_string())).unwrap())
    });
    let app = origin.behind(&layer(&cache));
    assert_eq!(get(&app, "/a?x=1").await.text(), "1");
    clock.advance(Duration::from_secs(61));
    assert_eq!(get(&app, "/a?x=1").await.text(), "2");
    for path in ["/a?x=1", "/a?x=2", "/a"] {
        let hit = get(&app, path).await;
        assert_eq!((hit.x_cache(), hit.text()), ("HIT", "2"), "{path}");
    }
}
