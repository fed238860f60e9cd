//! What a response was made from: values, by the texts of their keys.
//!
//! A dependency stands among the tags of a response, and travels with them. It begins with a NUL, which the
//! text of no tag that means something does; a tag of somebody who begins one so all the same stays a tag, and
//! is selected with the value of that name besides. `\0user:42` is the value `user:42`, and `\0user:*` is any
//! value with the name `user`: keys have no `*`.

use crate::pattern::Pattern;

const MARK: char = '\0';
/// A response has so many of them at the most.
pub(crate) const MOST: usize = 32;
/// None is longer than that, in bytes; as for tags.
const LONGEST: usize = 256;

/// What a tag depends on, if it is a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dependency<'t> {
    /// A value, by the text of its key.
    Value(&'t str),
    /// Every value of a name.
    Name(&'t str),
}

impl<'t> Dependency<'t> {
    #[inline]
    pub(crate) fn of(tag: &'t str) -> Option<Self> {
        let text = tag.strip_prefix(MARK)?;
        Some(match text.strip_suffix(":*") {
            Some(name) => Self::Name(name),
            None => Self::Value(text),
        })
    }

    /// Whether a pattern over the texts of keys selects it, or something of it.
    pub(crate) fn is_selected(self, pattern: &Pattern) -> bool {
        match self {
            Self::Value(text) => pattern.fits(text),
            Self::Name(name) => pattern.may_fit_below(name),
        }
    }
}

/// Dependencies as they are collected. Of too many, those of one name become one: rather invalidated too often
/// than not at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dependencies {
    tags: Vec<Box<str>>,
    is_over: bool,
}

impl Dependencies {
    /// A value was read.
    pub(crate) fn add(&mut self, text: &str) {
        match text.len() + MARK.len_utf8() <= LONGEST {
            true => self.add_tag(&format!("{MARK}{text}")),
            false => self.add_name(name_of(text)),
        }
    }

    /// A dependency that is one already.
    pub(crate) fn add_tag(&mut self, tag: &str) {
        let covers = |known: &str| match (Dependency::of(known), Dependency::of(tag)) {
            (Some(Dependency::Name(name)), Some(Dependency::Value(text))) => name_of(text) == name,
            _ => known == tag,
        };
        if self.is_over || self.tags.iter().any(|known| covers(known)) {
            return;
        }
        self.tags.push(tag.into());
        if let Some(Dependency::Name(name)) = Dependency::of(tag) {
            self.fold(name);
        }
        if self.tags.len() > MOST {
            match self.largest() {
                Some(name) => self.add_name(&name),
                None => self.is_over = true,
            }
        }
    }

    fn add_name(&mut self, name: &str) {
        let tag = format!("{MARK}{name}:*");
        match tag.len() <= LONGEST {
            true => self.add_tag(&tag),
            false => self.is_over = true,
        }
    }

    /// Leaves out what a name covers.
    fn fold(&mut self, name: &str) {
        self.tags.retain(|known| match Dependency::of(known) {
            Some(Dependency::Value(text)) => name_of(text) != name,
            _ => true,
        });
    }

    /// The name that most of them share, if any two do.
    fn largest(&self) -> Option<String> {
        let names = self
            .tags
            .iter()
            .filter_map(|tag| match Dependency::of(tag) {
                Some(Dependency::Value(text)) => Some(name_of(text)),
                _ => None,
            });
        let names: Vec<&str> = names.collect();
        let count = |name: &str| names.iter().filter(|other| **other == name).count();
        let largest = names.iter().max_by_key(|name| count(name))?;
        (count(largest) > 1).then(|| (*largest).to_owned())
    }

    /// As tags; `None` where they cannot all be said.
    pub(crate) fn tags(&self) -> Option<&[Box<str>]> {
        (!self.is_over).then_some(&self.tags)
    }

    /// What was read cannot be said.
    pub(crate) fn give_up(&mut self) {
        self.is_over = true;
    }
}

/// What stands in front of the first `:`.
pub(crate) fn name_of(text: &str) -> &str {
    text.split_once(':').map_or(text, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
        let mut all = Dependencies::default();
        for text in texts {
            all.add(&text);
        }
        let tags = all.tags()?.iter().map(|tag| tag.replace('\0', "0 "));
        Some(tags.collect())
    }

    #[test]
    fn of_too_many_values_those_of_one_name_become_one() {
        let users = |count: usize| (0..count).map(|id| format!("user:{id}"));
        assert_eq!(of(users(MOST)).unwrap().len(), MOST);
        assert_eq!(of(users(MOST + 1)).unwrap(), ["0 user:*"]);
        assert_eq!(of(users(100_000)).unwrap(), ["0 user:*"]);
        let few = || ["rate:eur".to_owned(), "motto".to_owned()];
        let all = of(few().into_iter().chain(users(40)).chain(few())).unwrap();
        assert_eq!(all, ["0 rate:eur", "0 motto", "0 user:*"]);
        let twice = of(users(3).chain(users(3))).unwrap();
        assert_eq!(twice, ["0 user:0", "0 user:1", "0 user:2"]);
    }

    #[test]
    fn what_cannot_be_said_is_known() {
        assert_eq!(of((0..=MOST).map(|name| format!("name{name}"))), None);
        let long = "k".repeat(300);
        assert_eq!(of([format!("user:{long}")]).unwrap(), ["0 user:*"]);
        assert_eq!(of([long]), None);
    }

    #[test]
    fn a_pattern_selects_a_name_when_it_may_select_one_of_its_values() {
        #[rustfmt::skip]
        let rows = [
            ("user:*", true), ("user:4*", true), ("us*", true), ("*", true), ("*:42", true),
            ("user*2", true), ("users:*", false), ("u:*", false), ("rate:*", false), ("use", false),
        ];
        for (pattern, expected) in rows {
            let pattern = Pattern::new(pattern);
            assert_eq!(
                Dependency::Name("user").is_selected(&pattern),
                expected,
                "{pattern:?}"
            );
        }
    }
}
