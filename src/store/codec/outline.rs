//! What decides whether a frame can be used, as far as invalidations are concerned: read from its start alone,
//! which may be cut anywhere.

use bytes::Bytes;

use super::{Input, RESPONSE, Read, VALUE, opening};
use crate::{
    invalidation::{Names, Sequence},
    status::FrameFault,
};

/// More than the longest start that an outline needs: with the longest key, as many groups and tags as there
/// may be, each as long as it may be.
pub(crate) const LONGEST_OUTLINE: usize = 56 << 10;

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outline {
    pub(crate) key: Bytes,
    pub(crate) writer: u64,
    pub(crate) sequence: Sequence,
    groups: Box<[Box<str>]>,
    tags: Box<[Box<str>]>,
    /// All of this was read from so many bytes.
    pub(crate) length: usize,
}

impl Outline {
    /// Of a response or a value. `start` need not be all of the frame; nobody looks whether it is damaged.
    ///
    /// # Errors
    ///
    /// Where it is no frame of this layout, has no outline as names of fields have none, or is too short.
    pub(crate) fn of(start: &Bytes) -> Read<Self> {
        let (_, kind, mut input) = opening(start)?;
        let length = input.array().map(u32::from_le_bytes)? as usize;
        // Of the body nothing is to be taken for names.
        let mut head = Input(&input.0[..length.min(input.0.len())]);
        let (before, after) = match kind {
            // Status, HTTP version, seven times; flags, length and checksum of the body.
            RESPONSE => (2 + 1 + 7 * 8, 1 + 2 * 8),
            // Its type, four times; length and checksum of the body.
            VALUE => (8 + 4 * 8, 2 * 8),
            _ => return Err(FrameFault::Malformed),
        };
        let key = start.slice_ref(head.long()?);
        head.take(before)?;
        let (writer, sequence) = (head.u64()?, head.sequence()?);
        head.take(after)?;
        let groups = match kind {
            RESPONSE => head.texts()?,
            _ => Box::default(),
        };
        let tags = head.texts()?;
        let rest = length.min(input.0.len()) - head.0.len();
        Ok(Self {
            key,
            writer,
            sequence,
            groups,
            tags,
            length: start.len() - input.0.len() + rest,
        })
    }

    pub(crate) fn names(&self) -> Names<'_> {
        Names {
            groups: &self.groups,
            tags: &self.tags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::codec::{
        encode_response, encode_rule, encode_value,
        tests::{fields, head_of, value_head},
    };

    const SEQUENCE: Sequence = Sequence {
        local: 4,
        shared: 5,
    };

    fn texts(texts: &[&str]) -> Box<[Box<str>]> {
        texts.iter().map(|text| (*text).into()).collect()
    }

    #[test]
    fn an_outline_is_read_from_the_start_of_a_frame_or_not_at_all() {
        let mut head = head_of(200, http::Version::HTTP_11, &fields(&[("etag", "\"a\"")]));
        (head.groups, head.tags) = (texts(&["g"]), texts(&["t", "\0user:42"]));
        let tags = texts(&["t"]);
        let response = encode_response(b"key", &head, 9, (7, SEQUENCE), b"a body");
        let value = encode_value(b"key", &value_head(&tags), 9, (7, SEQUENCE), b"a body");
        for (frame, groups, tags) in [
            (response, &head.groups, &head.tags),
            (value, &texts(&[]), &tags),
        ] {
            let whole = Outline::of(&frame).expect("a frame of ours");
            assert_eq!(
                (&whole.key[..], whole.writer, whole.sequence),
                (&b"key"[..], 7, SEQUENCE)
            );
            assert_eq!((&whole.groups, &whole.tags), (groups, tags));
            for end in 0..frame.len() {
                let start = Outline::of(&frame.slice(..end)).ok();
                let expected = (end >= whole.length).then_some(&whole);
                assert_eq!(start.as_ref(), expected, "{end}");
            }
        }
    }

    #[test]
    fn what_has_no_number_has_no_outline() {
        let rule = encode_rule(b"key", &[http::header::ACCEPT]);
        let mut later = encode_value(b"key", &value_head(&[]), 9, (7, SEQUENCE), b"").to_vec();
        later[3] += 1;
        let foreign = vec![b'x'; 2_000];
        for other in [rule, later.into(), foreign.into(), Bytes::new()] {
            assert!(Outline::of(&other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn the_longest_outline_is_read_in_one_piece() {
        let most = |long: &str| (0..super::super::MAX_TAGS).map(|_| long.into()).collect();
        let text = "t".repeat(super::super::MAX_TEXT);
        let mut head = head_of(200, http::Version::HTTP_11, &fields(&[]));
        (head.groups, head.tags) = (most(&text), most(&text));
        let key = vec![b'k'; 2 * crate::key::MAX_KEY];
        let frame = encode_response(&key, &head, 9, (7, SEQUENCE), b"");
        assert!(Outline::of(&frame).unwrap().length <= LONGEST_OUTLINE);
    }
}
