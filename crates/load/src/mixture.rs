//! Mixtures: which dataset, and which of its samples, each draw takes.
//!
//! ```text
//! draw ─▶ block of 2^12 draws ─▶ a place in it, in random order ─▶ source by quota
//!                                                              └▶ the source's next samples
//! ```
//! A block holds exactly its quota of every source, and the places of a quota are numbered, so a
//! draw knows its sample without looking at those before it.

use serde::{Deserialize, Serialize};

use crate::order::{Permutation, mix};
use crate::{Error, Result};

/// Draws in which the quotas are exact.
pub const BLOCK_DRAWS: u64 = 1 << 12;

/// Weights, and from which draw on they hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// The first draw, a multiple of [`BLOCK_DRAWS`].
    pub from: u64,
    /// Of every source; they sum to 1.
    pub weights: Vec<f64>,
}

/// A seekable mixture of sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    seed: u64,
    phases: Vec<(Phase, Quotas)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Quotas {
    /// Sum of the quotas before each source, and of all.
    places: Vec<u64>,
    /// Draws of each source before this phase.
    before: Vec<u64>,
}

impl Mixture {
    /// A mixture whose weights hold from the first draw on.
    ///
    /// # Errors
    /// [`Error::Config`] if the weights are no weights or do not sum to 1, or if one of them
    /// would not come up once in a block.
    pub fn new(weights: &[f64], seed: u64) -> Result<Self> {
        let mut mixture = Self { seed, phases: Vec::new() };
        mixture.push(0, weights)?;
        Ok(mixture)
    }

    /// The mixture that these phases made.
    ///
    /// # Errors
    /// As [`Mixture::new`].
    pub fn of_phases(phases: &[Phase], seed: u64) -> Result<Self> {
        let mut mixture = Self { seed, phases: Vec::new() };
        phases.iter().try_for_each(|phase| mixture.push(phase.from, &phase.weights).map(drop))?;
        Ok(mixture)
    }

    /// Changes the weights at the first block that begins at draw `from` or after it, and forgets
    /// changes that were to come later. Says which draw that is.
    ///
    /// # Errors
    /// As [`Mixture::new`].
    pub fn push(&mut self, from: u64, weights: &[f64]) -> Result<u64> {
        let sources = self.phases.first().map_or(weights.len(), |first| first.0.weights.len());
        let places = quotas(weights, sources)?;
        let from = from.div_ceil(BLOCK_DRAWS) * BLOCK_DRAWS;
        self.phases.retain(|phase| phase.0.from < from);
        let before = match self.phases.last() {
            None => vec![0; sources],
            Some((phase, quotas)) => {
                let blocks = (from - phase.from) / BLOCK_DRAWS;
                let taken = |source: usize| blocks * quotas.quota(source);
                (0..sources).map(|source| quotas.before[source] + taken(source)).collect()
            }
        };
        self.phases.push((Phase { from, weights: weights.to_vec() }, Quotas { places, before }));
        Ok(from)
    }

    /// All weights so far and to come.
    pub fn phases(&self) -> Vec<Phase> {
        self.phases.iter().map(|(phase, _)| phase.clone()).collect()
    }

    /// The source of a draw, and which of all samples ever drawn from it this is. O(1).
    pub fn at(&self, draw: u64) -> (usize, u64) {
        let (phase, quotas) = self.phase(draw);
        let block = (draw - phase.from) / BLOCK_DRAWS;
        let order = Permutation::new(BLOCK_DRAWS, self.seed, mix(phase.from + block));
        let place = order.at((draw - phase.from) % BLOCK_DRAWS);
        let source = quotas.places.partition_point(|&before| before <= place) - 1;
        let number = block * quotas.quota(source) + place - quotas.places[source];
        (source, quotas.before[source] + number)
    }

    /// How many samples each source has given before `draw`. O(a block).
    pub fn taken(&self, draw: u64) -> Vec<u64> {
        let (phase, quotas) = self.phase(draw);
        let blocks = (draw - phase.from) / BLOCK_DRAWS;
        let sources = quotas.before.len();
        let mut taken: Vec<u64> = (0..sources)
            .map(|source| quotas.before[source] + blocks * quotas.quota(source))
            .collect();
        let block = phase.from + blocks * BLOCK_DRAWS;
        (block..draw).for_each(|draw| taken[self.at(draw).0] += 1);
        taken
    }

    fn phase(&self, draw: u64) -> &(Phase, Quotas) {
        let after = self.phases.partition_point(|phase| phase.0.from <= draw);
        &self.phases[after.max(1) - 1]
    }
}

