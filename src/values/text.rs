//! The text of a key's arguments: strings and numbers as they are, anything else as compact JSON.
//!
//! `:` and `*` and `%` are percent-escaped, so that a `:` always stands between two arguments and a pattern
//! says what it means. No two values of one type give the same text: a string that looks like JSON has its
//! first character escaped, fields of maps are sorted, and numbers that are none are refused. Only a number
//! and the string of its digits are the same, as `42` from a path and from a database mean the same.

use std::fmt::{Display, Write};

use serde::ser::{self, Serialize, Serializer};

use super::error::ValueError;

impl ser::Error for ValueError {
    fn custom<T: Display>(why: T) -> Self {
        Self::KeyNotSerializable(why.to_string())
    }
}

/// Puts the arguments that `value` is behind `out`: a tuple is several, `()` none, anything else one.
pub(crate) fn push_args(
    out: &mut String,
    value: &(impl Serialize + ?Sized),
) -> Result<(), ValueError> {
    let mut raw = String::new();
    let mut seen = Seen::Json;
    value.serialize(Text {
        raw: &mut raw,
        seen: &mut seen,
        args: Some(out),
    })?;
    if seen == Seen::Args {
        return Ok(());
    }
    out.push(':');
    let is_like_json = matches!(&*raw, "true" | "false" | "null") || raw.starts_with(['{', '[']);
    let mut rest = &*raw;
    if seen == Seen::Text && is_like_json {
        push_byte(out, raw.as_bytes()[0]);
        rest = &raw[1..];
    }
    push_escaped(out, rest);
    Ok(())
}

/// Puts `text` behind `out`, without what means something in keys and patterns.
fn push_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            ':' | '*' | '%' => push_byte(out, character as u8),
            _ => out.push(character),
        }
    }
}

fn push_byte(out: &mut String, byte: u8) {
    write!(out, "%{byte:02X}").expect("a string takes everything");
}

fn push_json_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a string is JSON"));
}

/// What a value turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A number, or something for which there is JSON.
    Json,
    /// A string, as it is.
    Text,
    /// Arguments, which have been written.
    Args,
}

/// Writes one value. At the top a string is as it is, and with `args` a tuple is a list of arguments;
/// within other values all is JSON.
struct Text<'t> {
    raw: &'t mut String,
    seen: &'t mut Seen,
    args: Option<&'t mut String>,
}

/// A value inside of another one.
fn push_json(raw: &mut String, value: &(impl Serialize + ?Sized)) -> Result<(), ValueError> {
    let start = raw.len();
    let mut seen = Seen::Json;
    value.serialize(Text {
        raw,
        seen: &mut seen,
        args: None,
    })?;
    if seen == Seen::Text {
        let text = raw.split_off(start);
        push_json_string(raw, &text);
    }
    Ok(())
}

/// The key of a map.
fn key_text(key: &(impl Serialize + ?Sized)) -> Result<String, ValueError> {
    let mut raw = String::new();
    let mut seen = Seen::Json;
    key.serialize(Text {
        raw: &mut raw,
        seen: &mut seen,
        args: None,
    })?;
    match seen {
        Seen::Text => Ok(raw),
        Seen::Json | Seen::Args => Err(ValueError::MapKey),
    }
}

macro_rules! as_written {
    ($($name:ident: $type:ty,)+) => {
        $(fn $name(self, value: $type) -> Result<(), ValueError> {
            write!(self.raw, "{value}").expect("a string takes everything");
            Ok(())
        })+
    };
}

macro_rules! as_float {
    ($($name:ident: $type:ty,)+) => {
        $(fn $name(self, value: $type) -> Result<(), ValueError> {
            if !value.is_finite() {
                return Err(ValueError::NotANumber);
            }
            // The shortest text that is this number.
            write!(self.raw, "{value:?}").expect("a string takes everything");
            Ok(())
        })+
    };
}

impl<'t> Serializer for Text<'t> {
    type Ok = ();
    type Error = ValueError;
    type SerializeSeq = List<'t>;
    type SerializeTuple = List<'t>;
    type SerializeTupleStruct = List<'t>;
    type SerializeTupleVariant = List<'t>;
    type SerializeMap = Map<'t>;
    type SerializeStruct = List<'t>;
    type SerializeStructVariant = List<'t>;

