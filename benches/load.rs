use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use forebay_load::{Batch, Config, Loader, Permutation};
use forebay_pipeline::{Execution, Options, Progress, Steps};
use forebay_transform::tokenize::{self, DEFAULT, EosPolicy, SpecialTokens, Vocabulary};

use crate::sample;

/// Items are tokens.
#[divan::bench(args = [512, 2048, 8192])]
fn next_batch(bencher: Bencher, seq_len: usize) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let special_tokens = SpecialTokens::Parse;
    let options = Options {
        steps: Steps {
            tokenize: Some(tokenize::Options { eos: EosPolicy::Auto, special_tokens }),
            shuffle: Some(0),
            ..Steps::default()
        },
        ..Options::default()
    };
    let execution = Execution {
        threads: 1,
        memory_bytes: 1 << 30,
        tmp_dir: None,
        fresh: false,
        verify_tokens: 0.0,
        stats: false,
        keep_going: false,
    };
    let inputs = [sample().to_string_lossy().into_owned()];
    let vocabulary = Vocabulary::open(DEFAULT).unwrap();
    let progress = Progress::default();
    let vocabulary = Some(&vocabulary);
    forebay_pipeline::run("prep", &inputs, &out, &options, vocabulary, &execution, &progress)
        .unwrap();

    let config = Config::new(seq_len, 8);
    let mut loader = Loader::open(&out, config).unwrap();
    let mut batch = Batch::default();
    bencher.counter(ItemsCount::new(8 * seq_len)).bench_local(|| {
        loader.next_batch(&mut batch).unwrap();
        black_box(&batch);
    });
}

#[divan::bench(args = [97_656, 10_000_000_000])]
fn permutation(bencher: Bencher, samples: u64) {
    let order = Permutation::new(samples, 1, 0);
    let mut position = 0;
    bencher.bench_local(|| {
        position = (position + 1) % samples;
        black_box(order.at(position))
    });
}
