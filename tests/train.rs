//! `tokenize train`: the vocabulary is that of the reference's trainer, whatever the threads.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer};

use crate::support::*;

fn train(inputs: &[&Path], out: &Path, more: &[&str]) -> Ran {
    let mut command = binary();
    command.args(["tokenize", "train"]).args(inputs).arg("--out").arg(out).args(more);
    ran(command.stdin(std::process::Stdio::null()))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The trainer of `tokenizers` called directly, with the pre-tokenizer of a trained file.
fn reference(trained: &Value, texts: &[String], vocab_size: usize) -> Value {
    let pre_tokenizer: PreTokenizerWrapper =
        serde_json::from_value(trained["pre_tokenizer"].clone()).unwrap();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size)
        .min_frequency(2)
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<_>>())
        .build();
    let mut tokenizer = tokenizers::TokenizerImpl::<
        BPE,
        tokenizers::NormalizerWrapper,
        PreTokenizerWrapper,
        tokenizers::PostProcessorWrapper,
        tokenizers::DecoderWrapper,
    >::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    tokenizer.train(&mut trainer, texts.iter()).unwrap();
    serde_json::to_value(tokenizer.get_model()).unwrap()
}

#[test]
fn merges_are_those_of_the_reference_trainer() {
    let dir = temp();
    let texts: Vec<String> = sample_documents().into_iter().map(|(_, text)| text).collect();
    for (split, vocab_size) in [("gpt2", 1_500), ("o200k", 1_000)] {
        let out = dir.path().join(format!("{split}.json"));
        let size = vocab_size.to_string();
        let more = ["--vocab-size", &size, "--split", split, "--json"];
        let said = train(&[&sample()], &out, &more).exits(0).json();
        assert_eq!(said["vocab_size"], vocab_size);
        assert_eq!((&said["read"], &said["sampled"]), (&513.into(), &513.into()));
        let trained = json(&out);
        let expected = reference(&trained, &texts, vocab_size);
        assert!(trained["model"]["merges"] == expected["merges"], "{split}");
        assert!(trained["model"]["vocab"] == expected["vocab"], "{split}");
        let hash = blake3::hash(&fs::read(&out).unwrap()).to_hex().to_string();
        assert_eq!(said["blake3"], hash);
    }
}

#[test]
fn both_encoders_read_it_and_agree() {
    let dir = temp();
    let expression = r"[a-z]+|\s";
    for split in ["gpt2", "llama3", "o200k", "qwen", expression] {
        let out = dir.path().join("tokenizer.json");
        let more = ["--vocab-size", "2000", "--sample", "600KiB", "--split", split];
        train(&[&sample()], &out, &more).exits(0);
        let dataset = dir.path().join("tokens");
        let mut command = binary();
        command.arg("tokenize").arg(sample()).arg("--out").arg(&dataset).arg("--keep-text");
        ran(command.arg("--tokenizer").arg(&out)).exits(0);
        let said = manifest(&dataset);
        // What it would take for other expressions reads them differently.
        let engine = if split == expression { "tokenizers" } else { "fastokens" };
        assert!(said["tokenizer"]["engine"].as_str().unwrap().starts_with(engine), "{split}");
        assert_eq!(said["tokenizer"]["eos"]["token"], "<|endoftext|>");
        let reference = Tokenizer::from_file(&out).unwrap();
        for row in rows(&dataset).iter().step_by(7) {
            let text = row.text.as_ref().unwrap();
            let mut expected =
                reference.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
            assert_eq!(reference.decode(&expected, false).unwrap(), *text, "{}", row.id);
            expected.push(0);
            assert!(row.tokens == expected, "{split}: {} differs", row.id);
        }
        fs::remove_file(out).unwrap();
        fs::remove_dir_all(dataset).unwrap();
    }
}

#[test]
fn the_sample_and_the_file_depend_on_the_seed_and_on_no_thread() {
    let dir = temp();
    let run = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let more = [&["--vocab-size", "800", "--sample", "1MiB", "--json"], more].concat();
        let said = train(&[&sample()], &out, &more).exits(0).json();
        (said["sampled_bytes"].as_u64().unwrap(), fs::read(out).unwrap())
    };
    let one = run("one", &["--threads", "1"]);
    for (name, threads) in [("two", "2"), ("five", "5"), ("again", "1")] {
        assert!(run(name, &["--threads", threads]) == one, "{threads} threads");
    }
    let other = run("other", &["--seed", "1"]);
    assert!(other.0 != one.0 && other.1 != one.1);
    // About what was asked for: documents are of very different size.
    assert!((400 << 10..2 << 20).contains(&one.0), "{}", one.0);
}

