//! Time limits, in tokio's time.
//!
//! Outside of a runtime, or in one that was built without timers, there is no clock that could stop
//! anything: work then takes as long as it takes. The cache never makes a request fail for that.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::{
    runtime::{Handle, Id},
    time::{Instant, Sleep},
};

/// So much later; durations beyond all sense are some decades.
pub(crate) fn after(duration: Duration) -> Instant {
    later(Instant::now(), duration)
}

/// The same, counted from another moment.
pub(crate) fn later(moment: Instant, duration: Duration) -> Instant {
    const DECADES: Duration = Duration::from_secs(1 << 30);
    moment + duration.min(DECADES)
}

/// The output of `future`, unless it takes longer.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    until(after(limit), future).await
}

/// The output of `future`, if it is there in time.
pub(crate) async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut sleep = pin!(None);
    let mut is_tried = false;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // Only now: most work is ready at once.
        if !mem::replace(&mut is_tried, true) {
            sleep.set(timer(deadline));
        }
        match sleep.as_mut().as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// The output of `future`, unless `end` comes before; then it is not polled any more.
pub(crate) async fn unless<T>(
    end: impl Future<Output = ()>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let (mut end, mut future) = (pin!(end), pin!(future));
    poll_fn(|cx| match end.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(cx).map(Some),
    })
    .await
}

/// A pause, where there is a clock; says whether there was.
pub(crate) async fn pause(duration: Duration) -> bool {
    match timer(after(duration)) {
        Some(timer) => {
            timer.await;
            true
        }
        None => false,
    }
}

/// A timer of this runtime. Whether it has any is not to be asked, only to be tried, which tells the
/// panic hook when it has none; so each thread tries once for a runtime.
pub(crate) fn timer(deadline: Instant) -> Option<Sleep> {
    thread_local! {
        static HAS_NONE: Cell<Option<Id>> = const { Cell::new(None) };
    }
    let runtime = Handle::try_current().ok()?.id();
    if HAS_NONE.get() == Some(runtime) {
        return None;
    }
    let timer = catch_unwind(AssertUnwindSafe(|| tokio::time::sleep_until(deadline))).ok();
    if timer.is_none() {
        HAS_NONE.set(Some(runtime));
    }
    timer
}

/// Whether there is a clock.
pub(crate) fn is_there() -> bool {
    timer(Instant::now()).is_some()
}
