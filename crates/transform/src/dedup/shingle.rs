//! Shingles: hashes of every run of n words, or of n characters.
//!
//! A word is a maximal run of alphanumeric characters (Unicode) or `_`, lower-cased character by
//! character. A shingle is xxh3-64 of n consecutive words joined by single spaces. A document of
//! 1 to n - 1 words has one shingle of them all; one without words has none.
//!
//! For languages without spaces: xxh3-64 of n consecutive characters, lower-cased, white space
//! left out; a document of 1 to n - 1 characters has one shingle of them all.

use std::sync::LazyLock;

use forebay_shard::simd::{BLOCK, Isa, Work, block, flags, lowest, run};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// What a shingle is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Words.
    Word,
    /// Characters.
    Char,
}

/// Cuts texts into shingles; keeps its buffers from text to text.
#[derive(Debug, Default)]
pub struct Shingler {
    /// Words, lower-cased, each followed by a space; or characters, one after the other.
    squeezed: Vec<u8>,
    /// Where each unit starts; one more for the end.
    starts: Vec<u32>,
    shingles: Vec<u64>,
}

impl Shingler {
    /// The hash of every shingle of `text`, in order, repeats included.
    ///
    /// Cost: one pass to find the units, one hash of the units' bytes a shingle.
    pub fn shingles(&mut self, text: &str, unit: Unit, ngram: usize) -> &[u64] {
        self.shingles.clear();
        self.starts.clear();
        // Lower case may take half as much again, and a text may lack the last separator.
        self.squeezed.clear();
        self.squeezed.reserve(text.len() + text.len() / 2 + BLOCK);
        self.starts.push(0);
        // Without the space after the last word.
        let trailing = match unit {
            Unit::Word => {
                run(SplitWords { text, into: self });
                1
            }
            Unit::Char => {
                self.split_chars(text);
                0
            }
        };
        let units = self.starts.len() - 1;
        if units > 0 {
            let width = ngram.max(1).min(units);
            let ends = &self.starts[width..];
            let bytes = self.squeezed.as_slice();
            let shingles = self
                .starts
                .iter()
                .zip(ends)
                .map(|(&start, &end)| xxh3_64(&bytes[start as usize..end as usize - trailing]));
            self.shingles.extend(shingles);
        }
        &self.shingles
    }

    /// Splits `text[at..end]`, character by character; returns where the last one ends.
    fn split_characters(
        &mut self,
        text: &str,
        mut at: usize,
        end: usize,
        in_word: &mut bool,
    ) -> usize {
        for character in text[at..].chars() {
            if at >= end {
                break;
            }
            at += character.len_utf8();
            match class(character) {
                Class::Other => {
                    if *in_word {
                        self.end_word();
                    }
                    *in_word = false;
                }
                class => {
                    self.push(character, class);
                    *in_word = true;
                }
            }
        }
        at
    }

    fn split_chars(&mut self, text: &str) {
        for character in text.chars().filter(|c| !c.is_whitespace()) {
            // Those that are no letters have no lower case.
            let mut class = class(character);
            if class == Class::Other {
                class = if character.is_ascii() { Class::Lower } else { Class::Upper };
            }
            if class == Class::Upper {
                for lower in character.to_lowercase() {
                    self.push(lower, Class::Lower);
                    self.end_unit();
                }
            } else {
                self.push(character, class);
                self.end_unit();
            }
        }
    }

    fn push(&mut self, character: char, class: Class) {
        if class == Class::Lower {
            self.squeezed.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            for lower in character.to_lowercase() {
                self.squeezed.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }

    #[inline(always)]
    fn end_word(&mut self) {
        self.squeezed.push(b' ');
        self.end_unit();
    }

    #[inline(always)]
    fn end_unit(&mut self) {
        // A text of 4 GiB is refused long before: records are bounded.
        self.starts.push(u32::try_from(self.squeezed.len()).unwrap_or(u32::MAX));
    }
}

struct SplitWords<'a> {
    text: &'a str,
    into: &'a mut Shingler,
}

impl Work for SplitWords<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { text, into } = self;
        let bytes = text.as_bytes();
        let mut in_word = false;
        let mut at = 0;
        while at < bytes.len() {
            let length = (bytes.len() - at).min(BLOCK);
            let mut lower = block(&bytes[at..at + length], 0);
            if !lower.is_ascii() {
                at = into.split_characters(text, at, at + length, &mut in_word);
                continue;
            }
            at += length;
            for byte in &mut lower {
                *byte |= u8::from(byte.wrapping_sub(b'A') < 26) << 5;
            }
            let flags = flags(&lower, |byte| {
                (byte.wrapping_sub(b'a') < 26) | (byte.wrapping_sub(b'0') < 10) | (byte == b'_')
            });
            let words = isa.gather(&flags);
            // The byte after a word becomes the space after it.
            let ends = !words & (words << 1 | u64::from(in_word)) & lowest(length as u32);
            let keep = words | ends;
            for (byte, flag) in lower.iter_mut().zip(flags) {
                *byte = *byte & flag | b' ' & !flag;
            }
            in_word = words >> (length - 1) & 1 != 0;
            // A text of 4 GiB is refused long before: records are bounded.
            let next = into.squeezed.len() as u32 + 1;
            isa.push_places(isa.extract(ends, keep), next, &mut into.starts);
            isa.append(&lower, keep, &mut into.squeezed);
        }
        if in_word {
            into.end_word();
        }
    }
}

