//! The key of a value: a text, prepared for the look-up.

use std::{fmt, hash};

use serde::Serialize;

use super::{error::ValueError, text::push_args};
use crate::{
    key::{Key, MAX_KEY},
    pattern::Pattern,
    selector::{Kind, Selector},
    target::{Space, Subject},
};

/// The longest text of a key, in bytes.
pub(super) const MAX_TEXT: usize = MAX_KEY - 64;

/// The key of a value, checked and prepared: made once, it is looked up without an allocation.
///
/// The text of a key is `name:argument:argument`. A `&str` or `String` is that text; a tuple is a name and
/// what the name is about: strings and numbers as they are (`:`, `*` and `%` in them percent-escaped),
/// anything else as compact JSON. So `("user", 42)`, `("user", "42")` and `"user:42"` are one key, and
/// `delete_pattern("user:*")` finds it.
///
/// At most 8,128 bytes. Sets with a random order (`HashSet`) make no key; maps are sorted.
///
/// # Examples
///
/// ```
/// use tower_response_cache::ValueKey;
///
/// assert_eq!(ValueKey::new(("user", 42))?.as_str(), "user:42");
/// assert_eq!(ValueKey::new(("page", "a:b", [1, 2], vec![3]))?.as_str(), "page:a%3Ab:1:2:[3]");
/// assert_eq!(ValueKey::new("users_all")?.as_str(), "users_all");
/// assert!(ValueKey::new(("user:profile", 42)).is_err());
/// # Ok::<(), tower_response_cache::ValueError>(())
/// ```
#[derive(Clone)]
pub struct ValueKey {
    pub(crate) key: Key,
    pub(crate) subject: Subject,
}

impl ValueKey {
    /// A key from a text, or from a name and arguments.
    ///
    /// # Errors
    ///
    /// When there is no such key; the message says why.
    pub fn new(key: impl IntoValueKey) -> Result<Self, ValueError> {
        key.into_value_key()
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.subject.name
    }

    /// What stands in front of the first `:`.
    pub(crate) fn name(&self) -> &str {
        let text = self.as_str();
        text.split_once(':').map_or(text, |(name, _)| name)
    }

    /// What selects exactly this value.
    pub(crate) fn selector(&self) -> Selector {
        Kind::Pattern(Space::Value, Pattern::Exact(self.as_str().into())).into()
    }

    pub(crate) fn of_text(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(ValueError::EmptyKey);
        }
        if text.contains('*') {
            return Err(ValueError::Pattern(text.to_owned()));
        }
        if text.len() > MAX_TEXT {
            return Err(ValueError::LongKey(text.len()));
        }
        Ok(Self {
            key: Key::of_value(text),
            subject: Subject::value(text),
        })
    }

    /// A name, and one argument.
    pub(crate) fn of_argument(name: &str, argument: &impl Serialize) -> Result<Self, ValueError> {
        Self::of_args(name, |text| push_args(text, argument))
    }

    /// A name, and what it is about.
    pub(crate) fn of_args(
        name: &str,
        push: impl FnOnce(&mut String) -> Result<(), ValueError>,
    ) -> Result<Self, ValueError> {
        check_name(name)?;
        let mut text = String::with_capacity(name.len() + 24);
        text.push_str(name);
        push(&mut text)?;
        Self::of_text(&text)
    }
}

/// Refuses a name that would be taken for something else.
pub(crate) fn check_name(name: &str) -> Result<(), ValueError> {
    if name.is_empty() {
        return Err(ValueError::EmptyKey);
    }
    if name.contains([':', '*', '%']) {
        return Err(ValueError::Separator(name.to_owned()));
    }
    Ok(())
}

impl fmt::Debug for ValueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueKey").field(&self.as_str()).finish()
    }
}

impl PartialEq for ValueKey {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for ValueKey {}

impl hash::Hash for ValueKey {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.key.hash);
    }
}

