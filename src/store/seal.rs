//! What stands around a frame on its way to a store and back.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::status::FrameFault;

type SealFn = dyn Fn(Bytes) -> Bytes + Send + Sync;
type OpenFn = dyn Fn(Bytes) -> Option<Bytes> + Send + Sync;

/// Two functions around every frame, so that a store sees nothing of what it keeps.
///
/// An AEAD is what they should be: it hides the frame, and refuses one that somebody changed. The
/// frame holds its full key, so nothing has to be added against frames put under other keys. Names
/// of keys in the store are not sealed, and neither is the length. A frame that cannot be opened,
/// as after a change of the secret, is a miss, counted as [`FrameFault::Unsealed`].
///
/// # Examples
///
/// A random nonce of 24 bytes stands in front of what is encrypted:
///
/// ```
/// use bytes::Bytes;
/// use chacha20poly1305::{AeadCore, KeyInit, XChaCha20Poly1305, aead::{Aead, OsRng}};
///
/// let secret = [7; 32]; // Yours comes from where your secrets are.
/// let cipher = XChaCha20Poly1305::new(&secret.into());
/// let opener = cipher.clone();
///
/// let seal = move |frame: Bytes| {
///     let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
///     let sealed = cipher.encrypt(&nonce, &*frame).expect("far below the longest message");
///     Bytes::from([&nonce[..], &sealed].concat())
/// };
/// let open = move |sealed: Bytes| {
///     let (nonce, sealed) = sealed.split_at_checked(24)?;
///     opener.decrypt(nonce.into(), sealed).ok().map(Bytes::from)
/// };
///
/// assert_eq!(open(seal(Bytes::from("a frame"))).unwrap(), "a frame");
/// assert_eq!(open(Bytes::from("somebody else's bytes, sealed or not")), None);
/// ```
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
