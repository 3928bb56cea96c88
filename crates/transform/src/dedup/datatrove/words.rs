//! Words as spaCy's blank English tokenizer cuts them, after datatrove's normalisation.
//!
//! Little of spaCy is left once case, digits and punctuation are gone. A run between spaces is a
//! word, except that
//! * words written together are cut: `cannot`, `dont`, `im`, `thats` (spaCy's special cases);
//! * symbols (`©`, `°`, emoji) and a few quotes are words of their own, at the ends of a run and, if
//!   symbols, inside it; currency signs at the start;
//! * after a `0` at the end of a run, a unit or a currency sign is cut off: `0km`, `0€`.
//!
//! Source: spaCy 3.8, found by asking it about every character (`unicode`).

use std::sync::LazyLock;

use super::normalise::{Traits, runs};
use super::unicode::{CURRENCY, EDGES, ICONS, LETTERS, PREFIXES, SPLITS, UNITS};

/// The words of a text; keeps its buffers from text to text.
#[derive(Debug, Default)]
pub struct Words {
    list: List,
    scratch: Vec<u8>,
}

#[derive(Debug, Default)]
struct List {
    /// Each followed by a space.
    bytes: Vec<u8>,
    /// Where each starts in `bytes`, and the end.
    starts: Vec<usize>,
}

impl Words {
    /// Takes the words of `text` in place of those before.
    pub fn split(&mut self, text: &str) {
        let Self { list, scratch } = self;
        list.bytes.clear();
        list.starts.clear();
        list.starts.push(0);
        runs(text, scratch, |run, traits| list.cut(run, traits));
    }

    /// Every run of `ngram` words, joined by single spaces.
    pub fn grams(&self, ngram: usize) -> impl Iterator<Item = &[u8]> {
        let starts = &self.list.starts;
        let ends = starts.get(ngram.max(1)..).unwrap_or_default();
        // Without the space after the last word.
        starts.iter().zip(ends).map(|(&start, &end)| &self.list.bytes[start..end - 1])
    }
}

impl List {
    fn push(&mut self, word: &[u8]) {
        self.bytes.extend_from_slice(word);
        self.bytes.push(b' ');
        self.starts.push(self.bytes.len());
    }

    fn push_parts(&mut self, parts: &str) {
        parts.split(' ').for_each(|part| self.push(part.as_bytes()));
    }

    /// Adds the words of a run of characters without space.
    fn cut(&mut self, run: &[u8], traits: Traits) {
        let ends_in_unit = traits.number && run.last() != Some(&b'0');
        if traits.cuts || ends_in_unit {
            // Always whole characters.
            self.cut_closely(std::str::from_utf8(run).unwrap_or_default());
        } else if let Some(parts) = special(run) {
            self.push_parts(parts);
        } else {
            self.push(run);
        }
    }

    fn cut_closely(&mut self, mut run: &str) {
        let first = self.starts.len() - 1;
        // From the outside in, a prefix and a suffix at a time, until a special case is left.
        let mut suffixes = Vec::new();
        let mut before = usize::MAX;
        while !run.is_empty() && run.len() != before && special(run.as_bytes()).is_none() {
            before = run.len();
            let (prefix, rest) = run.split_at(prefix_bytes(run));
            if is_special(rest) && !prefix.is_empty() {
                self.push(prefix.as_bytes());
                run = rest;
                break;
            }
            let suffix_at = run.len() - suffix_bytes(rest);
            let (core, suffix) = run.split_at(suffix_at);
            if !suffix.is_empty() {
                suffixes.push(suffix);
                if is_special(core) {
                    run = core;
                    break;
                }
            }
            if !prefix.is_empty() {
                self.push(prefix.as_bytes());
            }
            run = &core[prefix.len()..];
        }
        match special(run.as_bytes()) {
            Some(parts) => self.push_parts(parts),
            None => self.cut_inside(run),
        }
        suffixes.iter().rev().for_each(|suffix| self.push(suffix.as_bytes()));
        self.join_quoted_s(first);
    }

    /// Cuts around symbols and between what a comparison stands between.
    fn cut_inside(&mut self, run: &str) {
        let mut start = 0;
        let mut before = None;
        for (at, character) in run.char_indices() {
            let end = at + character.len_utf8();
            let after = run[end..].chars().next();
            let compares = matches!(character, '<' | '=' | '>')
                && before.is_some_and(|c| c == '0' || is_in(LETTERS, c))
                && after.is_some_and(|c| is_in(LETTERS, c));
            if at > 0 && (compares || is_in(ICONS, character)) {
                if start < at {
                    self.push(&run.as_bytes()[start..at]);
                }
                self.push(&run.as_bytes()[at..end]);
                start = end;
            }
            before = Some(character);
        }
        if start < run.len() {
            self.push(&run.as_bytes()[start..]);
        }
    }

    /// The special case `‘s`, which other rules may have cut.
    fn join_quoted_s(&mut self, first: usize) {
        let quoted = "‘ s ".as_bytes();
        let from = self.starts[first];
        while let Some(at) = self.bytes[from..].windows(quoted.len()).position(|w| w == quoted) {
            let at = from + at;
            let Ok(word) = self.starts.binary_search(&at) else { break };
            let space = at + '‘'.len_utf8();
            self.bytes.remove(space);
            self.starts.remove(word + 1);
            self.starts[word + 1..].iter_mut().for_each(|start| *start -= 1);
        }
    }
}

