//! Chance, where nothing depends on its quality.

use std::hash::{BuildHasher, RandomState};

/// Any number.
pub(crate) fn number() -> u64 {
    // The keys of each state differ.
    RandomState::new().hash_one(())
}

/// A number of at least 0 and below 1.
pub(crate) fn fraction() -> f64 {
    // 53 bits are all that a fraction holds.
    (number() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_spread_and_below_one() {
        let drawn: Vec<f64> = (0..1000).map(|_| fraction()).collect();
        assert!(drawn.iter().all(|part| (0.0..1.0).contains(part)));
        for tenth in 0..10 {
            let part = f64::from(tenth) / 10.0;
            assert!(drawn.iter().any(|drawn| (part..part + 0.1).contains(drawn)));
        }
    }
}
