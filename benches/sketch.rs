//! Ways to sign a set of shingles: what they cost, and how well bands of them follow the S-curve.
//!
//! The table is printed first: share of pairs of sets of `n` shingles with similarity 0.8 that
//! agree on one of 14 bands of 8 rows.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use forebay_transform::dedup::lsh;
use forebay_transform::dedup::minhash::MinHash;

const ROWS: usize = 112;
const SIZES: [usize; 4] = [20, 100, 1_000, 10_000];

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

fn shingles(from: usize, count: usize) -> Vec<u64> {
    (from..from + count).map(|n| mix(mix(n as u64))).collect()
}

/// A permutation a row: Broder, 1997; multiply-shift in place of a division by a prime.
fn classic(shingles: &[u64], factors: &[(u64, u64)], rows: &mut [u32]) {
    rows.fill(u32::MAX);
    for &shingle in shingles {
        for (row, &(factor, term)) in rows.iter_mut().zip(factors) {
            let value = (shingle.wrapping_mul(factor).wrapping_add(term) >> 32) as u32;
            *row = (*row).min(value);
        }
    }
}

/// One permutation, empty rows borrow: Shrivastava, ICML 2017.
fn densified(shingles: &[u64], rows: &mut [u64]) {
    rows.fill(u64::MAX);
    for &shingle in shingles {
        let product = u128::from(shingle) * ROWS as u128;
        let row = &mut rows[(product >> 64) as usize];
        *row = (*row).min(product as u64);
    }
    let full = rows.to_vec();
    for (at, row) in rows.iter_mut().enumerate().filter(|(_, row)| **row == u64::MAX) {
        let borrowed = (0_u64..).find_map(|attempt| {
            let hash = mix((at as u64) << 32 | attempt);
            let value = full[((u128::from(hash) * ROWS as u128) >> 64) as usize];
            (value != u64::MAX).then_some(value)
        });
        *row = borrowed.unwrap_or_default();
    }
}

fn factors() -> Vec<(u64, u64)> {
    (0..ROWS as u64).map(|row| (mix(2 * row) | 1, mix(2 * row + 1))).collect()
}

#[divan::bench(args = SIZES)]
fn classic_permutations(bencher: Bencher, size: usize) {
    let (shingles, factors, mut rows) = (shingles(0, size), factors(), [0; ROWS]);
    bencher.counter(ItemsCount::new(size)).bench_local(|| {
        classic(black_box(&shingles), &factors, &mut rows);
        black_box(rows[0])
    });
}

#[divan::bench(args = SIZES)]
fn one_permutation_densified(bencher: Bencher, size: usize) {
    let (shingles, mut rows) = (shingles(0, size), [0; ROWS]);
    bencher.counter(ItemsCount::new(size)).bench_local(|| {
        densified(black_box(&shingles), &mut rows);
        black_box(rows[0])
    });
}

#[divan::bench(args = SIZES)]
fn fast_similarity(bencher: Bencher, size: usize) {
    let (shingles, mut minhash) = (shingles(0, size), MinHash::new(ROWS));
    bencher
        .counter(ItemsCount::new(size))
        .bench_local(|| black_box(minhash.sign(black_box(&shingles)).map(|rows| rows[0])));
}

/// Prints how often pairs at similarity 0.8 are found.
pub(crate) fn print_curve() {
    const PAIRS: usize = 4_000;
    println!(
        "pairs at 0.8 found by 14 bands of 8 rows; theory {:.3}",
        lsh::probability(0.8, 14, 8)
    );
    for size in [9, 18, 45, 90, 450] {
        let mut found = [0_usize; 3];
        let (factors, mut minhash) = (factors(), MinHash::new(ROWS));
        for pair in 0..PAIRS {
            // |A| = |B| = size, sharing 8 of every 10 of their union.
            let from = pair * 1_000_000;
            let shared = 8 * size / 9;
            let [a, b] = [0, 500_000].map(|other| {
                let mut set = shingles(from, shared);
                set.extend(shingles(from + 100_000 + other, size - shared));
                set
            });
            let agree = |a: &[u64], b: &[u64]| a.chunks(8).zip(b.chunks(8)).any(|(a, b)| a == b);
            let mut narrow = [[0_u32; ROWS]; 2];
            let mut wide = [[0_u64; ROWS]; 2];
            classic(&a, &factors, &mut narrow[0]);
            classic(&b, &factors, &mut narrow[1]);
            let [x, y] = narrow.map(|rows| rows.map(u64::from));
            found[0] += usize::from(agree(&x, &y));
            densified(&a, &mut wide[0]);
            densified(&b, &mut wide[1]);
            found[1] += usize::from(agree(&wide[0], &wide[1]));
            let [a, b] =
                [a, b].map(|set| minhash.sign(&set).map(<[u64]>::to_vec).unwrap_or_default());
            found[2] += usize::from(agree(&a, &b));
        }
        let [classic, densified, fast] = found.map(|found| found as f64 / PAIRS as f64);
        println!(
            "{size:>4} shingles: classic {classic:.3}, densified {densified:.3}, fast similarity {fast:.3}"
        );
    }
}
