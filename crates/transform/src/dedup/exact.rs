//! Equal documents: 128 bits of the text with white space normalised.

use forebay_shard::simd::{BLOCK, Isa, Work, block, flags, lowest, run};
use xxhash_rust::xxh3::xxh3_128;

/// Hashes texts; keeps its buffer from text to text.
#[derive(Debug, Default)]
pub struct ExactHasher {
    squeezed: Vec<u8>,
}

impl ExactHasher {
    /// Hashes `text` after normalisation: runs of ASCII white space count as one space, none at
    /// the ends. So line ends, indentation and trailing blanks do not make a document new.
    ///
    /// xxh3-128, seed 0. 2⁶⁴ documents would be needed for an even chance of one false match.
    /// Cost: one pass.
    pub fn hash(&mut self, text: &str) -> u128 {
        self.squeezed.clear();
        run(Squeeze { text, to: &mut self.squeezed });
        xxh3_128(&self.squeezed)
    }
}

struct Squeeze<'a> {
    text: &'a str,
    to: &'a mut Vec<u8>,
}

impl Work for Squeeze<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { text, to } = self;
        to.reserve(text.len() + BLOCK);
        // As if a space came before: none is kept at the start.
        let mut after_space = 1;
        for chunk in text.as_bytes().chunks(BLOCK) {
            let mut bytes = block(chunk, b' ');
            let flags = flags(&bytes, is_space);
            let spaces = isa.gather(&flags);
            for (byte, flag) in bytes.iter_mut().zip(flags) {
                *byte = *byte & !flag | b' ' & flag;
            }
            let keep = !(spaces & (spaces << 1 | after_space)) & lowest(chunk.len() as u32);
            after_space = spaces >> (BLOCK - 1);
            isa.append(&bytes, keep, to);
        }
        if to.last() == Some(&b' ') {
            to.pop();
        }
    }
}

#[inline(always)]
fn is_space(byte: u8) -> bool {
    // `|` instead of `||`: no branches, so that blocks are compared at once.
    (byte == b' ') | (byte.wrapping_sub(b'\t') < 5) & (byte != 0x0b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(text: &str) -> u128 {
        ExactHasher::default().hash(text)
    }

    #[test]
    fn only_white_space_may_differ() {
        assert_eq!(hash("a b\r\n\tc "), hash("a b c"));
        assert_eq!(hash(" \n"), hash(""));
        assert_ne!(hash("a b"), hash("ab"));
        assert_ne!(hash("a b"), hash("A b"));
        assert_eq!(hash("a b"), xxh3_128(b"a b"));
    }

    proptest! {
        #[test]
        fn equals_the_definition(text in "[a-c \t\n\r\u{c}\u{b}é]{0,300}", more: String) {
            for text in [text.clone(), format!("{text}{more}{text}")] {
                let words: Vec<&str> = text
                    .split(|c: char| c.is_ascii_whitespace())
                    .filter(|word| !word.is_empty())
                    .collect();
                prop_assert_eq!(hash(&text), xxh3_128(words.join(" ").as_bytes()));
            }
        }
    }
}
