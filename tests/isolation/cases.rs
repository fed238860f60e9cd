//! Generated cases, played and judged.
//!
//! `ISOLATION_CASES` says how many, `ISOLATION_SEED` where they begin; a failure names the seed of its
//! case.

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{sync::Semaphore, task::JoinHandle};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};
use tower_response_cache::{ManualClock, ResponseCacheLayer};

use crate::{
    model::{
        dice::Dice,
        layers::Spec,
        oracle::{may_have_body, may_have_head},
        origin::{World, answer},
        people::{Asked, Person, Personal},
        tally::Tally,
    },
    support::{cache, is_on_redis, settle},
};

type Service = BoxCloneSyncService<Request<Body>, Response<Body>, &'static str>;

fn layered(layer: &ResponseCacheLayer, inner: Service) -> Service {
    let cached = layer.layer(inner);
    BoxCloneSyncService::new(ServiceExt::map_response(cached, |response: Response<_>| {
        response.map(Body::new)
    }))
}

/// What came back, as far as it came.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

async fn ask(service: Service, request: Request<Body>) -> Option<Answer> {
    let (head, mut body) = service.oneshot(request).await.ok()?.into_parts();
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        read.extend(frame.into_data().unwrap_or_default());
    }
    Some(Answer {
        status: head.status,
        headers: head.headers,
        body: read,
    })
}

impl Answer {
    fn field(&self, name: &str) -> &str {
        let line = self.headers.get(name);
        line.and_then(|line| line.to_str().ok()).unwrap_or_default()
    }
}

/// The responses that a text names: `<7>`.
fn serials(text: &[u8]) -> Vec<usize> {
    let text = String::from_utf8_lossy(text);
    let parts = text.split('<').skip(1);
    let named = parts.filter_map(|part| part.split_once('>')?.0.parse().ok());
    let mut named: Vec<usize> = named.collect();
    named.dedup();
    named
}

