//! What the stored heads of many responses have in common, made once.
//!
//! Handlers answer with the same fields in the same order again and again, and most of the values are
//! the same as well. To clone a map that has the fields already and to put the other values into their
//! places costs a fifth of what it costs to make it. Each thread remembers the latest kinds of heads;
//! what is remembered of a value is the same for ever (`values.rs`) or nothing.

use std::{cell::RefCell, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header::CONNECTION};

use crate::{
    headers::{
        Strip, Values, has_status_slot, is_left_out, is_slot, listed_by_connection, own_name,
    },
    values::interned,
};

/// So many kinds of heads are remembered, those that were seen more often in front.
const MAX_OUTLINES: usize = 8;
/// Nothing is remembered of a head with more fields.
const MAX_FIELDS: usize = 32;

thread_local! {
    static KNOWN: RefCell<Vec<Outline>> = const { RefCell::new(Vec::new()) };
}

/// What is the same in all heads of one kind.
struct Outline {
    strip: OwnStrip,
    /// The fields of the response, in their order.
    fields: Vec<Field>,
    /// As it is stored: with the slots in front, and `Date` behind where the response has none.
    head: HeaderMap,
    slots: usize,
}

/// A [`Strip`] with fields of its own.
struct OwnStrip {
    fields: Box<[HeaderName]>,
    of_one_exchange: bool,
    set_cookie: bool,
}

struct Field {
    name: HeaderName,
    fate: Fate,
}

enum Fate {
    LeftOut,
    /// `Connection` is left out, and what it lists as well: it has to say the same.
    Lists(HeaderValue),
    /// Stored, with this value or one of its own.
    Kept(HeaderValue),
}

/// The fields to store of a response, where one of its kind is known.
pub(crate) fn outlined(
    response: &HeaderMap,
    strip: Strip<'_>,
    now: SystemTime,
) -> Option<HeaderMap> {
    KNOWN.with_borrow_mut(|known| {
        for at in 0..known.len() {
            if let Some(head) = known[at].filled(response, strip, now) {
                known.swap(at, at.saturating_sub(1));
                return Some(head);
            }
        }
        None
    })
}

/// Remembers what kind of head that is: the fields of a response, and how they were stored.
pub(crate) fn learn(response: &HeaderMap, strip: Strip<'_>, stored: &HeaderMap) {
    // Lines of one name have no places of their own.
    if response.len() > MAX_FIELDS || response.len() != response.keys_len() {
        return;
    }
    let outline = Outline::new(response, strip, stored);
    KNOWN.with_borrow_mut(|known| {
        known.truncate(MAX_OUTLINES - 1);
        known.push(outline);
    });
}

/// Whether a value is the one that is known, for ever and to everybody.
fn is_known(known: &HeaderValue, value: &HeaderValue) -> bool {
    known == value && !value.is_sensitive()
}

