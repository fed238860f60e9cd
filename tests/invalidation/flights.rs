//! An invalidation while a fill is under way: who came after it is not answered by the older fill.

use axum::body::Body;
use http::Response;
use tokio::task::JoinHandle;
use tower_response_cache::{CachePolicy, ResponseCacheLayer, Selector, Tags};

use crate::support::{
    Answer, App, Origin, cache, get, get_with, request,
    scripted::{Gate, response},
    send, settle,
};

/// Answers with the number of the call and a tag, each call behind a door of its own.
fn behind_doors(count: usize, tag: &'static str) -> (Vec<Gate>, Origin) {
    let doors: Vec<Gate> = (0..count).map(|_| Gate::shut()).collect();
    let held = doors.clone();
    let origin = Origin::new(move |call, _| {
        let door = held.get(call - 1).cloned();
        async move {
            if let Some(door) = door {
                door.pass().await;
            }
            tagged(call, tag)
        }
    });
    (doors, origin)
}

fn tagged(call: usize, tag: &'static str) -> Response<Body> {
    let mut response = response(200, &[], format!("{call}"));
    response.extensions_mut().insert(Tags::new([tag]));
    response
}

async fn ask(app: &App, path: &'static str) -> JoinHandle<Answer> {
    let app = app.clone();
    let asked = tokio::spawn(async move { get(&app, path).await });
    settle().await;
    asked
}

async fn texts(asked: Vec<JoinHandle<Answer>>) -> Vec<String> {
    let mut texts = Vec::new();
    for asked in asked {
        texts.push(asked.await.expect("answered").text().to_owned());
    }
    texts
}

