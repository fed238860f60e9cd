//! What a store has to be whose entries can be walked through, to take out those that nobody can use
//! any more (`remote/purging.rs`).

use std::{fmt, time::Duration};

use bytes::Bytes;

use super::{StoreFuture, StoreKey};

/// See the [module](self). Nodes walk one at a time, and no further than they have to.
pub(crate) trait Walk: fmt::Debug + Send + Sync + 'static {
    /// What an entry is called.
    fn name_of(&self, key: &StoreKey<'_>) -> Bytes;

    /// Takes the turn, or keeps it for so long again, to walk for the records up to a number.
    fn turn<'a>(&'a self, turn: &'a Turn<'a>, life: Duration) -> StoreFuture<'a, Taken>;

    /// Gives the turn back; nobody has to walk for the records up to its number any more.
    fn walked<'a>(&'a self, turn: &'a Turn<'a>) -> StoreFuture<'a, ()>;

    /// Some names of what may be entries of a version, from a place on.
    fn names<'a>(&'a self, version: Option<&'a str>, from: &'a Place) -> StoreFuture<'a, Names>;

    /// With how many bytes at most each of these begins; nothing of what is not there.
    fn starts<'a>(&'a self, names: &'a [Bytes], limit: usize) -> StoreFuture<'a, Vec<Bytes>>;

    /// Takes out those that still begin with these bytes; how many did.
    fn take_out<'a>(&'a self, those: &'a [(Bytes, Bytes)]) -> StoreFuture<'a, u64>;
}

/// The turn of a walk.
#[derive(Debug)]
pub(crate) struct Turn<'t> {
    pub(crate) version: Option<&'t str>,
    /// Whose it is.
    pub(crate) token: u64,
    /// The records that the walk is for.
    pub(crate) number: u64,
}

/// What came of asking for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Held,
    /// Another node walks.
    Elsewhere,
    /// Another node has walked for these records.
    Walked,
}

/// How far a walk has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which of several servers; empty before the first, or where there is one.
    pub(crate) server: String,
    pub(crate) cursor: u64,
}

/// A part of what a walk finds.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) names: Vec<Bytes>,
    /// Where it goes on; `None` at its end.
    pub(crate) next: Option<Place>,
}
