//! N7: what makes no sense is an error at the call, and never a partial effect.

use tower_response_cache::{Cache, Selector};

use crate::support::log::Log;

#[tokio::test]
async fn a_tag_or_pattern_that_makes_no_sense_is_refused_and_changes_nothing() {
    let cache = Cache::in_memory();
    let log = Log::default();
    let _listening = log.listen();
    #[rustfmt::skip]
    let rows = [
        ("empty", Selector::tag(""), "is empty"),
        ("300 bytes", Selector::tag("t".repeat(300)), "is longer than 256 bytes"),
        ("a star", Selector::tag("user:*"), "has a '*' in it"),
        ("a comma", Selector::tag("a,b"), "has a ',' in it"),
        ("a brace", Selector::tag("{a"), "has a brace"),
        ("a newline", Selector::tag("a\nb"), "control character"),
        ("a pattern of 4 KiB and more", Selector::path(&format!("/{}*", "a".repeat(4096))), "is longer than 4,096 bytes"),
        ("the same of values", Selector::value_prefix(&"a".repeat(4097)), "is longer than 4,096 bytes"),
        ("65 stars", Selector::values(&"a*".repeat(65)), "has more than 64 '*'"),
        ("softly", Selector::tag("").soft(), "is empty"),
    ];
    for (sentence, selector, says) in rows {
        let before = cache.sequence();
        let error = selector.check().expect_err(sentence).to_string();
        assert!(
            error.contains(says) && !error.contains('\n'),
            "{sentence}: {error}"
        );
        assert!(error.len() < 200, "{sentence}: {error}");
        let done = cache.invalidate(selector);
        assert_eq!(
            done.refused().map(ToString::to_string).as_deref(),
            Some(&*error)
        );
        assert!(!done.is_pending());
        let told = done.everywhere().await.expect_err(sentence).to_string();
        assert!(told.contains(says), "{sentence}: {told}");
        assert_eq!(cache.sequence(), before, "{sentence}: no record");
        let warned = log.lines().iter().any(|line| line.contains(says));
        assert!(warned, "{sentence}: a warning");
    }
    for good in [
        Selector::tag("caf\u{e9} 1"),
        Selector::path("/*/a*b*"),
        Selector::all(),
    ] {
        assert!(cache.invalidate(good).refused().is_none());
    }
}
