//! Bugs seen elsewhere, each with a test: variants, encodings, fragments.

use crate::support::{
    App, Origin, app, cache, get, get_with,
    scripted::{detail, response},
};
use axum::{Router, routing::get as route_get};
use http::HeaderMap;
use tower::util::BoxCloneSyncService;
use tower_http::compression::CompressionLayer;
use tower_response_cache::{Reason, ResponseCacheLayer};

/// All lines of a request field in one text that tells every difference.
fn shown(headers: &HeaderMap, names: &[&str]) -> String {
    let lines = names
        .iter()
        .map(|name| headers.get_all(*name).iter().collect::<Vec<_>>());
    format!("{:?}", lines.collect::<Vec<_>>())
}

/// Varies on `read` and says so in these lines of `Vary`.
fn varying(read: &'static [&'static str], said: &'static [&'static str]) -> Origin {
    Origin::new(move |call, request| {
        let fields: Vec<_> = said.iter().map(|line| ("vary", *line)).collect();
        let body = format!("{call} {}", shown(request.headers(), read));
        std::future::ready(response(200, &fields, body))
    })
}

/// Asks with each of `asked`, all of them different, then with all again: every one is answered
/// with its own.
async fn are_told_apart(origin: &Origin, asked: &[&[(&str, &str)]]) {
    let (cache, _clock) = cache();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let mut bodies = Vec::new();
    for fields in asked {
        let answer = get_with(&app, "/", fields).await;
        assert!(
            !answer.is_hit(),
            "{fields:?} was answered with {:?}",
            answer.text()
        );
        bodies.push(answer.body);
    }
    for (fields, body) in asked.iter().zip(bodies) {
        let answer = get_with(&app, "/", fields).await;
        assert!(answer.is_hit(), "{fields:?}");
        assert_eq!(answer.body, body, "{fields:?}");
    }
    assert_eq!(origin.calls(), asked.len());
}

