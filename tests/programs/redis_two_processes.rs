//! Two processes with one Redis: what one stored is a hit on the other.
//!
//! The processes are `reverse_proxy --redis` in front of an origin that counts its calls, each on a
//! port of its own and asked with the same `Host`, as behind a load balancer.

use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use crate::process::{Answer, Client, Fields, Running, example, get, read_body, read_line, until};
use crate::redis_server::{self, RedisServer};

/// A server with a few pages, which counts how often it was asked for each.
struct Origin {
    address: SocketAddr,
    calls: Arc<Mutex<HashMap<String, usize>>>,
}

impl Origin {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::<Mutex<HashMap<String, usize>>>::default();
        let counts = calls.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let counts = counts.clone();
                thread::spawn(move || serve(stream, &counts));
            }
        });
        Self { address, calls }
    }

    fn calls(&self, path: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.get(path).copied().unwrap_or_default()
    }
}

fn serve(stream: TcpStream, calls: &Mutex<HashMap<String, usize>>) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    while let Ok(line) = read_line(&mut stream) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let Ok(fields) = Fields::read(&mut stream) else {
            return;
        };
        let _ = read_body(&mut stream, &fields, false);
        let path = line.split(' ').nth(1).unwrap_or_default();
        let call = {
            let mut calls = calls.lock().unwrap();
            let call = calls.entry(path.to_owned()).or_default();
            *call += 1;
            *call
        };
        let answer = page(path, call, fields.get("accept-language"));
        if stream.get_mut().write_all(&answer).is_err() {
            return;
        }
    }
}

/// The pages, with everything in a head that is easily lost on the way.
fn page(path: &str, call: usize, language: &str) -> Vec<u8> {
    let text = format!("{path}, call {call}, {language}.");
    let odd = b"X-Odd: caf\xE9 \xFF\r\n";
    let repeated = "Link: </a>; rel=preload\r\nX-Part: one\r\nLink: </b>; rel=next, </c>\r\n\
                    X-Part: two, three\r\nX-Part:\r\nX-Part: one\r\n";
    let (head, body) = match path {
        "/large" => (
            "200 OK\r\nCache-Control: max-age=600\r\n",
            binary(300 * 1024),
        ),
        "/chunked" => {
            let chunks = format!("{:x}\r\n{text}\r\n5\r\n more\r\n0\r\n\r\n", text.len());
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            return [head.as_bytes(), chunks.as_bytes()].concat();
        }
        "/missing" => (
            "404 Gone For Lunch\r\nCache-Control: max-age=600\r\n",
            text.into(),
        ),
        "/moved" => ("301 Moved Permanently\r\nLocation: /large\r\n", Vec::new()),
        "/old" => (
            "200 OK\r\nAge: 100\r\nCache-Control: max-age=600\r\n",
            text.into(),
        ),
        "/language" => (
            "200 OK\r\nVary: Accept-Language\r\nCache-Control: max-age=600\r\n",
            text.into(),
        ),
        _ => ("200 OK\r\n", text.into()),
    };
    let length = format!("Content-Length: {}\r\n\r\n", body.len());
    let head = [format!("HTTP/1.1 {head}{repeated}").as_bytes(), odd].concat();
    [head, length.into_bytes(), body].concat()
}

/// Every byte there is, in an order that does not repeat soon.
fn binary(length: u32) -> Vec<u8> {
    let mixed = |at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0];
    (0..length).map(mixed).collect()
}

fn proxy(origin: &Origin, url: &str) -> (Running, SocketAddr) {
    Running::reverse_proxy(origin.address, &["--redis", url])
}

/// Waits for writes, which nobody else does: so many keys are in Redis.
fn until_written(server: &RedisServer, keys: usize) {
    until("the responses are in Redis", || {
        server.keys("*:response:*").len() >= keys
    });
}

/// What belongs to the hop, or is told by the test itself.
const ITS_OWN: [&str; 4] = ["age", "x-cache", "cache-status", "connection"];

fn assert_same(stored: &Answer, hit: &Answer, what: &str) {
    assert_eq!(stored.status, hit.status, "{what}");
    assert!(stored.body == hit.body, "{what}: another body");
    let (stored, mut hit) = (
        stored.fields.without(&ITS_OWN),
        hit.fields.without(&ITS_OWN),
    );
    // A stored body has a length, also where it came in chunks.
    if stored.has("transfer-encoding") {
        hit = hit.without(&["content-length"]);
    }
    // And a tag of the cache's own, where the body was not there at once when it was stored.
    if !stored.has("etag") && hit.get("etag").starts_with("W/") {
        hit = hit.without(&["etag"]);
    }
    let stored = stored.without(&["transfer-encoding"]);
    for (name, _) in &stored.0 {
        assert_eq!(stored.all(name), hit.all(name), "{what}: {name}");
    }
    assert_eq!(stored.0.len(), hit.0.len(), "{what}: {stored:?} {hit:?}");
}

