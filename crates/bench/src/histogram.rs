//! Latencies in buckets of equal relative width, as HdrHistogram has them.

/// Buckets of a power of two: a value is known to 1 part in 128.
const STEPS_LOG2: u32 = 7;
const STEPS: usize = 1 << STEPS_LOG2;

/// Counts of nanoseconds, from 0 to `u64::MAX`, in 58 KiB; a record costs a few instructions.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    largest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; (65 - STEPS_LOG2 as usize) * STEPS], total: 0, largest: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.largest = self.largest.max(value);
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.largest = self.largest.max(other.largest);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest value, exactly.
    pub fn max(&self) -> u64 {
        self.largest
    }

    /// The value that a share `quantile` of all values does not exceed, at most 1/128 too large;
    /// 0 if nothing was counted.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let rank = ((quantile * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return last_of(bucket).min(self.largest);
            }
        }
        0
    }

    /// Buckets that are not empty: largest value and count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bucket, &count)| (last_of(bucket), count))
    }
}

/// Values below 128 have their own bucket; then each power of two has 128.
fn bucket(value: u64) -> usize {
    let power = (u64::BITS - (value >> STEPS_LOG2).leading_zeros()) as usize;
    // The first of them is not shifted; in the others the leading bit is always set.
    let shift = power.saturating_sub(1);
    let step = (value >> shift) as usize;
    if power == 0 { step } else { shift * STEPS + step }
}

/// The largest value of a bucket.
fn last_of(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    let step = (bucket % STEPS + STEPS) as u64;
    // The last one would end just above the largest number.
    ((u128::from(step + 1) << shift) - 1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_has_no_latency() {
        assert_eq!((Histogram::default().quantile(0.5), Histogram::default().max()), (0, 0));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_values_and_is_narrow(value: u64) {
            let last = last_of(bucket(value));
            prop_assert!(last >= value && last - value <= value / 128);
            prop_assert!(bucket(last) == bucket(value));
            prop_assert!(last == u64::MAX || bucket(last + 1) == bucket(value) + 1);
        }

        /// The oracle: all values, sorted.
        #[test]
        fn quantiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0..50_000_000_u64, 1..500),
            quantile in prop_oneof![0.0..1.0_f64, Just(0.5), Just(0.999), Just(1.0)],
        ) {
            let (mut whole, mut half) = (Histogram::default(), Histogram::default());
            for (n, &value) in values.iter().enumerate() {
                if n % 2 == 0 { whole.record(value) } else { half.record(value) }
            }
            whole.add(&half);
            values.sort_unstable();
            let rank = ((quantile * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let found = whole.quantile(quantile);
            prop_assert!(found >= exact && found - exact <= exact / 128, "{found} for {exact}");
            prop_assert_eq!(whole.count(), values.len() as u64);
            prop_assert_eq!(whole.buckets().map(|(_, count)| count).sum::<u64>(), whole.count());
        }
    }
}
