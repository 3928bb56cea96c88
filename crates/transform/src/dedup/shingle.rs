//! Shingles: hashes of every run of n words.
//!
//! A word is a maximal run of alphanumeric characters (Unicode) or `_`, lower-cased character by
//! character. A shingle is xxh3-64 of n consecutive words joined by single spaces. A document of
//! 1 to n - 1 words has one shingle of them all; one without words has none.

use xxhash_rust::xxh3::xxh3_64;

/// Cuts texts into shingles; keeps its buffers from text to text.
#[derive(Debug, Default)]
pub struct Shingler {
    /// The words, lower-cased, each followed by a space.
    words: Vec<u8>,
    /// Where each word starts in `words`; one more for the end.
    starts: Vec<u32>,
}

/// What a byte of ASCII becomes: itself in lower case, or 0 between words.
const LOWER: [u8; 128] = {
    let mut table = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        let character = byte as u8;
        if character.is_ascii_alphanumeric() || character == b'_' {
            table[byte] = character.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

impl Shingler {
    /// Calls `each` with the hash of every shingle of `text`, in order, repeats included.
    ///
    /// Cost: one pass to find words, one hash of the words' bytes a shingle.
    pub fn shingles(&mut self, text: &str, ngram: usize, mut each: impl FnMut(u64)) {
        self.split(text);
        let words = self.starts.len() - 1;
        if words == 0 {
            return;
        }
        let width = ngram.max(1).min(words);
        for (first, end) in self.starts.iter().zip(&self.starts[width..]) {
            // Without the space after the last word.
            each(xxh3_64(&self.words[*first as usize..*end as usize - 1]));
        }
    }

    fn split(&mut self, text: &str) {
        self.words.clear();
        self.starts.clear();
        self.starts.push(0);
        let bytes = text.as_bytes();
        let mut at = 0;
        let mut in_word = false;
        while at < bytes.len() {
            let byte = bytes[at];
            if byte < 128 {
                let lower = LOWER[byte as usize];
                at += 1;
                if lower != 0 {
                    self.words.push(lower);
                    in_word = true;
                    continue;
                }
            } else {
                let character = text[at..].chars().next().unwrap_or_default();
                at += character.len_utf8();
                if character.is_alphanumeric() {
                    for lower in character.to_lowercase() {
                        self.words.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    in_word = true;
                    continue;
                }
            }
            if in_word {
                self.end_word();
                in_word = false;
            }
        }
        if in_word {
            self.end_word();
        }
    }

    fn end_word(&mut self) {
        self.words.push(b' ');
        // A text of 4 GiB is refused long before: records are bounded.
        self.starts.push(u32::try_from(self.words.len()).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word for word.
    fn oracle(text: &str, ngram: usize) -> Vec<u64> {
        let lower: String = text
            .chars()
            .flat_map(|c| {
                let word = c.is_alphanumeric() || c == '_';
                if word { c.to_lowercase().collect::<Vec<_>>() } else { vec!['\0'] }
            })
            .collect();
        let words: Vec<&str> = lower.split('\0').filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Vec::new();
        }
        words.windows(ngram.min(words.len())).map(|w| xxh3_64(w.join(" ").as_bytes())).collect()
    }

    fn shingles(text: &str, ngram: usize) -> Vec<u64> {
        let mut found = Vec::new();
        Shingler::default().shingles(text, ngram, |shingle| found.push(shingle));
        found
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

    proptest! {
        #[test]
        fn equals_the_definition(text in "[a-cA-C _.\u{e9}\u{130}\u{3b1}-\u{3c9}\u{4e00}-\u{4e05}\u{1f600}]{0,60}", n in 1..7_usize) {
            prop_assert_eq!(shingles(&text, n), oracle(&text, n));
        }

        #[test]
        fn equals_the_definition_on_anything(text: String) {
            prop_assert_eq!(shingles(&text, 2), oracle(&text, 2));
        }
    }
}
