//! Megatron datasets as input of `load`: ours and anyone's, sound and broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use forebay_load::{Batch, Config, Error, Loader};
use tempfile::TempDir;

use crate::support::*;

/// The dataset of [`prepared`], for Megatron; made once.
fn megatron() -> &'static Path {
    static MADE: LazyLock<TempDir> = LazyLock::new(|| {
        let dir = temp();
        let more = ["--shard-size", "1MiB", "--seed", "7", "--format", "megatron"];
        prep(&[&sample()], &dir.path().join("corpus"), &more).exits(0);
        dir
    });
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| MADE.path().join("corpus"));
    &PATH
}

fn config(seed: Option<u64>) -> Config {
    Config { rank: 1, world_size: 3, seed, ..Config::new(128, 8) }
}

#[test]
fn batches_are_those_of_the_parquet_dataset() {
    for seed in [None, Some(3)] {
        let mut theirs = Loader::open(megatron(), config(seed)).unwrap();
        let mut ours = Loader::open(prepared(), config(seed)).unwrap();
        assert_eq!((theirs.samples(), theirs.steps()), (ours.samples(), ours.steps()));
        let (mut found, mut expected) = (Batch::default(), Batch::default());
        for step in 0..ours.steps().unwrap() + 3 {
            theirs.next_batch(&mut found).unwrap();
            ours.next_batch(&mut expected).unwrap();
            assert_eq!(found, expected, "step {step}");
        }
        assert_eq!(theirs.state().position, ours.state().position);
        assert_eq!(theirs.state().epoch, 1);

        let state = theirs.state().clone();
        theirs.next_batch(&mut expected).unwrap();
        let mut resumed = Loader::open(megatron(), config(seed)).unwrap();
        resumed.load_state(&state).unwrap();
        resumed.next_batch(&mut found).unwrap();
        assert_eq!(found, expected);
        assert!(matches!(ours.load_state(&state), Err(Error::OtherDataset { .. })));
    }
    let args = ["load", "--json", "--print", "2", "--seq-len", "64", "--steps", "3"];
    let [theirs, ours] = [megatron(), prepared()]
        .map(|path| forebay([&args[..], &[path.to_str().unwrap()]].concat()).exits(0).json());
    assert_eq!(theirs["printed"], ours["printed"]);
}

#[test]
fn a_prefix_and_either_file_name_the_same_dataset() {
    let dir = temp();
    let input = write(dir.path().join("in.jsonl"), line("a", &"Hello, world! ".repeat(50)));
    let out = dir.path().join("out");
    prep(&[&input], &out, &["--format", "megatron"]).exits(0);
    // Anyone's file, under a name with a dot.
    for suffix in ["bin", "idx"] {
        let name = format!("v1.5_text_document.{suffix}");
        fs::rename(out.join(format!("shard-00000.{suffix}")), dir.path().join(name)).unwrap();
    }
    let mut shown = Vec::new();
    for name in ["v1.5_text_document", "v1.5_text_document.bin", "v1.5_text_document.idx"] {
        let path = dir.path().join(name);
        let args =
            ["--seq-len", "10", "--no-shuffle", "--batch-size", "2", "--print", "2", "--json"];
        let ran = forebay([&["load", path.to_str().unwrap()], &args[..]].concat()).exits(0);
        let printed = ran.json()["printed"].clone();
        assert_eq!(printed[0]["input_ids"][0], 15496);
        assert!(printed[0]["text"].is_null(), "it says nothing of a tokenizer");
        shown.push(printed);
    }
    assert!(shown[0] == shown[1] && shown[1] == shown[2]);
}

/// An `.idx`, written field by field.
fn idx(code: u8, sequences: &[(i32, i64)], bounds: &[i64]) -> Vec<u8> {
    let mut bytes = b"MMIDIDX\0\0".to_vec();
    bytes.extend(1_u64.to_le_bytes());
    bytes.push(code);
    bytes.extend((sequences.len() as u64).to_le_bytes());
    bytes.extend((bounds.len() as u64).to_le_bytes());
    sequences.iter().for_each(|(length, _)| bytes.extend(length.to_le_bytes()));
    sequences.iter().for_each(|(_, first)| bytes.extend(first.to_le_bytes()));
    bounds.iter().for_each(|bound| bytes.extend(bound.to_le_bytes()));
    bytes
}