    as_written! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
    }

    as_float! {
        serialize_f32: f32,
        serialize_f64: f64,
    }

    fn serialize_char(self, value: char) -> Result<(), ValueError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), ValueError> {
        *self.seen = Seen::Text;
        self.raw.push_str(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), ValueError> {
        value.serialize(self)
    }

    fn serialize_none(self) -> Result<(), ValueError> {
        self.raw.push_str("null");
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), ValueError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), ValueError> {
        match self.args {
            Some(_) => *self.seen = Seen::Args,
            None => self.raw.push_str("null"),
        }
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), ValueError> {
        self.serialize_none()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), ValueError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        let mut list = List::of_variant(self, variant, "}");
        list.push(value)?;
        list.end_list()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'t>, ValueError> {
        Ok(List::new(self.raw, "[", "]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<List<'t>, ValueError> {
        match self.args {
            Some(args) => {
                *self.seen = Seen::Args;
                Ok(List {
                    out: args,
                    is_args: true,
                    is_first: true,
                    close: "",
                })
            }
            None => Ok(List::new(self.raw, "[", "]")),
        }
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List<'t>, ValueError> {
        Ok(List::new(self.raw, "[", "]"))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<List<'t>, ValueError> {
        let list = List::of_variant(self, variant, "]}");
        list.out.push('[');
        Ok(list)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Map<'t>, ValueError> {
        Ok(Map {
            out: self.raw,
            fields: Vec::new(),
        })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<List<'t>, ValueError> {
        Ok(List::new(self.raw, "{", "}"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<List<'t>, ValueError> {
        let list = List::of_variant(self, variant, "}}");
        list.out.push('{');
        Ok(list)
    }
}

/// Items, fields or arguments, one after the other.
struct List<'t> {
    out: &'t mut String,
    is_args: bool,
    is_first: bool,
    close: &'static str,
}

impl<'t> List<'t> {
    fn new(out: &'t mut String, open: &str, close: &'static str) -> Self {
        out.push_str(open);
        Self {
            out,
            is_args: false,
            is_first: true,
            close,
        }
    }

    fn of_variant(text: Text<'t>, variant: &str, close: &'static str) -> Self {
        let list = Self::new(text.raw, "{", close);
        push_json_string(list.out, variant);
        list.out.push(':');
        list
    }

    fn push(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), ValueError> {
        if self.is_args {
            return push_args(self.out, value);
        }
        if !std::mem::take(&mut self.is_first) {
            self.out.push(',');
        }
        push_json(self.out, value)
    }

    fn push_field(
        &mut self,
        name: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), ValueError> {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(',');
        }
        push_json_string(self.out, name);
        self.out.push(':');
        push_json(self.out, value)
    }

    fn end_list(self) -> Result<(), ValueError> {
        self.out.push_str(self.close);
        Ok(())
    }
}

macro_rules! as_list {
    ($($trait:ident $name:ident,)+) => {
        $(impl ser::$trait for List<'_> {
            type Ok = ();
            type Error = ValueError;
            fn $name<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
                self.push(value)
            }
            fn end(self) -> Result<(), ValueError> {
                self.end_list()
            }
        })+
    };
}

as_list! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

macro_rules! as_fields {
    ($($trait:ident,)+) => {
        $(impl ser::$trait for List<'_> {
            type Ok = ();
            type Error = ValueError;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), ValueError> {
                self.push_field(name, value)
            }
            fn end(self) -> Result<(), ValueError> {
                self.end_list()
            }
        })+
    };
}

as_fields! {
    SerializeStruct,
    SerializeStructVariant,
}

/// The fields of a map, which come in any order and are written in one.
struct Map<'t> {
    out: &'t mut String,
    fields: Vec<(String, String)>,
}

