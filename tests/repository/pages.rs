//! Responses that were made from values: no tag is written by hand.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use axum::body::Body;
use http::Response;
use tokio::sync::Notify;
use tower_response_cache::{Cache, CachePolicy, ResponseCacheLayer, Scope, Selector, Source, Tags};

use crate::{
    support::{App, Origin, get, in_memory, loads::Loads, settle},
    table::Table,
};

const MINUTE: Duration = Duration::from_secs(60);

type Making = Pin<Box<dyn Future<Output = String> + Send>>;

/// A service whose pages are what `make` makes of their path.
fn pages(cache: &Cache, make: impl Fn(Cache, String) -> Making + Send + Sync + 'static) -> App {
    let (shared, make) = (cache.clone(), Arc::new(make));
    let origin = Origin::new(move |_, request| {
        let making = make(shared.clone(), request.uri().path().to_owned());
        async move { Response::new(Body::from(making.await)) }
    });
    origin.behind(&ResponseCacheLayer::new(cache))
}

async fn value(cache: &Cache, key: &str) -> Option<u64> {
    cache.get::<u64>(key).await.unwrap().map(|value| *value)
}

/// Asks twice; whether the second answer is a hit.
async fn is_kept(app: &App, path: &str) -> bool {
    let first = get(app, path).await;
    let second = get(app, path).await;
    assert_eq!(second.text().is_empty(), first.text().is_empty());
    second.is_hit()
}

#[tokio::test]
async fn a_page_is_made_anew_when_what_it_was_made_from_has_changed_and_others_stay() {
    let (cache, table) = (in_memory(), Table::default());
    table.rows().extend((1..=3).map(|id| (id, id)));
    let users = cache.repository("user", table.clone()).tags(["people"]);
    let load = users.clone();
    let app = pages(&cache, move |cache, path| {
        let users = load.clone();
        Box::pin(async move {
            match &*path {
                "/1" => format!("{:?}", users.get(1).await.unwrap()),
                "/2" => format!("{:?}", users.get(2).await.unwrap()),
                "/list" => format!("{:?}", users.get_many([1, 3]).await.unwrap()),
                "/rate" => format!("{:?}", value(&cache, "rate:eur").await),
                "/loaded" => {
                    let load = || async { 7_u64 };
                    format!(
                        "{}",
                        cache.get_or_set("rate:usd", MINUTE, load).await.unwrap()
                    )
                }
                "/exists" => format!("{}", cache.exists("rate:eur").await.unwrap()),
                _ => "nothing".to_owned(),
            }
        })
    });
    let paths = ["/1", "/2", "/list", "/rate", "/loaded", "/exists", "/none"];
    let changed = async |what: &str, expected: &[&str]| {
        let mut missed = Vec::new();
        for path in paths {
            if !get(&app, path).await.is_hit() {
                missed.push(path);
            }
        }
        assert_eq!(missed, expected, "{what}");
    };
    changed("cold", &paths).await;
    changed("warm", &[]).await;
    users.save(1, 10).await.unwrap();
    changed("a row was saved", &["/1", "/list"]).await;
    assert_eq!(get(&app, "/list").await.text(), "[Some(10), Some(3)]");
    users.delete(3).await.unwrap();
    changed("a row was deleted", &["/list"]).await;
    cache.set("rate:eur", 5_u64).await.unwrap();
    changed("what was not there was set", &["/rate", "/exists"]).await;
    cache.delete("rate:eur").await.unwrap();
    changed("a value was deleted", &["/rate", "/exists"]).await;
    cache.delete_pattern("rate:*").await;
    changed("a pattern", &["/rate", "/loaded", "/exists"]).await;
    cache.invalidate(Selector::tag("people"));
    changed("a tag of the values", &["/1", "/2", "/list"]).await;
    cache.set("other", 1_u64).await.unwrap();
    cache.invalidate(Selector::tag("user:1"));
    changed("something else", &[]).await;
    users.write_through().save(2, 20).await.unwrap();
    changed("a row was written through", &["/2"]).await;
}

