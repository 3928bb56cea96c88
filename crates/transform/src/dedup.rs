//! Dedup: equal and similar documents, one of each cluster stays.
//!
//! ```text
//! text ─▶ exact hash ───────────────────────────▶ equal ────────────────────────────┐
//!      └▶ shingles ─▶ signature ─▶ band keys ───▶ buckets ─▶ cover: compare, cluster ┴▶ survivor
//! ```

pub mod cluster;
pub mod cover;
pub mod datatrove;
pub mod exact;
pub mod jaccard;
pub mod lsh;
pub mod minhash;
pub mod shingle;
pub mod units;
pub mod windows;

use serde::{Deserialize, Serialize};

use jaccard::Threshold;
use shingle::Unit;

/// Which documents count as similar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fuzzy {
    /// What a shingle is made of.
    pub unit: Unit,
    /// Words, or characters, in a shingle.
    pub ngram: usize,
    /// Bands: more of them find more pairs.
    pub bands: usize,
    /// Rows of a band: more of them find fewer pairs.
    pub rows: usize,
    /// A document goes only if its Jaccard similarity to one that stays is at least this.
    pub threshold: Threshold,
    /// Check that against the texts; otherwise agreement on one band is enough.
    pub verify: bool,
}

impl Default for Fuzzy {
    /// 14 bands of 8 rows over word 5-grams, verified at 0.8.
    fn default() -> Self {
        let threshold = Threshold::default();
        Self { unit: Unit::Word, ngram: 5, bands: 14, rows: 8, threshold, verify: true }
    }
}

/// Which document of a cluster stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The one with most bytes of text; among equals the first.
    Longest,
    /// The first of the input.
    First,
    /// The one with the highest score; among equals the first.
    Score,
    /// The one from the input named first; of those the longest.
    Source,
    /// All of them: clusters are found, nothing goes.
    None,
}
