use super::*;
use crate::target::Resource;

fn resource(path: &str) -> Selector {
    Kind::Resource(Resource::new(Some("h"), path, None)).into()
}

fn subject(path: &str) -> Subject {
    Subject::response(Some(Some("h")), path, Some(None))
}

fn value(name: &str) -> Subject {
    Subject {
        target: Target(1),
        origin: 0,
        space: Space::Value,
        name: name.into(),
    }
}

fn names(names: &[&str]) -> Box<[Box<str>]> {
    names.iter().map(|name| (*name).into()).collect()
}

impl Log {
    fn says(&self, sequence: Sequence, subject: &Subject) -> Verdict {
        self.judge(sequence, subject, Names::default())
    }
}

/// In the order of this node.
fn local(number: u64) -> Sequence {
    Sequence {
        local: number,
        shared: 0,
    }
}

/// A record of this node that nobody else knows.
fn own(number: u64) -> Number {
    Number {
        local: number,
        shared: 0,
        pending: number,
    }
}

#[test]
fn a_record_judges_what_started_before_it() {
    let log = Log::default();
    let before = log.sequence();
    let generation = log.generation();
    let done = log.add(&resource("/a"), 0);
    assert!(log.generation() > generation);
    assert_eq!(log.sequence().number(), done);
    assert_eq!(log.says(before, &subject("/a")), Verdict::Unusable);
    assert_eq!(log.says(before, &subject("/b")), Verdict::Usable);
    assert_eq!(log.says(log.sequence(), &subject("/a")), Verdict::Usable);
    log.add(&Selector::all(), 0);
    assert_eq!(log.says(local(done), &subject("/b")), Verdict::Unusable);
    assert_eq!(log.says(log.sequence(), &subject("/b")), Verdict::Usable);
}

#[test]
fn a_selector_selects_what_it_names_and_nothing_else() {
    let group = |authority: &str, name: &str| {
        Selector::from(Kind::Group {
            authority: Some(authority.into()),
            name: name.into(),
        })
    };
    let none: &[&str] = &[];
    #[rustfmt::skip]
    let rows = [
        ("its resource", resource("/a"), subject("/a"), none, none, true),
        ("another resource", resource("/a"), subject("/b"), none, none, false),
        ("its tag", Selector::tag("t"), subject("/a"), none, &["s", "t"][..], true),
        ("another tag", Selector::tag("t"), subject("/a"), none, &["T", "t "][..], false),
        ("a group is a tag", Selector::tag("t"), subject("/a"), &["t"], none, true),
        ("its group", group("h", "t"), subject("/a"), &["s", "t"], none, true),
        ("a group of another origin", group("i", "t"), subject("/a"), &["t"], none, false),
        ("a tag is no group", group("h", "t"), subject("/a"), none, &["t"], false),
        ("a path", Selector::path("/a"), subject("/a"), none, none, true),
        ("another path", Selector::path("/a"), subject("/a/"), none, none, false),
        ("a pattern", Selector::path("/*/b"), subject("/a/b"), none, none, true),
        ("another pattern", Selector::path("/*/b"), subject("/a/c"), none, none, false),
        ("a prefix", Selector::path_prefix("/a"), subject("/ab"), none, none, true),
        ("another prefix", Selector::path_prefix("/a"), subject("/b"), none, none, false),
        ("a star in a prefix", Selector::path_prefix("/*"), subject("/a"), none, none, false),
        ("values", Selector::values("users_list:*"), value("users_list:1"), none, none, true),
        ("other values", Selector::values("users_list:*"), value("users:1"), none, none, false),
        ("one value", Selector::values("user:1"), value("user:1"), none, none, true),
        ("values by prefix", Selector::value_prefix("user:"), value("user:1"), none, none, true),
        ("a response is no value", Selector::values("*"), subject("/a"), none, none, false),
        ("a value is no response", Selector::path("*"), value("/a"), none, none, false),
        ("all responses", Selector::all(), subject("/a"), none, none, true),
        ("all values", Selector::all(), value("/a"), none, none, true),
    ];
    for (sentence, selector, subject, groups, tags, is_selected) in rows {
        for is_soft in [false, true] {
            let log = Log::default();
            let selector = match is_soft {
                true => selector.clone().soft(),
                false => selector.clone(),
            };
            let number = log.add(&selector, 7);
            let (groups, tags) = (names(groups), names(tags));
            let says = |sequence| {
                let names = Names {
                    groups: &groups,
                    tags: &tags,
                };
                log.judge(local(sequence), &subject, names)
            };
            let expected = match (is_selected, is_soft) {
                (false, _) => Verdict::Usable,
                (true, true) => Verdict::Stale(7),
                (true, false) => Verdict::Unusable,
            };
            assert_eq!(says(number - 1), expected, "{sentence}, soft: {is_soft}");
            assert_eq!(says(number), Verdict::Usable, "{sentence}, filled later");
        }
    }
}

