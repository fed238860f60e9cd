//! The disagreements: what kind each of them is, who is right, and by which sentence.

use crate::{
    compared::Verdict,
    heads::Exchange,
    reading::{
        arguments, has, has_capitals, has_comma_in_quotes, has_date, has_freshness, is_no_number,
        lines, members, says,
    },
};

/// By whom the RFC is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// By us, and not by them.
    Ours,
    /// By both: it leaves that open.
    Both,
    /// By them, and not by us.
    Theirs,
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Both => "both",
            Self::Theirs => "theirs",
        }
    }
}

/// A kind of disagreement.
pub struct Row {
    pub kind: &'static str,
    pub who: Who,
    /// The section, and what it says in other words.
    pub rule: &'static str,
    pub explains: fn(&Exchange, Verdict, Verdict) -> bool,
}

/// We make more of what is stored.
fn more(ours: Verdict, theirs: Verdict) -> bool {
    ours.rank() > theirs.rank()
}

/// They do.
fn less(ours: Verdict, theirs: Verdict) -> bool {
    more(theirs, ours)
}

/// With us it is older, or too old.
fn older(ours: Verdict, theirs: Verdict) -> bool {
    match (ours, theirs) {
        (Verdict::Reused(ours), Verdict::Reused(theirs)) => ours > theirs,
        (_, Verdict::Reused(_)) => true,
        _ => false,
    }
}

/// The statuses that they understand.
const UNDERSTOOD: [u16; 14] = [
    200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501,
];

