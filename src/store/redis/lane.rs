//! Where a read of three commands is carried out.
//!
//! fred's future of one command is 7 KB. Made anew for each read, they are most of what the
//! read costs: they are moved twice, and their memory is neither small nor warm. So they live in
//! lanes: work that is begun once, does one read after the other, and is polled by whoever reads.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike, KeysInterface},
    types::{Key, Value, config::Options},
};

use super::{
    connection::{late, lock},
    reply::is_answer,
};

/// So many idle lanes of one connection are kept: nobody has more reads under way.
const MOST: usize = 64;

/// What was answered: the life of a key, what it holds, and the number of the shared log.
pub(super) type Replies = (
    Result<Value, Error>,
    Result<Value, Error>,
    Result<Value, Error>,
);

/// What a lane is asked, and what it answers.
#[derive(Default)]
struct Slot {
    asked: Option<(Key, usize)>,
    answered: Option<Replies>,
}

struct Lane {
    work: Pin<Box<dyn Future<Output = Infallible> + Send>>,
    slot: Arc<Mutex<Slot>>,
}

/// The idle lanes of a connection.
pub(super) struct Lanes {
    client: Client,
    /// The key of the number of the shared log.
    seq: Key,
    idle: Mutex<Vec<Lane>>,
}

impl Lanes {
    pub(super) fn new(client: Client, seq: Key) -> Self {
        Self {
            client,
            seq,
            idle: Mutex::default(),
        }
    }

    /// How long a key still lives, what it holds up to a limit, and then the number of the shared log:
    /// whatever came after that, came after this was asked. In a cluster the number may be read before the
    /// rest: then what is newer than the number was written meanwhile. The commands leave one behind the other,
    /// and in one piece: of a pipeline fred would write each by itself.
    pub(super) async fn read(&self, name: Key, limit: usize) -> Replies {
        // One that is dropped while it reads is not used again.
        let idle = lock(&self.idle).pop();
        let mut lane = idle.unwrap_or_else(|| Lane::new(self.client.clone(), self.seq.clone()));
        lock(&lane.slot).asked = Some((name, limit));
        let replies = poll_fn(|cx| {
            if let Poll::Ready(never) = lane.work.as_mut().poll(cx) {
                match never {}
            }
            let answered = lock(&lane.slot).answered.take();
            answered.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let mut idle = lock(&self.idle);
        if idle.len() < MOST {
            idle.push(lane);
        }
        replies
    }
}

impl Lane {
    fn new(client: Client, seq: Key) -> Self {
        let slot = Arc::<Mutex<Slot>>::default();
        Self {
            work: Box::pin(work(client, seq, slot.clone())),
            slot,
        }
    }
}

async fn work(client: Client, seq: Key, slot: Arc<Mutex<Slot>>) -> Infallible {
    // The first commands are answered before the last, whose time limit is that of all; but not where
    // each may go to another node of a cluster.
    let unlimited = client.with_options(&Options {
        timeout: (!client.is_clustered()).then_some(Duration::ZERO),
        ..Options::default()
    });
    loop {
        // Polled by the next who reads.
        let asked = poll_fn(|_| lock(&slot).asked.take().map_or(Poll::Pending, Poll::Ready));
        let (name, limit) = asked.await;
        let mut life = pin!(unlimited.pttl::<Value, _>(&name));
        let mut frame = pin!(unlimited.getrange::<Value, _>(&name, 0, limit));
        let number = pin!(client.get::<Value, _>(&seq));
        // Each is sent when it is polled first. The first wake nobody: they are answered before the
        // last, and asked for then.
        let lived = life.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let held = frame.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let number = number.await;
        let is_answered = number.as_ref().map_or_else(is_answer, |_| true);
        let lived = match lived {
            Poll::Ready(reply) => reply,
            Poll::Pending if is_answered => life.await,
            Poll::Pending => Err(late()),
        };
        let held = match held {
            Poll::Ready(reply) => reply,
            Poll::Pending if is_answered => frame.await,
            Poll::Pending => Err(late()),
        };
        lock(&slot).answered = Some((lived, held, number));
    }
}
