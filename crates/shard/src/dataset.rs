use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use forebay_store::Map;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::format::{self, Layout, Unit};
use crate::index::Index;
use crate::manifest::{self, Manifest, ShardEntry};
use crate::{Error, Result};

/// A finished dataset.
#[derive(Debug)]
pub struct Dataset {
    directory: PathBuf,
    manifest: Manifest,
}

impl Dataset {
    /// Opens `directory` by its manifest; no other file is touched.
    ///
    /// # Errors
    /// [`Error::NotADataset`] without a manifest, [`Error::Corrupt`] with a broken one.
    pub fn open(directory: &Path) -> Result<Self> {
        let manifest = Manifest::read(directory)?;
        Ok(Self { directory: directory.to_path_buf(), manifest })
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All that is known about it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Path of shard `number`.
    pub fn shard(&self, number: u32) -> Option<PathBuf> {
        Some(self.directory.join(&self.manifest.shards.get(number as usize)?.file))
    }

    /// Maps the document index.
    ///
    /// # Errors
    /// [`Error::Lacks`] for a dataset without tokens, [`Error::OtherFormat`] for one of another
    /// format (see [`crate::TokenFiles`]), [`Error::Corrupt`] if the index is not the
    /// one that the manifest describes (by its counts; `verify` hashes it).
    pub fn index(&self) -> Result<Index> {
        if let Some(layout) = self.manifest.layout {
            let (path, found) = (self.directory.clone(), layout.format.name());
            return Err(Error::OtherFormat { path, expected: "forebay", found });
        }
        if self.manifest.index.is_none() {
            return Err(Error::Lacks { path: self.directory.clone(), what: "tokens" });
        }
        let path = self.directory.join(manifest::INDEX);
        let index = Index::open(&path)?;
        let expected = (
            self.manifest.documents,
            self.manifest.tokens.unwrap_or(0),
            self.manifest.shards.len() as u64,
        );
        let found = (index.documents(), index.tokens(), index.shards());
        if expected != found {
            let show = |(d, t, s)| format!("{d} documents, {t} tokens, {s} shards");
            return Err(Error::corrupt(&path, "counts", show(expected), show(found)));
        }
        Ok(index)
    }
}

/// One document of a dataset, as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its id.
    pub id: String,
    /// Where it came from.
    pub source: String,
    /// Its tokens, if there are any.
    pub tokens: Option<Vec<u32>>,
    /// Its text, if it was kept.
    pub text: Option<String>,
}

impl Dataset {
    /// Tokens of each document, in order; `None` for a dataset without tokens.
    ///
    /// # Errors
    /// If an index cannot be read.
    pub fn token_counts(&self) -> Result<Option<Vec<u32>>> {
        let manifest = &self.manifest;
        let Some(layout) = manifest.layout else {
            if manifest.index.is_none() {
                return Ok(None);
            }
            return Ok(Some(self.index()?.entries().iter().map(|entry| entry.tokens).collect()));
        };
        let mut counts = Vec::new();
        for shard in &manifest.shards {
            let (_, unit) = self.unit(shard, layout)?;
            counts.extend(unit.lengths.iter().map(|&n| u32::try_from(n).unwrap_or(u32::MAX)));
        }
        Ok(Some(counts))
    }

    /// A shard that is not Parquet: its files, and what they are.
    fn unit(&self, shard: &ShardEntry, layout: Layout) -> Result<(Vec<Map>, Unit)> {
        let maps = shard.files().map(|file| Map::open(&self.directory.join(file)));
        let maps = maps.collect::<std::result::Result<Vec<Map>, _>>()?;
        let bytes: Vec<&[u8]> = maps.iter().map(|map| &**map).collect();
        let names: Vec<String> = shard.files().cloned().collect();
        let unit =
            format::read(layout, &bytes).map_err(|wrong| wrong.of(&self.directory, &names))?;
        Ok((maps, unit))
    }

