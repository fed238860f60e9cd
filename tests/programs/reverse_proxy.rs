//! The example `reverse_proxy` as a process: in front of a web server that nobody here wrote, and
//! in front of origins that misbehave.

use std::fmt::Write as _;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::process::{
    self, Answer, Client, Fields, Folder, LIMIT, Running, get, read_body, read_line, run_command,
    until,
};

// --- A web server that nobody here wrote -------------------------------------------------------

/// Python's `http.server`, or nginx where there is no Python.
struct WebServer {
    running: Running,
    address: SocketAddr,
}

/// Python's server as `python3 -m http.server --protocol HTTP/1.1` starts it (that option is newer
/// than some Pythons), on a port that it chooses.
const PYTHON: &str = r#"
import functools, http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
handler = functools.partial(Handler, directory=sys.argv[1])
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    print("port", server.server_address[1], flush=True)
    server.serve_forever()
"#;

impl WebServer {
    fn start(folder: &Folder) -> Self {
        let there = |program: &str, version: &str| {
            let tried = Command::new(program).arg(version).output();
            tried.is_ok_and(|output| output.status.success())
        };
        if there("python3", "--version") {
            let mut running = Running::spawn(
                Command::new("python3")
                    .args(["-u", "-c", PYTHON])
                    .arg(&folder.0),
            );
            let port = running.wait_for_line(|line| line.strip_prefix("port ")?.parse().ok());
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            return Self { running, address };
        }
        assert!(
            there("nginx", "-v"),
            "this test needs a web server that nobody here wrote: install python3 or nginx"
        );
        let own = Folder::new("tower-response-cache-nginx");
        // nginx cannot say which port it got. Another program may take this one before nginx does;
        // then nginx ends, and the next port is tried.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let (own, files) = (own.0.display(), folder.0.display());
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .iter()
                .map(|kind| format!("{kind}_temp_path {own}/{kind};\n"))
                .collect();
            let settings = format!(
                "daemon off; master_process off; pid {own}/pid; error_log stderr;
                 events {{}}
                 http {{ {temporary} access_log /dev/stderr;
                     server {{ listen {address}; root {files}; }} }}"
            );
            std::fs::write(format!("{own}/nginx.conf"), settings).unwrap();
            let mut running = Running::spawn(Command::new("nginx").args([
                "-e",
                "stderr",
                "-c",
                &format!("{own}/nginx.conf"),
            ]));
            let mut up = false;
            until("nginx answers or ends", || {
                up = TcpStream::connect(address).is_ok();
                up || running.has_ended()
            });
            if up && !running.has_ended() {
                return Self { running, address };
            }
        }
        panic!("nginx does not start");
    }

    /// How often each path was asked for until now.
    fn asked(&self, path: &str) -> usize {
        let log = self.running.stderr();
        log.matches(&format!("\"GET {path} HTTP")).count()
    }
}

/// The same bytes and lengths in every run.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Mostly small, as files are.
    fn length(&mut self) -> usize {
        let below = match self.next() % 100 {
            0..85 => 64 << 10,
            85..98 => 1 << 20,
            _ => 5 << 20,
        };
        usize::try_from(self.next() % below).unwrap()
    }
}

const MIB: usize = 1 << 20;

/// What differs between two answers to the same request, and what the cache may say about its own.
const ITS_OWN: [&str; 7] = [
    "date",
    "age",
    "x-cache",
    "cache-status",
    "connection",
    "keep-alive",
    "etag",
];

fn assert_same(direct: &Answer, through: &Answer, what: &str) {
    assert_eq!(direct.status, through.status, "{what}");
    assert!(direct.body == through.body, "{what}: another body");
    let only_in = |one: &Fields, other: &Fields| {
        let mut rest = other.without(&ITS_OWN).0;
        let missing = |field: &(String, Vec<u8>)| {
            let same = rest.iter().position(|there| there == field);
            same.map(|at| rest.swap_remove(at)).is_none()
        };
        Fields(
            one.without(&ITS_OWN)
                .0
                .into_iter()
                .filter(missing)
                .collect(),
        )
    };
    let lost = only_in(&direct.fields, &through.fields);
    let added = only_in(&through.fields, &direct.fields);
    assert_eq!((lost, added), Default::default(), "{what}: lost, added");
    let etag = direct.fields.get("etag");
    assert!(
        etag.is_empty() || etag == through.fields.get("etag"),
        "{what}"
    );
}

/// The most memory that the process ever had, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory(of: &Running) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", of.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<usize>().ok())
        .expect("Linux says how much memory a process had")
        * 1024
}

