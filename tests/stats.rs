//! `--stats`: what was written, counted; the same after a kill and for any number of threads.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::*;

fn stats(ran: Ran) -> Value {
    ran.exits(0).json()["stats"].take()
}

#[test]
fn they_are_what_a_count_of_the_rows_gives() {
    let dir = temp();
    let out = dir.path().join("out");
    let more = ["--keep-text", "--shard-size", "1MiB", "--stats", "--json"];
    let stats = stats(prep(&[&sample()], &out, &more));
    let rows = rows(&out);
    let gpt2 = reference();
    // A token of one byte that is no ASCII: no character of its own, and not the space of GPT-2.
    let part = |id: &u32| {
        let token = gpt2.id_to_token(*id).unwrap();
        let ascii = gpt2.decode(&[*id], false).unwrap().is_ascii();
        token.chars().count() == 1 && !ascii
    };
    let mut sources: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    for row in &rows {
        let source = sources.entry(&row.source).or_default();
        source[0] += 1;
        source[1] += row.text.as_ref().unwrap().len() as u64;
        source[2] += row.tokens.len() as u64;
        source[3] += row.tokens.iter().filter(|id| part(id)).count() as u64;
    }
    let found = stats["sources"].as_array().unwrap();
    assert_eq!(found.len(), sources.len());
    for (found, (source, [documents, bytes, tokens, fallback])) in found.iter().zip(&sources) {
        let expected = json!({
            "source": source, "documents": documents, "bytes": bytes, "tokens": tokens,
            "byte_fallback_tokens": fallback, "unknown_tokens": 0,
        });
        let mut found = found.clone();
        let per_token = found.as_object_mut().unwrap().remove("bytes_per_token").unwrap();
        assert!((per_token.as_f64().unwrap() - *bytes as f64 / *tokens as f64).abs() < 1e-9);
        assert_eq!(found, expected);
    }
    assert!(stats["byte_fallback_tokens"].as_u64().unwrap() > 1_000);
    let manifest = manifest(&out);
    assert_eq!(
        (&stats["documents"], &stats["tokens"]),
        (&manifest["documents"], &manifest["tokens"])
    );
    assert_eq!(stats["bytes"], manifest["text_bytes"]);
    let shown = forebay(["inspect", out.to_str().unwrap(), "--json"]).exits(0).json();
    assert_eq!(stats["token_lengths"], shown["token_lengths"]);

    let table = prep(&[&sample()], &dir.path().join("table"), &["--stats"]).exits(0).stdout;
    for word in ["source", "B/token", "prose.jsonl", "sources more", "all  ", "documents by tokens"]
    {
        assert!(table.contains(word), "{word}: {table}");
    }
    // Nothing is written the second time, so nothing is counted; the dataset is the same without.
    let again = prep(&[&sample()], &out, &more).exits(0);
    assert_eq!(again.json()["stats"], Value::Null);
    assert!(again.stderr.contains("--stats"), "{}", again.stderr);
    let without = dir.path().join("without");
    let plain = prep(&[&sample()], &without, &["--keep-text", "--shard-size", "1MiB", "--json"]);
    assert_eq!(plain.exits(0).json()["stats"], Value::Null);
    assert_eq!(hashes(&without), hashes(&out));
}

/// Kills a run between two shards.
fn kill(out: &Path, more: &[&str]) {
    for _ in 0..200 {
        let _ = fs::remove_dir_all(out);
        let mut command = binary();
        command.arg("prep").arg(sample()).arg("--out").arg(out).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let done = out.join(".work/shard-00001.parquet.done");
        while !done.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if done.exists() && !out.join("manifest.json").exists() {
            return;
        }
    }
    panic!("never caught it between two shards");
}

fn with<'a>(more: &[&'a str], threads: &'a str) -> Vec<&'a str> {
    [more, &["--threads", threads]].concat()
}

#[test]
fn a_resumed_run_says_the_same_as_one_that_was_never_interrupted() {
    let dir = temp();
    let more = ["--shard-size", "300KiB", "--stats", "--json"];
    let expected = stats(prep(&[&sample()], &dir.path().join("whole"), &with(&more, "1")));
    assert_eq!(stats(prep(&[&sample()], &dir.path().join("five"), &with(&more, "5"))), expected);

    let out = dir.path().join("killed");
    kill(&out, &with(&more, "2"));
    let resumed = prep(&[&sample()], &out, &with(&more, "2")).exits(0);
    assert_eq!(resumed.json()["resumed"], true);
    assert_eq!(stats(resumed), expected);
    // Shards of a run that did not count are written again.
    kill(&out, &with(&["--shard-size", "300KiB"], "2"));
    assert_eq!(stats(prep(&[&sample()], &out, &with(&more, "2"))), expected);
    assert_eq!(hashes(&out), hashes(&dir.path().join("whole")));
}

#[test]
fn models_that_fall_back_to_bytes_say_how_often() {
    let dir = temp();
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255_u32 {
        vocab.insert(format!("<0x{byte:02X}>"), byte.into());
    }
    vocab.insert("a".into(), 256.into());
    vocab.insert("<unk>".into(), 257.into());
    let model = |fall_back: bool| {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": false,
                "byte_fallback": fall_back, "vocab": vocab, "merges": [],
            },
        })
    };
    let input = write(dir.path().join("in.jsonl"), line("1", "aéa") + &line("2", "日"));
    for (fall_back, expected) in [(true, [7, 5, 0]), (false, [4, 0, 2])] {
        let file = dir.path().join("tokenizer.json");
        let file = write(file, model(fall_back).to_string());
        let out = dir.path().join(format!("{fall_back}"));
        let args = ["tokenize", input.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let more = ["--no-eos", "--stats", "--json", "--tokenizer", file.to_str().unwrap()];
        let stats = stats(forebay([&args[..], &more].concat()));
        let found = ["tokens", "byte_fallback_tokens", "unknown_tokens"].map(|name| &stats[name]);
        assert_eq!(found, expected.map(Value::from).each_ref());
    }
}
