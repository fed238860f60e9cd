//! Functions that the attribute `cached` keeps.
#![cfg(feature = "macros")]

use std::sync::Arc;

use tower_response_cache::{Cache, LoadError, ValueError, cached};

use crate::support::{in_memory, loads::Loads, settle};

struct Users {
    cache: Cache,
    loads: Loads,
    tenant: &'static str,
}

impl Users {
    fn new(cache: Cache) -> Self {
        let (loads, tenant) = (Loads::default(), "a");
        Self {
            cache,
            loads,
            tenant,
        }
    }

    #[cached(cache = self.cache, prefix = "user", ttl = "5m")]
    async fn find(&self, id: u64) -> usize {
        self.loads.held().await + id as usize
    }

    #[cached(cache = self.cache, prefix = "user", ttl = "1h", key = (self.tenant, name))]
    async fn named(&self, name: String, _trace: u32) -> Result<String, String> {
        match name.as_str() {
            "" => return Err(format!("failure {}", self.loads.held().await)),
            _ => self.loads.held().await,
        };
        Ok(name)
    }
}

#[cached(cache = cache, prefix = "sum", ttl = "250ms", key = (a, b.len()))]
async fn sum(cache: &Cache, a: usize, b: &str) -> usize {
    a + b.len()
}

#[tokio::test]
async fn an_attribute_keeps_under_the_key_that_is_written_by_hand() {
    let users = Users::new(in_memory());
    users.loads.open();
    assert_eq!(*users.find(42).await.unwrap(), 43);
    assert_eq!(
        *users.cache.get::<usize>("user:42").await.unwrap().unwrap(),
        43
    );
    assert_eq!(*users.find(42).await.unwrap(), 43);
    assert_eq!(users.loads.calls(), 1);
    users.cache.delete(("user", 42)).await.unwrap();
    users.loads.open();
    assert_eq!(*users.find(42).await.unwrap(), 44);

    // What is not in `key` makes no difference, and what is there does.
    users.loads.open();
    let name = || "Ada".to_owned();
    let first = users.named(name(), 1).await.unwrap();
    assert!(Arc::ptr_eq(&first, &users.named(name(), 2).await.unwrap()));
    assert!(users.cache.exists(("user", "a", "Ada")).await.unwrap());
    assert_eq!(*sum(&users.cache, 1, "xy").await.unwrap(), 3);
    assert!(users.cache.exists("sum:1:2").await.unwrap());
}

#[tokio::test]
async fn self_is_not_in_the_key_of_an_attribute() {
    let one = Users::new(in_memory());
    let other = Users::new(one.cache.clone());
    one.loads.open();
    assert_eq!(*one.find(1).await.unwrap(), 2);
    assert_eq!(*other.find(1).await.unwrap(), 2);
    assert_eq!(other.loads.calls(), 0);
}

#[tokio::test]
async fn a_thousand_calls_of_a_function_with_the_attribute_are_one_run() {
    let users = Arc::new(Users::new(in_memory()));
    let calls: Vec<_> = (0..1_000)
        .map(|_| {
            let users = users.clone();
            tokio::spawn(async move { *users.find(42).await.unwrap() })
        })
        .collect();
    settle().await;
    users.loads.open();
    for call in calls {
        assert_eq!(call.await.unwrap(), 43);
    }
    assert_eq!(users.loads.calls(), 1);
}

#[tokio::test]
async fn errors_of_a_function_with_the_attribute_are_not_kept() {
    let users = Users::new(in_memory());
    for failure in ["failure 1", "failure 2"] {
        users.loads.open();
        let error: LoadError<String> = users.named(String::new(), 0).await.unwrap_err();
        assert_eq!(error.load().map(String::as_str), Some(failure));
    }
    assert_eq!(users.cache.stats().entries(), 0);
}

#[tokio::test]
async fn arguments_that_make_no_key_are_the_error_of_a_function_with_the_attribute() {
    #[cached(cache = cache, prefix = "rate", ttl = "1d", key = rate)]
    async fn rate(cache: &Cache, rate: f64) -> f64 {
        rate
    }
    let cache = in_memory();
    assert_eq!(rate(&cache, f64::NAN).await, Err(ValueError::NotANumber));
    assert_eq!(*rate(&cache, 1.5).await.unwrap(), 1.5);
}