/// Only Linux tells; elsewhere nothing is checked.
#[cfg(not(target_os = "linux"))]
fn peak_memory(_: &Running) -> usize {
    0
}

#[test]
fn files_of_another_web_server_come_back_byte_for_byte() {
    let folder = Folder::new("tower-response-cache-files");
    let mut seeded = Seeded(0x0072_6573_706F_6E73);
    let edges = [0, 1, 2, 1023, 1024, MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB];
    let lengths: Vec<usize> = edges
        .iter()
        .copied()
        .chain((10..500).map(|_| seeded.length()))
        .collect();
    let files: Vec<String> = lengths
        .iter()
        .enumerate()
        .map(|(number, length)| {
            let name = format!("{:02}/{number:03}.bin", number % 20);
            folder.write(&name, seeded.bytes(*length));
            format!("/{name}")
        })
        .collect();
    assert_eq!(files.len(), 500);
    let server = WebServer::start(&folder);
    let (proxy, address) = Running::reverse_proxy(server.address, &["--memory", "512"]);

    let (mut direct, mut through) = (Client::connect(server.address), Client::connect(address));
    for pass in ["cold", "warm"] {
        for (path, length) in files.iter().zip(&lengths) {
            let what = format!("{path}, {length} bytes, {pass}");
            let on_disk = std::fs::read(folder.0.join(&path[1..])).unwrap();
            let answer = through.get(path);
            assert_eq!(answer.status, 200, "{what}");
            assert!(answer.body == on_disk, "{what}: another body");
            let expected = if pass == "warm" && *length <= MIB {
                "HIT"
            } else {
                "MISS"
            };
            assert_eq!(answer.x_cache(), expected, "{what}");
            assert_eq!(answer.fields.has("age"), expected == "HIT", "{what}");
            if pass == "warm" {
                assert_same(&direct.get(path), &answer, &what);
            }
        }
    }

    // What is over the limit passes through without being held.
    let before = peak_memory(&proxy);
    let five_mib = &files[9];
    for _ in 0..20 {
        let answer = through.get(five_mib);
        assert_eq!(answer.body.len(), 5 * MIB);
        assert_ne!(answer.x_cache(), "HIT");
    }
    let mut readers: Vec<Client> = (0..8).map(|_| Client::connect(address)).collect();
    for reader in &mut readers {
        reader.send(format!("GET {five_mib} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }
    for reader in &mut readers {
        assert_eq!(reader.answer("GET").unwrap().body.len(), 5 * MIB);
    }
    let grown = peak_memory(&proxy) - before;
    assert!(
        grown < 32 * MIB,
        "140 MiB passed, and {grown} bytes were held"
    );

    // What is not a file is answered as without the proxy, time after time.
    for path in ["/missing", "/missing", "/00/", "/00", "/00/?a=%20b", "/%"] {
        assert_same(&get(server.address, path), &get(address, path), path);
    }
    for (method, path) in [
        ("HEAD", &*files[5]),
        ("HEAD", "/missing"),
        ("POST", &files[5]),
        ("PUT", "/new"),
        ("DELETE", &files[5]),
        ("OPTIONS", "*"),
        ("BREW", "/pot"),
    ] {
        let ask = |address| Client::connect(address).ask(method, path, "Content-Length: 0\r\n");
        let (direct, through) = (ask(server.address), ask(address));
        assert_same(&direct, &through, &format!("{method} {path}"));
    }
    for length in [1, 1000, 100_000] {
        let ask = |address| {
            let body = Seeded(1).bytes(length);
            let mut client = Client::connect(address);
            client.send(format!(
                "POST {} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n",
                files[5]
            ));
            // A server that takes no POST need not read this, and may close before it is sent.
            let _ = client.0.get_mut().write_all(&body);
            client.answer("POST").unwrap()
        };
        let what = format!("POST of {length} bytes");
        assert_same(&ask(server.address), &ask(address), &what);
    }
    for (fields, answered) in [
        ("Range: bytes=0-9\r\n", 206),
        ("If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n", 304),
    ] {
        let ask = |address, path| Client::connect(address).ask("GET", path, fields);
        let stored = ask(address, &files[5]);
        assert_eq!(
            (stored.status, stored.x_cache()),
            (answered, "HIT"),
            "{fields}"
        );
        let not_stored = "/00/000.bin?not-stored";
        let (direct, mut through) = (ask(server.address, not_stored), ask(address, not_stored));
        if answered == 304 {
            // RFC 9110, 15.4.5: where there is no ETag, it is of use.
            through.fields = through.fields.without(&["last-modified"]);
        }
        assert_same(&direct, &through, fields);
    }

    // The server writes its lines in order: once the last is there, all are.
    get(server.address, "/the-end");
    until("the last line of the log", || server.asked("/the-end") > 0);
    for (path, length) in files.iter().zip(&lengths).skip(10) {
        let expected = if *length <= MIB { 2 } else { 3 };
        let why = "cold and directly, and warm only where it is too large to be stored";
        assert_eq!(
            server.asked(path),
            expected,
            "{path}, {length} bytes: {why}"
        );
    }
}

// --- Origins from a script ---------------------------------------------------------------------

/// A request as the origin got it.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) line: String,
    pub(crate) fields: Fields,
    body: Vec<u8>,
    trailers: Fields,
}

impl Heard {
    fn read(from: &mut BufReader<TcpStream>) -> io::Result<Self> {
        let line = String::from_utf8_lossy(&read_line(from)?).into_owned();
        let fields = Fields::read(from)?;
        let (body, trailers) = read_body(from, &fields, false)?;
        Ok(Self {
            line,
            fields,
            body,
            trailers,
        })
    }
}

/// A server that says what the test tells it to say, byte for byte.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Origin {
    /// `answer` writes to the connection and says whether it stays open.
    pub(crate) fn new(
        answer: impl Fn(&Heard, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (hears, answer) = (Arc::clone(&heard), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (hears, answer) = (Arc::clone(&hears), Arc::clone(&answer));
                thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let mut stream = BufReader::new(stream);
                    while let Ok(request) = Heard::read(&mut stream) {
                        hears.lock().unwrap().push(request.clone());
                        if !answer(&request, stream.get_mut()) {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, heard }
    }

    /// Says the same each time.
    fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::new(move |_, stream| stream.write_all(&answer).is_ok())
    }

    /// Sends back what it was sent: the request's lines and fields in `X-Was-…`, and its body.
    fn echo() -> Self {
        Self::new(|request, stream| {
            let length = request.body.len();
            let mut answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n").into_bytes();
            answer.extend_from_slice(format!("X-Line: {}\r\n", request.line).as_bytes());
            for (name, value) in &request.fields.0 {
                answer.extend_from_slice(format!("X-Was-{name}: ").as_bytes());
                answer.extend_from_slice(value);
                answer.extend_from_slice(b"\r\n");
            }
            answer.extend_from_slice(b"\r\n");
            answer.extend_from_slice(&request.body);
            stream.write_all(&answer).is_ok()
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    pub(crate) fn last(&self) -> Heard {
        self.heard
            .lock()
            .unwrap()
            .last()
            .expect("a request")
            .clone()
    }
}

#[test]
fn what_may_be_stored_is_asked_for_once() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    assert_eq!(get(address, "/").x_cache(), "MISS");
    let hit = get(address, "/");
    assert_eq!((hit.x_cache(), hit.text()), ("HIT", "ok"));
    assert_eq!(origin.calls(), 1);
    assert_eq!(get(address, "/?").x_cache(), "MISS");
}

#[test]
fn a_ttl_of_zero_stores_only_what_says_that_it_is_fresh() {
    let origin = Origin::new(|request, stream| {
        let fields = if request.line.contains("/said") {
            "Cache-Control: max-age=60\r\n"
        } else {
            ""
        };
        write!(
            stream,
            "HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"
        )
        .is_ok()
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &["--ttl", "0"]);

    for (path, expected) in [
        ("/silent", "MISS"),
        ("/silent", "MISS"),
        ("/said", "MISS"),
        ("/said", "HIT"),
    ] {
        assert_eq!(get(address, path).x_cache(), expected, "{path}");
    }
}

#[test]
fn a_body_over_max_body_is_not_stored() {
    let origin = Origin::new(|request, stream| {
        let length = if request.line.contains("/11") { 11 } else { 10 };
        let body = "x".repeat(length);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .is_ok()
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &["--max-body", "10"]);

    for (path, expected) in [
        ("/10", "MISS"),
        ("/10", "HIT"),
        ("/11", "MISS"),
        ("/11", "MISS"),
    ] {
        assert_eq!(get(address, path).x_cache(), expected, "{path}");
    }
}

#[test]
fn a_body_of_unknown_length_streams_in_constant_memory() {
    const LENGTH: usize = 128 * MIB;
    let origin = Origin::new(|_, stream| {
        let chunk = vec![b'x'; MIB];
        let mut written = write!(
            stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        for _ in 0..LENGTH / MIB {
            written = written
                .and_then(|()| write!(stream, "{MIB:x}\r\n"))
                .and_then(|()| stream.write_all(&chunk))
                .and_then(|()| stream.write_all(b"\r\n"));
        }
        written
            .and_then(|()| stream.write_all(b"0\r\n\r\n"))
            .is_ok()
    });
    let (proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let before = peak_memory(&proxy);
    let answer = get(address, "/");
    assert_eq!(answer.body.len(), LENGTH);
    assert_eq!(answer.x_cache(), "MISS");
    let grown = peak_memory(&proxy) - before;
    assert!(
        grown < 32 * MIB,
        "128 MiB passed, and {grown} bytes were held"
    );
    assert_eq!(get(address, "/").x_cache(), "MISS");
}

#[test]
fn a_client_that_does_not_read_stops_the_origin() {
    const LENGTH: usize = 256 * MIB;
    let (stalled, is_stalled) = channel();
    let origin = Origin::new(move |_, stream| {
        let piece = vec![b'x'; 64 << 10];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let mut sent = 0;
        while sent < LENGTH {
            match stream.write(&piece[..piece.len().min(LENGTH - sent)]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = stalled.send(sent);
                }
                Err(_) => return false,
            }
        }
        true
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let sent = is_stalled
        .recv_timeout(LIMIT)
        .expect("the origin is stopped");
    assert!(
        sent < LENGTH / 2,
        "{sent} bytes were taken from the origin, and none was read"
    );
    assert_eq!(client.answer("GET").unwrap().body.len(), LENGTH);
}

#[test]
fn the_first_bytes_of_a_body_do_not_wait_for_the_last() {
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let origin = Origin::new(move |_, stream| {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none")
            .unwrap();
        may_go_on.lock().unwrap().recv_timeout(LIMIT).unwrap();
        stream.write_all(b"two").is_ok()
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let (_, status, _) = client.head().unwrap();
    let mut first = [0; 3];
    client.0.read_exact(&mut first).unwrap();
    assert_eq!((status, &first), (200, b"one"));
    go_on.send(()).unwrap();
    client.0.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"two");
}

#[test]
fn the_first_bytes_of_a_request_do_not_wait_for_the_last() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_proxy, address) = Running::reverse_proxy(listener.local_addr().unwrap(), &[]);

    let mut client = Client::connect(address);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\none");
    let mut origin = BufReader::new(listener.accept().unwrap().0);
    let line = read_line(&mut origin).unwrap();
    let fields = Fields::read(&mut origin).unwrap();
    assert_eq!(line, b"POST / HTTP/1.1");
    assert_eq!(fields.get("content-length"), "6");
    let mut part = [0; 3];
    origin.read_exact(&mut part).unwrap();
    assert_eq!(&part, b"one");
    client.send("two");
    origin.read_exact(&mut part).unwrap();
    assert_eq!(&part, b"two");
    let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
    origin.get_mut().write_all(answer).unwrap();
    assert_eq!(client.answer("POST").unwrap().status, 201);
}

#[test]
fn an_event_stream_ends_at_the_origin_when_its_client_goes() {
    let (ended, has_ended) = channel();
    let origin = Origin::new(move |_, stream| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        stream.write_all(head).unwrap();
        let mut events = 0_u64;
        while stream.write_all(b"data: tick\n\n").is_ok() {
            events += 1;
        }
        let _ = ended.send(events);
        false
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let (_, _, fields) = client.head().unwrap();
    assert_eq!(fields.get("content-type"), "text/event-stream");
    client.0.read_exact(&mut [0; 64]).unwrap();
    drop(client);
    assert!(has_ended.recv_timeout(LIMIT).is_ok());
}

#[test]
fn an_origin_that_breaks_off_is_an_error_and_nothing_is_stored() {
    for (what, answer) in [
        (
            "declared",
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        ),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ),
        (
            "in a chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nhalf",
        ),
    ] {
        let origin = Origin::new(move |_, stream| {
            stream.write_all(answer.as_bytes()).unwrap();
            false
        });
        let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

        for call in 1..=2 {
            let mut client = Client::connect(address);
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            let answer = client.answer("GET");
            assert!(
                answer.is_err(),
                "{what}: ended as if it were whole: {answer:?}"
            );
            assert_eq!(origin.calls(), call, "{what}");
        }
    }
}

#[test]
fn an_origin_that_is_away_is_a_502_in_a_sentence() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = gone.local_addr().unwrap();
    drop(gone);
    let (_proxy, address) = Running::reverse_proxy(nobody, &[]);

    let mut client = Client::connect(address);
    for (method, sentence) in [
        ("GET", "The server behind this proxy cannot be reached."),
        ("HEAD", ""),
        ("POST", "The server behind this proxy cannot be reached."),
    ] {
        let answer = client.ask(method, "/", "");
        assert_eq!((answer.status, answer.text()), (502, sentence), "{method}");
        assert!(
            !answer.fields.has("x-cache"),
            "{method}: this is no answer of the origin"
        );
    }
}

#[test]
fn an_origin_that_comes_back_is_asked_again() {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    let origin = Origin::new(move |_, stream| {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        is_up.load(Ordering::SeqCst) && stream.write_all(answer).is_ok()
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let away = get(address, "/");
    assert_eq!(away.status, 502);
    assert_eq!(
        away.text(),
        "The server behind this proxy gave no complete answer."
    );
    up.store(true, Ordering::SeqCst);
    assert_eq!(get(address, "/").status, 200);
    assert_eq!(get(address, "/").x_cache(), "HIT");
}

#[test]
fn what_is_no_http_is_a_502() {
    for nonsense in [
        "",
        "hello\r\n\r\n",
        "HTTP/1.1 999999 What\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n",
    ] {
        let origin = Origin::new(move |_, stream| {
            let _ = stream.write_all(nonsense.as_bytes());
            false
        });
        let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);
        let answer = get(address, "/");
        assert_eq!(answer.status, 502, "{nonsense:?}");
        assert!(answer.text().ends_with('.'), "{nonsense:?}");
    }
}

#[test]
fn request_bodies_reach_the_origin_as_they_were_sent() {
    let origin = Origin::echo();
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);
    let body = Seeded(1).bytes(3 * MIB);
    let chunked: Vec<u8> = body
        .chunks(70_000)
        .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
        .chain(*b"0\r\nX-Sum: 7\r\n\r\n")
        .collect();
    let declared = format!("Content-Length: {}\r\n", body.len());

    let mut client = Client::connect(address);
    // A GET with a body is rare and allowed, and nothing that the cache may touch.
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
        for (fields, bytes) in [
            (declared.as_str(), &body),
            ("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n", &chunked),
        ] {
            client.send(format!(
                "{method} /a?b HTTP/1.1\r\nHost: test\r\n{fields}\r\n"
            ));
            client.send(bytes);
            let answer = client.answer(method).unwrap();
            let what = format!("{method}, {fields}");
            assert_eq!(
                answer.fields.get("x-line"),
                format!("{method} /a?b HTTP/1.1"),
                "{what}"
            );
            assert!(answer.body == body, "{what}: another body");
            let heard = origin.last();
            let expected = if fields == declared { "" } else { "7" };
            assert_eq!(heard.trailers.get("x-sum"), expected, "{what}");
            assert_eq!(
                heard.fields.has("content-length"),
                fields == declared,
                "{what}"
            );
        }
    }
    let empty = client.ask("POST", "/", "Content-Length: 0\r\n");
    assert_eq!(empty.fields.get("x-was-content-length"), "0");
    assert!(
        !empty.fields.has("x-cache"),
        "the cache has no part in a POST"
    );
}

#[test]
fn an_answer_before_the_end_of_the_request_is_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_proxy, address) = Running::reverse_proxy(listener.local_addr().unwrap(), &[]);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = BufReader::new(stream);
            read_line(&mut stream).unwrap();
            Fields::read(&mut stream).unwrap();
            let answer = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch";
            stream.get_mut().write_all(answer).unwrap();
            // Closing with the body unread resets the connection.
        }
    });
    let body = vec![b'x'; 300_000];
    for _ in 0..20 {
        let mut client = Client::connect(address);
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n");
        let _ = client.0.get_mut().write_all(&body);
        let answer = client.answer("POST").unwrap();
        assert_eq!((answer.status, answer.text()), (413, "much"));
    }
}

#[test]
fn a_client_that_expects_to_be_told_to_go_on_is_told() {
    let origin = Origin::echo();
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let mut client = Client::connect(address);
    client
        .send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer("POST").unwrap().status, 100);
    client.send("body");
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status, answer.text()), (200, "body"));
    assert_eq!(answer.fields.get("x-was-expect"), "100-continue");
}

