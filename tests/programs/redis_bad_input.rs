//! What is wrong with the settings of Redis is said in one sentence, by the library and by the
//! program that somebody starts: what it is, and what to do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use crate::process::{Running, get, run, until};
use crate::redis_server::RedisServer;
use tower_response_cache::{Cache, Link};

/// In every password here, and in no sentence.
const SECRET: &str = "hunter2";

/// One sentence for people: no line break, no secret, and words that say what to do.
fn assert_sentence(sentence: &str, what: &str) {
    assert!(!sentence.contains(['\n', '\r']), "{what}: {sentence:?}");
    assert!(!sentence.contains(SECRET), "{what}: {sentence}");
    assert!(!sentence.contains("Error"), "{what}: {sentence}");
    assert!(!sentence.contains(" { "), "{what}: {sentence}");
    assert!(sentence.len() < 350, "{what}: {sentence}");
    let advice = [
        "use ", "write ", "give ", "check ", "correct ", "enable ", "allow ",
    ];
    let advises = advice.iter().any(|word| sentence.contains(word));
    assert!(advises, "{what} does not say what to do: {sentence}");
}

/// Settings that no Redis could make good; and a word of the sentence about each.
fn bad_settings() -> Vec<(String, String, &'static str)> {
    let mut rows = Vec::new();
    let mut url = |url: &str, says| rows.push((url.to_owned(), "shop".to_owned(), says));
    url("", "no scheme");
    url("127.0.0.1:6379", "no scheme");
    url("localhost", "no scheme");
    url("redis:127.0.0.1", "no scheme");
    url("http://127.0.0.1:6379", "http:// is not a scheme of Redis");
    url(
        "postgres://me:hunter2@127.0.0.1/shop",
        "not a scheme of Redis",
    );
    url("://127.0.0.1", "does not begin with a scheme");
    url("redis://127.0.0.1,127.0.0.2", "several hosts");
    url("redis-cluster://127.0.0.1/3", "neither another database");
    url("redis-sentinel://127.0.0.1", "name of a service");
    url("redis://", "no host");
    url("redis://:hunter2@", "no host");
    url("redis://:hunter2@/0", "no host");
    url("redis://[::1", "no host");
    url("redis://127.0.0.1:0", "port");
    url("redis://127.0.0.1:70000", "port");
    url("redis://127.0.0.1:redis", "port");
    url("redis://127.0.0.1/shop", "database");
    url("redis://127.0.0.1/256", "database");
    url("redis://127.0.0.1/-1", "database");
    url("redis://127.0.0.1/0/1", "database");
    url("redis://127.0.0.1 ", "a space or a line break");
    url("redis://127.0.0.1\n", "a space or a line break");
    url("redis://me:hunter2 @127.0.0.1", "a space or a line break");
    url("redis://me:hunter2/a@127.0.0.1", "percent-encoded");
    url("redis://me:hunter2?a@127.0.0.1", "percent-encoded");
    url("redis://me:hunter2#a@127.0.0.1", "percent-encoded");
    url("redis://me:hunter2%zz@127.0.0.1", "%25");
    url("redis://127.0.0.1?db=1", "query");
    url("redis+unix://", "no path of a socket");
    url("redis+unix://run/redis.sock", "no path of a socket");
    url("redis+unix:///run/redis.sock?password", "query");
    for namespace in [
        "",
        "{shop}",
        "a}b",
        "a\nb",
        "a b",
        "a*",
        "caf\u{e9}",
        &"n".repeat(65),
    ] {
        let url = "redis://:hunter2@127.0.0.1".to_owned();
        rows.push((url, namespace.to_owned(), "namespace"));
    }
    rows
}

#[test]
fn settings_that_cannot_be_are_an_error_in_one_sentence() {
    for (url, namespace, says) in bad_settings() {
        let what = format!("{url:?} {namespace:?}");
        let result = Cache::redis(url.as_str(), namespace.as_str()).build();
        let error = result.expect_err(&what);
        assert_sentence(&error.to_string(), &what);
        assert!(error.to_string().contains(says), "{what}: {error}");
        // This is what a `main` that returns the error shows.
        assert_eq!(format!("{error:?}"), error.to_string(), "{what}");
    }
}

#[test]
fn the_reverse_proxy_ends_with_that_sentence_before_it_listens() {
    for (url, namespace, says) in bad_settings() {
        let arguments = [
            "--listen=127.0.0.1:0".to_owned(),
            "--origin=http://127.0.0.1:1".to_owned(),
            format!("--redis={url}"),
            format!("--namespace={namespace}"),
        ];
        let what = format!("{url:?} {namespace:?}");
        let finished = run("reverse_proxy", &arguments);
        assert_eq!(finished.code, Some(2), "{what}: {finished:?}");
        assert_eq!(finished.stdout.trim(), "", "{what}");
        let sentence = finished.stderr.strip_suffix(".\n");
        let sentence = sentence.unwrap_or_else(|| panic!("{what}: {finished:?}"));
        if url.is_empty() || namespace.is_empty() {
            assert!(sentence.contains("needs a value, as in --"), "{sentence}");
            continue;
        }
        assert_sentence(sentence, &what);
        assert!(sentence.contains(says), "{what}: {sentence}");
    }
}

