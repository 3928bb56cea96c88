//! datatrove and nanotron: `NNNNN_unshuffled.ds`, or `NNNNN_00000_doc_shuffled.ds` if documents
//! are shuffled, with two files beside it.
//!
//! | file | content |
//! |---|---|
//! | `.ds` | token ids end to end, no header; u16 for vocabularies up to 65 536, u32 for larger ones |
//! | `.ds.index` | u64 for each document: where it ends, in tokens of this file; no count, no leading 0 |
//! | `.ds.metadata` | three lines, the last without an end: `TOKENIZER\|BYTES_OF_A_TOKEN`; tokens; tokens for people, such as `1.63 MT` |
//!
//! Source: `datatrove/pipeline/tokens/tokenizer.py` of datatrove 0.10.1.

use super::flat::{Sidecar, Unit, Wrong, numbers, parts};
use super::token::TokenType;
use crate::writer::Row;

pub(super) const SUFFIXES: [&str; 3] = [".ds", ".ds.index", ".ds.metadata"];

pub(super) fn files(number: usize, shuffled: bool) -> Vec<String> {
    // The second number counts the files of one rank; ours have one each.
    let name = if shuffled { "00000_doc_shuffled" } else { "unshuffled" };
    SUFFIXES.map(|suffix| format!("{number:05}_{name}{suffix}")).to_vec()
}

/// Where documents end.
pub(super) struct Ends {
    tokenizer: String,
    token_type: TokenType,
    tokens: u64,
    index: Vec<u8>,
}

impl Ends {
    pub(super) fn new(tokenizer: &str, token_type: TokenType) -> Self {
        Self { tokenizer: tokenizer.to_owned(), token_type, tokens: 0, index: Vec::new() }
    }
}

impl Sidecar for Ends {
    fn push(&mut self, row: &Row<'_>) -> Result<(), [String; 3]> {
        self.tokens += row.tokens.len() as u64;
        self.index.extend_from_slice(&self.tokens.to_le_bytes());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Vec<Vec<u8>> {
        let (bytes, tokens) = (self.token_type.bytes(), self.tokens);
        let metadata = format!("{}|{bytes}\n{tokens}\n{}", self.tokenizer, for_people(tokens));
        vec![self.index, metadata.into_bytes()]
    }
}

/// Three digits and a prefix, as Python's `humanize.metric(tokens, unit="T")`.
fn for_people(tokens: u64) -> String {
    let mut exponent = tokens.checked_ilog10().unwrap_or(0);
    let value = |exponent: u32| tokens as f64 / 10_f64.powi((exponent / 3 * 3).cast_signed());
    let digits = |exponent: u32| 2 - (exponent % 3) as usize;
    // What is rounded up to one more digit begins with it.
    let rounded = format!("{:.1$}", value(exponent), digits(exponent));
    if rounded.len() > 4 || (digits(exponent) == 0 && rounded.len() > 3) {
        exponent += 1;
    }
    let prefix = ["", "k", "M", "G", "T", "P", "E"][exponent as usize / 3];
    format!("{:.*} {prefix}T", digits(exponent), value(exponent))
}

pub(super) fn read(token_type: TokenType, files: &[&[u8]]) -> Result<Unit, Wrong> {
    let [_, index, metadata] = parts(files)?;
    let unit = Unit::of_ends(numbers(1, index)?)?;
    let text = String::from_utf8_lossy(metadata);
    let found: Vec<&str> = text.rsplitn(2, '|').collect();
    let tokens = unit.tokens();
    let expected = format!("{}\n{tokens}\n{}", token_type.bytes(), for_people(tokens));
    if found.len() != 2 || found[0] != expected {
        let expected = format!("TOKENIZER|{expected}");
        return Err(Wrong::new(2, "text", format!("{expected:?}"), format!("{text:?}")));
    }
    Ok(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::flat::row;

    const U16: TokenType = TokenType::U16;

    /// Values of `humanize` 4.16.
    #[test]
    fn tokens_are_written_for_people() {
        for (tokens, expected) in [
            (0, "0.00 T"),
            (1, "1.00 T"),
            (12, "12.0 T"),
            (999, "999 T"),
            (1_000, "1.00 kT"),
            (12_345, "12.3 kT"),
            (99_950, "100 kT"),
            (999_499, "999 kT"),
            (999_500, "1.00 MT"),
            (1_634_851, "1.63 MT"),
            (9_995_000, "9.99 MT"),
            (70_026_392, "70.0 MT"),
            (1_234_567_890, "1.23 GT"),
        ] {
            assert_eq!(for_people(tokens), expected, "{tokens}");
        }
    }

    #[test]
    fn sidecars_that_contradict_each_other_are_refused() {
        let mut sidecar = Box::new(Ends::new("a|b", U16));
        for tokens in [&[1, 2, 3][..], &[], &[4]] {
            sidecar.push(&row("a", tokens)).unwrap();
        }
        let files = sidecar.finish();
        let read = |index: &[u8], metadata: &[u8]| read(U16, &[&[], index, metadata]);
        assert_eq!(read(&files[0], &files[1]).unwrap().lengths, [3, 0, 1]);
        assert_eq!(read(&files[0][8..], &files[1]).unwrap().lengths, [3, 1]);
        assert_eq!(read(&files[0][1..], &files[1]).unwrap_err().file, 1);
        assert_eq!(read(&files[0][..8], &files[1]).unwrap_err().file, 2);
        let falling = [&files[0][16..], &files[0][..8]].concat();
        assert_eq!(read(&falling, &files[1]).unwrap_err().file, 1);
        assert_eq!(read(&files[0], b"a|4\n4\n4.00 T").unwrap_err().file, 2);
    }
}
