//! What a loader does about datasets that are not what they were.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use forebay_load::{Batch, Config, Error, Io, Loader, OnCorrupt, Sampling};

use crate::support::*;

fn config(on_corrupt: OnCorrupt) -> Config {
    Config { verify: true, on_corrupt, seed: Some(3), ..Config::new(128, 24) }
}

/// Flips a bit in the middle of the tokens of a shard.
fn flip(dataset: &Path, shard: &str) {
    let path = dataset.join(shard);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
}

#[test]
fn a_sound_dataset_is_the_same_verified_or_not() {
    let mut verified = Loader::open(prepared(), config(OnCorrupt::Fail)).unwrap();
    let plain = Config { verify: false, ..config(OnCorrupt::Fail) };
    let mut plain = Loader::open(prepared(), plain).unwrap();
    let (mut found, mut expected) = (Batch::default(), Batch::default());
    for _ in 0..plain.steps().unwrap() {
        verified.next_batch(&mut found).unwrap();
        plain.next_batch(&mut expected).unwrap();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_flipped_bit_stops_the_loader_or_is_replaced_the_same_way_on_every_rank() {
    let dir = temp();
    let dataset = dir.path().join("dataset");
    copy(prepared(), &dataset);
    flip(&dataset, "shard-00001.parquet");

    let mut loader = Loader::open(&dataset, config(OnCorrupt::Fail)).unwrap();
    let mut batch = Batch::default();
    let error = loop {
        let before = loader.state().clone();
        if let Err(error) = loader.next_batch(&mut batch) {
            assert_eq!(loader.state(), &before, "it stays where it is");
            break error;
        }
    };
    assert!(matches!(error, Error::Corrupt { .. }) && error.hint().is_some(), "{error}");
    assert!(error.to_string().contains("shard-00001.parquet: bytes "), "{error}");
    let args = ["load", dataset.to_str().unwrap(), "--verify", "--seq-len", "128"];
    forebay(args).complains(&["shard-00001.parquet: bytes", "hash to", "the index says"]);
    forebay([&args[..], &["--on-corrupt", "skip"]].concat()).exits(3);

    let mut loader = Loader::open(&dataset, config(OnCorrupt::Skip)).unwrap();
    let mut sound = Loader::open(prepared(), config(OnCorrupt::Fail)).unwrap();
    let mut expected = Batch::default();
    let mut seen = Vec::new();
    let steps = loader.steps().unwrap();
    for _ in 0..steps {
        loader.next_batch(&mut batch).unwrap();
        sound.next_batch(&mut expected).unwrap();
        for row in 0..24 {
            let by = batch.replaced.iter().find(|r| r.sample == expected.samples[row] as u64);
            match by {
                Some(replaced) => assert_eq!(batch.samples[row], replaced.by as i64),
                None => assert_eq!(batch.rows()[row], expected.rows()[row]),
            }
        }
        seen.push(batch.clone());
    }
    let replaced = loader.state().replaced.clone();
    let samples: BTreeSet<u64> = replaced.iter().map(|replaced| replaced.sample).collect();
    assert_eq!(samples.len(), replaced.len());
    // A block of 1 MiB and the samples across its ends, nothing more.
    assert!((1..=(1 << 20) / 512 + 2).contains(&replaced.len()), "{}", replaced.len());

    // Other ranks find the same; a state keeps it even where the shard is sound again.
    for (path, keep) in [(dataset.as_path(), false), (prepared(), true)] {
        for rank in 0..3 {
            let config = Config {
                rank,
                world_size: 3,
                batch_size: 8,
                prefetch: 2,
                threads: 2,
                ..config(OnCorrupt::Skip)
            };
            let mut third = Loader::open(path, config).unwrap();
            if keep {
                let mut state = loader.state().clone();
                (state.epoch, state.position) = (0, 0);
                third.load_state(&state).unwrap();
            }
            for expected in &seen {
                third.next_batch(&mut batch).unwrap();
                let rows: Vec<i64> =
                    expected.samples.iter().skip(rank).step_by(3).copied().collect();
                assert_eq!(batch.samples, rows);
            }
        }
    }
}

#[test]
fn what_is_missing_cut_swapped_or_of_another_run_is_one_clear_error() {
    let dir = temp();
    let dataset = dir.path().join("dataset");
    let path = dataset.to_str().unwrap();
    let fresh = || {
        let _ = fs::remove_dir_all(&dataset);
        copy(prepared(), &dataset);
    };
    let shard = |number: u32| dataset.join(format!("shard-{number:05}.parquet"));
    let load = || forebay(["load", path, "--seq-len", "128"]);

    fresh();
    fs::remove_file(shard(2)).unwrap();
    load().complains(&["shard-00002.parquet"]);

    fresh();
    let bytes = fs::read(shard(2)).unwrap();
    fs::write(shard(2), &bytes[..bytes.len() - 100]).unwrap();
    load().complains(&["shard-00002.parquet: size: expected"]);

    fresh();
    fs::copy(prepared().join("shard-00001.parquet"), shard(2)).unwrap();
    load().complains(&["shard-00002.parquet: size: expected"]);

    fresh();
    let other = dir.path().join("other");
    prep(&[&sample().join("prose.jsonl")], &other, &[]).exits(0);
    fs::copy(other.join("documents.idx"), dataset.join("documents.idx")).unwrap();
    load().complains(&["documents.idx: counts"]);

    fresh();
    let newer = fs::read_to_string(dataset.join("manifest.json")).unwrap();
    let newer = newer.replacen("\"version\": 1", "\"version\": 2", 1);
    fs::write(dataset.join("manifest.json"), newer).unwrap();
    load().complains(&["manifest.json: format version: expected at most 1, found 2"]);

    // An index whose entries cannot be true, whatever they say: an error, never a panic.
    fresh();
    let sound = fs::read(dataset.join("documents.idx")).unwrap();
    for (at, width) in [(64, 8), (72, 8), (80, 4), (84, 4), (64 + 24 * 7, 24)] {
        let mut bytes = sound.clone();
        bytes[at..at + width].fill(0xee);
        fs::write(dataset.join("documents.idx"), bytes).unwrap();
        for samples in ["concat", "documents", "best-fit"] {
            let ran = forebay(["load", path, "--seq-len", "128", "--samples", samples]);
            assert!(ran.code == 1 || ran.code == 0, "{ran:?}");
            assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        }
    }
}

/// Deleted while it is read: what is open stays, what is not is an error.
#[test]
fn a_dataset_may_go_under_the_loader() {
    for (io, prefetch) in [(Io::Auto, 0), (Io::Read, 3)] {
        let dir = temp();
        let dataset = dir.path().join("dataset");
        copy(prepared(), &dataset);
        let config = Config { io, prefetch, seed: None, ..Config::new(128, 8) };
        let mut loader = Loader::open(&dataset, config).unwrap();
        let mut batch = Batch::default();
        loader.next_batch(&mut batch).unwrap();
        fs::remove_dir_all(&dataset).unwrap();
        let error = (0..loader.steps().unwrap())
            .find_map(|_| loader.next_batch(&mut batch).err())
            .expect("the second shard is gone");
        assert!(error.to_string().contains("cannot open") && error.hint().is_some(), "{error}");
    }
}

#[test]
fn options_that_cannot_be_are_said() {
    let base = || Config::new(128, 8);
    let cases = [
        (Config { seq_len: 0, ..base() }, "seq_len: expected at least 1"),
        (Config { batch_size: 0, ..base() }, "batch_size: expected at least 1"),
        (Config { window: Some(0), ..base() }, "window: expected at least 1"),
        (Config { threads: 0, ..base() }, "threads: expected at least 1"),
        (Config { rank: 3, world_size: 3, ..base() }, "rank: expected below world_size 3, found 3"),
        (Config { batch_size: 1 << 40, ..base() }, "seq_len × batch_size"),
        (
            Config { sampling: Sampling::Documents, batch_size: 1 << 20, ..base() },
            "expected 1048576 samples for one global batch",
        ),
    ];
    for (config, words) in cases {
        let error = Loader::open(prepared(), config).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
