//! Many keys at once: what the cache has not is asked of the source together.

use std::sync::Arc;

use tracing::{Instrument, Span};

use super::{Kept, Repository, Source};
use crate::{
    cache::Cache,
    scope::Reading,
    values::{Answer, Found, Lead, LoadError, ValueError, ValueKey, finished, load_together},
};

type Read<S> = Arc<Kept<S>>;

impl<S: Source> Repository<S> {
    /// What the source has under several keys, or the cache, in their order.
    ///
    /// What the cache has not is loaded together ([`Source::load_many`]), but for keys that somebody else is
    /// loading already: those are waited for.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); the first one that there is.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// use tower_response_cache::{Cache, Source};
    ///
    /// struct Squares;
    ///
    /// impl Source for Squares {
    ///     type Key = u64;
    ///     type Value = u64;
    ///     type Error = Infallible;
    ///
    ///     async fn load(&self, number: &u64) -> Result<Option<u64>, Infallible> {
    ///         Ok(Some(number * number))
    ///     }
    ///     async fn save(&self, _: &u64, _: &u64) -> Result<(), Infallible> {
    ///         Ok(())
    ///     }
    ///     async fn delete(&self, _: &u64) -> Result<(), Infallible> {
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::in_memory();
    /// let squares = cache.repository("square", Squares);
    /// let values = squares.get_many([2, 3, 2]).await?;
    /// let values: Vec<_> = values.iter().map(|value| **value).collect();
    /// assert_eq!(values, [Some(4), Some(9), Some(4)]);
    /// assert_eq!(cache.stats().value_loads(), 2);
    /// # Ok::<(), tower_response_cache::LoadError<Infallible>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_many(
        &self,
        keys: impl IntoIterator<Item = S::Key>,
    ) -> Result<Vec<Read<S>>, LoadError<S::Error>> {
        let terms = self.terms()?;
        let mut values: Vec<Option<Read<S>>> = Vec::new();
        let mut led: Vec<(usize, S::Key, Lead<Kept<S>>)> = Vec::new();
        let mut readings = Vec::new();
        let mut others = Vec::new();
        for (at, key) in keys.into_iter().enumerate() {
            let text = self.key(&key)?;
            let reading = Reading::begin(&self.cache);
            // Nobody is waited for here: two that do this at the same time would wait for each other.
            let found = self.cache.lead_or_look(&text, terms);
            values.push(match found {
                Found::Value(hit) => {
                    let answer = Answer::<_, S::Error>::hit(hit);
                    Some(answer.noted(&self.cache, &text, reading)?)
                }
                Found::Lead(lead) => {
                    led.push((at, key, *lead));
                    readings.push((at, text, reading));
                    None
                }
                Found::UnderWay => {
                    others.push((at, key));
                    None
                }
            });
        }
        if !led.is_empty() {
            let (keys, leads) = led.into_iter().map(|(_, key, lead)| (key, lead)).unzip();
            let loaded = self.load_led(keys, leads).await?;
            // All are noted, whichever has failed.
            let mut failed = None;
            for ((at, text, reading), answer) in readings.into_iter().zip(loaded) {
                match answer.noted(&self.cache, &text, reading) {
                    Ok(value) => values[at] = Some(value),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        for (at, key) in others {
            values[at] = Some(self.get(key).await?);
        }
        Ok(values.into_iter().flatten().collect())
    }

    /// Loads in a task, which goes on when whoever asked is dropped.
    async fn load_led(
        &self,
        keys: Vec<S::Key>,
        leads: Vec<Lead<Kept<S>>>,
    ) -> Result<Vec<Answer<Kept<S>, S::Error>>, ValueError> {
        let this = self.clone();
        let texts: Vec<ValueKey> = leads.iter().map(|lead| lead.key().clone()).collect();
        let load = move |missing: Vec<usize>| async move {
            let newest = missing.iter().map(|at| this.newest(&texts[*at]));
            let newest: Vec<Option<Read<S>>> = newest.collect();
            let asked = missing.iter().zip(&newest);
            let asked = asked.filter(|(_, newest)| newest.is_none());
            let asked: Vec<S::Key> = asked.map(|(at, _)| keys[*at].clone()).collect();
            let loaded = match asked.is_empty() {
                true => Vec::new(),
                false => this.source.load_many(&asked).await?,
            };
            let mut loaded = loaded.into_iter();
            let values = newest.into_iter();
            let value_of = |newest: Option<Read<S>>| {
                newest.unwrap_or_else(|| Arc::new(loaded.next().flatten()))
            };
            Ok(values.map(value_of).collect())
        };
        let cache: &Cache = &self.cache;
        match cache.detached() {
            None => Ok(load_together(leads, load).await),
            Some(detached) => {
                let loading = load_together(leads, load).instrument(Span::current());
                finished(detached.spawn(loading).await).ok_or(ValueError::Closed)
            }
        }
    }
}
