//! `manifest.json`: the commit point of a dataset, and all that is known about it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::format::Layout;
use crate::{Error, Result};

/// Its name in the dataset directory.
pub const FILE: &str = "manifest.json";
/// Name of the document index.
pub const INDEX: &str = "documents.idx";
/// Which times the inputs had, hashed: no part of the dataset, but how the command that made it knows
/// that it is made. To be compared, never to be read as times, since the clocks of machines differ.
pub const SEEN: &str = ".inputs";
/// Name of the copy of a tokenizer that is not built in.
pub const TOKENIZER: &str = "tokenizer.json";
/// Directory of an unfinished run.
pub const WORK: &str = ".work";
/// Directory of what was left out.
pub const REMOVED: &str = "removed";
/// Of the whole on-disk format; readers refuse a newer one.
pub const VERSION: u32 = 1;

/// A dataset in words and numbers. Equal inputs and options give equal bytes: no clock, no paths
/// of the machine beyond the inputs as they were named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `forebay`.
    pub format: String,
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Program and version that wrote it.
    pub created_by: String,
    /// Documents in all shards.
    pub documents: u64,
    /// Tokens in all shards, EOS included; `None` without a tokenizer.
    pub tokens: Option<u64>,
    /// Bytes of UTF-8 text that went into the shards.
    pub text_bytes: u64,
    /// Of the shards, if they are not Parquet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// In order; document numbers run through them.
    pub shards: Vec<ShardEntry>,
    /// Of [`INDEX`]; `None` without tokens, and for shards that are not Parquet.
    pub index: Option<FileEntry>,
    /// Files in [`REMOVED`].
    pub removed: Vec<FileEntry>,
    /// Which tokenizer made the ids.
    pub tokenizer: Option<TokenizerEntry>,
    /// What was done, and to what.
    pub lineage: Lineage,
    /// How many documents each step saw and dropped.
    pub counts: Counts,
    /// The largest clusters, if they are large: worth a look.
    #[serde(default)]
    pub large_clusters: Vec<LargeCluster>,
}

/// A cluster of many documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeCluster {
    /// Its number in `removed/`.
    pub cluster: u64,
    /// Documents in it.
    pub size: u32,
    /// Id of the one that stays.
    pub survivor: String,
    /// How some of them begin.
    pub samples: Vec<String>,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Name in the dataset directory.
    pub file: String,
    /// Rows.
    pub documents: u64,
    /// Tokens of all rows.
    pub tokens: u64,
    /// Bytes of UTF-8 text behind the rows.
    pub text_bytes: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Of the whole file, in hex.
    pub blake3: String,
    /// Its other files, if it is not Parquet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sidecars: Vec<FileEntry>,
}

impl ShardEntry {
    /// Names of its files; the one with the tokens comes first.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.file).chain(self.sidecars.iter().map(|sidecar| &sidecar.file))
    }

    /// Size of all of them.
    pub fn all_bytes(&self) -> u64 {
        self.bytes + self.sidecars.iter().map(|sidecar| sidecar.bytes).sum::<u64>()
    }
}

/// One other file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the dataset directory.
    pub file: String,
    /// Size of the file.
    pub bytes: u64,
    /// Of the whole file, in hex.
    pub blake3: String,
}

/// What must be equal for ids to be equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerEntry {
    /// A built-in name, or [`TOKENIZER`].
    pub name: String,
    /// blake3 of its vocabulary file, in hex.
    pub blake3: String,
    /// Ids run below this.
    pub vocab_size: u64,
    /// Appended to every document.
    pub eos: Option<Eos>,
    /// `parse`: special tokens written in a text become special ids; `text`: they stay text.
    pub special_tokens: String,
    /// Encoder that was used, with its version.
    pub engine: String,
    /// Encoder whose ids these are, with its version.
    #[serde(default)]
    pub reference: String,
    /// Version of the Unicode tables that the split into pre-tokens uses.
    pub unicode: String,
}

/// The end-of-document token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eos {
    /// As it is written.
    pub token: String,
    /// As it is stored.
    pub id: u32,
}