#[tokio::test]
async fn what_is_read_in_parallel_and_in_tasks_that_carry_the_scope_counts() {
    let cache = in_memory();
    for key in ["a", "b", "c", "d"] {
        cache.set(key, 1_u64).await.unwrap();
    }
    let app = pages(&cache, |cache, _| {
        Box::pin(async move {
            let carried = {
                let cache = cache.clone();
                tokio::spawn(Scope::current().run(async move { value(&cache, "c").await }))
            };
            let lost = {
                let cache = cache.clone();
                tokio::spawn(async move { value(&cache, "d").await })
            };
            let joined = tokio::join!(value(&cache, "a"), value(&cache, "b"));
            format!("{joined:?} {:?} {:?}", carried.await, lost.await)
        })
    });
    for (key, is_noted) in [("a", true), ("b", true), ("c", true), ("d", false)] {
        assert!(is_kept(&app, "/").await);
        cache.set(key, 2_u64).await.unwrap();
        assert_eq!(!get(&app, "/").await.is_hit(), is_noted, "{key}");
    }
    // Outside of a handler there is nothing to be noted.
    Scope::current().run(value(&cache, "a")).await;
}

#[tokio::test]
async fn a_page_made_from_a_load_that_was_outrun_is_not_used_again() {
    let cache = in_memory();
    let (loading, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = (loading.clone(), go.clone());
    let app = pages(&cache, move |cache, path| {
        let (loading, go) = held.clone();
        Box::pin(async move {
            let load = || async {
                loading.notify_one();
                go.notified().await;
                1_u64
            };
            // Once by a load of its own, once by that of somebody else.
            format!(
                "{path} {}",
                cache.get_or_set("a", MINUTE, load).await.unwrap()
            )
        })
    });
    let ask = |path: &'static str| {
        let app = app.clone();
        tokio::spawn(async move { get(&app, path).await })
    };
    let first = ask("/one");
    loading.notified().await;
    cache.delete("a").await.unwrap();
    let outrun = cache.get::<u64>("a");
    assert_eq!(outrun.await.unwrap(), None);
    go.notify_one();
    assert_eq!(first.await.unwrap().text(), "/one 1");
    go.notify_one();
    assert!(!get(&app, "/one").await.is_hit());
    assert!(get(&app, "/one").await.is_hit());
}

#[tokio::test]
async fn a_page_made_from_what_is_stale_softly_looks_no_newer_than_that() {
    let (cache, loads) = (in_memory(), Loads::default());
    cache.set("b", 0_usize).await.unwrap();
    let held = loads.clone();
    let app = pages(&cache, move |cache, path| {
        let loads = held.clone();
        Box::pin(async move {
            let mut shown = String::new();
            for key in path.chars().skip(1) {
                let loads = loads.clone();
                let entry = cache.entry(key.to_string());
                let entry = entry.tags(["t"]).stale_while_revalidate(MINUTE);
                let load = move || async move { loads.held().await };
                shown += &entry.get_or_set(load).await.unwrap().to_string();
            }
            shown
        })
    });
    loads.open();
    assert_eq!(get(&app, "/a").await.text(), "1");
    cache.invalidate(Selector::tag("t").soft());
    // Pages that were not there before the invalidation, made from what it has made stale.
    for (path, shown) in [("/ab", "10"), ("/ba", "01"), ("/ab", "10"), ("/ba", "01")] {
        let answer = get(&app, path).await;
        assert_eq!((answer.text(), answer.is_hit()), (shown, false), "{path}");
    }
    settle().await;
    assert_eq!(loads.calls(), 2, "one refresh");
    loads.open();
    settle().await;
    for (path, shown) in [("/ab", "20"), ("/ba", "02")] {
        assert_eq!(get(&app, path).await.text(), shown);
        let again = get(&app, path).await;
        assert_eq!((again.text(), again.is_hit()), (shown, true), "{path}");
    }
}

