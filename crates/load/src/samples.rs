//! What a sample is: which tokens of which documents stand in its row.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_shard::Index;
use serde::{Deserialize, Serialize};

use crate::packing::Plan;
use crate::{Error, Result};

/// How documents become samples of `seq_len` tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// All documents end to end, cut every `seq_len` tokens. The rest, less than one, is left.
    #[default]
    Concat,
    /// A document a sample; what is longer than `seq_len` loses its end.
    Documents,
    /// Documents packed into sequences; only what is longer than `seq_len` is cut, nothing lost.
    BestFit,
}

impl Sampling {
    /// As it is written on the command line and in a state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Concat => "concat",
            Self::Documents => "documents",
            Self::BestFit => "best-fit",
        }
    }
}

/// A run of tokens of one document, in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Number of the document in the dataset.
    pub document: u64,
    /// Its first token here, counted in the document.
    pub skip: u32,
    /// How many tokens.
    pub tokens: u32,
    /// Does the document go on after them?
    pub goes_on: bool,
    /// Number of the shard.
    pub shard: u32,
    /// First byte in the shard.
    pub offset: u64,
}

/// The samples of a dataset.
#[derive(Debug)]
pub(crate) struct Samples {
    sampling: Sampling,
    seq_len: u64,
    token_bytes: u64,
    plan: Option<Plan>,
    count: u64,
    /// For `concat`: the document of every so many tokens, looked up when first needed. A search
    /// in the whole index misses the cache a dozen times, which takes as long as the copy.
    places: Vec<AtomicU64>,
}

/// Of [`Samples::places`]: 64 KiB.
const PLACES: u64 = 1 << 13;

impl Samples {
    /// Counts them.
    ///
    /// * `plan` — where the plan of best-fit is kept; in memory without.
    ///
    /// # Errors
    /// If there is no plan to be had.
    pub(crate) fn new(
        index: &Index,
        sampling: Sampling,
        seq_len: usize,
        token_bytes: usize,
        plan: Option<&Path>,
    ) -> Result<Self> {
        let plan = match (sampling, plan) {
            (Sampling::BestFit, Some(path)) => {
                Some(Plan::open_or_make(path, index.entries(), seq_len)?)
            }
            (Sampling::BestFit, None) => Some(Plan::make(index.entries(), seq_len)?),
            (Sampling::Concat | Sampling::Documents, _) => None,
        };
        let (seq_len, token_bytes) = (seq_len as u64, token_bytes as u64);
        let count = match &plan {
            Some(plan) => plan.sequences(),
            None if sampling == Sampling::Concat => index.tokens() / seq_len,
            None => index.entries().len() as u64,
        };
        let places = if sampling == Sampling::Concat { PLACES + 1 } else { 0 };
        let places = (0..places).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { sampling, seq_len, token_bytes, plan, count, places })
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// First sample of each shard, by where its first token lies, and the number of samples.
    pub(crate) fn firsts(&self, index: &Index) -> Vec<u64> {
        let entries = index.entries();
        let mut firsts: Vec<u64> = (0..index.shards())
            .map(|shard| {
                let document = entries.partition_point(|entry| u64::from(entry.shard) < shard);
                let token = entries.get(document).map_or(index.tokens(), |e| e.token_start);
                match &self.plan {
                    None if self.sampling == Sampling::Documents => document as u64,
                    None => token.div_ceil(self.seq_len),
                    Some(plan) => {
                        let (mut low, mut high) = (0, plan.sequences());
                        while low < high {
                            let middle = low + (high - low) / 2;
                            let first = plan.sequence(middle).next().map_or(0, |chunk| chunk.0);
                            if first < document as u64 {
                                low = middle + 1;
                            } else {
                                high = middle;
                            }
                        }
                        low
                    }
                }
                .min(self.count)
            })
            .collect();
        firsts.push(self.count);
        firsts
    }