pub const ROWS: &[Row] = &[
    // What a response says.
    Row {
        kind: "a directive of the response has capitals",
        who: Who::Ours,
        rule: "RFC 9111, 5.2: directives are identified by a token that is compared without case",
        explains: |exchange, _, _| has_capitals(&exchange.response),
    },
    Row {
        kind: "a quoted string in the response has a comma in it",
        who: Who::Ours,
        rule: "RFC 9111, 5.2: an argument may be a quoted-string; RFC 9110, 5.6.4: what is in quotes is one value",
        explains: |exchange, _, _| has_comma_in_quotes(&exchange.response),
    },
    Row {
        kind: "max-age of the response without an argument",
        who: Who::Ours,
        rule: "RFC 9111, 4.2.1: caches are encouraged to take invalid freshness information for stale, not to look for other",
        explains: |exchange, ours, theirs| {
            arguments(&exchange.response, "max-age").contains(&None) && less(ours, theirs)
        },
    },
    Row {
        kind: "max-age of the response is larger than any number",
        who: Who::Ours,
        rule: "RFC 9111, 1.2.2: what is larger than the cache can count is taken for 2^31, or for the largest that it can",
        explains: |exchange, ours, theirs| {
            let ages = arguments(&exchange.response, "max-age");
            ages.iter().flatten().any(|age| age.len() > 19) && more(ours, theirs)
        },
    },
    Row {
        kind: "a directive stands there twice, with two arguments or a quoted one",
        who: Who::Both,
        rule: "RFC 9111, 4.2.1: the first occurrence counts, or the response is stale; where directives conflict, the most restrictive one",
        explains: |exchange, _, _| {
            let members = members(&exchange.response);
            members.iter().enumerate().any(|(at, (name, argument))| {
                let is_quoted = argument.is_some_and(|text| text.starts_with('"'));
                members[..at].iter().any(|(known, other)| {
                    let is_same = known.trim().eq_ignore_ascii_case(name.trim());
                    // They compare it with its quotes to what they know without.
                    is_same && (other != argument || is_quoted)
                })
            })
        },
    },
    Row {
        kind: "proxy-revalidate of a fresh response",
        who: Who::Ours,
        rule: "RFC 9111, 5.2.2.8 and 5.2.2.2: once the response has become stale it must not be reused without validation",
        explains: |exchange, ours, theirs| {
            says(&exchange.response, "proxy-revalidate") && more(ours, theirs)
        },
    },
    Row {
        kind: "Set-Cookie without public",
        who: Who::Both,
        rule: "RFC 9111, 7.3: Set-Cookie does not inhibit caching; servers that want that say so in Cache-Control",
        explains: |exchange, ours, theirs| {
            has(&exchange.response, "set-cookie") && more(ours, theirs)
        },
    },
    Row {
        kind: "a status that is final, and that they do not understand",
        who: Who::Ours,
        rule: "RFC 9111, 3: any final status; it has to be understood only for 206, 304 and must-understand",
        explains: |exchange, ours, theirs| {
            !UNDERSTOOD.contains(&exchange.status) && more(ours, theirs)
        },
    },
    Row {
        kind: "no-store with must-understand",
        who: Who::Ours,
        rule: "RFC 9111, 5.2.2.3: where must-understand is understood, and the status, no-store is to be ignored",
        explains: |exchange, ours, theirs| {
            let response = &exchange.response;
            says(response, "must-understand") && says(response, "no-store") && more(ours, theirs)
        },
    },
    Row {
        kind: "Pragma in a response",
        who: Who::Ours,
        rule: "RFC 9111, 5.4: Pragma is about requests; its meaning in responses was never specified",
        explains: |exchange, ours, theirs| has(&exchange.response, "pragma") && more(ours, theirs),
    },
    Row {
        kind: "stale-while-revalidate",
        who: Who::Ours,
        rule: "RFC 5861, 3: the response may be used within the window while it is revalidated",
        explains: |exchange, ours, theirs| {
            says(&exchange.response, "stale-while-revalidate") && more(ours, theirs)
        },
    },
    Row {
        kind: "semicolons and missing commas in Cache-Control",
        who: Who::Both,
        rule: "RFC 9111, 5.2: that is no directive; where it forbids we hear it all the same",
        explains: |exchange, ours, theirs| {
            says(&exchange.response, "private; x") && less(ours, theirs)
        },
    },
    Row {
        kind: "spaces around the equals sign",
        who: Who::Both,
        rule: "RFC 9111, 5.2: no whitespace around \"=\"; 4.2.1: invalid freshness information may be taken for stale",
        explains: |exchange, ours, theirs| {
            says(&exchange.response, "max-age ") && less(ours, theirs)
        },
    },
    Row {
        kind: "a quoted string without an end",
        who: Who::Both,
        rule: "RFC 9110, 5.6.4: that is no quoted-string; whatever it may hide we take for no-store",
        explains: |exchange, ours, theirs| {
            let mut lines = lines(&exchange.response, "cache-control");
            lines.any(|line| line.contains("\"open")) && less(ours, theirs)
        },
    },
    // Times.
    Row {
        kind: "a date in one of its older forms",
        who: Who::Ours,
        rule: "RFC 9110, 5.6.7: a recipient must accept all three forms",
        explains: |exchange, _, _| {
            has_date(&exchange.response, |date| {
                date.len() > 10 && !date.contains("+0000") && date.as_bytes()[3] != b','
            })
        },
    },
    Row {
        kind: "a date in a zone other than GMT",
        who: Who::Ours,
        rule: "RFC 9110, 5.6.7: a date ends in GMT; RFC 9111, 5.3: an invalid Expires is in the past",
        explains: |exchange, _, _| has_date(&exchange.response, |date| date.contains("+0000")),
    },
    Row {
        kind: "two lines of Expires that differ",
        who: Who::Both,
        rule: "RFC 9111, 4.2.1: the first occurrence counts, or the response is stale",
        explains: |exchange, ours, theirs| {
            lines(&exchange.response, "expires").count() > 1 && less(ours, theirs)
        },
    },
    Row {
        kind: "Date is in the past",
        who: Who::Ours,
        rule: "RFC 9111, 4.2.3: the age is at least the apparent age, response_time - date_value",
        explains: |exchange, ours, theirs| {
            let mut dates = lines(&exchange.response, "date");
            dates.any(|date| date.contains("11:5")) && older(ours, theirs)
        },
    },
    Row {
        kind: "Age is a list, or has two lines",
        who: Who::Ours,
        rule: "RFC 9111, 5.1: of a list the first member counts, the others are discarded (we take the largest, which is no less)",
        explains: |exchange, ours, theirs| {
            let ages: Vec<_> = lines(&exchange.response, "age").collect();
            (ages.len() > 1 || ages.iter().any(|age| age.contains(','))) && older(ours, theirs)
        },
    },
    Row {
        kind: "Age is larger than 2^31",
        who: Who::Both,
        rule: "RFC 9111, 1.2.2: what is larger than the cache can count is taken for 2^31, or for the largest that it can",
        explains: |exchange, ours, theirs| {
            let mut ages = lines(&exchange.response, "age");
            ages.any(|age| age.len() > 10)
                && matches!((ours, theirs), (Verdict::Reused(ours), Verdict::Reused(theirs)) if ours < theirs)
        },
    },
    Row {
        kind: "a heuristic lifetime of more than a day",
        who: Who::Both,
        rule: "RFC 9111, 4.2.2: a heuristic is the cache's own; 10 % is typical, and we end it after a day",
        explains: |exchange, ours, theirs| {
            exchange.later > 86_400
                && has(&exchange.response, "last-modified")
                && !has_freshness(&exchange.response)
                && theirs.rank() == 2
                && less(ours, theirs)
        },
    },
    // Validators.
    Row {
        kind: "an entity tag without quotes",
        who: Who::Ours,
        rule: "RFC 9110, 8.8.3: an opaque tag is quoted; 13.1.2: so are those in If-None-Match",
        explains: |exchange, ours, theirs| {
            lines(&exchange.response, "etag").any(|tag| tag == "a") && less(ours, theirs)
        },
    },
    Row {
        kind: "Last-Modified is no date",
        who: Who::Ours,
        rule: "RFC 9110, 13.1.3: If-Modified-Since is a date; RFC 9111, 4.3.1: a validator is sent if it is available",
        explains: |exchange, ours, theirs| {
            lines(&exchange.response, "last-modified").any(|date| date.len() < 10)
                && less(ours, theirs)
        },
    },
    // Requests.
    Row {
        kind: "a directive of a request has capitals",
        who: Who::Ours,
        rule: "RFC 9111, 5.2: directives are identified by a token that is compared without case",
        explains: |exchange, _, _| has_capitals(&exchange.first) || has_capitals(&exchange.second),
    },
    Row {
        kind: "a quoted string in a request has a comma in it",
        who: Who::Ours,
        rule: "RFC 9111, 5.2: an argument may be a quoted-string; RFC 9110, 5.6.4: what is in quotes is one value",
        explains: |exchange, ours, theirs| {
            has_comma_in_quotes(&exchange.second) && more(ours, theirs)
        },
    },
    Row {
        kind: "a time in a request is no number",
        who: Who::Both,
        rule: "RFC 9111, 1.2.2: delta-seconds is a number; what else is meant nobody knows, and we validate",
        explains: |exchange, ours, theirs| {
            let names = ["max-age", "min-fresh", "max-stale"];
            let is_bad = |name: &&str| {
                let mut arguments = arguments(&exchange.second, name).into_iter();
                arguments.any(|argument| argument.is_some() && is_no_number(&argument))
            };
            names.iter().any(is_bad) && less(ours, theirs)
        },
    },
    Row {
        kind: "a directive of a request stands there twice, with two arguments",
        who: Who::Both,
        rule: "RFC 9111, 4.2.1, by analogy: the first occurrence counts, or the most restrictive one",
        explains: |exchange, ours, theirs| {
            ["max-age", "max-stale", "min-fresh"].iter().any(|name| {
                let mut arguments = arguments(&exchange.second, name);
                arguments.dedup();
                arguments.len() > 1
            }) && less(ours, theirs)
        },
    },
    Row {
        kind: "max-stale, and exactly so stale",
        who: Who::Ours,
        rule: "RFC 9111, 5.2.1.2: exceeded its lifetime by no more than so many seconds",
        explains: |exchange, ours, theirs| {
            let limits = arguments(&exchange.second, "max-stale");
            let limits = limits
                .iter()
                .flatten()
                .filter_map(|limit| limit.parse::<u64>().ok());
            let Verdict::Reused(age) = ours else {
                return false;
            };
            let mut beyond = limits.filter_map(|limit| age.checked_sub(limit));
            beyond.any(|lifetime| lifetime % 10 == 0) && more(ours, theirs)
        },
    },
    Row {
        kind: "max-stale of a response that says no-cache",
        who: Who::Ours,
        rule: "RFC 9111, 5.2.2.4: no-cache must not be used without successful validation",
        explains: |exchange, ours, theirs| {
            says(&exchange.second, "max-stale")
                && says(&exchange.response, "no-cache")
                && less(ours, theirs)
        },
    },
    Row {
        kind: "max-stale of a response that says s-maxage",
        who: Who::Ours,
        rule: "RFC 9111, 5.2.2.10: s-maxage has the meaning of proxy-revalidate",
        explains: |exchange, ours, theirs| {
            says(&exchange.second, "max-stale")
                && says(&exchange.response, "s-maxage")
                && less(ours, theirs)
        },
    },
    Row {
        kind: "max-stale of a response that says proxy-revalidate",
        who: Who::Ours,
        rule: "RFC 9111, 5.2.2.8 and 4.2.4: a directive that prohibits stale responses wins",
        explains: |exchange, ours, theirs| {
            says(&exchange.second, "max-stale")
                && says(&exchange.response, "proxy-revalidate")
                && less(ours, theirs)
        },
    },
    Row {
        kind: "a response that says nothing about its freshness",
        who: Who::Both,
        rule: "RFC 9111, 3: what must not be stored; nothing says that all else has to be",
        explains: |exchange, ours, theirs| {
            let response = &exchange.response;
            let is_silent = !has_freshness(response) && !says(response, "no-cache");
            let is_stale = theirs == Verdict::Validated || says(&exchange.second, "max-stale");
            is_silent && is_stale && less(ours, theirs)
        },
    },
    Row {
        kind: "Pragma next to Cache-Control",
        who: Who::Ours,
        rule: "RFC 7234, 5.4: Pragma counts when Cache-Control is not present (RFC 9111, 5.4: it is deprecated for Cache-Control)",
        explains: |exchange, ours, theirs| {
            let second = &exchange.second;
            has(second, "pragma") && has(second, "cache-control") && more(ours, theirs)
        },
    },
    Row {
        kind: "Pragma with another directive that ends so",
        who: Who::Ours,
        rule: "RFC 7234, 5.4: the directive no-cache, not any that contains its name",
        explains: |exchange, ours, theirs| {
            lines(&exchange.second, "pragma").any(|line| line == "x-no-cache") && more(ours, theirs)
        },
    },
    Row {
        kind: "Pragma with capitals",
        who: Who::Ours,
        rule: "RFC 7234, 5.4: no-cache is a string of the grammar, and those have no case (RFC 5234, 2.3)",
        explains: |exchange, ours, theirs| {
            lines(&exchange.second, "pragma").any(|line| line == "No-Cache") && less(ours, theirs)
        },
    },
    Row {
        kind: "no-store in the second request",
        who: Who::Both,
        rule: "RFC 9111, 5.2.1.5: it does not apply to what is stored already; nor need that be used",
        explains: |exchange, ours, theirs| says(&exchange.second, "no-store") && less(ours, theirs),
    },
    Row {
        kind: "Authorization in the second request only",
        who: Who::Both,
        rule: "RFC 9111, 3.5: about responses to requests with it; that those to others are for them too is allowed, not required",
        explains: |exchange, ours, theirs| {
            has(&exchange.second, "authorization")
                && !has(&exchange.first, "authorization")
                && less(ours, theirs)
        },
    },
    Row {
        kind: "Authorization in the first request, and an s-maxage of 0 or none that can be read",
        who: Who::Both,
        rule: "RFC 9111, 3.5: s-maxage allows storing; one that lets nothing be reused invites nobody, and we do not",
        explains: |exchange, ours, theirs| {
            let is_none = |seconds: &Option<&str>| is_no_number(seconds) || *seconds == Some("0");
            has(&exchange.first, "authorization")
                && arguments(&exchange.response, "s-maxage")
                    .iter()
                    .any(is_none)
                && less(ours, theirs)
        },
    },
    Row {
        kind: "only-if-cached, and nothing that may be used",
        who: Who::Ours,
        rule: "RFC 9111, 5.2.1.7: the client wants a stored response, or 504",
        explains: |exchange, ours, theirs| {
            says(&exchange.second, "only-if-cached") && less(ours, theirs)
        },
    },
    Row {
        kind: "values of a field in Vary differ by spaces",
        who: Who::Ours,
        rule: "RFC 9111, 4.1: fields match if one becomes the other by adding or removing whitespace where that is allowed",
        explains: |exchange, ours, theirs| {
            let languages = |fields| lines(fields, "accept-language").next().unwrap_or_default();
            let (first, second) = (languages(&exchange.first), languages(&exchange.second));
            first != second
                && first.replace(' ', "") == second.replace(' ', "")
                && more(ours, theirs)
        },
    },
    Row {
        kind: "Vary names what cannot be a field",
        who: Who::Both,
        rule: "RFC 9110, 12.5.5: a list of field names; what else it depends on nobody knows, as with *",
        explains: |exchange, ours, theirs| {
            lines(&exchange.response, "vary").any(|line| line == "a b") && less(ours, theirs)
        },
    },
];
