use forebay_load::{Batch, Config, Error, Loader, State};
use proptest::prelude::*;

use crate::support::*;

const SEQ_LEN: usize = 128;

fn config(batch_size: usize, rank: usize, world_size: usize) -> Config {
    Config { seq_len: SEQ_LEN, batch_size, rank, world_size, seed: Some(3) }
}

/// All tokens in the order of the rows, read by another decoder.
fn stream() -> Vec<u32> {
    rows(prepared()).into_iter().flat_map(|row| row.tokens).collect()
}

#[test]
fn an_epoch_holds_every_sample_once_and_what_parquet_holds() {
    let stream = stream();
    let mut loader = Loader::open(prepared(), config(3, 0, 1)).unwrap();
    assert_eq!(loader.samples(), (stream.len() / SEQ_LEN) as u64);
    let mut seen = vec![false; stream.len() / SEQ_LEN];
    let mut batch = Batch::default();
    for _ in 0..loader.steps() {
        loader.next_batch(&mut batch).unwrap();
        for (row, &sample) in batch.input_ids.chunks(SEQ_LEN).zip(&batch.samples) {
            let sample = usize::try_from(sample).unwrap();
            assert_eq!(row, &stream[sample * SEQ_LEN..(sample + 1) * SEQ_LEN], "sample {sample}");
            assert!(!std::mem::replace(&mut seen[sample], true), "sample {sample} twice");
        }
    }
    assert!(seen.iter().filter(|seen| !**seen).count() < 3, "only an incomplete batch is dropped");
    assert_eq!(loader.state().epoch, 0);
    loader.next_batch(&mut batch).unwrap();
    assert_eq!((loader.state().epoch, loader.state().position), (1, 3));
}

/// The tokens of global batch `step`, put together from all ranks.
fn global_batch(world_size: usize, step: u64, by_seek: bool) -> Vec<Vec<u32>> {
    let mut rows = vec![Vec::new(); 24];
    for rank in 0..world_size {
        let mut loader =
            Loader::open(prepared(), config(24 / world_size, rank, world_size)).unwrap();
        let mut batch = Batch::default();
        if by_seek {
            loader.seek(step);
        } else {
            for _ in 0..step {
                loader.next_batch(&mut batch).unwrap();
            }
        }
        loader.next_batch(&mut batch).unwrap();
        for (slot, row) in batch.input_ids.chunks(SEQ_LEN).enumerate() {
            rows[rank + slot * world_size] = row.to_vec();
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_global_batch_is_the_same_for_any_number_of_ranks_and_any_way_there(
        step in 0..1_200_u64,
        world_size in prop::sample::select(vec![2_usize, 3, 4, 8, 12]),
    ) {
        let expected = global_batch(1, step, true);
        prop_assert_eq!(&global_batch(world_size, step, true), &expected);
        if step < 60 {
            prop_assert_eq!(&global_batch(world_size, step, false), &expected);
        }
    }
}

#[test]
fn a_state_resumes_on_another_number_of_ranks_and_not_on_another_dataset() {
    let mut loader = Loader::open(prepared(), config(24, 0, 1)).unwrap();
    let mut batch = Batch::default();
    (0..5).for_each(|_| loader.next_batch(&mut batch).unwrap());
    let state = loader.state().clone();
    loader.next_batch(&mut batch).unwrap();
    let expected = batch.clone();
    for rank in 0..2 {
        let mut half = Loader::open(prepared(), config(12, rank, 2)).unwrap();
        half.load_state(&state).unwrap();
        half.next_batch(&mut batch).unwrap();
        let every_other: Vec<u64> =
            expected.samples.iter().skip(rank).step_by(2).copied().collect();
        assert_eq!(batch.samples, every_other);
    }
    let other = State { dataset: "0".repeat(64), ..state };
    assert!(matches!(loader.load_state(&other), Err(Error::OtherDataset { .. })));
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
        assert_eq!(ids, &stream[at..at + 64]);
        assert_eq!(sample["text"], reference().decode(&ids, false).unwrap());
    }
    forebay(["load", path, "--rank", "2", "--world-size", "2"]).exits(2);
    forebay(["load", path, "--seq-len", "100000000"]).complains(&["expected 8 samples", "found 0"]);
    forebay(["load", sample().to_str().unwrap()]).complains(&["not a dataset"]);

    let dir = temp();
    let out = dir.path().join("out");
    forebay(["dedup", sample().to_str().unwrap(), "--out", out.to_str().unwrap()]).exits(0);
    forebay(["load", out.to_str().unwrap()]).complains(&["holds no tokens"]);
}
