//! `.tiktoken` files, read as the `tokenizer.json` that stands for the same ids.
//!
//! A file has a token a line: its bytes in base64, a space, its rank, which is its id. It says
//! neither how text is split nor which special tokens there are; both are known for the published
//! files, which are told by their number of ranks. A pair of tokens merges if their bytes together
//! are a token, lowest rank first, so every such pair is a merge, ordered by that rank.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::alphabet::alphabet;

const GPT2: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(super) const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A published file: ranks in it, how it splits, special tokens and their ids.
struct Known {
    ranks: usize,
    split: &'static str,
    special: &'static [(&'static str, u32)],
}

const FIM: [&str; 3] = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"];

const KNOWN: [Known; 6] = [
    // r50k_base
    Known { ranks: 50_256, split: GPT2, special: &[("<|endoftext|>", 50_256)] },
    // p50k_base: the id of <|endoftext|> lies among the ranks.
    Known { ranks: 50_280, split: GPT2, special: &[("<|endoftext|>", 50_256)] },
    // cl100k_base
    Known {
        ranks: 100_256,
        split: CL100K,
        special: &[
            ("<|endoftext|>", 100_257),
            (FIM[0], 100_258),
            (FIM[1], 100_259),
            (FIM[2], 100_260),
            ("<|endofprompt|>", 100_276),
        ],
    },
    // o200k_base
    Known {
        ranks: 199_998,
        split: O200K,
        special: &[("<|endoftext|>", 199_999), ("<|endofprompt|>", 200_018)],
    },
    // Llama 3, without the names of tokens that no text holds
    Known {
        ranks: 128_000,
        split: CL100K,
        special: &[("<|begin_of_text|>", 128_000), ("<|end_of_text|>", 128_001)],
    },
    // Qwen
    Known {
        ranks: 151_643,
        split: QWEN,
        special: &[("<|endoftext|>", 151_643), ("<|im_start|>", 151_644), ("<|im_end|>", 151_645)],
    },
];

/// Does a file look like one?
pub(super) fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    std::str::from_utf8(line).is_ok_and(|line| token(line).is_some())
}

/// The `tokenizer.json` of a file, or what is wrong with it.
pub(super) fn to_json(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("no UTF-8: {error}"))?;
    let mut ranks: HashMap<Vec<u8>, u32> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty()) {
        let (bytes, rank) = token(line)
            .ok_or_else(|| format!("line {number}: expected base64, a space and a rank"))?;
        ranks.insert(bytes, rank);
    }
    let known = KNOWN.iter().find(|known| known.ranks == ranks.len()).ok_or_else(|| {
        format!("{} ranks, which is no published file whose split is known", ranks.len())
    })?;

    let characters = alphabet();
    let written =
        |bytes: &[u8]| bytes.iter().map(|&byte| characters[usize::from(byte)]).collect::<String>();
    let mut merges: Vec<[u32; 3]> = Vec::new();
    for (token, &rank) in &ranks {
        for middle in 1..token.len() {
            if let (Some(&left), Some(&right)) =
                (ranks.get(&token[..middle]), ranks.get(&token[middle..]))
            {
                merges.push([rank, left, right]);
            }
        }
    }
    merges.sort_unstable();
    let tokens: HashMap<u32, String> =
        ranks.iter().map(|(bytes, &rank)| (rank, written(bytes))).collect();
    let merges: Vec<[&String; 2]> =
        merges.iter().map(|&[_, left, right]| [&tokens[&left], &tokens[&right]]).collect();
    let mut vocabulary: Map<String, Value> =
        ranks.iter().map(|(bytes, &rank)| (written(bytes), json!(rank))).collect();
    // Where ids leave a gap, only tokens of the vocabulary keep theirs.
    vocabulary.extend(known.special.iter().map(|&(name, id)| (name.to_owned(), json!(id))));
    let added: Vec<Value> = known
        .special
        .iter()
        .map(|&(content, id)| {
            json!({
                "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let byte_level = |split: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split });
    let split = |pattern: &str| {
        json!({
            "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false,
        })
    };
    let pre_tokenizer = if known.split == GPT2 {
        // It knows this one itself.
        byte_level(true)
    } else {
        json!({ "type": "Sequence", "pretokenizers": [split(known.split), byte_level(false)] })
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            // A whole pre-token that is in the vocabulary is that token.
            "ignore_merges": true, "vocab": vocabulary, "merges": merges,
        },
    }))
}

fn token(line: &str) -> Option<(Vec<u8>, u32)> {
    let (bytes, rank) = line.trim_end().split_once(' ')?;
    let bytes = BASE64_STANDARD.decode(bytes).ok().filter(|bytes| !bytes.is_empty())?;
    Some((bytes, rank.parse().ok()?))
}
