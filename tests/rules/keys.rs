//! What is part of the key: query settings, hosts, and fields that a handler may read without
//! saying so.

use std::time::Duration;

use crate::support::{Origin, cache, get, get_with, scripted::response};
use tower_response_cache::{Query, ResponseCacheLayer};

#[tokio::test]
async fn the_query_is_reduced_alike_for_the_key_and_for_the_handler() {
    #[rustfmt::skip]
    let rows: Vec<(&str, Query, &[&str], &str)> = vec![
        ("ignore: a name", Query::ignore(["fbclid"]), &["/p?fbclid=1", "/p?fbclid=2", "/p?fbclid", "/p"], "/p"),
        ("ignore: a pattern", Query::ignore(["utm_*"]), &["/p?q=1&utm_source=a", "/p?utm_medium=b&q=1&utm_x=c", "/p?q=1"], "/p?q=1"),
        ("ignore: a pattern within", Query::ignore(["a*z"]), &["/p?abz=1&q=1", "/p?q=1&az=2"], "/p?q=1"),
        ("ignore: everything", Query::ignore(["*"]), &["/p?a=1&b", "/p?", "/p"], "/p"),
        ("only", Query::only(["q", "page"]), &["/p?q=1&page=2&x=3", "/p?x=4&q=1&page=2"], "/p?q=1&page=2"),
        ("only: nothing left", Query::only(["q"]), &["/p?x=1", "/p?y=2", "/p"], "/p"),
        ("except", Query::ignore(["utm_*"]).except(["utm_language"]), &["/p?utm_language=de&utm_x=1", "/p?utm_y=2&utm_language=de"], "/p?utm_language=de"),
        ("sort", Query::ignore([""; 0]).sort(), &["/p?b=2&a=1", "/p?a=1&b=2"], "/p?a=1&b=2"),
        ("sort: equal names keep their order", Query::default().sort(), &["/p?b=1&a=2&a=1", "/p?a=2&b=1&a=1", "/p?a=2&a=1&b=1"], "/p?a=2&a=1&b=1"),
        ("only and sort", Query::only(["a", "b"]).sort(), &["/p?b=2&x=1&a=1", "/p?a=1&y=2&b=2"], "/p?a=1&b=2"),
    ];
    for (sentence, query, paths, seen) in rows {
        let (cache, _clock) = cache();
        let origin = Origin::with_fields(&[]);
        let app = origin.behind(&ResponseCacheLayer::new(&cache).query(query));
        for (index, path) in paths.iter().enumerate() {
            let answer = get(&app, path).await;
            assert_eq!(answer.text(), format!("1 GET {seen}"), "{sentence}: {path}");
            assert_eq!(answer.is_hit(), index > 0, "{sentence}: {path}");
        }
        assert_eq!(origin.calls(), 1);
    }
}

