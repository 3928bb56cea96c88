//! NumPy: `shard-N.npy`, the tokens as one array, and `shard-N.offsets.npy`, where documents begin
//! and end.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 6 | `\x93NUMPY` |
//! | 6 | 2 | version 1.0 |
//! | 8 | 2 | u16 118, bytes of the text |
//! | 10 | 118 | `{'descr': '<u2', 'fortran_order': False, 'shape': (N,), }`, spaces, a line feed |
//! | 128 | | the values |
//!
//! Tokens are `<u2` for vocabularies up to 65 536 and `<u4` for larger ones; the offsets are `<u8`,
//! documents + 1 of them from 0. These are the bytes that `numpy.save` writes.
//! Source: `numpy/lib/format.py`.

use super::flat::{Sidecar, Unit, Wrong, numbers, parts};
use super::token::TokenType;
use crate::writer::Row;

pub(super) const HEADER_BYTES: usize = 128;
const OFFSETS: &str = "<u8";

pub(super) fn files(number: usize) -> Vec<String> {
    ["npy", "offsets.npy"].map(|suffix| format!("shard-{number:05}.{suffix}")).to_vec()
}

pub(super) fn descr(token_type: TokenType) -> &'static str {
    match token_type.bytes() {
        2 => "<u2",
        _ => "<u4",
    }
}

/// Of an array of `length` values.
pub(super) fn header(descr: &str, length: u64) -> Vec<u8> {
    const TEXT_BYTES: usize = HEADER_BYTES - 10;
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({length},), }}");
    let text = format!("{text:<width$}\n", width = TEXT_BYTES - 1);
    [b"\x93NUMPY\x01\x00", &(TEXT_BYTES as u16).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Where documents begin and end.
pub(super) struct Offsets {
    tokens: u64,
    offsets: Vec<u64>,
}

impl Offsets {
    pub(super) fn new() -> Self {
        Self { tokens: 0, offsets: vec![0] }
    }
}

impl Sidecar for Offsets {
    fn push(&mut self, row: &Row<'_>) -> Result<(), [String; 3]> {
        self.tokens += row.tokens.len() as u64;
        self.offsets.push(self.tokens);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Vec<Vec<u8>> {
        let header = header(OFFSETS, self.offsets.len() as u64);
        vec![[&header[..], bytemuck::cast_slice(&self.offsets)].concat()]
    }
}

pub(super) fn read(token_type: TokenType, files: &[&[u8]]) -> Result<Unit, Wrong> {
    let [tokens, offsets] = parts(files)?;
    array(0, tokens, descr(token_type), token_type.bytes())?;
    let offsets = numbers(1, array(1, offsets, OFFSETS, size_of::<u64>())?)?;
    let Some((0, ends)) = offsets.split_first().map(|(&first, ends)| (first, ends)) else {
        return Err(Wrong::new(1, "first offset", 0, format!("{:?}", offsets.first())));
    };
    let unit = Unit::of_ends(ends.iter().copied())?;
    Ok(Unit { first_byte: HEADER_BYTES, ..unit })
}

/// The values of an array, if its header is the one we write for so many.
fn array<'a>(file: usize, bytes: &'a [u8], descr: &str, width: usize) -> Result<&'a [u8], Wrong> {
    let (found, values) = bytes.split_at(bytes.len().min(HEADER_BYTES));
    let expected = header(descr, (values.len() / width) as u64);
    if found != expected {
        let show = |bytes: &[u8]| bytes.escape_ascii().to_string().trim_end().to_owned();
        return Err(Wrong::new(file, "header", show(&expected), show(found)));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::flat::row;

    const U16: TokenType = TokenType::U16;

    #[test]
    fn offsets_begin_at_zero_and_rise() {
        let mut sidecar = Box::new(Offsets::new());
        for tokens in [&[1, 2, 3][..], &[], &[4]] {
            sidecar.push(&row("a", tokens)).unwrap();
        }
        let offsets = sidecar.finish().remove(0);
        let tokens = [&header("<u2", 4)[..], &[0; 8]].concat();
        let unit = read(U16, &[&tokens, &offsets]).unwrap();
        assert_eq!((unit.lengths, unit.first_byte), (vec![3, 0, 1], 128));
        let wrong = |tokens: &[u8], offsets: &[u8]| read(U16, &[tokens, offsets]).unwrap_err().file;
        assert_eq!(wrong(&tokens[..134], &offsets), 0, "header says 4");
        assert_eq!(wrong(&tokens, &offsets[..152]), 1, "header says 4");
        assert_eq!(wrong(&tokens, &[]), 1);
        let shifted = [&header("<u8", 4)[..], &offsets[136..], &offsets[152..160]].concat();
        assert_eq!(wrong(&tokens, &shifted), 1, "first is not 0");
        assert!(read(TokenType::U32, &[&tokens, &offsets]).is_err());
    }

    #[test]
    fn the_longest_length_fits_into_the_header() {
        assert_eq!(header("<u4", u64::MAX).len(), HEADER_BYTES);
    }
}
