//! What an invalidation has done, and how far it has come.

use std::{fmt, sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::{
    cache::Cache,
    error::{SelectorError, StoreError},
    selector::Selector,
    store::coherence::Coherence,
};

/// What [`Cache::invalidate`](crate::Cache::invalidate) has done.
///
/// When it is returned, no later request on this node is answered with what was selected, nor with
/// the result of a fill that was under way; after a soft one, only as what is stale. Where nodes share
/// a store with an invalidation log, the others are being told: that goes on whether or not this is
/// kept, and again until it is done or the process ends. Each of them heeds it as soon as it hears of
/// it, one second later at the latest.
///
/// # Examples
///
/// ```
/// use tower_response_cache::{Cache, Selector};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = Cache::in_memory();
/// // db.update(user)?;
/// let done = cache.invalidate(Selector::tag("users"));
/// assert!(!done.is_pending(), "there are no other nodes");
/// done.everywhere().await?; // For those who need it: an error where others may not know yet.
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Invalidated {
    sequence: u64,
    others: Others,
    /// By whom, and what, to do it again.
    by: Option<Cache>,
    selectors: SmallVec<[Selector; 1]>,
}

/// Who else has to know.
#[derive(Clone)]
pub(crate) enum Others {
    Nobody,
    /// A store without a log, which tells nobody.
    Untold,
    Told(Arc<Coherence>),
    /// Nothing was done.
    Refused(SelectorError),
}

impl Invalidated {
    pub(crate) fn new(sequence: u64, others: Others) -> Self {
        Self {
            sequence,
            others,
            by: None,
            selectors: SmallVec::new(),
        }
    }

    /// Where there was nothing to do.
    pub(crate) fn nothing(sequence: u64) -> Self {
        Self::new(sequence, Others::Nobody)
    }

    pub(crate) fn of(mut self, cache: &Cache, selector: Selector) -> Self {
        self.by = Some(cache.clone());
        self.selectors.push(selector);
        self
    }

    /// Both, of which this was the earlier: they are told in their order.
    pub(crate) fn and(self, mut later: Self) -> Self {
        let mut selectors = self.selectors;
        selectors.append(&mut later.selectors);
        Self { selectors, ..later }
    }

    /// Does it once more after `lag`, in a task, for services that read from replicas: until a replica has the
    /// change, a fill may read what was there before, and would be stored after the first invalidation.
    ///
    /// Give the longest time by which replicas lag behind. When the cache is closed it is done at once. Outside of a
    /// tokio runtime it is not repeated.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_response_cache::{Cache, Selector};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let cache = Cache::in_memory();
    /// // db.update(user).await?;
    /// cache.invalidate(Selector::tag("users")).again_after(Duration::from_secs(2));
    /// assert_eq!(cache.sequence().number(), 1);
    /// cache.close().await;
    /// assert_eq!(cache.sequence().number(), 2);
    /// # }
    /// ```
    pub fn again_after(self, lag: Duration) -> Self {
        if let Some(cache) = self.by.as_ref().filter(|_| !self.selectors.is_empty()) {
            cache.again_after(lag, self.selectors.to_vec());
        }
        self
    }

    /// The number of the record on this node; later invalidations have higher ones.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the shared log does not have it yet. Right after the call it rarely does; where the store
    /// cannot be reached, this stays so until it can.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        match &self.others {
            Others::Told(coherence) => !coherence.is_told(self.sequence),
            Others::Nobody | Others::Untold | Others::Refused(_) => false,
        }
    }

    /// Why nothing was invalidated, here or elsewhere: the selector makes no sense
    /// ([`Selector::check`](crate::Selector::check)). A warning says so, too.
    #[must_use]
    pub fn refused(&self) -> Option<&SelectorError> {
        match &self.others {
            Others::Refused(why) => Some(why),
            Others::Nobody | Others::Untold | Others::Told(_) => None,
        }
    }

    /// Waits until the shared log has it, half a second at the most: from then on no node that reads
    /// from the store sees what was selected, and what other nodes have in memory follows within one
    /// second.
    ///
    /// # Errors
    ///
    /// Why it does not have it: the selector was refused, or the store cannot be told now. Then it is done on this node all the same, and the others are told as soon
    /// as the store can be reached, unless the process ends before.
    pub async fn everywhere(&self) -> Result<(), StoreError> {
        match &self.others {
            Others::Nobody => Ok(()),
            Others::Untold => Err(StoreError::new(
                "this store keeps no log of invalidations: other nodes go on with what they have in memory",
            )),
            Others::Told(coherence) => coherence.told(self.sequence).await,
            Others::Refused(why) => Err(StoreError::refused(why.to_string())),
        }
    }
}

impl fmt::Debug for Invalidated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidated")
            .field("sequence", &self.sequence)
            .field("is_pending", &self.is_pending())
            .finish()
    }
}
