//! A shard: one Parquet file, written so that training can read tokens without decoding it.
//!
//! In the column `tokens` a data page is `header | repetition levels | definition levels | values`,
//! PLAIN and uncompressed, and pages start at row borders. So the values of a page are its last
//! `4 × tokens` bytes, document after document: the page's place, from the offset index, and the
//! lengths of its rows give the byte offset of every document. [`ShardWriter::finish`] reads the
//! file back and refuses to hand it out if one document is not where that says.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, ListArray, StringArray, UInt32Array, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use forebay_store::{Map, NewFile};
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use xxhash_rust::xxh3::xxh3_64;

use crate::blocks;
use crate::index::ShardIndex;
use crate::manifest::FileEntry;
use crate::pages::TokenColumn;
use crate::strings::Strings;
use crate::{Error, Result};

/// Stands in every Parquet file; fixed, so that equal content gives equal bytes.
pub(crate) const CREATED_BY: &str = concat!("forebay ", env!("CARGO_PKG_VERSION"));

const ROW_GROUP_BYTES: u64 = 64 << 20;
/// What is handed to the encoder at once. Page borders follow from it, so it depends on the
/// documents alone, never on how they arrive.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;
/// What goes to the file system at once.
const SINK_BYTES: usize = 1 << 20;
/// Place of the column `tokens`.
const TOKENS: usize = 2;

/// Which columns follow `id` and `source`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Columns {
    /// `tokens: list<u32 not null> not null`
    pub tokens: bool,
    /// `text: string not null`
    pub text: bool,
    /// `duplicates: u32 not null`, the documents that went for this one
    pub duplicates: bool,
    /// `reason: string, survivor: string, cluster: u64, cluster_size: u32, jaccard: f32,
    /// jaccard_estimated: f32`, as in `removed/`; `reason` is null for what stays
    pub annotations: bool,
    /// `masked: list<u32 not null> not null`, start and end of every range of bytes of the text
    /// that stands elsewhere too
    pub masked: bool,
}

/// What dedup found out about a document; see [`Columns`].
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the columns are described with their names")]
pub struct Note {
    pub duplicates: u32,
    pub reason: Option<&'static str>,
    pub survivor: Option<String>,
    pub cluster: Option<u64>,
    pub cluster_size: Option<u32>,
    pub jaccard: Option<f32>,
    pub jaccard_estimated: Option<f32>,
    pub masked: Vec<u32>,
}

/// One document of a shard.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// Its id.
    pub id: &'a str,
    /// Where it came from.
    pub source: &'a str,
    /// Place there: byte of a JSON line, row of a Parquet file.
    pub position: u64,
    /// Its tokens, EOS included; empty in a shard without tokens.
    pub tokens: &'a [u32],
    /// Its text; stored if the shard has the column, counted in any case.
    pub text: &'a str,
    /// Stored if the shard has the columns.
    pub note: Note,
}

/// A shard, written and checked, not yet published.
#[derive(Debug)]
pub struct Shard {
    /// Rows.
    pub documents: u64,
    /// Tokens of all rows.
    pub tokens: u64,
    /// Bytes of text behind the rows.
    pub text_bytes: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Of the whole file, in hex.
    pub blake3: String,
    /// Its part of the document index.
    pub index: ShardIndex,
    /// To be published by the caller.
    pub file: NewFile,
    /// Further files of the shard, to be published with it; none for Parquet.
    pub sidecars: Vec<(FileEntry, NewFile)>,
}

/// Writes one shard, row by row.
pub struct ShardWriter {
    file: NewFile,
    writer: SerializedFileWriter<BufWriter<File>>,
    factory: ArrowRowGroupWriterFactory,
    schema: Arc<Schema>,
    columns: Columns,
    pending: Pending,
    /// Columns of the open row group; that of the tokens apart.
    group: Vec<ArrowColumnWriter>,
    tokens: TokenColumn,
    /// Bytes of tokens and text in the open row group.
    group_bytes: u64,
    text_bytes: u64,
    /// Tokens and their hash, of every row, to check what was written.
    rows: Vec<(u32, u64)>,
}