/// The bytes of every word of `text`, in order: as [`Shingler`] finds them, but slowly.
pub fn words(text: &str) -> impl Iterator<Item = std::ops::Range<usize>> {
    let is_word = |c: char| class(c) != Class::Other;
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(is_word)?;
        let rest = &text[start..];
        at = start + rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        Some(start..at)
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// In no word.
    Other,
    /// In a word, its own lower case.
    Lower,
    /// In a word, with another lower case.
    Upper,
}

fn class(character: char) -> Class {
    match CLASSES.get(character as usize) {
        Some(&class) => class,
        None => look_up(character),
    }
}

fn look_up(character: char) -> Class {
    if !(character.is_alphanumeric() || character == '_') {
        Class::Other
    } else if character.to_lowercase().eq([character]) {
        Class::Lower
    } else {
        Class::Upper
    }
}

/// Of the Basic Multilingual Plane: the standard library's tables are made for size.
static CLASSES: LazyLock<Vec<Class>> = LazyLock::new(|| {
    (0..0x1_0000).map(|code| char::from_u32(code).map_or(Class::Other, look_up)).collect()
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definitions, word for word.
    fn oracle(text: &str, unit: Unit, ngram: usize) -> Vec<u64> {
        let units: Vec<String> = match unit {
            Unit::Word => {
                let lower: String = text
                    .chars()
                    .flat_map(|c| {
                        let word = c.is_alphanumeric() || c == '_';
                        if word { c.to_lowercase().collect::<Vec<_>>() } else { vec!['\0'] }
                    })
                    .collect();
                let words = lower.split('\0').filter(|word| !word.is_empty());
                words.map(str::to_owned).collect()
            }
            Unit::Char => {
                let characters = text.chars().filter(|c| !c.is_whitespace());
                characters.flat_map(char::to_lowercase).map(String::from).collect()
            }
        };
        if units.is_empty() {
            return Vec::new();
        }
        let between = if unit == Unit::Word { " " } else { "" };
        let windows = units.windows(ngram.min(units.len()));
        windows.map(|window| xxh3_64(window.join(between).as_bytes())).collect()
    }

    fn shingles(text: &str, ngram: usize) -> Vec<u64> {
        Shingler::default().shingles(text, Unit::Word, ngram).to_vec()
    }

    #[test]
    fn case_and_punctuation_do_not_matter_words_do() {
        let plain = shingles("the quick brown fox jumps", 5);
        assert_eq!(plain, [xxh3_64(b"the quick brown fox jumps")]);
        assert_eq!(plain, shingles("The QUICK, brown—fox\n jumps!", 5));
        assert_eq!(shingles("Ünï_9 ẞ", 5), [xxh3_64("ünï_9 ß".as_bytes())]);
        assert_eq!(shingles("one two", 5), [xxh3_64(b"one two")]);
        assert!(shingles(" ,;… ", 5).is_empty());
    }

    #[test]
    fn characters_are_shingles_where_there_are_no_spaces() {
        let mut shingler = Shingler::default();
        let found = shingler.shingles("今天 天气A", Unit::Char, 3);
        let expected = ["今天天", "天天气", "天气a"].map(|s| xxh3_64(s.as_bytes()));
        assert_eq!(found, expected);
    }

    #[test]
    fn words_are_where_the_shingles_are() {
        let text = "— The QUICK, brown—fox\n Ünï_9!";
        let found: Vec<&str> = words(text).map(|range| &text[range]).collect();
        assert_eq!(found, ["The", "QUICK", "brown", "fox", "Ünï_9"]);
        assert_eq!(found.len(), shingles(text, 1).len());
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            text in "[a-cA-C _.\u{e9}\u{130}\u{23a}\u{3b1}-\u{3c9}\u{4e00}-\u{4e05}\u{1f600}]{0,200}",
            n in 1..7_usize,
        ) {
            let mut shingler = Shingler::default();
            for unit in [Unit::Word, Unit::Char] {
                prop_assert_eq!(shingler.shingles(&text, unit, n), oracle(&text, unit, n));
            }
        }

        #[test]
        fn equals_the_definition_on_words_of_any_length(
            words in prop::collection::vec(("[a-zA-Z0-9]{0,100}", "[ ,\u{e9}\u{2014}]{1,3}"), 0..12),
        ) {
            let text: String = words.into_iter().flat_map(|(word, gap)| [word, gap]).collect();
            prop_assert_eq!(shingles(&text, 3), oracle(&text, Unit::Word, 3));
        }

        #[test]
        fn equals_the_definition_on_anything(text: String) {
            let mut shingler = Shingler::default();
            for unit in [Unit::Word, Unit::Char] {
                prop_assert_eq!(shingler.shingles(&text, unit, 2), oracle(&text, unit, 2));
            }
        }
    }
}
