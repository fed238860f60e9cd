//! What memory holds of a value: an `Arc` of its own type, with what decides over its reuse.

use std::{
    any::{Any, type_name},
    io,
    ops::Deref,
    sync::Arc,
};

use serde::{
    Serialize,
    de::DeserializeOwned,
    ser::{self, Impossible, Serializer},
};
use twox_hash::XxHash3_64;

use super::error::ValueError;
use crate::{
    entry::{Lifetime, Millis, OVERHEAD, Origin, Staleness, Watched},
    invalidation::{Log, Names, Verdict},
    status::FrameFault,
    store::remote::ReadValue,
};

/// What can be kept: anything that serde writes and reads, and threads may share.
///
/// Implemented for all such types; nothing has to be done for it.
///
/// # Examples
///
/// ```
/// use tower_response_cache::CachedValue;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct User {
///     name: String,
/// }
///
/// fn can_be_kept(_: impl CachedValue) {}
/// can_be_kept(User { name: "Ada".to_owned() });
/// can_be_kept(vec![Some(1.5)]);
/// # assert!(serde_json::to_string(&User { name: "Ada".to_owned() }).is_ok());
/// ```
pub trait CachedValue: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> CachedValue for V {}

/// A value whose type only those know who ask for it.
pub(crate) type AnyValue = Arc<dyn Any + Send + Sync>;

/// A value in memory.
#[derive(Debug)]
pub(crate) struct StoredValue {
    pub(crate) value: AnyValue,
    /// Its type, as other processes know it.
    pub(crate) of_type: u64,
    encode: fn(&AnyValue) -> Option<Vec<u8>>,
    /// The length of what `encode` gives.
    length: u64,
    pub(crate) lifetime: Lifetime,
    pub(crate) staleness: Staleness,
    pub(crate) tags: Box<[Box<str>]>,
    watched: Watched,
}

impl Deref for StoredValue {
    type Target = Watched;

    #[inline]
    fn deref(&self) -> &Watched {
        &self.watched
    }
}

/// A value that may be used, of the type that was asked for, and what is known of it.
pub(crate) struct Hit<V> {
    pub(crate) value: Arc<V>,
    pub(crate) stored: Arc<StoredValue>,
}

/// For how long a value is kept, and what it can be selected by.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) lifetime: Lifetime,
    pub(crate) staleness: Staleness,
    pub(crate) tags: Box<[Box<str>]>,
}

impl StoredValue {
    pub(crate) fn new<V: CachedValue>(
        value: Arc<V>,
        length: u64,
        life: Life,
        watched: Watched,
    ) -> Self {
        let Life {
            lifetime,
            staleness,
            tags,
        } = life;
        Self {
            value,
            of_type: digest_of_type::<V>(),
            encode: |value| serde_json::to_vec(value.downcast_ref::<V>()?).ok(),
            length,
            lifetime,
            staleness,
            tags,
            watched,
        }
    }

    /// As bytes, for a store outside of this process.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        (self.encode)(&self.value)
    }

    /// The value, where it is one of this type.
    #[inline]
    pub(crate) fn hit<V: CachedValue>(self: Arc<Self>) -> Option<Hit<V>> {
        let value = self.value.clone().downcast().ok()?;
        Some(Hit {
            value,
            stored: self,
        })
    }

    /// What a store outside of this process had, where it is a value of this type.
    pub(crate) fn decode<V: CachedValue>(read: ReadValue) -> Result<Self, FrameFault> {
        let body = read.frame.body()?;
        let value: V = serde_json::from_slice(body).map_err(|_| FrameFault::OtherType)?;
        let length = body.len() as u64;
        let life = Life {
            lifetime: read.lifetime,
            staleness: read.frame.staleness,
            tags: read.frame.tags.clone(),
        };
        let mut watched = Watched::new(read.origin);
        watched.frame = Some(read.frame.mark());
        watched.answer_until(read.memory_until);
        Ok(Self::new(Arc::new(value), length, life, watched))
    }

    pub(crate) fn verdict(&self, log: &Log) -> Verdict {
        let names = Names {
            groups: &[],
            tags: &self.tags,
        };
        self.judged(log, names)
    }

    /// How long it is fresh, by what was invalidated.
    #[inline]
    pub(crate) fn lifetime(&self, log: &Log) -> Option<Lifetime> {
        if self.is_checked(log) {
            return Some(self.lifetime);
        }
        self.lifetime.under(self.verdict(log))
    }

    /// The bytes that it occupies, with the key it is stored under.
    pub(crate) fn weight(&self, key: usize) -> u64 {
        let tags = self
            .tags
            .iter()
            .map(|tag| tag.len() + size_of::<Box<str>>());
        (OVERHEAD + key + tags.sum::<usize>()) as u64 + self.length
    }
}

