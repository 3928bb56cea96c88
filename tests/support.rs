//! Runs the binary and reads what it wrote with other eyes: the `parquet` crate alone.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float32Type, UInt32Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tempfile::TempDir;

pub const EOS: u32 = 50_256;

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.env_remove("FOREBAY_THREADS").env_remove("FOREBAY_TMP_DIR");
    command
}

/// What a run of the binary came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Asserts one clear error with a hint, no panic, and these words in it.
    #[track_caller]
    pub fn complains(self, words: &[&str]) -> Self {
        assert_eq!(self.code, 1, "{self:?}");
        let errors: Vec<_> = self.stderr.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        for word in words {
            assert!(errors[0].contains(word), "`{word}` is not in: {}", errors[0]);
        }
        assert!(self.stderr.lines().any(|l| l.starts_with("hint: ")), "no hint: {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

pub fn forebay<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    ran(binary().args(args).stdin(Stdio::null()))
}

pub fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let string = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (string(output.stdout), string(output.stderr));
    Ran { code: output.status.code().unwrap_or(-1), stdout, stderr }
}

/// `forebay prep INPUTS --out OUT MORE`
pub fn prep(inputs: &[&Path], out: &Path, more: &[&str]) -> Ran {
    let mut command = binary();
    command.arg("prep").args(inputs).arg("--out").arg(out).args(more).stdin(Stdio::null());
    ran(&mut command)
}

pub fn prep_stdin(bytes: &[u8], out: &Path, more: &[&str]) -> Ran {
    let mut command = binary();
    command.args(["prep", "-", "--out"]).arg(out).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A run that fails early closes the pipe: no concern of the writer.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        let output = child.wait_with_output().unwrap();
        let string = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (string(output.stdout), string(output.stderr));
        Ran { code: output.status.code().unwrap_or(-1), stdout, stderr }
    })
}

pub fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sample")
}

pub fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub fn write(path: PathBuf, bytes: impl AsRef<[u8]>) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// A line of JSON.
pub fn line(id: &str, text: &str) -> String {
    format!("{}\n", serde_json::json!({ "id": id, "text": text }))
}

/// `forebay dedup INPUTS --out OUT MORE`
pub fn dedup(inputs: &[&Path], out: &Path, more: &[&str]) -> Ran {
    let mut command = binary();
    command.arg("dedup").args(inputs).arg("--out").arg(out).args(more).stdin(Stdio::null());
    ran(&mut command)
}

/// Word 5-grams as the definition has them, kept as strings.
pub fn shingles(text: &str) -> HashSet<String> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|w| !w.is_empty())
        .collect();
    words.windows(5.min(words.len().max(1))).map(|window| window.join(" ")).collect()
}

pub fn jaccard(a: &HashSet<String>, b: &HashSet<String>) -> f64 {
    let shared = a.intersection(b).count();
    shared as f64 / (a.len() + b.len() - shared).max(1) as f64
}

/// Numbers that look random and are the same at every run of a test.
pub fn pseudo_random(n: u64) -> u64 {
    let hash = blake3::hash(&n.to_le_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap())
}

/// `count` words out of `vocabulary`, chosen by `seed`.
pub fn prose(seed: u64, count: u64, vocabulary: u64) -> Vec<String> {
    let word = |n| format!("word{}", pseudo_random(seed << 32 | n) % vocabulary);
    (0..count).map(word).collect()
}

/// The sample prepared with its text, made once for all tests that only read it.
pub fn prepared() -> &'static Path {
    static PREPARED: LazyLock<TempDir> = LazyLock::new(|| {
        let dir = temp();
        let more = ["--keep-text", "--shard-size", "1MiB", "--seed", "7"];
        prep(&[&sample()], &dir.path().join("corpus"), &more).exits(0);
        dir
    });
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| PREPARED.path().join("corpus"));
    &PATH
}

/// A copy that a test may spoil.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

/// blake3 of every file under a directory, by relative path.
pub fn hashes(directory: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else if !path.ends_with(".inputs") {
                // That one knows the times of inputs, which are no part of a dataset.
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(directory, directory, &mut found);
    found
}

/// A row of a shard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub id: String,
    pub source: String,
    pub tokens: Vec<u32>,
    pub text: Option<String>,
}

pub fn manifest(dataset: &Path) -> Value {
    serde_json::from_slice(&fs::read(dataset.join("manifest.json")).unwrap()).unwrap()
}

/// All rows of a dataset, in order.
pub fn rows(dataset: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for shard in manifest(dataset)["shards"].as_array().unwrap() {
        let file = fs::File::open(dataset.join(shard["file"].as_str().unwrap())).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let strings = |name| batch.column_by_name(name).map(|c| c.as_string::<i32>().clone());
            let (ids, sources, texts) = (strings("id"), strings("source"), strings("text"));
            let lists = batch.column_by_name("tokens").map(|c| c.as_list::<i32>().clone());
            for at in 0..batch.num_rows() {
                let tokens = lists.as_ref().map_or(Vec::new(), |lists| {
                    lists.value(at).as_primitive::<UInt32Type>().values().to_vec()
                });
                rows.push(Row {
                    id: ids.as_ref().unwrap().value(at).into(),
                    source: sources.as_ref().unwrap().value(at).into(),
                    tokens,
                    text: texts.as_ref().map(|texts| texts.value(at).into()),
                });
            }
        }
    }
    rows
}

