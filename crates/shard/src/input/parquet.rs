//! Parquet: a document a row, from one column of strings.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, ArrayRef, BinaryArray, LargeBinaryArray, LargeStringArray};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::output::Output;
use super::{InputFile, Options};
use crate::document::{Document, Reason};
use crate::{Error, Result};

/// Decodes rows in order, a bounded number at a time.
pub(super) struct Rows {
    reader: ParquetRecordBatchReader,
    total: u64,
    _held: forebay_store::remote::Localized,
}

impl Rows {
    /// Opens the file at `row`, only the columns wanted, in the order text, id, source.
    pub(super) fn open(
        file: &InputFile,
        options: &Options,
        row: u64,
        part_bytes: u64,
    ) -> Result<Self> {
        guarded(file, || {
            let wrap = |e| Error::from(forebay_store::Error::io("open", &file.path, e));
            let broken = |e| Error::file(&file.path, format!("expected Parquet, found: {e}"));
            // Parquet is read back and forth: of an object, a copy is.
            let held = forebay_store::remote::local(&file.path)?;
            let handle = File::open(held.path()).map_err(wrap)?;
            let builder = ParquetRecordBatchReaderBuilder::try_new(handle).map_err(broken)?;
            let schema = builder.schema().clone();
            let Ok(text) = schema.index_of(&options.text_field) else {
                let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                return Err(if file.is_shard {
                    Error::Lacks { path: file.path.clone(), what: "text" }
                } else {
                    let column = options.text_field.clone();
                    Error::NoColumn { path: file.path.clone(), column, found: names.join(", ") }
                });
            };
            if !is_text(schema.field(text).data_type()) {
                let (name, kind) = (&options.text_field, schema.field(text).data_type());
                let what = format!("column `{name}`: expected strings, found {kind}");
                return Err(Error::file(&file.path, what));
            }
            let mut columns = vec![text];
            if let Ok(id) = schema.index_of(&options.id_field) {
                let (name, kind) = (&options.id_field, schema.field(id).data_type());
                if kind.is_nested() || !can_cast_types(kind, &DataType::LargeUtf8) {
                    let what =
                        format!("column `{name}`: expected strings or integers, found {kind}");
                    return Err(Error::file(&file.path, what));
                }
                columns.push(id);
            }
            if file.is_shard {
                columns.extend(schema.index_of("source"));
            }
            for field in &options.extra {
                let Ok(column) = schema.index_of(&field.name) else {
                    let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                    let column = field.name.clone();
                    let found = names.join(", ");
                    return Err(Error::NoColumn { path: file.path.clone(), column, found });
                };
                let kind = schema.field(column).data_type();
                let fits = if field.number {
                    kind.is_numeric()
                } else {
                    !kind.is_nested() && can_cast_types(kind, &DataType::LargeUtf8)
                };
                if !fits {
                    let expected = if field.number { "numbers" } else { "strings or numbers" };
                    let what =
                        format!("column `{}`: expected {expected}, found {kind}", field.name);
                    return Err(Error::file(&file.path, what));
                }
                columns.push(column);
            }
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
            let metadata = builder.metadata();
            let uncompressed: u64 =
                metadata.row_groups().iter().map(|g| g.total_byte_size().unsigned_abs()).sum();
            let rows = metadata.file_metadata().num_rows().unsigned_abs();
            let row_bytes = (uncompressed / rows.max(1)).max(1);
            let batch = (part_bytes / row_bytes).clamp(1, 1024);
            builder
                .with_projection(mask)
                .with_batch_size(usize::try_from(batch).unwrap_or(1024))
                .with_offset(usize::try_from(row).unwrap_or(usize::MAX))
                .build()
                .map(|reader| Self { reader, total: rows, _held: held })
                .map_err(broken)
        })
    }

    /// Rows in the whole file.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn next(&mut self, file: &InputFile) -> Result<Option<RecordBatch>> {
        guarded(file, || {
            self.reader
                .next()
                .transpose()
                .map_err(|e| Error::file(&file.path, format!("cannot be decoded: {e}")))
        })
    }
}