/// How the dataset came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// `prep`, `dedup` or `tokenize`.
    pub stage: String,
    /// Inputs as they were named.
    pub inputs: Vec<String>,
    /// Files they stood for.
    pub input_files: u64,
    /// Their size.
    pub input_bytes: u64,
    /// blake3 over names and sizes of the input files and over the options, in hex.
    pub fingerprint: String,
    /// Every option that the output depends on.
    pub options: serde_json::Value,
    /// blake3 of the manifests of input datasets.
    pub parents: Vec<String>,
}

/// Documents seen and dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents read.
    pub read: u64,
    /// Their text.
    pub read_bytes: u64,
    /// Records that are no documents, by reason.
    pub skipped: std::collections::BTreeMap<String, u64>,
    /// Documents in which U+FFFD stands for bytes that were not UTF-8.
    pub replaced: u64,
    /// Documents without any text.
    pub empty: u64,
    /// Dropped because they share text with an evaluation set.
    #[serde(default)]
    pub evals: u64,
    /// Dropped because an equal one stays.
    pub exact: u64,
    /// Dropped because one of equal URL stays.
    #[serde(default)]
    pub url: u64,
    /// Dropped because a similar one stays.
    pub fuzzy: u64,
    /// Dropped because all of their text stands elsewhere too.
    #[serde(default)]
    pub cut: u64,
    /// Bytes cut out of documents that stay.
    #[serde(default)]
    pub cut_bytes: u64,
    /// Documents that stay.
    #[serde(default)]
    pub kept: u64,
    /// Those of them that are duplicates: the user wanted to keep them.
    #[serde(default)]
    pub kept_duplicates: u64,
    /// Clusters of two and more.
    pub clusters: u64,
    /// Documents in the largest of them.
    pub largest_cluster: u64,
}

impl Counts {
    /// Documents found to be duplicates of others.
    pub fn duplicates(&self) -> u64 {
        self.exact + self.url + self.fuzzy
    }

    /// What was found out about documents, by reason, in the order in which it was looked for.
    pub fn found(&self) -> [(&'static str, u64); 6] {
        [
            ("empty", self.empty),
            ("eval", self.evals),
            ("exact", self.exact),
            ("url", self.url),
            ("fuzzy", self.fuzzy),
            ("cut", self.cut),
        ]
    }
}

impl Manifest {
    /// Reads and checks the manifest of `directory`.
    ///
    /// # Errors
    /// [`Error::NotADataset`] if there is none, [`Error::Corrupt`] if it cannot be understood.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotADataset { path: directory.to_path_buf() });
            }
            Err(e) => return Err(forebay_store::Error::io("read", &path, e).into()),
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::corrupt(&path, "manifest", "JSON", e))?;
        if value["format"] != "forebay" {
            return Err(Error::corrupt(&path, "format", "forebay", &value["format"]));
        }
        match value["version"].as_u64() {
            Some(found) if found > u64::from(VERSION) => {
                return Err(Error::Newer { path, expected: VERSION, found });
            }
            Some(_) => {}
            None => {
                return Err(Error::corrupt(&path, "format version", VERSION, &value["version"]));
            }
        }
        let manifest: Self = serde_json::from_value(value)
            .map_err(|e| Error::corrupt(&path, "manifest", "the fields of version 1", e))?;
        let files = manifest.shards.iter().flat_map(ShardEntry::files);
        let files = files.chain(manifest.index.iter().chain(&manifest.removed).map(|f| &f.file));
        for file in files {
            let plain = |part| matches!(part, std::path::Component::Normal(_));
            if !Path::new(file).components().all(plain) {
                return Err(Error::corrupt(&path, "file name", "one inside the dataset", file));
            }
        }
        Ok(manifest)
    }

    /// Does `directory` hold a manifest of ours? Others have files of that name too.
    pub fn is_in(directory: &Path) -> bool {
        let bytes = std::fs::read(directory.join(FILE)).unwrap_or_default();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        value["format"] == "forebay"
    }

    /// The bytes to publish.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

impl FileEntry {
    /// Describes a finished file of the dataset `directory`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(directory: &Path, file: &str) -> Result<Self> {
        let map = forebay_store::Map::open(&directory.join(file))?;
        let blake3 = blake3::hash(&map).to_hex().to_string();
        Ok(Self { file: file.to_owned(), bytes: map.len() as u64, blake3 })
    }
}
