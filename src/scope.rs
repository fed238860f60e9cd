//! What is read while a response or a value is made: the scope that a layer opens around its handler, and a load
//! around itself.

use std::{
    cell::OnceCell,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::futures::TaskLocalFuture;

use crate::{
    cache::Cache,
    dependencies::{Dependencies, Dependency},
    entry::Watched,
    invalidation::{Names, Sequence, Verdict},
    policy::MOST_TAGS,
    target::Subject,
    values::{StoredValue, ValueKey},
};

tokio::task_local! {
    static SCOPE: Slot;
}

/// The scope of a future; nothing is allocated before something is read in it.
pub(crate) struct Slot {
    cache: u64,
    outer: Option<Arc<Reads>>,
    reads: OnceCell<Arc<Reads>>,
}

impl Slot {
    fn reads(&self) -> &Arc<Reads> {
        self.reads.get_or_init(|| {
            Arc::new(Reads {
                cache: self.cache,
                outer: self.outer.clone(),
                state: Mutex::default(),
            })
        })
    }
}

/// The values that were read for a response, or by a load.
pub(crate) struct Reads {
    cache: u64,
    /// Of what is further out; a read is noted there where this one is of another cache.
    outer: Option<Arc<Reads>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    dependencies: Dependencies,
    tags: Vec<Box<str>>,
    lowest: Option<Sequence>,
}

/// What a response or a value was made from.
#[derive(Clone)]
pub(crate) struct MadeOf {
    /// `None` where that is more than can be said.
    pub(crate) dependencies: Option<Vec<Box<str>>>,
    /// Those of the values.
    pub(crate) tags: Vec<Box<str>>,
    pub(crate) lowest: Option<Sequence>,
}

impl MadeOf {
    /// A value with these tags, of which nothing else is known.
    pub(crate) fn tagged(tags: &[Box<str>]) -> Self {
        let mut state = State::default();
        state.add_tags(tags);
        state.made_of()
    }

    /// The same by a load that started then, of what has these tags besides.
    pub(crate) fn by_load(mut self, tags: &[Box<str>], started: Sequence) -> Self {
        for tag in tags {
            if !self.tags.contains(tag) {
                self.tags.push(tag.clone());
            }
        }
        self.lowest = Some(self.lowest.map_or(started, |lowest| lowest.min(started)));
        self
    }
}

/// What somebody who reads a value learns of what it was made from.
#[derive(Clone)]
pub(crate) enum Made {
    /// It is not there.
    Nothing,
    /// As it is stored.
    Stored(Arc<StoredValue>),
    /// By a load, whatever came of it.
    Loaded(Arc<MadeOf>),
}

impl Made {
    /// Whether it may be of something that was invalidated before `asked`; of its own key somebody else judges.
    pub(crate) fn is_outrun(&self, cache: &Cache, asked: Sequence) -> bool {
        let (tags, dependencies, lowest) = match self {
            Self::Nothing => return false,
            Self::Stored(stored) => {
                let watched: &Watched = stored;
                (&*stored.tags, Some(&[][..]), watched.origin.sequence)
            }
            Self::Loaded(made_of) => {
                let lowest = made_of.lowest.unwrap_or(asked);
                (&*made_of.tags, made_of.dependencies.as_deref(), lowest)
            }
        };
        if lowest.local >= asked.local {
            return false;
        }
        // No key is empty.
        let nobody = Subject::value("");
        let is_unusable = |tags| {
            let names = Names { groups: &[], tags };
            cache.log().judge(lowest, &nobody, names) == Verdict::Unusable
        };
        is_unusable(tags) || dependencies.is_none_or(is_unusable)
    }
}

impl Reads {
    /// Of a load that begins in this task.
    pub(crate) fn of_load(cache: &Cache) -> Arc<Self> {
        Arc::new(Self {
            cache: cache.id(),
            outer: SCOPE.try_with(|slot| slot.reads().clone()).ok(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_of(&self, cache: &Cache) -> bool {
        self.cache == cache.id()
    }

    pub(crate) fn made_of(&self) -> MadeOf {
        self.state().made_of()
    }
}

/// The future of a handler, in a scope of its own.
pub(crate) fn open<F: Future>(cache: &Cache, handler: F) -> TaskLocalFuture<Slot, F> {
    let slot = Slot {
        cache: cache.id(),
        outer: SCOPE.try_with(|slot| slot.reads().clone()).ok(),
        reads: OnceCell::new(),
    };
    SCOPE.scope(slot, handler)
}

/// A future whose reads are noted there.
pub(crate) fn noting<F: Future>(reads: Arc<Reads>, future: F) -> TaskLocalFuture<Slot, F> {
    let slot = Slot {
        cache: reads.cache,
        outer: reads.outer.clone(),
        reads: OnceCell::from(reads),
    };
    SCOPE.scope(slot, future)
}

/// What was read in it, if anything was.
pub(crate) fn reads<F: Future>(handler: Pin<&mut TaskLocalFuture<Slot, F>>) -> Option<Arc<Reads>> {
    handler.take_value()?.reads.into_inner()
}

/// A read that begins, for what is being made.
pub(crate) struct Reading {
    reads: Arc<Reads>,
    /// What is found usable from now on, no earlier invalidation selects.
    at: Sequence,
}

impl Reading {
    /// Of this task; nothing where nothing is being made.
    #[inline]
    pub(crate) fn begin(cache: &Cache) -> Option<Self> {
        let mut reads = SCOPE.try_with(|slot| slot.reads().clone()).ok()?;
        while !reads.is_of(cache) {
            reads = reads.outer.clone()?;
        }
        let at = cache.read_point();
        Some(Self { reads, at })
    }

    /// It has ended, with something or with nothing: that is what a write changes, too.
    pub(crate) fn end(self, cache: &Cache, key: &ValueKey, made: &Made) {
        let mut at = self.at;
        let mut state = self.reads.state();
        state.dependencies.add(key.as_str());
        match made {
            Made::Nothing => {}
            Made::Stored(stored) => {
                state.add_tags(&stored.tags);
                // What a soft invalidation has made stale is older than that.
                if matches!(stored.verdict(cache.log()), Verdict::Stale(_)) {
                    let watched: &Watched = stored;
                    at = at.min(watched.origin.sequence);
                }
            }
            Made::Loaded(made_of) => {
                state.add_tags(&made_of.tags);
                match &made_of.dependencies {
                    Some(dependencies) => state.add_tags(dependencies),
                    None => state.dependencies.give_up(),
                }
                // Somebody else may have begun it earlier, or have read what was stale.
                at = made_of.lowest.map_or(at, |lowest| lowest.min(at));
            }
        }
        state.lowest = Some(state.lowest.map_or(at, |lowest| lowest.min(at)));
    }
}

impl State {
    /// Those of a value, and what that depends on.
    fn add_tags(&mut self, tags: &[Box<str>]) {
        for tag in tags {
            if Dependency::of(tag).is_some() {
                self.dependencies.add_tag(tag);
            } else if self.tags.len() <= MOST_TAGS && !self.tags.contains(tag) {
                // One too many is enough to be refused.
                self.tags.push(tag.clone());
            }
        }
    }

    fn made_of(&self) -> MadeOf {
        MadeOf {
            dependencies: self.dependencies.tags().map(<[Box<str>]>::to_vec),
            tags: self.tags.clone(),
            lowest: self.lowest,
        }
    }
}

/// What a response that is being made was made from, to be carried into another task by hand.
///
/// While a layer waits for its handler, what that reads from its cache by keys ([`Cache::get`],
/// [`Cache::get_or_set`], functions that are wrapped, repositories) is noted: the response is not used any more as
/// soon as one of these values is set, saved, deleted or invalidated, without a tag written by hand; not when one is
/// merely loaded anew. That holds for all that is polled by the handler's own task, `join!` included. A task that is
/// spawned is not, unless it is run in the scope.
///
/// - A response or a value depends on 32 values; of more, those that share a name count as one, which is invalidated
///   with any value of the name. It has 32 tags as well, those of the values included. Where that does not suffice,
///   it is not stored (`too-many-tags`): what a list of many rows is made of is better tagged as a list.
/// - What is read after the handler has returned, while its body is being made, is not noted.
/// - What a load reads is noted for the value that it brings, and so for all that is made from that.
/// - Where neither a response nor a value is being made, nothing is noted.
///
/// # Examples
///
/// ```
/// use axum::{Router, extract::State, routing::get};
/// use tower::ServiceExt;
/// use tower_response_cache::{Cache, ResponseCacheLayer, Scope};
///
/// async fn page(State(cache): State<Cache>) -> String {
///     let scope = Scope::current();
///     let name = tokio::spawn(scope.run(async move { cache.get::<String>("name").await }));
///     format!("{:?}", name.await.unwrap().unwrap())
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::in_memory();
/// let layer = ResponseCacheLayer::new(&cache);
/// let app: Router = Router::new().route("/", get(page)).layer(layer).with_state(cache.clone());
/// let ask = || app.clone().oneshot(http::Request::get("/").body(axum::body::Body::empty()).unwrap());
///
/// cache.set("name", "Ada".to_owned()).await?;
/// ask().await?;
/// assert_eq!(ask().await?.headers()["x-cache"], "HIT");
/// cache.set("name", "Grace".to_owned()).await?;
/// assert_eq!(ask().await?.headers()["x-cache"], "MISS");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "it does nothing until something is run in it"]
pub struct Scope(Option<Arc<Reads>>);

impl Scope {
    /// That of this task; one in which nothing is noted where no response is being made.
    pub fn current() -> Self {
        Self(SCOPE.try_with(|slot| slot.reads().clone()).ok())
    }

    /// Runs a future in it.
    pub async fn run<F: Future>(self, future: F) -> F::Output {
        match self.0 {
            None => future.await,
            Some(reads) => noting(reads, future).await,
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("is_open", &self.0.is_some())
            .finish()
    }
}
