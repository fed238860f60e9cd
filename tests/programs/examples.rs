//! The examples as somebody meets them who starts them for the first time.

use std::net::TcpListener;
use std::process::Command;

use crate::process::{Client, Finished, Folder, Running, example, get, run, run_command};

/// One of the two heads that `quickstart` shows: its lines, without the white space before them.
fn heads(stdout: &str) -> Vec<Vec<&str>> {
    let answers = stdout.split(" ms:\n").skip(1);
    answers
        .map(|answer| {
            let lines = answer.lines().map(str::trim);
            lines.take_while(|line| !line.is_empty()).collect()
        })
        .collect()
}

/// The value of a field in such a head.
fn field<'a>(head: &[&'a str], name: &str) -> Option<&'a str> {
    let mut fields = head.iter().filter_map(|line| line.split_once(": "));
    fields
        .find(|(known, _)| *known == name)
        .map(|found| found.1)
}

/// How many times faster the second request was, as `quickstart` says.
fn times_faster(stdout: &str) -> f64 {
    let words: Vec<&str> = stdout.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "times").unwrap();
    words[at - 1].parse().unwrap()
}

fn assert_miss_then_hit(finished: &Finished) {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stderr, "");
    let stdout = &finished.stdout;
    assert!(stdout.contains("curl -i http://127.0.0.1:"), "{stdout}");

    let heads = heads(stdout);
    let [miss, hit] = &heads[..] else {
        panic!("two heads: {stdout}");
    };
    assert_eq!((miss[0], hit[0]), ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"));
    assert_eq!(field(miss, "x-cache"), Some("MISS"), "{stdout}");
    assert_eq!(field(miss, "age"), None, "{stdout}");
    assert_eq!(field(hit, "x-cache"), Some("HIT"), "{stdout}");
    let age = field(hit, "age").expect("a stored response has an age");
    assert!(age.parse::<u64>().is_ok(), "{age}");
    let status = field(hit, "cache-status").expect("the reason stands there");
    let (cache, rest) = status
        .split_once("; hit; ttl=")
        .expect("a hit, and its ttl");
    let ttl = rest.split(';').next().unwrap().parse::<u64>();
    assert!(
        !cache.is_empty() && ttl.is_ok_and(|ttl| ttl <= 60),
        "{status}"
    );
}

#[test]
fn quickstart_counts_the_files_of_a_folder_once() {
    let folder = Folder::new("tower-response-cache-quickstart");
    folder.write("a.txt", "one two\nthree\n");
    folder.write("deep/er/b.txt", "four\tfive six seven");
    folder.write("deep/empty", "");
    let path = folder.0.to_str().unwrap();

    let finished = run("quickstart", &[path, "--once", "--listen", "127.0.0.1:0"]);
    assert_miss_then_hit(&finished);
    let said = finished.stdout;
    assert!(
        said.contains(&format!("Counting 3 files of {path}.")),
        "{said}"
    );
    let counted = "2 lines and 7 words in 3 files, 0 could not be read";
    assert_eq!(said.matches(counted).count(), 2, "{said}");
}

/// The one place where a test looks at the time. Other programs may keep this machine busy just
/// then, so the best of three tries counts.
#[test]
fn quickstart_is_at_least_twenty_times_faster_the_second_time() {
    let tries = (0..3).map(|_| {
        let finished = run("quickstart", &["--once"]);
        assert_miss_then_hit(&finished);
        times_faster(&finished.stdout)
    });
    let mut seen = Vec::new();
    let fast = tries
        .inspect(|times| seen.push(*times))
        .any(|times| times >= 20.0);
    assert!(fast, "only {seen:?} times");
}

#[test]
fn quickstart_counts_where_it_is_when_there_are_no_sources() {
    let folder = Folder::new("tower-response-cache-no-sources");
    folder.write("here.txt", "a b\n");
    let finished = run_command(
        Command::new(example("quickstart"))
            .args(["--once", "--listen", "127.0.0.1:0"])
            .env("CARGO_HOME", folder.0.join("missing"))
            .current_dir(&folder.0),
    );
    assert_miss_then_hit(&finished);
    let said = finished.stdout;
    assert!(said.contains("Counting 1 files of"), "{said}");
    assert!(
        said.contains("as cargo has downloaded no sources"),
        "{said}"
    );
    assert!(said.contains("1 lines and 2 words"), "{said}");
}

#[test]
fn quickstart_takes_another_port_and_goes_on_serving() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let folder = Folder::new("tower-response-cache-taken");
    folder.write("a.txt", "a");

    let mut running = Running::spawn(
        Command::new(example("quickstart"))
            .arg(&folder.0)
            .args(["--listen", &listen.to_string()]),
    );
    let port = listen.port();
    let says = format!("Port {port} is taken, so this is another.");
    running.wait_for_line(|line| (line == says).then_some(()));
    let address = running.wait_for_line(|line| {
        let address = line.strip_prefix("Try it: curl -i http://")?;
        address.strip_suffix('/')?.parse().ok()
    });
    running.wait_for_line(|line| (line == "Serving until ctrl-c.").then_some(()));
    let answer = get(address, "/");
    assert_eq!(
        answer.text(),
        "0 lines and 1 words in 1 files, 0 could not be read\n"
    );
    let status = answer.fields.get("cache-status");
    // The two requests that it sent itself asked for the same.
    let mut client = Client::connect(address);
    client.send(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    assert_eq!(client.answer("GET").unwrap().x_cache(), "HIT", "{status}");
}

