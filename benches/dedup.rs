use divan::{Bencher, black_box};
use forebay_transform::dedup::exact;
use forebay_transform::dedup::minhash::{MinHash, band_keys};
use forebay_transform::dedup::shingle::Shingler;

use crate::{TEXTS, bytes};

#[divan::bench]
fn exact_hash(bencher: Bencher) {
    let mut scratch = Vec::new();
    bencher.counter(bytes()).bench_local(|| {
        for text in TEXTS.iter() {
            black_box(exact::hash(text, &mut scratch));
        }
    });
}

#[divan::bench]
fn shingles(bencher: Bencher) {
    let mut shingler = Shingler::default();
    bencher.counter(bytes()).bench_local(|| {
        for text in TEXTS.iter() {
            let mut last = 0;
            shingler.shingles(text, 5, |shingle| last ^= shingle);
            black_box(last);
        }
    });
}

#[divan::bench]
fn signatures(bencher: Bencher) {
    let (mut shingler, mut minhash) = (Shingler::default(), MinHash::new(112));
    bencher.counter(bytes()).bench_local(|| {
        for text in TEXTS.iter() {
            minhash.clear();
            shingler.shingles(text, 5, |shingle| minhash.add(shingle));
            if let Some(signature) = minhash.finish() {
                black_box(band_keys(signature, 8).last());
            }
        }
    });
}