/// Every integer type; three documents of two, no and one sequences; in `.bin` they lie in
/// another order, with something between.
#[test]
fn any_sound_index_is_read() {
    let dir = temp();
    let encode = |code: u8, id: u8| match code {
        1 | 2 => vec![id],
        3 | 8 => vec![id, 0],
        4 => vec![id, 0, 0, 0],
        _ => vec![id, 0, 0, 0, 0, 0, 0, 0],
    };
    for code in [1, 2, 3, 4, 5, 8] {
        let width = encode(code, 0).len() as i64;
        let ids = [4, 5, 6, 99, 1, 2, 3, 7, 8];
        let bin: Vec<u8> = ids.iter().flat_map(|&id| encode(code, id)).collect();
        let sequences = [(3, 4 * width), (3, 0), (0, 0), (2, 7 * width)];
        write(dir.path().join("c.bin"), bin);
        write(dir.path().join("c.idx"), idx(code, &sequences, &[0, 2, 2, 4]));
        let config = Config { seed: None, ..Config::new(4, 2) };
        let mut loader = Loader::open(&dir.path().join("c"), config).unwrap();
        let mut batch = Batch::default();
        loader.next_batch(&mut batch).unwrap();
        assert_eq!(batch.input_ids.to_i64(), [1, 2, 3, 4, 5, 6, 7, 8], "code {code}");
    }
}

#[test]
fn what_cannot_be_true_is_one_clear_error() {
    let dir = temp();
    let (bin, path) = (vec![1_u8; 40], dir.path().join("c"));
    let sound = || idx(8, &[(15, 0), (5, 30)], &[0, 1, 2]);
    let load = || {
        let args = ["load", "--seq-len", "2", "--batch-size", "1"];
        forebay([&args[..], &[path.to_str().unwrap()]].concat())
    };
    let changed = |at: usize, byte: u8| {
        let mut bytes = sound();
        bytes[at] = byte;
        bytes
    };
    write(path.with_extension("bin"), &bin);
    write(path.with_extension("idx"), sound());
    load().exits(0);
    let cases: [(Vec<u8>, &[&str]); 14] = [
        (changed(0, b'X'), &["c.idx: first bytes: expected MMIDIDX", "found XMIDIDX"]),
        (changed(9, 2), &["c.idx: version: expected 1, found 2"]),
        (changed(17, 7), &["c.idx: type of a token", "found 7 (f32)"]),
        (changed(17, 9), &["c.idx: type of a token", "found 9"]),
        (changed(18, 3), &["c.idx: size after the header (3 sequences, 3 document bounds)"]),
        (changed(25, 0xff), &["c.idx: size after the header"]),
        (changed(26, 0), &["c.idx: size after the header"]),
        (sound()[..20].to_vec(), &["c.idx: size: expected ≥ 34 B, found 20 B"]),
        (sound()[..50].to_vec(), &["c.idx: size after the header"]),
        ([sound(), vec![0, 0]].concat(), &["c.idx: end", "multimodal"]),
        (
            idx(8, &[(-1, 0), (5, 30)], &[0, 1, 2]),
            &["tokens of sequence 0: expected ≥ 0, found -1"],
        ),
        (idx(8, &[(15, 0), (6, 30)], &[0, 1, 2]), &["c.bin: sequence 1", "to end by byte 40"]),
        (idx(8, &[(15, -2), (5, 30)], &[0, 1, 2]), &["c.bin: sequence 0", "from byte -2"]),
        (idx(8, &[(15, 0), (5, 30)], &[0, 2, 1]), &["bound 2 of the documents", "from 2 to 2"]),
    ];
    for (bytes, words) in cases {
        write(path.with_extension("idx"), bytes);
        load().complains(words);
    }
    write(path.with_extension("idx"), idx(8, &[(15, 0), (5, 30)], &[0, 1, 1]));
    load().complains(&["last bound of the documents: expected 2, found 1"]);
    write(path.with_extension("idx"), sound());
    write(path.with_extension("bin"), &bin[..39]);
    load().complains(&["c.bin: sequence 1", "to end by byte 39"]);
    write(path.with_extension("bin"), [[0xfe; 4]; 10].concat());
    write(path.with_extension("idx"), idx(4, &[(10, 0)], &[0, 1]));
    load().complains(&["c.bin: token at byte", "an id from 0 to 4294967295"]);
    fs::remove_file(path.with_extension("idx")).unwrap();
    load().complains(&["c.idx"]);
    fs::remove_file(path.with_extension("bin")).unwrap();
    load().complains(&["not a dataset"]);

    // Ours, with an index of another run.
    let out = dir.path().join("out");
    copy(megatron(), &out);
    fs::copy(out.join("shard-00001.idx"), out.join("shard-00000.idx")).unwrap();
    assert_eq!(forebay(["load", out.to_str().unwrap()]).code, 1);
}
