//! Clients that ask one after the other and look at every answer.
//!
//! A body carries its key and nothing else, so that whoever reads it knows whether it is the right
//! one. The handler takes no time: what a request takes is what the cache made it wait.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{Answer, App, Origin, get};

/// How many ask at the same time.
pub const CLIENTS: usize = 64;
/// For how long a request may wait for the cache.
pub const DEADLINE: Duration = Duration::from_millis(50);
/// A late request is one that has no answer when a timer of this length has gone off, which was
/// started together with it and waits for the same threads: a busy machine delays both.
pub const LATE: Duration = Duration::from_millis(250);
/// From one request of a client to its next.
const PACE: Duration = Duration::from_millis(40);
/// Of four requests one is for one of these, the others for what nobody has asked for.
const HOT: u64 = 32;

/// The body of a path: over and over the path, mostly 1 KiB of it, at times 32.
pub fn body_of(path: &str) -> Bytes {
    let is_long = path.bytes().map(u32::from).sum::<u32>() % 16 == 0;
    let length: usize = if is_long { 32 << 10 } else { 1 << 10 };
    let line = format!("{path}\n");
    line.repeat(length.div_ceil(line.len())).into()
}

/// Answers each URI at once with its body.
pub fn origin() -> Origin {
    Origin::new(|_, request| {
        let path = request.uri().to_string();
        std::future::ready(Response::new(Body::from(body_of(&path))))
    })
}

/// Asks for a path and panics unless the answer is good and its own.
pub async fn ask(app: &App, path: &str) -> Answer {
    let answer = get(app, path).await;
    assert_eq!(answer.status, 200, "{path}");
    assert_eq!(
        answer.body,
        body_of(path),
        "another body than that of {path}"
    );
    answer
}

/// What the clients have seen.
#[derive(Debug, Default)]
struct Seen {
    is_over: AtomicBool,
    requests: AtomicU64,
    hits: AtomicU64,
    failures: AtomicU64,
    wrong: AtomicU64,
    late: AtomicU64,
    longest: AtomicU64,
    most_bytes: AtomicU64,
}

/// What has come of a load.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    pub requests: u64,
    pub hits: u64,
    /// Statuses from 500 on.
    pub failures: u64,
    /// Answers that were not those of their paths.
    pub wrong: u64,
    /// Requests that took longer than [`LATE`].
    pub late: u64,
    /// By the clock, with all that a busy machine adds.
    pub longest: Duration,
    /// The most that was live in the process at a time.
    pub most_bytes: u64,
}

/// The clients; they ask until [`end`](Self::end).
#[derive(Debug)]
pub struct Load {
    seen: Arc<Seen>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts them; `live_bytes` is asked after each request.
    pub fn start(app: &App, live_bytes: fn() -> u64) -> Self {
        let seen = Arc::new(Seen::default());
        let clients = (0..CLIENTS)
            .map(|number| tokio::spawn(client(number, app.clone(), seen.clone(), live_bytes)))
            .collect();
        Self { seen, clients }
    }

    /// What has come of it so far.
    pub fn sum(&self) -> Sum {
        let seen = &self.seen;
        let read = |number: &AtomicU64| number.load(Ordering::SeqCst);
        Sum {
            requests: read(&seen.requests),
            hits: read(&seen.hits),
            failures: read(&seen.failures),
            wrong: read(&seen.wrong),
            late: read(&seen.late),
            longest: Duration::from_micros(read(&seen.longest)),
            most_bytes: read(&seen.most_bytes),
        }
    }

    /// Lets every client finish what it asks for.
    pub async fn end(mut self) -> Sum {
        self.seen.is_over.store(true, Ordering::SeqCst);
        for client in std::mem::take(&mut self.clients) {
            let ended = timeout(Duration::from_secs(30), client).await;
            ended.expect("each answer comes").expect("no client panics");
        }
        self.sum()
    }
}

async fn client(number: usize, app: App, seen: Arc<Seen>, live_bytes: fn() -> u64) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0_u64.. {
        pace.tick().await; // The time of a person, so that Redis gets its share of the processors.
        if seen.is_over.load(Ordering::SeqCst) {
            return;
        }
        let path = match turn % 4 {
            0 => format!("/hot/{}", (turn / 4 + number as u64) % HOT),
            _ => format!("/cold/{number}/{turn}"),
        };
        let begin = Instant::now();
        let mut answer = pin!(get(&app, &path));
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = sleep(LATE) => { // A limit, not a pause: what takes so long counts as late.
                seen.late.fetch_add(1, Ordering::SeqCst);
                answer.await
            }
        };
        let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        seen.longest.fetch_max(took, Ordering::SeqCst);
        seen.most_bytes.fetch_max(live_bytes(), Ordering::SeqCst);
        seen.hits
            .fetch_add(answer.is_hit().into(), Ordering::SeqCst);
        let is_failure = answer.status.is_server_error();
        seen.failures.fetch_add(is_failure.into(), Ordering::SeqCst);
        let is_wrong = answer.status != 200 || answer.body != body_of(&path);
        seen.wrong.fetch_add(is_wrong.into(), Ordering::SeqCst);
        // The last, so that whoever waits for more requests finds them counted.
        seen.requests.fetch_add(1, Ordering::SeqCst);
    }
}
