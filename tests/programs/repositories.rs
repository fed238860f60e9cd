//! The examples that have a database behind the cache.

use crate::process::run;

/// Method, path and what `X-Cache` said, of each line with an answer.
fn answers(stdout: &str) -> Vec<(&str, &str, &str)> {
    let lines = stdout
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let lines: Vec<Vec<&str>> = lines.collect();
    let is_answer = |words: &&Vec<&str>| words.len() > 3 && words[1].starts_with('/');
    lines
        .iter()
        .filter(is_answer)
        .map(|words| (words[0], words[1], words[3]))
        .collect()
}

#[test]
fn changing_one_row_makes_its_page_and_the_lists_that_show_it_new_and_leaves_the_others() {
    let finished = run("cached_repository", &["--once"]);
    assert_eq!(
        (finished.code, &*finished.stderr),
        (Some(0), ""),
        "{finished:?}"
    );
    let answers = answers(&finished.stdout);
    let said: Vec<&str> = answers.iter().map(|(_, _, said)| *said).collect();
    let what = &finished.stdout;
    assert_eq!(said[..4], ["MISS"; 4], "{what}");
    assert_eq!(said[4..8], ["HIT"; 4], "{what}");
    assert_eq!(answers[8].0, "PUT", "{what}");
    // The list that shows it, the next page, its own page, another one.
    assert_eq!(said[9..], ["MISS", "HIT", "MISS", "HIT"], "{what}");
    // Told by hand nowhere.
    let source = include_str!("../../examples/cached_repository.rs");
    assert!(!source.contains("Tags") && !source.contains(".tag("));
}

#[test]
fn every_view_that_was_counted_behind_the_cache_is_in_the_table() {
    let finished = run::<&str>("write_behind", &[]);
    assert_eq!(
        (finished.code, &*finished.stderr),
        (Some(0), ""),
        "{finished:?}"
    );
    let stdout = &finished.stdout;
    assert!(
        stdout.contains("the table says 50000 views; lost: 0"),
        "{stdout}"
    );
    let writes = stdout
        .lines()
        .find_map(|line| line.split_once(" writes of the table"));
    let writes: u64 = writes.expect("it says so").0.parse().unwrap();
    assert!((20..25_000).contains(&writes), "{stdout}");
}

#[test]
fn an_event_makes_new_what_an_order_has_changed_and_nothing_else() {
    let finished = run::<&str>("events", &[]);
    assert_eq!(
        (finished.code, &*finished.stderr),
        (Some(0), ""),
        "{finished:?}"
    );
    let lines: Vec<Vec<&str>> = finished
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let left: Vec<&str> = lines[..4]
        .iter()
        .map(|words| words[words.len() - 6])
        .collect();
    assert_eq!(left, ["2", "1", "0", "0"], "{}", finished.stdout);
    assert_eq!(lines[3][..4], ["order", "3:", "sold", "out"]);
    // Both at first, and product 1 after each of two orders.
    assert_eq!(finished.stdout.lines().last(), Some("loads: 4, hits: 4"));
}

#[test]
fn bad_options_of_examples_with_a_database_end_with_a_sentence_and_code_2() {
    let names = ["cached_repository", "write_behind", "events"];
    let arguments = [&["--onec"][..], &["--redis"], &["serve"]];
    for (name, arguments) in names
        .into_iter()
        .flat_map(|name| arguments.map(|it| (name, it)))
    {
        let finished = run(name, arguments);
        assert_eq!(
            (finished.code, finished.stdout.trim()),
            (Some(2), ""),
            "{finished:?}"
        );
        assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
        assert!(finished.stderr.trim_end().ends_with('.'), "{finished:?}");
    }
}
