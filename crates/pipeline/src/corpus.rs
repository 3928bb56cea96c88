//! All parts of a run: those of indexes that it goes against, then its own.

use forebay_transform::dedup::minhash;

use crate::part::Part;
use crate::spool::Row;
use crate::{Error, Result};

/// Documents are numbered through all parts, in input order; those of indexes come first.
pub(crate) struct Corpus {
    parts: Vec<Part>,
    /// Number of the first document of each part; one more for the end.
    firsts: Vec<u32>,
    /// Parts that belong to indexes.
    old_parts: usize,
}

impl Corpus {
    /// # Errors
    /// If there are more documents than fit into 32 bits.
    pub(crate) fn new(old: Vec<Part>, own: Vec<Part>) -> Result<Self> {
        let old_parts = old.len();
        let parts: Vec<Part> = old.into_iter().chain(own).collect();
        let mut firsts = vec![0_u32];
        for part in &parts {
            let last = firsts[firsts.len() - 1];
            firsts.push(last.checked_add(part.footer.documents).ok_or(Error::TooManyDocuments)?);
        }
        Ok(Self { parts, firsts, old_parts })
    }

    /// All of them, also of indexes.
    pub(crate) fn documents(&self) -> u32 {
        self.firsts[self.parts.len()]
    }

    /// Documents below this number belong to indexes.
    pub(crate) fn old(&self) -> u32 {
        self.firsts[self.old_parts]
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The run's own parts, each with the number of its first document.
    pub(crate) fn own(&self) -> impl Iterator<Item = (&Part, u32)> {
        self.parts.iter().zip(self.firsts.iter().copied()).skip(self.old_parts)
    }

    /// Number of the first document of a part.
    pub(crate) fn first(&self, part: usize) -> u32 {
        self.firsts[part]
    }

    /// The part of a document, and its place there in input order.
    pub(crate) fn place(&self, document: u32) -> (&Part, u32) {
        // The last part that starts at or before it: parts without documents share their start.
        let number = self.firsts[..self.parts.len()].partition_point(|&f| f <= document) - 1;
        (&self.parts[number], document - self.firsts[number])
    }

    /// Row of a document.
    pub(crate) fn row(&self, document: u32) -> Result<(&Part, Row)> {
        let (part, ordinal) = self.place(document);
        Ok((part, part.row_of(ordinal)?))
    }

    /// Id and source of a document.
    pub(crate) fn names(&self, document: u32) -> Result<(String, String)> {
        let (part, row) = self.row(document)?;
        part.names(&row)
    }

    /// Text of a document; empty if texts are not stored.
    pub(crate) fn text(&self, document: u32) -> Result<String> {
        let (part, row) = self.row(document)?;
        let offset = row.offset + u64::from(row.id_bytes) + u64::from(row.source_bytes);
        let [_, _, text] = part.strings(&Row { offset, id_bytes: 0, source_bytes: 0, ..row })?;
        Ok(text)
    }

    /// The similarity of two documents as their signatures tell it; `None` without signatures.
    pub(crate) fn estimate(&self, a: u32, b: u32) -> Result<Option<f32>> {
        let sketch = |document| {
            let (part, ordinal) = self.place(document);
            part.sketch(ordinal)
        };
        let sketches = (sketch(a)?, sketch(b)?);
        let (Some(a), Some(b)) = sketches else { return Ok(None) };
        Ok(Some(minhash::estimate(&a, &b)))
    }
}
