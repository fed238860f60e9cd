//! Who may have what: read from `rules.md` and from RFC 9111 (3, 3.5, 4.1, 5.2.2), and not from the
//! code.

use super::{
    facts::Facts,
    layers::{Sharing, Spec},
    origin::{Made, World},
    people::{Asked, Personal, UNSEEN, is_identity},
};

pub type Verdict = Result<(), &'static str>;

/// Whether the body of a response may reach a request, here behind layers, the outermost first, that
/// are `apps[request.app]`.
pub fn may_have_body(world: &World, apps: &[Vec<Spec>], serial: usize, to: &Asked) -> Verdict {
    let made = &world.made[serial];
    if made.asked == to.number {
        return Ok(());
    }
    let mut verdict = may_have(world, apps, made, made.status, to);
    never(made, &apps[to.app])?;
    // What was validated since is as the answer to that says (4.3.4).
    for updated in &world.made {
        if verdict.is_err() && updated.base == Some(serial) && updated.asked != to.number {
            verdict = may_have(world, apps, updated, made.status, to).or(verdict);
        }
    }
    verdict
}

/// Whether the head of a response may.
pub fn may_have_head(world: &World, apps: &[Vec<Spec>], serial: usize, to: &Asked) -> Verdict {
    let made = &world.made[serial];
    let status = made
        .base
        .map_or(made.status, |base| world.made[base].status);
    match made.asked == to.number {
        true => Ok(()),
        false => may_have(world, apps, made, status, to),
    }
}

/// What no update and no other request makes good.
fn never(made: &Made, layers: &[Spec]) -> Verdict {
    let facts = &made.facts;
    let any = |holds: fn(&Sharing) -> bool| layers.iter().any(|layer| holds(&layer.sharing));
    let is_understood = facts.must_understand && any(|sharing| sharing.is_rfc9111);
    if facts.private {
        return Err("private (5.2.2.7)");
    }
    if facts.no_store && !is_understood {
        return Err("no-store (5.2.2.5)");
    }
    if facts.sets_cookie && !any(|sharing| sharing.is_rfc9111 || sharing.strips_cookies) {
        return Err("Set-Cookie");
    }
    Ok(())
}

fn may_have(world: &World, apps: &[Vec<Spec>], made: &Made, status: u16, to: &Asked) -> Verdict {
    let from = &world.asked[made.asked];
    let (ours, theirs) = (&apps[to.app], &apps[from.app]);
    let is_shared =
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.sharing == b.sharing);
    if !is_shared {
        return Err("made behind a layer with other rules");
    }
    let response = Response {
        facts: &made.facts,
        status,
        sets_cookie: made.facts.sets_cookie,
    };
    match &ours[..] {
        [only] => {
            was_reduced(&only.sharing, made, from)?;
            response.may_pass(&only.sharing, from, to)
        }
        [outer, inner] => nested(world, &outer.sharing, &inner.sharing, &response, from, to),
        _ => unreachable!("no more than two layers"),
    }
}

/// One of two layers may have handed it on, or both, one after the other.
fn nested(
    world: &World,
    outer: &Sharing,
    inner: &Sharing,
    response: &Response<'_>,
    from: &Asked,
    to: &Asked,
) -> Verdict {
    let (seen_from, seen_to) = (from.reduced(outer), to.reduced(outer));
    let verdict = response
        .may_pass(outer, from, to)
        .or_else(|_| response.may_pass(inner, &seen_from, &seen_to));
    if verdict.is_ok() {
        return verdict;
    }
    let handed_on = Response {
        sets_cookie: response.sets_cookie && !inner.strips_cookies,
        ..*response
    };
    let is_between = |between: &Asked| {
        between.app == to.app
            && response
                .may_pass(inner, &seen_from, &between.reduced(outer))
                .is_ok()
            && handed_on.may_pass(outer, between, to).is_ok()
    };
    match world.asked.iter().any(is_between) {
        true => Ok(()),
        false => verdict,
    }
}

/// What does not count was not shown to the handler.
fn was_reduced(sharing: &Sharing, made: &Made, from: &Asked) -> Verdict {
    if sharing.ignores_cookies && made.seen_cookies.contains("_ga") {
        return Err("the handler saw a cookie that is ignored");
    }
    if sharing.query(from).join("&") != made.seen_query {
        return Err("the handler saw another query than the key has");
    }
    Ok(())
}

struct Response<'a> {
    facts: &'a Facts,
    status: u16,
    sets_cookie: bool,
}