#[test]
fn a_set_cookie_hidden_by_connection_is_not_stored() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nConnection: Set-Cookie\r\nSet-Cookie: id=alice\r\nContent-Length: 2\r\n\r\nok",
    );
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    for call in 1..=3 {
        let answer = get(address, "/");
        assert_eq!((answer.x_cache(), origin.calls()), ("MISS", call));
        assert!(
            !answer.fields.has("set-cookie"),
            "it was meant for the proxy"
        );
    }
}

#[test]
fn a_field_hidden_by_connection_does_not_choose_the_stored_variant() {
    let origin = Origin::new(|request, stream| {
        let language = if request.fields.has("accept-language") {
            "de"
        } else {
            "en"
        };
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nVary: Accept-Language\r\nContent-Length: 2\r\n\r\n{language}"
        )
        .is_ok()
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let mut client = Client::connect(address);
    let hidden = "Accept-Language: de\r\nConnection: accept-language\r\n";
    assert_eq!(client.ask("GET", "/", hidden).text(), "en");
    assert_eq!(
        client.ask("GET", "/", "Accept-Language: de\r\n").text(),
        "de"
    );
}

#[test]
fn fields_of_one_connection_end_there_and_all_others_pass() {
    let origin = Origin::saying(
        "HTTP/1.1 299 Odd Reason\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Server: scripted\r\n\
         Connection: X-Private, keep-alive\r\n\
         Keep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\n\
         X-Private: for the proxy\r\n\
         Link: </a>; rel=preload\r\n\
         X-Between: 1\r\n\
         Link: </b>; rel=preload\r\n\
         Set-Cookie: a=1\r\n\
         Set-Cookie: b=2\r\n\
         X-Empty:\r\n\
         X-Spaced : kept\r\n\
         X-Folded: one\r\n  two\r\n\
         Content-Length: 2\r\n\r\nok",
    );
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let answer = Client::connect(address).ask(
        "GET",
        "/",
        "Connection: close, X-Listed\r\nX-Listed: 1\r\nKeep-Alive: 1\r\nTE: gzip\r\n\
         Proxy-Connection: close\r\nAccept: a\r\nX-Other: 1\r\nAccept: b\r\n",
    );
    let heard = origin.last();
    let expected = Fields(vec![
        ("host".into(), "test".into()),
        ("accept".into(), "a".into()),
        ("accept".into(), "b".into()),
        ("x-other".into(), "1".into()),
    ]);
    let sorted = |fields: &Fields| {
        let mut fields = fields.0.clone();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        fields
    };
    assert_eq!(
        sorted(&heard.fields),
        sorted(&expected),
        "nothing added, nothing lost"
    );
    assert_eq!(heard.line, "GET / HTTP/1.1");

    assert_eq!(answer.line, "HTTP/1.1 299 Odd Reason");
    let expected: [(&str, &[&str]); 9] = [
        ("content-length", &["2"]),
        ("date", &["Thu, 01 Jan 2026 00:00:00 GMT"]),
        ("link", &["</a>; rel=preload", "</b>; rel=preload"]),
        ("server", &["scripted"]),
        ("set-cookie", &["a=1", "b=2"]),
        ("x-between", &["1"]),
        ("x-empty", &[""]),
        ("x-folded", &["one two"]),
        ("x-spaced", &["kept"]),
    ];
    let expected: Vec<_> = expected
        .iter()
        .flat_map(|(name, values)| {
            values
                .iter()
                .map(|value| ((*name).to_owned(), Vec::from(*value)))
        })
        .collect();
    let ours = ["x-cache", "cache-status", "connection"];
    assert_eq!(sorted(&answer.fields.without(&ours)), expected);
    assert_eq!(
        answer.fields.get("connection"),
        "close",
        "as the client asked"
    );
}

#[test]
fn repeated_fields_are_all_there_on_a_hit() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nLink: </a>\r\nX-One: 1\r\nLink: </b>\r\nLink: </a>\r\nContent-Length: 0\r\n\r\n",
    );
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);
    for expected in ["MISS", "HIT"] {
        let answer = get(address, "/");
        assert_eq!(answer.x_cache(), expected);
        let links = answer.fields.all("link");
        assert_eq!(links, [&b"</a>"[..], b"</b>", b"</a>"], "{expected}");
    }
}

