//! What is no frame of ours at our key is a miss, is counted and healed by the next fill, and costs
//! little. Alone in its process, because the allocator counts everything.
#![cfg(feature = "redis")]

mod support;

use std::{
    alloc::System,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::{
    App, Origin, eventually, load,
    log::Log,
    redis_server::{RedisServer, Reply},
};
use tower_response_cache::{Cache, FrameFault, ResponseCacheLayer};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MOST_ALLOCATED: u64 = 4 << 20;
/// How often each damage is read.
const TURNS: u64 = 5;

/// How many bytes are live at the most while something is done, over those before.
async fn peak_of<T>(work: impl Future<Output = T>) -> (T, u64) {
    let live = || {
        let stats = ALLOCATOR.stats();
        stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
    };
    let is_over = Arc::new(AtomicBool::new(false));
    let (watching, before) = (is_over.clone(), live());
    let watcher = std::thread::spawn(move || {
        let mut peak = before;
        while !watching.load(Ordering::Acquire) {
            peak = peak.max(live());
        }
        peak
    });
    let output = work.await;
    is_over.store(true, Ordering::Release);
    let peak = watcher.join().expect("it only looks");
    (output, u64::try_from(peak - before).unwrap_or(0))
}

/// A cache that knows nothing yet and asks Redis each time.
async fn node(server: &RedisServer) -> (Cache, Origin, App) {
    let cache = Cache::redis(server.url(), "damaged")
        .memory_ttl(Duration::ZERO)
        .build()
        .expect("good settings");
    cache.connect().await.expect("Redis is well");
    let origin = load::origin();
    let app = origin.behind(&ResponseCacheLayer::new(&cache));
    (cache, origin, app)
}

fn put(server: &RedisServer, key: &str, bytes: &[u8]) {
    server
        .command(&[b"SET", key.as_bytes(), bytes, b"PX", b"60000"])
        .ok();
}

fn changed(frame: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame);
    frame
}

/// What to put at the key, given the frame that was there.
type Damage = fn(&RedisServer, key: &str, frame: &[u8]);

const DAMAGES: &[(&str, FrameFault, Damage)] = &[
    ("a list", FrameFault::WrongType, |server, key, _| {
        server.command(&["DEL", key]);
        assert_eq!(server.command(&["RPUSH", key, "a", "b"]).integer(), 2);
    }),
    ("a hash", FrameFault::WrongType, |server, key, _| {
        server.command(&["DEL", key]);
        assert_eq!(server.command(&["HSET", key, "a", "b"]).integer(), 1);
    }),
    (
        "nothing in a string",
        FrameFault::Truncated,
        |server, key, _| {
            put(server, key, b"");
        },
    ),
    ("random bytes", FrameFault::Foreign, |server, key, _| {
        let bytes: Vec<u8> = (0..5_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80)
            .collect();
        put(server, key, &bytes);
    }),
    (
        "cut in its head",
        FrameFault::Truncated,
        |server, key, frame| {
            put(server, key, &frame[..40]);
        },
    ),
    (
        "cut in its body",
        FrameFault::Truncated,
        |server, key, frame| {
            put(server, key, &frame[..frame.len() - 1]);
        },
    ),
    (
        "a bit of its head",
        FrameFault::Damaged,
        |server, key, frame| {
            put(server, key, &changed(frame, |frame| frame[60] ^= 1));
        },
    ),
    (
        "a bit of its checksum",
        FrameFault::Damaged,
        |server, key, frame| {
            put(server, key, &changed(frame, |frame| frame[7] ^= 0x10));
        },
    ),
    (
        "a bit of its body",
        FrameFault::Damaged,
        |server, key, frame| {
            let last = frame.len() - 1;
            put(server, key, &changed(frame, |frame| frame[last] ^= 0x80));
        },
    ),
    (
        "another version",
        FrameFault::Version,
        |server, key, frame| {
            put(
                server,
                key,
                &changed(frame, |frame| frame[3] = frame[3].wrapping_add(1)),
            );
        },
    ),
    (
        "another key's frame",
        FrameFault::OtherKey,
        |server, key, _| {
            let other = server.keys("damaged:response:/other:*");
            let copied = server.command(&["COPY", &other[0], key, "REPLACE"]);
            assert_eq!(copied.integer(), 1);
        },
    ),
    (
        "a byte too many",
        FrameFault::Malformed,
        |server, key, frame| {
            put(server, key, &changed(frame, |frame| frame.push(0)));
        },
    ),
    (
        "50 MB of nothing",
        FrameFault::TooLarge,
        |server, key, _| {
            server.command(&["DEL", key]);
            let length = server.command(&["SETRANGE", key, "49999999", "x"]);
            assert_eq!(length.integer(), 50_000_000);
        },
    ),
    (
        "a frame, and 50 MB after it",
        FrameFault::TooLarge,
        |server, key, frame| {
            put(server, key, frame);
            server.command(&["SETRANGE", key, "49999999", "x"]);
        },
    ),
];

