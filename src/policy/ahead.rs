//! When a response is refreshed although it is fresh still: at random, the sooner the more it cost, so
//! that those who ask for it at its end do not all find it stale
//! ([Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015][p]).
//!
//! [p]: https://www.vldb.org/pvldb/vol8/p886-vattani.pdf

use crate::entry::Millis;

/// `-ln` of the smallest number that is drawn, 2⁻⁵³.
const FARTHEST: f64 = 36.8;

/// Whether the request that found it is the one to refresh it: with so long left, after a fill that took
/// so long. `draw` gives a number of at least 0 and below 1, and is called only where that matters.
pub(crate) fn is_ahead(
    left: Millis,
    cost: Millis,
    eagerness: f64,
    draw: impl FnOnce() -> f64,
) -> bool {
    let reach = cost as f64 * eagerness;
    let left = left as f64;
    // now - delta * beta * ln(rand) >= expiry
    left <= reach * FARTHEST && left <= reach * -(1.0 - draw()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number that makes a request refresh from so many times the cost before the end on.
    fn reaching(times: f64) -> f64 {
        1.0 - (-times).exp()
    }

    #[test]
    fn a_response_is_refreshed_by_chance_before_its_end_by_what_it_cost() {
        let half = reaching(0.5);
        let seven = reaching(7.0);
        #[rustfmt::skip]
        let rows = [
            ("the middle of the chances", 500, 1_000, 1.0, half, true),
            ("and with more time left", 502, 1_000, 1.0, half, false),
            ("one of a thousand", 6_999, 1_000, 1.0, seven, true),
            ("and with more time left", 7_001, 1_000, 1.0, seven, false),
            ("what costs ten times as much", 4_999, 10_000, 1.0, half, true),
            ("twice as eager", 999, 1_000, 2.0, half, true),
            ("half as eager", 251, 1_000, 0.5, half, false),
            ("the least that is drawn", 1, 1_000, 1.0, 0.0, false),
            ("the most that is drawn", 36_700, 1_000, 1.0, 1.0 - f64::EPSILON / 2.0, true),
            ("what cost nothing", 1, 0, 1.0, seven, false),
            ("what is not wanted", 1, 1_000, 0.0, seven, false),
        ];
        for (sentence, left, cost, eagerness, drawn, expected) in rows {
            let is_ahead = is_ahead(left, cost, eagerness, || drawn);
            assert_eq!(is_ahead, expected, "{sentence}");
        }
    }

    #[test]
    fn no_number_is_drawn_where_none_would_matter() {
        assert!(!is_ahead(36_801, 1_000, 1.0, || panic!("far from its end")));
        assert!(!is_ahead(1, 0, 1.0, || panic!("it cost nothing")));
    }
}