#[derive(Default)]
struct Pending {
    ids: Strings,
    sources: Strings,
    texts: Strings,
    notes: Vec<Note>,
}

impl ShardWriter {
    /// Starts a file that gets its name `path` when the caller publishes it.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(path: &Path, columns: Columns) -> Result<Self> {
        let schema = Arc::new(schema(columns));
        let file = NewFile::create(path)?;
        let wrap = |e| parquet_error(path, e);
        let mut properties = properties();
        add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
        let root = ArrowSchemaConverter::new().convert(&schema).map_err(wrap)?.root_schema_ptr();
        let sink = BufWriter::with_capacity(SINK_BYTES, file.handle()?);
        let writer = SerializedFileWriter::new(sink, root, Arc::new(properties)).map_err(wrap)?;
        Ok(Self {
            file,
            factory: ArrowRowGroupWriterFactory::new(&writer, Arc::clone(&schema)),
            writer,
            schema,
            columns,
            pending: Pending::default(),
            group: Vec::new(),
            tokens: TokenColumn::default(),
            group_bytes: 0,
            text_bytes: 0,
            rows: Vec::new(),
        })
    }

    /// Appends one document.
    ///
    /// # Errors
    /// If the storage refuses, or if a document has 2³¹ tokens or more.
    pub fn push(&mut self, row: &Row<'_>) -> Result<()> {
        let pending = &mut self.pending;
        pending.ids.push(row.id);
        pending.sources.push(row.source);
        if self.columns.tokens {
            let pushed = self.tokens.push(row.tokens);
            pushed.map_err(|e| parquet_error(self.file.target(), e))?;
        }
        if self.columns.text {
            pending.texts.push(row.text);
        }
        let Columns { duplicates, annotations, masked, .. } = self.columns;
        if duplicates || annotations || masked {
            pending.notes.push(row.note.clone());
        }
        let tokens = u32::try_from(row.tokens.len())
            .map_err(|_| Error::file(self.file.target(), "a document is too long"))?;
        self.rows.push((tokens, xxh3_64(bytemuck::cast_slice(row.tokens))));
        self.text_bytes += row.text.len() as u64;
        self.group_bytes += 4 * u64::from(tokens);
        if self.columns.text {
            self.group_bytes += row.text.len() as u64;
        }

        let group_full = self.group_bytes >= ROW_GROUP_BYTES;
        if group_full
            || self.pending.ids.len() >= BATCH_ROWS
            || self.pending.texts.bytes() >= BATCH_BYTES
        {
            self.encode()?;
        }
        if group_full {
            self.end_group()?;
        }
        Ok(())
    }

    /// Writes the open row group.
    fn end_group(&mut self) -> Result<()> {
        self.encode()?;
        self.group_bytes = 0;
        let columns = std::mem::take(&mut self.group);
        if columns.is_empty() {
            return Ok(());
        }
        let tokens = std::mem::take(&mut self.tokens);
        let write = || {
            let mut tokens = self.columns.tokens.then_some(tokens);
            let schema = self.writer.schema_descr().columns().to_vec();
            let mut group = self.writer.next_row_group()?;
            for (leaf, column) in columns.into_iter().enumerate() {
                match tokens.take_if(|_| leaf == TOKENS) {
                    Some(tokens) => {
                        let (pages, close) = tokens.finish(Arc::clone(&schema[leaf]))?;
                        group.append_column(&pages, close)?;
                    }
                    None => column.close()?.append_to_row_group(&mut group)?,
                }
            }
            group.close()
        };
        write().map(|_| ()).map_err(|e| parquet_error(self.file.target(), e))
    }

    /// Completes the file, reads it back, checks the place of every document and hashes it all.
    ///
    /// Cost: two passes over the file (hashes, tokens), from the page cache; the first on a thread
    /// of its own if there are `threads` for it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the tokens of a document are not whole, plain and in place.
    pub fn finish(mut self, threads: usize) -> Result<Shard> {
        self.end_group()?;
        let file = self.file;
        let path = file.target().to_path_buf();
        // Also writes what the sink still holds.
        let metadata = self.writer.close().map_err(|e| parquet_error(&path, e))?;

        let bytes = Map::open(file.temporary())?;
        let hash = || blocks::hash(&bytes);
        let check = || {
            let mut documents = Vec::new();
            if self.columns.tokens {
                documents = token_offsets(&path, &metadata, &self.rows)?;
                check_tokens(&path, &bytes, &documents, &self.rows)?;
            }
            Ok::<_, Error>(documents)
        };
        let ((blake3, blocks), documents) = if threads > 1 {
            std::thread::scope(|scope| {
                let hash = scope.spawn(hash);
                let documents = check();
                (hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), documents)
            })
        } else {
            (hash(), check())
        };
        let index = ShardIndex { documents: documents?, blocks };
        Ok(Shard {
            documents: self.rows.len() as u64,
            tokens: self.rows.iter().map(|&(tokens, _)| u64::from(tokens)).sum(),
            text_bytes: self.text_bytes,
            bytes: bytes.len() as u64,
            blake3: blake3.to_hex().to_string(),
            index,
            file,
            sidecars: Vec::new(),
        })
    }

    fn encode(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if pending.ids.is_empty() {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = vec![strings(&pending.ids), strings(&pending.sources)];
        if self.columns.tokens {
            // Its pages are made apart.
            columns.push(Arc::new(UInt32Array::from_iter_values([])));
        }
        if self.columns.text {
            columns.push(strings(&pending.texts));
        }
        let notes = &pending.notes;
        if self.columns.duplicates {
            let duplicates = notes.iter().map(|note| note.duplicates);
            columns.push(Arc::new(UInt32Array::from_iter_values(duplicates)));
        }
        if self.columns.annotations {
            columns.extend(annotations(notes));
        }
        if self.columns.masked {
            let offsets = OffsetBuffer::from_lengths(notes.iter().map(|note| note.masked.len()));
            let values = UInt32Array::from_iter_values(notes.iter().flat_map(|n| n.masked.clone()));
            columns.push(Arc::new(ListArray::new(element(), offsets, Arc::new(values), None)));
        }
        let mut write = || {
            if self.group.is_empty() {
                let number = self.writer.flushed_row_groups().len();
                self.group = self.factory.create_column_writers(number)?;
            }
            let fields = self.schema.fields().iter().zip(&columns).zip(&mut self.group);
            for (leaf, ((field, column), writer)) in fields.enumerate() {
                if leaf == TOKENS && self.columns.tokens {
                    continue;
                }
                // Every column is one leaf.
                for leaf in compute_leaves(field, column)? {
                    writer.write(&leaf)?;
                }
            }
            Ok(())
        };
        write().map_err(|e| parquet_error(self.file.target(), e))
    }
}

