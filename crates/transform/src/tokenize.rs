//! Tokenize: text to the ids of a Hugging Face `tokenizer.json`, exactly.
//!
//! [`Tokenizer::load`] takes a file or the name of a built-in vocabulary and picks the engine:
//! `fastokens` where it supports the model (its ids equal the reference's), else the reference
//! itself, and says so. The split into pre-tokens uses Unicode 16 tables in both.
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
mod pieces;
pub mod train;
mod vocabulary;

use engine::{Engine, Fast, Reference};
pub use pieces::Pieces;
pub use vocabulary::{DEFAULT, Vocabulary};

/// Shorthand for this module's results.
pub type Result<T> = std::result::Result<T, Error>;

/// Version of the Unicode tables behind `\p{…}`; ids depend on it.
pub const UNICODE: &str = "16.0.0";

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message names the fields")]
pub enum Error {
    #[error(transparent)]
    Store(#[from] forebay_store::Error),
    #[error("{path}: expected a tokenizer.json, found {found}")]
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
                Some("it is the file `tokenizer.json` of a Hugging Face model".into())
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
    special_tokens: SpecialTokens,
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
        let (engine, note): (Box<dyn Engine>, _) = match Fast::load(json.clone()) {
            Ok(fast) => (Box::new(fast), None),
            Err(why) => {
                let reference = Reference::load(&json, options.special_tokens)
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
            vocab_size: engine.vocab_size(),
            eos,
            special_tokens: match options.special_tokens {
                SpecialTokens::Parse => "parse".into(),
                SpecialTokens::Text => "text".into(),
            },
            engine: engine.name().into(),
            unicode: UNICODE.into(),
        };
        Ok(Self { engine, special_tokens: options.special_tokens, entry, note })
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
        self.engine.encode(text, self.special_tokens, tokens)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt2(special_tokens: SpecialTokens) -> Tokenizer {
        let options = Options { eos: EosPolicy::Auto, special_tokens };
        Tokenizer::load(&Vocabulary::open(DEFAULT).unwrap(), &options).unwrap()
    }

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        tokenizer.encode(text, &mut tokens).unwrap();
        tokens
    }

    #[test]
    fn the_built_in_vocabulary_is_gpt2() {
        let tokenizer = gpt2(SpecialTokens::Parse);
        assert_eq!(ids(&tokenizer, "Hello, world!"), [15496, 11, 995, 0, 50256]);
        assert_eq!(tokenizer.decode(&[15496, 11, 995, 0]).unwrap(), "Hello, world!");
        assert_eq!(tokenizer.entry().vocab_size, 50_257);
        assert_eq!(tokenizer.note(), None);
        assert!(tokenizer.decode(&[50_257]).is_err());
    }

    #[test]
    fn special_tokens_in_a_text_are_tokens_or_text_as_asked() {
        let text = "a<|endoftext|>b";
        assert_eq!(ids(&gpt2(SpecialTokens::Parse), text), [64, 50256, 65, 50256]);
        let as_text = ids(&gpt2(SpecialTokens::Text), text);
        assert_eq!(as_text.iter().filter(|&&id| id == 50256).count(), 1);
        assert_eq!(
            gpt2(SpecialTokens::Text).decode(&as_text).unwrap(),
            "a<|endoftext|>b<|endoftext|>"
        );
    }

    /// Both engines read the same file; one is the oracle of the other.
    #[test]
    fn ids_equal_the_reference() {
        let json = Vocabulary::open(DEFAULT).unwrap().json().unwrap();
        let reference = Reference::load(&json, SpecialTokens::Parse).unwrap();
        let fast = gpt2(SpecialTokens::Parse);
        let mut texts: Vec<String> = [
            "",
            " ",
            "\n\n  \t x",
            "don't WE'LL 'tis",
            "1234567890 12,345.67",
            "naïve café Ünïcödé",
            "日本語のテキスト",
            "สวัสดีชาวโลก",
            "שלום עולם",
            "👩‍👩‍👧‍👦 🏳️‍🌈",
            "a\r\nb\rc",
            "\u{a0}B\u{3000}C",
            "x<|endoftext|>y",
            "\u{11de0}\u{1e5f0} \u{16d70}",
            "e\u{301}\u{327}\u{fe0f}",
            "\0\u{1}\u{feff}",
        ]
        .map(String::from)
        .to_vec();
        texts.push("a".repeat(5_000));
        texts.push(" ".repeat(5_000) + "\n" + &"\t".repeat(300));
        // Every assigned plane of scripts, each scalar after a letter, a space and a digit.
        for block in (0x80..0x3_2000_u32).collect::<Vec<_>>().chunks(2_048) {
            let scalars = block.iter().filter_map(|&c| char::from_u32(c));
            texts.push(scalars.flat_map(|c| ['a', c, ' ', c, '1', c]).collect());
        }
        for text in texts {
            let mut expected = Vec::new();
            reference.encode(&text, SpecialTokens::Parse, &mut expected).unwrap();
            expected.push(50256);
            let found = ids(&fast, &text);
            let place = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert!(
                found == expected,
                "{:?}… differs at token {place:?}",
                text.chars().take(20).collect::<String>()
            );
        }
    }
}
