//! Checks a dataset against itself: every hash, every count, every index entry.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt32Type;
use forebay_store::Map;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use crate::blocks::{self, BLOCK_BYTES};
use crate::dataset::Dataset;
use crate::format::{self, Format, Layout};
use crate::index::{Entry, Index};
use crate::manifest::{self, FileEntry, Manifest, ShardEntry};
use crate::{Error, Result};

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// File of the dataset.
    pub file: String,
    /// What and where in the file; expected and found.
    pub what: String,
}

/// What was checked, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Files read whole.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Documents whose tokens were compared with the index.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Empty if all is well.
    pub problems: Vec<Problem>,
}

/// Reads everything in the dataset `directory` and compares it with manifest and index.
///
/// `progress` is told the bytes done. Cost: every byte is hashed once and the
/// token column decoded once.
///
/// # Errors
/// Only if there is no readable manifest; whatever else is wrong is a [`Problem`].
pub fn verify(directory: &Path, mut progress: impl FnMut(u64)) -> Result<Verified> {
    let dataset = Dataset::open(directory)?;
    let manifest = dataset.manifest();
    let mut out = Verified::default();

    for entry in manifest.index.iter().chain(&manifest.removed) {
        out.file(directory, entry);
        progress(out.bytes);
    }
    if let Some(tokenizer) = manifest.tokenizer.as_ref().filter(|t| t.name == manifest::TOKENIZER) {
        out.tokenizer(directory, &tokenizer.blake3);
    }
    let index = match dataset.index() {
        Ok(index) => Some(index),
        Err(Error::Lacks { .. } | Error::OtherFormat { .. }) => None,
        Err(error) => {
            out.problem(manifest::INDEX, error.to_string());
            None
        }
    };
    out.counts(manifest);
    out.removed(directory, manifest);
    if let Some(index) = &index {
        out.token_starts(index);
    }
    if let Some(layout) = manifest.layout {
        for shard in &manifest.shards {
            out.unit(directory, shard, layout, manifest);
            progress(out.bytes);
        }
        out.strangers(directory, manifest);
        return Ok(out);
    }
    let mut first = 0;
    for (number, shard) in manifest.shards.iter().enumerate() {
        let entries = index.as_ref().map(|index| {
            let all = index.entries();
            let first = first.min(all.len());
            let end = first + usize::try_from(shard.documents).unwrap_or(0).min(all.len() - first);
            &all[first..end]
        });
        first += usize::try_from(shard.documents).unwrap_or(0);
        out.shard(directory, shard, number, index.as_ref(), entries);
        progress(out.bytes);
    }
    out.strangers(directory, manifest);
    Ok(out)
}

impl Verified {
    fn problem(&mut self, file: &str, what: impl Into<String>) {
        self.problems.push(Problem { file: file.to_owned(), what: what.into() });
    }

    /// Hashes a file; `None` if it cannot be read.
    fn file(&mut self, directory: &Path, entry: &FileEntry) -> Option<Map> {
        self.hashed(directory, entry).map(|(map, _)| map)
    }

    /// Also with the values of its blocks.
    fn hashed(&mut self, directory: &Path, entry: &FileEntry) -> Option<(Map, Vec<[u8; 32]>)> {
        let map = match Map::open(&directory.join(&entry.file)) {
            Ok(map) => map,
            Err(error) => {
                self.problem(&entry.file, error.to_string());
                return None;
            }
        };
        self.files += 1;
        self.bytes += map.len() as u64;
        if map.len() as u64 != entry.bytes {
            self.problem(
                &entry.file,
                format!("expected {} bytes, found {}", entry.bytes, map.len()),
            );
        }
        let (found, blocks) = blocks::hash(&map);
        let found = found.to_hex();
        if found.as_str() != entry.blake3 {
            self.problem(&entry.file, format!("expected blake3 {}, found {found}", entry.blake3));
        }
        Some((map, blocks))
    }

    fn tokenizer(&mut self, directory: &Path, expected: &str) {
        match std::fs::read(directory.join(manifest::TOKENIZER)) {
            Err(error) => self.problem(manifest::TOKENIZER, format!("cannot read: {error}")),
            Ok(bytes) => {
                let found = blake3::hash(&bytes).to_hex();
                if found.as_str() != expected {
                    let what = format!("expected blake3 {expected}, found {found}");
                    self.problem(manifest::TOKENIZER, what);
                }
            }
        }
    }

    /// Tokens are counted through all documents without a gap.
    fn token_starts(&mut self, index: &Index) {
        let mut expected = 0;
        for (document, entry) in index.entries().iter().enumerate() {
            if entry.token_start != expected {
                let found = entry.token_start;
                let what =
                    format!("document {document}: expected first token {expected}, found {found}");
                return self.problem(manifest::INDEX, what);
            }
            expected += u64::from(entry.tokens);
        }
        if expected != index.tokens() {
            let found = index.tokens();
            self.problem(manifest::INDEX, format!("expected {expected} tokens, found {found}"));
        }
    }

