//! What must hold after each step and at the end.

use http::response::Parts;
use tower_response_cache::Reason;

use super::{
    client::{Client, End, State},
    inner::{Call, Phase, World, lock},
    plan::{Flaw, Kind, Plan, Spec, varies},
    schedule::Schedule,
};

/// How long what went wrong with a resource is remembered at most, and a little.
const REMEMBERED: u64 = 61_000;
/// How long those who wait for a body of unknown length do.
const OPEN_BODY_WAIT: u128 = 250;

/// What a body says of itself.
struct Text {
    call: usize,
    key: usize,
    version: u64,
    is_whole: bool,
}

/// Takes a body apart: nothing, or the parts of one response in their order.
fn text(read: &[u8]) -> Result<Option<Text>, String> {
    let read = String::from_utf8_lossy(read);
    let wrong = || format!("a body that nobody made: {read:?}");
    let mut text: Option<Text> = None;
    let mut next = 0;
    let mut rest = &*read;
    while !rest.is_empty() {
        let (part, after) = rest
            .strip_prefix('<')
            .and_then(|rest| rest.split_once('>'))
            .ok_or_else(wrong)?;
        rest = after;
        if part.starts_with('+') {
            continue;
        }
        let is_whole = part.ends_with('$');
        let numbers = part.trim_end_matches('$').split(' ');
        let numbers: Result<Vec<u64>, _> = numbers.map(str::parse).collect();
        let Ok([call, key, _lang, version, index]) = numbers.as_deref() else {
            return Err(wrong());
        };
        let is_same = |text: &Text| text.call as u64 == *call && !text.is_whole;
        if *index != next || !text.as_ref().is_none_or(is_same) {
            return Err(wrong());
        }
        next += 1;
        text = Some(Text {
            call: *call as usize,
            key: *key as usize,
            version: *version,
            is_whole,
        });
    }
    Ok(text)
}

fn field<'a>(head: &'a Parts, name: &str) -> &'a str {
    let value = head.headers.get(name);
    value.and_then(|value| value.to_str().ok()).unwrap_or("")
}

impl Client {
    /// Nobody waits for a call of it, and it waits for nobody's.
    fn is_alone(&self) -> bool {
        self.is_passed || self.asked.is_head || self.asked.has_cookie
    }
}

impl Spec {
    fn fill_timeout(&self) -> u128 {
        u128::from(self.fill_timeout) * 1000
    }
    fn wait_timeout(&self) -> u128 {
        u128::from(self.wait_timeout) * 1000
    }
}

