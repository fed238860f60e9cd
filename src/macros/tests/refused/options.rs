//! Options that are missing or make no sense.

#![allow(unused)]

use renamed::{Cache, cached};

#[cached(prefix = "user", ttl = "5m")]
async fn no_cache(id: u64) -> u64 {
    id
}

#[cached(cache = cache, ttl = "5m", size = 5)]
async fn no_such_option(cache: &Cache, id: u64) -> u64 {
    id
}

#[cached(cache = cache, prefix = "user:profile", ttl = "5m", key = id)]
async fn separator(cache: &Cache, id: u64) -> u64 {
    id
}

#[cached(cache = cache, prefix = "user", ttl = "5 minutes", key = id)]
async fn no_ttl(cache: &Cache, id: u64) -> u64 {
    id
}

#[cached(cache = cache, prefix = "user", ttl = "5m", key = name)]
async fn no_such_argument(cache: &Cache, id: u64) -> u64 {
    id
}

#[cached(crate = "a-b", cache = cache, prefix = "user", ttl = "5m", key = id)]
async fn no_path(cache: &Cache, id: u64) -> u64 {
    id
}

fn main() {}
