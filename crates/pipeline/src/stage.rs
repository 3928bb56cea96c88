//! What the steps of dedup share: the corpus, the order of keeping, entries of buckets.

use bytemuck::{Pod, Zeroable};
use forebay_transform::dedup::Keep;

use crate::corpus::Corpus;
use crate::progress::Progress;
use crate::sort::Record;
use crate::spool;
use crate::work::Work;
use crate::{Error, Result};

/// What all steps need.
pub(crate) struct Stage<'a> {
    pub(crate) work: &'a Work,
    pub(crate) corpus: &'a Corpus,
    pub(crate) ranks: Ranks,
    pub(crate) threads: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) progress: &'a Progress,
}

impl Stage<'_> {
    pub(crate) fn check(&self) -> Result<()> {
        if self.progress.stopped() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// The order in which documents are kept: greater first, then by number.
pub(crate) struct Ranks {
    keep: Keep,
    /// Below this, documents are those of indexes: they come first.
    old: u32,
    /// Of those: what went, and only links others.
    bridges: Vec<bool>,
    /// Bytes of text of each document.
    pub(crate) lengths: Vec<u32>,
    scores: Vec<u64>,
}

impl Ranks {
    pub(crate) fn new(corpus: &Corpus, keep: Keep) -> Result<Self> {
        let (mut lengths, mut scores, mut bridges) = (Vec::new(), Vec::new(), Vec::new());
        for (number, part) in corpus.parts().iter().enumerate() {
            lengths.extend(part.lengths()?);
            if corpus.first(number) < corpus.old() && part.footer.documents > 0 {
                bridges.extend(part.column::<u8>(spool::STAYS)?.iter().map(|&stays| stays == 0));
            }
            match keep {
                // What belongs to an index has no score and needs none.
                Keep::Score | Keep::Source if corpus.first(number) < corpus.old() => {
                    scores.resize(lengths.len(), 0);
                }
                Keep::Score | Keep::Source => scores.extend(part.column::<u64>(spool::SCORES)?),
                Keep::Longest | Keep::First | Keep::None => {}
            }
        }
        Ok(Self { keep, old: corpus.old(), bridges, lengths, scores })
    }

    /// Did it go in an earlier run, and only links others?
    pub(crate) fn is_bridge(&self, document: u32) -> bool {
        document < self.old && self.bridges[document as usize]
    }

    pub(crate) fn weight(&self, document: u32) -> u64 {
        if document < self.old {
            return u64::MAX - u64::from(self.bridges[document as usize]);
        }
        match self.keep {
            Keep::Longest => u64::from(self.lengths[document as usize]),
            Keep::First | Keep::None => 0,
            Keep::Score | Keep::Source => self.scores[document as usize].min(u64::MAX - 4),
        }
    }
}

/// A document in a bucket of one band.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Entry {
    // Two halves, so that a record takes 12 bytes and not 16.
    high: u32,
    low: u32,
    pub(crate) document: u32,
}

impl Entry {
    pub(crate) fn new(key: u64, document: u32) -> Self {
        Self { high: (key >> 32) as u32, low: key as u32, document }
    }
}

impl Record for Entry {
    fn key(&self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}
