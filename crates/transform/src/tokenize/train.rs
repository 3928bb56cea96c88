//! Training: texts → words and their counts → merges → a `tokenizer.json`.
//!
//! ```text
//! text ─▶ Splitter::each ─▶ words, counted ─▶ learn ─▶ Trained ─▶ Trained::to_json
//! ```
//!
//! The model is byte-level BPE, without normalizer and unknown token, so every text has tokens and
//! decodes to itself. Ids: special tokens, the 256 bytes in the order of their characters, then a
//! token a merge, in the order in which they were learnt.
//!
//! Merges equal those of the trainer of `tokenizers` 0.23 on the same texts, which is the oracle of
//! the tests. That one walks through hash tables seeded at random and counts in 32 bits, so wrongly
//! from two thousand million on; here the rule for ties is written down ([`learn`]), counts have 64
//! bits, and equal words give equal bytes at every run.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

mod merges;
mod split;

pub use merges::learn;
pub use split::{PRESETS, Splitter};

use super::alphabet::alphabet;

/// Shorthand for this module's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why no vocabulary can be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message names the fields")]
pub enum Error {
    #[error(
        "--split {name}: expected a known split, a file or a regular expression, found neither"
    )]
    UnknownSplit { name: String },
    #[error("--split {name}: {found}")]
    Split { name: String, found: String },
    #[error(
        "--vocab-size: expected at least {least} (256 bytes, {special} special), found {found}"
    )]
    TooSmall { least: usize, special: usize, found: usize },
    #[error("--special-tokens-list: expected {expected}, found {found:?}")]
    SpecialToken { expected: &'static str, found: String },
}

impl Error {
    /// The next thing to try, as one sentence.
    pub fn hint(&self) -> Option<String> {
        let known = || format!("known splits: {}", PRESETS.join(", "));
        match self {
            Self::UnknownSplit { .. } => Some(known()),
            Self::Split { .. } => Some(format!(
                "{}; or the tokenizer.json of a byte-level model; or a regular expression",
                known()
            )),
            Self::TooSmall { .. } => Some("models have 32000 to 256000 tokens".into()),
            Self::SpecialToken { .. } => Some("give each token once, as it is written".into()),
        }
    }
}

/// What is to be learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Tokens in all, special ones and the 256 bytes included.
    pub vocab_size: usize,
    /// A pair seen less often is not merged.
    pub min_frequency: u64,
    /// They come first and are never split.
    pub special_tokens: Vec<String>,
}

impl Target {
    /// Can it be reached at all?
    ///
    /// # Errors
    /// [`Error::TooSmall`] if not even the bytes fit, [`Error::SpecialToken`] for one that is
    /// empty, comes twice or is written like a byte.
    pub fn check(&self) -> Result<()> {
        let alphabet = alphabet();
        for (at, token) in self.special_tokens.iter().enumerate() {
            let wrong = |expected| Err(Error::SpecialToken { expected, found: token.clone() });
            let mut characters = token.chars();
            match (characters.next(), characters.next()) {
                (None, _) => return wrong("a token of one character or more"),
                (Some(one), None) if alphabet.contains(&one) => {
                    return wrong("tokens that stand for no byte");
                }
                _ if self.special_tokens[..at].contains(token) => {
                    return wrong("every token once");
                }
                _ => {}
            }
        }
        let (special, found) = (self.special_tokens.len(), self.vocab_size);
        let least = 256 + special;
        if found < least { Err(Error::TooSmall { least, special, found }) } else { Ok(()) }
    }
}

/// A trained vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trained {
    /// By id: as they are written, bytes as characters of the alphabet.
    pub tokens: Vec<String>,
    /// `[merges, 2]` ids, in the order of their rank.
    pub merges: Vec<(u32, u32)>,
}

impl Trained {
    /// The bytes of a `tokenizer.json`, version 1.0, as `tokenizers` and all its relatives read it.
    ///
    /// No normalizer, the pre-tokenizer of `splitter`, byte-level decoder, no post-processor:
    /// what ends a document is the user's choice when tokenizing.
    pub fn to_json(&self, splitter: &Splitter, target: &Target) -> Vec<u8> {
        let added_tokens = target.special_tokens.iter().map(|content| {
            json!({
                "id": self.tokens.iter().position(|token| token == content),
                "content": content,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": true,
            })
        });
        let token = |id: u32| self.tokens[id as usize].as_str();
        let file = File {
            version: "1.0",
            truncation: None,
            padding: None,
            added_tokens: added_tokens.collect(),
            normalizer: None,
            pre_tokenizer: splitter.json(),
            post_processor: None,
            decoder: json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": true,
                "use_regex": false,
            }),
            model: Model {
                kind: "BPE",
                dropout: None,
                unk_token: None,
                continuing_subword_prefix: None,
                end_of_word_suffix: None,
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: false,
                vocab: Vocab(&self.tokens),
                merges: self.merges.iter().map(|&(a, b)| [token(a), token(b)]).collect(),
            },
        };
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

#[derive(Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Value>,
    normalizer: Option<()>,
    pre_tokenizer: &'a Value,
    post_processor: Option<()>,
    decoder: Value,
    model: Model<'a>,
}

#[derive(Serialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'a str>,
    end_of_word_suffix: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocab<'a>,
    merges: Vec<[&'a str; 2]>,
}

/// Token to id, in the order of ids.
struct Vocab<'a>(&'a [String]);

impl Serialize for Vocab<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().zip(0_u32..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(vocab_size: usize, special: &[&str]) -> Target {
        let special_tokens = special.iter().map(|token| (*token).to_owned()).collect();
        Target { vocab_size, min_frequency: 2, special_tokens }
    }

    #[test]
    fn a_target_that_cannot_be_reached_is_refused() {
        assert!(target(256, &[]).check().is_ok());
        assert!(target(257, &["<eos>"]).check().is_ok());
        assert!(matches!(target(256, &["<eos>"]).check(), Err(Error::TooSmall { least: 257, .. })));
        for wrong in [["", "b!"], ["x!", "x!"], ["Ġ", "b!"]] {
            let checked = target(1_000, &wrong).check();
            assert!(matches!(checked, Err(Error::SpecialToken { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn the_reference_reads_what_is_written() {
        let words = [("hello".into(), 9), (" world".into(), 7), (" hello\n".into(), 3)];
        let target = target(270, &["<|endoftext|>", "<pad>"]);
        let trained = learn(&words, &target, |_| true).unwrap();
        let json = trained.to_json(&Splitter::open("gpt2").unwrap(), &target);
        let reference = tokenizers::Tokenizer::from_bytes(&json).unwrap();
        assert_eq!(reference.get_vocab_size(true), trained.tokens.len());
        let encoding = reference.encode("hello world<pad>", false).unwrap();
        assert_eq!(encoding.get_tokens().last().unwrap(), "<pad>");
        assert_eq!(reference.decode(encoding.get_ids(), false).unwrap(), "hello world<pad>");
    }
}
