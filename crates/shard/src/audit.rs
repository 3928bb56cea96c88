//! Looking back: the documents of one cluster, and their texts where they came from.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::dataset::Dataset;
use crate::input::{self, Cursor};
use crate::{Error, Result};

/// A document, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its id.
    pub id: String,
    /// File that it was read from.
    pub file: String,
    /// Byte of a JSON line, row of a Parquet file.
    pub position: u64,
}

/// A document of a cluster that went.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterMember {
    /// Which one.
    pub origin: Origin,
    /// Why it went.
    pub reason: String,
    /// Similarity to the survivor, measured on the texts.
    pub jaccard: Option<f32>,
    /// Similarity to the survivor, estimated from the signatures.
    pub jaccard_estimated: Option<f32>,
}

impl Dataset {
    /// The survivor of a cluster and the documents that went for it; `None` if there is no such
    /// cluster. Reads all of `removed/`.
    ///
    /// # Errors
    /// If `removed/` cannot be decoded.
    pub fn cluster(&self, number: u64) -> Result<Option<(Origin, Vec<ClusterMember>)>> {
        let mut survivor = None;
        let mut members = Vec::new();
        for entry in &self.manifest().removed {
            let path = self.directory().join(&entry.file);
            let wrong = |what: &dyn std::fmt::Display| Error::file(&path, what);
            let file = std::fs::File::open(&path)
                .map_err(|e| forebay_store::Error::io("open", &path, e))?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(file)
                .and_then(ParquetRecordBatchReaderBuilder::build)
                .map_err(|e| wrong(&e))?;
            for batch in reader {
                let batch = batch.map_err(|e| wrong(&e))?;
                let rows = Rows(&batch);
                for row in 0..batch.num_rows() {
                    if rows.number("cluster", row) != Some(number) {
                        continue;
                    }
                    let origin = |of: &str| {
                        let id = if of.is_empty() { "id" } else { "survivor" };
                        let name = |column: &str| format!("{of}{column}");
                        let source = rows.string(&name("source"), row)?;
                        Some(Origin {
                            id: rows.string(id, row)?,
                            file: rows.string(&name("file"), row).unwrap_or(source),
                            position: rows.number(&name("position"), row)?,
                        })
                    };
                    let lacks = || wrong(&"expected positions of documents, found none");
                    survivor = origin("survivor_");
                    members.push(ClusterMember {
                        origin: origin("").ok_or_else(lacks)?,
                        reason: rows.string("reason", row).unwrap_or_default(),
                        jaccard: rows.float("jaccard", row),
                        jaccard_estimated: rows.float("jaccard_estimated", row),
                    });
                }
            }
        }
        Ok(survivor.map(|survivor| (survivor, members)))
    }
}

/// Values of a batch, by column name.
struct Rows<'a>(&'a RecordBatch);

impl Rows<'_> {
    fn string(&self, column: &str, row: usize) -> Option<String> {
        let column = self.0.column_by_name(column)?.as_string_opt::<i32>()?;
        column.is_valid(row).then(|| column.value(row).to_owned())
    }

    fn number(&self, column: &str, row: usize) -> Option<u64> {
        let column = self.0.column_by_name(column)?.as_primitive_opt::<UInt64Type>()?;
        column.is_valid(row).then(|| column.value(row))
    }

    fn float(&self, column: &str, row: usize) -> Option<f32> {
        let column = self.0.column_by_name(column)?.as_primitive_opt::<Float32Type>()?;
        column.is_valid(row).then(|| column.value(row))
    }
}

/// The text of a document, read again from where it came from.
///
/// # Errors
/// If the file has gone, or does not hold that document any more.
pub fn text_of(origin: &Origin, options: &input::Options) -> Result<String> {
    let options = &input::Options { extra: Vec::new(), ..options.clone() };
    if origin.file == "stdin" {
        let what = "expected a file to read again, found that it came through a pipe";
        return Err(Error::file(Path::new(&origin.file), what));
    }
    let inputs = [origin.file.clone()];
    for source in input::discover(&inputs, options, None)? {
        let mut cursor = Cursor::new(&source, options, 1 << 16, &Arc::default());
        cursor.advance_to(origin.position)?;
        if let Some(part) = cursor.next_part()? {
            let documents = part.parse(options)?.documents;
            if !documents.is_empty()
                && documents.ids.get(0) == origin.id
                && documents.positions[0] == origin.position
            {
                return Ok(documents.texts.get(0).to_owned());
            }
        }
    }
    let what = format!("expected document {} at {}, found another", origin.id, origin.position);
    Err(Error::file(Path::new(&origin.file), what))
}
