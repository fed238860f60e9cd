//! Structured fields ([RFC 9651](https://www.rfc-editor.org/rfc/rfc9651), before that RFC 8941): the
//! only file that knows the crate that parses them.
//!
//! A field that does not parse to its end says nothing at all (§4.2), and neither does an empty one.
//! What its members mean is not decided here; parameters are checked for syntax and dropped.

use std::{borrow::Cow, convert::Infallible};

use http::{HeaderMap, HeaderName};
use sfv::{
    BareItemFromInput, KeyRef, Parser,
    visitor::{
        DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor, ListVisitor,
        ParameterVisitor,
    },
};

use super::syntax::trim;

/// A member, or what an inner list holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'h> {
    /// §3.3.6; also a key without a value (§3.2).
    Boolean(bool),
    /// §3.3.1
    Integer(i64),
    /// §3.3.3
    String(Cow<'h, str>),
    /// §3.3.4
    Token(&'h str),
    /// A decimal, bytes, a date, or a display string (§3.3.2, §3.3.5, §3.3.7, §3.3.8): no field that is
    /// read here has one.
    Other,
    /// §3.1.1
    InnerList(Vec<Value<'h>>),
}

/// The values of these keys of a dictionary (§3.2); other keys are parsed and dropped.
///
/// `None` if the field is not there, empty, or no dictionary.
pub(super) fn dictionary<'h, const N: usize>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    keys: [&str; N],
) -> Option<[Option<Value<'h>>; N]> {
    let mut values = [const { None }; N];
    each_line(headers, name, |line| {
        let members = Members {
            keys: &keys,
            values: &mut values,
        };
        Parser::new(line).parse_dictionary_with_visitor(members)
    })?;
    Some(values)
}

/// The members of a list (§3.1).
///
/// `None` if the field is not there, empty, or no list.
pub(super) fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Vec<Value<'h>>> {
    let mut values = Vec::new();
    each_line(headers, name, |line| {
        Parser::new(line).parse_list_with_visitor(List(&mut values))
    })?;
    Some(values.into_iter().flatten().collect())
}

/// §4.2: all lines are one value. Each has to parse for itself, so that no string may go on over the
/// end of its line: whoever joins lines on the way would put a comma into it. An empty line would
/// leave a comma too many.
fn each_line<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    mut parse: impl FnMut(&'h [u8]) -> Result<(), sfv::Error>,
) -> Option<()> {
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    for line in lines {
        let line = trim(line.as_bytes());
        if line.is_empty() || parse(line).is_err() {
            return None;
        }
    }
    Some(())
}

fn value(item: BareItemFromInput<'_>) -> Value<'_> {
    match item {
        BareItemFromInput::Boolean(is_true) => Value::Boolean(is_true),
        BareItemFromInput::Integer(number) => Value::Integer(number.into()),
        BareItemFromInput::String(Cow::Borrowed(text)) => Value::String(text.as_str().into()),
        BareItemFromInput::String(Cow::Owned(text)) => Value::String(String::from(text).into()),
        BareItemFromInput::Token(token) => Value::Token(token.as_str()),
        _ => Value::Other,
    }
}

struct Members<'a, 'h, const N: usize> {
    keys: &'a [&'a str; N],
    values: &'a mut [Option<Value<'h>>; N],
}

impl<'h, const N: usize> DictionaryVisitor<'h> for Members<'_, 'h, N> {
    type Out = ();
    type Error = Infallible;

    fn entry(&mut self, key: &'h KeyRef) -> Result<impl EntryVisitor<'h>, Infallible> {
        // §3.2: of a key that comes again the last value counts, so it overwrites.
        let at = self.keys.iter().position(|known| *known == key.as_str());
        Ok(at.map(|at| Slot(&mut self.values[at])))
    }

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }
}

struct List<'a, 'h>(&'a mut Vec<Option<Value<'h>>>);

impl<'h> ListVisitor<'h> for List<'_, 'h> {
    type Out = ();
    type Error = Infallible;

    fn entry(&mut self) -> Result<impl EntryVisitor<'h>, Infallible> {
        self.0.push(None);
        Ok(self.0.last_mut().map(Slot))
    }

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Where a value goes.
struct Slot<'a, 'h>(&'a mut Option<Value<'h>>);

impl<'h> ItemVisitor<'h> for Slot<'_, 'h> {
    type Out = ();
    type Error = Infallible;

    fn bare_item(
        self,
        item: BareItemFromInput<'h>,
    ) -> Result<impl ParameterVisitor<'h, Out = ()>, Infallible> {
        *self.0 = Some(value(item));
        Ok(Ignored)
    }
}

impl<'h> EntryVisitor<'h> for Slot<'_, 'h> {
    type Error = Infallible;

    fn item(self) -> Result<impl ItemVisitor<'h>, Infallible> {
        Ok(self)
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'h>, Infallible> {
        let values = Vec::new();
        Ok(Inner { slot: self, values })
    }
}

