//! Every end that a flight can take, with its starter there, gone before the head, and gone in the
//! body: a table, and what holds in each row.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::{
    sync::Semaphore,
    time::{Instant, advance},
};
use tower::Layer;
use tower_response_cache::{ResponseCacheLayer, Selector};

use super::crowd::{Alive, Service, Visit, crowd, crowd_of};
use crate::support::{
    cache,
    feed::{Feed, FeedBody, feed, whole},
    inner::{End, Inner, Read, assert_idle, soon},
    request, settle,
};

const WAITING: usize = 20;
const LIMIT: u64 = 64;

/// The inner service's own error.
#[derive(Debug, PartialEq, Eq)]
struct Away;

/// How the first call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Well,
    Panics,
    Fails,
    Says503,
    Says503ForOne,
    IsPrivate,
    SetsACookie,
    VariesOnAll,
    IsTooLong,
    IsTooLongUndeclared,
    BreaksOff,
    BreaksOffUndeclared,
    IsTooShort,
    IsLongerThanDeclared,
    HasTrailers,
    Hangs,
    HangsInTheBody,
    IsInvalidatedBeforeTheHead,
    IsInvalidatedInTheBody,
}

/// When the starter leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Never,
    BeforeTheHead,
    InTheBody,
}

/// The end, and how many calls it costs all together: the starter's, and those of who waited.
#[rustfmt::skip]
const ROWS: [(Ends, std::ops::RangeInclusive<usize>); 19] = {
    use Ends::*;
    const ALONE: usize = 1 + WAITING;
    [
        (Well, 1..=1),
        (Panics, 2..=2),
        (Fails, 2..=2),
        (Says503, 1..=1),
        (Says503ForOne, 2..=2),
        (IsPrivate, ALONE..=ALONE),
        (SetsACookie, ALONE..=ALONE),
        (VariesOnAll, ALONE..=ALONE),
        (IsTooLong, ALONE..=ALONE),
        // Who wants the head alone has it.
        (IsTooLongUndeclared, ALONE - 1..=ALONE),
        // They have the beginning already.
        (BreaksOff, 1..=1),
        (BreaksOffUndeclared, 2..=2),
        (IsTooShort, 1..=1),
        (IsLongerThanDeclared, 1..=ALONE),
        (HasTrailers, 2..=ALONE),
        (Hangs, ALONE..=ALONE),
        (HangsInTheBody, 1..=ALONE),
        (IsInvalidatedBeforeTheHead, 1..=2),
        (IsInvalidatedInTheBody, 1..=2),
    ]
};

/// The first call says what the row wants, with a first piece of its body at once; the others say
/// `own`, each at once.
struct Scene {
    inner: Inner<FeedBody, Away>,
    service: Service<Away>,
    head: Arc<Semaphore>,
    hand: Arc<Mutex<Option<Feed>>>,
    running: Alive,
}

impl Scene {
    fn new(layer: ResponseCacheLayer, ends: Ends) -> Self {
        let head = Arc::new(Semaphore::new(0));
        let hand = Arc::<Mutex<Option<Feed>>>::default();
        let running = Alive::default();
        let (held, gives, alive) = (head.clone(), hand.clone(), running.clone());
        let inner = Inner::new(move |call, request: Request<Body>| {
            let (held, gives, one) = (held.clone(), gives.clone(), alive.one());
            async move {
                let _one = one;
                if call > 1 {
                    let text = if request.method() == "HEAD" {
                        ""
                    } else {
                        "own"
                    };
                    return Ok(Response::new(whole(text)));
                }
                held.acquire().await.unwrap().forget();
                first(ends, &gives).await
            }
        });
        let service = layer.max_body_size(LIMIT).layer(inner.clone());
        Self {
            inner,
            service,
            head,
            hand,
            running,
        }
    }

    /// Lets the body end as the row wants.
    fn end(&self, ends: Ends) {
        let Some(hand) = self.hand.lock().unwrap().take() else {
            return;
        };
        match ends {
            Ends::BreaksOff | Ends::BreaksOffUndeclared => hand.fail("the disk is gone"),
            Ends::IsTooShort => {}
            Ends::IsLongerThanDeclared => hand.data("-second-third"),
            Ends::HasTrailers => {
                hand.data("-second");
                hand.trailers(HeaderMap::new());
            }
            Ends::IsTooLong | Ends::IsTooLongUndeclared => hand.data(vec![b'x'; 100]),
            Ends::HangsInTheBody => *self.hand.lock().unwrap() = Some(hand),
            _ => hand.data("-second"),
        }
    }
}

