//! What turns text into ids: the fast encoder, and the reference for what that one refuses.

use serde_json::Value;

use super::{Error, Result, SpecialTokens};

/// An encoder; called from many threads.
pub(super) trait Engine: Send + Sync {
    /// Its crate and version.
    fn name(&self) -> &'static str;

    /// Appends the ids of `text`.
    fn encode(&self, text: &str, special: SpecialTokens, tokens: &mut Vec<u32>) -> Result<()>;

    /// The text of `tokens`, special ones written out.
    fn decode(&self, tokens: &[u32]) -> Result<String>;

    /// Ids run below this.
    fn vocab_size(&self) -> u64;

    /// The id of a token as it is written.
    fn token_to_id(&self, token: &str) -> Option<u32>;
}

/// `fastokens`: BPE models.
pub(super) struct Fast(fastokens::Tokenizer);

impl Fast {
    pub(super) fn load(json: Value) -> std::result::Result<Self, String> {
        fastokens::Tokenizer::from_json(json).map(Self).map_err(|error| error.to_string())
    }
}

impl Engine for Fast {
    fn name(&self) -> &'static str {
        "fastokens 0.3.5"
    }

    fn encode(&self, text: &str, special: SpecialTokens, tokens: &mut Vec<u32>) -> Result<()> {
        let policy = match special {
            SpecialTokens::Parse => fastokens::AddedTokenPolicy::All,
            SpecialTokens::Text => fastokens::AddedTokenPolicy::SkipSpecial,
        };
        let ids = self.0.encode_with_policy(text, false, policy);
        tokens.extend_from_slice(&ids.map_err(|error| Error::Encode(error.to_string()))?);
        Ok(())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.0.decode(tokens, false).map_err(|error| Error::Decode(error.to_string()))
    }

    fn vocab_size(&self) -> u64 {
        self.0.vocab_size() as u64
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
}

/// `tokenizers`, the reference: everything else.
pub(super) struct Reference(tokenizers::Tokenizer);

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
        "tokenizers 0.23.2"
    }

    fn encode(&self, text: &str, _: SpecialTokens, tokens: &mut Vec<u32>) -> Result<()> {
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