/// What a [`ValueKey`] is made from: a text, a tuple of a name and arguments, or another key.
///
/// Implement it for types of your own that have one, such as an id.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{IntoValueKey, ValueError, ValueKey};
///
/// struct UserId(u64);
///
/// impl IntoValueKey for UserId {
///     fn into_value_key(self) -> Result<ValueKey, ValueError> {
///         ("user", self.0).into_value_key()
///     }
/// }
///
/// assert_eq!(ValueKey::new(UserId(42))?, ValueKey::new("user:42")?);
/// # Ok::<(), ValueError>(())
/// ```
pub trait IntoValueKey {
    /// The key.
    ///
    /// # Errors
    ///
    /// When there is no such key.
    fn into_value_key(self) -> Result<ValueKey, ValueError>;

    /// The key, where it is made already.
    #[doc(hidden)]
    fn prepared(&self) -> Option<&ValueKey> {
        None
    }
}

impl IntoValueKey for &str {
    fn into_value_key(self) -> Result<ValueKey, ValueError> {
        ValueKey::of_text(self)
    }
}

impl IntoValueKey for String {
    fn into_value_key(self) -> Result<ValueKey, ValueError> {
        ValueKey::of_text(&self)
    }
}

impl IntoValueKey for &String {
    fn into_value_key(self) -> Result<ValueKey, ValueError> {
        ValueKey::of_text(self)
    }
}

impl IntoValueKey for ValueKey {
    fn into_value_key(self) -> Result<ValueKey, ValueError> {
        Ok(self)
    }
}

impl IntoValueKey for &ValueKey {
    fn into_value_key(self) -> Result<ValueKey, ValueError> {
        Ok(self.clone())
    }

    fn prepared(&self) -> Option<&ValueKey> {
        Some(self)
    }
}

macro_rules! tuples {
    ($(($($argument:ident)*),)+) => {
        $(impl<Name: AsRef<str>, $($argument: Serialize),*> IntoValueKey for (Name, $($argument,)*) {
            #[allow(non_snake_case)]
            fn into_value_key(self) -> Result<ValueKey, ValueError> {
                let (name, $($argument,)*) = self;
                ValueKey::of_args(name.as_ref(), |_text| {
                    $(push_args(_text, &$argument)?;)*
                    Ok(())
                })
            }
        })+
    };
}

tuples! {
    (),
    (A),
    (A B),
    (A B C),
    (A B C D),
    (A B C D E),
    (A B C D E F),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(key: impl IntoValueKey) -> ValueError {
        ValueKey::new(key).unwrap_err()
    }

    #[test]
    fn a_name_and_its_arguments_are_the_text_that_they_make() {
        let text = |key: Result<ValueKey, ValueError>| key.unwrap().as_str().to_owned();
        assert_eq!(text(ValueKey::new(("users",))), "users");
        assert_eq!(text(ValueKey::new(("user", 42))), "user:42");
        assert_eq!(
            text(ValueKey::new(("user".to_owned(), (4, "x")))),
            "user:4:x"
        );
        assert_eq!(ValueKey::new(("user", 42)), ValueKey::new("user:42"));
        assert_eq!(ValueKey::new("user:42").unwrap().name(), "user");
        assert_eq!(ValueKey::new("user").unwrap().name(), "user");
    }

    #[test]
    fn a_key_that_makes_no_sense_says_which_and_why() {
        let long = "k".repeat(MAX_TEXT + 1);
        #[rustfmt::skip]
        let rows = [
            (error(""), "a key without a name; give it one, such as \"user\""),
            (error(("", 1)), "a key without a name; give it one, such as \"user\""),
            (error(("a:b", 1)), "the name \"a:b\" of a key has a : or * or % in it, which tell its arguments apart; use another character"),
            (error(("50%",)), "the name \"50%\" of a key has a : or * or % in it, which tell its arguments apart; use another character"),
            (error("user:*"), "the key \"user:*\" has a * in it; patterns are for delete_pattern, and in arguments a * is written %2A"),
            (error(&long), "a key of 8129 bytes is longer than 8128; use a digest of its longest part"),
        ];
        for (error, sentence) in rows {
            assert_eq!(error.to_string(), sentence);
        }
        assert!(ValueKey::new(&long[1..]).is_ok());
    }
}