#[tokio::test(start_paused = true)]
async fn what_is_known_beforehand_is_judged_at_once() {
    for selector in [
        Selector::resource("test", "/a"),
        Selector::path("/a"),
        Selector::path("/*"),
        Selector::path_prefix("/"),
        Selector::all(),
    ] {
        for selector in [selector.clone(), selector.soft()] {
            let (cache, _clock) = cache();
            let (doors, origin) = behind_doors(2, "t");
            let app = origin.behind(&ResponseCacheLayer::new(&cache));
            let first = ask(&app, "/a").await;
            let with_it = ask(&app, "/a").await;
            cache.invalidate(selector.clone());
            let (later, last) = (ask(&app, "/a").await, ask(&app, "/a").await);
            assert_eq!(
                origin.calls(),
                2,
                "{selector:?}: one more, at once, for both"
            );
            doors[1].open();
            settle().await;
            assert_eq!(texts(vec![later, last]).await, ["2", "2"], "{selector:?}");
            doors[0].open();
            assert_eq!(
                texts(vec![first, with_it]).await,
                ["1", "1"],
                "{selector:?}"
            );
            settle().await;
            let answer = get(&app, "/a").await;
            assert_eq!(
                (answer.x_cache(), answer.text()),
                ("HIT", "2"),
                "{selector:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_tag_is_known_with_the_head_and_who_came_late_shares_one_new_fill() {
    let (cache, _clock) = cache();
    let (doors, origin) = behind_doors(2, "t");
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let first = ask(&app, "/a").await;
    let with_it = ask(&app, "/a").await;
    cache.invalidate(Selector::tag("t"));
    let mut later = Vec::new();
    for _ in 0..10 {
        later.push(ask(&app, "/a").await);
    }
    assert_eq!(origin.calls(), 1, "nobody knows yet whether it has the tag");
    doors[0].open();
    settle().await;
    assert_eq!(
        texts(vec![first, with_it]).await,
        ["1", "1"],
        "they came before"
    );
    assert_eq!(origin.calls(), 2, "one for all who came after");
    assert!(later.iter().all(|asked| !asked.is_finished()));
    doors[1].open();
    assert_eq!(texts(later).await, ["2"; 10]);
    settle().await;
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("HIT", "2"));
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_tag_keeps_nobody_from_joining() {
    let (cache, _clock) = cache();
    let (doors, origin) = behind_doors(1, "t");
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let mut asked = vec![ask(&app, "/a").await];
    // As many as come in a second, and each before another request.
    for number in 0..50 {
        cache.invalidate(Selector::tag(format!("other {number}")));
        cache.invalidate(Selector::resource("test", &format!("/b/{number}")));
        cache.invalidate(Selector::path(&format!("/c/{number}/*")));
        asked.push(ask(&app, "/a").await);
    }
    doors[0].open();
    assert_eq!(texts(asked).await, ["1"; 51]);
    settle().await;
    assert!(get(&app, "/a").await.is_hit(), "it is stored and good");
    assert_eq!(origin.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_tags_of_its_predecessor_tell_beforehand_what_a_fill_will_have() {
    let (cache, clock) = cache();
    let (doors, origin) = behind_doors(3, "t");
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    doors[0].open();
    get(&app, "/a").await;
    settle().await;
    clock.advance(std::time::Duration::from_secs(61));
    let first = ask(&app, "/a").await;
    cache.invalidate(Selector::tag("t"));
    let later = ask(&app, "/a").await;
    assert_eq!(
        origin.calls(),
        3,
        "it does not wait for the head of the older"
    );
    doors[2].open();
    assert_eq!(texts(vec![later]).await, ["3"]);
    doors[1].open();
    assert_eq!(texts(vec![first]).await, ["2"]);
    settle().await;
    assert_eq!(get(&app, "/a").await.text(), "3");
}

#[tokio::test(start_paused = true)]
async fn a_body_under_way_is_not_shared_with_those_who_came_after() {
    use crate::support::scripted::by_hand;
    let (cache, _clock) = cache();
    let (sender, body) = by_hand();
    let first_body = std::sync::Mutex::new(Some(body));
    let origin = Origin::new(move |call, _| {
        let body = first_body.lock().unwrap().take();
        let body = body.unwrap_or_else(|| Body::from("new"));
        let length = if call == 1 { "6" } else { "3" };
        let mut response = response(200, &[("content-length", length)], body);
        response.extensions_mut().insert(Tags::new(["t"]));
        std::future::ready(response)
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let first = ask(&app, "/a").await;
    sender.send(Ok("old".into())).unwrap();
    let with_it = ask(&app, "/a").await;
    cache.invalidate(Selector::tag("t"));
    assert_eq!(
        get(&app, "/a").await.text(),
        "new",
        "nothing of the older is waited for"
    );
    sender.send(Ok("old".into())).unwrap();
    drop(sender);
    assert_eq!(texts(vec![first, with_it]).await, ["oldold", "oldold"]);
    settle().await;
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("HIT", "new"));
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_made_from_something_older_looks_no_newer() {
    let (cache, _clock) = cache();
    let read_at = cache.sequence();
    let door = Gate::shut();
    let held = door.clone();
    let origin = Origin::new(move |call, _| {
        let held = held.clone();
        async move {
            let mut response = response(200, &[], format!("{call}"));
            let policy = CachePolicy::new().tag("t");
            let policy = match call {
                // Its handler had something at hand that was read before the invalidation.
                1 => policy.read_at(read_at),
                _ => policy,
            };
            response.extensions_mut().insert(policy);
            if call == 1 {
                held.pass().await;
            }
            response
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    cache.invalidate(Selector::tag("t"));
    let first = ask(&app, "/a").await;
    let with_it = ask(&app, "/a").await;
    door.open();
    assert_eq!(
        texts(vec![first]).await,
        ["1"],
        "it is what its own call brought"
    );
    assert_eq!(texts(vec![with_it]).await, ["2"], "nobody else gets it");
    settle().await;
    let answer = get(&app, "/a").await;
    assert_eq!((answer.x_cache(), answer.text()), ("HIT", "2"));
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_304_that_was_made_from_something_older_makes_nothing_good() {
    let (cache, _clock) = cache();
    let before = cache.sequence();
    let origin = Origin::new(move |call, _| {
        let status = if call == 2 { 304 } else { 200 };
        let mut response = response(status, &[("etag", "\"v\"")], format!("{call}"));
        let policy = CachePolicy::new().tag("t");
        let policy = if call == 2 {
            policy.read_at(before)
        } else {
            policy
        };
        response.extensions_mut().insert(policy);
        std::future::ready(response)
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/a").await;
    cache.invalidate(Selector::tag("t").soft());
    assert_eq!(
        get(&app, "/a").await.text(),
        "1",
        "validated for whoever asked"
    );
    assert_eq!(
        get(&app, "/a").await.text(),
        "3",
        "it was made before the invalidation, too"
    );
    assert!(get(&app, "/a").await.is_hit());
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn a_head_freshens_what_was_invalidated_unless_it_was_made_from_something_older() {
    for is_older in [false, true] {
        let (cache, _clock) = cache();
        let before = cache.sequence();
        let origin = Origin::new(move |call, _| {
            let fields = [("etag", "\"v\""), ("content-length", "1")];
            let mut response = response(200, &fields, format!("{call}"));
            let policy = CachePolicy::new().tag("t");
            let policy = match call == 2 && is_older {
                true => policy.read_at(before),
                false => policy,
            };
            response.extensions_mut().insert(policy);
            std::future::ready(response)
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        get(&app, "/a").await;
        cache.invalidate(Selector::tag("t").soft());
        send(&app, request("HEAD", "/a", &[])).await;
        assert_eq!(origin.calls(), 2);
        let answer = get(&app, "/a").await;
        assert_eq!(answer.is_hit(), !is_older, "older: {is_older}");
        assert_eq!(answer.text(), if is_older { "3" } else { "1" });
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_during_its_call_is_as_old_as_the_call() {
    // The first is a fill, the second asks whether it still holds, the third is a HEAD.
    for nth in [1, 2, 3] {
        let (cache, _clock) = cache();
        let door = Gate::shut();
        let (held, log) = (door.clone(), cache.clone());
        let origin = Origin::new(move |call, request| {
            let (held, log) = (held.clone(), log.clone());
            let is_asked = request.headers().contains_key("if-none-match");
            async move {
                if call == nth.min(2) {
                    held.pass().await;
                }
                let fields = [("etag", "\"v\"")];
                let mut response = response(if is_asked { 304 } else { 200 }, &fields, "v");
                let policy = CachePolicy::new().tag("t").read_at(log.sequence());
                response.extensions_mut().insert(policy);
                response
            }
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        if nth > 1 {
            get(&app, "/a").await;
            cache.invalidate(Selector::tag("t").soft());
        }
        let method = if nth == 3 { "HEAD" } else { "GET" };
        let asking = app.clone();
        let asked = tokio::spawn(async move { send(&asking, request(method, "/a", &[])).await });
        settle().await;
        cache.invalidate(Selector::tag("t").soft());
        door.open();
        asked.await.unwrap();
        let calls = origin.calls();
        assert!(!get(&app, "/a").await.is_hit(), "call {nth}");
        assert_eq!(origin.calls(), calls + 1);
        assert!(get(&app, "/a").await.is_hit(), "call {nth}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_came_late_knows_by_the_older_head_what_tells_variants_apart() {
    let (cache, _clock) = cache();
    let door = Gate::shut();
    let held = door.clone();
    let origin = Origin::new(move |call, _| {
        let held = held.clone();
        async move {
            match call {
                1 => held.pass().await,
                _ => std::future::pending().await,
            }
            let mut response = response(200, &[("vary", "accept-language")], "");
            response.extensions_mut().insert(Tags::new(["t"]));
            response
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let ask_in = async |language: &'static str| {
        let app = app.clone();
        tokio::spawn(async move { get_with(&app, "/a", &[("accept-language", language)]).await });
        settle().await;
    };
    ask_in("en").await;
    cache.invalidate(Selector::tag("t"));
    for language in ["en", "sv", "en", "sv"] {
        ask_in(language).await;
    }
    assert_eq!(origin.calls(), 1, "nobody knows yet whether it has the tag");
    door.open();
    settle().await;
    assert_eq!(origin.calls(), 3, "at once one for each variant");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_goes_on_with_something_old_is_not_called_one_after_the_other() {
    let (cache, _clock) = cache();
    let read_at = cache.sequence();
    let doors: Vec<Gate> = (0..2).map(|_| Gate::shut()).collect();
    let held = doors.clone();
    let origin = Origin::new(move |call, _| {
        let door = held.get(call - 1).cloned();
        async move {
            if let Some(door) = door {
                door.pass().await;
            }
            let mut response = response(200, &[], format!("{call}"));
            let policy = CachePolicy::new().tag("t").read_at(read_at);
            response.extensions_mut().insert(policy);
            response
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    cache.invalidate(Selector::tag("t"));
    let mut asked = Vec::new();
    for _ in 0..100 {
        asked.push(ask(&app, "/a").await);
    }
    assert_eq!(origin.calls(), 1);
    doors[0].open();
    settle().await;
    assert_eq!(origin.calls(), 2, "one tries again, for all");
    doors[1].open();
    settle().await;
    assert_eq!(origin.calls(), 100, "then each for itself, at once");
    let mut calls = texts(asked).await;
    calls.sort();
    calls.dedup();
    assert_eq!(calls.len(), 100, "nobody has what another one got");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_304_that_was_made_from_something_older_does_not_get_it() {
    let (cache, _clock) = cache();
    let before = cache.sequence();
    let door = Gate::shut();
    let held = door.clone();
    let origin = Origin::new(move |call, _| {
        let held = held.clone();
        async move {
            if call == 2 {
                held.pass().await;
            }
            let status = if call == 2 { 304 } else { 200 };
            let mut response = response(status, &[("etag", "\"v\"")], format!("{call}"));
            let policy = CachePolicy::new().tag("t");
            let policy = match call {
                2 => policy.read_at(before),
                _ => policy,
            };
            response.extensions_mut().insert(policy);
            response
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/a").await;
    settle().await;
    cache.invalidate(Selector::tag("t").soft());
    let first = ask(&app, "/a").await;
    let with_it = ask(&app, "/a").await;
    door.open();
    assert_eq!(
        texts(vec![first]).await,
        ["1"],
        "it is what its own call said"
    );
    assert_eq!(texts(vec![with_it]).await, ["3"]);
}