#[test]
fn what_is_learnt_can_be_followed_by_hand() {
    let dir = temp();
    let lines = ["a b", "low lower lowest", "low\u{1}", "<pad>"].map(|text| line(text, text));
    let input = write(dir.path().join("in.jsonl"), lines.concat());
    let out = dir.path().join("tokenizer.json");
    let more = ["--vocab-size", "9999", "--special-tokens-list", "<pad>", "<eos>", "--json"];
    let ran = train(&[&input], &out, &more).exits(0);
    assert!(ran.stderr.contains("expected 9,999 tokens"), "{}", ran.stderr);
    let said = ran.json();
    let trained = json(&out);
    // `lo` 4 times, of which `low` 4; ` low` and `lowe` 2 times each: the space has the lower id.
    let merges: Vec<String> = trained["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| format!("{}+{}", m[0].as_str().unwrap(), m[1].as_str().unwrap()))
        .collect();
    assert_eq!(merges, ["l+o", "lo+w", "Ġ+low", "Ġlow+e"]);
    assert_eq!(said["vocab_size"], 258 + merges.len());
    let added = trained["added_tokens"].as_array().unwrap();
    assert_eq!((&added[0]["content"], &added[1]["id"]), (&"<pad>".into(), &1.into()));
    assert_eq!(trained["model"]["vocab"]["!"], 2);
    let none = dir.path().join("none.json");
    train(&[&input], &none, &["--vocab-size", "256", "--special-tokens-list", ""]).exits(0);
    assert_eq!(json(&none)["added_tokens"], serde_json::json!([]));
}

#[test]
fn what_cannot_be_trained_is_refused_and_nothing_is_written() {
    let dir = temp();
    let input = write(dir.path().join("in.jsonl"), line("a", "some text"));
    let empty = write(dir.path().join("empty.jsonl"), "");
    let blank = write(dir.path().join("blank.jsonl"), line("a", ""));
    let out = dir.path().join("tokenizer.json");
    let size = ["--vocab-size", "300"];
    train(&[&input], &out, &["--vocab-size", "256"]).complains(&["257", "256"]);
    train(&[&empty], &out, &size).complains(&["empty.jsonl", "found none"]);
    train(&[&blank], &out, &size).complains(&["blank.jsonl", "found none in the sample"]);
    train(&[&input], &out, &[&size[..], &["--split", "gpt5"]].concat()).complains(&["gpt5"]);
    train(&[&input], &out, &[&size[..], &["--split", "(x"]].concat()).complains(&["(x"]);
    let twice = ["--special-tokens-list", "<a>", "<a>"];
    train(&[&input], &out, &[&size[..], &twice].concat()).complains(&["every token once", "<a>"]);
    train(&[&sample()], &out, &[&size[..], &["--memory", "10KiB"]].concat())
        .complains(&["different ones", "10240 bytes"]);
    train(&[&input], &out, &[]).exits(2);
    assert!(!out.exists());
    let bad = write(dir.path().join("bad.jsonl"), line("a", "some some") + "{torn\n");
    train(&[&bad], &out, &size).complains(&["bad.jsonl"]);
    train(&[&bad], &out, &[&size[..], &["--on-error", "skip"]].concat()).exits(3);
    let before = fs::read(&out).unwrap();
    train(&[&input], &out, &size).complains(&["tokenizer.json", "exists"]);
    assert_eq!(fs::read(&out).unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
}

#[test]
fn tokenize_itself_is_as_it_was() {
    let help = forebay(["tokenize", "--help"]).exits(0).stdout;
    assert!(help.contains("<INPUT>...") && help.contains("train"), "{help}");
    forebay(["tokenize", "in.jsonl"]).exits(2);
    let dir = temp();
    let input = write(dir.path().join("train"), line("a", "Hello, world!"));
    let out = dir.path().join("out");
    let mut command = binary();
    command.args(["tokenize", "./train", "--input-format", "jsonl", "--out", "out"]);
    ran(command.current_dir(dir.path())).exits(0);
    assert_eq!(rows(&out)[0].tokens, [15496, 11, 995, 0, EOS]);
    assert!(input.exists());
}
