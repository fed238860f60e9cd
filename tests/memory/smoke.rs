//! The shortest way to a hit.

use crate::support::*;
use std::time::Duration;
use tower_response_cache::ResponseCacheLayer;

#[tokio::test]
async fn second_is_a_hit() {
    let (cache, clock) = cache();
    let origin = Origin::with_fields(&[]);
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    let a = get(&app, "/a?x").await;
    println!("{a:#?}");
    clock.advance(Duration::from_secs(3));
    let b = get(&app, "/a?x").await;
    println!("{b:#?} {:?}", cache.stats());
    assert_eq!(a.body, b.body);
    assert_eq!(origin.calls(), 1);
    assert!(b.is_hit());
    assert_eq!(b.field("age"), "3");
}
