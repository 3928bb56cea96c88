//! Windows: every run of n tokens of a text, hashed, to find substrings that repeat.
//!
//! A token is a run of letters, digits and `_`, or one other character that is not white space;
//! in scripts without spaces (Chinese, Japanese, Thai, …) each character is a token. A window is
//! the bytes from the start of its first token to the end of its last, exactly as they stand.
//!
//! A substring of at least n tokens occurs twice if and only if each of its windows does: the
//! union of the repeated windows is the union of all repeated substrings, as a suffix array would
//! find them, but windows can be sorted in pieces of any size and need no merge.
//! Compare: Lee et al., *Deduplicating Training Data Makes Language Models Better*, ACL 2022.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

/// Finds the windows of texts; keeps its buffers from text to text.
#[derive(Debug, Default)]
pub struct Windows {
    tokens: Vec<Range<u32>>,
    /// Hash of each token with what follows it up to the next.
    hashes: Vec<u64>,
}

/// Polynomials modulo a prime, at two points: no text is known for which both collide.
const PRIME: u64 = (1 << 61) - 1;
const BASES: [u64; 2] = [0x1e37_79b9_7f4a_7c15, 0x02b2_ae3d_27d4_eb4f];

fn times(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    reduce((product >> 61) as u64 + (product as u64 & PRIME))
}

/// Below the prime again, from below twice the prime.
fn reduce(sum: u64) -> u64 {
    if sum >= PRIME { sum - PRIME } else { sum }
}

impl Windows {
    /// Calls `each` with the bytes and the hash of every window of `tokens` tokens, in order.
    ///
    /// Cost: one pass to find the tokens, one hash of each, a few operations a window.
    pub fn windows(&mut self, text: &str, tokens: usize, mut each: impl FnMut(Range<u32>, u128)) {
        self.tokens.clear();
        self.hashes.clear();
        split(text, &mut self.tokens);
        let width = tokens.max(1);
        if self.tokens.len() < width {
            return;
        }
        let bytes = text.as_bytes();
        let hash = |range: Range<u32>| xxh3_64(&bytes[range.start as usize..range.end as usize]);
        let pairs = self.tokens.windows(2);
        self.hashes.extend(pairs.map(|pair| hash(pair[0].start..pair[1].start)));

        // All tokens of a window but the last, with the gaps after them: a polynomial that rolls.
        let inner = width - 1;
        let mut sums = [0_u64; 2];
        let powers = BASES.map(|base| (1..inner).fold(1_u64, |power, _| times(power, base)));
        for (sum, base) in sums.iter_mut().zip(BASES) {
            let first = &self.hashes[..inner];
            *sum = first.iter().fold(0, |sum, &hash| reduce(times(sum, base) + reduce(hash >> 3)));
        }
        for (first, last) in (inner..self.tokens.len()).enumerate() {
            let end = hash(self.tokens[last].clone());
            let [high, low] = sums.map(|sum| finish(sum, end));
            let range = self.tokens[first].start..self.tokens[last].end;
            each(range, u128::from(high) << 64 | u128::from(low));
            if inner > 0 && last + 1 < self.tokens.len() {
                let (old, new) = (self.hashes[first], self.hashes[last]);
                for ((sum, base), power) in sums.iter_mut().zip(BASES).zip(powers) {
                    let rest = reduce(*sum + PRIME - times(reduce(old >> 3), power));
                    *sum = reduce(times(rest, base) + reduce(new >> 3));
                }
            }
        }
    }
}

/// Adds the last token and spreads the result over all bits.
fn finish(sum: u64, end: u64) -> u64 {
    let product = u128::from(sum ^ end.rotate_left(32)) * 0x9fb2_1c65_1e98_df25;
    ((product >> 64) as u64 ^ product as u64).wrapping_add(end)
}

#[derive(PartialEq, Eq)]
enum Kind {
    Space,
    Word,
    Single,
}

fn kind(character: char) -> Kind {
    match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => Kind::Word,
        _ if character.is_whitespace() => Kind::Space,
        // Scripts that put no spaces between words.
        '\u{e00}'..='\u{eff}'
        | '\u{1000}'..='\u{109f}'
        | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}' => Kind::Single,
        _ if character.is_alphanumeric() => Kind::Word,
        _ => Kind::Single,
    }
}

fn split(text: &str, tokens: &mut Vec<Range<u32>>) {
    let mut in_word = false;
    for (at, character) in text.char_indices() {
        // A text of 4 GiB is refused long before: records are bounded.
        let at = at as u32;
        let end = at + character.len_utf8() as u32;
        let kind = kind(character);
        match tokens.last_mut() {
            Some(last) if kind == Kind::Word && in_word => last.end = end,
            _ if kind == Kind::Space => {}
            _ => tokens.push(at..end),
        }
        in_word = kind == Kind::Word;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn windows(text: &str, tokens: usize) -> Vec<(&str, u128)> {
        let mut found = Vec::new();
        Windows::default().windows(text, tokens, |range, hash| {
            found.push((&text[range.start as usize..range.end as usize], hash));
        });
        found
    }

    #[test]
    fn tokens_are_words_and_single_characters() {
        let found: Vec<&str> = windows("It's  今天, ok_1", 1).into_iter().map(|(w, _)| w).collect();
        assert_eq!(found, ["It", "'", "s", "今", "天", ",", "ok_1"]);
        let found: Vec<&str> = windows(" a b  c ", 2).into_iter().map(|(w, _)| w).collect();
        assert_eq!(found, ["a b", "b  c"]);
        assert!(windows("a b", 3).is_empty());
    }

    proptest! {
        /// Over a whole run: equal bytes and only those have equal hashes.
        #[test]
        fn hashes_are_equal_if_and_only_if_windows_are(
            text in "[ab ,今]{0,120}",
            tokens in 1..6_usize,
        ) {
            let mut by_hash: HashMap<u128, &str> = HashMap::new();
            let mut by_text: HashMap<&str, u128> = HashMap::new();
            for (window, hash) in windows(&text, tokens) {
                prop_assert_eq!(*by_hash.entry(hash).or_insert(window), window);
                prop_assert_eq!(*by_text.entry(window).or_insert(hash), hash);
            }
        }
    }
}
