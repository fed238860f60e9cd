//! One schedule: events drawn from a seed, played one by one, and judged after each.

use std::{collections::HashMap, fmt::Write, time::Duration};

use tower_response_cache::{Cache, ManualClock, Selector};

use super::{
    client::{App, Asked, Client, app},
    inner::{Order, Scripted, Shared, World, lock},
    plan::{Flaw, KEYS, Kind, Mood, Plan, Spec, name, path},
    tally::Tally,
};
use crate::support::{dice::Dice, request};

/// So many turns in which nobody was woken are quiet.
const QUIET: usize = 4;

pub struct Schedule {
    pub(super) dice: Dice,
    pub(super) mood: Mood,
    pub(super) cache: Cache,
    clock: ManualClock,
    pub(super) world: Shared,
    pub(super) specs: Vec<Spec>,
    apps: Vec<App>,
    /// So many of the resources are asked for.
    keys: usize,
    pub(super) clients: Vec<Client>,
    /// The version of each resource at its last invalidation, and the step of that.
    pub(super) floors: [u64; KEYS],
    pub(super) invalidated: [u64; KEYS],
    /// The same of those that need not know the tags of a response.
    pub(super) invalidated_at_once: [u64; KEYS],
    /// When a fill for a layer and a resource last went any other way than to be stored, on the
    /// cache's clock: what is remembered of it is a reason to call more than once.
    pub(super) troubles: HashMap<(usize, usize), u64>,
    /// Since when it is known by what the variants of a resource are told apart, in steps.
    pub(super) known: [Option<u64>; KEYS],
    pub tally: Tally,
    pub log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Arrive,
    Leave,
    Head,
    Chunk,
    End,
    Error,
    Panic,
    Invalidate,
    Change,
    Expire,
    Time,
    Disable,
    Hold,
}

impl Event {
    const ALL: [(Self, &'static str); 13] = [
        (Self::Arrive, "event: arrive"),
        (Self::Leave, "event: leave"),
        (Self::Head, "event: head"),
        (Self::Chunk, "event: chunk"),
        (Self::End, "event: end"),
        (Self::Error, "event: error"),
        (Self::Panic, "event: panic"),
        (Self::Invalidate, "event: invalidate"),
        (Self::Change, "event: change"),
        (Self::Expire, "event: expire"),
        (Self::Time, "event: time"),
        (Self::Disable, "event: disable"),
        (Self::Hold, "event: hold"),
    ];

    fn draw(mood: Mood, dice: &mut Dice) -> (Self, &'static str) {
        let weights: [usize; 13] = match mood {
            Mood::Calm => [30, 5, 16, 10, 10, 0, 0, 5, 2, 4, 3, 0, 3],
            Mood::Wild => [30, 6, 18, 8, 9, 4, 3, 5, 2, 4, 5, 1, 3],
        };
        let mut drawn = dice.below(weights.iter().sum());
        for (event, weight) in Self::ALL.into_iter().zip(weights) {
            if drawn < weight {
                return event;
            }
            drawn -= weight;
        }
        unreachable!("below the sum");
    }
}

impl Schedule {
    /// On a cache that has done nothing yet.
    pub fn new(seed: u64, (cache, clock): (Cache, ManualClock)) -> Self {
        let mut dice = Dice::new(seed);
        let world = Shared::default();
        let mut specs = vec![Spec::random(&mut dice)];
        if dice.one_in(4) {
            specs.push(Spec::random(&mut dice));
        }
        let apps = specs.iter().enumerate();
        let apps = apps.map(|(number, spec)| {
            let world = world.clone();
            app(&spec.layer(&cache), Scripted { world, app: number })
        });
        let apps = apps.collect();
        let mood = match dice.one_in(3) {
            true => Mood::Calm,
            false => Mood::Wild,
        };
        Self {
            log: format!("{mood:?} {specs:#?}\n"),
            mood,
            cache,
            clock,
            world,
            specs,
            apps,
            keys: 1 + dice.below(KEYS),
            clients: Vec::new(),
            floors: [0; KEYS],
            invalidated: [0; KEYS],
            invalidated_at_once: [0; KEYS],
            troubles: HashMap::new(),
            known: [None; KEYS],
            tally: Tally::default(),
            dice,
        }
    }