#[tokio::test]
async fn a_page_made_from_a_value_that_was_made_of_something_stale_looks_no_newer_than_that() {
    let (cache, loads) = (in_memory(), Loads::default());
    let held = loads.clone();
    let app = pages(&cache, move |cache, _| {
        let loads = held.clone();
        Box::pin(async move {
            let load = async || {
                let entry = cache.entry("a").tags(["t"]).stale_while_revalidate(MINUTE);
                let loads = loads.clone();
                *entry
                    .get_or_set(move || async move { loads.held().await })
                    .await
                    .unwrap()
            };
            cache
                .get_or_set("made", MINUTE, load)
                .await
                .unwrap()
                .to_string()
        })
    });
    loads.open();
    assert_eq!(get(&app, "/").await.text(), "1");
    cache.invalidate(Selector::tag("t").soft());
    cache.delete("made").await.unwrap();
    // Loaded for this page, and not kept: it is of what was stale before it began.
    assert_eq!(get(&app, "/").await.text(), "1");
    settle().await;
    loads.open();
    settle().await;
    assert_eq!(loads.calls(), 2);
    assert_eq!(get(&app, "/").await.text(), "2");
    assert!(get(&app, "/").await.is_hit());
}

/// Rows that are made of the value `rate`.
struct Rated(Cache);

impl Source for Rated {
    type Key = u64;
    type Value = u64;
    type Error = u64;

    async fn load(&self, key: &u64) -> Result<Option<u64>, u64> {
        let rate = value(&self.0, "rate").await;
        match key {
            0 => Ok(None),
            // In place of a value.
            9 => Err(rate.unwrap_or_default()),
            _ => Ok(Some(key * rate.unwrap_or_default())),
        }
    }
    async fn save(&self, _: &u64, _: &u64) -> Result<(), u64> {
        Ok(())
    }
    async fn delete(&self, _: &u64) -> Result<(), u64> {
        Ok(())
    }
}

#[tokio::test]
async fn a_page_depends_on_what_its_values_were_made_of() {
    let cache = in_memory();
    let rows = cache.repository("row", Rated(cache.clone()));
    let double = {
        let rows = rows.clone();
        cache.wrap("double", MINUTE, move |key: u64| {
            let rows = rows.clone();
            async move { rows.get(key).await.unwrap().map(|row| 2 * row) }
        })
    };
    let app = pages(&cache, move |cache, path| {
        let (rows, double) = (rows.clone(), double.clone());
        Box::pin(async move {
            match &*path {
                "/row" => format!("{:?}", rows.get(1).await),
                "/none" => format!("{:?}", rows.get(0).await),
                "/error" => format!("{:?}", rows.get(9).await),
                "/many" => format!("{:?}", rows.get_many([0, 1, 2]).await),
                "/errors" => format!("{:?}", rows.get_many([2, 9]).await),
                "/double" => format!("{:?}", double.get(1).await),
                "/double/none" => format!("{:?}", double.get(0).await),
                "/exists" => format!("{:?}", cache.exists("double:1").await),
                _ => format!("{:?}", cache.get::<Option<u64>>("double:1").await),
            }
        })
    });
    // Some of them load what the others find.
    let paths = [
        "/double",
        "/double/none",
        "/row",
        "/none",
        "/error",
        "/many",
        "/errors",
        "/exists",
        "/get",
    ];
    for round in 1..4_u64 {
        let mut shown = Vec::new();
        for path in paths {
            let answer = get(&app, path).await;
            assert!(!answer.is_hit(), "{path} in round {round}");
            shown.push(answer.text().to_owned());
        }
        for (path, shown) in paths.iter().zip(shown) {
            let answer = get(&app, path).await;
            assert_eq!((answer.text(), answer.is_hit()), (&*shown, true), "{path}");
        }
        cache.set("rate", round).await.unwrap();
    }
}

