//! Words: what the pre-tokenizer of a byte-level model makes of a text.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::SplitDelimiterBehavior::Isolated;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use super::{Error, Result};

/// Names of the built-in splits.
pub const PRESETS: [&str; 4] = ["gpt2", "llama3", "o200k", "qwen"];

/// Every built-in pattern ends so: white space gives its last character to the word that follows.
const TAIL: &str = r"|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
const QWEN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
);

/// Cuts texts into words; a thread that has its own (a clone) waits for no other.
#[derive(Clone)]
pub struct Splitter {
    how: How,
    json: Value,
}

#[derive(Clone)]
enum How {
    /// A built-in pattern, `\s+` in place of [`TAIL`]: without the look-ahead it is a plain
    /// automaton, ten times as fast, and the last character is given back by hand.
    Tailed(Split),
    /// Any patterns, one after the other.
    Steps(Vec<Split>),
}

impl Splitter {
    /// A built-in split by name; that of a `tokenizer.json`; the regular expression in any other
    /// file; or a regular expression. Its matches are words, and so is what lies between them.
    ///
    /// Of a `tokenizer.json` only the pre-tokenizer is taken: a byte-level one, alone or after
    /// isolating splits. Its normalizer is not.
    ///
    /// # Errors
    /// [`Error::UnknownSplit`] for a plain word that names nothing, [`Error::Split`] for a
    /// pattern that cannot be compiled or another kind of pre-tokenizer.
    pub fn open(name: &str) -> Result<Self> {
        let wrong = |found: String| Error::Split { name: name.to_owned(), found };
        if let Some(at) = PRESETS.iter().position(|preset| *preset == name) {
            return Self::tailed([GPT2, LLAMA3, O200K, QWEN][at], at == 0).map_err(wrong);
        }
        if !Path::new(name).is_file() {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
            if name.chars().all(plain) {
                return Err(Error::UnknownSplit { name: name.to_owned() });
            }
            return Self::regex(name).map_err(wrong);
        }
        let text = std::fs::read_to_string(name).map_err(|e| wrong(e.to_string()))?;
        match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(file)) => {
                Self::of_json(file.get("pre_tokenizer").unwrap_or(&Value::Null)).map_err(wrong)
            }
            _ => Self::regex(text.trim_end_matches(['\r', '\n'])).map_err(wrong),
        }
    }

    /// As it stands under `pre_tokenizer` in a `tokenizer.json`.
    pub(super) fn json(&self) -> &Value {
        &self.json
    }

    fn tailed(pattern: &str, gpt2: bool) -> std::result::Result<Self, String> {
        let json = if gpt2 { byte_level(true) } else { sequence(&format!("{pattern}{TAIL}")) };
        Ok(Self { how: How::Tailed(compile(&format!(r"{pattern}|\s+"))?), json })
    }

    fn regex(pattern: &str) -> std::result::Result<Self, String> {
        if pattern.is_empty() {
            return Err("expected a regular expression, found nothing".into());
        }
        Ok(Self { how: How::Steps(vec![compile(pattern)?]), json: sequence(pattern) })
    }

    /// Byte-level alone, or a sequence that ends with it.
    fn of_json(json: &Value) -> std::result::Result<Self, String> {
        let alone = std::slice::from_ref(json);
        let steps = json["pretokenizers"].as_array().map_or(alone, Vec::as_slice);
        let Some((last, before)) = steps.split_last() else {
            return Err("expected a byte-level pre-tokenizer, found an empty sequence".into());
        };
        if last["type"] != "ByteLevel" || last["add_prefix_space"] == true {
            let what = "expected a pre-tokenizer that ends with ByteLevel without add_prefix_space";
            return Err(format!("{what}, found {last}"));
        }
        let mut splits = Vec::new();
        for step in before {
            if step["type"] != "Split" || step["behavior"] != "Isolated" || step["invert"] == true {
                return Err(format!("expected Split steps that isolate, found {step}"));
            }
            let pattern: SplitPattern =
                serde_json::from_value(step["pattern"].clone()).map_err(|e| e.to_string())?;
            splits.push(Split::new(pattern, Isolated, false).map_err(|e| e.to_string())?);
        }
        // Absent means true.
        if last["use_regex"] != false {
            splits.push(compile(&format!("{GPT2}{TAIL}"))?);
        }
        Ok(Self { how: How::Steps(splits), json: json.clone() })
    }

    /// Calls `word` with every word of `text`, in order; together they are the text.
    pub fn each<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        match &self.how {
            How::Tailed(split) => each_tailed(split, text, &mut word),
            How::Steps(splits) => each_step(splits, text, &mut word),
        }
    }
}

fn each_tailed<'t>(split: &Split, text: &'t str, word: &mut impl FnMut(&'t str)) {
    let mut rest = text;
    'restart: while !rest.is_empty() {
        for (start, end) in split.regex.find_iter(rest) {
            let found = &rest[start..end];
            // A run of white space: `\s+(?!\S)` stops before its last character, unless the text
            // ends there. A run that ends a line is the match of another branch.
            if end < rest.len()
                && let Some(last) = found.chars().next_back()
                && last.is_whitespace()
                && !matches!(last, '\r' | '\n' if split_keeps_lines(split))
                && found.len() > last.len_utf8()
                && found.chars().all(char::is_whitespace)
            {
                let kept = found.len() - last.len_utf8();
                word(&found[..kept]);
                rest = &rest[start + kept..];
                continue 'restart;
            }
            word(found);
        }
        return;
    }
}