    /// Rows of `removed/` by reason against the counts, and files that the manifest does not name.
    fn removed(&mut self, directory: &Path, manifest: &Manifest) {
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for entry in &manifest.removed {
            match reasons(&directory.join(&entry.file), &mut found) {
                Ok(()) => {}
                // The file's hash is wrong too, and reported.
                Err(what) => return self.problem(&entry.file, what),
            }
        }
        let counts = &manifest.counts;
        let mut expected = counts.skipped.clone();
        expected.extend(counts.found().map(|(reason, count)| (reason.to_owned(), count)));
        if counts.kept_duplicates > 0 {
            expected.retain(|reason, _| !matches!(reason.as_str(), "exact" | "url" | "fuzzy"));
        }
        expected.retain(|_, count| *count > 0);
        // These are about documents that stay.
        found.retain(|reason, _| {
            !matches!(reason.as_str(), "line" | "paragraph" | "substring" | "eval-reported")
        });
        if found != expected {
            let what = format!("expected {expected:?} left out (manifest), found {found:?}");
            self.problem(manifest::REMOVED, what);
        }
        let stranger = |name: &str| manifest.removed.iter().all(|entry| entry.file != name);
        for name in names(&directory.join(manifest::REMOVED)) {
            let name = format!("{}/{name}", manifest::REMOVED);
            if stranger(&name) {
                self.problem(&name, "not in the manifest");
            }
        }
    }

    fn counts(&mut self, manifest: &Manifest) {
        let sum = |of: fn(&ShardEntry) -> u64| manifest.shards.iter().map(of).sum::<u64>();
        let (documents, tokens) = (sum(|s| s.documents), sum(|s| s.tokens));
        let (bytes, counts) = (sum(|s| s.text_bytes), &manifest.counts);
        if bytes != manifest.text_bytes {
            let expected = manifest.text_bytes;
            self.problem(
                manifest::FILE,
                format!("{expected} bytes of text, its shards have {bytes}"),
            );
        }
        let found: u64 = counts.found().iter().map(|(_, count)| count).sum();
        let accounted = counts.kept + found - counts.kept_duplicates.min(found);
        if accounted != counts.read {
            let read = counts.read;
            self.problem(
                manifest::FILE,
                format!("{read} documents read, {accounted} kept or dropped"),
            );
        }
        if documents != manifest.documents {
            let expected = manifest.documents;
            self.problem(
                manifest::FILE,
                format!("{expected} documents, its shards have {documents}"),
            );
        }
        if manifest.tokens.is_some_and(|expected| expected != tokens) {
            let expected = manifest.tokens.unwrap_or(0);
            self.problem(manifest::FILE, format!("{expected} tokens, its shards have {tokens}"));
        }
    }

    fn shard(
        &mut self,
        directory: &Path,
        shard: &ShardEntry,
        number: usize,
        index: Option<&Index>,
        entries: Option<&[Entry]>,
    ) {
        let file = &shard.file;
        let entry =
            FileEntry { file: file.clone(), bytes: shard.bytes, blake3: shard.blake3.clone() };
        let before = self.problems.len();
        let Some((map, found)) = self.hashed(directory, &entry) else { return };
        if let Some(index) = index {
            let blocks = index.blocks(u32::try_from(number).unwrap_or(u32::MAX));
            if blocks.len() != found.len() {
                let (expected, found) = (found.len(), blocks.len());
                self.problem(
                    manifest::INDEX,
                    format!("{file}: expected {expected} blocks, found {found}"),
                );
            }
            for (at, (found, expected)) in (0..).zip(found.iter().zip(blocks)) {
                if found != expected {
                    let from = at * BLOCK_BYTES;
                    let to = (from + BLOCK_BYTES).min(map.len() as u64);
                    self.problem(
                        file,
                        format!("block {at}, bytes {from} to {to}, has another hash"),
                    );
                }
            }
        }
        match rows(&directory.join(file), entries, number, &map) {
            Ok((documents, tokens)) => {
                self.documents += documents;
                self.tokens += tokens;
                if documents != shard.documents {
                    let expected = shard.documents;
                    self.problem(file, format!("expected {expected} rows, found {documents}"));
                }
                if tokens != shard.tokens {
                    let expected = shard.tokens;
                    self.problem(file, format!("expected {expected} tokens, found {tokens}"));
                }
            }
            // A file with a wrong hash need not decode; its hash was reported.
            Err(_) if self.problems.len() > before => {}
            Err(what) => self.problem(file, what),
        }
    }

