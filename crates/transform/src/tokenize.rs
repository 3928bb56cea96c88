//! Tokenize: text to the ids of a Hugging Face `tokenizer.json`, exactly.
//!
//! [`Tokenizer::load`] takes a file or the name of a built-in vocabulary and picks the engine:
//! `fastokens` where it supports the model (its ids equal the reference's), else the reference
//! itself, and says so. The split into pre-tokens uses Unicode 16 tables in both, which is
//! checked when a tokenizer is loaded; where they are others, the reference encodes.
//!
//! [`Verifier`] encodes a sample again with the reference, while a run goes on.
//!
//! Truncation and padding that a `tokenizer.json` may ask for are for inference and are not
//! applied: a document is encoded whole. No file is fetched from anywhere.
//!
//! `fastokens` spreads one long text over all cores unless the environment variable
//! `FASTOKENS_BPE_THREADS` is 1 when it first encodes; the command line sets it, so that
//! `--threads` holds. Libraries that embed this decide for themselves.

use std::path::{Path, PathBuf};

use forebay_shard::manifest::{Eos, TokenizerEntry};
use serde::{Deserialize, Serialize};

mod alphabet;
mod engine;
mod long;
mod pieces;
mod sentencepiece;
mod tiktoken;
pub mod train;
mod unicode;
mod verify;
mod vocabulary;

use engine::{Engine, Fast, REFERENCE, Reference};
pub use pieces::Pieces;
pub use unicode::UNICODE;
pub use verify::Verifier;
pub use vocabulary::{DEFAULT, Vocabulary};

/// Shorthand for this module's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message names the fields")]
pub enum Error {
    #[error(transparent)]
    Store(#[from] forebay_store::Error),
    #[error("{path}: expected a tokenizer.json, .tiktoken or SentencePiece model, found {found}")]
    NotATokenizer { path: PathBuf, found: String },
    #[error("{path}: {component} is not supported")]
    Unsupported { path: PathBuf, component: String },
    #[error("{path}: no end-of-text token found")]
    NoEos { path: PathBuf },
    #[error("{path}: the vocabulary has no token {token:?}")]
    NoToken { path: PathBuf, token: String },
    #[error("{name}: no such file and no built-in vocabulary")]
    Unknown { name: String },
    #[error("cannot encode: {0}")]
    Encode(String),
    #[error("cannot decode: {0}")]
    Decode(String),
    #[error("cannot verify tokens: {0}")]
    Reference(String),
    #[error(
        "token {at}, after {before:?}: expected {expected} as the reference encodes, found {found}"
    )]
    Differs { at: usize, before: String, expected: String, found: String },
}

impl Error {
    /// The next thing to try, as one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::NoEos { .. } => {
                Some("name it with `--eos TOKEN`, or do without: `--no-eos`".into())
            }
            Self::NoToken { .. } => Some("`--eos` takes a token as it is written".into()),
            Self::Unknown { .. } => {
                Some(format!("built in: {DEFAULT}; otherwise give the path of a tokenizer.json"))
            }
            Self::NotATokenizer { .. } => {
                Some("they are files of a model, named tokenizer.json or tokenizer.model".into())
            }
            Self::Differs { .. } => {
                Some("do not use the tokens; please report the text with the tokenizer".into())
            }
            _ => None,
        }
    }
}

/// What becomes of special tokens that are written out in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecialTokens {
    /// They become their ids, as the reference does by default.
    Parse,
    /// They are text like any other.
    Text,
}

/// What ends a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EosPolicy {
    /// The model's own: `eos_token` of `tokenizer_config.json` beside the file, or a well-known name.
    Auto,
    /// This one.
    Token(String),
    /// Nothing.
    None,
}

/// Everything that ids depend on besides the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// What ends a document.
    pub eos: EosPolicy,
    /// Special tokens in a text.
    pub special_tokens: SpecialTokens,
}

/// A loaded tokenizer; shared by all threads.
pub struct Tokenizer {
    engine: Box<dyn Engine>,
    entry: TokenizerEntry,
    note: Option<String>,
}

