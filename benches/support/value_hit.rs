//! A hit of a value in memory, beside `moka`'s `get` in the same run: the same keys and values, by turns.

use std::{
    future::{Future, IntoFuture},
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use tower_response_cache::{Cache, ValueKey};

use crate::support::Row;

pub(crate) const NAME: &str = "value_hit_time";
const KEYS: usize = 1_000;
const ROUNDS: usize = 200;

type User = (u64, String);

fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a hit waits for nothing"),
    }
}

fn user(id: usize) -> User {
    (id as u64, format!("the name of user {id}"))
}

/// Nanoseconds of each call, over all keys.
fn round<K>(keys: &[K], get: impl Fn(&K) -> Arc<User>) -> f64 {
    let start = Instant::now();
    for key in keys {
        drop(black_box(get(black_box(key))));
    }
    start.elapsed().as_nanos() as f64 / keys.len() as f64
}

/// With prepared keys here; `moka` has no such thing, and hashes a text.
pub(crate) fn row() -> Row {
    let ours = Cache::in_memory();
    let theirs = moka::future::Cache::<String, Arc<User>>::new(10_000);
    let mut prepared = Vec::new();
    let mut texts = Vec::new();
    for id in 0..KEYS {
        let key = ValueKey::new(("user", id)).expect("a key");
        now(theirs.insert(key.as_str().to_owned(), Arc::new(user(id))));
        now(ours.set(&key, user(id)).into_future()).expect("it can be kept");
        texts.push(key.as_str().to_owned());
        prepared.push(key);
    }
    let mut best = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        let get = |key: &String| now(theirs.get(key)).expect("it is there");
        best[0] = best[0].min(round(&texts, get));
        let get = |key: &ValueKey| {
            now(ours.get::<User>(key))
                .ok()
                .flatten()
                .expect("it is there")
        };
        best[1] = best[1].min(round(&prepared, get));
    }
    Row {
        name: NAME,
        reference: best[0],
        figure: best[1],
        bound: Some(best[0]),
    }
}
