//! Values in a remote store behind memory: one that is scripted.

use std::time::Duration;

use tower_response_cache::{
    Cache, CacheBuilder, Clock, FrameFault, Link, ManualClock, Selector, ValueError,
};

use crate::support::{fake_store::FakeStore, loads::Loads, settle};

const MINUTE: Duration = Duration::from_secs(60);

fn node(store: &FakeStore, clock: &ManualClock) -> Cache {
    built(Cache::builder(), store, clock)
}

fn built(builder: CacheBuilder, store: &FakeStore, clock: &ManualClock) -> Cache {
    let builder = builder.store(store.clone()).clock(clock.clone());
    builder.build().expect("the defaults are good")
}

async fn found(cache: &Cache, key: &str) -> Option<usize> {
    let value = cache.get::<usize>(key).await.unwrap();
    settle().await;
    value.map(|value| *value)
}

async fn set(cache: &Cache, key: &str, value: usize) {
    cache.set(key, value).ttl(MINUTE).await.unwrap();
    settle().await;
}

/// The value, loaded where it is not there.
async fn loaded(cache: &Cache, loads: &Loads) -> usize {
    let load = || async { loads.at_once() };
    let value = *cache.get_or_set("a", MINUTE, load).await.unwrap();
    settle().await;
    value
}

#[tokio::test]
async fn what_one_process_keeps_another_one_finds_with_the_life_that_is_left() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let (one, other) = (node(&store, &clock), node(&store, &clock));
    set(&one, "a", 7).await;
    assert_eq!(store.writes(), 1);
    clock.advance(Duration::from_secs(59));
    assert!(other.exists("a").await.unwrap());
    assert_eq!(found(&other, "a").await, Some(7));
    let loads = Loads::default();
    assert_eq!(loaded(&other, &loads).await, 7);
    clock.advance(Duration::from_secs(1));
    assert_eq!(found(&other, "a").await, None);
    assert!(!other.exists("a").await.unwrap());
    assert_eq!(loaded(&other, &loads).await, 1);
}

#[tokio::test]
async fn what_is_falsy_and_absent_comes_back_from_the_store() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let one = node(&store, &clock);
    one.set("zero", 0_usize).await.unwrap();
    one.set("text", String::new()).await.unwrap();
    one.set("list", Vec::<u8>::new()).await.unwrap();
    one.set("none", None::<String>).await.unwrap();
    settle().await;
    let other = node(&store, &clock);
    assert_eq!(
        other.get::<usize>("zero").await.unwrap().as_deref(),
        Some(&0)
    );
    assert_eq!(
        other.get::<String>("text").await.unwrap().as_deref(),
        Some(&String::new())
    );
    assert_eq!(
        other.get::<Vec<u8>>("list").await.unwrap().as_deref(),
        Some(&vec![])
    );
    assert_eq!(
        other
            .get::<Option<String>>("none")
            .await
            .unwrap()
            .as_deref(),
        Some(&None)
    );
    assert_eq!(other.stats().value_hits(), 4);
}

#[tokio::test]
async fn a_value_of_another_type_or_version_in_the_store_is_a_miss() {
    // The same name with another shape: the next release of a program.
    mod release_1 {
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(super) struct User {
            pub(super) name: String,
        }
    }
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let one = node(&store, &clock);
    one.set(
        "a",
        release_1::User {
            name: "Ada".to_owned(),
        },
    )
    .await
    .unwrap();
    settle().await;
    let other = node(&store, &clock);
    assert_eq!(found(&other, "a").await, None);
    let faults = |cache: &Cache| cache.stats().remote().refused_frames(FrameFault::OtherType);
    assert_eq!(faults(&other), 1);
    let loads = Loads::default();
    assert_eq!(loaded(&other, &loads).await, 1);
    assert_eq!(found(&other, "a").await, Some(1), "and is replaced");
    assert_eq!(faults(&other), 2);
    assert_eq!(store.checks(), 0, "nothing is wrong with the link");
    // One that could be read as the other is another all the same.
    one.set("small", 7_u8).await.unwrap();
    settle().await;
    assert_eq!(found(&other, "small").await, None);
    assert_eq!(faults(&other), 3);
    assert!(other.exists("small").await.unwrap());
}