/// A case under way.
struct Case {
    dice: Dice,
    world: Arc<Mutex<World>>,
    gate: Arc<Semaphore>,
    clock: ManualClock,
    apps: Vec<Vec<Spec>>,
    services: Vec<Service>,
    people: Vec<Person>,
    /// All ask for one representation.
    is_plain: bool,
    tally: Tally,
    log: String,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let (cache, clock) = cache();
        let world = Arc::new(Mutex::new(World {
            dice: Dice::new(seed ^ 0x5eed),
            asked: Vec::new(),
            made: Vec::new(),
            tags: Vec::new(),
            seen_tags: Vec::new(),
        }));
        let gate = Arc::new(Semaphore::new(0));
        let origin: Service = {
            let (world, gate) = (world.clone(), gate.clone());
            BoxCloneSyncService::new(tower::service_fn(move |request| {
                answer(world.clone(), gate.clone(), request)
            }))
        };
        let spec = Spec::random(&mut dice);
        let layer = spec.layer(&cache);
        let (mut apps, mut services) = (vec![vec![spec.clone()]], Vec::new());
        match dice.below(8) {
            // A clone of the layer with other times.
            0 | 1 => {
                let other = spec.with_other_times(&mut dice);
                services.push(layered(&layer, origin.clone()));
                services.push(layered(&other.set_times(layer), origin));
                apps.push(vec![other]);
            }
            // Another layer on the same cache.
            2 => {
                let other = Spec::random(&mut dice);
                services.push(layered(&layer, origin.clone()));
                services.push(layered(&other.layer(&cache), origin));
                apps.push(vec![other]);
            }
            // One within the other, on one cache or two.
            3 => {
                let inner = Spec::random(&mut dice);
                let further = match dice.one_in(2) {
                    true => cache.clone(),
                    false => crate::support::builder()
                        .clock(clock.clone())
                        .build()
                        .expect("the defaults are good"),
                };
                services.push(layered(&layer, layered(&inner.layer(&further), origin)));
                apps[0].push(inner);
            }
            _ => services.push(layered(&layer, origin)),
        }
        let people = 2 + dice.below(3);
        let people = (0..people).map(|number| Person::random(number, &mut dice));
        let people = people.collect::<Vec<_>>();
        let mut log = String::new();
        for (number, layers) in apps.iter().enumerate() {
            let _ = writeln!(log, "app {number}: {layers:#?}");
        }
        Self {
            world,
            gate,
            clock,
            apps,
            services,
            people,
            is_plain: dice.one_in(2),
            tally: Tally {
                cases: 1,
                ..Tally::default()
            },
            log,
            dice,
        }
    }

    async fn play(&mut self) -> Result<(), String> {
        for _ in 0..6 + self.dice.below(6) {
            if self.dice.one_in(4) {
                let seconds = self.dice.of(&[3, 15, 25, 35, 45, 120, 1000]);
                let _ = writeln!(self.log, "{seconds} seconds later");
                self.clock.advance(Duration::from_secs(seconds));
            }
            match self.dice.one_in(4) {
                true => self.many().await?,
                false => self.one().await?,
            }
        }
        Ok(())
    }

    fn next(&mut self, is_held: bool) -> Asked {
        let mut world = self.world.lock().expect("nobody panics here");
        let person = &self.people[self.dice.below(self.people.len())];
        let tags: Vec<String> = world.seen_tags.iter().map(|(tag, _)| tag.clone()).collect();
        let tags = &tags[tags.len().saturating_sub(6)..];
        let number = world.asked.len();
        let (apps, is_plain) = (self.apps.len(), self.is_plain);
        let mut asked = Asked::random(number, person, apps, tags, is_plain, &mut self.dice);
        asked.is_held = is_held;
        world.asked.push(asked.clone());
        asked
    }

    fn start(&self, asked: &Asked) -> JoinHandle<Option<Answer>> {
        let service = self.services[asked.app].clone();
        tokio::spawn(ask(service, asked.request()))
    }

    async fn one(&mut self) -> Result<(), String> {
        let asked = self.next(false);
        let answer = self.start(&asked);
        let answer = soon(answer).await?;
        turns().await;
        self.judge(&asked, answer)
    }

    /// Several at once, so that some of them wait for others; sometimes one leaves.
    async fn many(&mut self) -> Result<(), String> {
        let mut waiting = Vec::new();
        for _ in 0..2 + self.dice.below(5) {
            let mut asked = self.next(true);
            if self.dice.one_in(2) {
                // Many ask for the same.
                let mut world = self.world.lock().expect("nobody panics here");
                let kept = &mut world.asked[asked.number];
                (kept.path, kept.host, kept.query) = (0, "one.example", None);
                asked = kept.clone();
            }
            let answer = self.start(&asked);
            waiting.push((asked, answer));
            if self.dice.one_in(2) {
                turns().await;
            }
        }
        turns().await;
        if self.dice.one_in(4) {
            let (asked, answer) = waiting.remove(self.dice.below(waiting.len()));
            let _ = writeln!(self.log, "request {} leaves", asked.number);
            answer.abort();
        }
        // Background refreshes are held as well.
        for _ in 0..waiting.len() + 3 {
            self.gate.add_permits(1);
            turns().await;
        }
        // Whatever is asked anew goes on.
        self.gate.add_permits(1000);
        for (asked, answer) in waiting {
            let answer = soon(answer).await?;
            self.judge(&asked, answer)?;
        }
        turns().await;
        self.gate.forget_permits(usize::MAX);
        Ok(())
    }

    fn judge(&mut self, asked: &Asked, answer: Option<Answer>) -> Result<(), String> {
        let _ = writeln!(self.log, "{asked:?}");
        let Some(answer) = answer else {
            let _ = writeln!(self.log, "  failed");
            return Ok(());
        };
        let _ = writeln!(
            self.log,
            "  {} {:?} {:?}",
            answer.status,
            answer.headers,
            String::from_utf8_lossy(&answer.body[..answer.body.len().min(24)]),
        );
        let mut world = self.world.lock().expect("nobody panics here");
        let head = serials(answer.field("x-head").as_bytes()).first().copied();
        let body = serials(&answer.body);
        let is_own = |serial: usize| world.made[serial].asked == asked.number;
        if body.len() > 1 {
            return Err(format!("{asked:?}: a body made of {body:?}"));
        }
        for serial in &body {
            may_have_body(&world, &self.apps, *serial, asked)
                .map_err(|why| format!("{asked:?} got body {serial}: {why}"))?;
        }
        if let Some(serial) = head {
            may_have_head(&world, &self.apps, serial, asked)
                .map_err(|why| format!("{asked:?} got head {serial}: {why}"))?;
        }
        let layers = &self.apps[asked.app];
        for line in answer.headers.get_all("set-cookie") {
            for serial in serials(line.as_bytes()) {
                // The standard lets it be stored (7.3).
                if !is_own(serial) && !layers.iter().any(|layer| layer.sharing.is_rfc9111) {
                    return Err(format!("{asked:?} got the cookie of {serial}"));
                }
            }
        }
        let tag = answer.field("etag");
        let is_of_origin = |serial: usize| {
            let made = &world.made[serial];
            is_own(serial) && made.status == 304 && made.is_for_own_condition
        };
        let is_not_modified =
            answer.status == StatusCode::NOT_MODIFIED && !head.is_some_and(is_of_origin);
        if is_not_modified {
            let known = world.seen_tags.iter().chain(&world.tags);
            // A tag says whose it is; without one it is the time that was compared.
            let known = known.filter(|(known, _)| known == tag).map(|(_, of)| *of);
            let by_head = head.map(|serial| world.made[serial].base.unwrap_or(serial));
            let mut verdicts = known
                .chain(by_head.filter(|_| tag.is_empty()))
                .map(|of| may_have_body(&world, &self.apps, of, asked));
            let first = verdicts.next().unwrap_or(Ok(()));
            verdicts
                .fold(first, Result::or)
                .map_err(|why| format!("{asked:?} got 304 for {tag}: {why}"))?;
        }

        let said = answer.field("x-cache");
        let statuses = answer.headers.get_all("cache-status").iter();
        let status = statuses
            .filter_map(|line| line.to_str().ok())
            .collect::<String>();
        let is_reused = body.iter().chain(&head).any(|serial| !is_own(*serial));
        let tally = &mut self.tally;
        let sharing = &layers[0].sharing;
        let count = |counted: &mut u64, holds: bool| *counted += u64::from(holds);
        count(&mut tally.answers, true);
        count(&mut tally.hits, said == "HIT");
        count(&mut tally.stale, said == "STALE");
        count(&mut tally.collapsed, status.contains("collapsed"));
        count(&mut tally.not_modified, is_not_modified && is_reused);
        count(&mut tally.partial, answer.status == 206 && is_reused);
        count(&mut tally.heads, asked.method == "HEAD" && is_reused);
        let is_validated = head.is_some_and(is_own) && is_reused;
        count(&mut tally.validated, is_validated);
        count(
            &mut tally.stand_ins,
            said == "STALE" && status.contains("fwd="),
        );
        let is_of_another = |serial: &usize| {
            let from = &world.asked[world.made[*serial].asked];
            from.person != asked.person
        };
        count(&mut tally.of_another, body.iter().any(is_of_another));
        let personal =
            |asked: &Asked| !sharing.is_partitioned && asked.personal(sharing) != Personal::No;
        count(&mut tally.for_personal, is_reused && personal(asked));
        let from = body
            .first()
            .map(|serial| &world.asked[world.made[*serial].asked]);
        let of = |holds: &dyn Fn(&Asked) -> bool| is_reused && from.is_some_and(holds);
        count(&mut tally.of_personal, of(&personal));
        count(
            &mut tally.within_partitions,
            sharing.is_partitioned && is_reused,
        );
        count(&mut tally.across_clones, of(&|from| from.app != asked.app));
        if let ([serial], false) = (&body[..], tag.is_empty()) {
            let known = (tag.to_owned(), *serial);
            if !world.seen_tags.contains(&known) {
                world.seen_tags.push(known);
            }
        }
        Ok(())
    }
}