fn age(answer: &Answer) -> u64 {
    let age = answer.fields.get("age");
    age.parse().unwrap_or_else(|_| panic!("an age: {age:?}"))
}

const PATHS: [&str; 6] = [
    "/",
    "/large",
    "/chunked",
    "/missing",
    "/moved",
    "/a?b=%20&c",
];

/// Everything of [`PATHS`] is asked of one process, and then of the other; and of a third that is
/// started when neither of them is left.
fn assert_shared(url: &str, server: &RedisServer) {
    let origin = Origin::start();
    let (mut first, at_first) = proxy(&origin, url);
    let (mut second, at_second) = proxy(&origin, url);

    let stored = PATHS.map(|path| {
        let answer = get(at_first, path);
        assert_eq!(answer.x_cache(), "MISS", "{path}");
        answer
    });
    until_written(server, PATHS.len());
    for (path, stored) in PATHS.iter().zip(&stored) {
        // What fills nothing finds it as well.
        let head = Client::connect(at_second).ask("HEAD", path, "");
        assert_eq!(head.x_cache(), "HIT", "HEAD {path}");
        assert_eq!(head.status, stored.status, "HEAD {path}");
        let length = head.fields.get("content-length");
        assert_eq!(length, stored.body.len().to_string(), "HEAD {path}");

        let hit = get(at_second, path);
        assert_eq!(hit.x_cache(), "HIT", "{path}");
        assert_same(stored, &hit, path);
        assert_eq!(origin.calls(path), 1, "{path}");
    }
    assert_eq!(stored[0].fields.all("link").len(), 2);
    assert_eq!(stored[0].fields.all("x-part").len(), 4);
    assert_eq!(stored[0].fields.all("x-odd"), [b"caf\xE9 \xFF"]);
    assert_eq!(stored[3].status, 404);
    assert_eq!(stored[4].fields.get("location"), "/large");

    for process in [&mut first, &mut second] {
        process.terminate();
        assert_eq!(process.wait(), Some(0));
        assert_eq!(process.stderr().matches("WARN").count(), 0);
    }
    let (_third, at_third) = proxy(&origin, url);
    for (path, stored) in PATHS.iter().zip(&stored) {
        let hit = get(at_third, path);
        assert_eq!(hit.x_cache(), "HIT", "{path}");
        assert_same(stored, &hit, path);
        assert_eq!(origin.calls(path), 1, "{path}");
    }
}

#[test]
fn what_one_process_stored_is_a_hit_on_the_other_and_after_a_restart() {
    let server = RedisServer::start();
    assert_shared(&server.url(), &server);
}

#[test]
fn processes_share_through_a_unix_socket_a_password_and_another_database() {
    let server = RedisServer::start_with(&["--requirepass", "p@ss:w/rd"]);
    let url = format!("{}?db=0&password=p%40ss%3Aw%2Frd", server.unix_url());
    assert_shared(&url, &server);

    let url = format!("redis://:p%40ss%3Aw%2Frd@127.0.0.1:{}/7", server.port());
    let origin = Origin::start();
    let (_first, at_first) = proxy(&origin, &url);
    let (_second, at_second) = proxy(&origin, &url);
    let before = server.calls("set");
    assert_eq!(get(at_first, "/").x_cache(), "MISS");
    until("it is written", || server.calls("set") > before);
    assert_eq!(get(at_second, "/").x_cache(), "HIT");
    // The response, and the two keys of the log.
    let keyspace = server.command(&["INFO", "keyspace"]);
    assert!(keyspace.text().contains("db7:keys=3"), "{keyspace:?}");
}

