//! A slow handler, and the two lines that make it fast.
//!
//! ```text
//! cargo run --example quickstart                  # serves, and shows the curl line to try
//! cargo run --example quickstart -- some/folder   # counts the files of that folder
//! cargo run --example quickstart -- --once        # asks itself twice, then ends
//! ```
//!
//! The handler counts the lines and words of some thousand files each time it is called. The first
//! request waits for that; the second is answered from memory.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_response_cache::{Cache, ResponseCacheLayer};

/// The application, with the cache around it.
fn app(files: Arc<Vec<PathBuf>>) -> Router {
    let router = Router::new().route("/", get(count)).with_state(files);

    // These two lines are the cache: 64 MiB of room, and answers that stay fresh for 60 seconds.
    let cache = Cache::in_memory();
    router.layer(ResponseCacheLayer::new(cache))
}

/// The slow handler. It reads and counts on a thread where waiting for the disk holds up nobody.
async fn count(State(files): State<Arc<Vec<PathBuf>>>) -> Result<String, StatusCode> {
    tokio::task::spawn_blocking(move || count_all(&files))
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR) // and an error is never stored
}

// All that follows is there to make this a program: the counting, and a client that asks.

fn count_all(files: &[PathBuf]) -> String {
    let (mut lines, mut words, mut unread) = (0, 0, 0);
    for file in files {
        match std::fs::read(file) {
            Ok(content) => {
                lines += content.iter().filter(|byte| **byte == b'\n').count();
                words += content
                    .split(u8::is_ascii_whitespace)
                    .filter(|word| !word.is_empty())
                    .count();
            }
            Err(_) => unread += 1,
        }
    }
    let read = files.len() - unread;
    format!("{lines} lines and {words} words in {read} files, {unread} could not be read\n")
}

const HELP: &str = "\
Serves the number of lines and words of many files, slowly once and then from the cache.

Usage: quickstart [FOLDER] [--listen ADDRESS] [--once]

  FOLDER             count all files in here [the first 2000 files of the
                     sources that cargo has downloaded]
  --listen ADDRESS   where to listen [127.0.0.1:3000]; another port if it is taken
  --once             end after the two requests
  --help             show this
";

/// So many files when nobody chose a folder.
const ENOUGH: usize = 2000;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return finish(say(HELP)),
        Err(sentence) => {
            let _ = writeln!(io::stderr(), "{sentence}");
            return ExitCode::from(2);
        }
    };
    finish(run(options).await)
}

async fn run(options: Options) -> io::Result<()> {
    let (why, folder, files) = choose(options.folder)?;
    let (number, folder) = (files.len(), folder.display());
    say(&format!("Counting {number} files of {folder}{why}.\n"))?;

    let wanted = options.listen;
    let listener = match TcpListener::bind(wanted).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let port = wanted.port();
            say(&format!("Port {port} is taken, so this is another.\n"))?;
            TcpListener::bind(SocketAddr::new(wanted.ip(), 0)).await?
        }
        bound => bound?,
    };
    let address = listener.local_addr()?;
    let server = tokio::spawn(axum::serve(listener, app(Arc::new(files))).into_future());
    say(&format!("Try it: curl -i http://{address}/\n"))?;

    let first = ask("first", address).await?;
    let second = ask("second", address).await?;
    let times = first.as_secs_f64() / second.as_secs_f64();
    say(&format!("\nThe second was {times:.0} times faster.\n"))?;

    if options.once {
        return Ok(());
    }
    say("Serving until ctrl-c.\n")?;
    server.await?
}

/// Sends a request over a real connection, as curl would, and shows the head of the answer.
async fn ask(which: &str, address: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let taken = start.elapsed();

    let milliseconds = taken.as_secs_f64() * 1000.0;
    say(&format!(
        "\nThe {which} request took {milliseconds:.2} ms:\n"
    ))?;
    for line in String::from_utf8_lossy(&answer).lines() {
        say(&format!("    {line}\n"))?;
    }
    Ok(taken)
}

/// The files to count: of the folder that was asked for, or else of the sources that cargo has
/// downloaded to build this, or else of where we are. With a word about why, if there is one.
fn choose(folder: Option<PathBuf>) -> io::Result<(&'static str, PathBuf, Vec<PathBuf>)> {
    let mut files = Vec::new();
    if let Some(folder) = folder {
        find(&folder, usize::MAX, &mut files)?;
        return Ok(("", folder, files));
    }
    let home = |variable: &str| std::env::var_os(variable).filter(|home| !home.is_empty());
    let cargo = home("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let user = home("HOME").or_else(|| home("USERPROFILE"))?;
        Some(Path::new(&user).join(".cargo"))
    });
    if let Some(cargo) = cargo {
        let sources = cargo.join("registry").join("src");
        // An error is a registry that is not there, and no reason to stop.
        if find(&sources, ENOUGH, &mut files).is_ok() && !files.is_empty() {
            return Ok(("", sources, files));
        }
    }
    files.clear();
    let here = std::env::current_dir()?;
    find(&here, ENOUGH, &mut files)?;
    let why = ", as cargo has downloaded no sources to count";
    Ok((why, here, files))
}

/// Adds the files below `folder`, sorted by path, until there are `enough`.
fn find(folder: &Path, enough: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if files.len() >= enough {
            break;
        }
        // The type of the entry itself: links are neither files nor folders here, so there are no
        // circles.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            // A folder in here that may not be read is left out.
            let _ = find(&entry.path(), enough, files);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

struct Options {
    folder: Option<PathBuf>,
    listen: SocketAddr,
    once: bool,
}

/// Reads the command line: `Ok(None)` is the wish for help, an error is a sentence for the user.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut options = Options {
        folder: None,
        listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
        once: false,
    };
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--once") => options.once = true,
            Some("--listen") => {
                let value = arguments.next().unwrap_or_default();
                let address = value.to_str().and_then(|text| text.parse().ok());
                options.listen = address.ok_or_else(|| {
                    format!("--listen takes an address, not {value:?}: write 127.0.0.1:3000.")
                })?;
            }
            Some(option) if option.starts_with('-') => {
                return Err(format!(
                    "There is no option {option:?}: see --help for all."
                ));
            }
            _ if options.folder.is_some() => {
                return Err(format!("One folder is enough: leave out {argument:?}."));
            }
            _ => {
                let folder = PathBuf::from(argument);
                if let Err(error) = std::fs::read_dir(&folder) {
                    return Err(format!(
                        "{folder:?} cannot be read ({error}): give a folder with files to count."
                    ));
                }
                options.folder = Some(folder);
            }
        }
    }
    Ok(Some(options))
}

/// Prints; unlike `print!` without a panic where nobody reads it any more.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "This had to stop: {error}.");
            ExitCode::FAILURE
        }
    }
}