#[test]
fn what_is_soft_makes_stale_since_the_first_time_and_hard_wins() {
    let log = Log::default();
    let soft = || Selector::tag("t").soft();
    let tags = names(&["t", "u"]);
    let says = |sequence| {
        let names = Names {
            groups: &[],
            tags: &tags,
        };
        log.judge(local(sequence), &subject("/a"), names)
    };
    log.add(&soft(), 10);
    log.add(&soft(), 20);
    assert_eq!(says(0), Verdict::Stale(10), "repeating it prolongs nothing");
    assert_eq!(says(1), Verdict::Stale(20), "filled in between");
    assert_eq!(says(2), Verdict::Usable);
    log.add(&Selector::tag("u").soft(), 30);
    assert_eq!(says(2), Verdict::Stale(30));
    assert_eq!(says(0), Verdict::Stale(10), "the earliest counts");
    log.add(&Selector::all().soft(), 40);
    assert_eq!(says(3), Verdict::Stale(40));
    assert_eq!(says(2), Verdict::Stale(30), "all of it later");
    log.add(&Selector::tag("u"), 50);
    assert_eq!(says(3), Verdict::Unusable, "hard after soft");
    log.add(&soft(), 60);
    assert_eq!(
        says(4),
        Verdict::Unusable,
        "soft after hard makes nothing usable"
    );
    assert_eq!(says(5), Verdict::Stale(60));
}

#[test]
fn the_oldest_records_leave_and_the_floor_rises_to_them() {
    let mut records = Records::default();
    for sequence in 1..=10 {
        records.note(
            &Selector::tag(format!("{sequence}")),
            (own(sequence), sequence),
            0,
        );
        records.shrink_to(4, 4);
    }
    assert_eq!(records.by_target.len(), 4);
    assert_eq!((records.floor.local, records.forgotten), (0, 6));
    assert!(records.order.len() <= 8);
    let says = |sequence, tag: &str| {
        let tags = names(&[tag]);
        let names = Names {
            groups: &[],
            tags: &tags,
        };
        records.judge(local(sequence), &subject("/a"), names, 0)
    };
    assert_eq!(says(5, "6"), Verdict::Unusable, "nobody knows any more");
    assert_eq!(says(6, "6"), Verdict::Usable);
    // Six of 4,096 floors have risen: hardly anything else is below one.
    let others = (100..300).filter(|other| says(0, &other.to_string()) == Verdict::Usable);
    let is_hit_itself = says(0, "none") == Verdict::Unusable;
    assert!(is_hit_itself || others.count() > 180);
}

