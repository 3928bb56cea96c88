//! The tokens of a dataset as training reads them: byte ranges of files, whatever the format.

use std::path::{Path, PathBuf};

use forebay_store::{File, Map};

use crate::dataset::Dataset;
use crate::format::ffrecord::{self, Ffrecord};
use crate::format::mds::{self, Mds};
use crate::format::megatron::Idx;
use crate::format::{Format, TokenType, Wrong};
use crate::index::Index;
use crate::manifest::Manifest;
use crate::{Error, Result};

/// Where every token lies, and what it is stored as.
#[derive(Debug)]
pub struct TokenFiles {
    dataset: Option<Dataset>,
    index: Index,
    token_type: TokenType,
    files: Vec<PathBuf>,
    identity: String,
    /// CRC-32 of every run of tokens, where the format has one.
    checksums: Vec<u32>,
}

impl TokenFiles {
    /// Opens a dataset directory with shards of format `forebay` or `megatron`, a Megatron
    /// dataset of anyone's by its prefix, `.bin` or `.idx`, a directory of MDS shards, or an
    /// ffrecord file or a directory of them.
    ///
    /// * `token_type` — of ffrecord, which does not say; the others do.
    ///
    /// Cost: for `forebay` constant, whatever the number of documents. A Megatron `.idx` is read
    /// and checked whole, as are the sizes in MDS shards and the headers of ffrecord; all take
    /// 24 B a sequence, ffrecord 28.
    ///
    /// # Errors
    /// [`Error::NotADataset`] if it is none of these; [`Error::OtherFormat`]; [`Error::Corrupt`]
    /// if an index cannot be true; [`Error::NotText`] for ffrecord without a type.
    pub fn open(path: &Path, token_type: Option<TokenType>) -> Result<Self> {
        let prefix = prefix(path);
        // Either of the two files will do, so that the error names the one that is missing.
        let [bin, idx] = ["bin", "idx"].map(|suffix| with_suffix(&prefix, suffix).is_file());
        if (bin || idx) && !Manifest::is_in(path) {
            return Self::open_megatron(&prefix);
        }
        if !Manifest::is_in(path) && mds::is_in(path) {
            return Self::open_mds(path);
        }
        let records = ffrecord::files(path);
        if !Manifest::is_in(path) && !records.is_empty() {
            let token_type = token_type.ok_or_else(|| Error::NotText {
                path: path.to_path_buf(),
                what: "type of a token".into(),
                expected: "one that is given, such as u16 or u32".into(),
                found: "ffrecord, which does not say".into(),
            })?;
            return Self::open_ffrecord(records, token_type);
        }
        let dataset = Dataset::open(path)?;
        match dataset.manifest().layout.map(|layout| layout.format) {
            None | Some(Format::Forebay) => Self::of_forebay(dataset),
            Some(Format::Megatron) => Self::of_megatron(dataset),
            Some(other) => {
                let (path, found) = (path.to_path_buf(), other.name());
                Err(Error::OtherFormat { path, expected: "forebay or megatron", found })
            }
        }
    }

    fn of_forebay(dataset: Dataset) -> Result<Self> {
        let index = dataset.index()?;
        let manifest = dataset.manifest();
        let files = manifest.shards.iter().map(|shard| dataset.directory().join(&shard.file));
        let files = files.collect();
        let identity = manifest.index.as_ref().map(|index| index.blake3.clone());
        let identity = identity.unwrap_or_default();
        let (token_type, checksums) = (TokenType::U32, Vec::new());
        Ok(Self { dataset: Some(dataset), index, token_type, files, identity, checksums })
    }

    /// Ours: known by the hashes of all files.
    fn of_megatron(dataset: Dataset) -> Result<Self> {
        let manifest = dataset.manifest();
        let token_type = manifest.layout.map_or(TokenType::I32, |layout| layout.token_type);
        let (mut documents, mut runs, mut files) = (0, Vec::new(), Vec::new());
        let mut hash = blake3::Hasher::new();
        for shard in &manifest.shards {
            let bin = dataset.directory().join(&shard.file);
            let idx = with_suffix(&prefix(&bin), "idx");
            let parsed = parse(&bin, &idx)?.0;
            if parsed.token_type != token_type {
                let (expected, found) = (token_type.name(), parsed.token_type.name());
                return Err(Error::corrupt(&idx, "type of a token", expected, found));
            }
            documents += parsed.documents;
            runs.push(parsed.sequences);
            files.push(bin);
            hash.update(shard.blake3.as_bytes());
            for idx in &shard.sidecars {
                hash.update(idx.blake3.as_bytes());
            }
        }
        let index = Index::of_runs(documents, &runs);
        let expected = [manifest.documents, manifest.tokens.unwrap_or(0)];
        let found = [index.documents(), index.tokens()];
        if expected != found {
            let show =
                |[documents, tokens]: [u64; 2]| format!("{documents} documents, {tokens} tokens");
            let path = dataset.directory();
            return Err(Error::corrupt(path, "counts", show(expected), show(found)));
        }
        let identity = hash.finalize().to_hex().to_string();
        Ok(Self {
            dataset: Some(dataset),
            index,
            token_type,
            files,
            identity,
            checksums: Vec::new(),
        })
    }