fn annotations(notes: &[Note]) -> [ArrayRef; 6] {
    [
        Arc::new(notes.iter().map(|note| note.reason).collect::<StringArray>()),
        Arc::new(notes.iter().map(|note| note.survivor.as_deref()).collect::<StringArray>()),
        Arc::new(notes.iter().map(|note| note.cluster).collect::<UInt64Array>()),
        Arc::new(notes.iter().map(|note| note.cluster_size).collect::<UInt32Array>()),
        Arc::new(notes.iter().map(|note| note.jaccard).collect::<Float32Array>()),
        Arc::new(notes.iter().map(|note| note.jaccard_estimated).collect::<Float32Array>()),
    ]
}

fn strings(strings: &Strings) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(strings.iter()))
}

fn element() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::UInt32, false))
}

fn schema(columns: Columns) -> Schema {
    let mut fields =
        vec![Field::new("id", DataType::Utf8, false), Field::new("source", DataType::Utf8, false)];
    if columns.tokens {
        fields.push(Field::new("tokens", DataType::List(element()), false));
    }
    if columns.text {
        fields.push(Field::new("text", DataType::Utf8, false));
    }
    if columns.duplicates {
        fields.push(Field::new("duplicates", DataType::UInt32, false));
    }
    if columns.annotations {
        let annotations = [
            ("reason", DataType::Utf8),
            ("survivor", DataType::Utf8),
            ("cluster", DataType::UInt64),
            ("cluster_size", DataType::UInt32),
            ("jaccard", DataType::Float32),
            ("jaccard_estimated", DataType::Float32),
        ];
        fields.extend(annotations.map(|(name, kind)| Field::new(name, kind, true)));
    }
    if columns.masked {
        fields.push(Field::new("masked", DataType::List(element()), false));
    }
    Schema::new(fields)
}