#[test]
fn cache_middleware_shows_what_it_promises() {
    let finished = run("cache_middleware", &["--once"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.stderr, "");
    let stdout = &finished.stdout;
    // The number of compressed bytes is the compressor's own affair.
    let asked: Vec<String> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .map(|line| match line.split_once(" (") {
            Some((start, _)) if line.ends_with("bytes of gzip)") => format!("{start} gzip"),
            _ => line.to_owned(),
        })
        .take(15)
        .collect();
    let expected = [
        "GET  /       200 MISS call 1",
        "GET  /       200 HIT  call 1",
        "GET  /report 200 MISS gzip",
        "GET  /report 200 HIT  gzip",
        "GET  /report 200 MISS (7700 bytes)",
        "GET  /notes  200 MISS []",
        "GET  /notes  200 HIT  []",
        "POST /notes  201 -",
        "GET  /notes  200 MISS [\"buy milk\"]",
        "GET  /rate   200 MISS [[\"EUR\",2]]",
        "GET  /rate   200 HIT  [[\"EUR\",2]]",
        "GET  /me     200 MISS hello alice",
        "GET  /me     200 HIT  hello alice",
        "GET  /me     200 MISS hello bob",
        "GET  /me     401 -    who are you?",
    ];
    assert_eq!(asked, expected, "{stdout}");
}

#[test]
fn cache_middleware_serves_with_its_layers_in_order() {
    let mut running =
        Running::spawn(Command::new(example("cache_middleware")).args(["--listen", "127.0.0.1:0"]));
    let address =
        running.wait_for_line(|line| line.strip_prefix("listening on http://")?.parse().ok());
    let mut client = Client::connect(address);

    // The lifetimes of the routes, and of the handler.
    for (path, longest) in [("/", 60), ("/report", 300), ("/notes", 3600), ("/rate", 5)] {
        assert_eq!(client.get(path).x_cache(), "MISS", "{path}");
        let hit = client.get(path);
        assert_eq!(hit.x_cache(), "HIT", "{path}");
        let status = hit.fields.get("cache-status");
        let ttl = status.split("ttl=").nth(1).unwrap_or_default();
        let ttl = ttl
            .split(';')
            .next()
            .and_then(|ttl| ttl.parse::<u32>().ok());
        // Of a lifetime up to a tenth may be left out, so that not all ends at once.
        let shortest = longest * 8 / 10;
        assert!(
            ttl.is_some_and(|ttl| (shortest..=longest).contains(&ttl)),
            "{path}: {status}"
        );
    }

    // Ids and cross-origin fields are put on outside, so a hit has its own.
    let ids: Vec<String> = (0..3)
        .map(|_| client.get("/").fields.get("x-request-id").to_owned())
        .collect();
    assert!(
        ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2],
        "{ids:?}"
    );
    let origin = client.ask("GET", "/", "Origin: http://a.example\r\n");
    assert_eq!(origin.fields.get("access-control-allow-origin"), "*");
    let preflight = client.ask(
        "OPTIONS",
        "/notes",
        "Origin: http://a.example\r\nAccess-Control-Request-Method: POST\r\n",
    );
    assert_eq!(preflight.status, 200);
    assert!(!preflight.fields.has("x-cache"));

    // Nobody gets an answer past the authentication, also when there is one in the store.
    let alice = "Authorization: Bearer alice\r\n";
    assert_eq!(client.ask("GET", "/me", alice).x_cache(), "MISS");
    assert_eq!(client.ask("GET", "/me", alice).x_cache(), "HIT");
    assert_eq!(client.get("/me").status, 401);

    // Stored in the encoding in which it was asked for.
    let gzip = client.ask("GET", "/report", "Accept-Encoding: gzip\r\n");
    let again = client.ask("GET", "/report", "Accept-Encoding: gzip\r\n");
    assert_eq!((gzip.x_cache(), again.x_cache()), ("MISS", "HIT"));
    assert_eq!(again.fields.get("content-encoding"), "gzip");
    assert_eq!(gzip.body, again.body);
    assert_eq!(client.get("/report").body.len(), 7700);
}