#[test]
fn the_rights_that_the_guide_names_are_enough() {
    let guide = include_str!("../../src/docs/redis.md");
    let start = guide.find("ACL SETUSER cache on ").expect("lines to copy");
    let lines = guide[start..].split("```").next().expect("what is before");
    let command: Vec<&str> = lines.split_whitespace().collect();
    let server = RedisServer::start();
    server.command(&command).ok();
    let url = format!("redis://cache:password@127.0.0.1:{}/1", server.port());

    let origin = Origin::start();
    let told = ["--redis", &url, "--namespace", "shop"];
    let (first, at_first) = Running::reverse_proxy(origin.address, &told);
    let (second, at_second) = Running::reverse_proxy(origin.address, &told);
    let before = server.calls("set");
    assert_eq!(get(at_first, "/").x_cache(), "MISS");
    until("it is written", || server.calls("set") > before);
    assert_eq!(get(at_second, "/").x_cache(), "HIT");
    for process in [first, second] {
        assert_eq!(process.stderr().matches("WARN").count(), 0);
    }
    // What fred asks besides is refused, and does no harm.
    let log = format!("{:?}", server.command(&["ACL", "LOG"]));
    for word in [
        "getrange",
        "pttl",
        "set",
        "unlink",
        "echo",
        "time",
        "select",
        "hello",
        "auth",
        "get",
        "eval",
        "publish",
        "subscribe",
    ] {
        let refused = format!("{:?}", redis_server::Reply::Bulk(word.into()));
        assert!(!log.contains(&refused), "{word}: {log}");
    }
}

#[test]
fn the_age_goes_on_from_one_process_to_the_next() {
    let server = RedisServer::start();
    let origin = Origin::start();
    let (mut first, at_first) = proxy(&origin, &server.url());
    let (_second, at_second) = proxy(&origin, &server.url());

    let asked = Instant::now();
    assert_eq!(get(at_first, "/old").x_cache(), "MISS");
    let answered = Instant::now();
    until_written(&server, 1);
    let assert_right = |answer: &Answer, before: Instant| {
        // It was 100 seconds old when it came, and is shown in whole seconds.
        let (least, most) = (before - answered, asked.elapsed());
        let age = age(answer);
        assert_eq!(answer.x_cache(), "HIT");
        assert!(
            (100 + least.as_secs()..=101 + most.as_secs()).contains(&age),
            "{age} after {least:?} to {most:?}"
        );
        let status = answer.fields.get("cache-status");
        let ttl = status.split("ttl=").nth(1).unwrap_or_default();
        let ttl = ttl
            .split(';')
            .next()
            .and_then(|ttl| ttl.parse::<u64>().ok());
        let sum = age + ttl.unwrap_or_default();
        assert!((599..=600).contains(&sum), "{age}, {status}");
    };
    let mut last = 0;
    until("three seconds have passed", || {
        let before = Instant::now();
        let here = get(at_second, "/old");
        assert_right(&here, before);
        assert!(age(&here) >= last, "nothing grows younger");
        last = age(&here);
        last >= 103
    });
    let before = Instant::now();
    assert_right(&get(at_first, "/old"), before);

    // Read from Redis only now, by a process that was not there when it was stored.
    first.terminate();
    assert_eq!(first.wait(), Some(0));
    let (_third, at_third) = proxy(&origin, &server.url());
    let before = Instant::now();
    let read = get(at_third, "/old");
    assert!(age(&read) >= 103, "{read:?}");
    assert_right(&read, before);
    assert_eq!(origin.calls("/old"), 1);
}

#[test]
fn each_variant_is_a_hit_on_the_other_process_for_those_who_ask_for_it() {
    let server = RedisServer::start();
    let origin = Origin::start();
    let (_first, at_first) = proxy(&origin, &server.url());
    let (_second, at_second) = proxy(&origin, &server.url());
    let ask = |address, language: &str| {
        let field = format!("Accept-Language: {language}\r\n");
        Client::connect(address).ask("GET", "/language", &field)
    };

    let stored = ["de", "en"].map(|language| {
        let answer = ask(at_first, language);
        assert_eq!(answer.x_cache(), "MISS", "{language}");
        answer
    });
    // Both, and the name of the field by which they differ.
    until_written(&server, 3);
    for (language, stored) in ["de", "en"].iter().zip(&stored) {
        let hit = ask(at_second, language);
        assert_eq!(hit.x_cache(), "HIT", "{language}");
        assert!(hit.text().ends_with(&format!(" {language}.")));
        assert_same(stored, &hit, language);
    }
    assert_eq!(origin.calls("/language"), 2);
    let other = ask(at_second, "fr");
    assert_eq!(other.x_cache(), "MISS");
    assert!(other.text().ends_with(" fr."));
    until_written(&server, 4);
    assert_eq!(ask(at_first, "fr").x_cache(), "HIT");
    assert_eq!(origin.calls("/language"), 3);
}

