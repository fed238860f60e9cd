//! Reading, keeping and removing values by their keys.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tower_response_cache::{Cache, CachedValue, Selector, ValueKey};

use crate::support::{builder, cache, in_memory, settle};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    age: u8,
}

fn ada() -> User {
    User {
        name: "Ada".to_owned(),
        age: 36,
    }
}

async fn has(cache: &Cache, key: &str) -> bool {
    let there = cache.exists(key).await.unwrap();
    assert_eq!(
        cache.get::<u32>(key).await.unwrap().is_some(),
        there,
        "{key}"
    );
    there
}

#[tokio::test]
async fn a_value_comes_back_as_it_was_kept_under_every_form_of_its_key() {
    let cache = in_memory();
    cache.set(("user", 42), ada()).await.unwrap();
    let prepared = ValueKey::new(("user", "42")).unwrap();
    let found = [
        cache.get::<User>("user:42").await.unwrap(),
        cache.get::<User>("user:42".to_owned()).await.unwrap(),
        cache
            .get::<User>(("user".to_owned(), 42_u64))
            .await
            .unwrap(),
        cache.get::<User>(&prepared).await.unwrap(),
        cache.get::<User>(prepared).await.unwrap(),
    ];
    for user in &found {
        assert_eq!(user.as_deref(), Some(&ada()));
    }
    let [Some(first), Some(second), ..] = &found else {
        unreachable!()
    };
    assert!(Arc::ptr_eq(first, second), "it is one value, never copied");
    assert_eq!(cache.get::<User>("user:43").await.unwrap(), None);
}

#[tokio::test]
async fn a_value_of_another_type_is_a_miss() {
    let cache = in_memory();
    cache.set("user", ada()).await.unwrap();
    assert_eq!(cache.get::<String>("user").await.unwrap(), None);
    assert_eq!(
        cache.get::<BTreeMap<String, String>>("user").await.unwrap(),
        None
    );
    assert!(cache.exists("user").await.unwrap());
    assert_eq!(
        cache.get::<User>("user").await.unwrap().as_deref(),
        Some(&ada())
    );
    let stats = cache.stats();
    assert_eq!((stats.value_hits(), stats.value_misses()), (1, 2));
}

#[tokio::test]
async fn what_is_nothing_to_some_is_a_hit() {
    async fn comes_back<V: CachedValue + Clone + PartialEq + Debug>(cache: &Cache, value: V) {
        cache.set("value", value.clone()).await.unwrap();
        settle().await;
        assert_eq!(
            cache.get::<V>("value").await.unwrap().as_deref(),
            Some(&value)
        );
    }
    let cache = in_memory();
    comes_back(&cache, 0).await;
    comes_back(&cache, false).await;
    comes_back(&cache, String::new()).await;
    comes_back(&cache, Vec::<u8>::new()).await;
    comes_back(&cache, None::<u8>).await;
    comes_back(&cache, ()).await;
}

#[tokio::test]
async fn a_value_is_fresh_for_an_hour_or_as_long_as_was_said() {
    let (cache, clock) = cache();
    cache.set("hour", 1_u32).await.unwrap();
    cache
        .set("minute", 1_u32)
        .ttl(Duration::from_secs(60))
        .await
        .unwrap();
    cache.set("forever", 1_u32).forever().await.unwrap();
    for (seconds, expected) in [
        (59, [true, true, true]),
        (1, [true, false, true]),
        (3_539, [true, false, true]),
        (1, [false, false, true]),
        (50 * 366 * 24 * 3600, [false, false, true]),
    ] {
        clock.advance(Duration::from_secs(seconds));
        let found = [
            has(&cache, "hour").await,
            has(&cache, "minute").await,
            has(&cache, "forever").await,
        ];
        assert_eq!(found, expected, "{seconds} seconds later");
    }
}

