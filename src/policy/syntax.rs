//! The few pieces of field syntax that the rules share: lists, tokens and decimals, over bytes.
//!
//! What a member means is not decided here. Nothing here assumes UTF-8, and nothing panics.

/// The longest time that is told apart from "for ever", in seconds
/// ([RFC 9111, section 1.2.2](https://www.rfc-editor.org/rfc/rfc9111#section-1.2.2)).
pub(crate) const MAX_SECONDS: u64 = 1 << 31;

/// A quoted string was opened and not closed on its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unterminated;

/// The members of one field line, split at the commas outside of quoted strings.
///
/// Empty members are kept, since not every field is a list; optional whitespace around a member
/// is dropped. An unterminated quoted string is the last thing that is returned.
pub(crate) fn members(line: &[u8]) -> Members<'_> {
    Members { rest: Some(line) }
}

/// Iterator over the members of one field line, see [`members`].
#[derive(Debug, Clone)]
pub(crate) struct Members<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<&'a [u8], Unterminated>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.rest.take()?;
        if !line.contains(&b'"') {
            // Most have no quoted strings, and then every comma counts.
            let (member, rest) = cut(line, b',');
            self.rest = rest;
            return Some(Ok(trim(member)));
        }
        let mut quotes = Quotes::default();
        for (at, &byte) in line.iter().enumerate() {
            if !quotes.inside(byte) && byte == b',' {
                let (member, rest) = line.split_at(at);
                self.rest = rest.get(1..);
                return Some(Ok(trim(member)));
            }
        }
        Some(if quotes.open {
            Err(Unterminated)
        } else {
            Ok(trim(line))
        })
    }
}

/// Follows the quoted strings of a line, byte by byte
/// ([RFC 9110, section 5.6.4](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.4)).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    /// Takes the next byte: whether it belongs to a quoted string, its quotes included.
    pub(crate) fn inside(&mut self, byte: u8) -> bool {
        let was_open = self.open;
        if self.escaped {
            self.escaped = false;
        } else if byte == b'"' {
            self.open = !was_open;
        } else if byte == b'\\' {
            self.escaped = was_open;
        }
        was_open || self.open
    }
}

/// Without the spaces and tabs at both ends.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// What stands before and after the first `separator`.
pub(crate) fn cut(bytes: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|&byte| byte == separator) {
        Some(at) => (&bytes[..at], bytes.get(at + 1..)),
        None => (bytes, None),
    }
}

/// RFC 9110, section 5.6.2: at least one character, each of them a `tchar`.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| IS_TCHAR[byte as usize])
}

const IS_TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// A number of digits only, as large as `u64` can hold; what is larger is `u64::MAX`.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(bytes.iter().fold(0_u64, |number, digit| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

/// §1.2.2: delta-seconds; what is larger than 2^31 counts as 2^31.
pub(crate) fn delta_seconds(bytes: &[u8]) -> Option<u64> {
    decimal(bytes).map(|seconds| seconds.min(MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::Random;

    #[test]
    fn lists_are_split_at_commas_outside_of_quoted_strings() {
        type Row = (
            &'static str,
            &'static str,
            &'static [Result<&'static str, Unterminated>],
        );
        #[rustfmt::skip]
        let rows: &[Row] = &[
            ("one member", "a", &[Ok("a")]),
            ("an empty line is one empty member", "", &[Ok("")]),
            ("§5.6.1: whitespace around members", " a ,\tb ", &[Ok("a"), Ok("b")]),
            ("§5.6.1: empty members are kept", "a,,b,", &[Ok("a"), Ok(""), Ok("b"), Ok("")]),
            ("§5.6.4: a comma in quotes", r#"a="x, y", b"#, &[Ok(r#"a="x, y""#), Ok("b")]),
            ("§5.6.4: an escaped quote", r#""\",", b"#, &[Ok(r#""\",""#), Ok("b")]),
            ("§5.6.4: an escaped backslash", r#""\\",b"#, &[Ok(r#""\\""#), Ok("b")]),
            ("a backslash outside of quotes escapes nothing", r#"\",",b"#, &[Ok(r#"\",""#), Ok("b")]),
            ("unterminated", r#"a, "b, c"#, &[Ok("a"), Err(Unterminated)]),
            ("unterminated by an escape", r#""a\""#, &[Err(Unterminated)]),
        ];
        for (sentence, line, expected) in rows {
            let found: Vec<_> = members(line.as_bytes()).collect();
            let expected: Vec<_> = expected.iter().map(|m| m.map(str::as_bytes)).collect();
            assert_eq!(found, expected, "{sentence}");
        }
    }

    #[test]
    fn decimals_have_digits_only_and_never_overflow() {
        #[rustfmt::skip]
        let rows: &[(&str, &str, Option<u64>)] = &[
            ("zero", "0", Some(0)),
            ("leading zeros", "0060", Some(60)),
            ("§1.2.2: 2^31 is as it is", "2147483648", Some(MAX_SECONDS)),
            ("§1.2.2: more than 2^31 is 2^31", "2147483649", Some(MAX_SECONDS)),
            ("§1.2.2: more than u64 is 2^31", "99999999999999999999999", Some(MAX_SECONDS)),
            ("nothing", "", None),
            ("a sign", "+1", None),
            ("negative", "-1", None),
            ("a fraction", "1.5", None),
            ("letters", "6a", None),
            ("a space", "6 0", None),
        ];
        for (sentence, text, expected) in rows {
            assert_eq!(delta_seconds(text.as_bytes()), *expected, "{sentence}");
        }
        assert_eq!(decimal(b"99999999999999999999999"), Some(u64::MAX));
    }

    #[test]
    fn tokens_are_told_from_everything_else() {
        for token in ["a", "no-store", "*", "x_y", "'60'", "1.5"] {
            assert!(is_token(token.as_bytes()), "{token}");
        }
        for other in ["", "a b", "a=b", "\"a\"", "a;b", "a,b", "é", "a/b"] {
            assert!(!is_token(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn any_bytes_are_split_without_a_panic_and_without_losing_any() {
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let line = random.field_bytes(40);
            let mut kept = 0;
            let mut whole = true;
            for member in members(&line) {
                match member {
                    Ok(member) => kept += member.iter().filter(|b| !b" \t".contains(b)).count() + 1,
                    Err(Unterminated) => whole = false,
                }
            }
            if whole {
                let all = line.iter().filter(|b| !b" \t".contains(b)).count() + 1;
                // Whitespace inside of members is counted on neither side.
                assert_eq!(kept, all, "{line:?}");
            }
            let _ = (
                decimal(&line),
                is_token(&line),
                cut(&line, b';'),
                trim(&line),
            );
        }
    }
}