fn is_in(ranges: &[(u32, u32)], character: char) -> bool {
    let code = character as u32;
    let after = ranges.partition_point(|&(low, _)| low <= code);
    after > 0 && code <= ranges[after - 1].1
}

/// Bytes of the prefix to cut off `run`: one character or none.
fn prefix_bytes(run: &str) -> usize {
    let prefix = run
        .chars()
        .next()
        .filter(|&c| EDGES.contains(c) || PREFIXES.contains(c) || is_in(ICONS, c));
    prefix.map_or(0, char::len_utf8)
}

/// Bytes of the suffix to cut off `run`: a unit, one character or none.
fn suffix_bytes(run: &str) -> usize {
    if let Some(zero) = run.rfind('0') {
        let rest = &run[zero + 1..];
        let mut characters = rest.chars();
        let is_currency =
            characters.next().is_some_and(|c| CURRENCY.contains(c)) && characters.next().is_none();
        if is_currency || UNITS.contains(&rest) {
            return rest.len();
        }
    }
    let suffix = run.chars().next_back().filter(|&c| EDGES.contains(c) || is_in(ICONS, c));
    suffix.map_or(0, char::len_utf8)
}

/// The parts of a special case, separated by spaces.
fn special(run: &[u8]) -> Option<&'static str> {
    static SPECIAL: LazyLock<Specials> = LazyLock::new(Specials::new);
    SPECIAL.get(run)
}

fn is_special(run: &str) -> bool {
    special(run.as_bytes()).is_some() || run == "‘s"
}

/// A hash table for words of up to 16 bytes: asked for every word.
struct Specials {
    /// `(word, padded with zeros; its parts)`, linear probing; 0 is free.
    slots: Vec<(u128, &'static str)>,
}

impl Specials {
    const SLOTS: usize = 1024;

    fn new() -> Self {
        let mut table = Self { slots: vec![(0, ""); Self::SLOTS] };
        for parts in SPLITS {
            let key = Self::key(parts.replace(' ', "").as_bytes());
            let slot = table.find(key);
            table.slots[slot] = (key, parts);
        }
        table
    }

    fn key(word: &[u8]) -> u128 {
        let mut padded = [0; 16];
        let length = word.len().min(16);
        padded[..length].copy_from_slice(&word[..length]);
        u128::from_le_bytes(padded)
    }

    /// The slot of `key`, or a free one.
    fn find(&self, key: u128) -> usize {
        let folded = (key as u64 ^ (key >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut slot = (folded >> 54) as usize;
        while self.slots[slot].0 != key && self.slots[slot].0 != 0 {
            slot = (slot + 1) % Self::SLOTS;
        }
        slot
    }

    fn get(&self, word: &[u8]) -> Option<&'static str> {
        if word.len() > 16 || word.is_empty() {
            return None;
        }
        let key = Self::key(word);
        let (found, parts) = self.slots[self.find(key)];
        (found == key).then_some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        let mut words = Words::default();
        words.split(text);
        let list: Vec<_> = words.grams(1).map(|word| std::str::from_utf8(word).unwrap()).collect();
        list.join("|")
    }

    /// All expected values were printed by spaCy's blank English tokenizer behind datatrove.
    #[test]
    fn equals_spacy() {
        for (text, expected) in [
            ("I cannot; don't DONT thats", "i|can|not|don|t|do|nt|that|s"),
            ("5km 3.5kg x5km 5 km 7m² 9мм", "0|km|0|kg|x0|km|0|km|0|m²|0|мм"),
            ("£5 5€ 5$ a€ €a 5£€", "£|0|0|€|0|a€|€|a|0£€"),
            ("©2020 foo©bar ©cannot© a©®b", "©|0|foo|©|bar|©|can|not|©|a|©|®|b"),
            ("a≠b 1≠x x≠1 ≠x x≠", "a|=|b|0|=|x|x=0|=|x|x="),
            ("‘s ‘so‘ foo‘s ‘s©b ©‘s©", "‘s|‘|so|‘|foo‘s|‘s|©|b|©|‘s|©"),
            ("°c 5°C 20°", "°|c|0|°|c|0|°"),
            ("→x→ → →cannot ⎖", "→x→|→|→cannot|⎖"),
            ("§5 ·a· ¿que¿", "§|0|·|a|·|¿|que|¿"),
            ("👍👍ok👍 x👍🏽y", "👍|👍|ok|👍|x|👍|🏽y"),
            ("x≠cannot 0g0g g0 0gb©", "x|=|cannot|0g0|g|g0|0|gb|©"),
            // A note that decomposes into a symbol and a stem.
            ("x\u{1d15e}y", "x|\u{1d157}|\u{1d165}y"),
            ("", ""),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn grams_are_joined_by_spaces() {
        let mut words = Words::default();
        words.split("a b c");
        assert_eq!(words.grams(2).collect::<Vec<_>>(), [b"a b", b"b c"]);
        assert_eq!(words.grams(4).count(), 0);
        words.split("d");
        assert_eq!(words.grams(1).collect::<Vec<_>>(), [b"d"]);
    }
}
