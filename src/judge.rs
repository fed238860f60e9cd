//! What is done with a response of the inner service: shared and stored, or handed to its client
//! alone. The rules are in `policy/`; here is what they are asked, and the head that is stored.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header::COOKIE, response};
use tokio::time::Instant;

use crate::{
    cache::Cache,
    entry::{Lifetime, Millis, StoredHead, millis},
    flight::Shared,
    invalidation::Sequence,
    key::MAX_KEY,
    pending::Pending,
    policy::{self, CachePolicy, Decision, Plan, RequestFacts, Tagged},
    random,
    scope::Reads,
    settings::Settings,
    status::Reason,
    stored_head::{has_status_slot, stored_head},
    strip::Strip,
};

/// When the inner service was called.
#[derive(Clone, Copy)]
pub(crate) struct Started {
    /// On the cache's clock.
    pub(crate) at: Millis,
    /// Later than this nothing is stored or shared.
    pub(crate) deadline: Instant,
}

/// The longest body that is stored: as the layer says, and as memory has room for.
pub(crate) fn longest_body(settings: &Settings, cache: &Cache) -> u64 {
    settings
        .storing
        .max_body_size
        .min(cache.memory().heaviest())
}

/// The longest frame that is read from a remote store: such a body, with the longest key and head
/// that are stored, and some of it for a seal.
pub(crate) fn longest_frame(settings: &Settings) -> usize {
    const BESIDES: u64 = 128 << 10;
    let longest = longest_body(settings, &settings.cache).saturating_add(BESIDES);
    usize::try_from(longest).unwrap_or(usize::MAX / 2)
}

/// What is done with a response.
pub(crate) enum Judged {
    /// Shared with those who wait; and stored, if true.
    Share(Arc<Shared>, bool),
    Refuse(Reason),
}

/// What a response is judged by besides its head.
pub(crate) struct Exchange<'a> {
    /// The fields as the client sent them; none are looked at where nothing is personal.
    pub(crate) request: &'a HeaderMap,
    pub(crate) authorization: bool,
    pub(crate) personal: Option<Reason>,
    /// Of the request and of the response.
    pub(crate) times: [SystemTime; 2],
}

/// A response that may be shared, as far as its head says.
pub(crate) struct Weighed {
    plan: Plan,
    /// Else it goes to those who wait already and nowhere else.
    pub(crate) is_stored: bool,
    length: Option<u64>,
    tagged: Tagged,
}

/// Asks all rules about the head of a response.
///
/// # Errors
///
/// Why it answers its own request alone.
pub(crate) fn weigh(
    settings: &Settings,
    exchange: &Exchange<'_>,
    head: &response::Parts,
    exact: Option<u64>,
) -> Result<Weighed, Reason> {
    let is_careful = settings.storing.is_careful();
    let is_credential = |name: &str| is_careful && settings.credentials.contains(name);
    let facts = RequestFacts {
        headers: exchange.request,
        authorization: exchange.authorization,
        personal: exchange.personal,
        partitioned: settings.partition_by.is_some(),
        is_credential: &is_credential,
    };
    let [request_time, response_time] = exchange.times;
    let decision = policy::decide(
        &settings.storing,
        &facts,
        head.status,
        &head.headers,
        head.extensions.get(),
        request_time,
        response_time,
    );
    let (plan, is_stored) = match decision {
        Decision::Store(plan) => (plan, true),
        Decision::ShareOnly(plan) => (plan, false),
        Decision::Refuse(reason) => return Err(reason),
    };
    if is_stored && !settings.store_when.iter().all(|condition| condition(head)) {
        return Err(Reason::StoreWhen);
    }
    let length = plan.length.or(exact);
    let tagged = policy::tagged(&head.headers, &head.extensions)?;
    if length.is_some_and(|length| length > longest_body(settings, &settings.cache)) {
        return Err(Reason::BodyTooLarge);
    }
    Ok(Weighed {
        plan,
        is_stored,
        length,
        tagged,
    })
}