#[tokio::test]
async fn the_default_lifetime_is_that_of_the_cache() {
    let clock = tower_response_cache::ManualClock::new();
    let cache = builder()
        .clock(clock.clone())
        .value_ttl(Duration::from_secs(2))
        .build()
        .unwrap();
    cache.set("a", 1_u32).await.unwrap();
    clock.advance(Duration::from_millis(1_999));
    assert!(has(&cache, "a").await);
    clock.advance(Duration::from_millis(1));
    assert!(!has(&cache, "a").await);
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_the_others_stay() {
    let all = ["user:1", "user:12", "user:1:posts", "users:1", "user"];
    #[rustfmt::skip]
    let rows: &[(&str, &[&str])] = &[
        ("user:1", &["user:1"]),
        ("user:*", &["user:1", "user:12", "user:1:posts"]),
        ("user*", &all),
        ("*:posts", &["user:1:posts"]),
        ("user:*:posts", &["user:1:posts"]),
        ("*:1", &["user:1", "users:1"]),
        ("", &[]),
        ("user:", &[]),
        ("/user:*", &[]),
    ];
    for (pattern, gone) in rows {
        let cache = in_memory();
        cache.set_many(all.map(|key| (key, 1_u32))).await.unwrap();
        cache.delete_pattern(pattern).await;
        for key in all {
            assert_eq!(
                has(&cache, key).await,
                !gone.contains(&key),
                "{key} after {pattern}"
            );
        }
        cache.set_many(all.map(|key| (key, 2_u32))).await.unwrap();
        for key in all {
            assert!(has(&cache, key).await, "{key} again after {pattern}");
        }
    }
    let cache = in_memory();
    cache.set_many(all.map(|key| (key, 1_u32))).await.unwrap();
    cache.delete(("user", 1)).await.unwrap();
    cache
        .delete_many(["user", "users:1", "nothing"])
        .await
        .unwrap();
    let mut left = Vec::new();
    for key in all {
        if has(&cache, key).await {
            left.push(key);
        }
    }
    assert_eq!(left, ["user:12", "user:1:posts"]);
}

#[tokio::test]
async fn selectors_of_tags_values_and_all_select_values() {
    #[rustfmt::skip]
    let rows: [(Selector, [bool; 3]); 8] = [
        (Selector::tag("users"), [false, false, true]),
        (Selector::tag("user:1"), [false, true, true]),
        (Selector::tag("user"), [true, true, true]),
        (Selector::values("user:*"), [false, false, true]),
        (Selector::value_prefix("user:1"), [false, true, true]),
        (Selector::path("*"), [true, true, true]),
        (Selector::all(), [false, false, false]),
        (Selector::all().soft(), [false, false, false]),
    ];
    for (selector, expected) in rows {
        let cache = in_memory();
        cache
            .set("user:1", 1_u32)
            .tags(["users", "user:1"])
            .await
            .unwrap();
        cache.set("user:2", 1_u32).tags(["users"]).await.unwrap();
        cache.set("rate", 1_u32).await.unwrap();
        cache.invalidate(selector.clone());
        let found = [
            has(&cache, "user:1").await,
            has(&cache, "user:2").await,
            has(&cache, "rate").await,
        ];
        assert_eq!(found, expected, "{selector:?}");
    }
}

#[tokio::test]
async fn a_later_value_replaces_an_earlier_one() {
    let cache = in_memory();
    for value in 0..3_u32 {
        cache.set("a", value).await.unwrap();
        settle().await;
        assert_eq!(
            cache.get::<u32>("a").await.unwrap().as_deref(),
            Some(&value)
        );
    }
    cache.set("a", "text".to_owned()).await.unwrap();
    assert_eq!(cache.get::<u32>("a").await.unwrap(), None);
    assert_eq!(
        cache
            .get::<String>("a")
            .await
            .unwrap()
            .as_deref()
            .map(String::as_str),
        Some("text")
    );
}

#[tokio::test]
async fn values_share_room_and_counters_with_responses() {
    let cache = builder().memory(64 << 10).build().unwrap();
    let empty = cache.stats();
    cache.set("first", "x".repeat(10_000)).await.unwrap();
    let one = cache.stats();
    assert_eq!(one.entries(), 1);
    assert!(one.bytes() > empty.bytes() + 10_000, "{one}");
    for number in 0..100 {
        cache
            .set(("more", number), "x".repeat(10_000))
            .await
            .unwrap();
    }
    let full = cache.stats();
    assert!(full.bytes() <= full.capacity(), "{full}");
    assert!(full.evictions() > 90, "{full}");
    cache.delete(("more", 99)).await.unwrap();
    assert!(
        cache.stats().bytes() < full.bytes(),
        "a deletion gives room back"
    );
}

#[tokio::test]
async fn a_cache_that_is_switched_off_has_no_values() {
    let cache = in_memory();
    cache.set("a", 1_u32).await.unwrap();
    cache.set_enabled(false);
    assert!(!has(&cache, "a").await);
    cache.set("a", 2_u32).await.unwrap();
    assert!(!has(&cache, "a").await);
    cache.set_enabled(true);
    assert!(!has(&cache, "a").await, "it starts cold");
    cache.set("a", 3_u32).await.unwrap();
    assert!(has(&cache, "a").await);
}
