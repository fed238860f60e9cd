//! What the stored heads of many responses have in common, made once.
//!
//! Handlers answer with the same fields in the same order again and again, and most of the values are
//! the same as well. To clone a map that has the fields already and to put the other values into their
//! places costs a fifth of what it costs to make it. Each thread remembers the latest kinds of heads;
//! what is remembered of a value is the same for ever (`values.rs`) or nothing.

use std::{cell::RefCell, time::SystemTime};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, InvalidHeaderValue},
};

use crate::{
    field_values::interned,
    headers::CACHE_STATUS,
    strip::{Line, Strip, Values, is_left_out, is_slot, listed_by, own_name},
};

/// So many kinds of heads are remembered, those that were seen more often in front.
const MAX_OUTLINES: usize = 8;
/// Nothing is remembered of a head with more fields.
const MAX_FIELDS: usize = u32::BITS as usize;

thread_local! {
    static KNOWN: RefCell<Vec<Outline>> = const { RefCell::new(Vec::new()) };
}

/// What is the same in all heads of one kind.
struct Outline {
    strip: OwnStrip,
    /// The fields of the response, in their order.
    fields: Vec<Field>,
    /// It gets a date if it has none.
    is_dated: bool,
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
    Lists(Box<[u8]>),
    /// Stored, with this value or one of its own.
    Kept(HeaderValue),
}

/// The lines of a head that is to be stored, in their order.
pub(crate) trait Lines {
    fn count(&self) -> usize;
    fn lines(&self) -> impl Iterator<Item = Line<'_>>;
}

impl Lines for HeaderMap {
    fn count(&self) -> usize {
        self.len()
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.iter().map(|(name, value)| Line {
            name,
            value: value.as_bytes(),
            is_sensitive: value.is_sensitive(),
        })
    }
}

/// How the lines of a head become what is stored.
#[derive(Clone, Copy)]
pub(crate) struct Manner<'a> {
    pub(crate) strip: Strip<'a>,
    /// When it came, where it gets a date if it has none.
    pub(crate) now: Option<SystemTime>,
}

/// The head to store, where one of its kind is known.
pub(crate) fn outlined(
    lines: &(impl Lines + ?Sized),
    manner: Manner<'_>,
) -> Result<Option<HeaderMap>, InvalidHeaderValue> {
    KNOWN.with_borrow_mut(|known| {
        for at in 0..known.len() {
            if let Some(own) = known[at].own_values(lines, manner) {
                let filled = known[at].filled(lines, manner, own)?;
                known.swap(at, at.saturating_sub(1));
                return Ok(filled);
            }
        }
        Ok(None)
    })
}

/// Remembers what kind of head that is: its lines, and how they were stored.
pub(crate) fn learn(lines: &(impl Lines + ?Sized), manner: Manner<'_>, stored: &HeaderMap) {
    if lines.count() > MAX_FIELDS || stored.len() != stored.keys_len() {
        return;
    }
    let outline = Outline::new(lines, manner, stored);
    KNOWN.with_borrow_mut(|known| {
        known.truncate(MAX_OUTLINES - 1);
        known.push(outline);
    });
}

/// Whether a value is the one that is known, for ever and to everybody.
fn is_known(known: &HeaderValue, line: Line<'_>) -> bool {
    known.as_bytes() == line.value && !line.is_sensitive
}

