//! What single tokens stand for: their bytes, and which of them are makeshifts.

use serde_json::Value;

use super::alphabet::bytes_of_characters;
use super::{Result, Vocabulary};

/// The bytes of every token of a vocabulary.
///
/// * **Byte fallback** is a token that is one byte of a character: `<0x..>` where the model falls
///   back to bytes, a single byte from 0x80 on where it is byte-level. Other models have none.
/// * **Unknown** is the model's `unk_token`, or `unk_id`.
///
/// Special tokens stand for themselves as they are written, and are no byte fallback.
/// Memory: 24 B a token and its bytes.
#[derive(Debug)]
pub struct Pieces {
    bytes: Vec<Vec<u8>>,
    fallback: Vec<bool>,
    unknown: Option<u32>,
}

impl Pieces {
    /// Reads them from a `tokenizer.json`; the model is not built.
    ///
    /// # Errors
    /// If the file is no `tokenizer.json`.
    pub fn of(vocabulary: &Vocabulary) -> Result<Self> {
        let json = vocabulary.json()?;
        let model = &json["model"];
        let byte_level =
            holds(&json["decoder"], "ByteLevel") || holds(&json["pre_tokenizer"], "ByteLevel");
        let byte_fallback = !byte_level && model["byte_fallback"] == true;
        // SentencePiece writes `▁` for a space.
        let underlined = !byte_level
            && (holds(&json["decoder"], "Metaspace")
                || holds(&json["pre_tokenizer"], "Metaspace")
                || json["decoder"].to_string().contains('▁'));
        let characters = bytes_of_characters();
        let byte = |c: char| characters.get(c as usize).copied().flatten();

        let mut pieces = Self { bytes: Vec::new(), fallback: Vec::new(), unknown: None };
        for (token, id) in tokens(model) {
            let fallback = if byte_fallback { fallen_back(token) } else { None };
            let bytes = match fallback {
                Some(byte) => vec![byte],
                None if byte_level => {
                    let bytes: Option<Vec<u8>> = token.chars().map(byte).collect();
                    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
                }
                None if underlined => token.replace('▁', " ").into_bytes(),
                None => token.as_bytes().to_vec(),
            };
            let part = byte_level && matches!(bytes[..], [0x80..=0xff]);
            pieces.set(id, bytes, part || fallback.is_some());
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            if let (Some(content), Some(id)) = (token["content"].as_str(), id(&token["id"])) {
                pieces.set(id, content.as_bytes().to_vec(), false);
            }
        }
        pieces.unknown = id(&model["unk_id"]).or_else(|| {
            let unknown = model["unk_token"].as_str()?;
            let mut all = tokens(model);
            all.find(|(token, _)| *token == unknown).map(|(_, id)| id)
        });
        Ok(pieces)
    }

    fn set(&mut self, id: u32, bytes: Vec<u8>, fallback: bool) {
        let at = id as usize;
        if self.bytes.len() <= at {
            self.bytes.resize(at + 1, Vec::new());
            self.fallback.resize(at + 1, false);
        }
        (self.bytes[at], self.fallback[at]) = (bytes, fallback);
    }

    /// The bytes of a token; none for an id outside the vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Counts `(byte fallback, unknown)` among `tokens`. Cost: a look-up each.
    pub fn count(&self, tokens: &[u32]) -> (u64, u64) {
        let fallback = |id: &&u32| self.fallback.get(**id as usize) == Some(&true);
        let unknown = |id: &&u32| Some(**id) == self.unknown;
        (
            tokens.iter().filter(fallback).count() as u64,
            tokens.iter().filter(unknown).count() as u64,
        )
    }
}

/// Is there a component of this type, at any depth?
fn holds(component: &Value, kind: &str) -> bool {
    component["type"] == kind
        || ["pretokenizers", "decoders"]
            .iter()
            .filter_map(|field| component[field].as_array())
            .flatten()
            .any(|inner| holds(inner, kind))
}

/// Tokens as they are written, with their ids: an object by token, or for Unigram a list of pairs.
fn tokens(model: &Value) -> impl Iterator<Item = (&str, u32)> {
    let object = model["vocab"].as_object().into_iter().flatten();
    let list = model["vocab"].as_array().into_iter().flatten();
    object
        .filter_map(|(token, value)| Some((token.as_str(), id(value)?)))
        .chain(list.zip(0..).filter_map(|(pair, id)| Some((pair[0].as_str()?, id))))
}

/// Ids beyond 2^24 are an error of the file, no reason to take gigabytes.
fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok().filter(|&id| id < 1 << 24)
}

/// `<0x0A>` → 10
fn fallen_back(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 2)
}

#[cfg(test)]
mod tests {
    use super::super::{DEFAULT, EosPolicy, Options, SpecialTokens, Tokenizer};
    use super::*;

    fn vocabulary(json: &str) -> Vocabulary {
        let (name, path) = ("tokenizer.json".into(), "tokenizer.json".into());
        Vocabulary { name, path, bytes: json.as_bytes().into(), blake3: String::new() }
    }

    #[test]
    fn byte_level_tokens_are_the_bytes_of_the_text() {
        let vocabulary = Vocabulary::open(DEFAULT).unwrap();
        let pieces = Pieces::of(&vocabulary).unwrap();
        let options = Options { eos: EosPolicy::None, special_tokens: SpecialTokens::Parse };
        let tokenizer = Tokenizer::load(&vocabulary, &options).unwrap();
        let text = "Hello,\n\tnaïve 日本語 🦀<|endoftext|>\u{11de0}";
        let mut ids = Vec::new();
        tokenizer.encode(text, &mut ids).unwrap();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| pieces.bytes(id)).copied().collect();
        assert_eq!(bytes, text.as_bytes());
        let (fallback, unknown) = pieces.count(&ids);
        let parts = ids.iter().filter(|&&id| matches!(pieces.bytes(id), [0x80..=0xff])).count();
        assert_eq!((fallback, unknown), (parts as u64, 0));
        assert!(fallback > 2 && pieces.count(&[15496, 50256, 99_999]) == (0, 0));
        assert_eq!(pieces.bytes(99_999), b"");
    }

    #[test]
    fn models_that_fall_back_to_bytes_have_tokens_of_their_own_for_them() {
        let json = r#"{
            "added_tokens": [{"id": 5, "content": "<0x41>"}],
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}]},
            "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
                "vocab": {"<unk>": 0, "<0xE3>": 1, "▁a": 2, "<0xZZ>": 3, "é": 4}, "merges": []}
        }"#;
        let pieces = Pieces::of(&vocabulary(json)).unwrap();
        let bytes: Vec<&[u8]> = (0..6).map(|id| pieces.bytes(id)).collect();
        assert_eq!(bytes, [b"<unk>", &[0xe3][..], b" a", b"<0xZZ>", "é".as_bytes(), b"<0x41>"]);
        assert_eq!(pieces.count(&[0, 0, 1, 2, 3, 4, 5]), (1, 2));
    }

    #[test]
    fn a_unigram_model_numbers_its_tokens_by_their_place() {
        let json = r#"{
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"},
            "model": {"type": "Unigram", "unk_id": 1, "vocab": [["▁x", -1.0], ["<unk>", 0.0]]}
        }"#;
        let pieces = Pieces::of(&vocabulary(json)).unwrap();
        assert_eq!((pieces.bytes(0), pieces.count(&[1, 0, 1])), (&b" x"[..], (0, 2)));
    }
}