impl Outline {
    fn new(response: &HeaderMap, strip: Strip<'_>, stored: &HeaderMap) -> Self {
        let mut head = stored.clone();
        let status_slot = has_status_slot(response);
        let is_of_ours = |name: &&HeaderName| is_slot(name, status_slot);
        let slots = head.keys().take_while(is_of_ours).count();
        for (name, value) in head.iter_mut().skip(slots) {
            let known = interned(name, value.as_bytes()).filter(|_| !value.is_sensitive());
            *value = known.unwrap_or_else(|| HeaderValue::from_static(""));
        }
        let listed = listed_by_connection(response);
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            let known = head
                .get(name)
                .filter(|_| !is_left_out(name, strip, &listed));
            let fate = match known {
                Some(known) => Fate::Kept(known.clone()),
                None if name == CONNECTION => {
                    // Bytes of its own: it must not keep the buffer of a connection.
                    let own = HeaderValue::from_bytes(value.as_bytes());
                    Fate::Lists(own.unwrap_or_else(|_| value.clone()))
                }
                None => Fate::LeftOut,
            };
            Field {
                name: own_name(name),
                fate,
            }
        };
        let fields = response.iter().map(field).collect();
        Self {
            strip: OwnStrip {
                fields: strip.fields.into(),
                of_one_exchange: strip.of_one_exchange,
                set_cookie: strip.set_cookie,
            },
            fields,
            head,
            slots,
        }
    }

    /// The head to store of a response, if it is one of this kind.
    fn filled(&self, response: &HeaderMap, strip: Strip<'_>, now: SystemTime) -> Option<HeaderMap> {
        let is_alike = response.len() == self.fields.len()
            && response.keys_len() == self.fields.len()
            && strip.of_one_exchange == self.strip.of_one_exchange
            && strip.set_cookie == self.strip.set_cookie
            && *strip.fields == *self.strip.fields;
        if !is_alike {
            return None;
        }
        let mut size = 0;
        for ((name, value), field) in response.iter().zip(&self.fields) {
            match &field.fate {
                _ if *name != field.name => return None,
                Fate::Lists(said) if said != value => return None,
                Fate::Kept(known) if !is_known(known, value) => size += value.len(),
                Fate::LeftOut | Fate::Lists(_) | Fate::Kept(_) => {}
            }
        }
        let mut head = self.head.clone();
        let mut values = Values::with_capacity(size);
        let mut places = head.values_mut().skip(self.slots);
        for (value, field) in response.values().zip(&self.fields) {
            if let Fate::Kept(known) = &field.fate {
                let place = places.next()?;
                if !is_known(known, value) {
                    *place = values.own(&field.name, value);
                }
            }
        }
        if let Some(place) = places.next() {
            // §6.6.1 of RFC 9110: a response without a date is as old as its arrival here.
            *place = values.date(now);
        }
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use http::header::DATE;

    use super::*;
    use crate::{
        headers::{new_stored_head, stored_head},
        policy::testing::Random,
    };

    const NAMES: [&str; 12] = [
        "content-type",
        "date",
        "connection",
        "etag",
        "x-hop",
        "set-cookie",
        "cache-status",
        "age",
        "x-cache",
        "vary",
        "x-request-id",
        "x-custom",
    ];
    const VALUES: [&str; 5] = ["", "X-Hop", "text/plain", "date", "something of its own"];

    /// Some fields, often the same in the same order.
    fn response(random: &mut Random) -> HeaderMap {
        let mut response = HeaderMap::new();
        let from = random.below(3);
        for name in &NAMES[from..from + 6] {
            let mut value = HeaderValue::from_static(random.pick(&VALUES));
            value.set_sensitive(random.below(5) == 0);
            response.append(HeaderName::from_static(name), value);
        }
        if random.below(5) == 0 {
            let name = HeaderName::from_static(random.pick(&NAMES));
            response.append(name, HeaderValue::from_static("more"));
        }
        response
    }

    fn written(head: &HeaderMap) -> Vec<(&str, &HeaderValue, bool)> {
        head.iter()
            .map(|(name, value)| (name.as_str(), value, value.is_sensitive()))
            .collect()
    }

    #[test]
    fn a_head_of_a_known_kind_is_that_which_is_made_anew() {
        let mut random = Random::new(11);
        let stripped = [DATE, HeaderName::from_static("x-custom")];
        let mut known = 0;
        for round in 0..20_000 {
            let response = response(&mut random);
            let strip = Strip {
                fields: &stripped[random.below(3)..],
                of_one_exchange: random.below(2) == 0,
                set_cookie: random.below(2) == 0,
            };
            let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(round);
            known += usize::from(outlined(&response, strip, now).is_some());
            let stored = stored_head(&response, strip, now);
            let anew = new_stored_head(&response, strip, now);
            assert_eq!(written(&stored), written(&anew), "{response:?}");
        }
        assert!(known > 500, "{known} of a known kind");
        let remembered = KNOWN.with_borrow(Vec::len);
        assert_eq!(remembered, MAX_OUTLINES, "and no more of them");
    }

    #[test]
    fn nothing_is_remembered_that_a_response_has_for_itself() {
        let mut secret = HeaderMap::new();
        secret.append("etag", HeaderValue::from_static("\"mine\""));
        let mut word = HeaderValue::from_static("text/secret");
        word.set_sensitive(true);
        secret.append("content-type", word);
        stored_head(&secret, Strip::NOTHING, SystemTime::UNIX_EPOCH);
        KNOWN.with_borrow(|known| {
            let values: Vec<_> = known[0].head.values().map(HeaderValue::as_bytes).collect();
            let ours: [&[u8]; 6] = [b"0", b"tower-response-cache", b"HIT", b"", b"", b""];
            assert_eq!(values, ours);
        });
    }
}