impl Outline {
    fn new(lines: &(impl Lines + ?Sized), manner: Manner<'_>, stored: &HeaderMap) -> Self {
        let Manner { strip, now } = manner;
        let mut head = stored.clone();
        let status_slot = lines.lines().all(|line| *line.name != CACHE_STATUS);
        let is_of_ours = |name: &&HeaderName| is_slot(name, status_slot);
        let slots = head.keys().take_while(is_of_ours).count();
        for (name, value) in head.iter_mut().skip(slots) {
            let known = interned(name, value.as_bytes()).filter(|_| !value.is_sensitive());
            *value = known.unwrap_or_else(|| HeaderValue::from_static(""));
        }
        let of_connection = lines.lines().filter(|line| *line.name == CONNECTION);
        let listed = listed_by(of_connection.map(|line| line.value));
        let field = |line: Line<'_>| {
            let known = head.get(line.name);
            let fate = match known.filter(|_| !is_left_out(line.name, strip, &listed)) {
                Some(known) => Fate::Kept(known.clone()),
                None if line.name == CONNECTION => Fate::Lists(line.value.into()),
                None => Fate::LeftOut,
            };
            Field {
                name: own_name(line.name),
                fate,
            }
        };
        let fields = lines.lines().map(field).collect();
        Self {
            strip: OwnStrip {
                fields: strip.fields.into(),
                of_one_exchange: strip.of_one_exchange,
                set_cookie: strip.set_cookie,
            },
            is_dated: now.is_some(),
            fields,
            head,
            slots,
        }
    }

    /// Which values of a head are its own, where it is of this kind.
    fn own_values(
        &self,
        lines: &(impl Lines + ?Sized),
        Manner { strip, now }: Manner<'_>,
    ) -> Option<OwnValues> {
        let is_alike = lines.count() == self.fields.len()
            && now.is_some() == self.is_dated
            && strip.of_one_exchange == self.strip.of_one_exchange
            && strip.set_cookie == self.strip.set_cookie
            && *strip.fields == *self.strip.fields;
        if !is_alike {
            return None;
        }
        let mut own = OwnValues::default();
        for (at, (line, field)) in lines.lines().zip(&self.fields).enumerate() {
            match &field.fate {
                _ if *line.name != field.name => return None,
                Fate::Lists(said) if **said != *line.value => return None,
                Fate::Kept(known) if !is_known(known, line) => {
                    own.places |= 1 << at;
                    own.size += line.value.len();
                }
                Fate::LeftOut | Fate::Lists(_) | Fate::Kept(_) => {}
            }
        }
        Some(own)
    }

    /// The head to store of one of this kind.
    fn filled(
        &self,
        lines: &(impl Lines + ?Sized),
        manner: Manner<'_>,
        own: OwnValues,
    ) -> Result<Option<HeaderMap>, InvalidHeaderValue> {
        let mut head = self.head.clone();
        let mut values = Values::with_capacity(own.size);
        let mut places = head.values_mut().skip(self.slots);
        for (at, (line, field)) in lines.lines().zip(&self.fields).enumerate() {
            if let Fate::Kept(_) = &field.fate {
                let Some(place) = places.next() else {
                    return Ok(None);
                };
                if own.places & 1 << at != 0 {
                    *place = values.own(line)?;
                }
            }
        }
        if let (Some(place), Some(now)) = (places.next(), manner.now) {
            *place = values.date(now);
        }
        Ok(Some(head))
    }
}

/// Values that are not those of all heads of their kind.
#[derive(Debug, Clone, Copy, Default)]
struct OwnValues {
    /// A bit for each of the fields.
    places: u32,
    /// How many bytes they have.
    size: usize,
}

#[cfg(test)]
mod tests {
    use http::header::DATE;

    use super::*;
    use crate::{
        policy::testing::Random,
        stored_head::{Field as FrameField, Fields, new_stored_head, stored_fields, stored_head},
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
            let manner = Manner {
                strip,
                now: Some(now),
            };
            let outlined = outlined(&response, manner).expect("good values");
            known += usize::from(outlined.is_some());
            let stored = stored_head(&response, strip, now);
            let anew = new_stored_head(&response, strip, now);
            assert_eq!(written(&stored), written(&anew), "{response:?}");
        }
        assert!(known > 500, "{known} of a known kind");
        let remembered = KNOWN.with_borrow(Vec::len);
        assert_eq!(remembered, MAX_OUTLINES, "and no more of them");
    }

    #[test]
    fn the_fields_of_a_frame_of_a_known_kind_are_those_of_the_frame() {
        let mut random = Random::new(12);
        for _ in 0..300 {
            let response = response(&mut random);
            // As another thread of the process stores it, where no kind is known.
            let anew = std::thread::scope(|scope| {
                let stored = scope.spawn(|| stored_fields(fields(&response)));
                stored.join().expect("it panics nowhere")
            });
            // Heads are known by the same names; those get a date.
            stored_head(&response, Strip::NOTHING, SystemTime::UNIX_EPOCH);
            let known = stored_fields(fields(&response));
            let (anew, known) = (anew.expect("good values"), known.expect("good values"));
            assert_eq!(written(&known.0), written(&anew.0), "{response:?}");
            assert_eq!(known.1, anew.1);
        }
    }

    fn fields(response: &HeaderMap) -> Fields<'_> {
        let lines = response.iter();
        lines
            .map(|(name, value)| FrameField {
                name: name.clone(),
                value: value.as_bytes(),
            })
            .collect()
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
