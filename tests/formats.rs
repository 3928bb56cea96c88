//! Shards as files of other training stacks: every byte, and what refuses them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::*;

/// Name, files of shard 0 of a run in order, type of a token of GPT-2.
const FORMATS: [(&str, &[&str], &str); 4] = [
    ("megatron", &["shard-00000.bin", "shard-00000.idx"], "u16"),
    (
        "datatrove",
        &["00000_unshuffled.ds", "00000_unshuffled.ds.index", "00000_unshuffled.ds.metadata"],
        "u16",
    ),
    ("npy", &["shard-00000.npy", "shard-00000.offsets.npy"], "u16"),
    ("olmo", &["part-00000.npy", "part-00000.csv.gz"], "u16"),
];

fn tokenize(input: &Path, out: &Path, more: &[&str]) -> Ran {
    forebay([&["tokenize", input.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat())
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn gunzip(bytes: &[u8]) -> String {
    std::io::read_to_string(flate2::read::MultiGzDecoder::new(bytes)).unwrap()
}

/// A header of NumPy's, written out.
fn npy_header(descr: &str, length: usize) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({length},), }}");
    let mut header = hex("93 4e554d5059 01 00 7600");
    header.extend_from_slice(text.as_bytes());
    header.resize(127, b' ');
    header.push(b'\n');
    header
}

#[test]
fn every_format_has_the_bytes_that_its_readers_expect() {
    let dir = temp();
    let lines = [line("a", "Hello, world!"), line("b", "  "), line("c,\"1\"", "!")].concat();
    let input = write(dir.path().join("in.jsonl"), lines);
    // 15496 11 995 0 50256, and 0 50256; document b has no text and is left out.
    let tokens = hex("883c 0b00 e303 0000 50c4  0000 50c4");
    let [megatron, datatrove, npy, olmo] = FORMATS.map(|(name, files, _)| {
        let out = dir.path().join(name);
        tokenize(&input, &out, &["--format", name]).exits(0);
        let mut expected: Vec<_> = files.iter().map(|&file| file.to_owned()).collect();
        expected.extend(["manifest.json".into(), "removed/removed-00000.parquet".into()]);
        expected.sort();
        assert_eq!(hashes(&out).into_keys().collect::<Vec<_>>(), expected);
        files.iter().map(|file| fs::read(out.join(file)).unwrap()).collect::<Vec<_>>()
    });

    assert_eq!(megatron[0], tokens);
    let expected =
        hex("4d4d494449445800 00  0100000000000000  08  0200000000000000  0300000000000000
         05000000 02000000
         0000000000000000 0a00000000000000
         0000000000000000 0100000000000000 0200000000000000");
    assert_eq!(megatron[1], expected);

    assert_eq!(datatrove[0], tokens);
    assert_eq!(datatrove[1], hex("0500000000000000 0700000000000000"));
    assert_eq!(datatrove[2], b"gpt2|2\n7\n7.00 T");

    assert_eq!(npy[0], [npy_header("<u2", 7), tokens.clone()].concat());
    let offsets = hex("0000000000000000 0500000000000000 0700000000000000");
    assert_eq!(npy[1], [npy_header("<u8", 3), offsets].concat());

    assert_eq!(olmo[0], tokens);
    let source = input.to_str().unwrap();
    let third = line("a", "Hello, world!").len() + line("b", "  ").len();
    let expected = format!("0,5,a,{source},0\r\n5,7,\"c,\"\"1\"\"\",{source},{third}\r\n");
    assert_eq!(gunzip(&olmo[1]), expected);
}

/// Words `w0` … `w69999` and nothing else, ids as in their names.
fn large_vocabulary(dir: &Path, words: &[usize]) -> PathBuf {
    let vocab: serde_json::Map<_, _> =
        words.iter().map(|id| (format!("w{id}"), serde_json::json!(id))).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "w0", "vocab": vocab},
    });
    write(dir.join("tokenizer.json"), json.to_string())
}

