//! What the cores synchronise with: `std::sync`, or in tests with `--cfg shuttle` a copy of it whose
//! every step is a choice of the scheduler.

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak, atomic,
};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak, atomic,
};
