//! The examples that keep values, as somebody meets them who starts them.

use crate::process::{Finished, run};

fn shown(finished: Finished) -> Vec<String> {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stderr, "");
    finished.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn cache_service_asks_its_supplier_once_and_closes() {
    let said = shown(run("cache_service", &["--once", "--listen", "127.0.0.1:0"]));
    assert!(
        said[0].starts_with("Serving on http://127.0.0.1:"),
        "{said:?}"
    );
    assert_eq!(said.last().map(String::as_str), Some("Closed."));
    let asked = &said[2..said.len() - 1];
    let asked: Vec<_> = asked.iter().map(|line| line[12..].trim()).collect();
    assert_eq!(asked[0], "GET    /price/tea     3.95");
    let stats = asked[1];
    assert!(stats.contains("the supplier was called 1 times"), "{stats}");
    assert_eq!(
        asked[2..9],
        [
            "PUT    /price/tea     kept",
            "GET    /price/tea     2.50",
            "DELETE /price/tea     forgotten",
            "GET    /price/tea     3.95",
            "GET    /price/nothing nothing has no price",
            "PUT    /price/tea     a price is a number of cents, not \"cheap\"",
            "DELETE /prices        all forgotten",
        ]
    );
    assert!(
        asked[9].contains("the supplier was called 3 times"),
        "{}",
        asked[9]
    );
}

/// What `cached_function` says, without the times.
fn functions(arguments: &[&str]) -> Vec<String> {
    let without_time = |line: String| match line.split_once(" (took ") {
        Some((start, _)) => start.to_owned(),
        None => line,
    };
    let said = shown(run("cached_function", arguments));
    said.into_iter().map(without_time).collect()
}

const WORDS: [&str; 6] = [
    "prime  called a number that only 1 and itself divide",
    "prime  kept   a number that only 1 and itself divide",
    "xyzzy  called means nothing",
    "xyzzy  kept   means nothing",
    "lost   called the dictionary is not at hand",
    "lost   called the dictionary is not at hand",
];

#[test]
fn cached_function_calls_once_for_a_hundred_callers() {
    let said = functions(&[]);
    assert_eq!(
        said[..6],
        [
            "17984 primes below 200000, for 100 callers at once: 1 calls",
            "17984 again",
            "forgotten and asked again: 1 call",
            "after delete_pattern(\"primes:*\"): 2 calls",
            "refreshed, and called past the cache: 4 calls",
            "",
        ]
    );
    assert_eq!(said[6..], WORDS);
}

#[cfg(all(unix, feature = "redis"))]
#[test]
fn with_redis_a_second_run_calls_the_function_no_more() {
    let server = crate::redis_server::RedisServer::start();
    let url = server.url();
    let first = functions(&["--redis", &url]);
    assert_eq!(
        first[0],
        "17984 primes below 200000, for 100 callers at once: 1 calls"
    );
    assert_eq!(first[6..], WORDS);
    let second = functions(&["--redis", &url]);
    assert_eq!(
        second[0],
        "17984 primes below 200000, for 100 callers at once: 0 calls"
    );
    assert_eq!(second[6], WORDS[1].replace("called", "kept  "));
    let service = ["--once", "--listen", "127.0.0.1:0", "--redis", &url];
    let said = shown(run("cache_service", &service));
    assert_eq!(said.last().map(String::as_str), Some("Closed."));
}
