//! Order, ranks, resume: a global batch is the same whoever makes it, and however it is reached.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use forebay_load::{Batch, Columns, Config, Error, Io, Loader, Sampling, State};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{self, *};

const SEQ_LEN: usize = 128;

pub fn all_columns() -> Columns {
    Columns {
        labels: true,
        position_ids: true,
        cu_seqlens: true,
        document_ids: true,
        loss_mask: true,
    }
}

fn config(batch_size: usize, rank: usize, world_size: usize) -> Config {
    Config { rank, world_size, seed: Some(3), ..Config::new(SEQ_LEN, batch_size) }
}

/// All tokens in the order of the rows, read by another decoder.
fn stream() -> Vec<i64> {
    rows(prepared()).into_iter().flat_map(|row| row.tokens).map(i64::from).collect()
}

/// A second dataset with the same tokenizer.
fn other() -> &'static Path {
    static MADE: LazyLock<TempDir> = LazyLock::new(|| {
        let dir = temp();
        let input = sample().join("prose.jsonl");
        prep(&[&input], &dir.path().join("other"), &["--seed", "1"]).exits(0);
        dir
    });
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| MADE.path().join("other"));
    &PATH
}

#[test]
fn an_epoch_holds_every_sample_once_and_what_parquet_holds() {
    let stream = stream();
    for (window, io) in [
        (None, Io::Auto),
        (Some(2), Io::Auto),
        (None, Io::Read),
        (None, Io::Map),
        (Some(1), Io::Direct),
    ] {
        let config = Config { window, io, ..config(3, 0, 1) };
        let mut loader = Loader::open(prepared(), config).unwrap();
        assert_eq!(loader.samples(), (stream.len() / SEQ_LEN) as u64);
        let mut seen = vec![false; stream.len() / SEQ_LEN];
        let mut batch = Batch::default();
        for _ in 0..loader.steps().unwrap() {
            loader.next_batch(&mut batch).unwrap();
            for (row, &sample) in batch.rows().iter().zip(&batch.samples) {
                let sample = usize::try_from(sample).unwrap();
                assert_eq!(row, &stream[sample * SEQ_LEN..(sample + 1) * SEQ_LEN], "{sample}");
                assert!(!std::mem::replace(&mut seen[sample], true), "sample {sample} twice");
            }
        }
        let dropped = seen.iter().filter(|seen| !**seen).count();
        assert!(dropped < 3, "only an incomplete batch is dropped");
        assert_eq!(loader.state().epoch, 0);
        loader.next_batch(&mut batch).unwrap();
        assert_eq!((loader.state().epoch, loader.state().position), (1, 3));
    }
}

/// With a window of one shard, an epoch goes through each shard once and never comes back.
#[test]
fn a_window_keeps_to_so_many_shards() {
    let config = Config { window: Some(1), ..config(8, 0, 1) };
    let mut loader = Loader::open(prepared(), config).unwrap();
    let mut visits: Vec<PathBuf> = Vec::new();
    for step in 0..loader.steps().unwrap() {
        loader.seek(step);
        for row in loader.explain().unwrap() {
            let shard = &row.parts[0].shard;
            if visits.last() != Some(shard) {
                visits.push(shard.clone());
            }
        }
    }
    assert_eq!(visits.len(), manifest(prepared())["shards"].as_array().unwrap().len());
    assert!(visits.len() > 2 && !visits.is_sorted(), "{visits:?}");
}