/// The decoder panics on some malformed files; to the user that is one more bad file.
fn guarded<T>(file: &InputFile, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        Err(Error::file(&file.path, format!("cannot be decoded: {what}")))
    })
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

pub(super) fn parse(
    file: &InputFile,
    batches: &[RecordBatch],
    first: u64,
    out: &mut Output<'_>,
) -> Result<()> {
    let name = file.name();
    let mut position = first;
    for batch in batches {
        let texts = bytes_of(file, batch, &out.options.text_field)?;
        let ids = match batch.column_by_name(&out.options.id_field) {
            Some(column) => Some(strings_of(file, column)?),
            None => None,
        };
        let sources = match batch.column_by_name("source") {
            Some(column) if file.is_shard => Some(strings_of(file, column)?),
            _ => None,
        };
        let mut further = Vec::new();
        for field in &out.options.extra {
            let column = batch.column_by_name(&field.name);
            further.push(column.map(|column| strings_of(file, column)).transpose()?);
        }
        for row in 0..batch.num_rows() {
            let at = position;
            position += 1;
            if texts.is_null(row) {
                let field = &out.options.text_field;
                let detail = format!("row {at}: expected text in `{field}`, found null");
                out.record(&name, at, Reason::MissingField, detail)?;
                continue;
            }
            let bytes = texts.value(row);
            if bytes.len() as u64 > out.options.max_record_bytes {
                let limit = out.options.max_record_bytes;
                let detail = format!("row {at}: longer than {limit} bytes");
                out.record(&name, at, Reason::TooLong, detail)?;
                continue;
            }
            let text = match out.utf8(bytes) {
                Ok(text) => text,
                Err(place) => {
                    let byte = bytes[place];
                    let detail = format!("row {at}: expected UTF-8, found 0x{byte:02x}");
                    out.record(&name, at, Reason::InvalidUtf8, detail)?;
                    continue;
                }
            };
            let value = |column: &Option<LargeStringArray>| {
                column.as_ref().filter(|c| c.is_valid(row)).map(|c| c.value(row).to_owned())
            };
            let (id, source) = (value(&ids), value(&sources));
            let extra: Vec<String> =
                further.iter().map(|column| value(column).unwrap_or_default()).collect();
            out.parsed.documents.push(&Document {
                id: id.as_deref(),
                source: source.as_deref().unwrap_or(&name),
                text: &text,
                file: file.index,
                position: at,
                extra: &extra,
            });
        }
    }
    Ok(())
}

fn bytes_of(file: &InputFile, batch: &RecordBatch, name: &str) -> Result<LargeBinaryArray> {
    let wrong = |what: String| Error::file(&file.path, what);
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| wrong(format!("column `{name}` is gone between row groups")))?;
    // Strings are known to be UTF-8, binaries are checked value by value: both pass as bytes.
    let column = match column.data_type() {
        DataType::Dictionary(_, value) => cast(column, value).map_err(|e| wrong(e.to_string()))?,
        _ => column.clone(),
    };
    if let Some(binary) = column.as_any().downcast_ref::<BinaryArray>() {
        return Ok(binary.iter().collect());
    }
    let bytes = cast(&column, &DataType::LargeBinary).map_err(|e| wrong(e.to_string()))?;
    downcast(&bytes).ok_or_else(|| wrong(format!("column `{name}` cannot be read as bytes")))
}

fn strings_of(file: &InputFile, column: &ArrayRef) -> Result<LargeStringArray> {
    let strings = cast(column, &DataType::LargeUtf8)
        .map_err(|e| Error::file(&file.path, format!("ids cannot be read as strings: {e}")))?;
    downcast(&strings).ok_or_else(|| Error::file(&file.path, "ids cannot be read as strings"))
}

fn downcast<T: Array + Clone + 'static>(array: &ArrayRef) -> Option<T> {
    array.as_any().downcast_ref::<T>().cloned()
}
