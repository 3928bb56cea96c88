//! What turns text into ids: the fast encoder, and the reference for what that one refuses.

use std::collections::HashSet;

use fastokens::AddedTokenPolicy;
use fastokens::pre_tokenizers::PreTokenizer;
use serde_json::{Value, json};

use super::long::{LONG, Merges, may_be_long};
use super::{Error, Result, SpecialTokens, unicode};

/// MONGOLIAN VOWEL SEPARATOR, a space for the expressions that split step by step, for nobody else.
const NOT_A_SPACE: char = '\u{180e}';

/// An encoder; called from many threads.
pub(super) trait Engine: Send + Sync {
    /// Its crate and version.
    fn name(&self) -> &'static str;

    /// Appends the ids of `text`.
    fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<()>;

    /// The text of `tokens`, special ones written out.
    fn decode(&self, tokens: &[u32]) -> Result<String>;

    /// Ids run below this.
    fn vocab_size(&self) -> u64;

    /// The id of a token as it is written.
    fn token_to_id(&self, token: &str) -> Option<u32>;
}

/// `fastokens`: BPE models. Long pre-tokens are merged here.
pub(super) struct Fast {
    inner: fastokens::Tokenizer,
    special: SpecialTokens,
    /// For long pre-tokens; `None` if the model has none that are merged here.
    merges: Option<Merges>,
}

impl Fast {
    /// Builds it of a `tokenizer.json`, or says what of it is not supported.
    pub(super) fn load(json: Value, special: SpecialTokens) -> std::result::Result<Self, String> {
        let model = json["model"]["type"].as_str().unwrap_or("BPE");
        if model != "BPE" {
            return Err(format!("its model is {model}"));
        }
        if let Some(token) = moved_token(&json) {
            return Err(format!("the reference gives added token {token} another id"));
        }
        let merges = Merges::of(&json);
        let json = without_holes(json);
        let (normalizer, pre_tokenizer) =
            (json["normalizer"].clone(), json["pre_tokenizer"].clone());
        let inner = fastokens::Tokenizer::from_json(json).map_err(|error| error.to_string())?;
        let parts = json!({ "normalizer": normalizer, "pre_tokenizer": pre_tokenizer });
        if !unicode::is_known(&parts, inner.pre_tokenizer()) {
            return Err("its normalizer or split is not one of the known ones".into());
        }
        if let Some(moved) = &*unicode::SCANNER {
            return Err(format!("tables of the split: {moved}"));
        }
        let step_by_step = ends_in_bytes(inner.pre_tokenizer()) && unicode::EXPRESSIONS.is_none();
        Ok(Self { inner, special, merges: merges.filter(|_| step_by_step) })
    }

    /// Encodes step by step, so that long pre-tokens can be merged in linear time.
    fn encode_long(&self, text: &str, merges: &Merges, tokens: &mut Vec<u32>) -> Result<()> {
        let wrong = |error: String| Error::Encode(error);
        let as_text = self.special == SpecialTokens::Text;
        let mut pieces = self.inner.build_pre_tokenized_with(text, as_text);
        if let Some(pre_tokenizer) = self.inner.pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(|error| wrong(error.to_string()))?;
        }
        for piece in pieces.splits() {
            let word = pieces.split_text(piece);
            match piece.token_id {
                Some(id) => tokens.push(id),
                None if word.len() > LONG => merges.encode(word, tokens),
                None => self.inner.model().tokenize_into(word, tokens).map_err(wrong)?,
            }
        }
        Ok(())
    }
}

/// The vocabulary with something for every id: the encoder takes no other. Spaces and control
/// characters stand in no byte-level token, so that no text becomes one of these.
fn without_holes(mut json: Value) -> Value {
    let Some(vocabulary) = json["model"]["vocab"].as_object_mut() else { return json };
    let ids: HashSet<u64> = vocabulary.values().filter_map(Value::as_u64).collect();
    let end = ids.iter().max().map_or(0, |id| id + 1);
    // Ids that are all over the place are not a vocabulary with holes.
    if (end - ids.len() as u64) < 1024 {
        for id in (0..end).filter(|id| !ids.contains(id)) {
            vocabulary.insert(format!(" \u{1} no token {id}"), id.into());
        }
    }
    json
}

/// An added token that has an id in the file that the reference does not give it: one that is not
/// in the vocabulary gets the next free id, whatever the file says.
fn moved_token(json: &Value) -> Option<&str> {
    let vocabulary = json["model"]["vocab"].as_object()?;
    let size = vocabulary.len() as u64;
    let mut highest: Option<u64> = None;
    for token in json["added_tokens"].as_array()? {
        let content = token["content"].as_str()?;
        let known = vocabulary.get(content).and_then(Value::as_u64);
        let next = highest.filter(|&id| id >= size).map_or(size, |id| id + 1);
        let id = known.unwrap_or(next);
        if token["id"] != id {
            return Some(content);
        }
        highest = highest.max(Some(id));
    }
    None
}

/// Does the split end with bytes written as characters?
fn ends_in_bytes(pre_tokenizer: Option<&PreTokenizer>) -> bool {
    match pre_tokenizer {
        Some(PreTokenizer::ByteLevel(_)) => true,
        Some(PreTokenizer::Sequence(steps)) => ends_in_bytes(steps.last()),
        _ => false,
    }
}

impl Engine for Fast {
    fn name(&self) -> &'static str {
        "fastokens 0.3.5"
    }

    fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<()> {
        if text.len() > LONG
            && may_be_long(text)
            && !text.contains(NOT_A_SPACE)
            && let Some(merges) = &self.merges
        {
            return self.encode_long(text, merges, tokens);
        }
        let policy = match self.special {
            SpecialTokens::Parse => AddedTokenPolicy::All,
            SpecialTokens::Text => AddedTokenPolicy::SkipSpecial,
        };
        let ids = self.inner.encode_with_policy(text, false, policy);
        tokens.extend_from_slice(&ids.map_err(|error| Error::Encode(error.to_string()))?);
        Ok(())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner.decode(tokens, false).map_err(|error| Error::Decode(error.to_string()))
    }

    fn vocab_size(&self) -> u64 {
        self.inner.vocab_size() as u64
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

/// `tokenizers`, the reference: everything else, and the proof of the other.
pub(super) struct Reference(tokenizers::Tokenizer);

/// Its crate and version.
pub(super) const REFERENCE: &str = "tokenizers 0.23.2";

impl Reference {
    pub(super) fn load(json: &Value, special: SpecialTokens) -> std::result::Result<Self, String> {
        let mut inner: tokenizers::Tokenizer =
            serde_json::from_value(json.clone()).map_err(|error| error.to_string())?;
        inner.set_encode_special_tokens(special == SpecialTokens::Text);
        Ok(Self(inner))
    }
}

impl Engine for Reference {
    fn name(&self) -> &'static str {
        REFERENCE
    }

    fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<()> {
        let encoding = self.0.encode_fast(text, false);
        let encoding = encoding.map_err(|error| Error::Encode(error.to_string()))?;
        tokens.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.0.decode(tokens, false).map_err(|error| Error::Decode(error.to_string()))
    }

    fn vocab_size(&self) -> u64 {
        self.0.get_vocab_size(true) as u64
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
}