    /// A shard that is not Parquet: its files, its layout, its ids.
    fn unit(&mut self, directory: &Path, shard: &ShardEntry, layout: Layout, manifest: &Manifest) {
        let before = self.problems.len();
        let (file, bytes, blake3) = (shard.file.clone(), shard.bytes, shard.blake3.clone());
        let tokens = FileEntry { file, bytes, blake3 };
        let files = std::iter::once(&tokens).chain(&shard.sidecars);
        let maps: Vec<_> = files.map(|entry| self.file(directory, entry)).collect();
        let Some(maps) = maps.into_iter().collect::<Option<Vec<Map>>>() else { return };
        let bytes: Vec<&[u8]> = maps.iter().map(|map| &**map).collect();
        let vocab_size = manifest.tokenizer.as_ref().map_or(u64::MAX, |t| t.vocab_size);
        match format::check(layout, vocab_size, &bytes) {
            Ok((documents, tokens)) => {
                self.documents += documents;
                self.tokens += tokens;
                let found = [("documents", documents), ("tokens", tokens)];
                for ((what, found), expected) in
                    found.into_iter().zip([shard.documents, shard.tokens])
                {
                    if found != expected {
                        let what = format!("expected {expected} {what}, found {found}");
                        self.problem(&shard.file, what);
                    }
                }
            }
            // A file with a wrong hash need not make sense; its hash was reported.
            Err(_) if self.problems.len() > before => {}
            Err(wrong) => {
                let format::Wrong { file, what, expected, found, .. } = wrong;
                let file = shard.files().nth(file).unwrap_or(&shard.file);
                self.problem(file, format!("{what}: expected {expected}, found {found}"));
            }
        }
    }

    /// Shards that the manifest does not name: nobody reads them, but nobody should have to guess.
    fn strangers(&mut self, directory: &Path, manifest: &Manifest) {
        let ours = |name: &String| name.starts_with("shard-") || Format::is_shard_file(name);
        for name in names(directory).into_iter().filter(ours) {
            if manifest.shards.iter().flat_map(ShardEntry::files).all(|file| *file != name) {
                self.problem(&name, "not in the manifest");
            }
        }
    }
}

/// Names in a directory, sorted; none if it cannot be listed.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Counts the rows of a file of `removed/` by reason.
fn reasons(path: &Path, found: &mut BTreeMap<String, u64>) -> std::result::Result<(), String> {
    let file = File::open(path).map_err(|error| format!("cannot open: {error}"))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| format!("cannot be decoded: {error}"))?;
    for batch in reader {
        let batch = batch.map_err(|error| format!("cannot be decoded: {error}"))?;
        let column = batch.column_by_name("reason").and_then(|c| c.as_string_opt::<i32>());
        let column = column.ok_or("expected a column `reason` of strings, found none")?;
        for reason in column.iter().flatten() {
            *found.entry(reason.to_owned()).or_default() += 1;
        }
    }
    Ok(())
}

/// Decodes the shard's tokens and compares them with the bytes that the index points to.
fn rows(
    path: &Path,
    entries: Option<&[Entry]>,
    number: usize,
    map: &[u8],
) -> std::result::Result<(u64, u64), String> {
    let broken = |error: parquet::errors::ParquetError| format!("cannot be decoded: {error}");
    let file = File::open(path).map_err(|error| format!("cannot open: {error}"))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(broken)?;
    let Some(entries) = entries else {
        return Ok((builder.metadata().file_metadata().num_rows().unsigned_abs(), 0));
    };
    let column = builder
        .schema()
        .index_of("tokens")
        .map_err(|_| "expected a column `tokens`, found none".to_owned())?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), [column]);
    let reader = builder.with_projection(mask).with_batch_size(256).build().map_err(broken)?;
    let (mut row, mut tokens) = (0, 0);
    for batch in reader {
        let batch = batch.map_err(|error| format!("cannot be decoded: {error}"))?;
        let lists = batch
            .column(0)
            .as_list_opt::<i32>()
            .ok_or_else(|| "expected `tokens` to be a list".to_owned())?;
        for at in 0..lists.len() {
            let values = lists.value(at);
            let values = values
                .as_primitive_opt::<UInt32Type>()
                .ok_or_else(|| "expected `tokens` to be a list of u32".to_owned())?
                .values();
            let entry = entries.get(row).ok_or_else(|| format!("row {row}: not in the index"))?;
            let start = usize::try_from(entry.offset).unwrap_or(usize::MAX);
            let bytes: &[u8] = bytemuck::cast_slice(values);
            if entry.shard as usize != number
                || entry.tokens as usize != values.len()
                || map.get(start..start.saturating_add(bytes.len())) != Some(bytes)
            {
                return Err(format!(
                    "row {row}: expected {} tokens at byte {} (index), found {} others",
                    entry.tokens,
                    entry.offset,
                    values.len()
                ));
            }
            tokens += values.len() as u64;
            row += 1;
        }
    }
    if row != entries.len() {
        return Err(format!("expected {} rows (index), found {row}", entries.len()));
    }
    Ok((row as u64, tokens))
}
