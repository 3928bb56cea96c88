//! The stages against files that datatrove wrote, and against slow, obvious versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use forebay_shard::input::{self, Cursor};
use forebay_transform::dedup::datatrove::record::{put_signature, signature_bytes};
use forebay_transform::dedup::datatrove::{Parameters, Precision};
use proptest::prelude::*;

use super::*;
use crate::{Execution, Progress};

fn execution(threads: usize) -> Execution {
    Execution {
        threads,
        memory_bytes: 1 << 20,
        tmp_dir: None,
        fresh: false,
        verify_tokens: 0.0,
        stats: false,
        keep_going: false,
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

/// The texts of a file of the sample.
fn texts(name: &str) -> Vec<String> {
    let options = input::Options::default();
    let path = data("sample").join(name).to_string_lossy().into_owned();
    let source = input::discover(&[path], &options, None).unwrap().remove(0);
    let mut cursor = Cursor::new(&source, &options, 1 << 20, &Default::default());
    let mut texts = Vec::new();
    while let Some(part) = cursor.next_part().unwrap() {
        texts.extend(part.parse(&options).unwrap().documents.texts.iter().map(str::to_owned));
    }
    texts
}

/// The inputs of `tools/compare/datatrove_signatures.py`, a file a rank.
fn inputs(folder: &Path) -> Vec<input::Source> {
    let (prose, go) = (texts("prose.jsonl"), texts("go.jsonl.gz"));
    let mut last = vec![String::new(), "Too few words.".to_owned()];
    for name in ["ell_monotonic", "hin", "vie"] {
        last.append(&mut texts(&format!("udhr/{name}.txt")));
    }
    let ranks = [&prose[..2], &go[16..19], &go[88..91], &last];
    for (rank, texts) in ranks.iter().enumerate() {
        let line = |text: &String| format!("{}\n", serde_json::json!({ "text": text }));
        let lines: String = texts.iter().map(line).collect();
        fs::write(folder.join(format!("{rank}.jsonl")), lines).unwrap();
    }
    let folder = folder.to_string_lossy().into_owned();
    input::discover(&[folder], &input::Options::default(), None).unwrap()
}

/// `tests/data/datatrove/signatures.bin` as the files that it was put together from.
fn unpack(folder: &Path) {
    let bytes = fs::read(data("datatrove/signatures.bin")).unwrap();
    let mut rest = &bytes[..];
    for bucket in 0..14 {
        let bucket = folder.join(bucket_name(bucket));
        fs::create_dir_all(&bucket).unwrap();
        for (rank, records) in [2, 3, 3, 3].into_iter().enumerate() {
            let (file, after) = rest.split_at(68 * records);
            fs::write(bucket.join(format!("{rank:05}.minhash.sig")), file).unwrap();
            rest = after;
        }
    }
    assert!(rest.is_empty());
}

/// All files below `folder` whose names end in `suffix`, one after the other.
fn gathered(folder: &Path, suffix: &str) -> Vec<u8> {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    let mut bytes = Vec::new();
    for path in entries {
        if path.is_dir() {
            bytes.append(&mut gathered(&path, suffix));
        } else if path.to_string_lossy().ends_with(suffix) {
            bytes.append(&mut fs::read(path).unwrap());
        }
    }
    bytes
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(data("datatrove").join(name)).unwrap()
}

#[test]
fn signatures_equal_those_of_datatrove() {
    for threads in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let sources = inputs(dir.path());
        let (options, out) = (input::Options::default(), dir.path().join("out"));
        let signed = sign(
            &sources,
            &options,
            &Parameters::default(),
            &out,
            &execution(threads),
            &Progress::default(),
        )
        .unwrap();
        assert_eq!(gathered(&out, ".minhash.sig"), golden("signatures.bin"));
        assert_eq!((signed.files, signed.documents, signed.signed, signed.empty), (4, 12, 11, 1));
        let names: Vec<_> = list(&out, "").unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["signatures"], "nothing temporary is left");
        assert_eq!(list(&out.join("signatures"), "").unwrap().len(), 14);
    }
}