#[test]
fn the_example_redis_ends_with_a_sentence_too() {
    for arguments in [
        &["--redis", "http://127.0.0.1"][..],
        &["--redis", "redis://127.0.0.1/shop"],
        &["--redis"],
        &["--redis", ""],
        &["--listen", "3000"],
        &["--onec"],
        &["once"],
    ] {
        let finished = run("redis", arguments);
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
        assert_eq!(finished.stdout.trim(), "", "{arguments:?}");
        assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
        assert!(finished.stderr.ends_with(".\n"), "{finished:?}");
    }
}

#[test]
fn settings_of_the_builder_that_cannot_be_are_an_error() {
    for connections in [0, 65, usize::MAX] {
        let builder = Cache::redis("redis://127.0.0.1", "shop").pool_size(connections);
        let error = builder.build().unwrap_err().to_string();
        assert_sentence(&error, "pool_size");
    }
    let builder = Cache::redis("redis://127.0.0.1", "shop").version("{1}");
    let error = builder.build().unwrap_err().to_string();
    assert_sentence(&error, "version");
}

#[cfg(not(feature = "redis-tls"))]
#[test]
fn tls_without_its_feature_names_the_feature() {
    let error = Cache::redis("rediss://host", "shop").build().unwrap_err();
    assert_sentence(&error.to_string(), "rediss://");
    assert!(error.to_string().contains("redis-tls"), "{error}");
}

// --- What only shows when it is tried ----------------------------------------------------------

/// Servers and URLs with which there is no link; and a word of the sentence about each.
struct Trouble {
    rows: Vec<(String, &'static str)>,
    _open: RedisServer,
    _locked: RedisServer,
}

impl Trouble {
    fn start() -> Self {
        let open = RedisServer::start();
        let locked = RedisServer::start_with(&["--requirepass", "right"]);
        for rights in [
            &["SETUSER", "poor", "on", ">hunter2", "~*", "+@connection"][..],
            &["SETUSER", "stranger", "on", ">hunter2", "~other:*", "+@all"],
        ] {
            open.command(&[&["ACL"], rights].concat()).ok();
        }
        let (at_open, at_locked) = (open.port(), locked.port());
        let nobody = free_port();
        let (web, hole) = (web_server(), black_hole());
        let rows = vec![
            (format!("redis://:hunter2@{nobody}"), "Connection refused"),
            (
                "redis://:hunter2@does-not-exist.invalid".to_owned(),
                "check",
            ),
            ("redis+unix:///no/such/socket".to_owned(), "No such file"),
            (
                format!("redis://:hunter2@{hole}"),
                "did not answer within 500 ms",
            ),
            (format!("redis://:hunter2@{web}"), "is not Redis"),
            (
                format!("redis://127.0.0.1:{at_open}/99"),
                "database 99 is out of range",
            ),
            (format!("redis://127.0.0.1:{at_locked}"), "wants a password"),
            (
                format!("redis://:hunter2@127.0.0.1:{at_locked}"),
                "refuses the user or the password",
            ),
            (
                format!("redis://nobody:hunter2@127.0.0.1:{at_open}"),
                "refuses the user or the password",
            ),
            (
                format!("redis://poor:hunter2@127.0.0.1:{at_open}"),
                "what the guide `docs::redis` names",
            ),
            (
                format!("redis://stranger:hunter2@127.0.0.1:{at_open}"),
                "~shop:*",
            ),
        ];
        Self {
            rows,
            _open: open,
            _locked: locked,
        }
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Takes connections, and never answers.
fn black_hole() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let kept: Vec<_> = listener.incoming().collect();
        drop(kept);
    });
    address
}

/// Says in every page that nothing is to be stored.
fn web_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            });
        }
    });
    address
}

#[tokio::test]
async fn connect_says_in_one_sentence_why_there_is_no_link() {
    let trouble = Trouble::start();
    for (url, says) in &trouble.rows {
        let cache = Cache::redis(url.as_str(), "shop").build().unwrap();
        let error = cache.connect().await.expect_err(url).to_string();
        assert_sentence(&error, url);
        assert!(error.contains(says), "{url}: {error}");

        let health = cache.health();
        assert!(!health.is_good(), "{url}");
        assert!(matches!(health.link(), Some(Link::Connecting(_))), "{url}");
        for shown in [health.to_string(), format!("{health:?} {cache:?}")] {
            assert!(!shown.contains(SECRET), "{url}: {shown}");
        }
    }
}

#[test]
fn the_reverse_proxy_says_it_on_one_line_and_serves() {
    let trouble = Trouble::start();
    let origin = web_server();
    for (url, says) in &trouble.rows {
        let arguments = ["--redis", url, "--namespace", "shop"];
        let (mut proxy, address) = Running::reverse_proxy(origin, &arguments);
        assert_eq!(get(address, "/").x_cache(), "MISS", "{url}");
        assert_eq!(get(address, "/").x_cache(), "HIT", "{url}");
        until("it says why", || proxy.stderr().contains('\n'));
        proxy.terminate();
        assert_eq!(proxy.wait(), Some(0), "{url}");
        let said = proxy.stderr();
        let sentence = said.strip_suffix('\n').unwrap_or_default();
        assert_sentence(sentence, url);
        assert!(sentence.contains(says), "{url}: {sentence}");
        assert!(
            sentence.contains("goes on with memory"),
            "{url}: {sentence}"
        );
    }
}