/// Everything of global batch `step`, put together from all ranks.
fn global_batch(
    config: &Config,
    mixture: bool,
    world_size: usize,
    step: u64,
    by_seek: bool,
) -> Vec<Vec<i64>> {
    let global = 24;
    let mut rows = vec![Vec::new(); global];
    for rank in 0..world_size {
        let config = Config { rank, world_size, batch_size: global / world_size, ..config.clone() };
        let mut loader = if mixture {
            Loader::open_mixture(&[(prepared(), 0.7), (other(), 0.3)], config).unwrap()
        } else {
            Loader::open(prepared(), config).unwrap()
        };
        let mut batch = Batch::default();
        if by_seek {
            loader.seek(step);
        } else {
            for _ in 0..step {
                loader.next_batch(&mut batch).unwrap();
            }
        }
        assert_eq!(loader.step(), step);
        loader.next_batch(&mut batch).unwrap();
        assert_eq!(batch.step, step);
        let mask: Vec<i64> = batch.loss_mask.iter().map(|&bit| bit.into()).collect();
        let labels = batch.labels.to_i64();
        let positions = batch.position_ids.to_i64();
        for slot in 0..global / world_size {
            let cells = slot * SEQ_LEN..(slot + 1) * SEQ_LEN;
            let row = &mut rows[rank + slot * world_size];
            row.extend([batch.samples[slot], batch.sources[slot].into()]);
            row.extend(&batch.input_ids.to_i64()[cells.clone()]);
            row.extend(&labels[cells.clone()]);
            row.extend(&positions[cells.clone()]);
            row.extend(&batch.document_ids[cells.clone()]);
            row.extend(&mask[cells]);
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn a_global_batch_is_the_same_for_any_number_of_ranks_and_threads_and_any_way_there(
        step in 0..1_200_u64,
        world_size in prop::sample::select(vec![1_usize, 2, 3, 4, 8, 12]),
        sampling in prop::sample::select(vec![
            Sampling::Concat, Sampling::Documents, Sampling::BestFit,
        ]),
        window in prop::option::of(1_usize..4),
        mixture in any::<bool>(),
        keep_last in any::<bool>(),
        prefetch in 0_usize..6,
        threads in 1_usize..4,
    ) {
        let plain = Config {
            sampling,
            window,
            columns: all_columns(),
            drop_last: !keep_last,
            ..config(24, 0, 1)
        };
        let expected = global_batch(&plain, mixture, 1, step, true);
        let io = [Io::Auto, Io::Map, Io::Read, Io::Direct][step as usize % 4];
        let config = Config { prefetch, threads, io, ..plain };
        prop_assert_eq!(&global_batch(&config, mixture, world_size, step, true), &expected);
        if step < 60 {
            prop_assert_eq!(&global_batch(&config, mixture, world_size, step, false), &expected);
        }
    }
}

#[test]
fn a_state_is_where_the_consumer_is_and_resumes_on_another_number_of_ranks() {
    for prefetch in [0, 1, 5] {
        let ahead = Config { prefetch, threads: 2, ..config(24, 0, 1) };
        let mut loader = Loader::open(prepared(), ahead.clone()).unwrap();
        let mut batch = Batch::default();
        (0..5).for_each(|_| loader.next_batch(&mut batch).unwrap());
        let state = loader.state().clone();
        assert_eq!((state.epoch, state.position), (0, 5 * 24));
        let text = serde_json::to_string(&state).unwrap();
        assert!(text.len() < 300, "{text}");
        let state: State = serde_json::from_str(&text).unwrap();
        loader.next_batch(&mut batch).unwrap();
        let expected = batch.clone();
        for rank in 0..2 {
            let mut half = Loader::open(prepared(), config(12, rank, 2)).unwrap();
            half.load_state(&state).unwrap();
            half.next_batch(&mut batch).unwrap();
            let every_other: Vec<i64> =
                expected.samples.iter().skip(rank).step_by(2).copied().collect();
            assert_eq!(batch.samples, every_other);
        }
        // Back, with batches on their way.
        loader.load_state(&state).unwrap();
        loader.next_batch(&mut batch).unwrap();
        assert_eq!(batch, expected);
    }
}

#[test]
fn a_state_of_anything_else_is_refused() {
    let mut loader = Loader::open(prepared(), config(24, 0, 1)).unwrap();
    let state = loader.state().clone();
    let refused = |state: State| {
        let mut loader = Loader::open(prepared(), config(24, 0, 1)).unwrap();
        let error = loader.load_state(&state).unwrap_err();
        assert!(error.hint().is_some());
        error.to_string()
    };
    let other = State { datasets: vec!["0".repeat(64)], ..state.clone() };
    assert!(matches!(loader.load_state(&other), Err(Error::OtherDataset { .. })));
    for (state, words) in [
        (State { seed: Some(4), ..state.clone() }, "seed: expected 3, found 4"),
        (State { seed: None, ..state.clone() }, "seed: expected 3, found none"),
        (State { seq_len: 64, ..state.clone() }, "seq_len: expected 128, found 64"),
        (
            State { sampling: Sampling::BestFit, ..state.clone() },
            "samples: expected concat, found best-fit",
        ),
        (State { window: Some(1), ..state.clone() }, "window: expected none, found 1"),
        (State { version: 2, ..state.clone() }, "version of the state: expected at most 1"),
        (State { position: 1 << 60, ..state }, "position: expected at most"),
    ] {
        let error = refused(state);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn skipped_steps_do_not_come_and_the_state_remembers() {
    let mut loader = Loader::open(prepared(), config(4, 0, 1)).unwrap();
    let steps = loader.steps().unwrap();
    let taken = |loader: &mut Loader, count: u64| {
        let mut batch = Batch::default();
        let mut next = || {
            loader.next_batch(&mut batch).unwrap();
            batch.step
        };
        (0..count).map(|_| next()).collect::<Vec<u64>>()
    };
    loader.skip(2..5);
    loader.skip(6..8);
    loader.skip(steps - 1..steps + 2);
    assert_eq!(taken(&mut loader, 3), [0, 1, 5]);
    let state = loader.state().clone();
    let mut resumed = Loader::open(prepared(), config(2, 1, 2)).unwrap();
    resumed.load_state(&state).unwrap();
    assert_eq!(taken(&mut resumed, 2), [8, 9]);
    resumed.seek(steps - 3);
    assert_eq!(taken(&mut resumed, 3), [steps - 3, steps - 2, steps + 2]);
}

#[test]
fn workers_with_a_stride_take_what_one_loader_takes() {
    let mut loader = Loader::open(prepared(), config(8, 0, 1)).unwrap();
    let mut batch = Batch::default();
    let mut expected = Vec::new();
    for _ in 0..12 {
        loader.next_batch(&mut batch).unwrap();
        expected.push(batch.clone());
    }
    for worker in 0..3 {
        let ahead = Config { prefetch: 2, ..config(8, 0, 1) };
        let mut loader = Loader::open(prepared(), ahead).unwrap();
        loader.set_stride(3);
        loader.seek(worker);
        for step in (worker..12).step_by(3) {
            loader.next_batch(&mut batch).unwrap();
            assert_eq!(batch, expected[usize::try_from(step).unwrap()]);
        }
    }
}

#[test]
fn a_mixture_keeps_its_weights_and_changes_them_where_the_state_says() {
    let datasets = [(prepared(), 0.75), (other(), 0.25)];
    let config = Config { seed: Some(5), ..Config::new(64, 32) };
    let mut loader = Loader::open_mixture(&datasets, config.clone()).unwrap();
    assert_eq!(loader.steps(), None);
    let mut batch = Batch::default();
    let second = |loader: &mut Loader, batch: &mut Batch| {
        // A block of 4,096 samples.
        let mut count = 0;
        for _ in 0..128 {
            loader.next_batch(batch).unwrap();
            count += batch.sources.iter().filter(|&&source| source == 1).count();
        }
        count
    };
    assert_eq!(second(&mut loader, &mut batch), 1024);
    assert_eq!(loader.set_weights(130, &[0.5, 0.5]).unwrap(), 2 * 4096);
    let state = loader.state().clone();
    for _ in 0..2 {
        loader.load_state(&state).unwrap();
        assert_eq!(second(&mut loader, &mut batch), 1024);
        assert_eq!(second(&mut loader, &mut batch), 2048);
    }
    let first = (3072.0 + 3072.0 + 2048.0) / loader_samples(prepared(), 64);
    let second = (1024.0 + 1024.0 + 2048.0) / loader_samples(other(), 64);
    let epochs = loader.epochs();
    assert!((epochs[0] - first).abs() < 1e-9 && (epochs[1] - second).abs() < 1e-9, "{epochs:?}");
    assert!(loader.set_weights(2, &[0.5, 0.5]).is_err(), "that step is past");
    assert!(Loader::open_mixture(&[(prepared(), 0.5), (other(), 0.4)], config.clone()).is_err());
    let mut one = Loader::open(prepared(), config).unwrap();
    assert!(one.set_weights(2, &[1.0]).is_err());
}

fn loader_samples(path: &Path, seq_len: usize) -> f64 {
    Loader::open(path, Config::new(seq_len, 1)).unwrap().samples() as f64
}

/// Cut or gone while batches are in flight: one error that names the shard, and the loader stays.
#[test]
fn a_shard_that_changes_under_the_loader_is_an_error_and_nothing_else() {
    let dir = temp();
    for (io, prefetch) in [(Io::Read, 0), (Io::Direct, 0), (Io::Direct, 6)] {
        let copy = dir.path().join(format!("{io:?}-{prefetch}"));
        support::copy(prepared(), &copy);
        let shards = || {
            let files = std::fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().path());
            files.filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        };
        let config = Config { io, prefetch, threads: 2, ..config(4, 0, 1) };
        let open = || Loader::open(&copy, config.clone()).unwrap();
        let until_it_fails = |loader: &mut Loader| {
            let mut batch = Batch::default();
            let steps = loader.steps().unwrap();
            let failed = (0..steps).find_map(|_| loader.next_batch(&mut batch).err());
            failed.unwrap()
        };
        let mut loader = open();
        loader.next_batch(&mut Batch::default()).unwrap();
        let kept: Vec<(PathBuf, Vec<u8>)> =
            shards().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
        for (path, bytes) in &kept {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(bytes.len() as u64 / 2).unwrap();
        }
        let error = until_it_fails(&mut loader);
        assert!(error.is_corrupt() && error.to_string().contains("shard-"), "{io:?}: {error}");
        let step = loader.step();
        // Whole again: the same batch comes, as if nothing had been.
        kept.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        let mut batch = Batch::default();
        loader.next_batch(&mut batch).unwrap();
        let mut other = open();
        other.seek(step);
        let mut expected = Batch::default();
        other.next_batch(&mut expected).unwrap();
        assert_eq!(batch, expected, "{io:?}");

        let mut loader = open();
        std::fs::remove_dir_all(&copy).unwrap();
        let error = until_it_fails(&mut loader);
        assert!(error.to_string().contains("shard-"), "{io:?}: {error}");
    }
}

#[test]
fn memory_does_not_grow() {
    let anonymous = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
    };
    let config = Config { columns: all_columns(), prefetch: 3, threads: 2, ..config(8, 0, 1) };
    let mut loader = Loader::open(prepared(), config).unwrap();
    let mut batch = Batch::default();
    let mut run = |steps| (0..steps).for_each(|_| loader.next_batch(&mut batch).unwrap());
    run(2_000);
    let before = anonymous();
    run(50_000);
    let grown = anonymous().saturating_sub(before);
    assert!(grown < 2_048, "{grown} KiB more after 50,000 steps");
}

#[test]
fn the_command_iterates_prints_and_complains() {
    let path = prepared().to_str().unwrap();
    let args = ["load", path, "--seq-len", "64", "--batch-size", "4"];
    let ran =
        forebay([&args[..], &["--json", "--print", "5", "--steps", "3", "--step", "7"]].concat());
    let json = ran.exits(0).json();
    assert_eq!(json["tokens"], 3 * 4 * 64);
    assert_eq!(json["state"]["position"], 10 * 4);
    let printed = json["printed"].as_array().unwrap();
    assert_eq!(printed.len(), 5);
    let stream = stream();
    for sample in printed {
        let at = usize::try_from(sample["sample"].as_u64().unwrap()).unwrap() * 64;
        let ids: Vec<u32> = serde_json::from_value(sample["input_ids"].clone()).unwrap();
        assert!(ids.iter().zip(&stream[at..at + 64]).all(|(&a, &b)| i64::from(a) == b));
        assert_eq!(sample["text"], reference().decode(&ids, false).unwrap());
    }
    forebay(["load", path, "--rank", "2", "--world-size", "2"]).exits(2);
    forebay(["load", path, path, "--weights", "1"]).exits(2);
    forebay(["load", path, path]).exits(2);
    forebay(["load", path, path, "--weights", "0.5,0.4", "--steps", "1"])
        .complains(&["weights: expected a sum of 1, found 0.9"]);
    forebay(["load", path, "--seq-len", "100000000"]).complains(&["expected 8 samples", "found 0"]);
    forebay(["load", sample().to_str().unwrap()]).complains(&["not a dataset"]);

    let dir = temp();
    let out = dir.path().join("out");
    forebay(["dedup", sample().to_str().unwrap(), "--out", out.to_str().unwrap()]).exits(0);
    forebay(["load", out.to_str().unwrap()]).complains(&["holds no tokens"]);

    // A run in two halves is where a whole one is, on two ranks and then on one.
    let state = dir.path().join("state.json");
    let state = state.to_str().unwrap();
    forebay([
        "load",
        path,
        "--world-size",
        "2",
        "--batch-size",
        "2",
        "--steps",
        "5",
        "--state",
        state,
    ])
    .exits(0);
    forebay(["load", path, "--batch-size", "4", "--steps", "4", "--state", state]).exits(0);
    let text = std::fs::read_to_string(state).unwrap();
    let found: State = serde_json::from_str(&text).unwrap();
    assert_eq!((found.epoch, found.position), (0, 36));
    forebay(["load", path, "--seed", "1", "--state", state])
        .complains(&["another order: seed: expected 1, found 0"]);
    let json = forebay(["load", path, "--bench", "--steps", "20", "--step-time", "1", "--json"]);
    let json = json.exits(0).json();
    assert!(json["seconds"].as_f64().unwrap() > 0.02);
    assert!(json["verdict"].as_str().unwrap().starts_with("loader-bound: "));
}