#[test]
fn large_and_odd_input_is_answered_as_without_the_proxy() {
    let origin = Origin::echo();
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);
    let mut many_fields = String::new();
    for number in 0..300 {
        write!(many_fields, "X-Number-{number}: {number}\r\n").unwrap();
    }
    let parameters: Vec<String> = (0..10_000).map(|number| format!("{number}")).collect();
    let mut odd: Vec<u8> = b"X-Odd: ".to_vec();
    odd.extend(0x80..=0xFF);
    odd.extend(b"\r\nX-Text: gr\xC3\xBC\xC3\x9Fe\r\n");

    for (what, path, fields) in [
        (
            "a field of 64 KiB",
            "/long".to_owned(),
            format!("X-Long: {}\r\n", "y".repeat(64 << 10)).into_bytes(),
        ),
        ("300 fields", "/many".to_owned(), many_fields.into_bytes()),
        ("bytes from 0x80 to 0xFF", "/odd".to_owned(), odd),
        (
            "10,000 query parameters",
            format!("/?{}", parameters.join("&")),
            Vec::new(),
        ),
        (
            "a path of 60 KiB",
            format!("/{}", "a/".repeat(30 << 10)),
            Vec::new(),
        ),
        (
            "a path of dots and slashes",
            "//a/../b/./%2e%2E/;x?y?z//".to_owned(),
            Vec::new(),
        ),
    ] {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n").into_bytes();
        request.extend_from_slice(&fields);
        request.extend_from_slice(b"\r\n");
        let ask = |address| {
            let mut client = Client::connect(address);
            client.send(&request);
            client
                .answer("GET")
                .unwrap_or_else(|error| panic!("{what}: {error}"))
        };
        let (direct, through) = (ask(origin.address), ask(address));
        assert_eq!(through.status, 200, "{what}");
        assert_same(&direct, &through, what);
        assert_same(&direct, &ask(address), what);
    }
}