    pub async fn play(&mut self) -> Result<(), String> {
        for _ in 0..10 + self.dice.below(40) {
            self.next_step();
            let (event, name) = Event::draw(self.mood, &mut self.dice);
            if self.event(event).await {
                self.tally.count(name);
            }
            self.settle().await;
            self.judge()?;
        }
        self.finish().await
    }

    fn next_step(&mut self) {
        lock(&self.world).step += 1;
    }

    /// What the calls of the inner service have come to.
    pub fn calls(&self) -> String {
        let mut calls = String::new();
        for call in &lock(&self.world).calls {
            let _ = writeln!(calls, "{call}");
        }
        calls
    }

    fn say(&mut self, text: impl std::fmt::Display) {
        let step = lock(&self.world).step;
        let _ = writeln!(self.log, "{step:>3} {text}");
    }

    /// Plays an event; says whether there was anybody for it.
    async fn event(&mut self, event: Event) -> bool {
        match event {
            Event::Arrive => self.arrive(),
            Event::Leave => {
                let Some(number) = self.some_client() else {
                    return false;
                };
                self.say(format_args!("client {number} leaves"));
                self.clients[number].leave();
            }
            Event::Head => {
                let Some(number) = self.some_call(|call| call.is_open()) else {
                    return false;
                };
                self.answer(number);
            }
            Event::Chunk => {
                let Some(number) = self.some_call(|call| call.is_reading()) else {
                    return false;
                };
                self.say(format_args!("call {number}: a chunk"));
                lock(&self.world).calls[number].send();
            }
            Event::End => {
                let Some(number) = self.some_call(|call| call.is_reading()) else {
                    return false;
                };
                self.say(format_args!("call {number}: the end"));
                finish_body(&mut lock(&self.world), number);
            }
            Event::Error => {
                if let Some(number) = self.some_call(|call| call.is_reading()) {
                    if self.dice.one_in(2) {
                        self.say(format_args!("call {number}: its body breaks off"));
                        lock(&self.world).calls[number].break_off();
                        return true;
                    }
                }
                let Some(number) = self.some_call(|call| call.is_open()) else {
                    return false;
                };
                self.say(format_args!("call {number} fails"));
                lock(&self.world).calls[number].order(Order::Fail);
            }
            Event::Panic => {
                let Some(number) = self.some_call(|call| call.is_open()) else {
                    return false;
                };
                self.say(format_args!("call {number} panics"));
                lock(&self.world).calls[number].order(Order::Panic);
            }
            Event::Invalidate => self.invalidate(),
            Event::Change => {
                let key = self.dice.below(KEYS);
                self.say(format_args!("key {key} changes"));
                lock(&self.world).data[key] += 1;
            }
            Event::Expire => {
                let seconds = self.dice.of(&[4, 11, 61, 700]);
                self.say(format_args!("{seconds} s on the cache's clock"));
                self.pass(seconds * 1000);
            }
            Event::Time => {
                let millis = self.dice.of(&[100, 250, 1000, 5000, 30_000]);
                self.say(format_args!("{millis} ms"));
                self.pass(millis);
                tokio::time::advance(Duration::from_millis(millis)).await;
            }
            Event::Disable => {
                let enabled = !self.cache.is_enabled();
                self.say(format_args!("enabled: {enabled}"));
                if !enabled {
                    self.known = [None; KEYS];
                    self.invalidated_all();
                }
                self.cache.set_enabled(enabled);
            }
            Event::Hold => {
                let Some(number) = self.some_client() else {
                    return false;
                };
                let client = &mut self.clients[number];
                client.is_held = !client.is_held;
                client.has_paused = true;
                let is_held = client.is_held;
                self.say(format_args!("client {number} pauses: {is_held}"));
            }
        }
        true
    }

    fn pass(&mut self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
        let mut world = lock(&self.world);
        world.millis += millis;
        // What is stored may end, and its rule with it.
        self.known = [None; KEYS];
    }

    fn some_client(&mut self) -> Option<usize> {
        let waiting = self.clients.iter().filter(|client| client.is_waiting());
        let waiting: Vec<usize> = waiting.map(|client| client.number).collect();
        (!waiting.is_empty()).then(|| self.dice.of(&waiting))
    }

    fn some_call(&mut self, which: impl Fn(&super::inner::Call) -> bool) -> Option<usize> {
        let world = lock(&self.world);
        let calls = world.calls.iter().filter(|call| which(call));
        let calls: Vec<usize> = calls.map(|call| call.number).collect();
        (!calls.is_empty()).then(|| self.dice.of(&calls))
    }

