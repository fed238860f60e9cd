//! The tags of a response: [`Tags`], those of a [`CachePolicy`], and `Cache-Groups`.

use http::{Extensions, HeaderMap, HeaderName};

use super::{groups::cache_groups, handler::CachePolicy};
use crate::{
    dependencies::{Dependencies, Dependency},
    selector::Tag,
    status::Reason,
};

/// A response may have so many tags, and besides them so many groups (RFC 9875, 2, asks for 32 at
/// least).
pub(crate) const MOST: usize = 32;
/// None of them is longer than that, in bytes.
const LONGEST: usize = 256;

/// The tags of a response, by which it is invalidated together with others
/// ([`Selector::tag`](crate::Selector::tag)).
///
/// Put into the extensions of a response; on axum it is a part of a handler's answer. At most 32 of
/// 256 bytes, those of a [`CachePolicy`] included: a response with more, or longer ones, is not
/// stored (`too-many-tags`). No client sees them. On axum several add up, of a handler and of what stands around
/// it. They are not on a hit: a second cache further out does not learn of them.
///
/// # Examples
///
/// ```
/// use axum::{Json, response::IntoResponse};
/// use tower_response_cache::Tags;
///
/// async fn user() -> impl IntoResponse {
///     (Tags::new(["users", "user:42"]), Json("Ada"))
/// }
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let response = user().await.into_response();
/// assert_eq!(response.extensions().get::<Tags>(), Some(&Tags::new(["users", "user:42"])));
/// # });
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "tags do nothing until they are in the extensions of a response"]
pub struct Tags(Vec<Tag>);

impl Tags {
    /// These tags.
    pub fn new<T: Into<Tag>>(tags: impl IntoIterator<Item = T>) -> Self {
        Self(tags.into_iter().map(Into::into).collect())
    }

    /// These, and one more.
    ///
    /// ```
    /// use tower_response_cache::Tags;
    ///
    /// assert_eq!(Tags::new(["users"]).and(format!("user:{}", 42)), Tags::new(["users", "user:42"]));
    /// ```
    pub fn and(mut self, tag: impl Into<Tag>) -> Self {
        self.0.push(tag.into());
        self
    }

    /// For one answer that has several of them.
    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// The names by which a response is selected, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tagged {
    pub(crate) groups: Box<[Box<str>]>,
    pub(crate) tags: Box<[Box<str>]>,
}

/// What a response is tagged with.
///
/// # Errors
///
/// [`Reason::TooManyTags`], [`Reason::BadTag`]: what cannot all be kept is not stored, or an invalidation would miss it.
pub(crate) fn tagged(headers: &HeaderMap, extensions: &Extensions) -> Result<Tagged, Reason> {
    let groups = cache_groups(headers);
    let tags = extensions.get::<Tags>().map_or(&[][..], |tags| &tags.0);
    let policy = extensions.get::<CachePolicy>();
    let tags = tags.iter().chain(policy.map_or(&[][..], CachePolicy::tags));
    let is_own = |tag: &&Tag| Dependency::of(tag.as_str()).is_none();
    if tags.clone().filter(is_own).any(|tag| tag.check().is_err()) {
        return Err(Reason::BadTag);
    }
    // What a stored response was made from counts for itself.
    let (made_of, tags): (Vec<_>, Vec<_>) = tags
        .map(Tag::as_str)
        .partition(|tag| Dependency::of(tag).is_some());
    let tagged = Tagged {
        groups: bounded(groups.iter().map(String::as_str))?,
        tags: bounded(tags.into_iter())?,
    };
    match made_of.is_empty() {
        true => Ok(tagged),
        false => tagged.made_of(made_of.into_iter(), &[]),
    }
}

impl Tagged {
    /// The same with what a response was made from, and the tags of that.
    pub(crate) fn made_of<'n>(
        self,
        dependencies: impl Iterator<Item = &'n str>,
        tags: &[Box<str>],
    ) -> Result<Self, Reason> {
        let is_dependency = |tag: &str| Dependency::of(tag).is_some();
        let mut all = Dependencies::default();
        for dependency in self.tags.iter().filter(|tag| is_dependency(tag)) {
            all.add_tag(dependency);
        }
        for dependency in dependencies {
            all.add_tag(dependency);
        }
        let own = self.tags.iter().filter(|tag| !is_dependency(tag));
        let tags = own.chain(tags).map(|tag| &**tag);
        let mut tags = bounded(tags)?.into_vec();
        tags.extend_from_slice(all.tags().ok_or(Reason::TooManyTags)?);
        Ok(Self {
            tags: tags.into(),
            ..self
        })
    }
}