#[test]
fn too_much_is_refused_in_good_order() {
    let origin = Origin::echo();
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);
    for (what, request, expected) in [
        (
            "a path of 100 KiB",
            format!(
                "GET /{} HTTP/1.1\r\nHost: test\r\n\r\n",
                "a".repeat(100 << 10)
            ),
            414,
        ),
        (
            "5,000 fields",
            format!(
                "GET / HTTP/1.1\r\nHost: test\r\n{}\r\n",
                "A: b\r\n".repeat(5000)
            ),
            431,
        ),
        ("no HTTP", "hello there\r\n\r\n".to_owned(), 400),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
            400,
        ),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "a tunnel",
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(),
            501,
        ),
    ] {
        let mut client = Client::connect(address);
        client.send(request);
        let answer = client
            .answer("GET")
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.status, expected, "{what}");
    }
    assert_eq!(origin.calls(), 0);
    assert_eq!(get(address, "/").status, 200, "it goes on");
}

#[test]
fn the_host_passes_as_it_came_and_a_whole_uri_decides_it() {
    let origin = Origin::echo();
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);
    for (head, host, line) in [
        (
            "GET /a HTTP/1.1\r\nHost: Shop.Example:81\r\n",
            "Shop.Example:81",
            "GET /a HTTP/1.1",
        ),
        (
            "GET http://u@b.example:82/a?b HTTP/1.1\r\nHost: c\r\n",
            "b.example:82",
            "GET /a?b HTTP/1.1",
        ),
        (
            "GET http://d.example HTTP/1.1\r\nHost: c\r\n",
            "d.example",
            "GET / HTTP/1.1",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: e\r\n",
            "e",
            "OPTIONS * HTTP/1.1",
        ),
    ] {
        let mut client = Client::connect(address);
        client.send(format!("{head}\r\n"));
        let answer = client.answer("GET").unwrap();
        assert_eq!(answer.fields.get("x-was-host"), host, "{head}");
        assert_eq!(answer.fields.get("x-line"), line, "{head}");
    }
    let entries = origin.calls();
    let mut client = Client::connect(address);
    client.send("GET /a HTTP/1.1\r\nHost: other.example\r\n\r\n");
    assert_eq!(
        client.answer("GET").unwrap().x_cache(),
        "MISS",
        "no host answers for another"
    );
    assert_eq!(origin.calls(), entries + 1);
}