fn properties() -> WriterProperties {
    let tokens = ColumnPath::from(vec!["tokens".to_owned(), "list".into(), "element".into()]);
    WriterProperties::builder()
        .set_created_by(CREATED_BY.into())
        .set_max_row_group_row_count(None)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_dictionary_enabled(ColumnPath::from("id"), false)
        .set_column_dictionary_enabled(ColumnPath::from("text"), false)
        .set_column_dictionary_enabled(tokens.clone(), false)
        .set_column_encoding(tokens.clone(), Encoding::PLAIN)
        .set_column_compression(tokens, Compression::UNCOMPRESSED)
        .build()
}

/// Byte offset and tokens of every row, from the places of the pages.
fn token_offsets(
    path: &Path,
    metadata: &ParquetMetaData,
    rows: &[(u32, u64)],
) -> Result<Vec<(u64, u32)>> {
    let broken = |expected: &str, found: String| {
        Error::corrupt(path, "layout of the column tokens", expected, found)
    };
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let index = metadata.offset_index().ok_or_else(|| broken("an offset index", "none".into()))?;
    let mut offsets = Vec::with_capacity(rows.len());
    for (group, pages) in metadata.row_groups().iter().zip(index) {
        let column = group.column(TOKENS);
        if column.compression() != Compression::UNCOMPRESSED {
            return Err(broken("no compression", column.compression().to_string()));
        }
        if column.dictionary_page_offset().is_some() {
            return Err(broken("no dictionary", "one".into()));
        }
        let first = offsets.len();
        let group_rows = usize::try_from(group.num_rows()).unwrap_or(usize::MAX);
        let pages = pages[TOKENS].page_locations();
        for (number, page) in pages.iter().enumerate() {
            let row = |at: i64| first + usize::try_from(at).unwrap_or(usize::MAX);
            let end = pages.get(number + 1).map_or(first + group_rows, |p| row(p.first_row_index));
            let rows = rows.get(row(page.first_row_index)..end);
            let rows = rows.ok_or_else(|| broken("pages in row order", "others".into()))?;
            let tokens: u64 = rows.iter().map(|&(tokens, _)| u64::from(tokens)).sum();
            let page_end =
                page.offset.unsigned_abs() + u64::from(page.compressed_page_size.unsigned_abs());
            let mut offset = page_end
                .checked_sub(4 * tokens)
                .ok_or_else(|| broken("4 bytes a token", "less".into()))?;
            for &(tokens, _) in rows {
                offsets.push((offset, tokens));
                offset += 4 * u64::from(tokens);
            }
        }
    }
    if offsets.len() != rows.len() {
        return Err(broken(&format!("{} rows", rows.len()), format!("{} rows", offsets.len())));
    }
    Ok(offsets)
}

fn check_tokens(
    path: &Path,
    bytes: &[u8],
    documents: &[(u64, u32)],
    rows: &[(u32, u64)],
) -> Result<()> {
    for (row, (&(offset, tokens), &(_, hash))) in documents.iter().zip(rows).enumerate() {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = bytes.get(start..start.saturating_add(4 * tokens as usize)).map(xxh3_64);
        if found != Some(hash) {
            let what = format!("tokens of row {row} at byte {offset}");
            let found = found.map_or("the end of the file".into(), |found| format!("{found:016x}"));
            return Err(Error::corrupt(path, what, format!("{hash:016x}"), found));
        }
    }
    Ok(())
}

/// A full disk under the Parquet writer is a storage error, not a Parquet error.
pub(crate) fn parquet_error(path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(source) => forebay_store::Error::io("write", path, *source).into(),
            Err(other) => Error::file(path, other),
        },
        other => Error::file(path, other),
    }
}
