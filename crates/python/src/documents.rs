//! The rows of a dataset as Arrow.

use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ffi_stream::FFI_ArrowArrayStream;
use arrow::record_batch::{RecordBatch, RecordBatchReader};
use forebay_shard::{Dataset, Error as ShardError};
use forebay_store::remote::{self, Localized};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::error;

/// The documents of a dataset. `pyarrow.table(documents)`, `polars.DataFrame(documents)` and
/// DuckDB read them through the Arrow PyCapsule interface, a batch at a time.
#[pyclass(frozen, module = "forebay._core")]
pub(crate) struct Documents {
    dataset: Dataset,
    columns: Option<Vec<String>>,
    /// A copy of what lies in an object store.
    _held: Localized,
}

/// Rows that are decoded together.
const BATCH_ROWS: usize = 1024;

#[pymethods]
impl Documents {
    #[new]
    #[pyo3(signature = (path, columns=None))]
    fn new(py: Python<'_>, path: PathBuf, columns: Option<Vec<String>>) -> PyResult<Self> {
        let held = py.detach(|| remote::local(&path)).map_err(error::store)?;
        let path = held.path().to_path_buf();
        let dataset = Dataset::open(&path).map_err(|e| error::shard(&e))?;
        if let Some(layout) = dataset.manifest().layout {
            let found = layout.format.name();
            let other = ShardError::OtherFormat { path, expected: "forebay", found };
            return Err(error::shard(&other));
        }
        let documents = Self { dataset, columns, _held: held };
        // A column that is not there is said now, not in the middle of a table.
        documents.reader().map_err(|e| error::shard(&e))?;
        Ok(documents)
    }

    fn __len__(&self) -> usize {
        self.dataset.manifest().shards.iter().map(|shard| shard.documents as usize).sum()
    }

    /// Tokens of all documents; `None` without a tokenizer.
    #[getter]
    fn tokens(&self) -> Option<u64> {
        self.dataset.manifest().tokens
    }

    /// JSON of the manifest.
    #[getter]
    fn manifest(&self) -> String {
        String::from_utf8_lossy(&self.dataset.manifest().to_bytes()).into_owned()
    }

    /// A stream of record batches, as the Arrow PyCapsule interface has it.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // A wish that may be left unheard: consumers cast what they get.
        let _ = requested_schema;
        let reader = self.reader().map_err(|e| error::shard(&e))?;
        let stream = FFI_ArrowArrayStream::new(Box::new(reader));
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }
}

impl Documents {
    fn reader(&self) -> Result<Rows, ShardError> {
        let manifest = self.dataset.manifest();
        let shards = manifest.shards.iter().map(|s| self.dataset.directory().join(&s.file));
        let mut shards: Vec<PathBuf> = shards.collect();
        shards.reverse();
        let Some(first) = shards.pop() else {
            let path = self.dataset.directory().to_path_buf();
            return Err(ShardError::Lacks { path, what: "documents" });
        };
        let reader = open(&first, self.columns.as_deref())?;
        let schema = reader.schema();
        Ok(Rows { shards, reader, schema, columns: self.columns.clone() })
    }
}

fn open(
    path: &PathBuf,
    columns: Option<&[String]>,
) -> Result<ParquetRecordBatchReader, ShardError> {
    let wrong = |what: &dyn std::fmt::Display| ShardError::file(path, what);
    let file = std::fs::File::open(path).map_err(|e| wrong(&e))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| wrong(&e))?;
    let mask = match columns {
        None => ProjectionMask::all(),
        Some(names) => {
            let fields = builder.schema().fields();
            let there = |name: &str| fields.iter().any(|field| field.name() == name);
            if let Some(column) = names.iter().find(|name| !there(name)) {
                let found: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
                return Err(ShardError::NoColumn {
                    path: path.clone(),
                    column: column.clone(),
                    found: found.join(", "),
                });
            }
            let names = names.iter().map(String::as_str);
            ProjectionMask::columns(builder.parquet_schema(), names)
        }
    };
    builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|e| wrong(&e))
}

/// Record batches of all shards, one after the other.
struct Rows {
    /// The last comes first.
    shards: Vec<PathBuf>,
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    columns: Option<Vec<String>>,
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.reader.next() {
                return Some(batch);
            }
            let path = self.shards.pop()?;
            match open(&path, self.columns.as_deref()) {
                Ok(reader) => self.reader = reader,
                Err(error) => return Some(Err(ArrowError::ExternalError(Box::new(error)))),
            }
        }
    }
}

impl RecordBatchReader for Rows {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }
}
