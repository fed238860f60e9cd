//! Programs as processes, and a client that speaks just enough HTTP/1.1 to see every byte.
//!
//! Nothing here sleeps or takes a fixed port: a program says on a line which address it got, and
//! every wait has an end that only a hanging program reaches.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, Once};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The end of every wait. Far more than anything here takes, so that a slow machine fails nothing.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

// --- Programs ----------------------------------------------------------------------------------

/// The built example `name`, next to which this test was built.
pub(crate) fn example(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("TARGET/PROFILE/deps/TEST");
    BUILT.call_once(|| build_examples(profile));
    let built = profile
        .join("examples")
        .join(name)
        .with_extension(std::env::consts::EXE_EXTENSION);
    let shown = built.display();
    assert!(
        built.is_file(),
        "{shown} is not there: run `cargo build --examples` first."
    );
    built
}

/// Has cargo build the examples, as a test that names its targets (`cargo test --test programs`)
/// leaves them as they were, and an old one would be checked. Costs nothing where they are fresh.
fn build_examples(profile: &Path) {
    // Only cargo sets this. Somebody who starts the test by hand has built what is to be checked.
    let Some(cargo) = std::env::var_os("CARGO") else {
        return;
    };
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--examples"]);
    // As this test was built: what it starts can do the same.
    if cfg!(feature = "redis-tls") {
        build.args(["--features", "redis-tls"]);
    } else if cfg!(feature = "redis") {
        build.args(["--features", "redis"]);
    }
    // What cargo tells a test of its package would be news to build scripts (that of ring, for one),
    // and all that depends on them would be built anew.
    for (name, _) in std::env::vars_os() {
        let is_told = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
        ]
        .iter()
        .any(|start| name.as_encoded_bytes().starts_with(start.as_bytes()));
        if is_told {
            build.env_remove(name);
        }
    }
    match profile.file_name().and_then(OsStr::to_str) {
        None | Some("debug") => {}
        Some(other) => {
            build.args(["--profile", other]);
        }
    }
    if let Some(target) = profile.parent() {
        build.arg("--target-dir").arg(target);
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = build.output().expect("cargo, which runs this, starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the examples do not build: {said}");
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs an example to its end.
pub(crate) fn run<S: AsRef<OsStr>>(name: &str, arguments: &[S]) -> Finished {
    run_command(Command::new(example(name)).args(arguments))
}

/// Runs a command to its end.
pub(crate) fn run_command(command: &mut Command) -> Finished {
    let mut running = Running::spawn(command);
    let code = running.wait();
    running.finished(code)
}

/// A program that goes on until it is told to end; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stdout = child.stdout.take().expect("piped above");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped above"));
        let (sender, lines) = channel();
        let collected = Arc::new(Mutex::new(String::new()));
        let collecting = Arc::clone(&collected);
        let readers = vec![
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            }),
            thread::spawn(move || {
                let mut line = Vec::new();
                while matches!(stderr.read_until(b'\n', &mut line), Ok(1..)) {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    collecting.lock().unwrap().push_str(&text);
                    line.clear();
                }
            }),
        ];
        Self {
            child,
            lines,
            seen: Vec::new(),
            stderr: collected,
            readers,
        }
    }

    /// Starts the reverse proxy on a free port, in front of `origin`.
    pub(crate) fn reverse_proxy(origin: SocketAddr, more: &[&str]) -> (Self, SocketAddr) {
        let mut running = Self::spawn(
            Command::new(example("reverse_proxy"))
                .args(["--listen", "127.0.0.1:0"])
                .args(["--origin", &format!("http://{origin}")])
                .args(more),
        );
        let address = running
            .wait_for_line(|line| line.strip_prefix("listening on http://").map(str::to_owned));
        let address = address.parse().expect("the line ends in an address");
        (running, address)
    }

    /// Waits for the line on stdout that `found` recognises.
    pub(crate) fn wait_for_line<T>(&mut self, found: impl Fn(&str) -> Option<T>) -> T {
        loop {
            let Ok(line) = self.lines.recv_timeout(LIMIT) else {
                panic!(
                    "the line never came; stdout {:?}, stderr {:?}",
                    self.seen,
                    self.stderr.lock().unwrap()
                );
            };
            let answer = found(&line);
            self.seen.push(line);
            if let Some(answer) = answer {
                return answer;
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What stderr has said so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = self.pid().to_string();
        let done = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill -TERM");
    }

    /// Waits for the end; the exit code, unless a signal ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        until("the program ends", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// All that stdout said, of a program that has ended.
    pub(crate) fn all_lines(&mut self) -> String {
        self.finished(None).stdout
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    fn finished(&mut self, code: Option<i32>) -> Finished {
        for reader in self.readers.drain(..) {
            reader.join().expect("reading lines does not fail");
        }
        self.seen.extend(self.lines.try_iter());
        let mut stdout = self.seen.join("\n");
        stdout.push('\n');
        Finished {
            code,
            stdout,
            stderr: self.stderr(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !thread::panicking() {
            let said = self.stderr();
            assert!(!said.contains("panicked"), "the program panicked: {said}");
        }
    }
}

/// Polls until `done`; `what` names it where it never is.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "never: {what}");
        // Not a wait for something to be done by then: only a politeness to the other core.
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// A directory of this test's own, removed at its end.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the temporary directory takes directories");
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("inside the folder")).unwrap();
        std::fs::write(path, content).expect("there is room for the test's files");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// --- HTTP --------------------------------------------------------------------------------------

/// Fields as they stand on the wire: names in lower case, values as bytes, in order.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) Vec<(String, Vec<u8>)>);

/// As text, and no more of each value than one can read.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |value: &[u8]| format!("{:.80}", value.escape_ascii().to_string());
        let lines = self.0.iter().map(|(name, value)| (name, short(value)));
        f.debug_list().entries(lines).finish()
    }
}

impl Fields {
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let mut fields = Self::default();
        loop {
            let line = read_line(from)?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let colon = colon.ok_or_else(|| io::Error::other("a field without a colon"))?;
            let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
            fields.0.push((name, line[colon + 1..].trim_ascii().into()));
        }
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.0.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_slice()).collect()
    }

    /// The field's only line as text; empty where there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands there {} times", all.len());
        all.first()
            .map_or("", |value| std::str::from_utf8(value).expect("text"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    pub(crate) fn without(&self, names: &[&str]) -> Self {
        let kept = |(name, _): &&(String, Vec<u8>)| !names.contains(&name.as_str());
        Self(self.0.iter().filter(kept).cloned().collect())
    }
}

/// One answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) line: String,
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
}