#[tokio::test]
async fn a_cache_that_is_switched_off_asks_the_store_for_no_value() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    set(&node(&store, &clock), "a", 7).await;
    let (cache, loads) = (node(&store, &clock), Loads::default());
    cache.set_enabled(false);
    assert_eq!(found(&cache, "a").await, None);
    assert!(!cache.exists("a").await.unwrap());
    assert_eq!(loaded(&cache, &loads).await, 1);
    set(&cache, "b", 8).await;
    assert_eq!((store.reads(), store.writes()), (0, 1));
}

#[tokio::test]
async fn what_is_no_value_of_ours_is_a_miss() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let one = node(&store, &clock);
    set(&one, "a", 7).await;
    set(&one, "b", 8).await;
    let frames = store.frames().clone();
    let of = |text: &str| {
        let is_it = |key: &&Vec<u8>| key.ends_with(text.as_bytes());
        frames.keys().find(is_it).unwrap().clone()
    };
    let (a, b) = (of("a"), of("b"));
    let (frame, until) = frames[&a].clone();
    let other = frames[&b].0.clone();
    let cut = frame.slice(..frame.len() - 1);
    let mut flipped = frame.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    for (sentence, stored, fault) in [
        ("foreign", "7".into(), FrameFault::Foreign),
        ("cut", cut, FrameFault::Truncated),
        ("damaged", flipped.into(), FrameFault::Damaged),
        ("that of another key", other, FrameFault::OtherKey),
    ] {
        store.frames().insert(a.clone(), (stored, until));
        let cache = node(&store, &clock);
        assert_eq!(found(&cache, "a").await, None, "{sentence}");
        assert_eq!(
            cache.stats().remote().refused_frames(fault),
            1,
            "{sentence}"
        );
    }
    store.frames().insert(a, (frame, until));
    assert_eq!(found(&node(&store, &clock), "a").await, Some(7));
}

#[tokio::test]
async fn what_is_removed_is_removed_in_the_store_as_well() {
    for removal in 0..4 {
        let (store, clock) = (FakeStore::default(), ManualClock::new());
        let cache = node(&store, &clock);
        let users = cache.wrap("user", MINUTE, |id: u64| async move { id as usize });
        users.get(42).await.unwrap();
        settle().await;
        assert_eq!(store.frames().len(), 1);
        match removal {
            0 => cache.delete(("user", 42)).await.unwrap(),
            1 => cache.delete("user:42").await.unwrap(),
            2 => users.forget(42).await.unwrap(),
            _ => cache.invalidate(Selector::values("user:42")),
        };
        settle().await;
        assert_eq!(store.frames().len(), 0, "removal {removal}");
        assert_eq!(found(&cache, "user:42").await, None);
        assert_eq!(found(&node(&store, &clock), "user:42").await, None);
    }
}

#[tokio::test]
async fn what_a_pattern_or_tag_selects_is_not_read_back_from_the_store() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let cache = built(Cache::builder().memory_ttl(Duration::ZERO), &store, &clock);
    for selector in [
        Selector::values("user:*"),
        Selector::tag("users"),
        Selector::all(),
    ] {
        cache.set("user:42", 1_usize).tags(["users"]).await.unwrap();
        settle().await;
        assert_eq!(found(&cache, "user:42").await, Some(1));
        cache.invalidate(selector.clone());
        assert_eq!(store.frames().len(), 1, "it is there still");
        assert_eq!(found(&cache, "user:42").await, None, "{selector:?}");
        assert!(!cache.exists("user:42").await.unwrap(), "{selector:?}");
    }
}

#[tokio::test]
async fn memory_asks_the_store_again_and_keeps_what_is_the_same() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let (one, other) = (node(&store, &clock), node(&store, &clock));
    set(&one, "a", 1).await;
    let first = other.get::<usize>("a").await.unwrap().unwrap();
    assert_eq!(store.reads(), 1);
    clock.advance(Duration::from_millis(4_999));
    assert_eq!(found(&other, "a").await, Some(1));
    assert_eq!(store.reads(), 1, "not yet");
    clock.advance(Duration::from_millis(1));
    let again = other.get::<usize>("a").await.unwrap().unwrap();
    assert_eq!(store.reads(), 2);
    assert!(
        std::sync::Arc::ptr_eq(&first, &again),
        "nothing was made anew"
    );

    set(&one, "a", 2).await;
    clock.advance(Duration::from_secs(5));
    assert_eq!(found(&other, "a").await, Some(2));
    one.delete("a").await.unwrap();
    settle().await;
    clock.advance(Duration::from_secs(5));
    assert_eq!(
        found(&other, "a").await,
        None,
        "what was deleted there is gone here"
    );
    store.set_link(Link::Connecting(None));
    assert_eq!(found(&other, "a").await, None, "and stays so");
}

