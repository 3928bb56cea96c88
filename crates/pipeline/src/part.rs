//! A spool part, open for reading.

use std::path::Path;

use bytemuck::Pod;
use forebay_shard::Error as ShardError;
use forebay_store::File;
use xxhash_rust::xxh3::Xxh3;

use crate::Result;
use crate::spool::{self, Footer, MAGIC, Row};

/// Columns are read on demand: what is open costs its footer.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    pub(crate) footer: Footer,
}

impl Part {
    /// Opens a part; `None` if it is missing or not whole.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let tail = file.read(file.size().checked_sub(16)?, 16).ok()?;
        let (length, magic) = tail.split_at(8);
        if magic != MAGIC {
            return None;
        }
        let length = u64::from_le_bytes(length.try_into().ok()?);
        let footer_at = (file.size() - 16).checked_sub(length)?;
        let footer = file.read(footer_at, usize::try_from(length).ok()?).ok()?;
        let footer: Footer = serde_json::from_slice(&footer).ok()?;
        (footer.end == footer_at).then_some(Self { file, footer })
    }

    /// Reads the whole part and compares its checksum.
    pub(crate) fn is_sound(&self) -> bool {
        let mut checksum = Xxh3::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.footer.end {
            let length = (self.footer.end - at).min(buffer.len() as u64);
            let block = &mut buffer[..usize::try_from(length).unwrap_or(0)];
            if self.file.read_at(at, block).is_err() {
                return false;
            }
            checksum.update(block);
            at += length;
        }
        checksum.digest() == self.footer.checksum
    }

    fn documents(&self) -> usize {
        self.footer.documents as usize
    }

    fn read<T: Pod>(&self, at: u64, count: usize) -> Result<Vec<T>> {
        let mut column = vec![T::zeroed(); count];
        self.file.read_at(at, bytemuck::cast_slice_mut(&mut column))?;
        Ok(column)
    }

    /// Start of a section and bytes of one document in it.
    fn section(&self, name: &str) -> Result<(u64, u64)> {
        let section = self.footer.sections.iter().find(|section| section.name == name);
        let section = section.ok_or_else(|| {
            ShardError::file(self.file.path(), format!("expected a section `{name}`, found none"))
        })?;
        Ok((section.at, section.width))
    }

    /// Values of `count` documents from `first` on, a value each.
    fn values<T: Pod>(&self, name: &str, first: u32, count: usize) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let (at, width) = self.section(name)?;
        self.read(at + width * u64::from(first), count)
    }

    /// A column, in input order.
    pub(crate) fn column<T: Pod>(&self, name: &str) -> Result<Vec<T>> {
        self.values(name, 0, self.documents())
    }

    /// Bytes of text of each document, in input order.
    pub(crate) fn lengths(&self) -> Result<Vec<u32>> {
        self.column(spool::LENGTHS)
    }

    /// One band's key of each document, in input order.
    pub(crate) fn band(&self, band: usize) -> Result<Vec<u64>> {
        if self.documents() == 0 {
            return Ok(Vec::new());
        }
        let (at, _) = self.section(spool::BANDS)?;
        self.read(at + 8 * (band * self.documents()) as u64, self.documents())
    }

    /// Sketch of one document; `None` without fuzzy dedup.
    pub(crate) fn sketch(&self, ordinal: u32) -> Result<Option<Vec<u8>>> {
        let Ok((at, width)) = self.section(spool::SKETCHES) else { return Ok(None) };
        let length = usize::try_from(width).unwrap_or(usize::MAX);
        self.read(at + width * u64::from(ordinal), length).map(Some)
    }

    /// Rows `first..end`, in key order.
    pub(crate) fn rows(&self, first: u32, end: u32) -> Result<Vec<Row>> {
        self.values(spool::ROWS, first, (end - first) as usize)
    }

    /// First row whose key is not below `key`.
    pub(crate) fn find(&self, key: u64) -> Result<u32> {
        let (mut low, mut high) = (0, self.footer.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.rows(middle, middle + 1)?[0].key < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Row of the document with this ordinal.
    pub(crate) fn row_of(&self, ordinal: u32) -> Result<Row> {
        let place: Vec<u32> = self.values(spool::PLACES, ordinal, 1)?;
        Ok(self.rows(place[0], place[0] + 1)?[0])
    }

    /// Data of consecutive rows.
    pub(crate) fn data(&self, rows: &[Row]) -> Result<Vec<u8>> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
        let length = last.offset + last.data_bytes() - first.offset;
        Ok(self.file.read(first.offset, usize::try_from(length).unwrap_or(usize::MAX))?)
    }

    /// Id, source and text of a row.
    pub(crate) fn strings(&self, row: &Row) -> Result<[String; 3]> {
        let mut id = self.data(&[*row])?;
        let mut source = id.split_off(row.id_bytes as usize);
        let text = source.split_off(row.source_bytes as usize);
        let string = |bytes| {
            String::from_utf8(bytes)
                .map_err(|_| ShardError::file(self.file.path(), "changed under the run"))
        };
        Ok([string(id)?, string(source)?, string(text)?])
    }

    /// Id and source of a row.
    pub(crate) fn names(&self, row: &Row) -> Result<(String, String)> {
        let [id, source, _] = self.strings(&Row { text_bytes: 0, ..*row })?;
        Ok((id, source))
    }
}