struct Inner<'a, 'h> {
    slot: Slot<'a, 'h>,
    values: Vec<Option<Value<'h>>>,
}

impl<'h> InnerListVisitor<'h> for Inner<'_, 'h> {
    type Error = Infallible;

    fn item(&mut self) -> Result<impl ItemVisitor<'h>, Infallible> {
        self.values.push(None);
        Ok(self.values.last_mut().map(Slot))
    }

    fn finish(self) -> Result<impl ParameterVisitor<'h>, Infallible> {
        let values = self.values.into_iter().flatten().collect();
        *self.slot.0 = Some(Value::InnerList(values));
        Ok(Ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Random, headers};

    const NAME: HeaderName = HeaderName::from_static("x");

    fn lines(values: &[&str]) -> HeaderMap {
        headers(&values.iter().map(|value| ("x", *value)).collect::<Vec<_>>())
    }

    fn text(text: &str) -> Value<'_> {
        Value::String(text.into())
    }

    type Row<'a, T> = (&'a str, &'a [&'a str], Option<T>);

    #[test]
    fn dictionaries_are_read_to_their_end_or_not_at_all() {
        let one = |value| Some([Some(value), None]);
        let inner = |values: &[Value<'static>]| one(Value::InnerList(values.to_vec()));
        #[rustfmt::skip]
        let rows: &[Row<'_, [Option<Value<'_>>; 2]>] = &[
            ("not there", &[], None),
            ("§4.2 empty", &[""], None),
            ("§4.2 spaces are empty", &["  "], None),
            ("§3.2 a key alone is true", &["a"], one(Value::Boolean(true))),
            ("§3.3.6 true, false", &["a=?1, b=?0"], Some([Some(Value::Boolean(true)), Some(Value::Boolean(false))])),
            ("§3.3.6 no other boolean", &["a=?2"], None),
            ("§3.3.1 an integer", &["a=60"], one(Value::Integer(60))),
            ("§3.3.1 a negative one", &["a=-60"], one(Value::Integer(-60))),
            ("§3.3.1 leading zeros", &["a=0060"], one(Value::Integer(60))),
            ("§3.3.1 fifteen digits", &["a=999999999999999"], one(Value::Integer(999_999_999_999_999))),
            ("§3.3.1 sixteen are too many", &["a=1000000000000000"], None),
            ("§3.3.1 no plus", &["a=+1"], None),
            ("§3.3.2 a decimal", &["a=6.5"], one(Value::Other)),
            ("§3.3.3 a string", &["a=\"x, y\""], one(text("x, y"))),
            ("§3.3.3 with escapes", &["a=\"\\\"\\\\\""], one(text("\"\\"))),
            ("§3.3.3 with an escape of something else", &["a=\"\\n\""], None),
            ("§3.3.3 without an end", &["a=\"x"], None),
            ("§3.3.3 beyond ASCII", &["a=\"é\""], None),
            ("§3.3.4 a token", &["a=x/y"], one(Value::Token("x/y"))),
            ("§3.3.5 bytes", &["a=:aGk=:"], one(Value::Other)),
            ("§3.3.5 no bytes", &["a=:aGk"], None),
            ("§3.3.7 a date", &["a=@1659578233"], one(Value::Other)),
            ("§3.3.8 a display string", &["a=%\"%c3%a9\""], one(Value::Other)),
            ("§3.1.1 an inner list", &["a=(\"x\" y 1)"], inner(&[text("x"), Value::Token("y"), Value::Integer(1)])),
            ("§3.1.1 an empty one", &["a=()"], inner(&[])),
            ("§3.1.1 without an end", &["a=(x"], None),
            ("§3.1.1 with commas", &["a=(x,y)"], None),
            ("§3.1.1 within another", &["a=((x))"], None),
            ("§3.1.2 parameters are dropped", &["a=1;p=2;q, b=(x;p);q"], Some([Some(Value::Integer(1)), Some(Value::InnerList(vec![Value::Token("x")]))])),
            ("§3.1.2 but must be parameters", &["a=1;P"], None),
            ("§3.2 of a key that comes again the last", &["a=1, b=2, a=x"], Some([Some(Value::Token("x")), Some(Value::Integer(2))])),
            ("§3.2 other keys are dropped", &["c=1, a=2, d=(x)"], one(Value::Integer(2))),
            ("§3.2 but must be members", &["c=, a=2"], None),
            ("§3.2 keys are lower case", &["A=1"], None),
            ("§3.2 no space before =", &["a =1"], None),
            ("§3.2 no space after =", &["a= 1"], None),
            ("§4.2 a comma too many", &["a=1,"], None),
            ("§4.2 a comma too early", &[",a=1"], None),
            ("§4.2 semicolons are no commas", &["a=1; b"], one(Value::Integer(1))),
            ("§4.2 spaces and tabs around commas", &[" a=1 ,\tb=2 "], Some([Some(Value::Integer(1)), Some(Value::Integer(2))])),
            ("§4.2 lines are one value", &["a=1", "b=2, a=3"], Some([Some(Value::Integer(3)), Some(Value::Integer(2))])),
            ("§4.2 a bad line spoils the others", &["a=1", "b="], None),
            ("§4.2 an empty line is a comma too many", &["a=1", ""], None),
            ("§4.2 a string ends on its line", &["a=\"x", "y\""], None),
        ];
        for (sentence, values, expected) in rows {
            let headers = lines(values);
            assert_eq!(
                dictionary(&headers, &NAME, ["a", "b"]),
                *expected,
                "{sentence}"
            );
        }
    }

    #[test]
    fn lists_are_read_to_their_end_or_not_at_all() {
        #[rustfmt::skip]
        let rows: &[Row<'_, &[Value<'_>]>] = &[
            ("not there", &[], None),
            ("§4.2 empty", &[""], None),
            ("§3.1 members", &["\"x\", y;p, 1"], Some(&[text("x"), Value::Token("y"), Value::Integer(1)])),
            ("§3.1 an inner list", &["(x y), z"], Some(&[Value::InnerList(vec![Value::Token("x"), Value::Token("y")]), Value::Token("z")])),
            ("§3.1 twice the same", &["x, x"], Some(&[Value::Token("x"), Value::Token("x")])),
            ("§4.2 lines are one value", &["x", "y"], Some(&[Value::Token("x"), Value::Token("y")])),
            ("§4.2 a bad line spoils the others", &["x", "y,"], None),
            ("§4.2 junk", &["x y"], None),
        ];
        for (sentence, values, expected) in rows {
            let headers = lines(values);
            assert_eq!(list(&headers, &NAME).as_deref(), *expected, "{sentence}");
        }
    }

    /// What a value looks like in a field.
    fn write(value: &Value<'_>) -> String {
        match value {
            Value::Boolean(is_true) => format!("?{}", u8::from(*is_true)),
            Value::Integer(number) => number.to_string(),
            Value::String(text) => {
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }
            Value::Token(token) => (*token).to_owned(),
            Value::Other => "1.5".to_owned(),
            Value::InnerList(values) => {
                let values: Vec<_> = values.iter().map(write).collect();
                format!("({})", values.join(" "))
            }
        }
    }

    fn random_value(random: &mut Random, may_be_list: bool) -> Value<'static> {
        match random.below(if may_be_list { 6 } else { 5 }) {
            0 => Value::Boolean(random.below(2) == 0),
            1 => Value::Integer(random.below(1 << 30) as i64 - (1 << 29)),
            2 => Value::Token(random.pick(&["a", "*", "x/y", "B-c"])),
            3 => Value::Other,
            4 => {
                let length = random.below(6);
                let any = |random: &mut Random| char::from(0x20 + random.below(0x5F) as u8);
                let text: String = (0..length).map(|_| any(random)).collect();
                Value::String(text.into())
            }
            _ => {
                let length = random.below(4);
                Value::InnerList((0..length).map(|_| random_value(random, false)).collect())
            }
        }
    }

    #[test]
    fn what_was_written_is_read_again_over_any_number_of_lines() {
        let mut random = Random::new(20);
        for _ in 0..5_000 {
            let values: Vec<_> = (0..=random.below(5))
                .map(|_| random_value(&mut random, true))
                .collect();
            let members: Vec<_> = values.iter().map(write).collect();
            let (one, two) = members.split_at(1 + random.below(members.len()));
            let all = [one.join(" , "), two.join(",")];
            let all: Vec<_> = all.iter().map(String::as_str).collect();
            let headers = lines(&all[..if two.is_empty() { 1 } else { 2 }]);
            assert_eq!(list(&headers, &NAME), Some(values), "{headers:?}");
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_lines_alone_as_together() {
        let mut random = Random::new(21);
        let mut understood = 0;
        for _ in 0..20_000 {
            let mut map = HeaderMap::new();
            for _ in 0..=random.below(2) {
                let value = match random.below(4) {
                    0 => random.field_value(30),
                    _ => {
                        // A member with one byte changed comes further than noise.
                        let mut text = write(&random_value(&mut random, true)).into_bytes();
                        let at = random.below(text.len().max(1));
                        if let Some(byte) = text.get_mut(at) {
                            *byte = b"\"\\(),;=?: a1-.\xE9"[random.below(15)];
                        }
                        http::HeaderValue::from_bytes(&text).expect("no control characters")
                    }
                };
                map.append(NAME, value);
            }
            let _ = dictionary(&map, &NAME, ["max-age", "a"]);
            if let Some(members) = list(&map, &NAME) {
                understood += 1;
                let alone: Vec<_> = map
                    .get_all(NAME)
                    .iter()
                    .map(|line| HeaderMap::from_iter([(NAME, line.clone())]))
                    .collect();
                let alone: Vec<_> = alone
                    .iter()
                    .flat_map(|line| list(line, &NAME).expect("a part of what was understood"))
                    .collect();
                assert_eq!(members, alone, "{map:?}");
            }
        }
        assert!(understood > 1_000, "{understood}");
    }
}
