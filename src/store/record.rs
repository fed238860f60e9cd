//! How a record of the invalidation log is written for the other nodes.
//!
//! One byte for the layout, one for the kind with a bit for *soft*, then texts with their lengths in 4
//! bytes in front, little-endian; a text that is not there has the length 2^32 - 1. The same selector
//! is always the same bytes, so that a repeat replaces its record.

use crate::{
    pattern::Pattern,
    selector::{Kind, Selector, Tag},
    target::{Resource, Space},
};

const LAYOUT: u8 = 1;
const SOFT: u8 = 0x80;
const ABSENT: u32 = u32::MAX;

const ALL: u8 = 0;
const RESOURCE: u8 = 1;
const TAG: u8 = 2;
const GROUP: u8 = 3;
const PATHS: u8 = 4;
const PATH_PREFIX: u8 = 5;
const VALUES: u8 = 6;
const VALUE_PREFIX: u8 = 7;

/// The record that says that nothing older is to be used.
pub(crate) const EVERYTHING: [u8; 2] = [LAYOUT, ALL];

pub(crate) fn encode(selector: &Selector) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.push(LAYOUT);
    let mut kind = |kind: u8| out.push(if selector.is_soft { kind | SOFT } else { kind });
    match &selector.kind {
        Kind::All => kind(ALL),
        Kind::Resource(resource) => {
            kind(RESOURCE);
            put(&mut out, resource.authority());
            put(&mut out, Some(resource.path()));
            put(&mut out, resource.query());
        }
        Kind::Tag(tag) => {
            kind(TAG);
            put(&mut out, Some(tag.as_str()));
        }
        Kind::Group { authority, name } => {
            kind(GROUP);
            put(&mut out, authority.as_deref());
            put(&mut out, Some(name));
        }
        Kind::Pattern(space, pattern) => {
            let (whole, prefix) = match space {
                Space::Path => (PATHS, PATH_PREFIX),
                Space::Value => (VALUES, VALUE_PREFIX),
            };
            let (number, text) = match pattern {
                Pattern::Exact(text) | Pattern::Glob(text) => (whole, text),
                // Apart, because a `*` in it stands for itself.
                Pattern::Prefix(text) => (prefix, text),
            };
            kind(number);
            put(&mut out, Some(text));
        }
    }
    out
}

/// What a record selects. One that cannot be read selects everything: a later release may have meant
/// anything.
pub(crate) fn decode(record: &[u8]) -> Selector {
    read(record).unwrap_or_else(Selector::all)
}

fn read(record: &[u8]) -> Option<Selector> {
    let (&[layout, kind], mut rest) = record.split_first_chunk()?;
    if layout != LAYOUT {
        return None;
    }
    let mut text = || -> Option<Option<String>> {
        let (length, others) = rest.split_first_chunk()?;
        rest = others;
        let length = u32::from_le_bytes(*length);
        if length == ABSENT {
            return Some(None);
        }
        let (text, others) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = others;
        Some(Some(String::from_utf8(text.to_vec()).ok()?))
    };
    let selected = match kind & !SOFT {
        ALL => Kind::All,
        RESOURCE => {
            let (authority, path, query) = (text()?, text()??, text()?);
            Kind::Resource(Resource::new(authority.as_deref(), &path, query.as_deref()))
        }
        TAG => Kind::Tag(Tag::new(text()??)),
        GROUP => Kind::Group {
            authority: text()?,
            name: text()??,
        },
        PATHS => Kind::Pattern(Space::Path, Pattern::new(&text()??)),
        PATH_PREFIX => Kind::Pattern(Space::Path, Pattern::Prefix(text()??.into())),
        VALUES => Kind::Pattern(Space::Value, Pattern::new(&text()??)),
        VALUE_PREFIX => Kind::Pattern(Space::Value, Pattern::Prefix(text()??.into())),
        _ => return None,
    };
    rest.is_empty().then_some(Selector {
        kind: selected,
        is_soft: kind & SOFT != 0,
    })
}

fn put(out: &mut Vec<u8>, text: Option<&str>) {
    let length = text.map_or(ABSENT, |text| text.len() as u32);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.unwrap_or_default().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Selector> {
        let group = |authority: Option<&str>| {
            Selector::from(Kind::Group {
                authority: authority.map(str::to_owned),
                name: "g".into(),
            })
        };
        let hard = [
            Selector::all(),
            Selector::resource("h:81", "/a?q"),
            Selector::resource("h", "/a"),
            Selector::resource("h", "/a?"),
            Selector::tag("t"),
            Selector::tag("caf\u{e9}"),
            group(Some("h")),
            group(None),
            Selector::path("/a"),
            Selector::path("/a*b"),
            Selector::path("/a*"),
            Selector::path_prefix("/a*"),
            Selector::values("a:*"),
            Selector::values("*:a"),
            Selector::values("a"),
            Selector::value_prefix("a*"),
        ];
        let soft = hard.clone().map(Selector::soft);
        hard.into_iter().chain(soft).collect()
    }

    #[test]
    fn every_selector_is_read_as_it_was_written_and_no_two_are_the_same() {
        let records: Vec<_> = all().iter().map(encode).collect();
        for (selector, record) in all().into_iter().zip(&records) {
            assert_eq!(decode(record), selector);
        }
        for (at, record) in records.iter().enumerate() {
            assert!(!records[..at].contains(record), "row {at}");
        }
        assert_eq!(encode(&Selector::all()), EVERYTHING);
    }

    #[test]
    fn a_record_that_cannot_be_read_selects_everything() {
        for selector in all() {
            let record = encode(&selector);
            for end in 0..record.len() {
                // A cut record may be another whole one only where nothing was cut off.
                assert_eq!(
                    decode(&record[..end]),
                    Selector::all(),
                    "{selector:?} {end}"
                );
            }
            let mut longer = record.clone();
            longer.push(0);
            assert_eq!(decode(&longer), Selector::all());
            let mut other = record;
            other[0] = 2;
            assert_eq!(decode(&other), Selector::all());
        }
        assert_eq!(decode(&[LAYOUT, 99]), Selector::all());
        assert_eq!(decode(&[LAYOUT, TAG, 1, 0, 0, 0, 0xff]), Selector::all());
    }
}
