//! A redis-server of a test's own: on a free port, without files, gone with the test.
//!
//! The server is the child of a small shell, which does what it reads from a pipe: start, kill,
//! stop. When the pipe closes, however that came about (dropped, a static at the end of the
//! process, the process itself killed), the shell kills the server and removes its directory.
//! Needs nothing but the standard library, so that unit tests may include it as well.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The end of every wait, for a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

/// Below the range from which systems take the ports of clients. A client that dials a port of
/// that range while no server is there may be given the very port, and then talks to itself.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// Answers each line with one line. Signals of a terminal go to the whole group and are ignored,
/// as the end of the test process closes the pipe anyway.
const KEEPER: &str = r#"
trap '' INT TERM HUP
dir=$1; shift
pid=
end() { [ -z "$pid" ] || { kill -9 "$pid"; wait "$pid"; }; pid=; }
while read -r word rest; do
    case $word in
        start)
            "$@" $rest >>"$dir/log" 2>&1 </dev/null &
            pid=$!
            echo "$pid" ;;
        kill) end; echo killed ;;
        signal) kill "-$rest" "$pid" && echo sent || echo failed ;;
    esac
done
end
rm -rf "$dir"
"#;

/// A redis-server that is started, killed, stopped and asked by a test; dropping it ends it.
pub(crate) struct RedisServer {
    keeper: Child,
    /// Closed first when this is dropped: that ends the rest.
    wire: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    folder: PathBuf,
    port: u16,
    pid: AtomicU32,
    password: Option<String>,
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer")
            .field("port", &self.port)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

impl RedisServer {
    /// An empty server with the defaults of Redis.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// An empty server with more arguments, such as `--maxmemory 2mb`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        assert_installed();
        for _ in 0..50 {
            if let Some(server) = Self::start_on(free_port(), arguments) {
                return server;
            }
        }
        panic!("50 ports that were free were taken before redis-server had them");
    }

    /// One for all tests of this process, made on first use. Nobody may kill or stop it.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// `None` when somebody else has taken the port in between.
    fn start_on(port: u16, arguments: &[&str]) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("redis-of-test-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("the temporary directory takes directories");
        // A sentinel writes what it knows into its configuration, and does not start without one.
        let mut first = Vec::new();
        if arguments.first() == Some(&"--sentinel") {
            let file = folder.join("sentinel.conf");
            std::fs::write(&file, "").expect("the directory takes files");
            first.push(file);
        }
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .args([folder.as_os_str(), program().as_ref()])
            .args(first)
            .args(["--save", "", "--appendonly", "no"])
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .arg("--unixsocket")
            .arg(folder.join("socket"))
            .arg("--dir")
            .arg(&folder)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("every Unix has a shell");
        let stdin = keeper.stdin.take().expect("piped above");
        let stdout = keeper.stdout.take().expect("piped above");
        let at = arguments.iter().position(|word| *word == "--requirepass");
        let server = Self {
            keeper,
            wire: Mutex::new(Some((stdin, BufReader::new(stdout)))),
            folder,
            port,
            pid: AtomicU32::new(0),
            password: at.map(|at| arguments[at + 1].to_owned()),
        };
        server.run().then_some(server)
    }

    /// Starts the server and waits until it answers; `false` when the port is taken.
    fn run(&self) -> bool {
        let _ = std::fs::remove_file(self.folder.join("log"));
        let _ = std::fs::remove_file(self.folder.join("socket"));
        let pid = self.tell("start");
        self.pid.store(
            pid.parse().expect("the shell names the process"),
            Ordering::Relaxed,
        );
        let begin = Instant::now();
        // The socket in the directory of its own, which Redis makes after it has its port: behind
        // the port there may be somebody else's server.
        while self.ask(&["PING"]).is_err() {
            let log = self.log();
            if log.contains("Address already in use") {
                self.tell("kill");
                return false;
            }
            let has_failed = log.contains("FATAL CONFIG") || log.contains("aborting");
            assert!(
                !has_failed && begin.elapsed() < LIMIT,
                "redis-server does not start: {log}"
            );
            // A politeness to the server that is starting, on a machine of few cores.
            thread::park_timeout(Duration::from_millis(1));
        }
        true
    }

    /// Ends the server at once, by SIGKILL.
    pub(crate) fn kill(&self) {
        assert_eq!(self.tell("kill"), "killed");
    }

    /// Kills the server, if it runs, and starts it on the same port, empty.
    pub(crate) fn restart(&self) {
        let begin = Instant::now();
        self.kill();
        while !self.run() {
            assert!(begin.elapsed() < LIMIT, "{} is not given back", self.port);
        }
    }

    /// Halts the server by SIGSTOP: connections stay, nothing answers.
    pub(crate) fn stop(&self) {
        assert_eq!(self.tell("signal STOP"), "sent", "the server runs");
    }

