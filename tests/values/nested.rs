//! Values that are made of other values: they are invalidated with them.

use std::{sync::Arc, time::Duration};

use tower_response_cache::{Cache, CachedFn, Reason, Selector};

use crate::support::{builder, in_memory, loads::Loads, settle};

const MINUTE: Duration = Duration::from_secs(60);

/// A shop as functions: a price is of a product and a rate, an offer is of two prices.
struct Shop {
    cache: Cache,
    rates: CachedFn<&'static str, usize>,
    prices: CachedFn<u64, usize>,
    offers: CachedFn<(u64, u64), usize>,
    loads: Loads,
}

impl Shop {
    fn new(cache: &Cache) -> Self {
        let loads = Loads::default();
        let rates = {
            let loads = loads.clone();
            let load = move |_| std::future::ready(loads.at_once());
            cache.wrap("rate", MINUTE, load).tags(["rates"])
        };
        let prices = {
            let (products, rates, loads) = (cache.clone(), rates.clone(), loads.clone());
            let load = move |product: u64| {
                let (products, rates, loads) = (products.clone(), rates.clone(), loads.clone());
                async move {
                    // One is read, the other is loaded where it is not there.
                    products.get::<u64>(("product", product)).await.unwrap();
                    rates.get("eur").await.unwrap();
                    loads.at_once()
                }
            };
            cache.wrap("price", MINUTE, load)
        };
        let offers = {
            let (prices, loads) = (prices.clone(), loads.clone());
            let load = move |(one, other): (u64, u64)| {
                let (prices, loads) = (prices.clone(), loads.clone());
                async move {
                    let prices = tokio::join!(prices.get(one), prices.get(other));
                    prices.0.unwrap();
                    prices.1.unwrap();
                    loads.at_once()
                }
            };
            cache.wrap("offer", MINUTE, load)
        };
        Self {
            cache: cache.clone(),
            rates,
            prices,
            offers,
            loads,
        }
    }

    /// Asks for all; which of them had to be loaded.
    async fn loaded(&self) -> Vec<&'static str> {
        let mut loaded = Vec::new();
        let mut before = self.loads.calls();
        let mut note = |name| {
            let now = self.loads.calls();
            if now > before {
                loaded.push(name);
            }
            before = now;
        };
        // The outermost last, so that each is asked for when what it is made of is there.
        self.rates.get("eur").await.unwrap();
        note("rate:eur");
        self.rates.get("usd").await.unwrap();
        note("rate:usd");
        for (product, name) in [(1, "price:1"), (2, "price:2"), (3, "price:3")] {
            self.prices.get(product).await.unwrap();
            note(name);
        }
        for (pair, name) in [((1, 2), "offer:1:2"), ((2, 3), "offer:2:3")] {
            self.offers.get(pair).await.unwrap();
            note(name);
        }
        loaded
    }
}

#[tokio::test]
async fn what_was_made_of_a_value_is_invalidated_with_it() {
    let cache = in_memory();
    let shop = Shop::new(&cache);
    assert_eq!(shop.loaded().await.len(), 7);
    assert_eq!(shop.loaded().await, [""; 0]);
    let of_one = ["price:1", "offer:1:2"];
    let of_eur = [
        "rate:eur",
        "price:1",
        "price:2",
        "price:3",
        "offer:1:2",
        "offer:2:3",
    ];
    cache.set(("product", 1), 5_u64).await.unwrap();
    assert_eq!(shop.loaded().await, of_one, "what was not there was set");
    cache.delete(("product", 1)).await.unwrap();
    assert_eq!(shop.loaded().await, of_one, "deleted");
    cache.delete_pattern("product:3*").await;
    assert_eq!(shop.loaded().await, ["price:3", "offer:2:3"], "a pattern");
    shop.prices.forget(3).await.unwrap();
    assert_eq!(
        shop.loaded().await,
        ["price:3", "offer:2:3"],
        "in the middle"
    );
    cache.delete("rate:eur").await.unwrap();
    assert_eq!(shop.loaded().await, of_eur, "what it was loaded from");
    cache.invalidate(Selector::tag("rates"));
    let all = [&["rate:eur", "rate:usd"][..], &of_eur[1..]].concat();
    assert_eq!(shop.loaded().await, all, "by a tag of that");
    cache.invalidate(Selector::values("offer:1:2"));
    assert_eq!(shop.loaded().await, ["offer:1:2"], "the outermost");
    cache.set("other", 1_u64).await.unwrap();
    shop.rates.forget("usd").await.unwrap();
    assert_eq!(shop.loaded().await, ["rate:usd"], "something else");
}