    /// Anyone's: known by its index, which says nothing of the ids themselves.
    fn open_megatron(prefix: &Path) -> Result<Self> {
        let [bin, idx] = ["bin", "idx"].map(|suffix| with_suffix(prefix, suffix));
        let (Idx { token_type, sequences, documents }, identity) = parse(&bin, &idx)?;
        let index = Index::of_runs(documents, &[sequences]);
        let (files, checksums) = (vec![bin], Vec::new());
        Ok(Self { dataset: None, index, token_type, files, identity, checksums })
    }

    /// Anyone's: known by its index, which hashes the shards if their writer was told to.
    fn open_mds(directory: &Path) -> Result<Self> {
        let Mds { token_type, files, runs, identity } = Mds::open(directory)?;
        let documents = runs.iter().map(|runs| runs.len() as u64).sum();
        let index = Index::of_runs(documents, &runs);
        Ok(Self { dataset: None, index, token_type, files, identity, checksums: Vec::new() })
    }

    /// Anyone's: known by its headers, which hold a checksum of every sample.
    fn open_ffrecord(files: Vec<PathBuf>, token_type: TokenType) -> Result<Self> {
        let Ffrecord { files, runs, checksums, identity } = Ffrecord::open(files, token_type)?;
        let documents = runs.iter().map(|runs| runs.len() as u64).sum();
        let index = Index::of_runs(documents, &runs);
        Ok(Self { dataset: None, index, token_type, files, identity, checksums })
    }

    /// Its manifest, if it is a dataset of ours.
    pub fn dataset(&self) -> Option<&Dataset> {
        self.dataset.as_ref()
    }

    /// Where each run of tokens lies.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What a token is stored as.
    pub fn token_type(&self) -> TokenType {
        self.token_type
    }

    /// The files that the index counts as shards.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Does the format have a checksum of every run of tokens?
    pub fn has_checksums(&self) -> bool {
        !self.checksums.is_empty()
    }

    /// Reads run `run` of the index whole and takes its CRC-32: that of the format and that of the
    /// bytes. `None` if the format has none.
    ///
    /// * `file` — the one that holds it, open.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn checksum(&self, run: usize, file: &File) -> Result<Option<(u32, u32)>> {
        let (Some(&expected), Some(entry)) =
            (self.checksums.get(run), self.index.entries().get(run))
        else {
            return Ok(None);
        };
        let bytes = u64::from(entry.tokens) * self.token_type.bytes() as u64;
        Ok(Some((expected, ffrecord::crc32(file, entry.offset, bytes)?)))
    }

    /// Equal for equal datasets, in hex.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

/// An index, checked against the size of its tokens, and its hash.
fn parse(bin: &Path, idx: &Path) -> Result<(Idx, String)> {
    let map = Map::open(idx)?;
    let size = File::open(bin)?.size();
    let parsed = Idx::parse(&map, size).map_err(|wrong| {
        let Wrong { file, what, expected, found, sound } = wrong;
        let path = if file == 0 { bin } else { idx };
        if sound {
            return Error::NotText { path: path.to_path_buf(), what, expected, found };
        }
        Error::corrupt(path, what, expected, found)
    })?;
    Ok((parsed, blake3::hash(&map).to_hex().to_string()))
}

/// `corpus.v1.idx` → `corpus.v1`; what is no name of a file of Megatron's is a prefix already.
fn prefix(path: &Path) -> PathBuf {
    match path.extension() {
        Some(suffix) if suffix == "bin" || suffix == "idx" => path.with_extension(""),
        _ => path.to_path_buf(),
    }
}

/// A prefix may hold dots: nothing of it is replaced.
fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
