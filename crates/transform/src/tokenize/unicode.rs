//! The Unicode tables that ids depend on, checked where they are used.
//!
//! A `tokenizer.json` does not say which Unicode its `\p{…}` means. The reference (`tokenizers`
//! 0.23) splits by version 16 and normalizes by version 9; another version of a library, on the
//! system or by an update, would silently give other ids for the characters that are new in it.

use std::sync::LazyLock;

use fastokens::pre_tokenizers::PreTokenizer;
use fastokens::tiktoken::{
    DEEPSEEK_SPLIT1_PATTERN, DEEPSEEK_SPLIT2_PATTERN, DEEPSEEK_SPLIT3_PATTERN,
};
use serde_json::{Map, Value, json};

use super::alphabet::alphabet;

/// Version of the tables behind `\p{…}`.
pub const UNICODE: &str = "16.0.0";

/// What the encoder's own tables say; `None`: what they should.
pub(super) static SCANNER: LazyLock<Option<String>> =
    LazyLock::new(|| check(&json!({ "type": "ByteLevel", "add_prefix_space": false })));

/// What the tables of the expressions say by which it splits step by step.
pub(super) static EXPRESSIONS: LazyLock<Option<String>> = LazyLock::new(|| {
    let pattern = json!({ "Regex": "\\p{L}+|\\p{N}+|[^\\p{L}\\p{N}]+" });
    check(&json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false }))
});

/// Does the encoder know normalizer and split by its own code? What it takes for others is a
/// library of expressions whose classes are not quite the reference's: U+180E is a space there.
pub(super) fn is_known(json: &Value, pre_tokenizer: Option<&PreTokenizer>) -> bool {
    is_known_normalizer(&json["normalizer"])
        && match pre_tokenizer {
            None | Some(PreTokenizer::ByteLevel(_)) => true,
            Some(PreTokenizer::Split(split)) => {
                split.scan_kind().is_some()
                    || json["pre_tokenizer"]["pattern"]["String"].is_string()
            }
            Some(PreTokenizer::Sequence(steps)) => match steps.as_slice() {
                [PreTokenizer::Split(split), PreTokenizer::ByteLevel(bytes)] => {
                    split.scan_kind().is_some() && bytes.is_bulk_only()
                }
                [_, _, _, PreTokenizer::ByteLevel(bytes)] => {
                    bytes.is_bulk_only() && is_deepseek(&json["pre_tokenizer"]["pretokenizers"])
                }
                [PreTokenizer::ByteLevel(_)] => true,
                _ => false,
            },
            Some(PreTokenizer::Digits(_)) => false,
        }
}

fn is_known_normalizer(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        None => normalizer.is_null(),
        Some("NFC" | "Prepend") => true,
        Some("Replace") => normalizer["pattern"]["String"].is_string(),
        Some("Sequence") => normalizer["normalizers"]
            .as_array()
            .is_some_and(|all| all.iter().all(is_known_normalizer)),
        Some(_) => false,
    }
}

/// The splits of DeepSeek V3, as they are in its file.
fn is_deepseek(steps: &Value) -> bool {
    let patterns = [DEEPSEEK_SPLIT1_PATTERN, DEEPSEEK_SPLIT2_PATTERN, DEEPSEEK_SPLIT3_PATTERN];
    patterns.iter().enumerate().all(|(at, pattern)| {
        let step = &steps[at];
        step["pattern"]["Regex"] == **pattern
            && step["behavior"] == "Isolated"
            && step["invert"] != true
    })
}

fn check(pre_tokenizer: &Value) -> Option<String> {
    // A character, one of its class before it, and whether version 16 puts both into one class.
    const NEW: [(&str, bool); 4] = [
        ("1\u{10d40}", true),  // GARAY DIGIT ZERO, since 16.0
        ("a\u{1c89}", true),   // CYRILLIC CAPITAL LETTER TJE, since 16.0
        ("a\u{2ebf0}", true),  // CJK UNIFIED IDEOGRAPH-2EBF0, since 15.1
        ("1\u{11de0}", false), // TOLONG SIKI DIGIT ZERO, since 17.0
    ];
    let characters = alphabet().into_iter().enumerate();
    let bytes = characters.map(|(byte, character)| (character.to_string(), json!(byte)));
    let vocabulary: Map<String, Value> = bytes.collect();
    let model = json!({ "type": "BPE", "vocab": vocabulary, "merges": [] });
    let tokenizer = json!({ "model": model, "pre_tokenizer": pre_tokenizer });
    let tokenizer = match fastokens::Tokenizer::from_json(tokenizer) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return Some(error.to_string()),
    };
    NEW.iter().find_map(|&(text, together)| {
        let mut pieces = tokenizer.build_pre_tokenized_with(text, false);
        if let Err(error) = tokenizer.pre_tokenizer()?.pre_tokenize(&mut pieces) {
            return Some(error.to_string());
        }
        let differs = (pieces.splits().len() == 1) != together;
        let code = text.chars().last().map_or(0, u32::from);
        differs.then(|| format!("U+{code:04X} is not what Unicode {UNICODE} says"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_those_of_the_reference() {
        assert_eq!(*SCANNER, None);
    }

    #[test]
    fn a_moved_table_is_noticed() {
        // Letters by the tables of version 9, about: none of the new ones.
        let pattern = json!({ "Regex": "[a-z]+|[0-9]+|[^a-z0-9]+" });
        let split =
            json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false });
        assert!(check(&split).is_some());
    }
}
