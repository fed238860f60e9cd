//! What makes no sense is an error that says which and why, and changes nothing.

use std::{collections::HashMap, time::Duration};

use tower_response_cache::{Cache, ValueError, ValueKey};

use crate::support::{builder, in_memory};

/// An argument that refuses to be one.
struct Refusing;

impl serde::Serialize for Refusing {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("locked"))
    }
}

#[test]
fn a_key_that_makes_no_sense_is_an_error_in_one_sentence() {
    let long = "k".repeat(10_000);
    let rows = [
        (ValueKey::new(""), "a key without a name"),
        (ValueKey::new(("", 1)), "a key without a name"),
        (
            ValueKey::new(("user:profile", 1)),
            "the name \"user:profile\"",
        ),
        (ValueKey::new(("user*", 1)), "the name \"user*\""),
        (ValueKey::new("user:*"), "the key \"user:*\" has a *"),
        (ValueKey::new(&*long), "a key of 10000 bytes"),
        (ValueKey::new(("user", &long)), "a key of 10005 bytes"),
        (ValueKey::new(("rate", f64::NAN)), "a number that is none"),
        (
            ValueKey::new(("rate", vec![f32::INFINITY])),
            "a number that is none",
        ),
        (
            ValueKey::new(("rate", HashMap::from([(1, 2)]))),
            "a map whose keys are no strings",
        ),
        (
            ValueKey::new(("rate", Refusing)),
            "cannot be serialized: locked",
        ),
    ];
    for (key, part) in rows {
        let sentence = key.unwrap_err().to_string();
        assert!(sentence.contains(part), "{sentence}");
        assert!(
            !sentence.contains('\n') && !sentence.ends_with('.'),
            "{sentence}"
        );
        assert!(sentence.len() < 200, "{sentence}");
    }
}

#[tokio::test]
async fn every_way_to_a_value_refuses_a_key_that_makes_no_sense() {
    let cache = in_memory();
    let expected = || ValueError::Pattern("a*".to_owned());
    assert_eq!(cache.get::<u8>("a*").await, Err(expected()));
    assert_eq!(cache.exists("a*").await, Err(expected()));
    assert_eq!(cache.delete("a*").await.unwrap_err(), expected());
    assert_eq!(cache.set("a*", 1).await, Err(expected()));
    cache.set_many([("a", 1), ("b", 1)]).await.unwrap();
    assert_eq!(cache.get_many::<u8>(["a", "a*"]).await, Err(expected()));
    assert_eq!(cache.set_many([("a", 2), ("a*", 1)]).await, Err(expected()));
    let deleted = cache.delete_many(["a", "a*"]).await;
    assert_eq!(deleted.unwrap_err(), expected());
    assert_eq!(
        cache.get::<i32>("a").await.unwrap().as_deref(),
        Some(&1),
        "nothing was changed"
    );
}

#[tokio::test]
async fn a_lifetime_or_a_tag_that_makes_no_sense_changes_nothing() {
    let cache = in_memory();
    cache.set("a", 1).await.unwrap();
    let huge = Duration::from_secs(101 * 366 * 24 * 3600);
    let zero = cache.set("a", 2).ttl(Duration::ZERO).await;
    assert_eq!(zero, Err(ValueError::NoTtl));
    assert_eq!(
        cache.set("a", 2).ttl(Duration::from_micros(999)).await,
        Err(ValueError::NoTtl)
    );
    assert_eq!(
        cache.set("a", 2).ttl(huge).await,
        Err(ValueError::LongTtl(huge))
    );
    assert_eq!(
        cache.set("a", 2).ttl(Duration::MAX).await,
        Err(ValueError::LongTtl(Duration::MAX))
    );
    let many = (0..33).map(|number| format!("tag {number}"));
    assert_eq!(
        cache.set("a", 2).tags(many).await,
        Err(ValueError::TooManyTags(33))
    );
    let long = cache.set("a", 2).tags(["t".repeat(257)]).await;
    assert!(matches!(long, Err(ValueError::BadTag(_))), "{long:?}");
    let star = cache.set("a", 2).tags(["a*"]).await;
    assert!(matches!(star, Err(ValueError::BadTag(_))), "{star:?}");
    assert_eq!(cache.get::<i32>("a").await.unwrap().as_deref(), Some(&1));

    let twice = (0..64).map(|number| format!("{:256}", number % 32));
    cache.set("b", 1).tags(twice).await.expect("32 of them");
    let good = (0..32).map(|number| format!("{number:256}"));
    cache
        .set("a", 3)
        .ttl(Duration::from_millis(1))
        .tags(good)
        .await
        .unwrap();
    for ttl in [Duration::ZERO, Duration::MAX] {
        let error = Cache::builder().value_ttl(ttl).build().unwrap_err();
        assert!(
            error.to_string().starts_with("value_ttl: a ttl of"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_kept_is_an_error_and_takes_away_what_it_was_to_replace() {
    let cache = in_memory();
    cache
        .set_many([("a", "old".to_owned()), ("b", "old".to_owned())])
        .await
        .unwrap();
    let error = cache.set("a", "x".repeat(1 << 20)).await.unwrap_err();
    let (bytes, limit) = ((1 << 20) + 2, 1 << 20);
    assert_eq!(error, ValueError::TooLarge { bytes, limit });
    assert!(!cache.exists("a").await.unwrap());
    cache.set("a", "x".repeat((1 << 20) - 2)).await.unwrap();
    assert!(cache.exists("a").await.unwrap());

    let by_pair = HashMap::from([((1, 2), 3)]);
    let error = cache.set("b", by_pair).await.unwrap_err();
    assert!(matches!(error, ValueError::NotSerializable(_)), "{error}");
    assert!(!cache.exists("b").await.unwrap());
}

#[tokio::test]
async fn the_limit_is_the_one_that_was_said_and_never_more_than_memory_holds() {
    let cache = builder().max_value_size(10).build().unwrap();
    cache.set("a", "12345678".to_owned()).await.unwrap();
    let error = cache.set("a", "123456789".to_owned()).await.unwrap_err();
    assert_eq!(
        error,
        ValueError::TooLarge {
            bytes: 11,
            limit: 10
        }
    );

    let small = builder()
        .memory(64 << 10)
        .max_value_size(u64::MAX)
        .build()
        .unwrap();
    let error = small.set("a", "x".repeat(64 << 10)).await.unwrap_err();
    let ValueError::TooLarge { limit, .. } = error else {
        panic!("{error}")
    };
    small
        .set("a", "x".repeat(limit as usize - 2))
        .tags([" ".repeat(256)])
        .await
        .unwrap();
    assert!(
        small.exists("a").await.unwrap(),
        "the limit is no promise that is not kept"
    );
}