/// Names of the columns of the first shard.
pub fn column_names(dataset: &Path) -> Vec<String> {
    let file = fs::File::open(dataset.join("shard-00000.parquet")).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    builder.schema().fields().iter().map(|field| field.name().clone()).collect()
}

/// A column of `u32` of the first shard.
pub fn numbers(dataset: &Path, column: &str) -> Vec<u32> {
    let file = fs::File::open(dataset.join("shard-00000.parquet")).unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let values = batches.flat_map(|batch| {
        let batch = batch.unwrap();
        batch.column_by_name(column).unwrap().as_primitive::<UInt32Type>().values().to_vec()
    });
    values.collect()
}

/// A column of lists of `u32` of the first shard.
pub fn lists(dataset: &Path, column: &str) -> Vec<Vec<u32>> {
    let file = fs::File::open(dataset.join("shard-00000.parquet")).unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut found = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        let lists = batch.column_by_name(column).unwrap().as_list::<i32>();
        let values =
            lists.iter().map(|list| list.unwrap().as_primitive::<UInt32Type>().values().to_vec());
        found.extend(values);
    }
    found
}

/// A row of `removed/`.
#[derive(Debug, Clone, PartialEq)]
pub struct RemovedRow {
    pub id: String,
    pub source: String,
    pub reason: String,
    pub survivor: Option<String>,
    pub cluster: Option<u64>,
    pub jaccard: Option<f32>,
    pub jaccard_estimated: Option<f32>,
    pub cluster_size: Option<u32>,
    pub detail: Option<String>,
}

pub fn removed(dataset: &Path) -> Vec<RemovedRow> {
    let mut rows = Vec::new();
    for file in manifest(dataset)["removed"].as_array().unwrap() {
        let file = fs::File::open(dataset.join(file["file"].as_str().unwrap())).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let names: Vec<_> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
            assert_eq!(names[..6], ["id", "source", "reason", "survivor", "cluster", "jaccard"]);
            let string = |column: &str, at: usize| {
                let column = batch.column_by_name(column).unwrap().as_string::<i32>();
                column.is_valid(at).then(|| column.value(at).to_owned())
            };
            let column = |name| batch.column_by_name(name).unwrap();
            let clusters = column("cluster").as_primitive::<UInt64Type>();
            let sizes = column("cluster_size").as_primitive::<UInt32Type>();
            let float = |name, at| {
                let floats = column(name).as_primitive::<Float32Type>();
                floats.is_valid(at).then(|| floats.value(at))
            };
            for at in 0..batch.num_rows() {
                rows.push(RemovedRow {
                    id: string("id", at).unwrap(),
                    source: string("source", at).unwrap(),
                    reason: string("reason", at).unwrap(),
                    survivor: string("survivor", at),
                    cluster: clusters.is_valid(at).then(|| clusters.value(at)),
                    jaccard: float("jaccard", at),
                    jaccard_estimated: float("jaccard_estimated", at),
                    cluster_size: sizes.is_valid(at).then(|| sizes.value(at)),
                    detail: string("detail", at),
                });
            }
        }
    }
    rows
}

/// The sample read the slow and obvious way: `(id, text)` in the order of the inputs.
pub fn sample_documents() -> Vec<(Option<String>, String)> {
    let mut documents = Vec::new();
    let read = |name: &str| fs::read(sample().join(name)).unwrap();
    let mut go = String::new();
    flate2::read::MultiGzDecoder::new(&read("go.jsonl.gz")[..]).read_to_string(&mut go).unwrap();
    let python =
        String::from_utf8(zstd::decode_all(&read("python.jsonl.zst")[..]).unwrap()).unwrap();
    for lines in [go, String::from_utf8(read("prose.jsonl")).unwrap(), python] {
        for line in lines.lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            let id = value["id"].as_str().map(str::to_owned);
            documents.push((id, value["text"].as_str().unwrap().to_owned()));
        }
    }
    let sqlite = fs::File::open(sample().join("sqlite.parquet")).unwrap();
    for batch in ParquetRecordBatchReaderBuilder::try_new(sqlite).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let column = |name| {
            let column = batch.column_by_name(name).unwrap();
            arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).unwrap()
        };
        let (ids, texts) = (column("id"), column("text"));
        for at in 0..batch.num_rows() {
            let value = |c: &arrow::array::ArrayRef| c.as_string::<i32>().value(at).to_owned();
            documents.push((Some(value(&ids)), value(&texts)));
        }
    }
    let mut texts: Vec<_> =
        fs::read_dir(sample().join("udhr")).unwrap().map(|e| e.unwrap().path()).collect();
    texts.sort();
    documents.extend(texts.iter().map(|path| (None, fs::read_to_string(path).unwrap())));
    documents
}

/// The reference encoder of the built-in vocabulary.
pub fn reference() -> tokenizers::Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/transform/vocab/gpt2.json.zst");
    let json = zstd::decode_all(&fs::read(path).unwrap()[..]).unwrap();
    tokenizers::Tokenizer::from_bytes(json).unwrap()
}