#[tokio::test]
async fn those_who_ask_for_what_only_the_store_has_share_one_read() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    set(&node(&store, &clock), "a", 7).await;
    let cache = node(&store, &clock);
    store.yield_before_answers(10);
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { found(&cache, "a").await })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Some(7));
    }
    assert_eq!(store.reads(), 1);

    let cache = node(&store, &clock);
    let loads = Loads::default();
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let (cache, loads) = (cache.clone(), loads.clone());
            tokio::spawn(async move { loaded(&cache, &loads).await })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 7);
    }
    assert_eq!((store.reads(), loads.calls()), (2, 0));
}

#[tokio::test]
async fn several_keys_are_asked_for_at_the_same_time() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let keys: Vec<String> = (0..20).map(|number| format!("key:{number}")).collect();
    let one = node(&store, &clock);
    one.set_many(keys.iter().map(|key| (key, key.len())))
        .await
        .unwrap();
    settle().await;
    let cache = node(&store, &clock);
    store.yield_before_answers(50);
    let reading = tokio::spawn({
        let (cache, keys) = (cache.clone(), keys.clone());
        async move { cache.get_many::<usize>(keys).await.unwrap() }
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.reads(), 20, "before the first is answered");
    let values = reading.await.unwrap();
    let lengths: Vec<_> = values.into_iter().map(|value| *value.unwrap()).collect();
    assert_eq!(lengths, keys.iter().map(String::len).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_hangs_or_panics_is_no_error_and_functions_run() {
    for trouble in [FakeStore::fail, FakeStore::hang, FakeStore::panic] {
        let (store, clock) = (FakeStore::default(), ManualClock::new());
        let cache = node(&store, &clock);
        trouble(&store, true);
        let loads = Loads::default();
        assert_eq!(loaded(&cache, &loads).await, 1);
        assert_eq!(loaded(&cache, &loads).await, 1, "from memory");
        set(&cache, "b", 2).await;
        assert_eq!(found(&cache, "b").await, Some(2));
        assert_eq!(found(&cache, "c").await, None);
        cache.delete("b").await.unwrap();
        assert_eq!(found(&cache, "b").await, None);
        assert!(!cache.exists("c").await.unwrap());
        assert!(cache.stats().store_errors() > 0);
        trouble(&store, false);
    }
}

#[tokio::test]
async fn a_value_outrun_by_a_deletion_is_not_written() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let (cache, loads) = (node(&store, &clock), Loads::default());
    let old = tokio::spawn({
        let (cache, loads) = (cache.clone(), loads.clone());
        async move {
            let load = || loads.held();
            *cache.get_or_set("a", MINUTE, load).await.unwrap()
        }
    });
    settle().await;
    cache.delete("a").await.unwrap();
    settle().await;
    loads.open();
    assert_eq!(old.await.unwrap(), 1);
    settle().await;
    assert_eq!(store.frames().len(), 0);
    assert_eq!(found(&node(&store, &clock), "a").await, None);
}

#[tokio::test]
async fn stale_windows_and_tags_travel_with_a_value() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let (one, other) = (node(&store, &clock), node(&store, &clock));
    assert_eq!(ask(&one, Ok(1)).await, Ok(1));
    settle().await;
    let ends: Vec<_> = store.frames().values().map(|(_, until)| *until).collect();
    let left = ends[0].duration_since(clock.wall()).unwrap();
    assert!(
        left > MINUTE + MINUTE / 2,
        "the window is of its life: {left:?}"
    );
    clock.advance(Duration::from_secs(61));
    assert_eq!(ask(&other, Err("away".to_owned())).await, Ok(1));
    other.invalidate(Selector::tag("numbers"));
    assert_eq!(
        ask(&other, Err("away".to_owned())).await,
        Err("away".to_owned())
    );
}