impl Answer {
    pub(crate) fn x_cache(&self) -> &str {
        self.fields.get("x-cache")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }
}

/// One connection to a server.
#[derive(Debug)]
pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address)
            .unwrap_or_else(|error| panic!("{address} takes no connection: {error}"));
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = self.0.get_mut().write_all(bytes.as_ref());
        sent.expect("the server reads what is sent");
    }

    /// Sends a request (method, path, lines of fields each ending in CRLF) and reads the answer.
    pub(crate) fn ask(&mut self, method: &str, path: &str, fields: &str) -> Answer {
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"
        ));
        self.answer(method)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    /// Reads the head of an answer: its first line, status and fields.
    pub(crate) fn head(&mut self) -> io::Result<(String, u16, Fields)> {
        let line = String::from_utf8_lossy(&read_line(&mut self.0)?).into_owned();
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {line:?}")))?;
        Ok((line, status, Fields::read(&mut self.0)?))
    }

    /// Reads one answer to a request of this method. An error is a body that broke off.
    pub(crate) fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let (line, status, fields) = self.head()?;
        let empty = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
        let (body, trailers) = if empty {
            (Vec::new(), Fields::default())
        } else {
            read_body(&mut self.0, &fields, true)?
        };
        Ok(Answer {
            line,
            status,
            fields,
            body,
            trailers,
        })
    }

    /// Whether the server has closed this connection, with nothing more said.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

/// One request over a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    Client::connect(address).get(path)
}

pub(crate) fn read_line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

/// Reads a body as its fields frame it; without framing, to the end of the connection (`to_end`) or
/// not at all.
pub(crate) fn read_body(
    from: &mut impl BufRead,
    fields: &Fields,
    to_end: bool,
) -> io::Result<(Vec<u8>, Fields)> {
    let mut body = Vec::new();
    if fields.get("transfer-encoding").ends_with("chunked") {
        loop {
            let line = String::from_utf8_lossy(&read_line(from)?).into_owned();
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                return Ok((body, Fields::read(from)?));
            }
            exactly(from, size, &mut body)?;
            read_line(from)?;
        }
    }
    if fields.has("content-length") {
        let length = fields.get("content-length").parse();
        exactly(from, length.map_err(io::Error::other)?, &mut body)?;
    } else if to_end {
        from.read_to_end(&mut body)?;
    }
    Ok((body, Fields::default()))
}

fn exactly(from: &mut impl BufRead, size: u64, body: &mut Vec<u8>) -> io::Result<()> {
    let read = from.take(size).read_to_end(body)?;
    if read as u64 == size {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
