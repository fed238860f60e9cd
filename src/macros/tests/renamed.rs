//! The attribute where the crate has another name.

use renamed::{Cache, LoadError, ValueError, cached};

mod framework {
    pub mod cache {
        pub use renamed::*;
    }
}

#[cached(crate = "renamed", cache = cache, prefix = "double", ttl = "5m", key = number)]
async fn double(cache: &Cache, number: u64) -> u64 {
    2 * number
}

#[cached(crate = "crate::framework::cache", cache = cache, prefix = "half", ttl = "5m", key = number)]
async fn half(cache: &Cache, number: u64) -> Result<u64, String> {
    match number % 2 {
        0 => Ok(number / 2),
        _ => Err(format!("{number} is odd")),
    }
}

#[tokio::test]
async fn a_crate_of_another_name_is_found_where_the_attribute_says() {
    let cache = Cache::in_memory();
    let doubled: Result<_, ValueError> = double(&cache, 21).await;
    assert_eq!(*doubled.unwrap(), 42);
    let halved: Result<_, LoadError<String>> = half(&cache, 42).await;
    assert_eq!(*halved.unwrap(), 21);
    assert!(half(&cache, 21).await.is_err());
    assert!(cache.exists("double:21").await.unwrap());
    assert!(cache.exists("half:42").await.unwrap());
}
