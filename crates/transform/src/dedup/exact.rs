//! Equal documents: 128 bits of the text with white space normalised.

use xxhash_rust::xxh3::xxh3_128;

/// Hashes `text` after normalisation: runs of ASCII white space count as one space, none at the
/// ends. So line ends, indentation and trailing blanks do not make a document new.
///
/// xxh3-128, seed 0. 2⁶⁴ documents would be needed for an even chance of one false match.
/// `scratch` is working memory, used again and again. Cost: one pass.
pub fn hash(text: &str, scratch: &mut Vec<u8>) -> u128 {
    scratch.clear();
    for word in text.as_bytes().split(u8::is_ascii_whitespace) {
        if !word.is_empty() {
            if !scratch.is_empty() {
                scratch.push(b' ');
            }
            scratch.extend_from_slice(word);
        }
    }
    xxh3_128(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_white_space_may_differ() {
        let hash = |text| hash(text, &mut Vec::new());
        assert_eq!(hash("a b\r\n\tc "), hash("a b c"));
        assert_eq!(hash(" \n"), hash(""));
        assert_ne!(hash("a b"), hash("ab"));
        assert_ne!(hash("a b"), hash("A b"));
    }
}