/// Lets the others go on until all of them wait; faster than `settle`, and enough for what is played here.
async fn turns() {
    if is_on_redis() {
        return settle().await;
    }
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}

/// Fails instead of waiting for ever: in paused time the limit is reached when nothing else can happen.
async fn soon(answer: JoinHandle<Option<Answer>>) -> Result<Option<Answer>, String> {
    let limit = Duration::from_secs(3600);
    let answer = tokio::time::timeout(limit, answer).await;
    let answer = answer.map_err(|_| "an answer never comes".to_owned())?;
    answer.map_err(|error| error.to_string())
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// The cases of these seeds.
fn play(seeds: impl Iterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let mut case = Case::new(seed);
        if let Err(why) = runtime.block_on(case.play()) {
            let world = case.world.lock().expect("nobody panics here");
            let made = world.made.iter().enumerate();
            let made: Vec<_> = made
                .map(|(serial, made)| format!("{serial}: {made:?}"))
                .collect();
            panic!(
                "{why}\n\n{}\nresponses:\n{}\n\n{why}\nagain: ISOLATION_SEED={seed} ISOLATION_CASES=1",
                case.log,
                made.join("\n"),
            );
        }
        case.tally.cases_with_hits = u64::from(case.tally.hits > 0);
        tally.add(&case.tally);
        if tally.cases % 50_000 == 0 {
            println!("{} cases of this thread hold", tally.cases);
        }
    }
    tally
}

#[test]
fn a_body_reaches_another_user_only_if_it_was_explicitly_shareable() {
    let cases = number("ISOLATION_CASES").unwrap_or(if is_on_redis() { 100 } else { 2_000 });
    let seed = number("ISOLATION_SEED").unwrap_or(1);
    let workers = std::thread::available_parallelism().map_or(1, |workers| workers.get() as u64);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|worker| {
                let seeds = (seed..seed + cases).skip(worker as usize);
                scope.spawn(move || play(seeds.step_by(workers as usize)))
            })
            .collect();
        for worker in workers {
            tally.add(&worker.join().expect("the case above holds"));
        }
    });
    println!("{tally:#?}");
    if cases >= 1_000 {
        tally.shows_enough();
    }
}
