//! What stands around a frame on its way to a store and back.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::status::FrameFault;

type SealFn = dyn Fn(Bytes) -> Bytes + Send + Sync;
type OpenFn = dyn Fn(Bytes) -> Option<Bytes> + Send + Sync;

/// Two functions around every frame, see [`CacheBuilder::seal`](crate::CacheBuilder::seal).
#[derive(Clone)]
pub(crate) struct Seal {
    seal: Arc<SealFn>,
    open: Arc<OpenFn>,
}

impl Seal {
    pub(crate) fn new(
        seal: impl Fn(Bytes) -> Bytes + Send + Sync + 'static,
        open: impl Fn(Bytes) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self {
            seal: Arc::new(seal),
            open: Arc::new(open),
        }
    }

    /// What goes to the store in place of `frame`.
    pub(crate) fn seal(&self, frame: Bytes) -> Bytes {
        (self.seal)(frame)
    }

    /// The frame that was sealed as `bytes`.
    ///
    /// # Errors
    ///
    /// [`FrameFault::Unsealed`] when it was not, or with another secret.
    pub(crate) fn open(&self, bytes: Bytes) -> Result<Bytes, FrameFault> {
        (self.open)(bytes).ok_or(FrameFault::Unsealed)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds and takes away a first byte; no more than a stand-in for an AEAD.
    fn marked(with: u8) -> Seal {
        Seal::new(
            move |frame| Bytes::from([&[with], &frame[..]].concat()),
            move |sealed| (sealed.first() == Some(&with)).then(|| sealed.slice(1..)),
        )
    }

    #[test]
    fn a_seal_opens_its_own_frames_and_no_others() {
        let sealed = marked(1).seal(Bytes::from("frame"));
        assert_eq!(sealed, "\x01frame");
        assert_eq!(marked(1).open(sealed.clone()), Ok(Bytes::from("frame")));
        assert_eq!(marked(2).open(sealed), Err(FrameFault::Unsealed));
        assert_eq!(marked(2).open(Bytes::new()), Err(FrameFault::Unsealed));
    }
}