/// Has the pattern a branch for white space that ends lines?
fn split_keeps_lines(split: &Split) -> bool {
    matches!(&split.pattern, SplitPattern::Regex(pattern) if pattern.ends_with(r"|\s*[\r\n]+|\s+"))
}

fn each_step<'t>(splits: &[Split], text: &'t str, word: &mut impl FnMut(&'t str)) {
    let Some((first, others)) = splits.split_first() else {
        if !text.is_empty() {
            word(text);
        }
        return;
    };
    let mut done = 0;
    for (start, end) in first.regex.find_iter(text) {
        each_step(others, &text[done..start], word);
        each_step(others, &text[start..end], word);
        done = end;
    }
    each_step(others, &text[done..], word);
}

fn compile(pattern: &str) -> std::result::Result<Split, String> {
    Split::new(SplitPattern::Regex(pattern.into()), Isolated, false).map_err(|e| e.to_string())
}

fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}

fn sequence(pattern: &str) -> Value {
    let split = json!({
        "type": "Split",
        "pattern": { "Regex": pattern },
        "behavior": "Isolated",
        "invert": false,
    });
    json!({ "type": "Sequence", "pretokenizers": [split, byte_level(false)] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    /// The reference's own pre-tokenizer.
    fn expected(reference: &PreTokenizerWrapper, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        reference.pre_tokenize(&mut pieces).unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    fn found(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        splitter.each(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn a_split_is_a_name_a_file_or_a_regular_expression() {
        let llama = Splitter::open("llama3").unwrap();
        assert_eq!(found(&llama, "it's 12345  ok"), ["it", "'s", " ", "123", "45", " ", " ok"]);
        let own = Splitter::open(r"[a-z]+").unwrap();
        assert_eq!(found(&own, "ab12cd!"), ["ab", "12", "cd", "!"]);
        let dir = std::env::temp_dir().join(format!("forebay-split-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (pattern, json) = (dir.join("pattern"), dir.join("tokenizer.json"));
        std::fs::write(&pattern, "[a-z]+\n").unwrap();
        assert_eq!(Splitter::open(pattern.to_str().unwrap()).unwrap().json, own.json);
        std::fs::write(&json, json!({ "pre_tokenizer": llama.json }).to_string()).unwrap();
        let of_file = Splitter::open(json.to_str().unwrap()).unwrap();
        assert_eq!(of_file.json, llama.json);
        assert_eq!(found(&of_file, "a  b\n c"), found(&llama, "a  b\n c"));
        let other = json!({ "pre_tokenizer": { "type": "Whitespace" } });
        std::fs::write(&json, other.to_string()).unwrap();
        assert!(matches!(
            Splitter::open(json.to_str().unwrap()),
            Err(Error::Split { found, .. }) if found.contains("Whitespace")
        ));
        std::fs::remove_dir_all(dir).unwrap();
        assert!(matches!(Splitter::open("gpt5"), Err(Error::UnknownSplit { .. })));
        assert!(matches!(Splitter::open("(unclosed"), Err(Error::Split { .. })));
    }

    #[test]
    fn every_scalar_is_split_as_the_whole_pattern_does() {
        for (name, pattern) in PRESETS.into_iter().zip([GPT2, LLAMA3, O200K, QWEN]) {
            let splitter = Splitter::open(name).unwrap();
            let whole = Splitter::regex(&format!("{pattern}{TAIL}")).unwrap();
            for block in (1..0x3_2000_u32).collect::<Vec<_>>().chunks(4_096) {
                let scalars = block.iter().filter_map(|&c| char::from_u32(c));
                let text: String = scalars.flat_map(|c| ['a', c, ' ', ' ', c, '1', c]).collect();
                assert!(found(&splitter, &text) == found(&whole, &text), "{name} {block:?}");
            }
        }
    }

    /// Compiled once: that takes longer than all the texts.
    static ALL: LazyLock<Vec<(Splitter, PreTokenizerWrapper)>> = LazyLock::new(|| {
        let names = PRESETS.into_iter().chain([r"\p{N}{1,2}|\s+(?!\S)|[^ ]*x"]);
        let both = names.map(|name| {
            let splitter = Splitter::open(name).unwrap();
            let reference = serde_json::from_value(splitter.json().clone()).unwrap();
            (splitter, reference)
        });
        both.collect()
    });

    proptest! {
        #[test]
        fn words_are_those_of_the_reference(
            text in "([ \\t\\r\\n\u{a0}\u{3000}\u{85}\u{2028}]{0,4}[a-zA-Z'é日\u{301}0-9!/.]{0,4}){0,12}"
        ) {
            for (splitter, reference) in ALL.iter() {
                let json = splitter.json();
                prop_assert_eq!(found(splitter, &text), expected(reference, &text), "{}", json);
            }
        }
    }
}
