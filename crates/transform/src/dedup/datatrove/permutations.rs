//! The permutations: what numpy's `RandomState(seed).randint` draws below 2⁶¹-1.
//!
//! Source: Matsumoto, Nishimura, *Mersenne Twister*, ACM TOMACS 1998 (MT19937 and its seeding of
//! 2002); numpy's legacy generator draws 64 bits, high word first, masks, and rejects.

/// 2⁶¹-1, a prime.
pub const MODULUS: u64 = (1 << 61) - 1;

/// One `h ↦ (h·a + b mod 2⁶⁴) mod 2⁶¹-1` a row. The sum wraps before the modulus is taken, so
/// these are no true permutations; equal hashes ask for equal faults.
#[derive(Debug)]
pub struct Permutations {
    factors: Vec<(u64, u64)>,
}

impl Permutations {
    /// Draws `rows` of them: first every `a` from 1 on, then every `b` from 0 on.
    pub fn new(seed: u32, rows: usize) -> Self {
        let mut random = Twister::new(seed);
        let a: Vec<u64> = (0..rows).map(|_| 1 + random.at_most(MODULUS - 2)).collect();
        let b = (0..rows).map(|_| random.at_most(MODULUS - 1));
        Self { factors: a.into_iter().zip(b).collect() }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.factors.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.factors.is_empty()
    }

    /// Lowers each row of `signature` to the least permuted hash of `shingles`; `BITS` are kept of
    /// each, 32 or 64.
    pub fn lower<const BITS: u32>(&self, shingles: &[u64], signature: &mut [u64]) {
        let mask = u64::MAX >> (64 - BITS);
        for (&(a, b), least) in self.factors.iter().zip(signature) {
            *least = shingles.iter().fold(*least, |least, &h| {
                least.min(reduce(h.wrapping_mul(a).wrapping_add(b)) & mask)
            });
        }
    }
}

/// `x mod 2⁶¹-1` without division.
fn reduce(x: u64) -> u64 {
    // 2⁶¹ ≡ 1: the high bits count as ones. At most 2⁶¹ + 6, so one subtraction is enough; below
    // the modulus it wraps to something large.
    let folded = (x & MODULUS) + (x >> 61);
    folded.min(folded.wrapping_sub(MODULUS))
}

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// MT19937.
struct Twister {
    state: [u32; WORDS],
    next: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; WORDS];
        for at in 1..WORDS {
            let before = state[at - 1];
            state[at] = (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(at as u32);
        }
        Self { state, next: WORDS }
    }

    fn refill(&mut self) {
        for at in 0..WORDS {
            let mixed = self.state[at] & 0x8000_0000 | self.state[(at + 1) % WORDS] & 0x7fff_ffff;
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[at] = self.state[(at + SHIFT) % WORDS] ^ mixed >> 1 ^ odd;
        }
        self.next = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == WORDS {
            self.refill();
        }
        let word = self.state[self.next];
        self.next += 1;
        let word = word ^ word >> 11;
        let word = word ^ word << 7 & 0x9d2c_5680;
        let word = word ^ word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    /// Uniform in `0..=limit`; `limit` is above 2³².
    fn at_most(&mut self, limit: u64) -> u64 {
        let mask = u64::MAX >> limit.leading_zeros();
        loop {
            let high = u64::from(self.next_u32());
            let value = (high << 32 | u64::from(self.next_u32())) & mask;
            if value <= limit {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Printed by numpy 2.4.
    #[test]
    fn draws_what_numpy_draws() {
        let permutations = Permutations::new(1, 112);
        let (a, b): (Vec<u64>, Vec<u64>) = permutations.factors.iter().copied().unzip();
        assert_eq!(a[..3], [775169054918279404, 1758426461858698313, 2109959069025162]);
        assert_eq!(b[..3], [1062448801025099917, 1324811268927594100, 1217488311597731462]);
        // After the state has been refilled several times.
        let permutations = Permutations::new(7, 5000);
        assert_eq!(permutations.factors[4999], (2026544237185689909, 590042728364031101));
    }

    proptest! {
        #[test]
        fn reduces_modulo_the_prime(x: u64, near in 0..9_u64, times in 0..8_u64) {
            for x in [x, (times * MODULUS).saturating_add(near), (times * MODULUS).saturating_sub(near)] {
                prop_assert_eq!(reduce(x), x % MODULUS);
            }
            prop_assert_eq!(reduce(u64::MAX - near), (u64::MAX - near) % MODULUS);
        }
    }
}
