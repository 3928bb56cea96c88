//! The order of samples: a pseudo-random permutation that is computed, not stored.

/// A permutation of `0..len`, one of practically as many as there are `(seed, epoch)`.
///
/// An unbalanced Feistel network over the least number of bits that holds `len`, so a domain of
/// at most `2 × len`; values outside are walked on until one falls inside. No memory, any place
/// in O(1): two walks on average at worst.
/// Source: Black, Rogaway, *Ciphers with Arbitrary Finite Domains*, CT-RSA 2002.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    left_bits: u32,
    right_bits: u32,
    keys: [u64; ROUNDS],
}

/// Even, so that both halves have their widths again at the end.
const ROUNDS: usize = 6;

impl Permutation {
    /// The permutation of `0..len` for this seed and epoch.
    pub fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let bits = (64 - len.saturating_sub(1).leading_zeros()).max(2);
        let mut key = mix(seed ^ mix(epoch));
        let keys = [(); ROUNDS].map(|()| {
            key = mix(key);
            key
        });
        Self { len, left_bits: bits / 2, right_bits: bits - bits / 2, keys }
    }

    /// Where `position` goes.
    ///
    /// # Panics
    /// If `position` is not below the length.
    pub fn at(&self, position: u64) -> u64 {
        assert!(position < self.len, "position {position} of {}", self.len);
        let mut value = position;
        loop {
            value = self.encrypt(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn encrypt(&self, value: u64) -> u64 {
        let mask = |bits: u32| (1_u64 << bits) - 1;
        let (mut left_bits, mut right_bits) = (self.left_bits, self.right_bits);
        let (mut left, mut right) = (value >> right_bits, value & mask(right_bits));
        for key in self.keys {
            let next = (left ^ mix(right ^ key)) & mask(left_bits);
            (left, right) = (right, next);
            (left_bits, right_bits) = (right_bits, left_bits);
        }
        left << right_bits | right
    }
}

/// The finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_comes_exactly_once() {
        for len in (1..200).chain([1_000, 4_096, 4_097, 100_003]) {
            let order = Permutation::new(len, 3, 1);
            let mut seen = vec![false; usize::try_from(len).unwrap()];
            for position in 0..len {
                let sample = usize::try_from(order.at(position)).unwrap();
                assert!(!std::mem::replace(&mut seen[sample], true), "{sample} twice of {len}");
            }
        }
    }

    #[test]
    fn seed_and_epoch_change_the_order() {
        let first = |seed, epoch| {
            let order = Permutation::new(1_000, seed, epoch);
            (0..20).map(|position| order.at(position)).collect::<Vec<_>>()
        };
        assert_eq!(first(1, 1), first(1, 1));
        assert_ne!(first(1, 1), first(2, 1));
        assert_ne!(first(1, 1), first(1, 2));
    }

    /// Which sixteenth of the domain a position goes to is uniform: chi-squared, 225 degrees of
    /// freedom, below its 99.99 % quantile (about 308).
    #[test]
    fn no_place_is_preferred() {
        for len in [10_000_u64, 65_536, 70_001] {
            let order = Permutation::new(len, 42, 0);
            let mut cells = [[0_u32; 16]; 16];
            for position in 0..len {
                let cell = |value: u64| usize::try_from(value * 16 / len).unwrap();
                cells[cell(position)][cell(order.at(position))] += 1;
            }
            let expected = len as f64 / 256.0;
            let chi: f64 = cells
                .as_flattened()
                .iter()
                .map(|&n| (f64::from(n) - expected).powi(2) / expected)
                .sum();
            assert!(chi < 308.0, "{len}: {chi}");
        }
    }

    #[test]
    fn a_huge_domain_costs_nothing() {
        let order = Permutation::new(u64::MAX >> 1, 1, 0);
        assert_ne!(order.at(0), order.at(1));
    }
}
