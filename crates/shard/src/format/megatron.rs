//! Megatron-LM: `shard-N.bin` and `shard-N.idx`.
//!
//! `.bin`: token ids end to end, no header, no padding; u16 for vocabularies below 65 500, i32 for
//! larger ones. `.idx`, with S sequences, D documents:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 9 | `MMIDIDX\0\0` |
//! | 9 | 8 | u64 version, 1 |
//! | 17 | 1 | type of a token: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 6 f64, 7 f32, 8 u16 |
//! | 18 | 8 | u64 S |
//! | 26 | 8 | u64 D + 1 |
//! | 34 | 4 · S | i32 tokens of each sequence |
//! | 34 + 4 S | 8 · S | i64 byte of `.bin` where each begins |
//! | 34 + 12 S | 8 · (D + 1) | i64 first sequence of each document; 0 first, S last |
//! | | S | i8 mode of each sequence, in multimodal datasets alone |
//!
//! We write a sequence a document. We read several a document, lying anywhere in `.bin`.
//! Source: `megatron/core/datasets/indexed_dataset.py` of megatron-core 0.16.

use super::flat::{Sidecar, Unit, Wrong, parts};
use super::token::TokenType;
use crate::writer::Row;

const MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
const VERSION: u64 = 1;
const HEADER_BYTES: usize = 34;
/// Vocabularies from here on need i32: Megatron's own rule, though u16 holds 36 ids more.
const WIDE: u64 = 65_500;

pub(super) fn files(number: usize) -> Vec<String> {
    ["bin", "idx"].map(|suffix| format!("shard-{number:05}.{suffix}")).to_vec()
}

pub(super) fn token_type(vocab_size: u64) -> TokenType {
    if vocab_size < WIDE { TokenType::U16 } else { TokenType::I32 }
}

/// By the code in the index; `None` stands for no integer.
fn by_code(code: u8) -> Option<TokenType> {
    Some(match code {
        1 => TokenType::U8,
        2 => TokenType::I8,
        3 => TokenType::I16,
        4 => TokenType::I32,
        5 => TokenType::I64,
        8 => TokenType::U16,
        _ => return None,
    })
}

/// Tokens of every document, on the way to the index.
pub(super) struct Lengths {
    token_type: TokenType,
    lengths: Vec<i32>,
}

impl Lengths {
    pub(super) fn new(token_type: TokenType) -> Self {
        Self { token_type, lengths: Vec::new() }
    }
}

impl Sidecar for Lengths {
    fn push(&mut self, row: &Row<'_>) -> Result<(), [String; 3]> {
        let tokens = row.tokens.len();
        let length = i32::try_from(tokens).map_err(|_| {
            ["tokens".into(), format!("at most {} in a sequence", i32::MAX), tokens.to_string()]
        })?;
        self.lengths.push(length);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Vec<Vec<u8>> {
        let code = (1..=8).find(|&code| by_code(code) == Some(self.token_type)).unwrap_or(0);
        let sequences = self.lengths.len() as u64;
        let mut index = Vec::with_capacity(HEADER_BYTES + 20 * self.lengths.len() + 8);
        index.extend_from_slice(&MAGIC);
        index.extend_from_slice(&VERSION.to_le_bytes());
        index.push(code);
        index.extend_from_slice(&sequences.to_le_bytes());
        index.extend_from_slice(&(sequences + 1).to_le_bytes());
        index.extend_from_slice(bytemuck::cast_slice(&self.lengths));
        let mut byte = 0_u64;
        for length in &self.lengths {
            index.extend_from_slice(&byte.to_le_bytes());
            byte += u64::from(length.unsigned_abs()) * self.token_type.bytes() as u64;
        }
        (0..=sequences).for_each(|first| index.extend_from_slice(&first.to_le_bytes()));
        vec![index]
    }
}

/// An index, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Idx {
    pub(crate) token_type: TokenType,
    /// First byte and tokens of each sequence.
    pub(crate) sequences: Vec<(u64, u32)>,
    pub(crate) documents: u64,
}