    /// The segments of a sample, in the order of its row.
    ///
    /// With `ahead`, one token more than the row holds where the stream of `concat` has one: the
    /// label of the last.
    ///
    /// # Errors
    /// If the plan names a document that does not exist.
    pub(crate) fn segments(
        &self,
        index: &Index,
        sample: u64,
        ahead: bool,
        segments: &mut Vec<Segment>,
    ) -> Result<()> {
        segments.clear();
        let seq_len = self.seq_len;
        match &self.plan {
            Some(plan) => {
                for (document, number) in plan.sequence(sample) {
                    let skip = u64::from(number) * seq_len;
                    segments.push(self.segment(index, document, skip, seq_len)?);
                }
            }
            None if self.sampling == Sampling::Documents => {
                let segment = self.segment(index, sample, 0, seq_len)?;
                segments.extend((segment.tokens > 0).then_some(segment));
            }
            None => {
                let mut token = sample * seq_len;
                let mut missing = (seq_len + u64::from(ahead)).min(index.tokens() - token);
                let mut document = self.document_at(index, token);
                while missing > 0 {
                    // Of an index that does not rise this is no place in the document: an error.
                    let start = index.entries().get(document as usize).map(|e| e.token_start);
                    let skip = token.wrapping_sub(start.unwrap_or(token));
                    let segment = self.segment(index, document, skip, missing)?;
                    if segment.tokens > 0 {
                        segments.push(segment);
                    }
                    token += u64::from(segment.tokens);
                    missing -= u64::from(segment.tokens);
                    document += 1;
                }
            }
        }
        Ok(())
    }

    /// Fetches what [`Samples::segments`] will look up of a sample. Misses of the cache wait for
    /// each other in a search, but not those of many samples asked for one after the other.
    pub(crate) fn touch(&self, index: &Index, sample: u64) -> u64 {
        if self.places.is_empty() {
            return 0;
        }
        let token = sample * self.seq_len;
        let (first, end) = self.around(index, token);
        let entries = index.entries().get(first as usize..=end as usize).unwrap_or_default();
        // Beyond some lines of the cache the search touches few of them: documents are short.
        entries.iter().step_by(2).take(16).fold(0, |sum, entry| sum ^ entry.token_start)
    }

    /// As [`Index::document_at`], from a part of the index that the places around `token` bound.
    fn document_at(&self, index: &Index, token: u64) -> u64 {
        let (first, end) = self.around(index, token);
        let entries = index.entries().get(first as usize..=end as usize).unwrap_or_default();
        let inside = entries.partition_point(|entry| entry.token_start <= token);
        first + (inside as u64).saturating_sub(1)
    }

    /// The documents among which that of `token` is, the last included.
    fn around(&self, index: &Index, token: u64) -> (u64, u64) {
        let stride = index.tokens().div_ceil(PLACES).max(1);
        let bound = |place: u64| {
            let Some(slot) = self.places.get(place as usize) else { return 0 };
            // 0 stands for what was not looked up yet.
            match slot.load(Ordering::Relaxed) {
                0 => {
                    let last = index.tokens().saturating_sub(1);
                    let found = index.document_at((place * stride).min(last)) as u64;
                    slot.store(found + 1, Ordering::Relaxed);
                    found
                }
                found => found - 1,
            }
        };
        (bound(token / stride), bound(token / stride + 1))
    }

    /// At most `limit` tokens of a document, from token `skip` on.
    fn segment(&self, index: &Index, document: u64, skip: u64, limit: u64) -> Result<Segment> {
        let entry = index.entries().get(document as usize);
        let entry = entry.filter(|entry| skip <= u64::from(entry.tokens)).ok_or_else(|| {
            let expected = format!("documents below {}", index.entries().len());
            Error::config("plan", expected, format!("token {skip} of document {document}"))
        })?;
        let left = u64::from(entry.tokens) - skip;
        Ok(Segment {
            document,
            skip: skip as u32,
            tokens: left.min(limit) as u32,
            goes_on: left > limit,
            shard: entry.shard,
            offset: entry.offset + self.token_bytes * skip,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_a_token_is_found_as_in_the_whole_index() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let lengths = (0..30_000_u64).map(|n| crate::order::mix(n) % 7 * (n % 3));
        let documents: Vec<(u64, u32)> = lengths.map(|n| (0, n as u32)).collect();
        let shard = forebay_shard::index::ShardIndex { documents, blocks: Vec::new() };
        forebay_shard::index::write(&path, 1, |_| Ok(shard.clone())).unwrap();
        let index = Index::open(&path).unwrap();
        let samples = Samples::new(&index, Sampling::Concat, 3, 4, None).unwrap();
        for token in (0..index.tokens()).rev().chain(0..index.tokens()) {
            assert_eq!(samples.document_at(&index, token), index.document_at(token) as u64);
        }
    }
}