impl Response<'_> {
    /// Whether a layer may answer a request with what was made for another one.
    fn may_pass(&self, sharing: &Sharing, from: &Asked, to: &Asked) -> Verdict {
        self.is_ever_shared(sharing)?;
        has_same_key(sharing, from, to)?;
        self.has_same_variant(sharing, from, to)?;
        if sharing.is_partitioned {
            return match from.tenant.is_some() && from.tenant == to.tenant {
                true => Ok(()),
                false => Err("of another partition, or of none"),
            };
        }
        self.is_shareable_with(from.personal(sharing))
            .map_err(|()| "made for a personal request, and not shareable (3.5)")?;
        self.is_shareable_with(to.personal(sharing))
            .map_err(|()| "not shareable, and for a personal request (3.5)")
    }

    fn is_ever_shared(&self, sharing: &Sharing) -> Verdict {
        let (facts, is_careful) = (self.facts, !sharing.is_rfc9111);
        if facts.private {
            return Err("private (5.2.2.7)");
        }
        if facts.no_store && (is_careful || !facts.must_understand) {
            return Err("no-store (5.2.2.5)");
        }
        if facts.is_refused_by_handler {
            return Err("refused by the handler");
        }
        let is_stripped = sharing.strips_cookies && self.status < 500;
        if self.sets_cookie && is_careful && !is_stripped {
            return Err("Set-Cookie");
        }
        if [206, 304].contains(&self.status) {
            return Err("no complete response (3.3)");
        }
        if is_careful && [401, 403].contains(&self.status) {
            return Err("a status that is for one client");
        }
        Ok(())
    }

    fn has_same_variant(&self, sharing: &Sharing, from: &Asked, to: &Asked) -> Verdict {
        let (facts, is_careful) = (self.facts, !sharing.is_rfc9111);
        let names = &facts.varies_on;
        for name in names {
            let is_theirs = match *name {
                "*" => return Err("Vary: *"),
                "cookie" => !sharing.declares_cookies(),
                "authorization" => true,
                "x-api-key" => is_identity(name) && !sharing.allows_keys,
                _ => false,
            };
            if is_careful && is_theirs && !sharing.is_partitioned {
                return Err("Vary names what is personal");
            }
            let is_same = match *name {
                "cookie" => from.reduced(sharing).cookies() == to.reduced(sharing).cookies(),
                name => from.lines(name) == to.lines(name),
            };
            if !is_same {
                return Err("another variant (4.1)");
            }
        }
        if !is_careful {
            return Ok(());
        }
        let same = |name| match from.lines(name) == to.lines(name) {
            true => Ok(()),
            false => Err("another variant, that goes without saying"),
        };
        if facts.allows_one_origin && !names.contains(&"origin") {
            if facts.allows_credentials {
                return Err("for the credentials of one site");
            }
            same("origin")?;
        }
        if facts.is_encoded {
            same("accept-encoding")?;
        }
        if facts.is_silent() {
            if facts.has_nonce {
                return Err("a nonce is for one response");
            }
            if facts.has_language {
                same("accept-language")?;
            }
        }
        Ok(())
    }

    fn is_shareable_with(&self, personal: Personal) -> Result<(), ()> {
        let facts = self.facts;
        let is_for_all = facts.public
            || facts.s_maxage.is_some_and(|seconds| seconds > 0)
            || facts.is_public_by_handler;
        let may = match personal {
            Personal::No => true,
            Personal::Authorization => is_for_all || facts.must_revalidate,
            Personal::Yes => is_for_all,
        };
        may.then_some(()).ok_or(())
    }
}

fn has_same_key(sharing: &Sharing, from: &Asked, to: &Asked) -> Verdict {
    if !["GET", "HEAD"].contains(&from.method) || !["GET", "HEAD"].contains(&to.method) {
        return Err("of a method that is never shared");
    }
    if from.path != to.path {
        return Err("another path");
    }
    if !sharing.ignores_host && from.host != to.host {
        return Err("another host");
    }
    if sharing.query(from) != sharing.query(to) {
        return Err("another query");
    }
    let varied = |asked: &Asked| -> Vec<_> {
        let cookies = asked.cookies().into_iter();
        cookies
            .filter(|(name, _)| sharing.varies_on(name))
            .collect()
    };
    if varied(from) != varied(to) {
        return Err("another value of a cookie that is varied on");
    }
    if sharing.is_rfc9111 {
        return Ok(());
    }
    if UNSEEN.iter().any(|name| from.lines(name) != to.lines(name)) {
        return Err("another value of a field that handlers read");
    }
    match from.has("origin") == to.has("origin") {
        true => Ok(()),
        false => Err("one with Origin, one without"),
    }
}