async fn first(ends: Ends, gives: &Mutex<Option<Feed>>) -> Result<Response<FeedBody>, Away> {
    let declared = match ends {
        Ends::IsTooLong => Some(105),
        Ends::IsTooLongUndeclared | Ends::BreaksOffUndeclared | Ends::HasTrailers => None,
        _ => Some(12),
    };
    let (hand, body) = feed(declared);
    hand.data("first");
    *gives.lock().unwrap() = Some(hand);
    let mut response = Response::new(body);
    if let Some(length) = declared {
        response
            .headers_mut()
            .insert("content-length", length.into());
    }
    let mut say = |name, value: &'static str| {
        response.headers_mut().insert(name, value.parse().unwrap());
    };
    match ends {
        Ends::Panics => panic!("told to"),
        Ends::Fails => return Err(Away),
        Ends::Hangs => std::future::pending().await,
        Ends::IsPrivate => say("cache-control", "private"),
        Ends::SetsACookie => say("set-cookie", "session=1"),
        Ends::VariesOnAll => say("vary", "*"),
        Ends::Says503ForOne => say("set-cookie", "session=1"),
        _ => {}
    }
    if matches!(ends, Ends::Says503 | Ends::Says503ForOne) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// What a client may get, besides a whole answer of its own call or of another one's that is well.
fn is_right(ends: Ends, read: &Read, is_head: bool) -> bool {
    if is_head {
        return read.end == End::Clean && read.text() == "";
    }
    let text = read.text();
    match (&read.end, ends) {
        (End::Clean, _) if text == "own" => read.head.status == StatusCode::OK,
        (End::Clean, Ends::Says503) => text == "first-second" && read.head.status == 503,
        (
            End::Clean,
            Ends::Well | Ends::IsInvalidatedBeforeTheHead | Ends::IsInvalidatedInTheBody,
        ) => text == "first-second",
        // What is not whole never ends cleanly, and it is the beginning of what there is.
        (
            End::Incomplete,
            Ends::BreaksOff
            | Ends::IsTooShort
            | Ends::IsLongerThanDeclared
            | Ends::HasTrailers
            | Ends::HangsInTheBody,
        ) => "first-second-third".starts_with(text),
        _ => false,
    }
}

async fn check(ends: Ends, calls: std::ops::RangeInclusive<usize>, leaves: Leaves) {
    let row = format!("{ends:?}, starter leaves {leaves:?}");
    let (cache, clock) = cache();
    let scene = Scene::new(ResponseCacheLayer::new(&cache), ends);
    let starter: Visit<Away> = crowd(&scene.service, 1).await.remove(0);
    let visits = crowd(&scene.service, WAITING - 1).await;
    let heads = crowd_of(&scene.service, 1, |_| request("HEAD", "/page", &[])).await;
    assert_eq!(scene.inner.calls(), 1, "{row}");
    if leaves == Leaves::BeforeTheHead {
        starter.abort();
        settle().await;
    }
    if ends == Ends::IsInvalidatedBeforeTheHead {
        cache.invalidate(Selector::resource("test", "/page"));
    }
    let begin = Instant::now();
    scene.head.add_permits(1);
    settle().await;
    if leaves == Leaves::InTheBody {
        starter.abort();
        settle().await;
    }
    if ends == Ends::IsInvalidatedInTheBody {
        cache.invalidate(Selector::resource("test", "/page"));
    }
    scene.end(ends);
    let waits = matches!(ends, Ends::Hangs | Ends::HangsInTheBody);
    for (n, visit) in visits.into_iter().chain(heads).enumerate() {
        let read = soon(&row, visit).await.expect(&row).expect(&row);
        assert!(
            is_right(ends, &read, n == WAITING - 1),
            "{row}: {n} got {read:?}"
        );
    }
    let waited = begin.elapsed();
    assert!(waits || waited.is_zero(), "{row}: {waited:?}");
    let cost = scene.inner.calls();
    assert!(calls.contains(&cost), "{row}: {cost} calls, not {calls:?}");
    // The starter has an end, too, or leaves; then nothing is left, also of what hangs.
    if waits {
        clock.advance(Duration::from_secs(31));
        advance(Duration::from_secs(31)).await;
        settle().await;
        starter.abort();
    }
    let _ = soon(&row, starter).await;
    settle().await;
    assert_eq!(scene.running.count(), 0, "{row}: a handler is left");
    assert_idle(&cache).await;
    // Whatever is stored is whole, and the next client gets it, or makes it.
    let next = crowd(&scene.service, 3).await;
    for visit in next {
        let read = soon(&row, visit).await.expect(&row).expect(&row);
        let text = read.complete();
        let of_first = ends == Ends::Well && text == "first-second";
        assert!(text == "own" || of_first, "{row}: then {read:?}");
    }
    assert_idle(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_end_a_flight_takes_all_are_answered_and_nothing_is_left() {
    for (ends, calls) in ROWS {
        for leaves in [Leaves::Never, Leaves::BeforeTheHead, Leaves::InTheBody] {
            check(ends, calls.clone(), leaves).await;
        }
    }
}