/// Asks with each of `asked`, which mean the same: the first fills, the rest are hits.
async fn are_the_same(origin: &Origin, asked: &[&[(&str, &str)]]) {
    let (cache, _clock) = cache();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let first = get_with(&app, "/", asked[0]).await;
    for fields in &asked[1..] {
        let answer = get_with(&app, "/", fields).await;
        assert!(answer.is_hit(), "{fields:?}: {}", answer.cache_status());
        assert_eq!(answer.body, first.body);
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_response_is_given_to_those_who_asked_as_its_vary_says() {
    let origin = varying(&["accept"], &["Accept"]);
    are_told_apart(
        &origin,
        &[
            &[("accept", "text/html")],
            &[("accept", "application/json")],
            &[],
        ],
    )
    .await;
}

#[tokio::test]
async fn other_fields_than_those_of_vary_make_no_variant() {
    let origin = varying(&["accept"], &["Accept"]);
    are_the_same(
        &origin,
        &[
            &[("accept", "text/html"), ("user-agent", "a")],
            &[("accept", "text/html"), ("user-agent", "b")],
            &[("accept", "text/html"), ("accept-language", "de")],
        ],
    )
    .await;
}

#[tokio::test]
async fn a_new_variant_says_vary_miss() {
    let (cache, _clock) = cache();
    let origin = varying(&["accept"], &["Accept"]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let first = get_with(&app, "/", &[("accept", "text/html")]).await;
    assert!(first.cache_status().contains("fwd=uri-miss"));
    let second = get_with(&app, "/", &[("accept", "text/plain")]).await;
    assert!(
        second.cache_status().contains("fwd=vary-miss"),
        "{}",
        second.cache_status()
    );
}

#[tokio::test]
async fn vary_star_is_not_stored_however_it_is_written() {
    for said in [
        &["*"][..],
        &["Accept, *"],
        &["*, Accept"],
        &["Accept", "*"],
        &[" * "],
        &[",*,"],
    ] {
        let (cache, _clock) = cache();
        let origin = varying(&["accept"], said);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let first = get(&app, "/").await;
        assert_eq!(detail(&first), "vary-any", "{said:?}");
        assert!(get(&app, "/").await.text().starts_with("2 "), "{said:?}");
        assert!(cache.stats().refusals(Reason::VaryAny) >= 1);
    }
}

#[tokio::test]
async fn vary_on_several_lines_is_one_list() {
    let read = &["accept", "x-theme", "x-size"];
    for said in [
        &["Accept", "X-Theme", "X-Size"][..],
        &["Accept, X-Theme", "X-Size"],
        &["ACCEPT,x-theme ,\tx-SIZE"],
        &[", accept,, x-theme, x-size,"],
    ] {
        let origin = varying(read, said);
        are_told_apart(
            &origin,
            &[
                &[
                    ("accept", "text/html"),
                    ("x-theme", "dark"),
                    ("x-size", "s"),
                ],
                &[
                    ("accept", "text/plain"),
                    ("x-theme", "dark"),
                    ("x-size", "s"),
                ],
                &[
                    ("accept", "text/html"),
                    ("x-theme", "light"),
                    ("x-size", "s"),
                ],
                &[
                    ("accept", "text/html"),
                    ("x-theme", "dark"),
                    ("x-size", "l"),
                ],
                &[("accept", "text/html"), ("x-size", "s")],
            ],
        )
        .await;
    }
}

#[tokio::test]
async fn values_are_not_run_together() {
    let origin = varying(&["x-a", "x-b"], &["X-A, X-B"]);
    are_told_apart(
        &origin,
        &[
            &[("x-a", "A"), ("x-b", "B")],
            &[("x-a", "AB"), ("x-b", "")],
            &[("x-a", ""), ("x-b", "AB")],
            &[("x-a", "AB")],
            &[("x-b", "AB")],
            &[("x-a", "B"), ("x-b", "A")],
        ],
    )
    .await;
}

#[tokio::test]
async fn two_lines_of_a_field_are_not_their_texts_run_together() {
    let origin = varying(&["x-a"], &["X-A"]);
    are_told_apart(
        &origin,
        &[
            &[("x-a", "A"), ("x-a", "B")],
            &[("x-a", "AB")],
            &[("x-a", "B"), ("x-a", "A")],
            &[("x-a", "A")],
        ],
    )
    .await;
}

#[tokio::test]
async fn an_absent_field_differs_from_an_empty_one() {
    let origin = varying(&["x-a"], &["X-A"]);
    are_told_apart(&origin, &[&[], &[("x-a", "")]]).await;
}

#[tokio::test]
async fn the_case_of_a_value_counts_where_nothing_says_otherwise() {
    let origin = varying(&["x-a"], &["X-A"]);
    are_told_apart(&origin, &[&[("x-a", "a")], &[("x-a", "A")]]).await;
}

#[tokio::test]
async fn accept_encoding_is_compared_by_meaning() {
    let origin = varying(&["accept-encoding"], &["Accept-Encoding"]);
    are_the_same(
        &origin,
        &[
            &[("accept-encoding", "gzip, br")],
            &[("accept-encoding", "br,gzip")],
            &[("accept-encoding", "GZIP , BR")],
            &[("accept-encoding", "gzip;q=1.0, br;q=1")],
            &[("accept-encoding", "gzip"), ("accept-encoding", "br")],
        ],
    )
    .await;
    let origin = varying(&["accept-encoding"], &["Accept-Encoding"]);
    are_told_apart(
        &origin,
        &[
            &[("accept-encoding", "gzip, br")],
            &[("accept-encoding", "gzip, br;q=0")],
            &[("accept-encoding", "gzip, br;q=0.5")],
            &[("accept-encoding", "gzip")],
            &[("accept-encoding", "identity")],
        ],
    )
    .await;
}

#[tokio::test]
async fn accept_language_is_compared_by_meaning() {
    let origin = varying(&["accept-language"], &["Accept-Language"]);
    are_the_same(
        &origin,
        &[
            &[("accept-language", "de, en;q=0.5")],
            &[("accept-language", "DE,en;q=0.50")],
            &[("accept-language", "de;q=1, en; q=0.5")],
        ],
    )
    .await;
    let origin = varying(&["accept-language"], &["Accept-Language"]);
    are_told_apart(
        &origin,
        &[
            &[("accept-language", "de, en;q=0.5")],
            &[("accept-language", "en, de;q=0.5")],
            &[("accept-language", "de-AT, en;q=0.5")],
            &[("accept-language", "de")],
        ],
    )
    .await;
}

#[tokio::test]
async fn a_hundred_variants_are_answered_rightly_and_at_most_32_are_kept() {
    let (cache, _clock) = cache();
    let origin = varying(&["x-a"], &["X-A"]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for _ in 0..2 {
        for i in 0..100 {
            let answer = get_with(&app, "/", &[("x-a", &i.to_string())]).await;
            assert!(
                answer.text().ends_with(&format!("[[\"{i}\"]]")),
                "{}",
                answer.text()
            );
            // The list of a key's variants is an entry as well.
            assert!(cache.stats().entries() <= 33);
        }
    }
}

#[tokio::test]
async fn a_vary_that_changes_is_followed() {
    let (cache, clock) = cache();
    let origin = Origin::new(|call, request| {
        let (name, read) = if call == 1 {
            ("X-A", "x-a")
        } else {
            ("X-B", "x-b")
        };
        let body = format!("{call} {}", shown(request.headers(), &[read]));
        let fields = [("vary", name), ("cache-control", "max-age=10")];
        std::future::ready(response(200, &fields, body))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let asked = [("x-a", "1"), ("x-b", "1")];
    assert_eq!(get_with(&app, "/", &asked).await.text(), r#"1 [["1"]]"#);
    clock.advance(std::time::Duration::from_secs(11));
    assert_eq!(get_with(&app, "/", &asked).await.text(), r#"2 [["1"]]"#);
    let other = get_with(&app, "/", &[("x-a", "1"), ("x-b", "2")]).await;
    assert_eq!(other.text(), r#"3 [["2"]]"#);
    let again = get_with(&app, "/", &[("x-a", "9"), ("x-b", "2")]).await;
    assert_eq!((again.is_hit(), again.text()), (true, r#"3 [["2"]]"#));
}

const ENCODINGS: &[&str] = &[
    "gzip",
    "br",
    "",
    "identity",
    "br;q=0.5, gzip",
    "gzip;q=0",
    "*",
];

fn page() -> Router {
    let text = "a text that is long enough to be compressed; ".repeat(100);
    Router::new().route("/", route_get(move || std::future::ready(text.clone())))
}

fn encoding(value: &str) -> Vec<(&str, &str)> {
    let fields = [("accept-encoding", value)];
    fields[usize::from(value.is_empty())..].to_vec()
}

/// Each encoding cold and warm, each asked first once: bytes and fields as without the cache.
async fn encodings_are_as_without(cached: impl Fn() -> App) {
    let bare: App = BoxCloneSyncService::new(page().layer(CompressionLayer::new()));
    for start in 0..ENCODINGS.len() {
        let app = cached();
        let mut hits = 0;
        for asked in ENCODINGS
            .iter()
            .cycle()
            .skip(start)
            .take(3 * ENCODINGS.len())
        {
            let expected = get_with(&bare, "/", &encoding(asked)).await;
            let answer = get_with(&app, "/", &encoding(asked)).await;
            assert_eq!(answer.body, expected.body, "{asked:?}");
            for name in ["content-encoding", "content-type", "vary", "content-length"] {
                assert_eq!(
                    answer.fields(name),
                    expected.fields(name),
                    "{name} of {asked:?}"
                );
            }
            hits += usize::from(answer.is_hit());
        }
        assert!(hits >= 2 * ENCODINGS.len(), "{hits}");
    }
}

#[tokio::test]
async fn with_compression_inside_the_stored_encoding_matches_its_fields() {
    encodings_are_as_without(|| {
        let (cache, _clock) = cache();
        let compressed = page().layer(CompressionLayer::new());
        app(
            &ResponseCacheLayer::new(&cache),
            BoxCloneSyncService::new(compressed),
        )
    })
    .await;
}

#[tokio::test]
async fn with_compression_outside_every_hit_is_compressed_for_its_client() {
    encodings_are_as_without(|| {
        let (cache, _clock) = cache();
        let router = page()
            .layer(ResponseCacheLayer::new(&cache))
            .layer(CompressionLayer::new());
        BoxCloneSyncService::new(router)
    })
    .await;
}

#[tokio::test]
async fn an_encoding_without_vary_is_not_given_to_those_who_did_not_ask_for_it() {
    let origin = Origin::new(|call, request| {
        let is_gzip = request
            .headers()
            .get("accept-encoding")
            .is_some_and(|v| v == "gzip");
        let fields: &[(&str, &str)] = if is_gzip {
            &[("content-encoding", "gzip")]
        } else {
            &[]
        };
        std::future::ready(response(200, fields, format!("{call} {is_gzip}")))
    });
    let (cache, _clock) = cache();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let gzip = [("accept-encoding", "gzip")];
    let first = get_with(&app, "/", &gzip).await;
    let plain = get(&app, "/").await;
    assert_eq!((first.text(), plain.text()), ("1 true", "2 false"));
    assert_eq!(plain.field("content-encoding"), "");
    // Whatever is kept of the two, nobody gets the encoding of the other.
    for _ in 0..2 {
        assert!(!get(&app, "/").await.text().ends_with("true"));
    }
}

#[tokio::test]
async fn an_htmx_fragment_is_not_served_as_the_page() {
    let router = || {
        let page = |headers: HeaderMap| async move {
            if headers.contains_key("hx-request") {
                "<li>a fragment"
            } else {
                "<html>the page"
            }
        };
        Router::new().route("/", route_get(page))
    };
    for fragment_first in [true, false] {
        let (cache, _clock) = cache();
        let inner = BoxCloneSyncService::new(router());
        let app = app(&ResponseCacheLayer::new(&cache), inner);
        let order = if fragment_first {
            [true, false]
        } else {
            [false, true]
        };
        for (round, is_fragment) in [0, 1].iter().flat_map(|r| order.map(|f| (*r, f))) {
            let fields = [("hx-request", "true")];
            let answer = get_with(&app, "/", &fields[usize::from(!is_fragment)..]).await;
            let expected = if is_fragment {
                "<li>a fragment"
            } else {
                "<html>the page"
            };
            assert_eq!(answer.text(), expected);
            assert_eq!(answer.is_hit(), round == 1);
        }
    }
}