    /// As [`Dataset::head`]. Most formats hold no ids: documents are numbered.
    fn unit_head(&self, shard: &ShardEntry, layout: Layout, limit: usize) -> Result<Vec<Head>> {
        let (maps, unit) = self.unit(shard, layout)?;
        let mut at = unit.first_byte;
        let mut heads = Vec::new();
        for (document, &length) in unit.lengths.iter().take(limit).enumerate() {
            let mut tokens = vec![0; usize::try_from(length).unwrap_or(0)];
            layout.token_type.decode(&maps[0][at..], &mut tokens).map_err(|(place, found)| {
                let what = format!("token {place} of document {document}");
                Error::corrupt(&self.directory.join(&shard.file), what, "an id", found)
            })?;
            at += layout.token_type.bytes() * tokens.len();
            let numbered = || [document.to_string(), shard.file.clone()];
            let [id, source] = unit.names.get(document).cloned().unwrap_or_else(numbered);
            heads.push(Head { id, source, tokens: Some(tokens), text: None });
        }
        Ok(heads)
    }

    /// The first `limit` documents of shard `number`, decoded.
    ///
    /// # Errors
    /// If the shard cannot be decoded or lacks a column.
    pub fn head(&self, number: u32, limit: usize) -> Result<Vec<Head>> {
        if let Some(layout) = self.manifest.layout {
            let shard = self.manifest.shards.get(number as usize);
            return shard.map_or(Ok(Vec::new()), |shard| self.unit_head(shard, layout, limit));
        }
        self.rows(number, 0, limit)
    }

    /// The first document of this id, decoded from Parquet; reads the ids of all shards before it.
    ///
    /// # Errors
    /// As [`Dataset::head`].
    pub fn find(&self, id: &str) -> Result<Option<Head>> {
        for number in 0..self.manifest.shards.len() as u32 {
            if let Some(row) = self.row_of(number, id)? {
                return Ok(self.rows(number, row, 1)?.pop());
            }
        }
        Ok(None)
    }

    /// Where a document of this id stands in shard `number`.
    fn row_of(&self, number: u32, id: &str) -> Result<Option<usize>> {
        let Some(path) = self.shard(number) else { return Ok(None) };
        let wrong = |what: &dyn std::fmt::Display| Error::file(&path, what);
        let file =
            std::fs::File::open(&path).map_err(|e| forebay_store::Error::io("open", &path, e))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| wrong(&e))?;
        let ids = ProjectionMask::columns(builder.parquet_schema(), ["id"]);
        let mut before = 0;
        for batch in builder.with_projection(ids).build().map_err(|e| wrong(&e))? {
            let batch = batch.map_err(|e| wrong(&e))?;
            let Some(ids) = batch.column_by_name("id").and_then(|c| c.as_string_opt::<i32>())
            else {
                return Err(wrong(&"expected a column `id`, found none"));
            };
            if let Some(row) = ids.iter().position(|found| found == Some(id)) {
                return Ok(Some(before + row));
            }
            before += batch.num_rows();
        }
        Ok(None)
    }

    /// Up to `limit` documents of shard `number`, from row `first` on.
    fn rows(&self, number: u32, first: usize, limit: usize) -> Result<Vec<Head>> {
        let Some(path) = self.shard(number) else { return Ok(Vec::new()) };
        let wrong = |what: &dyn std::fmt::Display| Error::file(&path, what);
        let file =
            std::fs::File::open(&path).map_err(|e| forebay_store::Error::io("open", &path, e))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| {
                builder.with_offset(first).with_limit(limit).with_batch_size(limit.max(1)).build()
            })
            .map_err(|e| wrong(&e))?;
        let mut heads = Vec::new();
        for batch in reader {
            let batch = batch.map_err(|e| wrong(&e))?;
            let strings = |name: &str| {
                batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>())
            };
            let (Some(ids), Some(sources)) = (strings("id"), strings("source")) else {
                return Err(wrong(&"expected columns `id` and `source`, found others"));
            };
            let lists = batch.column_by_name("tokens").and_then(|c| c.as_list_opt::<i32>());
            for row in 0..batch.num_rows() {
                let tokens = lists.map(|lists| lists.value(row));
                heads.push(Head {
                    id: ids.value(row).to_owned(),
                    source: sources.value(row).to_owned(),
                    tokens: tokens.and_then(|values| {
                        Some(values.as_primitive_opt::<UInt32Type>()?.values().to_vec())
                    }),
                    text: strings("text").map(|texts| texts.value(row).to_owned()),
                });
            }
        }
        Ok(heads)
    }
}
