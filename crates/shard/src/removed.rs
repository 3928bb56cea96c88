//! `removed/`: a row for every document or record that was left out.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, StringBuilder, UInt32Builder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use forebay_store::NewFile;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::Result;
use crate::writer::parquet_error;

const BATCH_ROWS: usize = 8192;

/// One row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Removed<'a> {
    /// Of the document; of a record without one, [`crate::stable_id`].
    pub id: &'a str,
    /// Where it came from.
    pub source: &'a str,
    /// `exact`, `url`, `fuzzy`, `empty`, `eval`; `line`, `paragraph`, `substring` for a part of a
    /// document that stays, `cut` if nothing of it was left, `eval-reported` for one that stays
    /// whole; or a [`crate::Reason`].
    pub reason: &'a str,
    /// Id of the document that stays in its place; it is in the dataset.
    pub survivor: Option<&'a str>,
    /// Where that one came from.
    pub survivor_source: Option<&'a str>,
    /// Its place in the file that it came from.
    pub survivor_position: Option<u64>,
    /// Number of the cluster that both belong to.
    pub cluster: Option<u64>,
    /// Documents of that cluster.
    pub cluster_size: Option<u32>,
    /// Similarity to the survivor, measured on the texts.
    pub jaccard: Option<f32>,
    /// Similarity to the survivor, estimated from the signatures.
    pub jaccard_estimated: Option<f32>,
    /// Place in the file that it came from: byte of a JSON line, row of a Parquet file.
    pub position: Option<u64>,
    /// The shard that was read, where that is not the source; positions count in it.
    pub file: Option<&'a str>,
    /// The same for the survivor.
    pub survivor_file: Option<&'a str>,
    /// What was expected and found, for bad records; which bytes, for parts of documents.
    pub detail: Option<&'a str>,
}

/// Writes `removed/*.parquet`.
pub struct RemovedWriter {
    file: NewFile,
    writer: ArrowWriter<std::fs::File>,
    schema: Arc<Schema>,
    id: StringBuilder,
    source: StringBuilder,
    reason: StringBuilder,
    survivor: StringBuilder,
    cluster: UInt64Builder,
    cluster_size: UInt32Builder,
    jaccard: Float32Builder,
    jaccard_estimated: Float32Builder,
    position: UInt64Builder,
    survivor_source: StringBuilder,
    survivor_position: UInt64Builder,
    shard: StringBuilder,
    survivor_shard: StringBuilder,
    detail: StringBuilder,
    pending: usize,
}

impl RemovedWriter {
    /// Starts a file that gets its name `path` at [`RemovedWriter::finish`].
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("source", DataType::Utf8, false),
            Field::new("reason", DataType::Utf8, false),
            Field::new("survivor", DataType::Utf8, true),
            Field::new("cluster", DataType::UInt64, true),
            Field::new("jaccard", DataType::Float32, true),
            Field::new("jaccard_estimated", DataType::Float32, true),
            Field::new("cluster_size", DataType::UInt32, true),
            Field::new("position", DataType::UInt64, true),
            Field::new("survivor_source", DataType::Utf8, true),
            Field::new("survivor_position", DataType::UInt64, true),
            Field::new("file", DataType::Utf8, true),
            Field::new("survivor_file", DataType::Utf8, true),
            Field::new("detail", DataType::Utf8, true),
        ]));
        let properties = WriterProperties::builder()
            .set_created_by(crate::writer::CREATED_BY.into())
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let file = NewFile::create(path)?;
        let writer = ArrowWriter::try_new(file.handle()?, Arc::clone(&schema), Some(properties))
            .map_err(|e| parquet_error(path, e))?;
        Ok(Self {
            file,
            writer,
            schema,
            id: StringBuilder::new(),
            source: StringBuilder::new(),
            reason: StringBuilder::new(),
            survivor: StringBuilder::new(),
            cluster: UInt64Builder::new(),
            cluster_size: UInt32Builder::new(),
            jaccard: Float32Builder::new(),
            jaccard_estimated: Float32Builder::new(),
            position: UInt64Builder::new(),
            survivor_source: StringBuilder::new(),
            survivor_position: UInt64Builder::new(),
            shard: StringBuilder::new(),
            survivor_shard: StringBuilder::new(),
            detail: StringBuilder::new(),
            pending: 0,
        })
    }

    /// Appends one row.
    ///
    /// # Errors
    /// If the storage refuses.
    pub fn push(&mut self, removed: &Removed<'_>) -> Result<()> {
        self.id.append_value(removed.id);
        self.source.append_value(removed.source);
        self.reason.append_value(removed.reason);
        self.survivor.append_option(removed.survivor);
        self.cluster.append_option(removed.cluster);
        self.cluster_size.append_option(removed.cluster_size);
        self.jaccard.append_option(removed.jaccard);
        self.jaccard_estimated.append_option(removed.jaccard_estimated);
        self.position.append_option(removed.position);
        self.survivor_source.append_option(removed.survivor_source);
        self.survivor_position.append_option(removed.survivor_position);
        self.shard.append_option(removed.file);
        self.survivor_shard.append_option(removed.survivor_file);
        self.detail.append_option(removed.detail);
        self.pending += 1;
        if self.pending == BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Publishes the file.
    ///
    /// # Errors
    /// If the storage refuses.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.writer.close().map_err(|e| parquet_error(self.file.target(), e))?;
        self.file.publish()?;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.survivor.finish()),
            Arc::new(self.cluster.finish()),
            Arc::new(self.jaccard.finish()),
            Arc::new(self.jaccard_estimated.finish()),
            Arc::new(self.cluster_size.finish()),
            Arc::new(self.position.finish()),
            Arc::new(self.survivor_source.finish()),
            Arc::new(self.survivor_position.finish()),
            Arc::new(self.shard.finish()),
            Arc::new(self.survivor_shard.finish()),
            Arc::new(self.detail.finish()),
        ];
        self.pending = 0;
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(parquet::errors::ParquetError::from)
            .and_then(|batch| self.writer.write(&batch))
            .map_err(|e| parquet_error(self.file.target(), e))
    }
}