impl Idx {
    /// Takes an `.idx` apart and checks it against a `.bin` of so many bytes.
    ///
    /// # Errors
    /// Whatever would send a reader astray; file 0 is the `.bin`, file 1 the `.idx`.
    pub(crate) fn parse(idx: &[u8], bin_bytes: u64) -> Result<Self, Wrong> {
        let Some((header, rest)) = idx.split_at_checked(HEADER_BYTES) else {
            let found = format!("{} B", idx.len());
            return Err(Wrong::new(1, "size", format!("≥ {HEADER_BYTES} B"), found));
        };
        if header[..9] != MAGIC {
            let found = header[..9].escape_ascii();
            return Err(Wrong::new(1, "first bytes", MAGIC.escape_ascii(), found));
        }
        let number =
            |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or([0; 8]));
        if number(9) != VERSION {
            return Err(Wrong::new(1, "version", VERSION, number(9)));
        }
        let code = header[17];
        let token_type = by_code(code).ok_or_else(|| {
            let expected = "the code of an integer type, 1 to 5 or 8";
            let found = match code {
                6 => "6 (f64)".to_owned(),
                7 => "7 (f32)".into(),
                other => other.to_string(),
            };
            let wrong = Wrong::new(1, "type of a token", expected, found);
            Wrong { sound: matches!(code, 6 | 7), ..wrong }
        })?;
        let (count, bounds) = (number(18), number(26));
        let size = count
            .checked_mul(12)
            .and_then(|bytes| bounds.checked_mul(8)?.checked_add(bytes))
            .filter(|_| bounds > 0);
        let found = rest.len() as u64;
        if size.and_then(|size| size.checked_add(count)) == Some(found) && count > 0 {
            let found = format!("{count} B more, a mode a sequence (multimodal)");
            let wrong = Wrong::new(1, "end", "the last document", found);
            return Err(Wrong { sound: true, ..wrong });
        }
        if size != Some(found) {
            let counts = format!("{count} sequences, {bounds} document bounds");
            let expected = size.map_or("less".into(), |size| format!("{size} B"));
            let found = format!("{found} B");
            return Err(Wrong::new(
                1,
                format!("size after the header ({counts})"),
                expected,
                found,
            ));
        }
        let (lengths, rest) = rest.split_at(usize::try_from(4 * count).unwrap_or(0));
        let (bytes, bounds) = rest.split_at(usize::try_from(8 * count).unwrap_or(0));
        let width = token_type.bytes() as u64;
        let lengths = lengths.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes));
        let bytes = bytes.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes));
        let mut sequences = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        for (number, (length, first)) in lengths.zip(bytes).enumerate() {
            let Ok(tokens) = u32::try_from(length) else {
                return Err(Wrong::new(1, format!("tokens of sequence {number}"), "≥ 0", length));
            };
            let end =
                u64::try_from(first).ok().and_then(|at| at.checked_add(width * u64::from(tokens)));
            if end.is_none_or(|end| end > bin_bytes) {
                let found = format!("{tokens} tokens of {width} B from byte {first}");
                let what = format!("sequence {number}");
                return Err(Wrong::new(0, what, format!("to end by byte {bin_bytes}"), found));
            }
            sequences.push((first.unsigned_abs(), tokens));
        }
        let bounds = bounds.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes));
        let mut last = 0;
        for (document, bound) in bounds.clone().enumerate() {
            let least = if document == 0 { 0..=0 } else { last..=count };
            let Some(bound) = u64::try_from(bound).ok().filter(|bound| least.contains(bound))
            else {
                let expected = format!("a sequence from {} to {}", least.start(), least.end());
                return Err(Wrong::new(
                    1,
                    format!("bound {document} of the documents"),
                    expected,
                    bound,
                ));
            };
            last = bound;
        }
        if last != count {
            return Err(Wrong::new(1, "last bound of the documents", count, last));
        }
        Ok(Self { token_type, sequences, documents: bounds.len() as u64 - 1 })
    }
}

/// As we write it: a sequence a document, one after the other.
pub(super) fn read(token_type: TokenType, files: &[&[u8]]) -> Result<Unit, Wrong> {
    let [bin, idx] = parts(files)?;
    let idx = Idx::parse(idx, bin.len() as u64)?;
    if idx.token_type != token_type {
        return Err(Wrong::new(1, "type of a token", token_type.name(), idx.token_type.name()));
    }
    if idx.documents != idx.sequences.len() as u64 {
        return Err(Wrong::new(1, "sequences", idx.documents, idx.sequences.len()));
    }
    let mut byte = 0;
    for (number, &(first, tokens)) in idx.sequences.iter().enumerate() {
        if first != byte {
            return Err(Wrong::new(1, format!("first byte of sequence {number}"), byte, first));
        }
        byte += u64::from(tokens) * token_type.bytes() as u64;
    }
    let lengths = idx.sequences.iter().map(|&(_, tokens)| tokens.into()).collect();
    Ok(Unit { lengths, ..Unit::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::flat::row;

    fn idx(token_type: TokenType, lengths: &[usize]) -> Vec<u8> {
        let mut sidecar = Box::new(Lengths::new(token_type));
        lengths.iter().for_each(|&n| sidecar.push(&row("a", &vec![0; n])).unwrap());
        sidecar.finish().remove(0)
    }

    #[test]
    fn what_is_written_is_read() {
        let parsed = Idx::parse(&idx(TokenType::I32, &[3, 0, 2]), 20).unwrap();
        assert_eq!(parsed.sequences, [(0, 3), (12, 0), (12, 2)]);
        assert_eq!((parsed.token_type, parsed.documents), (TokenType::I32, 3));
        assert_eq!(Idx::parse(&idx(TokenType::U16, &[]), 0).unwrap().documents, 0);
    }

    /// Whatever byte is changed: an error or a sane index, never a panic or a read past the end.
    #[test]
    fn a_changed_index_is_refused_or_harmless() {
        let sound = idx(TokenType::U16, &[3, 0, 2]);
        for at in 0..sound.len() {
            for change in [1, 0x7f, 0x80, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] ^= change;
                if let Ok(idx) = Idx::parse(&bytes, 10) {
                    let width = idx.token_type.bytes() as u64;
                    let fits = |&(at, n): &(u64, u32)| at + width * u64::from(n) <= 10;
                    assert!(idx.sequences.iter().all(fits), "byte {at}");
                }
            }
        }
        for end in 0..sound.len() {
            assert!(Idx::parse(&sound[..end], 10).is_err(), "cut at {end}");
        }
        assert_eq!(Idx::parse(&sound, 9).unwrap_err().file, 0);
        let multimodal = [&sound[..], &[0; 3]].concat();
        assert!(Idx::parse(&multimodal, 10).unwrap_err().found.contains("multimodal"));
    }
}
