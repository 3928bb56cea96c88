use divan::{Bencher, black_box};
use forebay_transform::dedup::exact::ExactHasher;
use forebay_transform::dedup::minhash::{MinHash, band_keys};
use forebay_transform::dedup::shingle::{Shingler, Unit};
use forebay_transform::dedup::windows::Windows;

use crate::{TEXTS, bytes};

#[divan::bench]
fn exact_hash(bencher: Bencher) {
    let mut hasher = ExactHasher::default();
    bencher.counter(bytes()).bench_local(|| {
        for text in TEXTS.iter() {
            black_box(hasher.hash(text));
        }
    });
}

#[divan::bench(args = [Unit::Word, Unit::Char])]
fn shingles(bencher: Bencher, unit: Unit) {
    let mut shingler = Shingler::default();
    bencher.counter(bytes()).bench_local(|| {
        for text in TEXTS.iter() {
            black_box(shingler.shingles(text, unit, 5));
        }
    });
}

#[divan::bench]
fn signatures(bencher: Bencher) {
    let (mut shingler, mut minhash) = (Shingler::default(), MinHash::new(112));
    bencher.counter(bytes()).bench_local(|| {
        for text in TEXTS.iter() {
            if let Some(signature) = minhash.sign(shingler.shingles(text, Unit::Word, 5)) {
                black_box(band_keys(signature, 8).last());
            }
        }
    });
}

#[divan::bench]
fn windows(bencher: Bencher) {
    let mut windows = Windows::default();
    bencher.counter(bytes()).bench_local(|| {
        for text in TEXTS.iter() {
            let mut last = 0;
            windows.windows(text, 50, |_, hash| last ^= hash);
            black_box(last);
        }
    });
}
