//! What the benches share: a promise is a row, and a broken one fails `-- --check`.

use std::process::ExitCode;

/// A figure of this run beside another one of the same run.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) reference: f64,
    pub(crate) figure: f64,
    /// `None`: shown, not promised.
    pub(crate) bound: Option<f64>,
}

fn is_asked(flag: &str) -> bool {
    std::env::args().any(|argument| argument == flag)
}

/// Whether only the names were asked for; then they are printed.
pub(crate) fn is_listed(names: &[&str]) -> bool {
    let is_listed = is_asked("--list");
    for name in names.iter().filter(|_| is_listed) {
        println!("{name}: benchmark");
    }
    is_listed
}

/// Prints the rows; a failure if one is broken and `--check` was given.
pub(crate) fn report(rows: &[Row]) -> ExitCode {
    println!(
        "\n{:<28} {:>10} {:>10} {:>10}",
        "promise", "reference", "figure", "bound"
    );
    let mut kept = true;
    for row in rows {
        let holds = row.bound.is_none_or(|bound| row.figure <= bound);
        kept &= holds;
        let mark = if holds { "" } else { "  broken" };
        let bound = row
            .bound
            .map_or("-".to_owned(), |bound| format!("{bound:.1}"));
        println!(
            "{:<28} {:>10.1} {:>10.1} {bound:>10}{mark}",
            row.name, row.reference, row.figure
        );
    }
    if kept || !is_asked("--check") {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
