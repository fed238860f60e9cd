//! A bookshop over SQLite: rows read through the cache, pages made from them, and no tag anywhere.
//!
//! ```text
//! cargo run --example cached_repository                       # serves on 127.0.0.1:3000
//! cargo run --example cached_repository -- --once             # asks itself, shows what it saw, ends
//! cargo run --example cached_repository --features redis -- --redis redis://127.0.0.1:6379
//! ```
//!
//! The pages are cached by a layer, the rows that they are made from by a repository. When a row is written, each
//! page that was made from it is made anew, and every other stays: a page knows what its handler has read.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path as FilePath, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::get};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;
use tower_response_cache::{
    Cache, CacheBuilder, LoadError, Repository, ResponseCacheLayer, SaveError, Source,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Book {
    id: u64,
    title: String,
    author: String,
    genre: String,
    year: u16,
    cents: u64,
}

/// The table of books. SQLite blocks, so each statement has a thread of its own.
#[derive(Clone)]
struct Books(Arc<Mutex<Connection>>);

impl Books {
    async fn with<T: Send + 'static>(
        &self,
        statement: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let connection = self.0.clone();
        let run = move || statement(&connection.lock().expect("no statement panics"));
        tokio::task::spawn_blocking(run)
            .await
            .expect("no statement panics")
    }

    /// The ids of a page of a genre, by title.
    async fn ids(&self, genre: String, page: u64) -> rusqlite::Result<Vec<u64>> {
        self.with(move |books| {
            let sql = "SELECT id FROM books WHERE genre = ?1 ORDER BY title, id LIMIT ?2 OFFSET ?3";
            let mut ids = books.prepare_cached(sql)?;
            let ids = ids.query_map(params![genre, PER_PAGE, page * PER_PAGE], |row| row.get(0))?;
            ids.collect()
        })
        .await
    }
}

const PER_PAGE: u64 = 20;
const FIELDS: &str = "id, title, author, genre, year, cents";

fn book(row: &Row<'_>) -> rusqlite::Result<Book> {
    Ok(Book {
        id: row.get(0)?,
        title: row.get(1)?,
        author: row.get(2)?,
        genre: row.get(3)?,
        year: row.get(4)?,
        cents: row.get(5)?,
    })
}

/// All that the cache has to know of the table.
impl Source for Books {
    type Key = u64;
    type Value = Book;
    type Error = rusqlite::Error;

    async fn load(&self, id: &u64) -> rusqlite::Result<Option<Book>> {
        let id = *id;
        let sql = format!("SELECT {FIELDS} FROM books WHERE id = ?1");
        self.with(move |books| books.query_row(&sql, [id], book).optional())
            .await
    }

    async fn load_many(&self, ids: &[u64]) -> rusqlite::Result<Vec<Option<Book>>> {
        let ids = ids.to_vec();
        self.with(move |books| {
            let marks = vec!["?"; ids.len()].join(",");
            let mut rows =
                books.prepare(&format!("SELECT {FIELDS} FROM books WHERE id IN ({marks})"))?;
            let rows = rows.query_map(params_from_iter(&ids), book)?;
            let rows = rows.map(|row| row.map(|book| (book.id, book)));
            let mut rows: HashMap<u64, Book> = rows.collect::<rusqlite::Result<_>>()?;
            Ok(ids.iter().map(|id| rows.remove(id)).collect())
        })
        .await
    }