#[test]
fn bad_options_end_with_a_sentence_and_code_2() {
    let listen = ["--listen", "127.0.0.1:0"];
    let origin = ["--origin", "http://127.0.0.1:1"];
    let proxy = |more: &[&'static str]| [&listen[..], &origin[..], more].concat();
    let mut rows: Vec<(&str, Vec<&str>)> = vec![
        ("quickstart", vec!["--onec"]),
        ("quickstart", vec!["-x"]),
        ("quickstart", vec!["/there/is/no/such/folder", "--once"]),
        ("quickstart", vec!["Cargo.toml", "--once"]),
        ("quickstart", vec![".", "."]),
        ("quickstart", vec!["--listen"]),
        ("quickstart", vec!["--listen", "3000"]),
        ("quickstart", vec!["--listen", "127.0.0.1:70000"]),
        ("cache_middleware", vec!["--onec"]),
        ("cache_middleware", vec!["once"]),
        ("cache_middleware", vec!["--listen"]),
        ("cache_middleware", vec!["--listen", "nowhere"]),
        ("cache_service", vec!["--onec"]),
        ("cache_service", vec!["--listen", "nowhere"]),
        ("cache_service", vec!["--redis"]),
        ("cache_service", vec!["--redis", "ftp://here"]),
        ("cached_function", vec!["prime"]),
        ("cached_function", vec!["--redis"]),
        ("cached_function", vec!["--redis", "ftp://here"]),
        ("reverse_proxy", vec![]),
        ("reverse_proxy", listen.to_vec()),
        ("reverse_proxy", origin.to_vec()),
        (
            "reverse_proxy",
            vec!["--listen", "--origin", "http://127.0.0.1:1"],
        ),
        (
            "reverse_proxy",
            [&origin[..], &["--listen", "8080"]].concat(),
        ),
        (
            "reverse_proxy",
            [&origin[..], &["--listen", ":8080"]].concat(),
        ),
        (
            "reverse_proxy",
            [&origin[..], &["--listen", "127.0.0.1:x"]].concat(),
        ),
        (
            "reverse_proxy",
            [&origin[..], &["--listen", "127.0.0.1:70000"]].concat(),
        ),
        (
            "reverse_proxy",
            vec![
                "--listen",
                "127.0.0.1:4321",
                "--origin",
                "http://127.0.0.1:4321",
            ],
        ),
    ];
    for more in [
        &["--origni", "x"][..],
        &["serve"],
        &["--listen", "127.0.0.1:0"],
        &["--ttl"],
        &["--ttl", "--memory", "5"],
        &["--ttl="],
        &["--ttl", "soon"],
        &["--ttl", "-1"],
        &["--ttl", "1.5"],
        &["--ttl", "99999999999999999999"],
        &["--memory", "64MiB"],
        &["--memory", "0"],
        &["--memory", "18446744073709551615"],
        &["--memory", "17592186044415"],
        &["--max-body", "1e6"],
        &["--max-body", ""],
        &["--preset", "fast"],
        &["--preset", "RFC9111"],
        &["--redis"],
        // What a build with Redis says of these is in `redis_bad_input.rs`.
        #[cfg(not(feature = "redis"))]
        &["--redis", "redis://127.0.0.1"],
        &["--namespace", "shop"],
        &["--redis", "redis://127.0.0.1", "--namespace", ""],
    ] {
        rows.push(("reverse_proxy", proxy(more)));
    }
    for wrong in [
        "127.0.0.1:9000",
        "localhost",
        "https://example.com",
        "ftp://example.com",
        "http://",
        "http:///path",
        "http://127.0.0.1:9000/path",
        "http://127.0.0.1:9000/?query",
        "http://user@127.0.0.1:9000",
        "http://127.0.0.1:0",
        "http://127.0.0.1:70000",
        "http://a b",
        "",
    ] {
        rows.push((
            "reverse_proxy",
            [&listen[..], &["--origin", wrong]].concat(),
        ));
    }

    for (name, arguments) in rows {
        let finished = run(name, &arguments);
        let what = format!("{name} {arguments:?}: {finished:?}");
        assert_eq!(finished.code, Some(2), "{what}");
        assert_eq!(finished.stdout.trim(), "", "{what}");
        assert_eq!(finished.stderr.lines().count(), 1, "{what}");
        let sentence = finished.stderr.trim_end();
        assert!(sentence.ends_with('.'), "{what}");
        assert!(!sentence.contains("panicked"), "{what}");
    }
}

#[cfg(unix)]
#[test]
fn an_option_that_is_no_text_is_no_panic() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"--\xFF\xFE");
    for name in ["quickstart", "cache_middleware", "reverse_proxy"] {
        let finished = run(name, &[odd]);
        assert_eq!(finished.code, Some(2), "{name}: {finished:?}");
        assert_eq!(finished.stderr.lines().count(), 1, "{name}: {finished:?}");
    }
}

#[test]
fn help_tells_every_option() {
    for (name, options) in [
        ("quickstart", &["FOLDER", "--listen", "--once"][..]),
        ("cache_middleware", &["--listen", "--once"]),
        (
            "reverse_proxy",
            &[
                "--listen",
                "--origin",
                "--preset",
                "--ttl",
                "--memory",
                "--max-body",
                "--redis",
                "--namespace",
            ],
        ),
    ] {
        for help in ["--help", "-h"] {
            let finished = run(name, &[help]);
            assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{name}");
            for option in options {
                assert!(finished.stdout.contains(option), "{name}: {option}");
            }
        }
    }
}