impl Quotas {
    fn quota(&self, source: usize) -> u64 {
        self.places[source + 1] - self.places[source]
    }
}

/// Sums of the quotas in a block: the nearest whole numbers, by largest remainder.
fn quotas(weights: &[f64], sources: usize) -> Result<Vec<u64>> {
    if weights.len() != sources || weights.is_empty() {
        return Err(Error::config("weights", format!("{sources} of them"), weights.len()));
    }
    if let Some(wrong) = weights.iter().find(|w| !w.is_finite() || **w < 0.0) {
        return Err(Error::config("weight", "0 or more", wrong));
    }
    let sum: f64 = weights.iter().sum();
    if (sum - 1.0).abs() > 1e-6 {
        return Err(Error::config("weights", "a sum of 1", sum));
    }
    let exact: Vec<f64> = weights.iter().map(|w| w / sum * BLOCK_DRAWS as f64).collect();
    let mut whole: Vec<u64> = exact.iter().map(|share| *share as u64).collect();
    let mut by_rest: Vec<usize> = (0..sources).collect();
    by_rest.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let missing = BLOCK_DRAWS.saturating_sub(whole.iter().sum()) as usize;
    by_rest.iter().cycle().take(missing).for_each(|&source| whole[source] += 1);
    if let Some(source) = (0..sources).find(|&s| weights[s] > 0.0 && whole[s] == 0) {
        let expected = format!("0 or at least {:.6}", 0.5 / BLOCK_DRAWS as f64);
        return Err(Error::config("weight", expected, weights[source]));
    }
    let mut places = vec![0];
    whole.iter().for_each(|quota| places.push(places.last().copied().unwrap_or(0) + quota));
    Ok(places)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn weights(parts: &[u32]) -> Vec<f64> {
        let sum: u32 = parts.iter().sum();
        parts.iter().map(|&part| f64::from(part) / f64::from(sum)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        /// The slow way: walk through all draws and count.
        #[test]
        fn every_block_is_exact_and_every_sample_of_a_source_comes_once(
            first in prop::collection::vec(1_u32..50, 1..5),
            change in 0_u64..20_000,
            seed in any::<u64>(),
        ) {
            let mut mixture = Mixture::new(&weights(&first), seed).unwrap();
            let second: Vec<u32> = first.iter().rev().copied().collect();
            let from = mixture.push(change, &weights(&second)).unwrap();
            prop_assert!(from >= change && from < change + BLOCK_DRAWS);
            let mut seen = vec![BTreeSet::new(); first.len()];
            for block in 0..8 {
                let mut counts = vec![0_u64; first.len()];
                for draw in block * BLOCK_DRAWS..(block + 1) * BLOCK_DRAWS {
                    let (source, number) = mixture.at(draw);
                    counts[source] += 1;
                    prop_assert!(seen[source].insert(number), "{number} of {source} twice");
                }
                let parts = if block * BLOCK_DRAWS < from { &first } else { &second };
                for (count, weight) in counts.iter().zip(weights(parts)) {
                    let exact = weight * BLOCK_DRAWS as f64;
                    prop_assert!((*count as f64 - exact).abs() < 1.0, "{count} of {exact}");
                }
            }
            for seen in &seen {
                // None is left out either.
                prop_assert_eq!(seen.last().map_or(0, |last| last + 1), seen.len() as u64);
            }
            let taken = mixture.taken(8 * BLOCK_DRAWS);
            prop_assert_eq!(taken, seen.iter().map(|s| s.len() as u64).collect::<Vec<_>>());
            let again = Mixture::of_phases(&mixture.phases(), seed).unwrap();
            prop_assert_eq!(again, mixture);
        }
    }

    #[test]
    fn what_are_no_weights_is_said() {
        for (wrong, words) in [
            (&[0.5, 0.4][..], "weights: expected a sum of 1, found 0.9"),
            (&[1.5, -0.5], "weight: expected 0 or more, found -0.5"),
            (&[f64::NAN, 1.0], "weight: expected 0 or more, found NaN"),
            (&[0.999_999, 0.000_001], "weight: expected 0 or at least 0.000122"),
            (&[], "weights: expected 0 of them, found 0"),
        ] {
            let error = Mixture::new(wrong, 0).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
        let mut mixture = Mixture::new(&[0.25, 0.75], 0).unwrap();
        assert!(mixture.push(10, &[1.0]).is_err());
        assert_eq!(mixture.push(10, &[0.0, 1.0]).unwrap(), BLOCK_DRAWS);
        assert!((BLOCK_DRAWS..3 * BLOCK_DRAWS).all(|draw| mixture.at(draw).0 == 1));
    }
}