#[test]
fn pairs_and_clusters_equal_those_of_datatrove() {
    let dir = tempfile::tempdir().unwrap();
    let (signatures, out) = (dir.path().join("signatures"), dir.path().join("out"));
    unpack(&signatures);
    let parameters = Parameters::default();
    let progress = Progress::default();
    let paired = pairs(&signatures, &out, &parameters, &execution(2), &progress).unwrap();
    assert_eq!((paired.files, paired.pairs), (4, 42));
    assert_eq!(gathered(&out, ".dups"), golden("dups.bin"));

    let one = cluster_pairs(&out.join("dups"), &out, &progress).unwrap();
    let other_out = dir.path().join("other");
    let two = cluster(&signatures, &other_out, &parameters, &execution(2), &progress).unwrap();
    for out in [&out, &other_out] {
        assert_eq!(gathered(out, ".clusters"), golden("clusters.bin"));
        assert_eq!(gathered(out, ".sizes"), golden("sizes.bin"));
        // datatrove happens to keep the first of these as well.
        assert_eq!(list(&out.join("remove"), ".remove").unwrap()[0].0, "000002");
        assert_eq!(gathered(out, ".remove"), [0_u32, 1, 2].map(u32::to_le_bytes).concat());
    }
    let expected =
        Clustered { pairs: 42, duplicates: 6, clusters: 3, removed: 3, largest: 2, documents: 11 };
    assert_eq!(two, expected);
    assert_eq!(one, Clustered { documents: 6, ..expected });
}

#[test]
fn what_stands_there_already_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let signatures = dir.path().join("signatures");
    unpack(&signatures);
    let run = || {
        cluster(
            &signatures,
            dir.path(),
            &Parameters::default(),
            &execution(1),
            &Progress::default(),
        )
    };
    run().unwrap();
    assert!(matches!(run(), Err(Error::NotEmpty { .. })));
    assert!(!dir.path().join("remove.tmp").exists());
}