/// Judges the head of a response to a request whose fields the client sent so.
///
/// `exact` is the length of the body where the body says it.
pub(crate) fn judge(
    settings: &Settings,
    pending: &Pending,
    request: &HeaderMap,
    head: &mut response::Parts,
    exact: Option<u64>,
    started: Started,
) -> Judged {
    let cache = &pending.cache;
    if Instant::now() >= started.deadline {
        return Judged::Refuse(Reason::FillTimeout);
    }
    let (now, response_time) = (cache.now(), cache.clock().wall());
    let took = Duration::from_millis(now.saturating_sub(started.at));
    let asked = Exchange {
        request,
        authorization: pending.authorization,
        personal: pending.personal,
        times: [
            response_time.checked_sub(took).unwrap_or(response_time),
            response_time,
        ],
    };
    let weighed = match weigh(settings, &asked, head, exact) {
        Ok(weighed) => weighed,
        Err(reason) => return Judged::Refuse(reason),
    };
    let Weighed {
        mut plan,
        is_stored,
        length,
        mut tagged,
    } = weighed;
    let made_of = head.extensions.remove::<Arc<Reads>>();
    let made_of = made_of.filter(|reads| reads.is_of(cache));
    let made_of = made_of.map(|reads| reads.made_of());
    if let Some(made_of) = &made_of {
        let dependencies = made_of.dependencies.as_ref();
        let added = dependencies.ok_or(Reason::TooManyTags).and_then(|all| {
            let all = all.iter().map(|dependency| &**dependency);
            std::mem::take(&mut tagged).made_of(all, &made_of.tags)
        });
        match added {
            Ok(added) => tagged = added,
            Err(reason) => return Judged::Refuse(reason),
        }
    }
    if settings.key_holds_cookies(pending.personal) && plan.vary.names().contains(&COOKIE) {
        // What the other cookies are does not reach the handler; and of the cookies of somebody else
        // the key holds nothing: such an entry is not for them.
        plan.vary = plan.vary.without(&COOKIE);
        plan.shareable = false;
        plan.shareable_with_authorization = false;
    }
    let values = plan.vary.values(request);
    if values.len() > MAX_KEY {
        return Judged::Refuse(Reason::KeyTooLong);
    }
    // It was heard. What is refused goes on as it came, so that a cache further out hears it, too.
    let said = head.extensions.remove::<CachePolicy>();
    let read_at = said.as_ref().and_then(CachePolicy::read_at_value);
    let lowest = made_of.and_then(|made_of| made_of.lowest);
    let read_at = [read_at, lowest]
        .into_iter()
        .flatten()
        .reduce(Sequence::min);
    let shared = Shared {
        values,
        rule: std::mem::take(&mut plan.vary),
        place: pending.searched_key_of(&head.headers),
        length,
        unfit: plan.unfit,
        read_at,
        head: Arc::new(to_store(
            settings,
            pending,
            head,
            plan,
            tagged,
            (now, response_time),
        )),
    };
    Judged::Share(Arc::new(shared), is_stored)
}

/// The head as it is stored.
fn to_store(
    settings: &Settings,
    pending: &Pending,
    head: &response::Parts,
    plan: Plan,
    tagged: Tagged,
    (now, response_time): (Millis, SystemTime),
) -> StoredHead {
    let is_careful = settings.storing.is_careful();
    let strip = Strip {
        fields: &settings.strip_fields,
        of_one_exchange: is_careful,
        set_cookie: is_careful || settings.storing.store_set_cookie,
    };
    let mut freshness = millis(plan.freshness.lifetime);
    if !plan.freshness.explicit {
        freshness -= jitter(freshness, settings.storing.jitter);
    }
    StoredHead {
        status: head.status,
        version: head.version,
        headers: stored_head(&head.headers, strip, response_time),
        status_slot: has_status_slot(&head.headers),
        own_tag: false,
        validator: pending.validator.clone(),
        lifetime: Lifetime {
            response_time: now,
            initial_age: millis(plan.initial_age),
            freshness: match plan.unfit {
                // §5.2.2.4: not without validation, whatever else it says.
                Some(Reason::NoCache) => 0,
                _ => freshness,
            },
            kept: millis(plan.kept),
        },
        staleness: plan.staleness,
        groups: tagged.groups,
        tags: tagged.tags,
        said: plan.said,
        shareable: plan.shareable,
        shareable_with_authorization: plan.shareable_with_authorization,
    }
}

/// By how much a lifetime is shortened, so that what was stored together does not end together.
fn jitter(freshness: Millis, part: f64) -> Millis {
    if part <= 0.0 {
        return 0;
    }
    (freshness as f64 * part * random::fraction()) as Millis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_shortens_by_a_part_at_the_most() {
        assert_eq!(jitter(60_000, 0.0), 0);
        let drawn: Vec<Millis> = (0..1000).map(|_| jitter(60_000, 0.1)).collect();
        assert!(drawn.iter().all(|less| *less <= 6_000));
        let spread = |low, high| drawn.iter().any(|less| (low..high).contains(less));
        assert!(spread(0, 2_000) && spread(2_000, 4_000) && spread(4_000, 6_001));
        assert!(jitter(Millis::MAX / 4000, 1.0) <= Millis::MAX / 4000 + 1);
    }
}
