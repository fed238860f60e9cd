//! What can be said of a value that is loaded by itself: the same words for an entry and for a function.

use std::{sync::Arc, time::Duration};

use super::{
    error::ValueError,
    stored::FOREVER,
    terms::{Terms, Ttl, checked_tags, checked_ttl, window},
};
use crate::selector::Tag;

/// Terms that are being made, or the first thing that was wrong with them.
pub(crate) type Making<V> = Result<Arc<Terms<V>>, ValueError>;

/// Changes terms that nobody else sees.
pub(crate) fn change<V>(
    terms: &mut Making<V>,
    change: impl FnOnce(&mut Terms<V>) -> Result<(), ValueError>,
) {
    if let Ok(made) = terms {
        if let Err(error) = change(Arc::make_mut(made)) {
            *terms = Err(error);
        }
    }
}

pub(crate) fn set_ttl<V>(terms: &mut Terms<V>, ttl: Duration) -> Result<(), ValueError> {
    terms.ttl = Ttl::Fixed(checked_ttl(ttl)?);
    Ok(())
}

pub(crate) fn set_forever<V>(terms: &mut Terms<V>) -> Result<(), ValueError> {
    terms.ttl = Ttl::Fixed(FOREVER);
    Ok(())
}

pub(crate) fn set_absent<V>(terms: &mut Terms<V>, ttl: Duration) -> Result<(), ValueError> {
    terms.absent = Some(checked_ttl(ttl)?);
    Ok(())
}

pub(crate) fn set_tags<V, T: Into<Tag>>(
    terms: &mut Terms<V>,
    tags: impl IntoIterator<Item = T>,
) -> Result<(), ValueError> {
    terms.tags = checked_tags(tags)?;
    Ok(())
}

pub(crate) fn set_windows<V>(
    terms: &mut Terms<V>,
    while_revalidate: Option<Duration>,
    if_error: Option<Duration>,
) -> Result<(), ValueError> {
    let staleness = &mut terms.staleness;
    if let Some(given) = while_revalidate {
        staleness.while_revalidate = window(given);
    }
    if let Some(given) = if_error {
        staleness.if_error = window(given);
    }
    Ok(())
}

/// The methods, for a type with `terms` in it.
macro_rules! options {
    ($value:ty) => {
        /// For how long it is fresh. Less than a millisecond and more than a hundred years are errors.
        pub fn ttl(mut self, ttl: std::time::Duration) -> Self {
            $crate::values::options::change(&mut self.terms, |terms| {
                $crate::values::options::set_ttl(terms, ttl)
            });
            self
        }

        /// For how long it is fresh, by what it is: a token until it expires. Nothing, where it is not to be
        /// kept; no more than a hundred years.
        pub fn ttl_by(
            mut self,
            ttl: impl Fn(&$value) -> std::time::Duration + Send + Sync + 'static,
        ) -> Self {
            $crate::values::options::change(&mut self.terms, |terms| {
                terms.ttl = $crate::values::terms::Ttl::By(std::sync::Arc::new(ttl));
                Ok(())
            });
            self
        }

        /// Until it is deleted, invalidated or evicted.
        pub fn forever(mut self) -> Self {
            $crate::values::options::change(&mut self.terms, $crate::values::options::set_forever);
            self
        }

        /// Keeps `None`, too, for a time of its own. Default: it is returned and not kept.
        pub fn cache_absent(mut self, ttl: std::time::Duration) -> Self {
            $crate::values::options::change(&mut self.terms, |terms| {
                $crate::values::options::set_absent(terms, ttl)
            });
            self
        }

        /// Names under which it is invalidated together with other values and with responses
        /// ([`Selector::tag`](crate::Selector::tag)): up to 32 of 256 bytes. Default: none.
        pub fn tags<T: Into<crate::Tag>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
            $crate::values::options::change(&mut self.terms, |terms| {
                $crate::values::options::set_tags(terms, tags)
            });
            self
        }

        /// For how long a stale value is still used, while one load in the background obtains a newer one; where
        /// that fails, another one tries a second later. Default: not at all.
        pub fn stale_while_revalidate(mut self, window: std::time::Duration) -> Self {
            $crate::values::options::change(&mut self.terms, |terms| {
                $crate::values::options::set_windows(terms, Some(window), None)
            });
            self
        }

        /// For how long a stale value stands in for a load that fails or takes longer than a limit.
        /// Default: not at all.
        pub fn stale_if_error(mut self, window: std::time::Duration) -> Self {
            $crate::values::options::change(&mut self.terms, |terms| {
                $crate::values::options::set_windows(terms, None, Some(window))
            });
            self
        }

        /// Refreshes it in the background before its end, at random, and the sooner the more its load cost, so
        /// that a value that many ask for is never missed. 1 is a good eagerness, more is sooner. Default: 0,
        /// not at all; so is what is no positive number.
        pub fn refresh_ahead(mut self, eagerness: f64) -> Self {
            $crate::values::options::change(&mut self.terms, |terms| {
                terms.eagerness = if eagerness > 0.0 { eagerness } else { 0.0 };
                Ok(())
            });
            self
        }

        /// After so long a stale value stands in for a load that is under way, if there is one
        /// ([`stale_if_error`](Self::stale_if_error)); the load goes on. Default: none.
        pub fn soft_limit(mut self, limit: std::time::Duration) -> Self {
            $crate::values::options::change(&mut self.terms, |terms| {
                terms.soft = Some(limit);
                Ok(())
            });
            self
        }

        /// After so long a load is dropped, and has failed with
        /// [`ValueError::TooSlow`](crate::ValueError::TooSlow). Default: none.
        pub fn hard_limit(mut self, limit: std::time::Duration) -> Self {
            $crate::values::options::change(&mut self.terms, |terms| {
                terms.hard = Some(limit);
                Ok(())
            });
            self
        }
    };
}

pub(crate) use options;
