//! Spool parts: documents on their way through a run, with the keys that dedup needs.
//!
//! ```text
//! magic     8 B
//! data      id, source and text of each document, in key order
//! rows      48 B × documents, in key order
//! places     4 B × documents   row of each document, in input order
//! lengths    4 B × documents   bytes of text, 0 if it is white space only; in input order
//! exact     16 B × documents   hash of the whole text            (with exact dedup)
//! bands      8 B × documents × bands, band after band; 0: none   (with fuzzy dedup)
//! sketches   1 B × documents × rows of the signature             (with fuzzy dedup)
//! footer    JSON: counts, places of the sections, what was skipped; its length, magic
//! ```
//! Scratch, never synced: the footer holds a checksum of everything before it, and a run that
//! resumes reads each part again before it believes it.

use std::path::Path;

use bytemuck::{Pod, Zeroable, cast_slice};
use forebay_shard::{Documents, Skipped};
use forebay_store::{File, NewFile};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::Result;

const MAGIC: [u8; 8] = *b"FBSPOOL1";
const ROW_BYTES: u64 = size_of::<Row>() as u64;

/// One document.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Row {
    /// Place in the order of the output; ties go by file and position.
    pub(crate) key: u64,
    pub(crate) position: u64,
    /// Where its data starts in the part.
    pub(crate) offset: u64,
    pub(crate) file: u32,
    /// Place in the part, in input order.
    pub(crate) ordinal: u32,
    pub(crate) id_bytes: u32,
    pub(crate) source_bytes: u32,
    pub(crate) text_bytes: u32,
    pub(crate) reserved: u32,
}

impl Row {
    pub(crate) fn data_bytes(&self) -> u64 {
        u64::from(self.id_bytes) + u64::from(self.source_bytes) + u64::from(self.text_bytes)
    }
}

/// What dedup needs of a part, in input order; columns that are not wanted stay empty.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) lengths: Vec<u32>,
    pub(crate) exact: Vec<u128>,
    /// `[documents, bands]`
    pub(crate) bands: Vec<u64>,
    /// `[documents, rows]`
    pub(crate) sketches: Vec<u8>,
}

/// Footer of a part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Footer {
    pub(crate) documents: u32,
    /// Bytes of all texts.
    pub(crate) text_bytes: u64,
    /// Where the cursor stands after this part.
    pub(crate) next: u64,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) replaced: u64,
    pub(crate) bands: u32,
    /// Rows of a whole signature.
    pub(crate) signature: u32,
    /// Where the rows start; the other sections follow.
    rows_at: u64,
    /// Where the last section ends.
    end: u64,
    /// Of all bytes before the footer.
    checksum: u64,
}

/// Counts that go from the parser into the footer.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) next: u64,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) replaced: u64,
}

/// Writes a part. `key(document)` orders it.
pub(crate) fn write(
    path: &Path,
    documents: &Documents,
    keys: &Keys,
    notes: Notes,
    key: impl Fn(usize) -> u64,
) -> Result<Footer> {
    let count = documents.len();
    let ordinal = |at: usize| u32::try_from(at).map_err(|_| crate::Error::TooManyDocuments);
    let mut out = Out { file: NewFile::create(path)?, checksum: Xxh3::new(), buffer: Vec::new() };
    out.put(&MAGIC)?;

    let mut order: Vec<(u64, u32, u64, u32)> = Vec::with_capacity(count);
    for at in 0..count {
        order.push((key(at), documents.files[at], documents.positions[at], ordinal(at)?));
    }
    order.sort_unstable();
    let mut rows = Vec::with_capacity(count);
    let mut places = vec![0_u32; count];
    for &(key, file, position, ordinal) in &order {
        let at = ordinal as usize;
        let strings = [&documents.ids, &documents.sources, &documents.texts].map(|s| s.get(at));
        // Records are bounded to far below 4 GiB.
        let [id_bytes, source_bytes, text_bytes] =
            strings.map(|s| u32::try_from(s.len()).unwrap_or(u32::MAX));
        let offset = out.written();
        places[at] = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        rows.push(Row {
            key,
            position,
            offset,
            file,
            ordinal,
            id_bytes,
            source_bytes,
            text_bytes,
            reserved: 0,
        });
        for string in strings {
            out.put(string.as_bytes())?;
        }
    }

    let rows_at = out.written();
    out.put(cast_slice(&rows))?;
    out.put(cast_slice(&places))?;
    out.put(cast_slice(&keys.lengths))?;
    out.put(cast_slice(&keys.exact))?;
    let bands = keys.bands.len() / count.max(1);
    let mut column: Vec<u64> = Vec::with_capacity(count);
    for band in 0..bands {
        column.clear();
        column.extend(keys.bands.iter().skip(band).step_by(bands));
        out.put(cast_slice(&column))?;
    }
    out.put(&keys.sketches)?;
    out.flush()?;

    let footer = Footer {
        documents: ordinal(count)?,
        text_bytes: documents.texts.bytes() as u64,
        next: notes.next,
        skipped: notes.skipped,
        replaced: notes.replaced,
        bands: u32::try_from(bands).unwrap_or(0),
        signature: u32::try_from(keys.sketches.len() / count.max(1)).unwrap_or(0),
        rows_at,
        end: out.written(),
        checksum: out.checksum.digest(),
    };
    let json = serde_json::to_vec(&footer).unwrap_or_default();
    let mut file = out.file;
    file.append(&json)?;
    file.append(&(json.len() as u64).to_le_bytes())?;
    file.append(&MAGIC)?;
    file.rename()?;
    Ok(footer)
}