/// Reads what was put at the key with a new cache, and lets it write what is right; says how many
/// bytes the reading took at the most, or `None` when Redis was too busy with its 50 MB to answer
/// either of them in time.
async fn read_damaged(server: &RedisServer, fault: FrameFault, log: &Log) -> Option<u64> {
    let (cache, origin, app) = node(server).await;
    let lines = log.lines().len();
    let (answer, peak) = peak_of(load::ask(&app, "/page")).await;
    assert_eq!((answer.x_cache(), origin.calls()), ("MISS", 1));
    assert!(peak < MOST_ALLOCATED, "{peak} bytes for a miss");
    // Or given up.
    eventually("its fill is sent", || {
        let stats = cache.stats();
        stats.remote().writes() + stats.remote().skipped() == 1
    })
    .await;
    let stats = cache.stats();
    let refused = |fault: &FrameFault| stats.remote().refused_frames(*fault);
    let in_all: u64 = FrameFault::ALL.iter().map(refused).sum();
    assert_eq!(in_all, refused(&fault), "only {fault}: {stats}");
    assert!(in_all == 1 || stats.remote().timeouts() > 0, "{stats}");
    assert_eq!(log.lines()[lines..], [""; 0]);
    assert!(cache.health().is_good(), "{}", cache.health());
    cache.close().await;
    (in_all == 1 && stats.remote().writes() == 1).then_some(peak)
}

/// A new cache finds what the one before has stored.
async fn is_healed(server: &RedisServer) -> bool {
    let (cache, origin, app) = node(server).await;
    let is_hit = load::ask(&app, "/page").await.is_hit();
    let is_late = cache.stats().remote().timeouts() > 0;
    assert!(is_hit || is_late, "not healed: {}", cache.stats());
    cache.close().await;
    is_hit && origin.calls() == 0
}

#[test]
fn what_is_no_frame_of_ours_is_a_miss_that_the_next_fill_heals() {
    let log = Log::default();
    let _listening = log.listen();
    log.runtime().block_on(async {
        let server = RedisServer::start();
        let (writer, _, app) = node(&server).await;
        load::ask(&app, "/other").await;
        load::ask(&app, "/page").await;
        eventually("they are written", || writer.stats().remote().writes() == 2).await;
        let keys = server.keys("damaged:response:/page:*");
        let Reply::Bulk(frame) = server.command(&["GET", &keys[0]]) else {
            panic!("no frame at {keys:?}");
        };
        for (name, fault, damage) in DAMAGES {
            let (mut turns, mut tries, mut most) = (0, 0, 0);
            while turns < TURNS {
                tries += 1;
                assert!(tries < 20 * TURNS, "{name}: Redis is always late");
                damage(&server, &keys[0], &frame);
                let Some(peak) = read_damaged(&server, *fault, &log).await else {
                    continue;
                };
                most = most.max(peak);
                turns += u64::from(is_healed(&server).await);
            }
            println!("{name}: {tries} tries, at most {} KiB", most >> 10);
        }
        writer.close().await;
    });
}