    /// Lets a halted server go on, by SIGCONT.
    pub(crate) fn cont(&self) {
        assert_eq!(self.tell("signal CONT"), "sent", "the server runs");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// With the password, if it was started with one.
    pub(crate) fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// The same server by its socket in the file system.
    pub(crate) fn unix_url(&self) -> String {
        let socket = self.folder.join("socket");
        format!("redis+unix://{}", socket.display())
    }

    /// What the server has said since it was started.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Sends a command over a connection of its own; panics when there is no answer.
    ///
    /// What the server refuses is a [`Reply::Error`].
    pub(crate) fn command<P: AsRef<[u8]>>(&self, parts: &[P]) -> Reply {
        self.ask(parts).unwrap_or_else(|error| {
            let shown = parts.first().map(|part| part.as_ref().escape_ascii());
            let shown = shown.map_or_else(String::new, |shown| shown.to_string());
            panic!("redis-server does not answer {shown}: {error}")
        })
    }

    /// The same, with an error where there is no answer.
    pub(crate) fn ask<P: AsRef<[u8]>>(&self, parts: &[P]) -> io::Result<Reply> {
        let mut connection = Connection::open(self.folder.join("socket"))?;
        if let Some(password) = &self.password {
            connection.command(&["AUTH", password])?;
        }
        connection.command(parts)
    }

    /// The keys that match a pattern of Redis, in order.
    pub(crate) fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys: Vec<String> = match self.command(&["KEYS", pattern]) {
            Reply::Array(keys) => keys.iter().map(|key| key.text().to_owned()).collect(),
            other => panic!("no list of keys: {other:?}"),
        };
        keys.sort();
        keys
    }

    /// How often a command was called, by whomever.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let info = self.command(&["INFO", "commandstats"]);
        let start = format!("cmdstat_{}:calls=", command.to_lowercase());
        let line = info.text().lines().find_map(|line| {
            let (calls, _) = line.strip_prefix(&start)?.split_once(',')?;
            calls.parse().ok()
        });
        line.unwrap_or(0)
    }

    /// One line to the shell, and its answer.
    fn tell(&self, line: &str) -> String {
        let mut wire = self.wire.lock().expect("no answer panics");
        let (to, from) = wire.as_mut().expect("open until this is dropped");
        writeln!(to, "{line}").expect("the shell listens");
        let mut answer = String::new();
        from.read_line(&mut answer).expect("the shell answers");
        answer.trim().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Ok(wire) = self.wire.get_mut() {
            *wire = None;
        }
        let _ = self.keeper.wait();
    }
}

fn assert_installed() {
    static IS_INSTALLED: OnceLock<bool> = OnceLock::new();
    let is_installed = *IS_INSTALLED.get_or_init(|| {
        let mut version = Command::new(program());
        version.arg("--version").stdout(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    });
    assert!(
        is_installed,
        "these tests start a {} of their own and there is none: install it \
         (`apt-get install redis-server`, `brew install redis`)",
        program()
    );
}

/// What is started; the variable `REDIS_SERVER` names another, such as `valkey-server`.
fn program() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

pub(crate) fn free_port() -> u16 {
    loop {
        let at = RandomState::new().hash_one(0) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(at).expect("smaller than the range");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Nil,
}

impl Reply {
    /// Of a string, its text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Simple(text) => text,
            Self::Bulk(bytes) => std::str::from_utf8(bytes).expect("UTF-8"),
            other => panic!("no text: {other:?}"),
        }
    }

    /// Of a string, its bytes.
    #[track_caller]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bulk(bytes) => bytes,
            other => panic!("no bytes: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn integer(&self) -> i64 {
        match self {
            Self::Integer(integer) => *integer,
            other => panic!("no integer: {other:?}"),
        }
    }

    /// Panics unless Redis said OK.
    #[track_caller]
    pub(crate) fn ok(&self) {
        assert_eq!(*self, Self::Simple("OK".to_owned()));
    }

    fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some(line) = line.strip_suffix("\r\n") else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let (kind, rest) = line.split_at_checked(1).unwrap_or_default();
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            "+" => Self::Simple(rest.to_owned()),
            "-" => Self::Error(rest.to_owned()),
            ":" => Self::Integer(number()?),
            "$" => match usize::try_from(number()?) {
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    from.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Self::Bulk(bytes)
                }
                Err(_) => Self::Nil,
            },
            "*" => match number()? {
                0.. => Self::Array(
                    (0..number()?)
                        .map(|_| Self::read(from))
                        .collect::<io::Result<_>>()?,
                ),
                _ => Self::Nil,
            },
            _ => return Err(io::Error::other(format!("not RESP2: {line:?}"))),
        })
    }
}

/// A connection that stays, for commands that belong together.
pub(crate) struct Connection<S = UnixStream>(BufReader<S>);

impl<S> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    fn open(socket: PathBuf) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self(BufReader::new(stream)))
    }
}

impl Connection<TcpStream> {
    /// Over TCP, such as through a proxy.
    pub(crate) fn dial(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// After this time without an answer, a command is an error.
    pub(crate) fn give_up_after(&self, limit: Duration) {
        let set = self.0.get_ref().set_read_timeout(Some(limit));
        set.expect("a time that is not zero");
    }
}

impl<S: Read + Write> Connection<S> {
    pub(crate) fn command<P: AsRef<[u8]>>(&mut self, parts: &[P]) -> io::Result<Reply> {
        self.send(parts)?;
        self.reply()
    }

    /// Sends a command without waiting for its reply.
    pub(crate) fn send<P: AsRef<[u8]>>(&mut self, parts: &[P]) -> io::Result<()> {
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            let part = part.as_ref();
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes)
    }

    /// The next reply.
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        Reply::read(&mut self.0)
    }
}