#[test]
fn the_oldest_patterns_leave_and_the_floor_rises_to_them() {
    let mut records = Records::default();
    for sequence in 1..=4 {
        records.note(
            &Selector::path(&format!("/{sequence}*")),
            (own(sequence), sequence),
            0,
        );
    }
    records.note(&Selector::path("/1*"), (own(5), 5), 0);
    records.note(&Selector::path("/5*"), (own(6), 6), 0);
    records.shrink_to(4, 4);
    assert_eq!(records.patterns.len(), 4);
    assert_eq!(
        (records.floor.local, records.forgotten),
        (2, 1),
        "the first was renewed"
    );
    let says = |sequence, path| records.judge(local(sequence), &subject(path), Names::default(), 0);
    assert_eq!(says(2, "/10"), Verdict::Unusable);
    assert_eq!(says(5, "/10"), Verdict::Usable);
    assert_eq!(
        says(2, "/20"),
        Verdict::Usable,
        "it is not older than what left"
    );
    assert_eq!(says(1, "/20"), Verdict::Unusable);
}

#[test]
fn a_repeated_record_takes_no_more_room() {
    let mut records = Records::default();
    for sequence in 1..=1000 {
        records.note(&Selector::tag("t"), (own(sequence), sequence), 0);
        records.note(&Selector::path("/a*"), (own(sequence), sequence), 0);
        records.shrink_to(4, 4);
    }
    assert_eq!((records.by_target.len(), records.patterns.len()), (1, 1));
    assert!(records.order.len() <= 9, "{}", records.order.len());
    assert_eq!((records.floor.local, records.forgotten), (0, 0));
}

#[test]
fn a_hard_record_of_all_takes_the_place_of_the_others() {
    let log = Log::default();
    log.add(&Selector::tag("t"), 0);
    log.add(&Selector::path("/a*"), 0);
    assert_eq!(log.size().records, 2);
    log.add(&Selector::all().soft(), 0);
    assert_eq!(log.size().records, 2, "what is soft covers nothing hard");
    log.add(&Selector::all(), 0);
    assert_eq!(log.size().records, 0);
}

#[test]
fn what_was_checked_is_compared_with_later_patterns_alone_and_with_a_repeated_one_again() {
    let log = Log::default();
    let says = |since| log.judge_again(local(0), &subject("/a/1"), Names::default(), since);
    log.add(&Selector::path("/b/*"), 0);
    let checked = log.generation();
    assert_eq!(says(0), Verdict::Usable);
    log.add(&Selector::path("/a/*"), 0);
    log.add(&Selector::path("/c/*"), 0);
    assert_eq!(says(checked), Verdict::Unusable);
    assert_eq!(says(0), Verdict::Unusable);
    // Who claims to have been checked is believed.
    let checked = log.generation();
    assert_eq!(says(checked), Verdict::Usable);
    log.add(&Selector::path("/a/*"), 0);
    assert_eq!(says(checked), Verdict::Unusable, "the same again is later");
}

#[test]
fn of_many_soft_records_the_first_that_selects_counts() {
    let log = Log::default();
    let says = |sequence| log.says(local(sequence), &subject("/a"));
    for number in 1..=20 {
        log.add(&Selector::path("/a").soft(), number * 100);
    }
    // The latest eight are told apart; what is older counts from a time that is too early.
    for sequence in 13..20 {
        assert_eq!(
            says(sequence),
            Verdict::Stale((sequence + 1) * 100),
            "{sequence}"
        );
    }
    assert_eq!(says(0), Verdict::Stale(100));
    assert_eq!(says(12), Verdict::Stale(100));
    assert_eq!(says(20), Verdict::Usable);
}

/// What another node or this one read when it had seen this number.
fn shared(number: u64) -> Sequence {
    Sequence {
        local: 0,
        shared: number,
    }
}

