//! Lines and paragraphs: the pieces of a text that may repeat across a corpus.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::exact::ExactHasher;

/// What a text is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Piece {
    /// Up to and with a line feed.
    Line,
    /// Up to and with the blank lines after it.
    Paragraph,
}

/// Calls `each` with the bytes and the hash of every piece of `text` that is not blank, in order.
///
/// Hashes are those of [`ExactHasher`]: white space counts as one space.
pub fn pieces(
    text: &str,
    piece: Piece,
    hasher: &mut ExactHasher,
    mut each: impl FnMut(Range<usize>, u128),
) {
    let mut start = 0;
    let mut at = 0;
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        at += line.len();
        // A paragraph goes on until a blank line is followed by one that is not.
        let blank = line.trim_ascii().is_empty();
        let ends = match (piece, lines.peek()) {
            (Piece::Line, _) | (_, None) => true,
            (Piece::Paragraph, Some(next)) => blank && !next.trim_ascii().is_empty(),
        };
        if ends {
            let whole = &text[start..at];
            if !whole.trim_ascii().is_empty() {
                each(start..at, hasher.hash(whole));
            }
            start = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str, piece: Piece) -> Vec<&str> {
        let mut found = Vec::new();
        pieces(text, piece, &mut ExactHasher::default(), |range, _| found.push(&text[range]));
        found
    }

    #[test]
    fn lines_and_paragraphs() {
        let text = "a\n\nb c\n d\n \n\ne";
        assert_eq!(cut(text, Piece::Line), ["a\n", "b c\n", " d\n", "e"]);
        assert_eq!(cut(text, Piece::Paragraph), ["a\n\n", "b c\n d\n \n\n", "e"]);
        assert!(cut(" \n\n", Piece::Paragraph).is_empty());
        assert_eq!(cut("\n\na", Piece::Paragraph), ["a"]);
    }

    proptest! {
        #[test]
        fn nothing_but_blanks_lies_between_pieces(text in "[ab \n]{0,60}") {
            for piece in [Piece::Line, Piece::Paragraph] {
                let mut end = 0;
                pieces(&text, piece, &mut ExactHasher::default(), |range, _| {
                    assert!(text[end..range.start].trim().is_empty());
                    end = range.end;
                });
                prop_assert!(text[end..].trim().is_empty());
            }
        }
    }
}