    async fn save(&self, _: &u64, book: &Book) -> rusqlite::Result<()> {
        let book = book.clone();
        self.with(move |books| {
            let sql =
                format!("INSERT OR REPLACE INTO books ({FIELDS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
            let Book {
                id,
                title,
                author,
                genre,
                year,
                cents,
            } = book;
            books.execute(&sql, params![id, title, author, genre, year, cents])?;
            Ok(())
        })
        .await
    }

    async fn delete(&self, id: &u64) -> rusqlite::Result<()> {
        let id = *id;
        self.with(move |books| {
            books
                .execute("DELETE FROM books WHERE id = ?1", [id])
                .map(drop)
        })
        .await
    }
}

#[derive(Clone)]
struct Shop {
    cache: Cache,
    books: Repository<Books>,
}

fn app(cache: &Cache, books: Books) -> Router {
    let shop = Shop {
        cache: cache.clone(),
        books: cache
            .repository("book", books)
            .ttl(Duration::from_secs(600)),
    };
    let pages = ResponseCacheLayer::new(cache).ttl(Duration::from_secs(600));
    Router::new()
        .route(
            "/books/{id}",
            get(detail)
                .put(set_price)
                .delete(remove)
                .layer(pages.clone()),
        )
        .route("/genres/{genre}/{page}", get(list).layer(pages))
        .with_state(shop)
}

async fn detail(State(shop): State<Shop>, Path(id): Path<u64>) -> Result<Response, Failed> {
    let book = shop.books.get(id).await?;
    Ok(match &*book {
        Some(book) => Json(book).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

/// Which books stand on a page is a value, too: it changes with what is added and removed, not with prices.
async fn list(
    State(shop): State<Shop>,
    Path((genre, page)): Path<(String, u64)>,
) -> Result<Json<Vec<Book>>, Failed> {
    let key = ("genre", genre.clone(), page);
    let source = shop.books.source();
    let hour = Duration::from_secs(3600);
    let ids = shop
        .cache
        .try_get_or_set(key, hour, || source.ids(genre, page))
        .await?;
    let books = shop.books.get_many(ids.iter().copied()).await?;
    Ok(Json(
        books.iter().filter_map(|book| (**book).clone()).collect(),
    ))
}

/// The row first, the cache second; nothing more is to be said.
async fn set_price(
    State(shop): State<Shop>,
    Path(id): Path<u64>,
    Json(cents): Json<u64>,
) -> Result<StatusCode, Failed> {
    let Some(book) = (*shop.books.get(id).await?).clone() else {
        return Ok(StatusCode::NOT_FOUND);
    };
    shop.books.save(id, Book { cents, ..book }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What stands on which page changes, too.
async fn remove(State(shop): State<Shop>, Path(id): Path<u64>) -> Result<StatusCode, Failed> {
    shop.books.delete(id).await?;
    shop.cache.delete_pattern("genre:*").await;
    Ok(StatusCode::NO_CONTENT)
}

/// An error is a 500, which no cache keeps.
struct Failed(String);

impl From<LoadError<rusqlite::Error>> for Failed {
    fn from(error: LoadError<rusqlite::Error>) -> Self {
        Self(error.to_string())
    }
}

impl From<SaveError<rusqlite::Error>> for Failed {
    fn from(error: SaveError<rusqlite::Error>) -> Self {
        Self(error.to_string())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0).into_response()
    }
}

// All that follows is there to make this a program: the rows, and a client that asks.

const GENRES: [&str; 6] = ["crime", "history", "poetry", "science", "travel", "cooking"];
const FIRST: [&str; 20] = [
    "Amara", "Boris", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hiro", "Ines", "Jonas",
    "Kavya", "Luis", "Mira", "Nils", "Olga", "Pavel", "Rosa", "Samir", "Tove", "Wanda",
];
const LAST: [&str; 15] = [
    "Almeida",
    "Brandt",
    "Castillo",
    "Dubois",
    "Eriksen",
    "Fontana",
    "Grün",
    "Hoffmann",
    "Ito",
    "Jensen",
    "Kowalska",
    "Lindqvist",
    "Moreau",
    "Novák",
    "O'Brien",
];
const ABOUT: [&str; 12] = [
    "The Lighthouse",
    "A Winter",
    "Letters",
    "The Last Train",
    "Gardens",
    "The Cartographer",
    "Bread",
    "Seven Rivers",
    "The Archive",
    "Silence",
    "A Short History",
    "The Glass Bridge",
];
const PLACES: [&str; 10] = [
    "in Lisbon",
    "of Bergen",
    "from Kyoto",
    "at Lake Como",
    "of the Silk Road",
    "in the Alps",
    "of Odesa",
    "from Marrakesh",
    "by the Elbe",
    "in Patagonia",
];

/// A file with some thousand books, made anew.
fn fill(file: &FilePath) -> rusqlite::Result<Books> {
    let _ = std::fs::remove_file(file);
    let mut connection = Connection::open(file)?;
    connection.execute_batch(
        "CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT NOT NULL, author TEXT NOT NULL,
             genre TEXT NOT NULL, year INTEGER NOT NULL, cents INTEGER NOT NULL);
         CREATE INDEX by_genre ON books (genre, title, id);",
    )?;
    let transaction = connection.transaction()?;
    for id in 1..=3_600_usize {
        let title = format!("{} {}", ABOUT[id % 12], PLACES[id / 12 % 10]);
        let author = format!("{} {}", FIRST[id * 7 % 20], LAST[id * 11 % 15]);
        transaction.execute(
            "INSERT INTO books VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                id,
                title,
                author,
                GENRES[id / 120 % 6],
                1950 + id % 75,
                799 + id * 37 % 2_400
            ],
        )?;
    }
    transaction.commit()?;
    Ok(Books(Arc::new(Mutex::new(connection))))
}

async fn ask(app: &Router, method: Method, path: &str, body: &str) -> io::Result<String> {
    let request = Request::builder()
        .method(&method)
        .uri(path)
        .header("content-type", "application/json");
    let request = request
        .body(Body::from(body.to_owned()))
        .map_err(io::Error::other)?;
    let response = app
        .clone()
        .oneshot(request)
        .await
        .unwrap_or_else(|never| match never {});
    let (head, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.map_err(io::Error::other)?;
    let said = head
        .headers
        .get("x-cache")
        .and_then(|said| said.to_str().ok())
        .unwrap_or("-");
    let text = String::from_utf8_lossy(&body).into_owned();
    let shown: String = text.chars().take(60).collect();
    say(&format!(
        "{method:6} {path:20} {} {said:4} {shown}\n",
        head.status.as_u16()
    ))?;
    Ok(text)
}

async fn show(app: &Router) -> io::Result<()> {
    let ids = ask(app, Method::GET, "/genres/crime/0", "").await?;
    let ids: Vec<Book> = serde_json::from_str(&ids).map_err(io::Error::other)?;
    let (changed, other) = (
        format!("/books/{}", ids[0].id),
        format!("/books/{}", ids[1].id),
    );
    let pages = ["/genres/crime/0", "/genres/crime/1", &changed, &other];
    for path in &pages[1..] {
        ask(app, Method::GET, path, "").await?;
    }
    say("\nAll of them once more:\n")?;
    for path in pages {
        ask(app, Method::GET, path, "").await?;
    }
    say("\nOne price is changed; its page and the list that shows it are made anew:\n")?;
    ask(app, Method::PUT, &changed, "999").await?;
    for path in pages {
        ask(app, Method::GET, path, "").await?;
    }
    Ok(())
}

const HELP: &str = "\
A bookshop over SQLite, with cached rows and cached pages.

Usage: cached_repository [--redis URL] [--listen ADDRESS] [--file FILE] [--once]

  --redis URL        a Redis behind the memory; needs a build with `--features redis`
  --listen ADDRESS   where to listen [127.0.0.1:3000]
  --file FILE        where the books are kept; made anew [in the folder for temporary files]
  --once             end after what is shown
  --help             show this
";

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return finish(say(HELP)),
        Err(sentence) => return fail(&sentence),
    };
    let builder = match &options.redis {
        None => Ok(Cache::builder()),
        Some(url) => with_redis(url),
    };
    let built = builder.and_then(|builder| builder.build().map_err(|error| format!("{error}.")));
    match built {
        Ok(cache) => finish(run(cache, &options).await),
        Err(sentence) => fail(&sentence),
    }
}

async fn run(cache: Cache, options: &Options) -> io::Result<()> {
    if let Err(error) = cache.connect().await {
        say(&format!("No Redis, so this goes on from memory: {error}\n"))?;
    }
    let books = fill(&options.file).map_err(io::Error::other)?;
    let app = app(&cache, books);
    show(&app).await?;
    if !options.once {
        let listener = tokio::net::TcpListener::bind(&options.listen).await?;
        let address = listener.local_addr()?;
        say(&format!(
            "\nServing until ctrl-c: curl -i http://{address}/genres/crime/0\n"
        ))?;
        let stop = async { drop(tokio::signal::ctrl_c().await) };
        axum::serve(listener, app)
            .with_graceful_shutdown(stop)
            .await?;
    }
    cache.close().await;
    let _ = std::fs::remove_file(&options.file);
    Ok(())
}

#[cfg(feature = "redis")]
fn with_redis(url: &str) -> Result<CacheBuilder, String> {
    Ok(Cache::redis(url, "bookshop"))
}

#[cfg(not(feature = "redis"))]
fn with_redis(_: &str) -> Result<CacheBuilder, String> {
    Err(
        "This build cannot do --redis: build it with `--features redis`, or leave --redis out."
            .to_owned(),
    )
}

struct Options {
    redis: Option<String>,
    listen: String,
    file: PathBuf,
    once: bool,
}

/// Reads the command line: `Ok(None)` is the wish for help, an error is a sentence for the user.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut options = Options {
        redis: None,
        listen: "127.0.0.1:3000".to_owned(),
        file: std::env::temp_dir().join(format!("bookshop-{}.sqlite", std::process::id())),
        once: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = |name: &str| {
            let value = arguments.next().and_then(|value| value.into_string().ok());
            value.ok_or_else(|| format!("{name} takes a value: see --help."))
        };
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--once") => options.once = true,
            Some("--redis") => options.redis = Some(value("--redis")?),
            Some("--listen") => options.listen = value("--listen")?,
            Some("--file") => options.file = value("--file")?.into(),
            _ => {
                return Err(format!(
                    "There is no option {argument:?}: see --help for all."
                ));
            }
        }
    }
    Ok(Some(options))
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn fail(sentence: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{sentence}");
    ExitCode::from(2)
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}.");
            ExitCode::FAILURE
        }
    }
}