/// The value, or what its error says.
async fn ask(cache: &Cache, load: Result<usize, String>) -> Result<usize, String> {
    let entry = cache.entry("a").ttl(MINUTE).tags(["numbers"]);
    let entry = entry.stale_if_error(MINUTE);
    let value = entry.try_get_or_set(move || async move { load }).await;
    value.map(|value| *value).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_versions_of_a_service_and_its_seal_hold_for_values() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let sealed = |key: u8| {
        let turn = move |bytes: bytes::Bytes| -> bytes::Bytes {
            bytes.iter().map(|byte| byte ^ key).collect()
        };
        built(
            Cache::builder().seal(turn, move |bytes| Some(turn(bytes))),
            &store,
            &clock,
        )
    };
    set(&sealed(7), "a", 1).await;
    assert_eq!(found(&sealed(7), "a").await, Some(1));
    assert_eq!(found(&sealed(8), "a").await, None);
    let plain = node(&store, &clock);
    assert_eq!(found(&plain, "a").await, None);
    let error = plain.set("a", "x".repeat(2 << 20)).await.unwrap_err();
    assert!(matches!(error, ValueError::TooLarge { .. }));
    settle().await;
    assert_eq!(
        store.frames().len(),
        0,
        "what cannot be kept takes away what was there"
    );
}

#[tokio::test]
async fn the_longest_life_is_one_that_a_store_takes() {
    let (store, clock) = (FakeStore::default(), ManualClock::new());
    let one = node(&store, &clock);
    let entry = one.entry("a").ttl_by(|_: &usize| Duration::MAX);
    entry.get_or_set(|| async { 7 }).await.unwrap();
    one.set("b", 8_usize).forever().await.unwrap();
    settle().await;
    for (_, until) in store.frames().values() {
        let left = until.duration_since(clock.wall()).unwrap();
        let years = left.as_secs() / (365 * 24 * 3600);
        assert!((99..=101).contains(&years), "{years}");
    }
    clock.advance(99 * 365 * 24 * 60 * MINUTE);
    let other = node(&store, &clock);
    assert_eq!(
        (found(&other, "a").await, found(&other, "b").await),
        (Some(7), Some(8))
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_stale_is_used_while_it_is_refreshed_wherever_it_is() {
    for life_in_memory in [0, 5] {
        let (store, clock) = (FakeStore::default(), ManualClock::new());
        let life = Duration::from_secs(life_in_memory);
        let node = || built(Cache::builder().memory_ttl(life), &store, &clock);
        let (one, other, loads) = (node(), node(), Loads::default());
        let ask = async |cache: &Cache| {
            let held = loads.clone();
            let entry = cache.entry("a").ttl(MINUTE).stale_while_revalidate(MINUTE);
            let value = entry.get_or_set(move || async move { held.held().await });
            let value = *value.await.unwrap();
            settle().await;
            (value, loads.calls())
        };
        let refreshed = async || {
            loads.open();
            settle().await;
        };
        loads.open();
        assert_eq!(ask(&one).await, (1, 1));
        assert_eq!(store.reads(), 1, "once, before it is loaded");
        clock.advance(MINUTE);
        assert_eq!(found(&one, "a").await, None, "who takes nothing stale");
        assert_eq!(ask(&one).await, (1, 2), "in memory, which asks first");
        refreshed().await;
        assert_eq!(ask(&one).await, (2, 2));
        clock.advance(MINUTE);
        assert_eq!(ask(&other).await, (2, 3), "in the store");
        refreshed().await;
        assert_eq!(ask(&other).await, (3, 3));
        clock.advance(MINUTE);
        store.hang(true);
        let of_other = ask(&other).await;
        assert_eq!(of_other, (3, 4), "the store does not say");
        store.hang(false);
        refreshed().await;
        assert_eq!(ask(&other).await, (4, 4));
        clock.advance(MINUTE);
        one.delete("a").await.unwrap();
        settle().await;
        loads.open();
        assert_eq!(
            ask(&other).await,
            (5, 5),
            "what was deleted there is gone here"
        );
        clock.advance(2 * MINUTE);
        loads.open();
        assert_eq!(ask(&one).await, (6, 6), "past its window");
        clock.advance(MINUTE);
        let load = other.get_or_set("a", MINUTE, || async { 7_usize });
        assert_eq!(*load.await.unwrap(), 7, "who polls its load");
    }
}