/// Writes records `(rows, rank, document)`, the same documents in every bucket.
fn write(folder: &Path, buckets: &[Vec<(Vec<u64>, u32, u32)>], ranks: u32, precision: Precision) {
    for (bucket, records) in buckets.iter().enumerate() {
        let mut records = records.clone();
        records.sort();
        for rank in 0..ranks {
            let mut bytes = Vec::new();
            for (rows, _, document) in records.iter().filter(|record| record.1 == rank) {
                put_signature(rows, *document, precision, &mut bytes);
            }
            let folder = folder.join(bucket_name(bucket));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("{rank:05}.minhash.sig")), bytes).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_equals_sorting_everything(
        lengths in prop::collection::vec(0..400_usize, 1..6),
        spread in 1..40_u64,
        seed: u64,
        wide: bool,
    ) {
        let precision = if wide { Precision::Bits64 } else { Precision::Bits32 };
        let parameters = Parameters { buckets: 2, rows: 2, precision, ..Parameters::default() };
        let mut state = seed | 1;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut buckets = vec![Vec::new(), Vec::new()];
        for (rank, &length) in (0..).zip(&lengths) {
            // Every third document has no signature.
            for document in (0..length as u32).filter(|document| document % 3 != 2) {
                for records in &mut buckets {
                    let rows = vec![random(spread), random(spread) << 20];
                    records.push((rows, rank, document));
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let signatures = dir.path().join("signatures");
        write(&signatures, &buckets, lengths.len() as u32, precision);

        let mut expected = Vec::new();
        for records in &mut buckets {
            records.sort();
            expected.extend(records.windows(2).filter(|w| w[0].0 == w[1].0).map(|w| {
                ((w[0].1, w[0].2), (w[1].1, w[1].2))
            }));
        }
        let small = Execution { memory_bytes: 0, ..execution(2) };
        let progress = Progress::default();
        pairs(&signatures, dir.path(), &parameters, &small, &progress).unwrap();
        let words: Vec<u8> = expected.iter()
            .flat_map(|(a, b)| [a.0, a.1, b.0, b.1]).flat_map(u32::to_le_bytes).collect();
        prop_assert_eq!(gathered(dir.path(), ".dups"), words);

        // Components by relabelling until nothing changes.
        let mut label: BTreeMap<Node, Node> =
            expected.iter().flat_map(|&(a, b)| [(a, a), (b, b)]).collect();
        loop {
            let before = label.clone();
            for (a, b) in &expected {
                let low = label[a].min(label[b]);
                label.insert(*a, low);
                label.insert(*b, low);
            }
            if label == before {
                break;
            }
        }
        let goes = |node: &Node| label[node] != *node;
        let removed: Vec<u8> =
            label.keys().filter(|n| goes(n)).flat_map(|node| node.1.to_le_bytes()).collect();
        let counts = cluster(&signatures, dir.path(), &parameters, &small, &progress).unwrap();
        prop_assert_eq!(counts.removed as usize, removed.len() / 4);
        prop_assert_eq!(counts.duplicates as usize, label.len());
        prop_assert_eq!(counts.pairs as usize, expected.len());
        prop_assert_eq!(gathered(&dir.path().join("remove"), ".remove"), removed);
        let again = dir.path().join("again");
        let from_pairs = cluster_pairs(&dir.path().join("dups"), &again, &progress).unwrap();
        prop_assert_eq!(from_pairs.clusters, counts.clusters);
        for suffix in [".remove", ".clusters", ".sizes"] {
            prop_assert_eq!(gathered(&again, suffix), gathered(&dir.path().join("remove"), suffix));
        }
    }
}

/// Spoils the golden signatures and returns what `cluster` says of them.
fn complaint(spoil: impl Fn(&Path), parameters: &Parameters) -> String {
    let dir = tempfile::tempdir().unwrap();
    let signatures = dir.path().join("signatures");
    unpack(&signatures);
    spoil(&signatures);
    let error = cluster(&signatures, dir.path(), parameters, &execution(1), &Progress::default());
    assert!(!dir.path().join("remove").exists());
    let message = error.unwrap_err().to_string();
    message.replace(&format!("{}/", signatures.display()), "")
}

#[test]
fn a_spoilt_file_is_named_and_what_is_wrong_with_it() {
    let parameters = Parameters::default();
    let file = |folder: &Path| folder.join("bucket_003/00001.minhash.sig");
    let change = |folder: &Path, how: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(file(folder)).unwrap();
        how(&mut bytes);
        fs::write(file(folder), bytes).unwrap();
    };
    let says = |how: &dyn Fn(&mut Vec<u8>), message: &str| {
        assert_eq!(complaint(|folder| change(folder, how), &parameters), message);
    };
    says(
        &|bytes| bytes.truncate(100),
        "bucket_003/00001.minhash.sig: size: expected a multiple of 68 bytes, found 100 bytes",
    );
    says(
        &|bytes| bytes.rotate_left(68),
        "bucket_003/00001.minhash.sig: record 2: expected records in order, found one that belongs before the last",
    );
    says(
        &|bytes| bytes.copy_within(0..68, 68),
        "bucket_003/00001.minhash.sig: record 1: expected each record once, found it again",
    );
    says(
        &|bytes| bytes[..8].fill(0xff),
        "bucket_003/00001.minhash.sig: record 0: expected hashes below 2^61 - 1, found 18446744073709551615",
    );
    // Its twin has rank 2, so the first of the pair is the one that nobody knows.
    says(
        &|bytes| bytes[64..68].fill(7),
        "bucket_003/00001.minhash.sig: records: expected a document of bucket 0, found document 117901063",
    );
    says(
        &|bytes| bytes.truncate(68),
        "bucket_003: files: expected rank 1 with as many records as in bucket 0, found another or none",
    );
}

#[test]
fn a_folder_of_other_parameters_is_refused() {
    let parameters = Parameters::default();
    let narrow = Parameters { precision: Precision::Bits32, ..parameters };
    assert_eq!(
        complaint(|_| (), &narrow),
        "bucket_000/00000.minhash.sig: size: expected a multiple of 36 bytes, found 136 bytes"
    );
    let more = Parameters { buckets: 15, ..parameters };
    assert_eq!(complaint(|_| (), &more), "cannot list bucket_014");
    assert_eq!(signature_bytes(&Parameters { rows: 16, ..narrow }), 68, "the same size");
    let halves = Parameters { rows: 16, ..narrow };
    assert!(complaint(|_| (), &halves).contains("expected records in order"));
    let rename = |folder: &Path| {
        let bucket = folder.join("bucket_000");
        fs::rename(bucket.join("00000.minhash.sig"), bucket.join("a.minhash.sig")).unwrap();
    };
    assert_eq!(
        complaint(rename, &parameters),
        "bucket_000/a.minhash.sig: name: expected a rank in digits, found `a`"
    );
}