#[test]
fn large_vocabularies_take_four_bytes_and_no_id_is_cut() {
    let dir = temp();
    let all: Vec<usize> = (0..70_000).collect();
    let vocabulary = large_vocabulary(dir.path(), &all);
    let input = write(dir.path().join("in.jsonl"), line("a", "w1 w69999 w65536"));
    let more = ["--no-eos", "--tokenizer", vocabulary.to_str().unwrap(), "--format"];
    for (name, files, _) in FORMATS {
        let out = dir.path().join(name);
        tokenize(&input, &out, &[&more[..], &[name]].concat()).exits(0);
        let bytes = fs::read(out.join(files[0])).unwrap();
        assert!(bytes.ends_with(&hex("01000000 6f110100 00000100")), "{name}");
        let kind = if name == "megatron" { "i32" } else { "u32" };
        assert_eq!(manifest(&out)["layout"]["token_type"], kind);
        forebay(["verify", out.to_str().unwrap()]).exits(0);
    }
    let idx = fs::read(dir.path().join("megatron/shard-00000.idx")).unwrap();
    assert_eq!(idx[17], 4);
    let header = fs::read(dir.path().join("npy/shard-00000.npy")).unwrap();
    assert_eq!(header[..128], npy_header("<u4", 3));
    let metadata = fs::read(dir.path().join("datatrove/00000_unshuffled.ds.metadata")).unwrap();
    assert_eq!(metadata, b"tokenizer.json|4\n3\n3.00 T");

    // Two words, but the id of one does not fit into two bytes.
    let sparse = large_vocabulary(&dir.path().join("sparse"), &[0, 69_999]);
    let more = ["--no-eos", "--tokenizer", sparse.to_str().unwrap(), "--format", "npy"];
    let out = dir.path().join("no");
    tokenize(&input, &out, &more).exits(0);
    assert_eq!(manifest(&out)["layout"]["token_type"], "u32");
    let bytes = fs::read(out.join("shard-00000.npy")).unwrap();
    assert!(bytes.ends_with(&hex("00000000 6f110100 00000000")));
}

/// Tokens of each document, read from the files by the shortest way.
fn documents(dataset: &Path) -> Vec<Vec<u32>> {
    let manifest = manifest(dataset);
    let u64s = |bytes: &[u8]| -> Vec<usize> {
        let value = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
        bytes.chunks(8).map(|b| usize::try_from(value(b)).unwrap()).collect()
    };
    let mut documents = Vec::new();
    for shard in manifest["shards"].as_array().unwrap() {
        let read = |file: &serde_json::Value| fs::read(dataset.join(file.as_str().unwrap()));
        let mut tokens = read(&shard["file"]).unwrap();
        let sidecar = read(&shard["sidecars"][0]["file"]).unwrap();
        let ends: Vec<usize> = match manifest["layout"]["format"].as_str().unwrap() {
            "megatron" => {
                let count = u64s(&sidecar[18..26])[0];
                let lengths = sidecar[34..34 + 4 * count].chunks(4);
                let length = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap()) as usize;
                lengths.scan(0, |end, b| Some((*end += length(b), *end).1)).collect()
            }
            "datatrove" => u64s(&sidecar),
            "npy" => {
                tokens.drain(..128);
                u64s(&sidecar[136..])
            }
            _ => gunzip(&sidecar)
                .lines()
                .map(|line| line.split(',').nth(1).unwrap().parse().unwrap())
                .collect(),
        };
        let tokens: Vec<u32> =
            tokens.chunks(2).map(|b| u16::from_le_bytes(b.try_into().unwrap()).into()).collect();
        let mut start = 0;
        for end in ends {
            documents.push(tokens[start..end].to_vec());
            start = end;
        }
        assert_eq!(start, tokens.len());
    }
    documents
}

