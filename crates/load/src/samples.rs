//! What a sample is: which tokens of which documents stand in its row.

use std::path::Path;

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
}

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
        Ok(Self { sampling, seq_len, token_bytes, plan, count })
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
                let mut document = index.document_at(token) as u64;
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
