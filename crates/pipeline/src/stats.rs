//! What was written, counted: documents, bytes and tokens of each source.
//!
//! The write stage counts each batch and keeps the sums of a shard in its `.done` record, so a run
//! that is resumed says the same as one that was never interrupted.

use std::collections::BTreeMap;

use forebay_transform::tokenize::Pieces;
use serde::{Deserialize, Serialize};

/// Documents, bytes and tokens that were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// By what stands in the column `source`. Takes about 100 B a source.
    pub sources: BTreeMap<String, SourceStats>,
    /// Documents by their tokens.
    pub lengths: Lengths,
}

/// Of one source, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStats {
    /// Rows.
    pub documents: u64,
    /// Bytes of UTF-8 text behind them.
    pub bytes: u64,
    /// Their tokens, EOS included.
    pub tokens: u64,
    /// Tokens that are one byte of a character, see [`Pieces`].
    pub byte_fallback_tokens: u64,
    /// Tokens that stand for what the vocabulary lacks, see [`Pieces`].
    pub unknown_tokens: u64,
}

/// Documents by their tokens, in powers of two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths(Vec<u64>);

impl Stats {
    /// Counts a document.
    pub(crate) fn push(&mut self, source: &str, text: &str, tokens: &[u32], pieces: &Pieces) {
        let (byte_fallback_tokens, unknown_tokens) = pieces.count(tokens);
        let document = SourceStats {
            documents: 1,
            bytes: text.len() as u64,
            tokens: tokens.len() as u64,
            byte_fallback_tokens,
            unknown_tokens,
        };
        // A source has many documents: its name is copied once.
        if let Some(known) = self.sources.get_mut(source) {
            known.add(&document);
        } else {
            self.sources.insert(source.to_owned(), document);
        }
        self.lengths.push(u32::try_from(tokens.len()).unwrap_or(u32::MAX));
    }

    /// Adds what another part of the dataset holds.
    pub(crate) fn add(&mut self, other: &Self) {
        for (source, stats) in &other.sources {
            match self.sources.get_mut(source) {
                Some(known) => known.add(stats),
                None => {
                    self.sources.insert(source.clone(), *stats);
                }
            }
        }
        for (power, &documents) in other.lengths.0.iter().enumerate() {
            self.lengths.add(power, documents);
        }
    }

    /// All sources together.
    pub fn total(&self) -> SourceStats {
        let mut total = SourceStats::default();
        self.sources.values().for_each(|source| total.add(source));
        total
    }
}

impl SourceStats {
    fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.tokens += other.tokens;
        self.byte_fallback_tokens += other.byte_fallback_tokens;
        self.unknown_tokens += other.unknown_tokens;
    }

    /// Text that a token stands for, in bytes, on average.
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.tokens.max(1) as f64
    }
}

impl Lengths {
    /// Counts a document of so many tokens.
    pub fn push(&mut self, tokens: u32) {
        self.add((32 - tokens.leading_zeros()) as usize, 1);
    }

    fn add(&mut self, power: usize, documents: u64) {
        if self.0.len() <= power {
            self.0.resize(power + 1, 0);
        }
        self.0[power] += documents;
    }

    /// `(from, to, documents)`, from the shortest to the longest documents there are.
    pub fn buckets(&self) -> Vec<(u64, u64, u64)> {
        let first = self.0.iter().position(|&documents| documents > 0).unwrap_or(0);
        let bounds =
            |power: usize| if power == 0 { (0, 0) } else { (1 << (power - 1), (1 << power) - 1) };
        let buckets = self.0.iter().enumerate().skip(first);
        buckets.map(|(power, &n)| (bounds(power).0, bounds(power).1, n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_transform::tokenize::{DEFAULT, Vocabulary};

    #[test]
    fn sums_do_not_depend_on_how_documents_were_grouped() {
        let pieces = Pieces::of(&Vocabulary::open(DEFAULT).unwrap()).unwrap();
        // Of gpt2: 15496 is `Hello`, 50256 ends a text, 12520 is ` 0xf0 0x9f`, 99 is `0xc3`.
        let documents: [(&str, &str, &[u32]); 4] = [
            ("b", "Hello", &[15496, 50256]),
            ("a", "", &[50256]),
            ("b", "é", &[127, 102, 50256]),
            ("c", "x", &[]),
        ];
        let mut all = Stats::default();
        for (source, text, tokens) in documents {
            all.push(source, text, tokens, &pieces);
        }
        let mut parts = Stats::default();
        for (source, text, tokens) in documents.into_iter().rev() {
            let mut one = Stats::default();
            one.push(source, text, tokens, &pieces);
            parts.add(&one);
        }
        assert_eq!(parts, all);
        let total = all.total();
        assert_eq!((total.documents, total.bytes, total.tokens), (4, 8, 6));
        assert_eq!(all.sources["b"].documents, 2);
        assert!((all.sources["b"].bytes_per_token() - 7.0 / 5.0).abs() < 1e-9);
        assert_eq!(all.lengths.buckets(), [(0, 0, 1), (1, 1, 1), (2, 3, 2)]);
        let json = serde_json::to_vec(&all).unwrap();
        assert_eq!(serde_json::from_slice::<Stats>(&json).unwrap(), all);
    }
}
