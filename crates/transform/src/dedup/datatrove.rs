//! MinHash as datatrove computes it, bit for bit, so that either program can do any stage.
//!
//! ```text
//! text ─▶ normalise ─▶ words ─▶ n-grams ─▶ xxh ─▶ (h·a + b) mod 2⁶¹-1 ─▶ minimum a row ─▶ records
//! ```
//!
//! * **Words**: [`normalise`](mod@normalise) lower-cases, drops marks, turns numbers into `0` and
//!   punctuation into spaces; [`words`] cuts what is left as spaCy's blank English tokenizer does.
//! * **Shingle**: xxh64 (or xxh32), seed 0, of `ngram` words joined by single spaces. A text of
//!   fewer words has no signature: nothing is ever its duplicate.
//! * **Row** `i`: the minimum over all shingles `h` of `(h·aᵢ + bᵢ mod 2⁶⁴) mod 2⁶¹-1`, with `a` and
//!   `b` drawn by numpy's `RandomState(seed)`; at 32 bits, of its low 32 bits.
//!
//! Start at [`Signer`] for signatures, [`record`] for the files. The clustering itself is
//! [`cluster`](super::cluster). Source: datatrove 0.10, `pipeline/dedup/minhash.py`.

pub mod normalise;
pub mod permutations;
pub mod record;
mod unicode;
pub mod words;

use serde::{Deserialize, Serialize};
use xxhash_rust::{xxh32::xxh32, xxh64::xxh64};

use permutations::Permutations;
use words::Words;

/// What datatrove calls `MinhashConfig`. Every stage must be given the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Words in a shingle; `n_grams`.
    pub ngram: usize,
    /// Bands; `num_buckets`.
    pub buckets: usize,
    /// Rows of a band; `hashes_per_bucket`.
    pub rows: usize,
    /// Width of the hashes; `hash_config.precision`.
    pub precision: Precision,
    /// Seed of the permutations.
    pub seed: u32,
}

/// Width of hashes, in files too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// xxh32, rows of 4 B.
    #[serde(rename = "32")]
    Bits32,
    /// xxh64, rows of 8 B.
    #[serde(rename = "64")]
    Bits64,
}

impl Default for Parameters {
    /// FineWeb's: 14 buckets of 8 rows over word 5-grams, 64 bits, seed 1.
    fn default() -> Self {
        Self { ngram: 5, buckets: 14, rows: 8, precision: Precision::Bits64, seed: 1 }
    }
}

impl Parameters {
    /// Rows of a whole signature.
    pub fn signature_rows(&self) -> usize {
        self.buckets * self.rows
    }
}

/// Shingles that wait for the permutations: few enough to stay in the first cache.
const BLOCK: usize = 1024;

/// Signs texts; keeps its buffers from text to text.
#[derive(Debug)]
pub struct Signer {
    parameters: Parameters,
    permutations: Permutations,
    words: Words,
    shingles: Vec<u64>,
    signature: Vec<u64>,
}

impl Signer {
    /// Draws the permutations.
    pub fn new(parameters: Parameters) -> Self {
        let permutations = Permutations::new(parameters.seed, parameters.signature_rows());
        let words = Words::default();
        Self { parameters, permutations, words, shingles: Vec::new(), signature: Vec::new() }
    }

    /// The signature of `text`, `[buckets, rows]`; `None` if it has fewer than `ngram` words.
    ///
    /// Cost: a pass over the text, then a multiplication and a minimum a shingle and row.
    pub fn sign(&mut self, text: &str) -> Option<&[u64]> {
        self.words.split(text);
        let mut grams = self.words.grams(self.parameters.ngram).peekable();
        grams.peek()?;
        self.signature.clear();
        self.signature.resize(self.permutations.len(), u64::MAX);
        while grams.peek().is_some() {
            self.shingles.clear();
            let hash: fn(&[u8]) -> u64 = match self.parameters.precision {
                Precision::Bits32 => |gram| u64::from(xxh32(gram, 0)),
                Precision::Bits64 => |gram| xxh64(gram, 0),
            };
            self.shingles.extend(grams.by_ref().take(BLOCK).map(hash));
            match self.parameters.precision {
                Precision::Bits32 => {
                    self.permutations.lower::<32>(&self.shingles, &mut self.signature);
                }
                Precision::Bits64 => {
                    self.permutations.lower::<64>(&self.shingles, &mut self.signature);
                }
            }
        }
        Some(&self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "The quick brown fox, jumps over 3,141 lazy dogs!";

    fn sign(text: &str, parameters: Parameters) -> Option<Vec<u64>> {
        Signer::new(parameters).sign(text).map(<[u64]>::to_vec)
    }

    /// Made by datatrove 0.10.1.
    #[test]
    fn equals_datatrove() {
        let signature = sign(TEXT, Parameters::default()).unwrap();
        #[rustfmt::skip]
        assert_eq!(signature[..8], [
            85330943174081874, 663359892825767826, 262084857133873309, 532655266271159839,
            418032764439045780, 244959063944226081, 122896190434400850, 410478803676212988,
        ]);
        assert_eq!((signature.len(), signature[111]), (112, 140016687107251586));
    }

    #[test]
    fn equals_datatrove_at_32_bits() {
        let parameters =
            Parameters { precision: Precision::Bits32, rows: 3, buckets: 2, ngram: 3, seed: 7 };
        let signature = sign(TEXT, parameters).unwrap();
        assert_eq!(signature, [762614246, 771812920, 365741297, 953462897, 112858006, 376910963]);
    }

    #[test]
    fn a_text_of_too_few_words_has_no_signature() {
        assert_eq!(sign("one two three four", Parameters::default()), None);
        assert_eq!(sign("", Parameters::default()), None);
        assert!(sign("I cannot say it", Parameters::default()).is_some(), "can not: five words");
    }

    #[test]
    fn long_texts_are_signed_in_blocks() {
        let words = |range: std::ops::Range<u32>| {
            range
                .map(|n| char::from_u32(0x4e00 + n).unwrap().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let whole = sign(&words(0..5000), Parameters::default()).unwrap();
        let first = sign(&words(0..2504), Parameters::default()).unwrap();
        let second = sign(&words(2500..5000), Parameters::default()).unwrap();
        let least: Vec<u64> = first.iter().zip(&second).map(|(a, b)| *a.min(b)).collect();
        assert_eq!(whole, least);
    }
}