#[test]
fn proxies_of_two_origins_share_nothing_unless_they_are_told_to() {
    let server = RedisServer::start();
    let (one, other) = (Origin::start(), Origin::start());
    let (_first, at_first) = proxy(&one, &server.url());
    let (_second, at_second) = proxy(&other, &server.url());
    assert_eq!(get(at_first, "/").x_cache(), "MISS");
    until_written(&server, 1);
    assert_eq!(get(at_second, "/").x_cache(), "MISS");
    assert_eq!((one.calls("/"), other.calls("/")), (1, 1));

    let told = ["--redis", &server.url(), "--namespace", "both"];
    let (_third, at_third) = Running::reverse_proxy(one.address, &told);
    let (_fourth, at_fourth) = Running::reverse_proxy(other.address, &told);
    assert_eq!(get(at_third, "/").x_cache(), "MISS");
    until("it is written", || !server.keys("both:*").is_empty());
    assert_eq!(get(at_fourth, "/").x_cache(), "HIT");
    assert_eq!((one.calls("/"), other.calls("/")), (2, 1));
}

// --- The example `redis` -----------------------------------------------------------------------

fn example_redis(url: &str, more: &[&str]) -> Running {
    Running::spawn(
        Command::new(example("redis"))
            .args(["--listen", "127.0.0.1:0"])
            .args(more)
            .env("REDIS_URL", url),
    )
}

/// Method, who was asked, and `X-Cache` of each line that shows an answer; and who made the page.
fn shown(stdout: &str) -> Vec<[&str; 4]> {
    let lines = stdout.lines().filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], ["GET" | "POST", "first" | "second", ..])
    });
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let maker = line.split_once("made by the ").map_or("", |(_, rest)| rest);
            let maker = maker.split(' ').next().unwrap_or_default();
            [words[0], words[1], words[2], maker]
        })
        .collect()
}

#[test]
fn the_example_shows_two_processes_that_share() {
    let server = RedisServer::start();
    let mut running = example_redis(&server.url(), &["--once"]);
    assert_eq!(running.wait(), Some(0));
    assert_eq!(running.stderr(), "");
    let stdout = running.all_lines();
    let expected = [
        ["GET", "first", "MISS", "first"],
        ["GET", "second", "HIT", "first"],
        ["GET", "second", "HIT", "first"],
        ["POST", "second", "-", ""],
        ["GET", "second", "MISS", "second"],
        // As soon as it has heard of the change.
        ["GET", "first", "HIT", "second"],
    ];
    assert_eq!(shown(&stdout), expected, "{stdout}");
    assert_eq!(
        stdout.matches(": link up, reads closed").count(),
        2,
        "{stdout}"
    );
    assert!(stdout.contains("Age 0"), "{stdout}");
    assert!(stdout.ends_with("Closed.\n"), "{stdout}");
}

#[test]
fn the_example_goes_on_without_redis_and_says_what_to_do() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut running = example_redis(&format!("redis://:secret@{address}"), &["--once"]);
    assert_eq!(running.wait(), Some(0));
    let stdout = running.all_lines();
    let first = stdout.lines().next().unwrap_or_default();
    assert!(first.starts_with("No Redis, so each process"), "{stdout}");
    assert!(first.contains("--redis URL names another"), "{stdout}");
    assert!(!stdout.contains("secret"), "{stdout}");
    let expected = [
        ["GET", "first", "MISS", "first"],
        ["GET", "second", "MISS", "second"],
        ["GET", "second", "HIT", "second"],
        ["POST", "second", "-", ""],
        ["GET", "second", "MISS", "second"],
        ["GET", "first", "HIT", "first"],
    ];
    assert_eq!(shown(&stdout), expected, "{stdout}");
}

#[test]
fn the_example_says_when_redis_goes_and_comes() {
    let server = RedisServer::start();
    let mut running = example_redis(&server.url(), &[]);
    let address = running.wait_for_line(|line| {
        let (_, rest) = line.split_once("curl http://")?;
        rest.strip_suffix("/health")?.parse().ok()
    });
    let says = |what: &str| {
        until(what, || {
            // A link is only looked at where somebody asks.
            let answer = get(address, "/");
            assert_eq!(answer.status, 200);
            running.stderr().contains(what)
        });
    };
    server.kill();
    says("Redis is not in use, the cache goes on with memory and keeps trying");
    server.restart();
    says("is in use");
    until("the health is good", || {
        get(address, "/health").text().starts_with("link up")
    });
    assert_eq!(running.stderr().matches("WARN").count(), 1);
}
