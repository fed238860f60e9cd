//! Absurd settings: an error in one sentence, or an answer as without the layer.

use std::time::Duration;

use crate::support::{self, Origin, cache, get, get_with, scripted::response};
use http::{Request, Response};
use tower_response_cache::{Cache, CachePolicy, Overflow, Query, ResponseCacheLayer, Selector};

#[tokio::test]
async fn absurd_settings_of_a_layer_change_no_answer() {
    let (cache, clock) = cache();
    let plain = ResponseCacheLayer::new(&cache);
    let long = "p".repeat(100_000);
    let stars = "*a".repeat(2_000);
    let durations = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::MAX,
        Duration::from_secs(u64::MAX),
    ];
    let mut layers = vec![
        plain.clone().max_body_size(0),
        plain.clone().max_body_size(u64::MAX),
        plain.clone().query(Query::ignore([""])),
        plain.clone().query(
            Query::only([stars.clone(), long.clone()])
                .except([""])
                .sort(),
        ),
        plain.clone().ignore_cookies(["", "*"]),
        plain
            .clone()
            .ignore_cookies([&stars, &long])
            .vary_on_cookie(""),
        plain.clone().vary_on_cookie(long.clone()),
        plain.clone().partition_by("", |_| Some(String::new())),
        plain
            .clone()
            .partition_by(long.clone(), |_| Some("a".into())),
        plain
            .clone()
            .partition_by("long", move |_| Some(long.clone())),
        plain
            .clone()
            .strip_fields((0..1000).map(|i| format!("x-{i}").parse().unwrap())),
        (0..1000).fold(plain.clone(), |layer, _| layer.store_when(|_| true)),
    ];
    for duration in durations {
        layers.push(plain.clone().ttl(duration));
        layers.push(plain.clone().force_ttl(duration));
        layers.push(plain.clone().negative_ttl(duration));
        layers.push(plain.clone().fill_timeout(duration));
        layers.push(plain.clone().wait_timeout(duration));
        layers.push(plain.clone().soft_timeout(duration));
        let retry_after = duration;
        let overflow = Overflow::Unavailable { retry_after };
        layers.push(plain.clone().max_waiting(0).overflow(overflow));
    }
    for eagerness in [f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, -0.0] {
        layers.push(plain.clone().refresh_ahead(eagerness));
    }
    let framed = || support::scripted::in_frames(vec![Ok("pa".into()), Ok("ge".into())]);
    for layer in layers {
        for status in [200, 404] {
            for is_framed in [false, true] {
                cache.invalidate(Selector::all());
                let origin = Origin::new(move |_, _| {
                    let body = if is_framed { framed() } else { "page".into() };
                    std::future::ready(response(status, &[], body))
                });
                let app = origin.behind(&layer);
                for fields in [&[][..], &[("cookie", "a=b; =c; ;; d")], &[]] {
                    let answer = get_with(&app, "/?a&b=1", fields).await;
                    assert_eq!(
                        (answer.status.as_u16(), answer.text()),
                        (status, "page"),
                        "{layer:?}"
                    );
                    clock.advance(Duration::from_secs(1));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_lifetime_without_end_ends_with_the_process() {
    let (cache, clock) = cache();
    let policy = CachePolicy::ttl(Duration::MAX);
    let silent = Origin::with_fields(&[]);
    let numbered = Origin::with_fields(&[("cache-control", "max-age=18446744073709551616")]);
    let by_policy = Origin::new(move |_, _| {
        let mut answer = response(200, &[], "page");
        answer.extensions_mut().insert(policy.clone());
        std::future::ready(answer)
    });
    let plain = ResponseCacheLayer::new(&cache);
    let layers = [
        (silent.behind(&plain.clone().ttl(Duration::MAX)), "/a"),
        (silent.behind(&plain.clone().force_ttl(Duration::MAX)), "/b"),
        (numbered.behind(&plain), "/c"),
        (by_policy.behind(&plain), "/d"),
    ];
    for (app, path) in &layers {
        get(app, path).await;
    }
    clock.advance(Duration::from_secs(10 * 365 * 86_400));
    for (app, path) in &layers {
        let answer = get(app, path).await;
        assert!(answer.is_hit(), "{path}");
        assert_eq!(answer.field("age"), "315360000");
    }
}

#[tokio::test]
async fn a_lifetime_of_zero_stores_nothing() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let plain = ResponseCacheLayer::new(&cache);
    for layer in [
        plain.clone().ttl(Duration::ZERO),
        plain.force_ttl(Duration::ZERO),
    ] {
        let app = origin.behind(&layer);
        get(&app, "/").await;
        assert!(!get(&app, "/").await.is_hit());
    }
    assert_eq!(cache.stats().entries(), 0);
}

/// An error is one sentence that names the value and says what to do.
fn is_one_sentence(error: &impl std::error::Error, names: &str) {
    let text = error.to_string();
    assert!(text.contains(names), "{text:?} does not name {names:?}");
    let is_one = !text
        .split(". ")
        .skip(1)
        .any(|rest| rest.starts_with(char::is_uppercase));
    assert!(!text.contains('\n') && is_one, "{text:?}");
    assert!(text.len() < 300, "{text:?}");
    assert!(
        ["give ", "use "].iter().any(|advice| text.contains(advice)),
        "{text:?}"
    );
}

#[test]
fn a_memory_that_makes_no_sense_is_an_error_in_one_sentence() {
    for bytes in [0, 1, 10, 1_000, u64::MAX, u64::MAX / 2] {
        let error = Cache::builder().memory(bytes).build().unwrap_err();
        is_one_sentence(&error, &bytes.to_string());
    }
}

#[tokio::test]
async fn the_smallest_memory_that_is_taken_keeps_something() {
    let least = (0..40)
        .map(|i| 1u64 << i)
        .find_map(|bytes| Cache::builder().memory(bytes).build().ok());
    let cache = least.unwrap();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    assert!(get(&app, "/").await.is_hit());
    for i in 0..2_000 {
        let path = format!("/{i}/{}", "x".repeat(i));
        assert!(get(&app, &path).await.text().ends_with(&path));
        assert!(cache.stats().bytes() <= cache.stats().capacity());
    }
}

#[tokio::test]
async fn a_body_that_fits_no_memory_arrives_intact() {
    let cache = support::builder().memory(64 << 10).build().unwrap();
    let body: bytes::Bytes = (0..1_000_000).map(|i| (i % 251) as u8).collect();
    let whole = body.clone();
    let origin = Origin::new(move |_, request| {
        let framed = request.uri().path() == "/framed";
        let chunks = (0..10).map(|i| Ok(whole.slice(i * 100_000..(i + 1) * 100_000)));
        let body = if framed {
            support::scripted::in_frames(chunks.collect())
        } else {
            whole.clone().into()
        };
        std::future::ready(Response::new(body))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache).max_body_size(u64::MAX));
    for path in ["/", "/framed", "/", "/framed"] {
        let answer = get(&app, path).await;
        assert!(answer.body == body, "{path}");
        assert!(!answer.is_hit());
    }
}

#[test]
fn a_version_that_cannot_be_part_of_a_key_is_an_error_in_one_sentence() {
    for version in ["", " ", "a b", "1/2", "\u{fc}", "a\nb", "1:2", "\0"] {
        let error = Cache::builder().version(version).build().unwrap_err();
        is_one_sentence(&error, &format!("{version:?}"));
    }
    assert!(Cache::builder().version("v".repeat(65)).build().is_err());
    for version in [
        "1",
        "0.1.0",
        "1.2.3-rc.1+build_5",
        env!("CARGO_PKG_VERSION"),
        "V".repeat(64).as_str(),
    ] {
        assert!(
            Cache::builder().version(version).build().is_ok(),
            "{version:?}"
        );
    }
}

#[test]
fn an_absurd_version_makes_no_absurd_message() {
    let error = Cache::builder()
        .version("v ".repeat(1_000_000))
        .build()
        .unwrap_err();
    assert!(
        error.to_string().len() < 1_000,
        "{} bytes",
        error.to_string().len()
    );
}

#[tokio::test]
async fn an_absurd_selector_selects_nothing() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get(&app, "/").await;
    let long = "x".repeat(1_000_000);
    for (authority, path) in [
        ("", ""),
        ("test", ""),
        ("test", "?"),
        ("test", "*"),
        (&long, "/"),
        ("test", &long),
        (":::", "/"),
        ("\u{fc}", "\u{fc}?\u{fc}"),
    ] {
        cache.invalidate(Selector::resource(authority, path));
        assert!(get(&app, "/").await.is_hit(), "{:?}", path.get(..1));
    }
    let asterisk = Request::options("*").body(()).unwrap();
    cache.invalidate(Selector::request(&asterisk));
    assert!(get(&app, "/").await.is_hit());
}