#[test]
fn answers_without_a_body_end_where_they_should() {
    let origin = Origin::new(|request, stream| {
        let head = match request.line.split(' ').nth(1) {
            Some("/204") => "204 No Content\r\nX-A: 1\r\n\r\n",
            Some("/304") => "304 Not Modified\r\nETag: \"a\"\r\n\r\n",
            Some("/empty") => "200 OK\r\nContent-Length: 0\r\n\r\n",
            Some("/chunks") if request.line.starts_with("HEAD") => {
                "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            }
            Some("/chunks") => {
                "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
            }
            _ if request.line.starts_with("HEAD") => "200 OK\r\nContent-Length: 2\r\n\r\n",
            _ => "200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        write!(stream, "HTTP/1.1 {head}").is_ok()
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    // All over one connection: an answer that ends in the wrong place spoils the next.
    let mut client = Client::connect(address);
    for (method, path, status, length, body) in [
        ("GET", "/204", 204, "", ""),
        ("GET", "/304", 304, "", ""),
        ("HEAD", "/head-first", 200, "2", ""),
        ("GET", "/head-first", 200, "2", "ok"),
        ("HEAD", "/head-first", 200, "2", ""),
        ("GET", "/empty", 200, "0", ""),
        ("GET", "/empty", 200, "0", ""),
        ("HEAD", "/chunks", 200, "", ""),
        ("GET", "/204", 204, "", ""),
        ("GET", "/last", 200, "2", "ok"),
    ] {
        let answer = client.ask(method, path, "");
        let what = format!("{method} {path}");
        assert_eq!((answer.status, answer.text()), (status, body), "{what}");
        assert_eq!(answer.fields.get("content-length"), length, "{what}");
    }
    for _ in 0..2 {
        assert_eq!(
            client.get("/chunks").text(),
            "ok",
            "the void length is not believed"
        );
    }
}

#[test]
fn an_old_client_and_an_old_origin_are_understood() {
    let origin = Origin::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nuntil the end");
        false
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &["--ttl", "0"]);

    let new = get(address, "/");
    assert_eq!(
        (new.text(), new.line.as_str()),
        ("until the end", "HTTP/1.1 200 OK")
    );
    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.0\r\n\r\n");
    let old = client.answer("GET").unwrap();
    assert_eq!(old.text(), "until the end");
    assert!(!old.fields.has("transfer-encoding"));
    assert!(client.is_closed());
    assert_eq!(origin.last().line, "GET / HTTP/1.1");
    assert_eq!(origin.last().fields.get("host"), origin.address.to_string());
}

#[test]
fn trailers_pass_to_a_client_that_asks_for_them() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);
    for _ in 0..2 {
        let answer = Client::connect(address).ask("GET", "/", "TE: trailers\r\nConnection: TE\r\n");
        assert_eq!((answer.text(), answer.trailers.get("x-sum")), ("ok", "7"));
        assert_eq!(answer.x_cache(), "MISS", "what has trailers is not stored");
        assert_eq!(origin.last().fields.get("te"), "trailers");
    }
}

#[test]
fn after_an_upgrade_bytes_pass_in_both_directions() {
    let origin = Origin::new(|request, stream| {
        assert_eq!(request.fields.get("upgrade"), "chat");
        assert_eq!(request.fields.get("connection"), "upgrade");
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello";
        stream.write_all(head.as_bytes()).unwrap();
        let mut line = [0; 5];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"there");
        stream.write_all(b"bye").unwrap();
        false
    });
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let mut client = Client::connect(address);
    client.send("GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n");
    let (_, status, fields) = client.head().unwrap();
    assert_eq!(
        (status, fields.get("upgrade"), fields.get("connection")),
        (101, "chat", "upgrade")
    );
    let mut said = [0; 5];
    client.0.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    client.send("there");
    let mut rest = Vec::new();
    client.0.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
}

