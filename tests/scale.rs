//! What does not depend on the size of a dataset: opening it, memory, a batch of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use forebay_load::{Batch, Config, Loader, Permutation, Sampling};
use serde_json::Value;

use crate::support::*;

const DOCUMENTS: u64 = 1_000_000_000;
/// Of the index.
const HEADER_BYTES: u64 = 64;
const ENTRY_BYTES: u64 = 24;
const MEMORY_BYTES: u64 = 200 << 20;
const DRAWN: u64 = 400;

/// A dataset of a billion documents, all of them the first forty of [`prepared`] again: a shard, and
/// a sparse index of 24 GB that holds the entries which the first draws of seed 0 look up.
fn billion(directory: &Path) -> Vec<Vec<u32>> {
    let mut manifest: Value = manifest(prepared());
    let shard = manifest["shards"][0].clone();
    let name = shard["file"].as_str().unwrap();
    fs::copy(prepared().join(name), directory.join(name)).unwrap();
    let tokens = DOCUMENTS * 100;
    manifest["documents"] = DOCUMENTS.into();
    manifest["tokens"] = tokens.into();
    manifest["shards"] = Value::Array(vec![shard]);
    fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();

    let small = fs::read(prepared().join("documents.idx")).unwrap();
    let index = File::create(directory.join("documents.idx")).unwrap();
    index.set_len(HEADER_BYTES + ENTRY_BYTES * DOCUMENTS + 16).unwrap();
    let header = [u64::from_le_bytes(*b"FBINDEX2"), DOCUMENTS, tokens, 1, 0, 1 << 20, 0, 0];
    index.write_all_at(&header.map(u64::to_le_bytes).concat(), 0).unwrap();
    let order = Permutation::new(DOCUMENTS, 0, 0);
    let rows = rows(prepared());
    (0..DRAWN)
        .map(|position| {
            let document = position % 40;
            let entry = (HEADER_BYTES + ENTRY_BYTES * document) as usize;
            let entry = &small[entry..entry + ENTRY_BYTES as usize];
            let place = HEADER_BYTES + ENTRY_BYTES * order.at(position);
            index.write_all_at(entry, place).unwrap();
            rows[document as usize].tokens.clone()
        })
        .collect()
}

#[test]
fn a_billion_documents_open_at_once_and_take_no_memory() {
    let dir = temp();
    let expected = billion(dir.path());
    let config = Config { sampling: Sampling::Documents, ..Config::new(64, 4) };
    let mut loader = Loader::open(dir.path(), config).unwrap();
    assert_eq!(loader.samples(), DOCUMENTS);
    let mut batch = Batch::default();
    for documents in expected.chunks(4) {
        loader.next_batch(&mut batch).unwrap();
        for (row, tokens) in batch.rows().iter().zip(documents) {
            let kept = tokens.len().min(64);
            assert!(row[..kept].iter().zip(tokens).all(|(&found, &id)| found == i64::from(id)));
        }
    }
    let path = dir.path().to_str().unwrap();
    let args = ["bench", "loader", path, "--samples", "documents", "--seq-len", "64"];
    let ran = forebay([&args[..], &["--batch-size", "4", "--steps", "99", "--json"]].concat());
    let json = ran.exits(0).json();
    assert_eq!(json["tokens"], 99 * 4 * 64);
    let peak = json["peak_rss_bytes"].as_u64().unwrap();
    assert!(peak < MEMORY_BYTES, "{peak} B resident");
    assert!(json["first_batch_seconds"].as_f64().unwrap() > 0.0);
    // Far behind, where nothing was written: an entry without tokens, and still no search for it.
    let ran = forebay([&args[..], &["--step", "200000000", "--steps", "3", "--json"]].concat());
    ran.exits(0);
}

#[test]
fn a_simulated_step_is_waited_for_and_its_loader_is_judged() {
    let path = prepared().to_str().unwrap();
    let args = ["bench", "loader", path, "--seq-len", "64", "--steps", "20", "--json"];
    let ran = forebay([&args[..], &["--step-time", "2", "--prefetch", "2"]].concat());
    let json = ran.exits(0).json();
    assert!(json["seconds"].as_f64().unwrap() >= 0.04);
    assert!(json["verdict"].as_str().unwrap().starts_with("loader-bound: "));
    assert!((0.0..=1.0).contains(&json["stall_share"].as_f64().unwrap()));
    assert_eq!(json["tokens"], 20 * 8 * 64);
    let ran = forebay(["bench", "loader", path, "--step-time=-1"]).exits(2);
    assert!(ran.stderr.contains("--step-time: expected milliseconds"), "{ran:?}");
    // Mixtures too.
    let mixture = ["bench", "loader", path, path, "--weights", "0.5,0.5", "--steps", "3"];
    forebay([&mixture[..], &["--seq-len", "64"]].concat()).exits(0);
}

#[test]
fn metrics_are_served_while_the_command_runs() {
    let path = prepared().to_str().unwrap();
    let args = ["load", path, "--seq-len", "64", "--steps", "100000000"];
    let mut command = binary();
    command.args(args).args(["--metrics", "127.0.0.1:0"]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    let address = said.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    let ask = |address: &str| {
        let mut connection = TcpStream::connect(address)?;
        connection.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")?;
        let mut text = String::new();
        connection.read_to_string(&mut text).map(|_| text)
    };
    let text = address.map(ask);
    // Before anything fails: it would go on for ever.
    child.kill().unwrap();
    child.wait().unwrap();
    let text = text.expect(&said).unwrap();
    assert!(text.contains("# TYPE forebay_load_steps_total counter"), "{text}");
    forebay(["load", path, "--metrics", "256.0.0.1:80"]).exits(2);
}
