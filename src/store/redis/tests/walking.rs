//! Turns, and what is taken out.

use std::time::Duration;

use bytes::Bytes;

use super::{FRAME, KEY, RedisServer, connected, eventually, in_a_minute};
use crate::store::{
    Store,
    walk::{Place, Taken, Turn, Walk},
};

const LIFE: Duration = Duration::from_secs(600);

pub(super) fn turn(token: u64, number: u64) -> Turn<'static> {
    Turn {
        version: None,
        token,
        number,
    }
}

#[tokio::test]
async fn what_was_replaced_since_it_was_judged_stays() {
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    let until = in_a_minute(&store);
    store.set(&KEY, FRAME, until).await.unwrap();
    let found = store.names(None, &Place::default()).await.unwrap();
    let name = store.name_of(&KEY);
    assert_eq!((found.names, found.next), (vec![name.clone()], None));
    let judged = store.starts(std::slice::from_ref(&name), 5).await.unwrap();
    assert_eq!(judged, [FRAME.slice(..5)]);
    let those = [(name.clone(), judged[0].clone())];
    store
        .set(&KEY, Bytes::from("another"), until)
        .await
        .unwrap();
    assert_eq!(store.take_out(&those).await.unwrap(), 0);
    assert_eq!(server.keys("*").len(), 1);
    store.set(&KEY, FRAME, until).await.unwrap();
    assert_eq!(store.take_out(&those).await.unwrap(), 1);
    assert!(server.keys("*").is_empty());
    // Gone, or of another type.
    assert_eq!(store.take_out(&those).await.unwrap(), 0);
    server.command(&["LPUSH", std::str::from_utf8(&name).unwrap(), "x"]);
    assert_eq!(store.take_out(&those).await.unwrap(), 0);
    assert_eq!(store.starts(&[name], 5).await.unwrap(), [Bytes::new()]);
}

#[tokio::test]
async fn one_walks_at_a_time_and_nobody_for_what_was_walked_for() {
    let server = RedisServer::start();
    let store = connected(&server.url()).await;
    let (one, other) = (turn(1, 10), turn(2, 10));
    assert_eq!(store.turn(&one, LIFE).await.unwrap(), Taken::Held);
    assert_eq!(store.turn(&one, LIFE).await.unwrap(), Taken::Held, "kept");
    assert_eq!(store.turn(&other, LIFE).await.unwrap(), Taken::Elsewhere);
    // Whose it is not gives nothing back, and has walked for nothing.
    store.walked(&other).await.unwrap();
    assert_eq!(store.turn(&other, LIFE).await.unwrap(), Taken::Elsewhere);
    store.walked(&one).await.unwrap();
    assert_eq!(store.turn(&other, LIFE).await.unwrap(), Taken::Walked);
    assert_eq!(store.turn(&turn(2, 11), LIFE).await.unwrap(), Taken::Held);
    // Each version by itself, as each knows its own entries only.
    let version = Turn {
        version: Some("v1"),
        ..turn(3, 10)
    };
    assert_eq!(store.turn(&version, LIFE).await.unwrap(), Taken::Elsewhere);
    store.walked(&turn(2, 11)).await.unwrap();
    assert_eq!(store.turn(&version, LIFE).await.unwrap(), Taken::Held);
    assert!(server.command(&["PTTL", "{shop}:purge"]).integer() > 0);
    // Of a node that has died, it ends by itself.
    let soon = Duration::from_millis(1);
    assert_eq!(store.turn(&version, soon).await.unwrap(), Taken::Held);
    eventually("it ends", || server.keys("{shop}:purge").is_empty()).await;
}
