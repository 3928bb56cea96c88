//! MDS shards as input of `load`.

use std::fs;

use forebay_load::{Batch, Config, Loader, Sampling};
use serde_json::json;

use crate::support::*;

/// The documents of [`prepared`] as MDS shards of a hundred samples, u16 of variable length.
fn mds(directory: &std::path::Path) {
    fs::create_dir_all(directory).unwrap();
    let mut shards = Vec::new();
    for (number, rows) in rows(prepared()).chunks(100).enumerate() {
        let samples: Vec<Vec<u8>> = rows
            .iter()
            .map(|row| {
                let shape = u16::try_from(row.tokens.len()).unwrap();
                let ids = row.tokens.iter().flat_map(|&id| (id as u16).to_le_bytes());
                let array: Vec<u8> =
                    [5].into_iter().chain(shape.to_le_bytes()).chain(ids).collect();
                [&(array.len() as u32).to_le_bytes()[..], &array].concat()
            })
            .collect();
        let mut at = (4 + 4 * (samples.len() + 1)) as u32;
        let mut bytes = (samples.len() as u32).to_le_bytes().to_vec();
        for sample in &samples {
            bytes.extend(at.to_le_bytes());
            at += sample.len() as u32;
        }
        bytes.extend(at.to_le_bytes());
        samples.iter().for_each(|sample| bytes.extend(sample));
        let name = format!("shard.{number:05}.mds");
        shards.push(json!({
            "column_encodings": ["ndarray:uint16"], "column_names": ["tokens"], "column_sizes": [null],
            "compression": null, "format": "mds", "samples": samples.len(), "size_limit": 1 << 26,
            "raw_data": { "basename": name, "bytes": bytes.len(), "hashes": {} }, "version": 2,
            "zip_data": null, "hashes": [],
        }));
        fs::write(directory.join(name), bytes).unwrap();
    }
    let index = json!({ "shards": shards, "version": 2 });
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

#[test]
fn batches_are_those_of_the_parquet_dataset() {
    let dir = temp();
    mds(dir.path());
    for sampling in [Sampling::Concat, Sampling::Documents, Sampling::BestFit] {
        let config = Config {
            sampling,
            columns: crate::load::all_columns(),
            pad: Some(EOS),
            ..Config::new(300, 4)
        };
        let mut theirs = Loader::open(dir.path(), config.clone()).unwrap();
        let mut ours = Loader::open(prepared(), config).unwrap();
        let (mut found, mut expected) = (Batch::default(), Batch::default());
        for _ in 0..ours.steps().unwrap() {
            theirs.next_batch(&mut found).unwrap();
            ours.next_batch(&mut expected).unwrap();
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn what_cannot_be_true_is_one_clear_error() {
    let dir = temp();
    mds(dir.path());
    let load =
        |more: &[&str]| forebay([&["load", dir.path().to_str().unwrap()][..], more].concat());
    load(&["--steps", "3"]).exits(0);
    load(&["--verify"]).complains(&["verify: expected a dataset of format forebay"]);
    let index = fs::read_to_string(dir.path().join("index.json")).unwrap();
    let packed = index.replacen("\"compression\":null", "\"compression\":\"zstd\"", 1);
    fs::write(dir.path().join("index.json"), packed).unwrap();
    load(&[]).complains(&["index.json: compression of shard 0: expected none, found \"zstd\""]);
    fs::write(dir.path().join("index.json"), index).unwrap();
    let shard = dir.path().join("shard.00001.mds");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 2]).unwrap();
    load(&[]).complains(&["shard.00001.mds: size: expected"]);
    fs::remove_file(shard).unwrap();
    load(&[]).complains(&["shard.00001.mds"]);
}
