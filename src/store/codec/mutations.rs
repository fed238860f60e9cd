//! Frames at random, and what becomes of them: none that was changed is served, none panics.
//!
//! 20,000 by default; the long command is `MUTATIONS=1000000 cargo test --lib mutated`.

use super::{tests::*, *};
use crate::policy::testing::Random;

const KEY: &[u8] = b"the key of all these frames";

fn number(random: &mut Random) -> u64 {
    (0..4).fold(0, |number, _| number << 16 | random.below(1 << 16) as u64)
}

fn bytes(random: &mut Random, most: usize) -> Vec<u8> {
    let length = random.below(most + 1);
    (0..length).map(|_| random.below(256) as u8).collect()
}

fn name(random: &mut Random) -> HeaderName {
    let names = ["link", "etag", "vary", "x-a", "content-language"];
    match random.below(3) {
        0 => HeaderName::try_from(format!("x-{}", random.below(1000))).expect("a name"),
        _ => HeaderName::from_static(random.pick(&names)),
    }
}

/// The head of a response, and its body.
fn response(random: &mut Random) -> (StoredHead, Vec<u8>) {
    let mut lines = fields(&[("date", "Thu, 01 Jan 2026 12:00:00 GMT")]);
    for _ in 0..random.below(12) {
        lines.append(name(random), random.field_value(24));
    }
    let status = [200, 203, 204, 301, 308, 404, 410, 599][random.below(8)];
    let version = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][random.below(3)];
    let mut head = head_of(status, version, &lines);
    head.shareable = random.below(2) == 0;
    head.shareable_with_authorization = random.below(2) == 0;
    head.lifetime.initial_age = number(random) % (MAX_TIME + 1);
    head.lifetime.freshness = number(random) % (MAX_TIME + 1);
    head.lifetime.kept = number(random) % (MAX_TIME + 1);
    head.staleness = Staleness {
        while_revalidate: number(random) % (MAX_TIME + 1),
        if_error: number(random) % (MAX_TIME + 1),
        allowed: random.below(2) == 0,
    };
    head.said = Said {
        ttl: (random.below(2) == 0).then(|| number(random) % (MAX_TIME + 1)),
        public: random.below(2) == 0,
    };
    head.own_tag = random.below(2) == 0;
    head.validator = (random.below(2) == 0).then(|| "version 1".into());
    head.groups = (0..random.below(3))
        .map(|number| format!("group {number}, \u{e9}").into())
        .collect();
    head.tags = (0..random.below(3))
        .map(|number| format!("tag:{number}").into())
        .collect();
    let longest = [0, 1, 40, 400][random.below(4)];
    let body = bytes(random, longest);
    (head, body)
}

fn rule(random: &mut Random) -> Vec<HeaderName> {
    (0..=random.below(5)).map(|_| name(random)).collect()
}

/// A writer and its sequence.
fn named(random: &mut Random) -> (u64, Sequence) {
    let sequence = Sequence {
        local: number(random),
        shared: number(random),
    };
    (number(random), sequence)
}

/// A frame for `key`, now and then a rule or a value.
fn frame(random: &mut Random, key: &[u8]) -> Vec<u8> {
    match random.below(6) {
        0 => return encode_rule(key, &rule(random)).to_vec(),
        1 => {
            let tags: Vec<Box<str>> = (0..random.below(3))
                .map(|number| format!("tag:{number}").into())
                .collect();
            let named = named(random);
            let body = bytes(random, 40);
            let made = number(random) % MAX_TIME;
            return encode_value(key, &value_head(&tags), made, named, &body).to_vec();
        }
        _ => {}
    }
    let (head, body) = response(random);
    let named = named(random);
    encode_response(key, &head, number(random) % MAX_TIME, named, &body).to_vec()
}

