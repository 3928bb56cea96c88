//! Exact Jaccard similarity of sets of shingles.

use serde::{Deserialize, Serialize};

/// A similarity in ten-thousandths, so that comparisons are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Threshold(u32);

const ONE: u32 = 10_000;

impl Default for Threshold {
    fn default() -> Self {
        Self(8_000)
    }
}

impl Threshold {
    /// From a number above 0 and up to 1, with at most four decimals.
    pub fn new(similarity: f64) -> Option<Self> {
        let parts = similarity * f64::from(ONE);
        let whole = parts.round();
        let exact = (parts - whole).abs() < 1e-6 && (1.0..=f64::from(ONE)).contains(&whole);
        exact.then_some(Self(whole as u32))
    }

    /// As a number from 0 to 1.
    pub fn value(self) -> f64 {
        f64::from(self.0) / f64::from(ONE)
    }

    /// Is a similarity of `shared` of `all` at least this?
    pub fn is_met(self, shared: usize, all: usize) -> bool {
        shared as u128 * u128::from(ONE) >= all as u128 * u128::from(self.0)
    }
}

/// Sorts shingles and drops repeats: the form that [`compare`] takes.
pub fn set(shingles: &[u64]) -> Vec<u64> {
    let mut set = shingles.to_vec();
    set.sort_unstable();
    set.dedup();
    set
}

/// The Jaccard similarity of two sets, if it is at least `threshold`.
///
/// Cost: one pass over both, none if their sizes alone rule it out.
pub fn compare(a: &[u64], b: &[u64], threshold: Threshold) -> Option<f32> {
    let (small, large) = if a.len() < b.len() { (a, b) } else { (b, a) };
    if large.is_empty() || !threshold.is_met(small.len(), large.len()) {
        return None;
    }
    let shared = shared(a, b);
    let all = a.len() + b.len() - shared;
    threshold.is_met(shared, all).then(|| (shared as f64 / all as f64) as f32)
}

/// Size of the intersection of two sorted sets.
fn shared(a: &[u64], b: &[u64]) -> usize {
    let (mut at, mut to, mut shared) = (0, 0, 0);
    while at < a.len() && to < b.len() {
        let (x, y) = (a[at], b[to]);
        // Without branches: which one is smaller is a matter of chance.
        shared += usize::from(x == y);
        at += usize::from(x <= y);
        to += usize::from(y <= x);
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_threshold_is_met_exactly() {
        let threshold = Threshold::new(0.8).unwrap();
        assert!(threshold.is_met(4, 5) && !threshold.is_met(399_999, 500_000));
        assert_eq!(threshold, Threshold::default());
        for wrong in [0.0, -1.0, 1.1, 0.80005, f64::NAN, 1e-9] {
            assert_eq!(Threshold::new(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            a in prop::collection::vec(0..40_u64, 0..50),
            b in prop::collection::vec(0..40_u64, 0..50),
            threshold in 1..=10_000_u32,
        ) {
            let threshold = Threshold(threshold);
            let sets = [&a, &b].map(|v| v.iter().copied().collect::<BTreeSet<u64>>());
            let shared = sets[0].intersection(&sets[1]).count();
            let all = sets[0].union(&sets[1]).count();
            let expected = (all > 0 && threshold.is_met(shared, all))
                .then(|| (shared as f64 / all as f64) as f32);
            prop_assert_eq!(compare(&set(&a), &set(&b), threshold), expected);
        }
    }
}
