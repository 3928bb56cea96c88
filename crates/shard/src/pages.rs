//! The column `tokens: list<u32 not null> not null` of a row group, encoded page by page.
//!
//! A data page (version 1) is `repetition levels | definition levels | values`. Levels are runs
//! (Parquet, *Encodings*, "RLE / bit-packing hybrid"): two a row, whatever its length, where a
//! general writer would handle a pair of levels for each token. Values are plain, so they are
//! copied as they are. Cost: two copies of the tokens.

use std::collections::VecDeque;
use std::io::Read;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnDescPtr;

/// A page ends with the row that makes it this large.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ROWS: usize = 20_000;

/// A column chunk in the making.
#[derive(Default)]
pub(crate) struct TokenColumn {
    /// Of the open page.
    values: Vec<u8>,
    repetition: Levels,
    definition: Levels,
    levels: u32,
    page_rows: usize,
    /// Complete pages: header and levels, values.
    pages: Vec<Bytes>,
    bytes: usize,
    rows: u64,
    all_levels: i64,
    index: Option<OffsetIndexBuilder>,
}

impl TokenColumn {
    /// Appends a row.
    pub(crate) fn push(&mut self, tokens: &[u32]) -> Result<()> {
        // An empty list is one level of its own, and no value.
        let length = tokens.len().max(1);
        self.repetition.push(0, 1);
        self.repetition.push(1, length as u64 - 1);
        self.definition.push(u8::from(!tokens.is_empty()), length as u64);
        self.levels += u32::try_from(length).map_err(|e| ParquetError::External(Box::new(e)))?;
        #[cfg(target_endian = "little")]
        self.values.extend_from_slice(bytemuck::cast_slice(tokens));
        #[cfg(target_endian = "big")]
        self.values.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        self.page_rows += 1;
        self.rows += 1;
        if self.values.len() >= PAGE_BYTES || self.page_rows >= PAGE_ROWS {
            self.end_page()?;
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<()> {
        if self.page_rows == 0 {
            return Ok(());
        }
        let next = Vec::with_capacity(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        let mut levels = std::mem::take(&mut self.repetition).finish();
        levels.extend(std::mem::take(&mut self.definition).finish());
        let page = levels.len() + values.len();
        let header = header(page, self.levels);
        let size =
            i32::try_from(header.len() + page).map_err(|e| ParquetError::External(Box::new(e)))?;
        let index = self.index.get_or_insert_with(OffsetIndexBuilder::new);
        index.append_offset_and_size(self.bytes as i64, size);
        index.append_row_count(self.page_rows as i64);
        index.append_unencoded_byte_array_data_bytes(None);
        self.bytes += header.len() + page;
        self.all_levels += i64::from(self.levels);
        self.pages.extend([[header, levels].concat().into(), values.into()]);
        (self.levels, self.page_rows) = (0, 0);
        Ok(())
    }

    /// The chunk, as a row group takes it, and what is to be known of it.
    pub(crate) fn finish(
        mut self,
        column: ColumnDescPtr,
    ) -> Result<(TokenPages, ColumnCloseResult)> {
        self.end_page()?;
        let bytes = self.bytes as i64;
        let metadata = ColumnChunkMetaData::builder(column)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_compression(Compression::UNCOMPRESSED)
            .set_num_values(self.all_levels)
            .set_total_compressed_size(bytes)
            .set_total_uncompressed_size(bytes)
            .set_data_page_offset(0)
            .build()?;
        let close = ColumnCloseResult {
            bytes_written: self.bytes as u64,
            rows_written: self.rows,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(self.index.unwrap_or_default().build()),
        };
        Ok((TokenPages { bytes: self.bytes as u64, pages: self.pages }, close))
    }
}

/// The header of a page of `size` bytes with `levels` levels of each kind: a `PageHeader` of
/// `parquet.thrift` in the compact protocol, where a field is its distance to the one before and
/// its type, then its value.
fn header(size: usize, levels: u32) -> Vec<u8> {
    const INTEGER: u8 = 5;
    const STRUCT: u8 = 12;
    const PLAIN: u64 = 0;
    const RLE: u64 = 3;
    let mut header = Vec::with_capacity(32);
    let integer = |header: &mut Vec<u8>, value: u64| {
        header.push(1 << 4 | INTEGER);
        // Signed integers have their sign in the lowest bit.
        varint(header, value << 1);
    };
    // type = DATA_PAGE, uncompressed_page_size, compressed_page_size
    for value in [0, size as u64, size as u64] {
        integer(&mut header, value);
    }
    // data_page_header: num_values, encoding, definition_level_encoding, repetition_level_encoding
    header.push(2 << 4 | STRUCT);
    for value in [u64::from(levels), PLAIN, RLE, RLE] {
        integer(&mut header, value);
    }
    header.extend([0, 0]);
    header
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Levels of one bit, in runs.
#[derive(Default)]
struct Levels {
    bytes: Vec<u8>,
    level: u8,
    /// Of the open run.
    count: u64,
}

impl Levels {
    fn push(&mut self, level: u8, count: u64) {
        if level != self.level {
            self.end_run();
            self.level = level;
        }
        self.count += count;
    }

    fn end_run(&mut self) {
        if self.count > 0 {
            varint(&mut self.bytes, self.count << 1);
            self.bytes.push(self.level);
        }
        self.count = 0;
    }

    /// All runs, their length before them.
    fn finish(mut self) -> Vec<u8> {
        self.end_run();
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        [&length.to_le_bytes(), self.bytes.as_slice()].concat()
    }
}

/// The pages of a chunk, to be copied into a file.
pub(crate) struct TokenPages {
    pages: Vec<Bytes>,
    bytes: u64,
}

impl Length for TokenPages {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for TokenPages {
    type T = Chain;

    fn get_read(&self, start: u64) -> Result<Chain> {
        let mut chain = Chain(self.pages.clone().into());
        let mut skip = usize::try_from(start).unwrap_or(usize::MAX);
        while let Some(first) = chain.0.front_mut()
            && skip > 0
        {
            let here = skip.min(first.len());
            skip -= here;
            let _ = first.split_to(here);
            if first.is_empty() {
                chain.0.pop_front();
            }
        }
        Ok(chain)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Pieces of memory, read one after the other.
pub(crate) struct Chain(VecDeque<Bytes>);

impl Read for Chain {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        while self.0.front().is_some_and(Bytes::is_empty) {
            self.0.pop_front();
        }
        let Some(first) = self.0.front_mut() else { return Ok(0) };
        let length = first.len().min(to.len());
        to[..length].copy_from_slice(&first.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ListArray, UInt32Array};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use proptest::prelude::*;

    use crate::writer::{Columns, Note, Row, ShardWriter};

    /// What another reader finds.
    fn read(path: &std::path::Path) -> Vec<Vec<u32>> {
        let file = std::fs::File::open(path).unwrap();
        let mut rows = Vec::new();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let lists = batch.column(2).as_any().downcast_ref::<ListArray>().unwrap();
            assert_eq!(lists.null_count(), 0);
            for list in lists.iter() {
                let list = list.unwrap();
                let values = list.as_any().downcast_ref::<UInt32Array>().unwrap();
                rows.push(values.values().to_vec());
            }
        }
        rows
    }

    fn write(rows: &[Vec<u32>], text: bool) -> Vec<Vec<u32>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shard.parquet");
        let tokens = true;
        let (duplicates, annotations, masked) = (false, false, false);
        let columns = Columns { tokens, text, duplicates, annotations, masked };
        let mut writer = ShardWriter::create(&path, columns).unwrap();
        for tokens in rows {
            let (position, note) = (0, Note::default());
            let row = Row { id: "id", source: "s", position, tokens, text: "text", note };
            writer.push(&row).unwrap();
        }
        writer.finish(1).unwrap().file.publish().unwrap();
        read(&path)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn another_reader_finds_the_same(
            lengths in prop::collection::vec(prop_oneof![0..3_usize, 0..300_usize, Just(90_000)], 0..60),
            text: bool,
        ) {
            let rows: Vec<Vec<u32>> = (1..).zip(&lengths)
                .map(|(seed, &length)| (0..length as u32).map(|at| at.wrapping_mul(seed)).collect())
                .collect();
            prop_assert_eq!(write(&rows, text), rows);
        }
    }

    #[test]
    fn pages_end_after_so_many_rows_and_groups_after_so_many_bytes() {
        let rows = vec![vec![1, 2]; 45_000];
        assert_eq!(write(&rows, false), rows);
        let rows: Vec<Vec<u32>> = (0..40).map(|row| vec![row; 1 << 19]).collect();
        assert_eq!(write(&rows, true), rows);
    }
}