/// Real text in several shards, shuffled: the documents of the Parquet dataset in its order,
/// whatever the threads, and `verify` and `inspect` agree.
#[test]
fn all_formats_hold_what_parquet_holds() {
    let expected: Vec<Vec<u32>> = rows(prepared()).into_iter().map(|row| row.tokens).collect();
    let dir = temp();
    for (name, _, kind) in FORMATS {
        let out = dir.path().join(name);
        let more = ["--shard-size", "1MiB", "--seed", "7", "--format", name];
        prep(&[&sample()], &out, &[&more[..], &["--threads", "3"]].concat()).exits(0);
        assert_eq!(documents(&out), expected, "{name}");
        let manifest = manifest(&out);
        assert_eq!(manifest["layout"]["format"], name);
        assert_eq!(manifest["layout"]["token_type"], kind);
        assert!(manifest["shards"].as_array().unwrap().len() > 2);

        let again = dir.path().join("again");
        prep(&[&sample()], &again, &[&more[..], &["--threads", "1"]].concat()).exits(0);
        assert_eq!(hashes(&again), hashes(&out), "{name}");
        fs::remove_dir_all(again).unwrap();

        let path = out.to_str().unwrap();
        let ran = forebay(["verify", "--json", path]).exits(0).json();
        assert_eq!(ran["documents"], expected.len());
        assert_eq!(ran["tokens"], manifest["tokens"]);
        let shown = forebay(["inspect", "--json", "--samples", "2", path]).exits(0).json();
        for (sample, tokens) in shown["samples"].as_array().unwrap().iter().zip(&expected) {
            let text = reference().decode(tokens, false).unwrap();
            assert_eq!(sample["text"], text);
        }
        let lengths = shown["token_lengths"].as_array().unwrap();
        let documents: u64 = lengths.iter().map(|l| l["documents"].as_u64().unwrap()).sum();
        assert_eq!(documents, expected.len() as u64);
    }
    assert!(dir.path().join("datatrove/00001_00000_doc_shuffled.ds.index").is_file());
}

#[test]
fn what_a_format_cannot_hold_or_give_is_refused() {
    let dir = temp();
    let input = write(dir.path().join("in.jsonl"), line("a", "Hello, world!"));
    for (name, _, _) in FORMATS {
        let out = dir.path().join(name);
        let refused = tokenize(&input, &out, &["--keep-text", "--format", name]).exits(2);
        assert!(refused.stderr.contains("error: --keep-text: "), "{refused:?}");
        assert!(!out.exists());
        prep(&[&input], &out, &["--format", name]).exits(0);
        // Tokens are no text.
        tokenize(&out, &dir.path().join("again"), &[]).complains(&["holds no text"]);
        prep(&[&input], &out, &[]).complains(&["finished dataset of other"]);
        if name != "megatron" {
            let out = out.to_str().unwrap();
            forebay(["load", out]).complains(&["expected", "forebay or megatron", name]);
        }
    }
    let out = dir.path().join("other");
    let refused = tokenize(&input, &out, &["--format", "parquet"]).exits(2);
    assert!(refused.stderr.contains("--input-format"), "{refused:?}");
    tokenize(&input, &out, &["--format", "tfrecord"]).exits(2);
    // A directory of somebody else's.
    write(out.join("shard-00000.bin"), "theirs");
    tokenize(&input, &out, &["--format", "megatron"]).complains(&["not empty", "shard-00000.bin"]);
    assert_eq!(fs::read(out.join("shard-00000.bin")).unwrap(), b"theirs");
}

fn problems(dataset: &Path) -> Vec<(String, String)> {
    let ran = forebay(["verify", "--json", dataset.to_str().unwrap()]);
    let problems = ran.json()["problems"].as_array().unwrap().clone();
    assert_eq!(ran.code, i32::from(!problems.is_empty()), "{ran:?}");
    let string = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    problems.iter().map(|p| (string(&p["file"]), string(&p["what"]))).collect()
}