impl Tokenizer {
    /// Builds the tokenizer of `vocabulary`. Takes a second or so for a large one.
    ///
    /// # Errors
    /// If the file is no `tokenizer.json`, uses a component that would make ids random or that
    /// neither engine knows, or has no end-of-text token where one is wanted.
    pub fn load(vocabulary: &Vocabulary, options: &Options) -> Result<Self> {
        let path = &vocabulary.path;
        let json = vocabulary.json()?;
        let special = options.special_tokens;
        let fast = Fast::load(json.clone(), special);
        let (engine, note): (Box<dyn Engine>, _) = match fast {
            Ok(fast) => (Box::new(fast), None),
            Err(why) => {
                let reference = Reference::load(&json, special)
                    .map_err(|found| Error::NotATokenizer { path: path.clone(), found })?;
                let name = path.display();
                let note =
                    format!("{name}: using the reference encoder, 20 to 80 times slower ({why})");
                (Box::new(reference), Some(note))
            }
        };
        let eos = match &options.eos {
            EosPolicy::None => None,
            EosPolicy::Token(token) => Some(token.clone()),
            EosPolicy::Auto => Some(
                vocabulary.eos_token(&json).ok_or_else(|| Error::NoEos { path: path.clone() })?,
            ),
        };
        let eos = match eos {
            None => None,
            Some(token) => match engine.token_to_id(&token) {
                Some(id) => Some(Eos { token, id }),
                None => return Err(Error::NoToken { path: path.clone(), token }),
            },
        };
        let entry = TokenizerEntry {
            name: vocabulary.name.clone(),
            blake3: vocabulary.blake3.clone(),
            vocab_size: engine.vocab_size().max(end_of_ids(&json)),
            eos,
            special_tokens: match options.special_tokens {
                SpecialTokens::Parse => "parse".into(),
                SpecialTokens::Text => "text".into(),
            },
            engine: engine.name().into(),
            reference: REFERENCE.into(),
            unicode: UNICODE.into(),
        };
        Ok(Self { engine, entry, note })
    }

    /// The tokenizer that made a dataset, from its manifest, to decode its tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn of_dataset(directory: &Path, entry: &TokenizerEntry) -> Result<Self> {
        let vocabulary = Vocabulary::of_dataset(directory, entry)?;
        let special_tokens = match entry.special_tokens.as_str() {
            "text" => SpecialTokens::Text,
            _ => SpecialTokens::Parse,
        };
        let eos = entry.eos.as_ref().map_or(EosPolicy::None, |e| EosPolicy::Token(e.token.clone()));
        Self::load(&vocabulary, &Options { eos, special_tokens })
    }

    /// What the manifest says of it.
    pub fn entry(&self) -> &TokenizerEntry {
        &self.entry
    }

    /// Something the user should know, once.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Appends the ids of a document to `tokens`, then EOS if so configured.
    ///
    /// # Errors
    /// [`Error::Encode`] if the engine gives up; `tokens` may then hold a part.
    pub fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<()> {
        self.engine.encode(text, tokens)?;
        tokens.extend(self.entry.eos.as_ref().map(|eos| eos.id));
        Ok(())
    }

    /// The text of `tokens`, special ones written out; U+FFFD where a character is cut.
    ///
    /// # Errors
    /// [`Error::Decode`] for ids outside the vocabulary.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        if let Some(id) = tokens.iter().find(|&&id| u64::from(id) >= self.entry.vocab_size) {
            let size = self.entry.vocab_size;
            return Err(Error::Decode(format!("expected ids below {size}, found {id}")));
        }
        self.engine.decode(tokens)
    }
}

/// One more than the highest id: ids may leave gaps.
fn end_of_ids(json: &serde_json::Value) -> u64 {
    let ids = json["model"]["vocab"].as_object().into_iter().flat_map(|vocab| vocab.values());
    let added = json["added_tokens"].as_array().into_iter().flatten().map(|token| &token["id"]);
    ids.chain(added).filter_map(serde_json::Value::as_u64).max().map_or(0, |id| id + 1)
}

#[cfg(test)]
mod tests;
