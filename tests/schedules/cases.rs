//! Schedules, played and judged.
//!
//! `SCHEDULES` says how many, `SCHEDULE_SEED` plays one; a failure names the seed of its schedule.

use crate::{
    model::{schedule::Schedule, tally::Tally},
    support::cache,
};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A schedule that does not hold.
struct Failure {
    seed: u64,
    why: String,
    log: String,
}

/// So many failures of a thread say enough.
const ENOUGH: usize = 20;

/// The schedules of these seeds, and which of them do not hold.
fn play(seeds: impl Iterator<Item = u64>) -> (Tally, Vec<Failure>) {
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    for (count, seed) in seeds.enumerate() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut schedule = Schedule::new(seed, cache());
            if let Err(why) = schedule.play().await {
                let log = schedule.log.clone() + &schedule.calls();
                failures.push(Failure { seed, why, log });
            }
            tally.add(&schedule.tally);
        });
        if failures.len() >= ENOUGH {
            break;
        }
        if (count + 1) % 10_000 == 0 {
            println!("{} schedules of this thread are played", count + 1);
        }
    }
    (tally, failures)
}

#[test]
fn whatever_happens_in_whatever_order_the_model_holds() {
    let one = number("SCHEDULE_SEED");
    let schedules = one.map_or_else(|| number("SCHEDULES").unwrap_or(2_000), |_| 1);
    let seeds = one.unwrap_or(1)..one.unwrap_or(1) + schedules;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut tally, mut failures) = (Tally::default(), Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|worker| {
                let seeds = seeds.clone().skip(worker).step_by(workers);
                scope.spawn(move || play(seeds))
            })
            .collect();
        for worker in workers {
            let (met, failed) = worker.join().expect("playing does not panic");
            tally.add(&met);
            failures.extend(failed);
        }
    });
    println!("{schedules} schedules\n{tally}");
    failures.sort_unstable_by_key(|failure| failure.seed);
    for Failure { seed, why, .. } in &failures {
        println!("SCHEDULE_SEED={seed}: {why}");
    }
    if let Some(Failure { seed, why, log }) = failures.first() {
        panic!("{log}\n{why}\nagain: SCHEDULE_SEED={seed}");
    }
    if schedules >= 1_000 {
        tally.shows_enough(schedules);
    }
}
