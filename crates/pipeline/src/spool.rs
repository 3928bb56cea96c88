//! Spool parts: documents on their way through a run, with the keys that dedup needs.
//!
//! ```text
//! magic     8 B
//! data      id, source and text (if it is needed again) of each document, in key order
//! rows      48 B × documents, in key order
//! places     4 B × documents   row of each document, in input order
//! lengths    4 B × documents   bytes of text, 0 if it is white space only; in input order
//! exact     16 B × documents   hash of the whole text            (with exact dedup)
//! urls      16 B × documents   hash of the URL; 0: none          (with dedup of URLs)
//! scores     8 B × documents   what to keep by; more is better   (if scores decide)
//! bands      8 B × documents × bands, band after band; 0: none   (with fuzzy dedup)
//! sketches   1 B × documents × rows of the signature             (with fuzzy dedup)
//! stays      1 B × documents   0: went, and links others         (in an index)
//! footer    JSON: counts, places of the sections, what was skipped; its length, magic
//! ```
//! Scratch, never synced: the footer holds a checksum of everything before it, and a run that
//! resumes reads each part again before it believes it.

use std::path::Path;

use bytemuck::{Pod, Zeroable, cast_slice};
use forebay_shard::{Documents, Skipped};
use forebay_store::NewFile;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::Result;

pub(crate) const MAGIC: [u8; 8] = *b"FBSPOOL2";

// Names of the sections.
pub(crate) const ROWS: &str = "rows";
pub(crate) const PLACES: &str = "places";
pub(crate) const LENGTHS: &str = "lengths";
pub(crate) const EXACT: &str = "exact";
pub(crate) const URLS: &str = "urls";
pub(crate) const SCORES: &str = "scores";
pub(crate) const BANDS: &str = "bands";
pub(crate) const SKETCHES: &str = "sketches";
pub(crate) const STAYS: &str = "stays";

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
    pub(crate) urls: Vec<u128>,
    pub(crate) scores: Vec<u64>,
    /// `[documents, bands]`
    pub(crate) bands: Vec<u64>,
    /// `[documents, rows]`
    pub(crate) sketches: Vec<u8>,
    pub(crate) matches: Vec<Match>,
    /// In an index: 1 for what stayed, 0 for what only links others.
    pub(crate) stays: Vec<u8>,
}

/// A document that shares an n-gram with an evaluation set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Match {
    pub(crate) ordinal: u32,
    /// What was found where.
    pub(crate) detail: String,
}

/// Footer of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footer {
    pub(crate) documents: u32,
    /// Bytes of all texts, stored or not.
    pub(crate) text_bytes: u64,
    /// The texts are in the data.
    pub(crate) has_text: bool,
    /// Where the cursor stands after this part.
    pub(crate) next: u64,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) replaced: u64,
    /// In order of their documents.
    pub(crate) matches: Vec<Match>,
    /// Which of the further fields are there, in one document at least.
    pub(crate) fields: Vec<bool>,
    pub(crate) sections: Vec<Section>,
    /// Where the last section ends.
    pub(crate) end: u64,
    /// Of all bytes before the footer.
    pub(crate) checksum: u64,
}

/// One column of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) name: String,
    /// Where it starts.
    pub(crate) at: u64,
    /// Bytes of a document.
    pub(crate) width: u64,
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
    keys: Keys,
    notes: Notes,
    with_text: bool,
    key: impl Fn(usize) -> u64,
) -> Result<()> {
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
        let text = if with_text { documents.texts.get(at) } else { "" };
        let strings = [documents.ids.get(at), documents.sources.get(at), text];
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

    let mut sections = Vec::new();
    let mut section = |out: &mut Out, name: &str, bytes: &[u8]| {
        if count > 0 && !bytes.is_empty() {
            let (name, at, width) = (name.to_owned(), out.written(), (bytes.len() / count) as u64);
            sections.push(Section { name, at, width });
        }
        out.put(bytes)
    };
    section(&mut out, ROWS, cast_slice(&rows))?;
    section(&mut out, PLACES, cast_slice(&places))?;
    section(&mut out, LENGTHS, cast_slice(&keys.lengths))?;
    section(&mut out, EXACT, cast_slice(&keys.exact))?;
    section(&mut out, URLS, cast_slice(&keys.urls))?;
    section(&mut out, SCORES, cast_slice(&keys.scores))?;
    let bands = keys.bands.len() / count.max(1);
    let mut columns: Vec<u64> = Vec::with_capacity(keys.bands.len());
    for band in 0..bands {
        columns.extend(keys.bands.iter().skip(band).step_by(bands));
    }
    section(&mut out, BANDS, cast_slice(&columns))?;
    section(&mut out, SKETCHES, &keys.sketches)?;
    section(&mut out, STAYS, &keys.stays)?;
    out.flush()?;

    let footer = Footer {
        documents: ordinal(count)?,
        text_bytes: documents.texts.bytes() as u64,
        has_text: with_text,
        next: notes.next,
        skipped: notes.skipped,
        replaced: notes.replaced,
        matches: keys.matches,
        fields: documents.extra.iter().map(|values| values.bytes() > 0).collect(),
        sections,
        end: out.written(),
        checksum: out.checksum.digest(),
    };
    let json = serde_json::to_vec(&footer).unwrap_or_default();
    let mut file = out.file;
    file.append(&json)?;
    file.append(&(json.len() as u64).to_le_bytes())?;
    file.append(&MAGIC)?;
    file.rename()?;
    Ok(())
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
