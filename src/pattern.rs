//! Patterns over paths and names: text in which `*` stands for any run of characters.

/// A pattern, sorted by how it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Without `*`.
    Exact(Box<str>),
    /// With one `*`, at its end, which is not kept.
    Prefix(Box<str>),
    Glob(Box<str>),
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        match text.find('*') {
            None => Self::Exact(text.into()),
            Some(at) if text[at..].bytes().all(|byte| byte == b'*') => {
                Self::Prefix(text[..at].into())
            }
            Some(_) => Self::Glob(text.into()),
        }
    }

    /// Whether some text may fit that is `name`, or begins with `name:`. Rather too often than too seldom.
    pub(crate) fn may_fit_below(&self, name: &str) -> bool {
        let text = match self {
            Self::Exact(text) => {
                let rest = text.strip_prefix(name);
                return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
            }
            Self::Prefix(text) => text,
            Self::Glob(text) => text.split('*').next().unwrap_or_default(),
        };
        // Up to where both say something.
        let below = format!("{name}:");
        text.starts_with(&*below) || below.starts_with(text)
    }

    /// Whether all of `name` fits. Takes time in proportion to pattern and name at the worst, and to
    /// the name in most cases: nobody can make it slow.
    pub(crate) fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *name,
            Self::Prefix(text) => name.starts_with(&**text),
            Self::Glob(text) => glob_fits(text, name),
        }
    }
}

/// The pieces between the stars, one after the other, each at the first place where it is: a later
/// place leaves less for what follows.
fn glob_fits(glob: &str, name: &str) -> bool {
    let mut pieces = glob.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        // `str::find` is the two-way search: linear, whatever the pieces are.
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_run_of_characters_and_all_else_itself() {
        #[rustfmt::skip]
        let rows = [
            ("/users", "/users", true),
            ("/users", "/users/", false),
            ("/users", "/user", false),
            ("/users/*", "/users/42", true),
            ("/users/*", "/users/42/posts", true),
            ("/users/*", "/users/", true),
            ("/users/*", "/users", false),
            ("*", "", true),
            ("*", "/anything", true),
            ("**", "x", true),
            ("*/posts", "/users/42/posts", true),
            ("*/posts", "/users/42/posts/1", false),
            ("/users/*/posts", "/users/42/posts", true),
            ("/users/*/posts", "/users//posts", true),
            ("/users/*/posts", "/users/posts", false),
            ("/a*a", "/a", false),
            ("/a*a", "/aa", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("*ab*ab", "ab", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab*", "xabyabz", true),
            ("a?c", "abc", false),
            ("a?c", "a?c", true),
            ("[a-z]", "b", false),
            ("ü*ß", "über Maß", true),
            ("", "", true),
            ("", "x", false),
        ];
        for (pattern, name, expected) in rows {
            assert_eq!(
                Pattern::new(pattern).fits(name),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_pattern_is_sorted_by_its_stars() {
        assert_eq!(Pattern::new("a"), Pattern::Exact("a".into()));
        assert_eq!(Pattern::new("a*"), Pattern::Prefix("a".into()));
        assert_eq!(Pattern::new("a**"), Pattern::Prefix("a".into()));
        assert_eq!(Pattern::new("*a"), Pattern::Glob("*a".into()));
    }

    /// What a slow and plain reading of the definition says.
    fn by_definition(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) => by_definition(rest, name),
            (Some((b'*', rest)), Some((_, shorter))) => {
                by_definition(rest, name) || by_definition(pattern, shorter)
            }
            (Some((byte, rest)), Some((first, shorter))) => {
                byte == first && by_definition(rest, shorter)
            }
            _ => false,
        }
    }

    #[test]
    fn every_short_pattern_fits_what_the_definition_says() {
        let texts = |letters: &[u8], longest: u32| {
            let mut all = vec![Vec::new()];
            for length in 1..=longest {
                let longer: Vec<Vec<u8>> = all
                    .iter()
                    .filter(|text: &&Vec<u8>| text.len() as u32 == length - 1)
                    .flat_map(|text| {
                        letters
                            .iter()
                            .map(|letter| [&text[..], &[*letter]].concat())
                    })
                    .collect();
                all.extend(longer);
            }
            all
        };
        let mut fitting = 0;
        for pattern in texts(b"ab*", 5) {
            let text = std::str::from_utf8(&pattern).unwrap();
            let parsed = Pattern::new(text);
            for name in texts(b"ab", 5) {
                let fits = parsed.fits(std::str::from_utf8(&name).unwrap());
                assert_eq!(fits, by_definition(&pattern, &name), "{text} {name:?}");
                fitting += usize::from(fits);
            }
        }
        assert!(fitting > 2_000, "{fitting}");
    }
}