#[tokio::test]
async fn what_the_settings_do_not_name_still_counts() {
    let rows: Vec<(Query, &[&str])> = vec![
        (
            Query::ignore(["utm_*"]),
            &[
                "/p",
                "/p?q=1",
                "/p?q=2",
                "/p?xutm_=1",
                "/p?UTM_a=1",
                "/p?q=utm_a",
            ],
        ),
        (
            Query::only(["q"]),
            &["/p", "/p?q=1", "/p?q=2", "/p?q", "/p?q="],
        ),
        (
            Query::default().sort(),
            &["/p?a=1&a=2", "/p?a=2&a=1", "/p?a=1", "/p?b=1"],
        ),
        (Query::default(), &["/p?a=1&b=2", "/p?b=2&a=1"]),
        // Names stand in the URI as they are, without decoding.
        (Query::ignore(["a"]), &["/p?%61=1", "/p?%61=2"]),
    ];
    for (query, paths) in rows {
        let (cache, _clock) = cache();
        let origin = Origin::with_fields(&[]);
        let app = origin.behind(&ResponseCacheLayer::new(&cache).query(query));
        for round in 0..2 {
            for (index, path) in paths.iter().enumerate() {
                let answer = get(&app, path).await;
                assert_eq!(answer.text(), format!("{} GET {path}", index + 1));
                assert_eq!(answer.is_hit(), round == 1, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_bypassed_request_is_reduced_too_where_its_answer_may_be_stored() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[("cache-control", "public, max-age=600")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache).query(Query::ignore(["utm_*"])));
    let first = get_with(&app, "/p?utm_a=1&q=1", &[("authorization", "a")]).await;
    assert_eq!(first.text(), "1 GET /p?q=1");
    let second = get(&app, "/p?q=1&utm_b=2").await;
    assert_eq!((second.is_hit(), second.text()), (true, "1 GET /p?q=1"));
}

#[tokio::test]
async fn ignore_host_is_one_entry_for_all_hosts() {
    let (cache, _clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache).ignore_host());
    get_with(&app, "/", &[("host", "a.example")]).await;
    for host in ["b.example", "a.example:81", ""] {
        assert!(
            get_with(&app, "/", &[("host", host)]).await.is_hit(),
            "{host}"
        );
    }
    assert!(!get(&app, "/b").await.is_hit());
    // A forwarded host is another matter: a handler may read it.
    let forwarded = [("x-forwarded-host", "c.example")];
    assert!(!get_with(&app, "/", &forwarded).await.is_hit());
}

/// The list of the rules, with two values each.
const UNSEEN: &[(&str, &str, &str)] = &[
    ("X-Forwarded-Host", "a.example", "b.example"),
    ("X-Forwarded-Proto", "http", "https"),
    ("X-Forwarded-Prefix", "/a", "/b"),
    ("X-Forwarded-Scheme", "http", "https"),
    ("Forwarded", "host=a.example", "host=b.example"),
    (
        "Forwarded",
        "for=192.0.2.1;proto=http",
        "for=192.0.2.1;proto=https",
    ),
    ("X-Original-URL", "/a", "/b"),
    ("X-Rewrite-URL", "/a", "/b"),
    ("X-HTTP-Method-Override", "PUT", "DELETE"),
    ("X-HTTP-Method", "PUT", "DELETE"),
    ("X-Method-Override", "PUT", "DELETE"),
    ("HX-Request", "true", "false"),
    ("HX-Target", "list", "menu"),
    ("HX-Boosted", "true", "false"),
    ("Turbo-Frame", "a", "b"),
    ("X-Inertia", "true", "false"),
    ("X-Inertia-Version", "1", "2"),
    ("X-Inertia-Partial-Data", "a", "b"),
    ("X-PJAX", "true", "false"),
    ("X-Requested-With", "XMLHttpRequest", "app"),
];

#[tokio::test]
async fn what_a_handler_may_read_without_saying_so_is_part_of_the_key() {
    for (name, a, b) in UNSEEN {
        let (cache, _clock) = cache();
        let origin = Origin::new(move |call, request| {
            let value = request.headers().get(*name).cloned();
            std::future::ready(response(200, &[], format!("{call} {value:?}")))
        });
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let asked: [&[(&str, &str)]; 3] = [&[(name, a)], &[(name, b)], &[]];
        for round in 0..2 {
            for (index, fields) in asked.iter().enumerate() {
                let answer = get_with(&app, "/", fields).await;
                assert_eq!(answer.is_hit(), round == 1, "{fields:?}");
                let call: String = answer.text().chars().take(1).collect();
                assert_eq!(call, (index + 1).to_string(), "{fields:?}");
            }
        }
    }
}

#[tokio::test]
async fn of_origin_only_its_presence_counts_and_of_forwarded_only_host_and_proto() {
    #[rustfmt::skip]
    let same: [[&[(&str, &str)]; 2]; 2] = [
        [&[("origin", "https://a.example")], &[("origin", "https://b.example")]],
        [&[("forwarded", "for=192.0.2.1;host=a.example")], &[("forwarded", "for=192.0.2.2;by=b; host=a.example")]],
    ];
    for [first, second] in same {
        let (cache, _clock) = cache();
        let origin = Origin::with_fields(&[]);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        get_with(&app, "/", first).await;
        assert!(get_with(&app, "/", second).await.is_hit(), "{second:?}");
        assert!(
            !get(&app, "/").await.is_hit(),
            "without it is another matter"
        );
    }
}

#[tokio::test]
async fn unsaid_vary_is_kept_apart() {
    #[rustfmt::skip]
    let rows: [(_, &[(&str, &str)], _, [_; 2]); 4] = [
        ("CORS for one origin", &[("access-control-allow-origin", "https://a.example")], "origin", ["https://a.example", "https://b.example"]),
        ("an encoding", &[("content-encoding", "gzip")], "accept-encoding", ["gzip", "br"]),
        ("a language, silent", &[("content-language", "de")], "accept-language", ["de", "en"]),
        ("an encoding, explicit", &[("content-encoding", "gzip"), ("cache-control", "max-age=10")], "accept-encoding", ["gzip", "br"]),
    ];
    for (sentence, fields, name, values) in rows {
        let (cache, _clock) = cache();
        let origin = Origin::with_fields(fields);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let asked: [&[(&str, &str)]; 3] = [&[(name, values[0])], &[(name, values[1])], &[]];
        for (index, fields) in asked.iter().enumerate() {
            let answer = get_with(&app, "/", fields).await;
            assert_eq!(
                answer.text(),
                format!("{} GET /", index + 1),
                "{sentence}: {fields:?}"
            );
        }
        for fields in asked {
            assert!(
                get_with(&app, "/", fields).await.is_hit(),
                "{sentence}: {fields:?}"
            );
        }
    }
    for fields in [
        &[("access-control-allow-origin", "*")][..],
        &[("content-language", "de"), ("cache-control", "max-age=10")],
    ] {
        let (cache, _clock) = cache();
        let origin = Origin::with_fields(fields);
        let app = origin.behind(&ResponseCacheLayer::new(&cache));
        let first = [("origin", "https://a.example"), ("accept-language", "de")];
        get_with(&app, "/", &first).await;
        let second = [("origin", "https://b.example"), ("accept-language", "en")];
        assert!(get_with(&app, "/", &second).await.is_hit(), "{fields:?}");
    }
}

#[tokio::test]
async fn every_variant_has_a_lifetime_of_its_own() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[("vary", "x-a"), ("cache-control", "max-age=10")]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    get_with(&app, "/", &[("x-a", "1")]).await;
    clock.advance(Duration::from_secs(6));
    get_with(&app, "/", &[("x-a", "2")]).await;
    clock.advance(Duration::from_secs(6));
    let second = get_with(&app, "/", &[("x-a", "2")]).await;
    assert_eq!((second.is_hit(), second.field("age")), (true, "6"));
    assert!(!get_with(&app, "/", &[("x-a", "1")]).await.is_hit());
}

#[tokio::test]
async fn whatever_forwarded_says_of_host_and_proto_is_told_apart() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, request| {
        let value = request.headers().get("forwarded").cloned();
        std::future::ready(response(200, &[], format!("{call} {value:?}")))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let asked = [
        "host=a.example",
        "host=b.example",
        "host=a.example;proto=https",
        // Of two proxies; who reads the first element sees no protocol.
        "host=a.example, proto=https",
        "for=192.0.2.1, host=a.example",
        // A separator in quotes separates nothing.
        "host=\"a.example;x\"",
        "host=\"a.example;y\"",
        "host=\"a.example,x\"",
        "HOST=c.example",
    ];
    for value in asked {
        let answer = get_with(&app, "/", &[("forwarded", value)]).await;
        assert!(
            !answer.is_hit(),
            "{value} was answered with {:?}",
            answer.text()
        );
    }
}
