//! Planning reads: 1,000 ranges as a batch of samples asks for them, in under 100 µs.

use divan::Bencher;
use forebay_store::{Costs, Range, plan};

fn ranges() -> Vec<Range> {
    let range =
        |n: u64| Range { object: (n % 7) as u32, offset: (n * 7919 % 1009) << 14, length: 8192 };
    (0..1000).map(range).collect()
}

/// Sorted, coalesced, cut at borders and aligned.
#[divan::bench]
fn plan_1000_ranges(bencher: Bencher) {
    let costs =
        Costs { gap_bytes: 64 << 10, max_bytes: 1 << 20, border_bytes: 4 << 20, align: 512 };
    bencher.with_inputs(ranges).bench_refs(|ranges| plan(ranges, &costs, |o| u64::from(o % 2)));
}
