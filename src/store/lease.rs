//! A lease across nodes: who fills what all of them miss.
//!
//! It saves calls and no more: whoever cannot take it, or has waited for long enough, fills as if there
//! were none. One whose holder has died ends by itself.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::Notify};

use super::{coherence::Channel, remote::Remote};
use crate::{key::Key, random, timer::within};

/// For a question about a lease.
const ANSWER_WITHIN: Duration = Duration::from_millis(50);
/// To give one back; nobody waits for that.
const GIVE_BACK_WITHIN: Duration = Duration::from_millis(500);

/// The right to fill a key, until it is dropped.
pub(crate) struct Lease {
    channel: Arc<dyn Channel>,
    name: String,
    token: u64,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What came of asking for one.
pub(crate) enum Taken {
    Held(Arc<Lease>),
    /// Another node has it; told when that gives it back.
    Elsewhere(Arc<Notify>),
    /// Nobody could be asked.
    Unknown,
}

impl Remote {
    /// Takes the lease of a key for so long, unless another node has it.
    pub(crate) async fn lease(&self, path: &str, key: &Key, life: Duration) -> Taken {
        let Some(channel) = self.channel().filter(|_| self.is_askable()) else {
            return Taken::Unknown;
        };
        let name = channel.lease_name(&self.place(path, &key.bytes));
        let token = random::number();
        // Before it is asked for: it may be given back in between.
        let given_back = channel.given_back(&name);
        let taken = channel.take_lease(name.clone(), token, life);
        match within(ANSWER_WITHIN, taken).await {
            Some(Ok(true)) => Taken::Held(Arc::new(Lease {
                channel: channel.clone(),
                name,
                token,
            })),
            Some(Ok(false)) => Taken::Elsewhere(given_back),
            Some(Err(_)) | None => Taken::Unknown,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Without a runtime it ends by itself.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (channel, token) = (self.channel.clone(), self.token);
        let name = std::mem::take(&mut self.name);
        runtime.spawn(async move {
            within(GIVE_BACK_WITHIN, channel.give_back(name, token)).await;
        });
    }
}