impl ser::SerializeMap for Map<'_> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ValueError> {
        self.fields.push((key_text(key)?, String::new()));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        match self.fields.last_mut() {
            Some((_, text)) => push_json(text, value),
            None => Err(ser::Error::custom("a map with a value before its key")),
        }
    }

    fn end(mut self) -> Result<(), ValueError> {
        self.fields.sort();
        self.out.push('{');
        for (at, (name, value)) in self.fields.iter().enumerate() {
            if at > 0 {
                self.out.push(',');
            }
            push_json_string(self.out, name);
            self.out.push(':');
            self.out.push_str(value);
        }
        self.out.push('}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    fn text(value: impl Serialize) -> Result<String, ValueError> {
        let mut out = "n".to_owned();
        push_args(&mut out, &value).map(|()| out)
    }

    #[test]
    fn an_argument_is_as_it_is_or_json() {
        let map: HashMap<&str, Vec<Option<u8>>> =
            [("b", vec![None]), ("a", vec![Some(1)]), ("c", vec![])].into();
        #[rustfmt::skip]
        let rows = [
            (text(42), "n:42"),
            (text(-1_i128), "n:-1"),
            (text("42"), "n:42"),
            (text(1.0), "n:1.0"),
            (text(1.5_f32), "n:1.5"),
            (text("ada lovelace/ü"), "n:ada lovelace/ü"),
            (text("a:b*c%d"), "n:a%3Ab%2Ac%25d"),
            (text(""), "n:"),
            (text('*'), "n:%2A"),
            (text(true), "n:true"),
            (text("true"), "n:%74rue"),
            (text(None::<u8>), "n:null"),
            (text(Some("null")), "n:%6Eull"),
            (text("[1]"), "n:%5B1]"),
            (text("{"), "n:%7B"),
            (text(()), "n"),
            (text((1, "a", (2, ()))), "n:1:a:2"),
            (text(Some((1, 2))), "n:1:2"),
            (text(vec![1, 2]), "n:[1,2]"),
            (text(vec![(1, "a"), (2, "\"")]), "n:[[1,\"a\"],[2,\"\\\"\"]]"),
            (text(map), "n:{\"a\"%3A[1],\"b\"%3A[null],\"c\"%3A[]}"),
            (text(Ok::<u8, ()>(1)), "n:{\"Ok\"%3A1}"),
            (text(vec![()]), "n:[null]"),
        ];
        for (written, expected) in rows {
            assert_eq!(written.as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_has_no_text_is_refused_wherever_it_is() {
        let by_number = BTreeMap::from([(1, 2)]);
        let by_none = BTreeMap::from([(None::<&str>, 2)]);
        #[rustfmt::skip]
        let rows = [
            (text(f64::NAN), ValueError::NotANumber),
            (text(vec![Some(f32::INFINITY)]), ValueError::NotANumber),
            (text((1, f64::NEG_INFINITY)), ValueError::NotANumber),
            (text(by_number), ValueError::MapKey),
            (text(vec![by_none]), ValueError::MapKey),
        ];
        for (written, expected) in rows {
            assert_eq!(written, Err(expected));
        }
    }

    /// Everything that may be inside of an argument, up to a depth.
    fn values(depth: u32) -> Vec<serde_json::Value> {
        use serde_json::{Value, json};
        let mut all: Vec<Value> = [
            "", "1", "true", "null", "[", "]", "{}", "[]", ":", "%3A", "\"", "\"1\"", "a",
        ]
        .map(Value::from)
        .into();
        all.extend([json!(null), json!(true), json!(-1), json!(0.5)]);
        if depth > 0 {
            let inner = values(depth - 1);
            let short = &inner[..inner.len().min(24)];
            all.extend([json!([]), json!({})]);
            for one in short {
                all.push(json!([one]));
                all.push(json!({ "a": one }));
                all.extend(short.iter().map(|other| json!([one, other])));
            }
        }
        all
    }

    #[test]
    fn no_two_values_have_the_same_text() {
        let mut seen = HashMap::new();
        for value in values(2) {
            let known = seen.insert(text(&value).unwrap(), value.clone());
            if let Some(known) = known {
                assert_eq!(known, value, "one text for both");
            }
        }
        assert!(seen.len() > 500, "{}", seen.len());
    }
}
