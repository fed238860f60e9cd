//! S10: groups of responses (RFC 9875), row by row.

use tower_response_cache::{Cache, ResponseCacheLayer};

use crate::support::{App, Origin, cache, get, get_with, request, scripted::response, send};

/// GETs answer with the groups of their query, other methods invalidate those of theirs; in both `~` stands
/// for a quoted string.
fn start() -> (Cache, App) {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, request| {
        let query = request.uri().query().unwrap_or_default();
        let said = query.replace('~', "\"").replace('_', " ");
        let name = match request.headers().contains_key("x-invalidates") {
            true => "cache-group-invalidation",
            false => "cache-groups",
        };
        let status = request.headers().get("x-status");
        let status = status.map_or(200, |status| status.to_str().unwrap().parse().unwrap());
        let fields: &[(&str, &str)] = if said.is_empty() {
            &[]
        } else {
            &[(name, &said)]
        };
        std::future::ready(response(status, fields, format!("{call}")))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    (cache, app)
}

struct Invalidating {
    sentence: &'static str,
    method: &'static str,
    host: &'static str,
    status: &'static str,
    /// What `Cache-Group-Invalidation` says.
    groups: &'static str,
    /// Which of the stored pages are not used any more.
    selected: &'static [usize],
}

const PAGES: [(&str, &str); 6] = [
    ("test", "/a?~scripts~"),
    ("test", "/b?~scripts~,~styles~"),
    ("test", "/c?~styles~;x=1"),
    ("test", "/d?scripts"),
    ("test", "/e"),
    ("other", "/a?~scripts~"),
];

#[tokio::test]
async fn groups_are_invalidated_as_rfc_9875_says() {
    let row = |sentence, groups, selected| Invalidating {
        sentence,
        method: "POST",
        host: "test",
        status: "200",
        groups,
        selected,
    };
    #[rustfmt::skip]
    let rows = [
        row("§3 all members of the group", "~scripts~", &[0, 1]),
        row("§3 no cascade: what they are in besides is not touched", "~styles~", &[1, 2]),
        row("§3 several groups", "~scripts~,~styles~", &[0, 1, 2]),
        row("§2.1 case counts", "~Scripts~", &[]),
        row("§2.1 no part of a name", "~script~", &[]),
        row("§3 parameters mean nothing", "~scripts~;a", &[0, 1]),
        row("§3 a list of strings, or nothing", "~styles~,scripts", &[]),
        row("RFC 9651 §4.2 what is no list is ignored", "~styles~,~scripts", &[]),
        row("§3 nothing said", "", &[]),
        Invalidating { method: "PUT", ..row("§3 any unsafe method", "~scripts~", &[0, 1]) },
        Invalidating { method: "DELETE", ..row("§3 any unsafe method", "~scripts~", &[0, 1]) },
        Invalidating { method: "FROBNICATE", ..row("§3 one that nobody knows", "~scripts~", &[0, 1]) },
        Invalidating { method: "GET", ..row("§3 a safe method invalidates nothing", "~scripts~", &[]) },
        Invalidating { method: "HEAD", ..row("§3 a safe method invalidates nothing", "~scripts~", &[]) },
        Invalidating { method: "OPTIONS", ..row("§3 a safe method invalidates nothing", "~scripts~", &[]) },
        Invalidating { host: "other", ..row("§2.1 of the same origin", "~scripts~", &[5]) },
        Invalidating { host: "TEST:80", ..row("§2.1 the same origin, otherwise written", "~scripts~", &[0, 1]) },
        Invalidating { host: "test:81", ..row("§2.1 another port is another origin", "~scripts~", &[]) },
        Invalidating { status: "303", ..row("RFC 9111 §4.4 a redirection is no error", "~scripts~", &[0, 1]) },
        Invalidating { status: "404", ..row("RFC 9111 §4.4 an error invalidates nothing", "~scripts~", &[]) },
        Invalidating { status: "500", ..row("RFC 9111 §4.4 an error invalidates nothing", "~scripts~", &[]) },
    ];
    for row in rows {
        let (_cache, app) = start();
        for expected in [false, true] {
            for (host, path) in PAGES {
                let answer = get_with(&app, path, &[("host", host)]).await;
                assert_eq!(answer.is_hit(), expected, "{host}{path}");
            }
        }
        // Of what is looked up, and of what passes by the cache.
        for demand in ["max-age=60", "no-store"] {
            let fields = [
                ("host", row.host),
                ("x-status", row.status),
                ("x-invalidates", "1"),
                ("cache-control", demand),
            ];
            let path = format!("/changed?{}", row.groups);
            send(&app, request(row.method, &path, &fields)).await;
        }
        for (at, (host, path)) in PAGES.into_iter().enumerate() {
            let is_hit = get_with(&app, path, &[("host", host)]).await.is_hit();
            let expected = !row.selected.contains(&at);
            assert_eq!(
                is_hit, expected,
                "{} ({}): {host}{path}",
                row.sentence, row.method
            );
        }
    }
}

#[tokio::test]
async fn thirty_two_groups_of_32_characters_are_kept_and_invalidated_one_by_one() {
    let name = |number: usize| format!("{number:032}");
    let all: Vec<String> = (0..32)
        .map(|number| format!("~{}~", name(number)))
        .collect();
    let path = format!("/a?{}", all.join(","));
    let (_cache, app) = start();
    get(&app, &path).await;
    for number in 0..32 {
        assert!(get(&app, &path).await.is_hit(), "{number}");
        let invalidating = request(
            "POST",
            &format!("/b?~{}~", name(number)),
            &[("x-invalidates", "1")],
        );
        send(&app, invalidating).await;
        assert!(!get(&app, &path).await.is_hit(), "{number}");
    }
    // All at once, and one that it is not in.
    let invalidating = request(
        "POST",
        &format!("/b?{}", all.join(",")),
        &[("x-invalidates", "1")],
    );
    send(&app, invalidating).await;
    assert!(!get(&app, &path).await.is_hit());
    let invalidating = request(
        "POST",
        &format!("/b?~{}~", name(32)),
        &[("x-invalidates", "1")],
    );
    send(&app, invalidating).await;
    assert!(get(&app, &path).await.is_hit());
}

#[tokio::test]
async fn a_layer_that_ignores_the_host_has_groups_of_every_origin() {
    let (cache, _clock) = cache();
    let origin = Origin::new(|call, request| {
        let name = match *request.method() {
            http::Method::GET => "cache-groups",
            _ => "cache-group-invalidation",
        };
        std::future::ready(response(200, &[(name, "\"g\"")], format!("{call}")))
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache).ignore_host());
    get(&app, "/a").await;
    assert!(get_with(&app, "/a", &[("host", "other")]).await.is_hit());
    send(&app, request("POST", "/b", &[("host", "third")])).await;
    assert!(!get(&app, "/a").await.is_hit());
}