    fn arrive(&mut self) {
        let is_wild = self.mood == Mood::Wild;
        let asked = Asked::random(self.apps.len(), self.keys, is_wild, &mut self.dice);
        let several = if self.dice.one_in(4) { 3 } else { 1 };
        for _ in 0..several {
            let number = self.clients.len();
            self.say(format_args!("client {number} comes: {asked:?}"));
            let (step, millis) = {
                let world = lock(&self.world);
                (world.step, world.millis)
            };
            let mut client = Client::new(number, asked, &self.apps[asked.app], step, millis);
            client.floor = self.floors[asked.key];
            self.clients.push(client);
        }
    }

    fn answer(&mut self, number: usize) {
        let (mark, asked, is_head) = {
            let world = lock(&self.world);
            let call = &world.calls[number];
            (call.mark(), call.asked.clone(), call.is_head)
        };
        let mut plan = Plan::random(&mark, asked.as_deref(), self.mood, &mut self.dice);
        if is_head {
            // Of what a GET would get, whatever that is; it has no body that could be wrong.
            plan.flaw = Flaw::None;
        }
        let at_once = self.dice.one_in(2);
        self.say(format_args!("call {number}: {plan:?}, at once: {at_once}"));
        lock(&self.world).calls[number].order(Order::Answer(plan, at_once));
    }

    /// The data first, the invalidation second.
    fn invalidate(&mut self) {
        let key = self.dice.below(KEYS);
        lock(&self.world).data[key] += 1;
        let selector = match self.dice.below(8) {
            0 => {
                for data in &mut lock(&self.world).data {
                    *data += 1;
                }
                self.invalidated_all();
                Selector::all()
            }
            1 => Selector::request(&request("POST", &path(key), &[])),
            2 | 3 => Selector::tag(name(key)),
            4 => Selector::path(&path(key)),
            5 => Selector::path(&format!("*/{key}")),
            6 => Selector::path_prefix(&path(key)),
            _ => Selector::resource("test", &path(key)),
        };
        self.invalidated_one(key);
        if selector != Selector::tag(name(key)) {
            self.invalidated_at_once[key] = self.invalidated[key];
        }
        self.say(format_args!("{selector:?}"));
        self.cache.invalidate(selector);
    }

    /// From now on nobody who comes gets what was made before.
    fn invalidated_one(&mut self, key: usize) {
        let world = lock(&self.world);
        self.floors[key] = world.data[key];
        self.invalidated[key] = world.step;
    }

    fn invalidated_all(&mut self) {
        for key in 0..KEYS {
            self.invalidated_one(key);
        }
        self.invalidated_at_once = self.invalidated;
    }

    /// Polls whoever was woken, and lets tasks run, until all wait.
    async fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < QUIET {
            let step = lock(&self.world).step;
            let mut woken = false;
            for client in &mut self.clients {
                woken |= client.poll(step);
            }
            tokio::task::yield_now().await;
            quiet = if woken { 0 } else { quiet + 1 };
        }
    }

    /// Lets all handlers go and all clients on: without time passing, everybody who stayed is answered.
    async fn finish(&mut self) -> Result<(), String> {
        self.next_step();
        self.say("all go on");
        self.cache.set_enabled(true);
        for client in &mut self.clients {
            client.is_held = false;
        }
        for _ in 0..200 {
            self.settle().await;
            self.judge()?;
            let mut is_open = false;
            let mut world = lock(&self.world);
            for number in 0..world.calls.len() {
                let call = &mut world.calls[number];
                if call.is_open() {
                    let mut plan = Plan::plain(&call.mark(), 1);
                    plan.kind = Kind::Plain;
                    call.order(Order::Answer(plan, true));
                    is_open = true;
                } else if call.is_reading() {
                    finish_body(&mut world, number);
                    is_open = true;
                }
            }
            world.step += 1;
            if !is_open {
                break;
            }
        }
        let stuck = self.clients.iter().find(|client| client.is_waiting());
        if let Some(stuck) = stuck {
            return Err(format!("client {} is never answered", stuck.number));
        }
        self.tally.count("nothing was left waiting");
        self.judge_end()
    }
}

fn finish_body(world: &mut World, number: usize) {
    let call = &mut world.calls[number];
    let flaw = call.plan.as_ref().map(|plan| plan.flaw);
    call.finish(flaw == Some(Flaw::Trailers));
}
