//! Functions that cannot be kept.

#![allow(unused)]

use renamed::{Cache, cached};

struct Users {
    cache: Cache,
}

impl Users {
    #[cached(crate = "renamed", cache = self.cache, prefix = "user", ttl = "5m", key = self)]
    async fn by_self(&self, id: u64) -> u64 {
        id
    }

    #[cached(crate = "renamed", cache = self.cache, prefix = "user", ttl = "5m")]
    fn not_async(&self, id: u64) -> u64 {
        id
    }

    #[cached(crate = "renamed", cache = self.cache, prefix = "user", ttl = "5m")]
    async fn nothing(&self, id: u64) {
        let _ = id;
    }

    #[cached(crate = "renamed", cache = self.cache, prefix = "user", ttl = "5m")]
    async fn alias(&self, id: u64) -> std::io::Result<u64> {
        Ok(id)
    }
}

fn main() {}
