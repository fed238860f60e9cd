//! What panics in the background ends nothing but itself.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// The output of `work`; nothing where it panicked, of which the panic hook has told.
pub(crate) async fn unpanicked<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let poll = AssertUnwindSafe(|| work.as_mut().poll(cx).map(Some));
        // A future that has panicked is not polled again.
        catch_unwind(poll).unwrap_or(Poll::Ready(None))
    })
    .await
}