#[test]
fn a_record_of_another_node_judges_by_the_shared_number() {
    let log = Log::default();
    let filled_before = log.sequence();
    log.hear(&Selector::tag("t"), 100, 7);
    let filled_after = log.sequence();
    assert_eq!((filled_after.local, filled_after.shared), (1, 100));
    let tags = names(&["t"]);
    let names = Names {
        groups: &[],
        tags: &tags,
    };
    let says = |sequence| log.judge(sequence, &subject("/a"), names);
    for (sentence, sequence, verdict) in [
        ("filled here before", filled_before, Verdict::Unusable),
        ("filled here after", filled_after, Verdict::Usable),
        ("filled elsewhere before", shared(99), Verdict::Unusable),
        ("filled elsewhere after", shared(100), Verdict::Usable),
    ] {
        assert_eq!(says(sequence), verdict, "{sentence}");
    }
    // Who has seen the number before the message came has read what was changed before.
    let log = Log::default();
    log.saw(100);
    let filled = log.sequence();
    log.hear(&Selector::all(), 100, 7);
    assert_eq!(log.says(filled, &subject("/a")), Verdict::Usable);
    log.hear(&Selector::all().soft(), 101, 7);
    assert_eq!(log.says(filled, &subject("/a")), Verdict::Stale(7));
}

#[test]
fn a_record_of_this_node_is_newer_than_everything_elsewhere_until_it_has_a_shared_number() {
    let selectors = [
        Selector::all(),
        Selector::path("/a"),
        Selector::path("/*"),
        Selector::all().soft(),
    ];
    for selector in selectors {
        let log = Log::default();
        let told = |log: &Log, local, shared| log.settle([&selector].into_iter(), local, shared);
        let is_usable = |sequence| log.says(sequence, &subject("/a")) == Verdict::Usable;
        let first = log.add(&selector, 0);
        let between = log.sequence();
        let second = log.add(&selector, 0);
        assert!(!is_usable(shared(u64::MAX)), "{selector:?}: not told");
        told(&log, first, 50);
        assert!(!is_usable(shared(60)), "{selector:?}: the second is not");
        told(&log, second, 70);
        assert!(!is_usable(shared(69)), "{selector:?}");
        assert!(is_usable(shared(70)), "{selector:?}");
        assert!(
            is_usable(local(second)),
            "{selector:?}: filled here after it"
        );
        assert!(!is_usable(local(between.local)), "{selector:?}: and before");
        assert_eq!(log.sequence().shared, 70);
    }
}

#[test]
fn a_late_message_of_another_node_is_not_covered_by_a_record_of_this_one() {
    let log = Log::default();
    let path = Selector::path("/a");
    let first = log.add(&path, 0);
    // Read here after our own change, but before we know of the other node's.
    let filled = log.sequence();
    log.hear(&path, 40, 0);
    assert_eq!(log.says(filled, &subject("/a")), Verdict::Unusable);
    log.settle([&path].into_iter(), first, 50);
    assert_eq!(log.says(filled, &subject("/a")), Verdict::Unusable);
    assert_eq!(log.says(shared(49), &subject("/a")), Verdict::Unusable);
    assert_eq!(log.says(shared(50), &subject("/a")), Verdict::Usable);
}

#[test]
fn floors_are_settled_with_what_was_told() {
    let mut records = Records::default();
    for number in 1..=4 {
        let path = Selector::path(&format!("/{number}*"));
        records.note(&path, (own(number), number), 0);
        let tag = Selector::tag(format!("{number}"));
        records.note(&tag, (own(number), number), 0);
    }
    records.shrink_to(1, 1);
    let says =
        |records: &Records, sequence| records.judge(sequence, &subject("/x"), Names::default(), 0);
    assert_eq!(says(&records, shared(u64::MAX)), Verdict::Unusable);
    records.floor.settle(2, 80);
    assert_eq!(
        says(&records, shared(u64::MAX)),
        Verdict::Unusable,
        "the third is not told"
    );
    records.floor.settle(3, 90);
    assert_eq!(says(&records, shared(89)), Verdict::Unusable);
    assert_eq!(says(&records, shared(90)), Verdict::Usable);
    assert_eq!(says(&records, local(3)), Verdict::Usable);
}