struct Out {
    file: NewFile,
    checksum: Xxh3,
    buffer: Vec<u8>,
}

impl Out {
    const BUFFER_BYTES: usize = 1 << 20;

    fn written(&self) -> u64 {
        self.file.written() + self.buffer.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > Self::BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() > Self::BUFFER_BYTES {
            self.checksum.update(bytes);
            self.file.append(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.checksum.update(&self.buffer);
        self.file.append(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// A part, open for reading.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    pub(crate) footer: Footer,
}

/// Number of the first document of each part: documents are counted through all parts.
pub(crate) fn first_documents(parts: &[Part]) -> Vec<u32> {
    let firsts = parts.iter().scan(0, |next, part| {
        let first = *next;
        *next += part.footer.documents;
        Some(first)
    });
    firsts.collect()
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
        let part = Self { file, footer };
        (part.end() == footer_at).then_some(part)
    }

    /// Reads the whole part and compares its checksum.
    pub(crate) fn is_sound(&self) -> bool {
        let mut checksum = Xxh3::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.end() {
            let length = (self.end() - at).min(buffer.len() as u64);
            let block = &mut buffer[..usize::try_from(length).unwrap_or(0)];
            if self.file.read_at(at, block).is_err() {
                return false;
            }
            checksum.update(block);
            at += length;
        }
        checksum.digest() == self.footer.checksum
    }

    fn documents(&self) -> u64 {
        u64::from(self.footer.documents)
    }

    fn places_at(&self) -> u64 {
        self.footer.rows_at + ROW_BYTES * self.documents()
    }

    fn lengths_at(&self) -> u64 {
        self.places_at() + 4 * self.documents()
    }

    fn exact_at(&self) -> u64 {
        self.lengths_at() + 4 * self.documents()
    }

    fn bands_at(&self) -> u64 {
        // Without exact dedup there are no hashes; the sizes of the other sections tell.
        self.end()
            - u64::from(self.footer.signature) * self.documents()
            - 8 * u64::from(self.footer.bands) * self.documents()
    }

    fn end(&self) -> u64 {
        self.footer.end
    }

    fn column<T: Pod>(&self, at: u64, count: usize) -> Result<Vec<T>> {
        let mut column = vec![T::zeroed(); count];
        self.file.read_at(at, bytemuck::cast_slice_mut(&mut column))?;
        Ok(column)
    }

    /// Bytes of text of each document, in input order.
    pub(crate) fn lengths(&self) -> Result<Vec<u32>> {
        self.column(self.lengths_at(), self.footer.documents as usize)
    }

    /// Hash of each document, in input order.
    pub(crate) fn exact(&self) -> Result<Vec<u128>> {
        self.column(self.exact_at(), self.footer.documents as usize)
    }

    /// One band's key of each document, in input order.
    pub(crate) fn band(&self, band: u32) -> Result<Vec<u64>> {
        let at = self.bands_at() + 8 * u64::from(band) * self.documents();
        self.column(at, self.footer.documents as usize)
    }

    /// Sketch of one document.
    pub(crate) fn sketch(&self, ordinal: u32) -> Result<Vec<u8>> {
        let signature = self.footer.signature as usize;
        let at = self.end() - (self.documents() - u64::from(ordinal)) * signature as u64;
        self.column(at, signature)
    }

    /// Rows `first..end`, in key order.
    pub(crate) fn rows(&self, first: u32, end: u32) -> Result<Vec<Row>> {
        let at = self.footer.rows_at + ROW_BYTES * u64::from(first);
        self.column(at, (end - first) as usize)
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
        let place: Vec<u32> = self.column(self.places_at() + 4 * u64::from(ordinal), 1)?;
        Ok(self.rows(place[0], place[0] + 1)?[0])
    }

    /// Data of consecutive rows.
    pub(crate) fn data(&self, rows: &[Row]) -> Result<Vec<u8>> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
        let length = last.offset + last.data_bytes() - first.offset;
        self.column(first.offset, usize::try_from(length).unwrap_or(usize::MAX))
    }
}