#[test]
fn verify_finds_every_change() {
    let dir = temp();
    let lines: String =
        (0..40).map(|n| line(&n.to_string(), &format!("{n} little words"))).collect();
    let input = write(dir.path().join("in.jsonl"), lines);
    for (name, files, _) in FORMATS {
        let out = dir.path().join(name);
        tokenize(&input, &out, &["--format", name]).exits(0);
        assert_eq!(problems(&out), [], "{name}");
        for &file in files {
            let path = out.join(file);
            let bytes = fs::read(&path).unwrap();
            for at in [0, bytes.len() / 2, bytes.len() - 1] {
                let mut spoiled = bytes.clone();
                spoiled[at] ^= 1;
                fs::write(&path, spoiled).unwrap();
                assert!(problems(&out).iter().any(|(found, _)| found == file), "{file} {at}");
            }
            fs::remove_file(&path).unwrap();
            assert!(problems(&out).iter().any(|(found, _)| found == file), "{file}");
            fs::write(&path, bytes).unwrap();
        }
        let sound = manifest(&out);
        for pointer in ["/tokens", "/documents", "/shards/0/tokens", "/shards/0/documents"] {
            let mut wrong = sound.clone();
            let count = wrong.pointer_mut(pointer).unwrap();
            *count = (count.as_u64().unwrap() + 1).into();
            fs::write(out.join("manifest.json"), wrong.to_string()).unwrap();
            assert_ne!(problems(&out), [], "{name} {pointer}");
        }

        // Hashes that are right do not hide an id outside of the vocabulary.
        let path = out.join(files[0]);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last..].copy_from_slice(&50_257_u16.to_le_bytes());
        let mut wrong = sound.clone();
        wrong["shards"][0]["blake3"] = blake3::hash(&bytes).to_hex().to_string().into();
        fs::write(&path, &bytes).unwrap();
        fs::write(out.join("manifest.json"), wrong.to_string()).unwrap();
        let found = problems(&out);
        let what = "expected an id below 50257, found 50257";
        assert!(found.len() == 1 && found[0].1.contains(what), "{name}: {found:?}");

        // Nor a token that no document has.
        bytes.extend_from_slice(&[0, 0]);
        let mut wrong = sound;
        wrong["shards"][0]["blake3"] = blake3::hash(&bytes).to_hex().to_string().into();
        wrong["shards"][0]["bytes"] = bytes.len().into();
        fs::write(&path, &bytes).unwrap();
        fs::write(out.join("manifest.json"), wrong.to_string()).unwrap();
        assert_ne!(problems(&out), [], "{name}");

        write(out.join(files[0].replace("00000", "00007")), "stray");
        assert!(problems(&out).iter().any(|(_, what)| what == "not in the manifest"), "{name}");
    }
}

/// NumPy opens the arrays and would write the same bytes.
#[test]
fn numpy_reads_npy() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let has_numpy = Command::new(&python)
        .args(["-c", "import numpy"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_numpy {
        eprintln!("skipped: {python} has no numpy; PYTHON names another interpreter");
        return;
    }
    let dir = temp();
    let lines: String = (0..9).map(|n| line(&n.to_string(), &format!("{n} small words"))).collect();
    let input = write(dir.path().join("in.jsonl"), lines);
    let (out, ours) = (dir.path().join("npy"), dir.path().join("ours"));
    tokenize(&input, &out, &["--format", "npy"]).exits(0);
    tokenize(&input, &ours, &[]).exits(0);
    let script = "
import io, json, sys, numpy as np
arrays = [sys.argv[1] + name for name in ('/shard-00000.npy', '/shard-00000.offsets.npy')]
tokens, offsets = [np.load(name, mmap_mode='r') for name in arrays]
assert tokens.dtype == np.uint16 and offsets.dtype == np.uint64, (tokens.dtype, offsets.dtype)
for name, array in zip(arrays, (tokens, offsets)):
    saved = io.BytesIO()
    np.save(saved, np.array(array))
    assert saved.getvalue() == open(name, 'rb').read(), name
print(json.dumps([tokens[a:b].tolist() for a, b in zip(offsets, offsets[1:])]))
";
    let ran = ran(Command::new(&python).args(["-c", script]).arg(&out)).exits(0);
    let found: Vec<Vec<u32>> = serde_json::from_value(ran.json()).unwrap();
    let expected: Vec<Vec<u32>> = rows(&ours).into_iter().map(|row| row.tokens).collect();
    assert_eq!(found, expected);
}