#[test]
fn random_frames_are_read_as_they_were_written() {
    let mut random = Random::new(1);
    for round in 0..5_000 {
        let key = bytes(&mut random, 60);
        let (head, body) = response(&mut random);
        let (time, named) = (number(&mut random) % (MAX_TIME + 1), named(&mut random));
        let written = encode_response(&key, &head, time, named, &body);
        let Ok(Frame::Response(response)) = read(&key, &written) else {
            panic!("round {round}: not read");
        };
        assert_eq!(
            response.checked_body().expect("whole"),
            body,
            "round {round}"
        );
        assert_eq!(response.headers, head.headers, "round {round}");
        assert_eq!((response.writer, response.sequence), named);
        let times = [
            response.response_time,
            response.initial_age,
            response.freshness,
            response.kept,
        ];
        let lifetime = head.lifetime;
        assert_eq!(
            times,
            [
                time,
                lifetime.initial_age,
                lifetime.freshness,
                lifetime.kept
            ]
        );
        assert_eq!(response.staleness, head.staleness);
        assert_eq!(
            (response.own_tag, &response.validator),
            (head.own_tag, &head.validator)
        );
        assert_eq!((response.said, &response.groups), (head.said, &head.groups));
        assert_eq!(response.tags, head.tags);
        assert_eq!(
            (response.status, response.version),
            (head.status, head.version)
        );
        assert_eq!(
            (response.shareable, response.shareable_with_authorization),
            (head.shareable, head.shareable_with_authorization)
        );
        let names = rule(&mut random);
        let written = encode_rule(&key, &names);
        assert_eq!(read(&key, &written), Ok(Frame::Rule(names)));
    }
}

/// Two numbers of the frame in each other's places: where they stand does not matter.
fn swap(random: &mut Random, frame: &mut [u8]) {
    let width = [2, 4, 8][random.below(3)];
    if frame.len() < 2 * width {
        return;
    }
    let first = random.below(frame.len() - 2 * width + 1);
    let second = first + width + random.below(frame.len() - first - 2 * width + 1);
    for at in 0..width {
        frame.swap(first + at, second + at);
    }
}

/// A length or count changed to one that is nearby, empty or huge.
fn resize(random: &mut Random, frame: &mut [u8]) {
    let width = [2, 4, 8][random.below(3)];
    if frame.len() < width {
        return;
    }
    let at = match random.below(3) {
        0 => HEAD - 4,
        1 => HEAD,
        _ => random.below(frame.len()),
    };
    let at = at.min(frame.len() - width);
    let mut number = [0; 8];
    number[..width].copy_from_slice(&frame[at..at + width]);
    let number = u64::from_le_bytes(number);
    let number = match random.below(5) {
        0 => number.wrapping_add(1),
        1 => number.wrapping_sub(1),
        2 => 0,
        3 => u64::MAX,
        _ => frame.len() as u64,
    };
    frame[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(frame.len() + 1);
    match random.below(8) {
        0 | 1 if at < frame.len() => frame[at] ^= 1 << random.below(8),
        2 if at < frame.len() => frame[at] = random.below(256) as u8,
        3 => frame.truncate(at),
        4 => {
            let inserted = bytes(random, 9);
            frame.splice(at..at, inserted);
        }
        5 => {
            let end = (at + random.below(9)).min(frame.len());
            frame.drain(at..end);
        }
        6 => {
            // The start of this one, the end of the other: often cut at the same place.
            let from = match random.below(2) {
                0 => at.min(other.len()),
                _ => random.below(other.len() + 1),
            };
            frame.truncate(at);
            frame.extend_from_slice(&other[from..]);
        }
        7 => resize(random, frame),
        _ => swap(random, frame),
    }
}

#[test]
fn no_mutated_frame_is_served() {
    let count = std::env::var("MUTATIONS")
        .ok()
        .map_or(20_000, |count| count.parse().expect("a number"));
    let mut random = Random::new(7);
    let mut faults = [0_u64; FrameFault::ALL.len()];
    let (mut changed, mut made_right) = (0, 0);
    while changed < count {
        let original = frame(&mut random, KEY);
        let key: &[u8] = [KEY, b"another key"][random.below(2)];
        let other = frame(&mut random, key);
        for _ in 0..20 {
            let mut mutated = original.clone();
            for _ in 0..=random.below(3) {
                mutate(&mut random, &mut mutated, &other);
            }
            if mutated == original || (key == KEY && mutated == other) {
                continue;
            }
            changed += 1;
            match served(KEY, &mutated) {
                Ok(()) => panic!("{mutated:02x?} is served, and was written as {original:02x?}"),
                Err(fault) => faults[fault as usize] += 1,
            }
            // What is behind the checksums must not panic either.
            make_right(&mut mutated);
            made_right += u64::from(served(KEY, &mutated).is_ok());
        }
    }
    for fault in [
        FrameFault::Foreign,
        FrameFault::Version,
        FrameFault::Truncated,
        FrameFault::Damaged,
        FrameFault::OtherKey,
        FrameFault::Malformed,
    ] {
        assert!(faults[fault as usize] > 0, "{fault} never happened");
    }
    assert!(made_right > 0, "no changed head was ever readable");
}