#[tokio::test]
async fn a_page_that_was_invalidated_is_kept_again_although_its_values_are_older_than_that() {
    let cache = in_memory();
    cache.set("config", 1_u64).await.unwrap();
    let app = pages(&cache, |cache, _| {
        Box::pin(async move { format!("{:?}", value(&cache, "config").await) })
    });
    assert!(is_kept(&app, "/").await);
    cache.invalidate(Selector::path("/"));
    assert!(is_kept(&app, "/").await);
    cache.invalidate(Selector::all());
    assert!(is_kept(&app, "/").await);
}

#[tokio::test]
async fn of_many_values_those_of_one_name_count_as_one_and_what_is_too_much_is_not_stored() {
    let cache = in_memory();
    let app = pages(&cache, |cache, path| {
        Box::pin(async move {
            for number in 0..40 {
                let key = match &*path {
                    "/list" => format!("user:{number}"),
                    _ => format!("name{number}"),
                };
                value(&cache, &key).await;
            }
            path
        })
    });
    assert!(is_kept(&app, "/list").await);
    cache.set("user:39", 1_u64).await.unwrap();
    assert!(!get(&app, "/list").await.is_hit());
    assert!(is_kept(&app, "/list").await);
    // Rather once too often: it was not shown.
    cache.set("user:77", 1_u64).await.unwrap();
    assert!(!get(&app, "/list").await.is_hit());
    cache.delete_pattern("user:3*").await;
    assert!(!get(&app, "/list").await.is_hit());
    cache.set("users:1", 1_u64).await.unwrap();
    cache.delete_pattern("users:*").await;
    assert!(get(&app, "/list").await.is_hit());

    let answer = get(&app, "/names").await;
    assert!(
        answer.cache_status().contains("too-many-tags"),
        "{}",
        answer.cache_status()
    );
    assert!(!get(&app, "/names").await.is_hit());
}

#[tokio::test]
async fn the_tags_of_a_handler_are_not_fewer_for_the_values_that_it_reads() {
    let cache = in_memory();
    let shared = cache.clone();
    let origin = Origin::new(move |_, _| {
        let cache = shared.clone();
        async move {
            value(&cache, "a").await;
            let mut response = Response::new(Body::from("page"));
            let tags = Tags::new((0..31).map(|number| format!("tag{number}")));
            response.extensions_mut().insert(tags);
            let policy = CachePolicy::new().tag("last");
            response.extensions_mut().insert(policy);
            response
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    for selector in [
        Selector::tag("tag30"),
        Selector::tag("last"),
        Selector::values("a"),
    ] {
        assert!(is_kept(&app, "/").await);
        cache.invalidate(selector.clone());
        assert!(!get(&app, "/").await.is_hit(), "{selector:?}");
    }
}

#[tokio::test]
async fn a_304_leaves_a_page_what_its_body_was_made_from() {
    let cache = in_memory();
    let shared = cache.clone();
    let origin = Origin::new(move |_, request| {
        let cache = shared.clone();
        async move {
            let mut response = Response::new(Body::from("page"));
            if request.headers().contains_key("if-none-match") {
                *response.status_mut() = http::StatusCode::NOT_MODIFIED;
                *response.body_mut() = Body::empty();
                response.extensions_mut().insert(Tags::new(["validated"]));
            } else {
                value(&cache, "a").await;
            }
            let fields = response.headers_mut();
            fields.insert("etag", "\"1\"".parse().unwrap());
            response
        }
    });
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    assert!(is_kept(&app, "/").await);
    cache.invalidate(Selector::path("/").soft());
    get(&app, "/").await;
    settle().await;
    assert!(get(&app, "/").await.is_hit());
    assert_eq!(cache.stats().validated(), 1);
    cache.set("a", 1_u64).await.unwrap();
    assert!(!get(&app, "/").await.is_hit());
}