#[tokio::test]
async fn a_middle_that_was_not_asked_for_in_between_keeps_nothing_old_alive() {
    let cache = in_memory();
    let shop = Shop::new(&cache);
    let pair = (1, 2);
    let before = *shop.offers.get(pair).await.unwrap();
    cache.delete("rate:eur").await.unwrap();
    assert!(!cache.exists("offer:1:2").await.unwrap());
    assert!(!cache.exists("price:1").await.unwrap());
    assert!(*shop.offers.get(pair).await.unwrap() > before);
    // Refreshed by itself, the middle has new parts and what stands on it has not.
    shop.cache.delete("rate:eur").await.unwrap();
    shop.prices.refresh(1).await.unwrap();
    assert!(!cache.exists("offer:1:2").await.unwrap());
}

/// A value that is made of `a`, and then held.
async fn made_of_a(cache: Cache, loads: Loads) -> (u64, usize) {
    let load = async || {
        let a = cache.get::<u64>("a").await.unwrap();
        (*a.unwrap(), loads.held().await)
    };
    *cache.get_or_set("made", MINUTE, load).await.unwrap()
}

#[tokio::test]
async fn what_has_read_a_value_before_that_was_replaced_is_not_kept() {
    let (cache, loads) = (in_memory(), Loads::default());
    cache.set("a", 1_u64).await.unwrap();
    let made = tokio::spawn(made_of_a(cache.clone(), loads.clone()));
    settle().await;
    cache.set("a", 2_u64).await.unwrap();
    loads.open();
    assert_eq!(made.await.unwrap(), (1, 1));
    assert!(!cache.exists("made").await.unwrap());
}

#[tokio::test]
async fn who_comes_after_what_a_load_has_read_was_replaced_is_not_answered_by_it() {
    let (cache, loads) = (in_memory(), Loads::default());
    cache.set("a", 1_u64).await.unwrap();
    let made = || tokio::spawn(made_of_a(cache.clone(), loads.clone()));
    let before = [made(), made()];
    settle().await;
    cache.set("a", 2_u64).await.unwrap();
    let after = [made(), made(), made()];
    settle().await;
    assert_eq!(loads.calls(), 1, "what it has read is known at its end");
    loads.open();
    settle().await;
    loads.open();
    for made in before {
        assert_eq!(made.await.unwrap(), (1, 1));
    }
    for made in after {
        assert_eq!(made.await.unwrap(), (2, 2), "one load for all of them");
    }
    assert_eq!(
        made_of_a(cache.clone(), loads.clone()).await,
        (2, 2),
        "kept"
    );
}

#[tokio::test]
async fn what_is_made_of_something_stale_is_no_newer_than_that() {
    let (cache, loads) = (in_memory(), Loads::default());
    let a = |loads: Loads| {
        let entry = cache.entry("a").tags(["t"]).stale_while_revalidate(MINUTE);
        entry.get_or_set(move || async move { loads.held().await })
    };
    loads.open();
    assert_eq!(*a(loads.clone()).await.unwrap(), 1);
    cache.invalidate(Selector::tag("t").soft());
    let of_a = async || {
        let load = async || *a(loads.clone()).await.unwrap();
        *cache.get_or_set("made", MINUTE, load).await.unwrap()
    };
    assert_eq!(of_a().await, 1, "while it is refreshed");
    assert_eq!(cache.get::<usize>("made").await.unwrap(), None);
    loads.open();
    settle().await;
    assert_eq!(of_a().await, 2);
    assert!(cache.exists("made").await.unwrap());
}

#[tokio::test]
async fn of_many_values_those_of_one_name_count_as_one_and_what_is_too_much_is_not_kept() {
    let cache = builder().build().unwrap();
    let made = async |key: &'static str| {
        let load = async || {
            for number in 0..40 {
                let read = match key {
                    "sum" => format!("user:{number}"),
                    _ => format!("name{number}"),
                };
                cache.get::<u64>(read).await.unwrap();
            }
            1_u64
        };
        cache.get_or_set(key, MINUTE, load).await.unwrap()
    };
    made("sum").await;
    assert!(cache.exists("sum").await.unwrap());
    cache.set("user:77", 1_u64).await.unwrap();
    assert!(!cache.exists("sum").await.unwrap(), "rather once too often");
    made("names").await;
    assert!(!cache.exists("names").await.unwrap());
    let refused = cache.stats().refusals(Reason::TooManyTags);
    assert_eq!(refused, 1);
    // What is made of that is made of too much as well.
    let outer = async || *made("names").await;
    cache.get_or_set("outer", MINUTE, outer).await.unwrap();
    assert!(!cache.exists("outer").await.unwrap());
}

#[tokio::test]
async fn what_a_load_for_itself_has_read_of_its_own_key_does_no_harm() {
    let cache = Arc::new(in_memory());
    let load = async || {
        cache.get::<u64>("self").await.unwrap();
        7_u64
    };
    cache.get_or_set("self", MINUTE, load).await.unwrap();
    assert_eq!(cache.get::<u64>("self").await.unwrap().as_deref(), Some(&7));
}