/// A type in a few bytes: two names with one digest are two types of which one is not read.
pub(crate) fn digest_of_type<V>() -> u64 {
    XxHash3_64::oneshot(type_name::<V>().as_bytes())
}

/// The length of a value as it is encoded; nothing is kept of that.
pub(crate) fn measure(value: &impl Serialize) -> Result<u64, ValueError> {
    struct Count(u64);

    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => Ok(count.0),
        Err(why) => Err(ValueError::NotSerializable(why.to_string())),
    }
}

/// What a function returned, by its outermost shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Some,
    /// `None`.
    Absent,
    /// An `Err`.
    Failed,
}

/// Whether a value is there, or is `None` or `Err`.
pub(crate) fn outcome_of(value: &impl Serialize) -> Outcome {
    match value.serialize(Shape) {
        Ok(outcome) => outcome,
        Err(Other) => Outcome::Some,
    }
}

/// Looks at the outermost shape of a value, and no further.
struct Shape;

/// Neither `None` nor a `Result`.
#[derive(Debug)]
struct Other;

impl std::fmt::Display for Other {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Other {}

impl ser::Error for Other {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

macro_rules! is_there {
    ($($name:ident($($argument:ty),*) $(-> $compound:ident)?;)+) => {
        $(fn $name(self, $(_: $argument),*) -> Result<is_there!(@ $($compound)?), Other> {
            Err(Other)
        })+
    };
    (@) => { Outcome };
    (@ $compound:ident) => { Self::$compound };
}

type Nothing = Impossible<Outcome, Other>;

impl Serializer for Shape {
    type Ok = Outcome;
    type Error = Other;
    type SerializeSeq = Nothing;
    type SerializeTuple = Nothing;
    type SerializeTupleStruct = Nothing;
    type SerializeTupleVariant = Nothing;
    type SerializeMap = Nothing;
    type SerializeStruct = Nothing;
    type SerializeStructVariant = Nothing;

    is_there! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_unit();
        serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
        serialize_seq(Option<usize>) -> SerializeSeq;
        serialize_tuple(usize) -> SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant;
        serialize_map(Option<usize>) -> SerializeMap;
        serialize_struct(&'static str, usize) -> SerializeStruct;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant;
    }

    fn serialize_none(self) -> Result<Outcome, Other> {
        Ok(Outcome::Absent)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Outcome, Other> {
        Err(Other)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<Outcome, Other> {
        Err(Other)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Outcome, Other> {
        match (name, variant) {
            ("Result", "Err") => Ok(Outcome::Failed),
            ("Result", "Ok") => value.serialize(self),
            _ => Err(Other),
        }
    }
}

/// A ttl beyond all use; times of day that far away are none that a store takes.
pub(crate) const FOREVER: Millis = 100 * 366 * 24 * 3600 * 1000;

/// A lifetime that begins now.
pub(crate) fn life(now: Millis, freshness: Millis, staleness: Staleness) -> Lifetime {
    Lifetime {
        response_time: now,
        initial_age: 0,
        freshness,
        kept: staleness.while_revalidate.max(staleness.if_error),
    }
}

/// What is read anew is watched anew.
pub(crate) fn watched(origin: Origin, cost: Millis) -> Watched {
    let mut watched = Watched::new(origin);
    watched.cost = cost;
    watched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_function_returned_is_told_by_its_outermost_shape() {
        type Fallible<V> = Result<V, String>;
        assert_eq!(outcome_of(&0), Outcome::Some);
        assert_eq!(outcome_of(&""), Outcome::Some);
        assert_eq!(outcome_of(&()), Outcome::Some);
        assert_eq!(outcome_of(&Some(None::<u8>)), Outcome::Some);
        assert_eq!(outcome_of(&vec![None::<u8>]), Outcome::Some);
        assert_eq!(outcome_of(&None::<u8>), Outcome::Absent);
        assert_eq!(outcome_of(&Fallible::Ok(1)), Outcome::Some);
        assert_eq!(outcome_of(&Fallible::Ok(None::<u8>)), Outcome::Absent);
        assert_eq!(
            outcome_of(&Fallible::<u8>::Err("away".to_owned())),
            Outcome::Failed
        );
    }

    #[test]
    fn a_value_is_as_long_as_its_encoding() {
        let value = vec![(1, "ü"), (2, "\"")];
        assert_eq!(
            measure(&value).unwrap(),
            serde_json::to_vec(&value).unwrap().len() as u64
        );
        let by_pair = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(matches!(
            measure(&by_pair),
            Err(ValueError::NotSerializable(_))
        ));
    }
}