fn bounded<'n>(names: impl Iterator<Item = &'n str>) -> Result<Box<[Box<str>]>, Reason> {
    let mut kept: Vec<Box<str>> = Vec::new();
    for name in names {
        if kept.iter().any(|known| **known == *name) {
            continue;
        }
        if kept.len() == MOST || name.len() > LONGEST {
            return Err(Reason::TooManyTags);
        }
        kept.push(name.into());
    }
    Ok(kept.into())
}

/// Whether whoever answered said anything of tags.
pub(crate) fn says_tags(extensions: &Extensions) -> bool {
    let by_policy = |policy: &CachePolicy| !policy.tags().is_empty();
    extensions.get::<Tags>().is_some() || extensions.get::<CachePolicy>().is_some_and(by_policy)
}

/// Takes a field with tags off a response, which no client is to see: separated by commas or spaces,
/// as `Cache-Tag` and `Surrogate-Key` of other caches are.
pub(crate) fn take_tag_field(headers: &mut HeaderMap, name: &HeaderName) -> Vec<Tag> {
    let mut tags = Vec::new();
    for line in headers.get_all(name) {
        // Names that are no UTF-8 are still names, and each the same one every time.
        let line = String::from_utf8_lossy(line.as_bytes());
        let names = line.split([',', ' ', '\t']).filter(|name| !name.is_empty());
        tags.extend(names.map(Tag::new));
    }
    headers.remove(name);
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::headers;

    fn of(tags: Option<Tags>, policy: Option<CachePolicy>) -> Result<Vec<String>, Reason> {
        let mut extensions = Extensions::new();
        tags.map(|tags| extensions.insert(tags));
        policy.map(|policy| extensions.insert(policy));
        let tagged = tagged(&HeaderMap::new(), &extensions)?;
        assert_eq!(tagged.groups.len(), 0);
        Ok(tagged.tags.iter().map(ToString::to_string).collect())
    }

    fn numbered(count: usize, length: usize) -> Tags {
        Tags::new((0..count).map(|number| format!("{number:0length$}")))
    }

    #[test]
    fn tags_come_from_extension_and_policy_each_once() {
        let policy = CachePolicy::new().tag("b").tag("c");
        assert_eq!(of(None, None).unwrap(), [""; 0]);
        assert_eq!(
            of(Some(Tags::new(["a", "b", "a"])), None).unwrap(),
            ["a", "b"]
        );
        let both = of(Some(Tags::new(["a", "b"])), Some(policy)).unwrap();
        assert_eq!(both, ["a", "b", "c"]);
    }

    #[test]
    fn what_has_too_many_tags_or_too_long_ones_is_not_stored() {
        assert_eq!(of(Some(numbered(MOST, LONGEST)), None).unwrap().len(), MOST);
        assert_eq!(
            of(Some(numbered(MOST + 1, 4)), None),
            Err(Reason::TooManyTags)
        );
        for bad in [
            &"1".repeat(LONGEST + 1),
            "",
            "a*",
            "a,b",
            "{a",
            "a}",
            "a\nb",
        ] {
            let bad = of(Some(Tags::new([bad.to_owned()])), None);
            assert_eq!(bad, Err(Reason::BadTag));
        }
        let one_more = CachePolicy::new().tag("one more");
        let both = of(Some(numbered(MOST, 4)), Some(one_more));
        assert_eq!(both, Err(Reason::TooManyTags));
        let groups: Vec<String> = (0..=MOST).map(|number| format!("\"{number}\"")).collect();
        let groups = |count: usize| {
            let line = groups[..count].join(", ");
            tagged(&headers(&[("cache-groups", &line)]), &Extensions::new())
        };
        assert_eq!(groups(MOST).unwrap().groups.len(), MOST);
        assert_eq!(groups(MOST + 1), Err(Reason::TooManyTags));
    }

    #[test]
    fn a_tag_field_is_taken_off_with_its_names() {
        let name = HeaderName::from_static("surrogate-key");
        let mut headers = headers(&[
            ("surrogate-key", "users user:42,  news"),
            ("surrogate-key", ",a\tb, "),
            ("other", "c"),
        ]);
        let tags = take_tag_field(&mut headers, &name);
        let names: Vec<_> = tags.iter().map(Tag::as_str).collect();
        assert_eq!(names, ["users", "user:42", "news", "a", "b"]);
        assert!(!headers.contains_key(&name));
        assert_eq!(headers.len(), 1);
        assert_eq!(take_tag_field(&mut headers, &name), []);
    }
}