#[test]
fn an_upgrade_that_the_origin_ignores_is_a_plain_answer() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let (_proxy, address) = Running::reverse_proxy(origin.address, &[]);
    let mut client = Client::connect(address);
    for _ in 0..2 {
        let answer = client.ask("GET", "/", "Connection: Upgrade\r\nUpgrade: chat\r\n");
        assert_eq!((answer.status, answer.text()), (200, "ok"));
    }
}

#[test]
fn sigterm_lets_a_request_under_way_finish() {
    let (asked, was_asked) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let origin = Origin::new(move |request, stream| {
        if request.line.contains("/slow") {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none")
                .unwrap();
            asked.send(()).unwrap();
            may_go_on.lock().unwrap().recv_timeout(LIMIT).unwrap();
            return stream.write_all(b"two").is_ok();
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .is_ok()
    });
    let (mut proxy, address) = Running::reverse_proxy(origin.address, &[]);

    let mut idle = Client::connect(address);
    assert_eq!(idle.get("/").text(), "ok");
    let mut slow = Client::connect(address);
    slow.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    was_asked.recv_timeout(LIMIT).unwrap();

    proxy.terminate();
    until("no new connection is taken", || {
        TcpStream::connect(address).is_err()
    });
    assert!(
        idle.is_closed(),
        "a connection without a request ends at once"
    );
    go_on.send(()).unwrap();
    assert_eq!(slow.answer("GET").unwrap().text(), "onetwo");
    assert_eq!(proxy.wait(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_said_in_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let finished = run_command(Command::new(process::example("reverse_proxy")).args([
        "--listen",
        &listen,
        "--origin",
        "http://127.0.0.1:1",
    ]));
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("choose another --listen."),
        "{finished:?}"
    );
}