impl Schedule {
    /// After each step.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        self.note_troubles();
        self.judge_calls()?;
        for number in 0..self.clients.len() {
            let client = &self.clients[number];
            if client.is_waiting() || client.is_judged {
                continue;
            }
            self.judge_client(number)
                .map_err(|why| format!("client {number}: {why}"))?;
            self.clients[number].is_judged = true;
        }
        self.judge_refused()?;
        self.judge_waiting()?;
        if !self.cache.is_enabled() && self.cache.stats().entries() > 0 {
            return Err("something is stored while the cache is off".into());
        }
        self.note_waiting();
        let under_way = lock(&self.world)
            .calls
            .iter()
            .filter(|call| call.is_under_way())
            .count() as u64;
        let flights = self.cache.stats().flights();
        if flights > under_way {
            return Err(format!("{flights} flights for {under_way} calls"));
        }
        Ok(())
    }

    /// Whoever waits has its own call, or may wait for another's; what nobody waits for ends.
    fn judge_waiting(&self) -> Result<(), String> {
        let world = lock(&self.world);
        let is_at_work = |client: &Client| {
            let mut calls = world.calls.iter();
            calls.any(|call| call.client == client.number && call.is_under_way())
        };
        for client in &self.clients {
            let is_waiting = matches!(client.state, State::Head(_)) && !client.has_paused;
            let may_wait = |call: &Call| self.may_wait_for(client, call);
            if is_waiting && !is_at_work(client) && !world.calls.iter().any(may_wait) {
                return Err(format!("client {} waits for nothing", client.number));
            }
        }
        for call in world.calls.iter().filter(|call| call.is_under_way()) {
            let has_left = matches!(self.clients[call.client].state, State::Left);
            let is_for_nobody = |client: &Client| {
                (client.asked.app, client.asked.key) != (call.app, call.key) || !client.is_waiting()
            };
            let detach = self.specs[call.app].detach && !self.clients[call.client].is_alone();
            if has_left && !detach && self.clients.iter().all(is_for_nobody) {
                return Err(format!("call {} goes on for nobody", call.number));
            }
        }
        Ok(())
    }

    /// Whoever waited for a response that is for another alone calls for itself, at once, and waits for
    /// nobody: the next one would be refused as well.
    fn judge_refused(&mut self) -> Result<(), String> {
        let world = lock(&self.world);
        for client in &self.clients {
            let Some(call) = client.waits_for.map(|number| &world.calls[number]) else {
                continue;
            };
            let plan = call.plan.as_ref();
            let is_refused = |plan: &Plan| plan.is_refused(call.is_sent);
            let is_now = call.answered == Some(world.step) && !call.is_late;
            if !is_now || !plan.is_some_and(is_refused) || client.has_paused {
                continue;
            }
            let mut calls = world.calls.iter();
            let has_its_own = calls.any(|call| call.client == client.number);
            if !has_its_own && client.is_waiting() {
                return Err(format!(
                    "client {} has no call of its own, and that of call {} was refused",
                    client.number, call.number
                ));
            }
            self.tally.count("refused, and each called for itself");
        }
        Ok(())
    }

    /// Notes whom those who wait wait for.
    fn note_waiting(&mut self) {
        let waits_for = |client: &Client| {
            let world = lock(&self.world);
            let has_its_own = world.calls.iter().any(|call| call.client == client.number);
            let is_follower = matches!(client.state, State::Head(_)) && !client.asked.no_cache;
            if !is_follower || has_its_own {
                return None;
            }
            let mut calls = world.calls.iter();
            let first = calls.find(|call| self.may_wait_for(client, call))?;
            let is_only = !calls.any(|call| self.may_wait_for(client, call));
            is_only.then_some(first.number)
        };
        let noted: Vec<_> = self.clients.iter().map(waits_for).collect();
        for (client, waits_for) in self.clients.iter_mut().zip(noted) {
            client.waits_for = waits_for;
        }
    }

    /// Whether a client may still wait for the head of this call, or for the end of its body.
    fn may_wait_for(&self, client: &Client, call: &Call) -> bool {
        let asked = &client.asked;
        let spec = &self.specs[asked.app];
        let invalidated = self.invalidated[call.key];
        let at_once = self.invalidated_at_once[call.key];
        let outruns = |step: u64| step > call.called && step <= client.came;
        // Whether a tag selects it is known with the head. Who wants a newer one has not waited for that.
        let is_known = call.answered_at.is_some() && !asked.no_cache;
        let is_outrun = outruns(at_once) || (outruns(invalidated) && is_known);
        let is_over = call.answered_at.is_some_and(|at| {
            let plan = call.plan.as_ref().expect("it has answered");
            plan.is_declared
                || plan.is_private()
                || at.max(client.came_at).elapsed().as_millis() >= OPEN_BODY_WAIT
        });
        // Who pauses does not see that it takes too long; those who wait have a bound of their own, and who
        // comes later does not join.
        let is_early = (client.came_at - call.called_at).as_millis() < spec.fill_timeout();
        let is_unseen = self.clients[call.client].is_held && is_early;
        // Its head came in time, or while the client paused.
        let is_open = call.answered_at.is_some() && !is_over && !asked.no_cache;
        (call.app, call.key) == (asked.app, asked.key)
            && self.clients[call.client].asked.no_cache == asked.no_cache
            && (client.came_at.elapsed().as_millis() < spec.wait_timeout() || is_open)
            && call.is_under_way()
            && !call.is_head
            && (!call.is_late || is_unseen)
            && !self.clients[call.client].is_alone()
            && !is_outrun
            // Who wants a newer one waits for the end.
            && (asked.no_cache || !is_over)
    }

    /// Notes what went otherwise than to be stored.
    fn note_troubles(&mut self) {
        let mut world = lock(&self.world);
        let (now, step) = (world.millis, world.step);
        // What a 304 says of a response that must be validated is for its client alone, too.
        let must_be = world.calls.iter().filter_map(|call| call.plan.as_ref());
        let must_be = must_be.filter(|plan| plan.kind == Kind::MustValidate);
        let must_be: Vec<_> = must_be.map(|plan| plan.tag.clone()).collect();
        for call in &mut world.calls {
            let spec = &self.specs[call.app];
            let is_recent = call.is_under_way() || call.ended == Some(step);
            if is_recent && call.called_at.elapsed().as_millis() >= spec.fill_timeout() {
                call.is_late = true;
            }
            let is_trouble = match call.phase {
                Phase::Called => call.is_late,
                Phase::Body | Phase::Whole => {
                    let plan = call.plan.as_ref().expect("it has answered");
                    let is_confirmed =
                        plan.kind == Kind::NotModified && !must_be.contains(&plan.tag);
                    call.is_late || !(plan.is_good() || is_confirmed)
                }
                Phase::Failed | Phase::Dropped => true,
            };
            if is_trouble && is_recent && !call.is_head {
                self.troubles.insert((call.app, call.key), now);
            }
        }
    }

    /// Whether something is remembered of a resource.
    fn is_troubled(&self, world: &World, app: usize, key: usize) -> bool {
        let at = self.troubles.get(&(app, key));
        at.is_some_and(|at| world.millis < at + REMEMBERED)
    }

    fn judge_calls(&mut self) -> Result<(), String> {
        let shared = self.world.clone();
        let mut world = lock(&shared);
        let step = world.step;
        for number in 0..world.calls.len() {
            if world.calls[number].called == step && !world.calls[number].is_judged {
                world.calls[number].is_alone = self.is_alone(&world, &world.calls[number]);
            }
            let call = &world.calls[number];
            if call.called == step {
                for other in &call.beside {
                    if self.may_be_beside(call, &world.calls[*other])? {
                        self.tally.count("two calls at once, with a reason");
                    }
                }
            }
            let is_over = !call.is_under_way();
            let plan = call.plan.as_ref();
            let is_shared = !self.clients[call.client].is_alone() && !call.is_late;
            let is_stored = is_shared && plan.is_some_and(|plan| plan.is_good());
            if is_stored && call.phase == Phase::Whole && call.ended == Some(step) {
                self.known[call.key].get_or_insert(step);
            }
            if is_over && !call.is_judged {
                self.judge_end_of(call)?;
                self.tally.count_if("late call", call.is_late);
                world.calls[number].is_judged = true;
            }
        }
        Ok(())
    }

    /// Whether there was a reason for a call to be made that others do not wait for.
    fn is_alone(&self, world: &World, call: &Call) -> bool {
        let client = &self.clients[call.client];
        let spec = &self.specs[call.app];
        let waited = client.came_at.elapsed().as_millis();
        let is_open = |other: &usize| {
            let plan = world.calls[*other].plan.as_ref();
            plan.is_some_and(|plan| !plan.is_declared)
        };
        client.is_alone()
            || client.has_paused
            || waited >= spec.wait_timeout()
            // Its length is not known, and it is waited for no longer.
            || (waited >= OPEN_BODY_WAIT && call.beside.iter().any(is_open))
            || self.is_troubled(world, call.app, call.key)
    }

    /// One fill per resource and variant at a time, or there is a reason; says whether there was.
    fn may_be_beside(&self, call: &Call, other: &Call) -> Result<bool, String> {
        let (client, others) = (&self.clients[call.client], &self.clients[other.client]);
        let is_of_another_variant = varies(call.key) && call.lang != other.lang;
        if client.is_alone() || others.is_alone() || is_of_another_variant {
            return Ok(false);
        }
        let may_be = client.asked.no_cache
            || others.asked.no_cache
            || self.invalidated[call.key] > other.called
            || other.is_late
            || call.is_alone
            || other.is_alone
            // One was begun when it was not known that there are variants; the other knew.
            || (varies(call.key) && self.known[call.key].is_none_or(|at| at >= other.called));
        if !may_be {
            return Err(format!(
                "call {} of client {} beside call {} of client {}: nothing is known that is a reason",
                call.number, client.number, other.number, others.number
            ));
        }
        Ok(true)
    }

    /// A call ends by itself, or there is a reason.
    fn judge_end_of(&mut self, call: &Call) -> Result<(), String> {
        let client = &self.clients[call.client];
        let spec = &self.specs[call.app];
        let has_left = matches!(client.state, State::Left);
        let may_be_dropped = has_left && (!spec.detach || call.is_alone);
        let tally = &mut self.tally;
        if call.phase == Phase::Dropped {
            tally.count("dropped with its client");
            if !(may_be_dropped || call.is_late || self.is_for_its_client(call)) {
                return Err(format!(
                    "call {} is dropped, and others may wait for it",
                    call.number
                ));
            }
        }
        let is_outrun = call.phase == Phase::Whole && self.invalidated[call.key] > call.called;
        self.tally.count_if("outrun by an invalidation", is_outrun);
        let goes_on = has_left && call.phase == Phase::Whole;
        self.tally
            .count_if("whole although its client left", goes_on);
        Ok(())
    }

    /// A call whose response is for its client alone is dropped with that.
    fn is_for_its_client(&self, call: &Call) -> bool {
        let client = &self.clients[call.client];
        let is_over = !client.is_waiting();
        let plan = call.plan.as_ref();
        plan.is_some_and(|plan| plan.flaw != Flaw::None || (!plan.is_good() && is_over))
    }

    fn judge_client(&mut self, number: usize) -> Result<(), String> {
        let client = &self.clients[number];
        let world = lock(&self.world);
        let tally = &mut self.tally;
        let (head, end) = match &client.state {
            State::Answered(head, end) => (head, *end),
            State::Failed => {
                tally.count("client met the error");
                return its_own_failed(&world, number);
            }
            State::Panicked => {
                tally.count("client met the panic");
                return its_own_failed(&world, number);
            }
            _ => return Ok(()),
        };
        let asked = &client.asked;
        let (said, status) = (field(head, "x-cache"), field(head, "cache-status"));
        let _ = std::fmt::Write::write_fmt(
            &mut self.log,
            format_args!(
                "    client {number}: {} {said} {status} {:?} {end:?}\n",
                head.status,
                String::from_utf8_lossy(&client.read[..client.read.len().min(80)]),
            ),
        );
        let Ok(named) = field(head, "x-call").parse::<usize>() else {
            tally.count("unsatisfied only-if-cached");
            let is_right = asked.only_if_cached && head.status == 504;
            return is_right.then_some(()).ok_or("an answer by nobody".into());
        };
        let call = &world.calls[named];
        let plan = call.plan.as_ref().ok_or("a head that nobody sent")?;
        let spec = &self.specs[call.app];
        let is_own = call.client == number && said != "HIT" && said != "STALE";
        let is_collapsed = status.contains("collapsed");
        let text = text(&client.read)?;
        let wrong = |holds: bool, why: &str| match holds {
            true => Ok(()),
            false => Err(format!("{why} (call {named})")),
        };

        // Whose it is.
        wrong(call.key == asked.key, "another resource")?;
        let is_of_variant = !varies(call.key) || call.lang == asked.lang;
        wrong(is_of_variant, "another variant")?;
        wrong(is_own || !client.is_passed, "the cache was off")?;
        wrong(is_own || !asked.has_cookie, "shared with a person")?;
        wrong(is_own || !plan.is_private(), "the answer of another")?;
        wrong(
            is_own || !head.headers.contains_key("set-cookie"),
            "the cookie of another",
        )?;
        wrong(
            is_own || plan.kind != Kind::MustValidate,
            "not validated before it was used",
        )?;
        match said {
            "HIT" | "STALE" => {
                let is_stored = plan.kind == Kind::NotModified
                    || call.is_head
                    || (plan.is_good() && call.phase == Phase::Whole);
                wrong(is_stored, "from the store, and never stored")?;
                let is_hit = said == "HIT";
                let age = client.came_millis.saturating_sub(call.made);
                // RFC 9111, 3.2: what a 304, or a HEAD, does not say stays as it was said before.
                let plans = world.calls.iter().filter_map(|call| call.plan.as_ref());
                let is_same = |other: &&Plan| {
                    (plan.kind == Kind::NotModified || call.is_head) && other.tag == plan.tag
                };
                let said = || plans.clone().filter(is_same).chain([plan]);
                let longest = |time: fn(&Plan, &Spec) -> u64| {
                    said().map(|plan| time(plan, spec) * 1000).max()
                };
                let fresh = longest(Plan::fresh).unwrap_or_default();
                let stale = longest(Plan::stale).unwrap_or_default();
                let longest = if is_hit { fresh } else { fresh + stale };
                wrong(age < longest.max(1), "older than it may be")?;
            }
            "MISS" if !is_own => {
                wrong(is_collapsed, "neither its own nor shared")?;
                let is_early = call.ended.is_none_or(|ended| ended >= client.came);
                wrong(is_early, "shared after the end")?;
            }
            "MISS" | "BYPASS" => wrong(is_own, "the call of another")?,
            _ => return Err(format!("X-Cache: {said}")),
        }
        if !is_own && plan.is_failure() {
            let is_late = call.answered.is_some_and(|at| at < client.came);
            wrong(!is_late, "a failure for who came after it")?;
        }
        if asked.no_cache && !is_own {
            wrong(call.called >= client.came, "older than a no-cache request")?;
        }

        // What it is.
        if call
            .plan
            .as_ref()
            .is_some_and(|plan| plan.kind != Kind::NotModified)
            && !call.is_head
        {
            wrong(call.version >= client.floor, "older than an invalidation")?;
        }
        let has_body = !(asked.is_head || (is_own && head.status == 304));
        if let Some(text) = &text {
            let from = &world.calls[text.call];
            wrong(text.key == asked.key, "the body of another resource")?;
            wrong(text.version >= client.floor, "older than an invalidation")?;
            let is_same = text.call == named
                || from.plan.as_ref().map(|plan| &plan.tag) == Some(&plan.tag)
                || call.is_head;
            wrong(is_same, "head and body of two responses")?;
            let is_of_variant = !varies(text.key) || from.lang == asked.lang;
            wrong(is_of_variant, "the body of another variant")?;
            let is_stored = text.call == named || from.phase == Phase::Whole;
            wrong(is_stored, "a body that was never whole")?;
        }
        let whole = text.as_ref().is_some_and(|text| text.is_whole);
        match end {
            End::Clean if has_body => {
                wrong(whole, "a clean end, and not all of it")?;
                wrong(is_own || plan.flaw == Flaw::None, "a flawed body, shared")?;
            }
            End::Clean => wrong(client.read.is_empty(), "a body where there is none")?,
            End::Inner => {
                wrong(is_own && call.phase == Phase::Failed, "an error of nobody")?;
            }
            End::Incomplete => {
                let is_good = call.phase == Phase::Whole && plan.flaw == Flaw::None;
                let may_be = match is_own {
                    // Whoever has started it gets all there is.
                    true => plan.flaw == Flaw::TooShort,
                    false => !is_good || call.is_late,
                };
                wrong(may_be, "broken for no reason")?;
            }
        }

        let open = !plan.is_declared;
        let count = |what, holds| tally.count_if(what, holds);
        let is_stood_in = said == "STALE" && status.contains("fwd=");
        let streamed = client.headed.is_some_and(|at| call.ended > Some(at));
        count_all(
            count,
            &[
                ("hit", said == "HIT"),
                ("hit for HEAD", said == "HIT" && asked.is_head),
                ("stale", said == "STALE" && !is_stood_in),
                ("stand-in", is_stood_in),
                ("collapsed", is_collapsed),
                ("collapsed HEAD", is_collapsed && asked.is_head),
                ("collapsed while it streamed", is_collapsed && streamed),
                (
                    "collapsed at the end of an open body",
                    is_collapsed && open && !plan.is_failure(),
                ),
                ("shared 5xx", is_collapsed && plan.is_failure()),
                (
                    "validated by a call of its own",
                    status.contains("fwd-status=304"),
                ),
                ("bypass", said == "BYPASS"),
                (
                    "alone: wait-timeout",
                    status.contains("detail=wait-timeout"),
                ),
                (
                    "alone: inner-error",
                    is_own && status.contains("detail=inner-error"),
                ),
                (
                    "alone: not-collapsed",
                    status.contains("detail=not-collapsed"),
                ),
                (
                    "not stored: set-cookie",
                    status.contains("detail=set-cookie"),
                ),
                ("not stored: no-store", status.contains("detail=no-store")),
                ("not stored: private", status.contains("detail=private")),
                (
                    "not stored: body-too-large",
                    status.contains("detail=body-too-large"),
                ),
                ("not stored: status", status.contains("detail=status")),
                ("regrouped by Vary", status.contains("fwd=vary-miss")),
                (
                    "no-cache answered by another's newer call",
                    asked.no_cache && !is_own,
                ),
                ("body error for its own client", end == End::Inner),
                (
                    "broken body for who shared it",
                    end == End::Incomplete && !is_own,
                ),
                (
                    "short body ended in an error",
                    end == End::Incomplete && plan.flaw == Flaw::TooShort,
                ),
                ("trailers", client.has_trailers),
            ],
        );
        Ok(())
    }

    /// When all is over: nothing is left, and the counters are those of what was seen.
    pub(super) fn judge_end(&mut self) -> Result<(), String> {
        let stats = self.cache.stats();
        let is = |what: &str, seen: u64, at_least: u64, at_most: u64| match (at_least..=at_most)
            .contains(&seen)
        {
            true => Ok(()),
            false => Err(format!(
                "{what}: {seen}, not {at_least} to {at_most}: {stats}"
            )),
        };
        is("flights", stats.flights(), 0, 0)?;
        is("buffered bytes", stats.buffered_bytes(), 0, 0)?;
        let [mut hits, mut stale, mut forwarded, mut collapsed, mut left] = [0; 5];
        for client in &self.clients {
            let State::Answered(head, _) = &client.state else {
                match client.state {
                    State::Left => left += 1,
                    _ => forwarded += 1,
                }
                continue;
            };
            let status = field(head, "cache-status");
            let is_forwarded = status.contains("fwd=");
            hits += u64::from(field(head, "x-cache") == "HIT");
            stale += u64::from(field(head, "x-cache") == "STALE");
            let is_unsatisfied = head.status == 504;
            forwarded += u64::from(is_forwarded || is_unsatisfied);
            collapsed += u64::from(status.contains("collapsed"));
        }
        is("hits", stats.hits(), hits, hits + left)?;
        is("stale", stats.stale(), stale, stale + left)?;
        is("collapsed", stats.collapsed(), collapsed, collapsed + left)?;
        let bypasses = |reason: &Reason| stats.bypasses(*reason);
        let bypasses: u64 = Reason::ALL.iter().map(bypasses).sum();
        let counted = stats.misses() + bypasses;
        is("misses and bypasses", counted, forwarded, forwarded + left)?;
        let world = lock(&self.world);
        let is_fill = |call: &&Call| !call.is_head && !self.clients[call.client].is_passed;
        let fills = world.calls.iter().filter(is_fill);
        let made = fills.clone().count() as u64;
        is("fills", stats.fills(), made, made)?;
        let unanswered = fills.filter(|call| call.answered.is_none()).count() as u64;
        let failed = stats.failed_fills();
        is("failed fills", failed, unanswered, unanswered)?;
        Ok(())
    }
}

fn count_all(mut count: impl FnMut(&'static str, bool), rows: &[(&'static str, bool)]) {
    for (what, holds) in rows {
        count(what, *holds);
    }
}

/// An error, or a panic, is that of one's own call.
fn its_own_failed(world: &World, client: usize) -> Result<(), String> {
    let is_own = |call: &Call| call.client == client && call.has_failed;
    let has_failed = world.calls.iter().any(is_own);
    has_failed
        .then_some(())
        .ok_or("the error of another".into())
}
