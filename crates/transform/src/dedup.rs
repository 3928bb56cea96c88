//! Dedup: equal and similar documents, one of each cluster stays.
//!
//! ```text
//! text ─▶ exact::hash ──────────────────────────▶ equal documents ─▶ links ┐
//!      └▶ shingles ─▶ signature ─▶ band keys ───▶ equal on a band ─▶ links ┴▶ clusters ─▶ survivor
//! ```

pub mod cluster;
pub mod datatrove;
pub mod exact;
pub mod lsh;
pub mod minhash;
pub mod shingle;

use serde::{Deserialize, Serialize};

/// Which documents count as similar.
///
/// Two documents of Jaccard similarity `s` share a band with probability
/// `1 - (1 - s^rows)^bands`: for 14 bands of 8 rows, 0.92 at `s = 0.8`, 0.05 at `s = 0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fuzzy {
    /// Words in a shingle.
    pub ngram: usize,
    /// Bands: more of them find more pairs.
    pub bands: usize,
    /// Rows of a band: more of them find fewer pairs.
    pub rows: usize,
}

impl Default for Fuzzy {
    /// The parameters of FineWeb: 14 bands of 8 rows over word 5-grams.
    fn default() -> Self {
        Self { ngram: 5, bands: 14, rows: 8 }
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
}
