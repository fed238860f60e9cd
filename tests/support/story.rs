//! Tables whose rows are short stories: what the inner service says call after call, and what each
//! request gets.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, Method};
use tower_response_cache::{Cache, ManualClock, ResponseCacheLayer};

use super::{Answer, App, Origin, cache, request, scripted::response, send};

pub type Fields = &'static [(&'static str, &'static str)];

/// Status and fields of an answer of the inner service. Its body is the number of the call.
pub type Says = (u16, Fields);

/// What is sent, and what comes of it.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Seconds that pass before.
    after: u64,
    method: &'static str,
    fields: Fields,
    /// `X-Cache`, status and body; several that are right are separated by ` or `.
    gets: &'static str,
}

/// GETs with these fields, after so many seconds.
pub const fn ask(after: u64, fields: Fields, gets: &'static str) -> Ask {
    by("GET", after, fields, gets)
}

/// The same by another method.
pub const fn by(method: &'static str, after: u64, fields: Fields, gets: &'static str) -> Ask {
    Ask {
        after,
        method,
        fields,
        gets,
    }
}

/// A sentence, what the inner service says (the last again and again), and what is asked.
pub type Row<'a> = (&'static str, &'static [Says], &'a [Ask]);

/// Which preset a story is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    Default,
    Rfc9111,
}
pub use Preset::{Default as Careful, Rfc9111};

pub const BOTH: &[Preset] = &[Careful, Rfc9111];

/// An inner service that follows a script, behind a layer, on a clock that stands still.
pub struct World {
    pub cache: Cache,
    pub clock: ManualClock,
    pub app: App,
    pub origin: Origin,
    seen: Arc<Mutex<Vec<(Method, HeaderMap)>>>,
}

impl World {
    #[track_caller]
    pub fn new(preset: Preset, says: &'static [Says]) -> Self {
        Self::with(preset, says, |layer| layer)
    }

    /// The same with a layer that was told more.
    #[track_caller]
    pub fn with(
        preset: Preset,
        says: &'static [Says],
        change: impl FnOnce(ResponseCacheLayer) -> ResponseCacheLayer,
    ) -> Self {
        let (cache, clock) = cache();
        let layer = change(match preset {
            Careful => ResponseCacheLayer::new(&cache),
            Rfc9111 => ResponseCacheLayer::rfc9111(&cache),
        });
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let writes = seen.clone();
        let origin = Origin::new(move |call, request| {
            let (head, _) = request.into_parts();
            let (status, fields) = says[call.min(says.len()) - 1];
            let has_body = head.method != "HEAD" && ![101, 204, 205, 304].contains(&status);
            writes.lock().unwrap().push((head.method, head.headers));
            let body = if has_body {
                call.to_string()
            } else {
                String::new()
            };
            std::future::ready(response(status, fields, body))
        });
        let app = origin.behind(&layer);
        Self {
            cache,
            clock,
            app,
            origin,
            seen,
        }
    }

    /// GETs the one page with fields; what follows from it in the background is over when this ends.
    pub async fn get(&self, fields: &[(&str, &str)]) -> Answer {
        let answer = send(&self.app, request("GET", "/", fields)).await;
        super::settle().await;
        answer
    }

    /// Lets seconds pass.
    pub fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// All lines of a field that a call of the inner service (from 1) had.
    #[track_caller]
    pub fn seen(&self, call: usize, name: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let (_, fields) = seen.get(call - 1).expect("so many calls");
        let lines = fields.get_all(name).iter();
        lines
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }
}

/// `X-Cache`, status and body of an answer.
pub fn told(answer: &Answer) -> String {
    let (x_cache, status) = (answer.x_cache(), answer.status.as_u16());
    format!("{x_cache} {status} {}", answer.text())
        .trim()
        .to_owned()
}

/// Tells each story with each of the presets, and reports all that went wrong.
#[track_caller]
pub fn check<'a>(presets: &[Preset], rows: &'a [Row<'a>]) -> impl Future<Output = ()> + 'a {
    check_with(presets, rows, |layer| layer)
}

/// The same with a layer that was told more.
#[track_caller]
pub fn check_with<'a>(
    presets: &[Preset],
    rows: &'a [Row<'a>],
    change: impl Fn(ResponseCacheLayer) -> ResponseCacheLayer,
) -> impl Future<Output = ()> + 'a {
    let mut stories = Vec::new();
    for preset in presets {
        for row in rows {
            stories.push((*preset, row, World::with(*preset, row.1, &change)));
        }
    }
    async move {
        let mut wrong = Vec::new();
        for (preset, (sentence, _, asked), world) in stories {
            for (number, ask) in asked.iter().enumerate() {
                world.pass(ask.after);
                let answer = send(&world.app, request(ask.method, "/", ask.fields)).await;
                // What runs in the background is over before the next request.
                super::settle().await;
                let told = told(&answer);
                if !ask.gets.split(" or ").any(|gets| gets == told) {
                    let status = answer.fields("cache-status").join(", ");
                    let number = number + 1;
                    wrong.push(format!(
                        "{preset:?}: {sentence}: request {number} gets {told:?}, not {:?} ({status})",
                        ask.gets
                    ));
                    break;
                }
            }
        }
        let count = wrong.len();
        assert!(
            wrong.is_empty(),
            "{count} rows are wrong:\n{}",
            wrong.join("\n")
        );
    }
}
