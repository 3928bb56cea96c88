//! The integer that a token is stored as: narrow where all ids fit, checked both ways.

use serde::{Deserialize, Serialize};

/// An integer type, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TokenType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    I64,
}

impl TokenType {
    /// As in Rust.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::I64 => "i64",
        }
    }

    /// By its name in Rust or in NumPy.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "u8" | "uint8" => Self::U8,
            "i8" | "int8" => Self::I8,
            "u16" | "uint16" => Self::U16,
            "i16" | "int16" => Self::I16,
            "u32" | "uint32" => Self::U32,
            "i32" | "int32" => Self::I32,
            // No id is that large: the same bytes mean the same.
            "i64" | "int64" | "u64" | "uint64" => Self::I64,
            _ => return None,
        })
    }

    /// Bytes of one token.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// Largest id that it holds.
    pub fn largest(self) -> u32 {
        match self {
            Self::U8 => u8::MAX.into(),
            Self::I8 => i8::MAX.unsigned_abs().into(),
            Self::U16 => u16::MAX.into(),
            Self::I16 => i16::MAX.unsigned_abs().into(),
            Self::I32 => i32::MAX.unsigned_abs(),
            Self::U32 | Self::I64 => u32::MAX,
        }
    }

    /// Appends the bytes of `tokens` to `out`.
    ///
    /// # Errors
    /// The first id that it cannot hold; `out` is then as it was.
    pub fn encode(self, tokens: &[u32], out: &mut Vec<u8>) -> Result<(), u32> {
        let largest = self.largest();
        if tokens.iter().any(|&id| id > largest) {
            return Err(tokens.iter().copied().find(|&id| id > largest).unwrap_or(0));
        }
        // None is cut and none is negative, so the low bytes are the value in any of the types.
        match self.bytes() {
            1 => out.extend(tokens.iter().map(|&id| id as u8)),
            2 => narrow(tokens, out, |id| (id as u16).to_le_bytes()),
            4 => out.extend_from_slice(bytemuck::cast_slice(tokens)),
            _ => narrow(tokens, out, |id| u64::from(id).to_le_bytes()),
        }
        Ok(())
    }

    /// Fills `out` from as many tokens at the front of `bytes`.
    ///
    /// # Errors
    /// Place and value of the first one that is no id: below 0, or more than `T` holds.
    ///
    /// # Panics
    /// If there are fewer bytes than that.
    pub fn decode<T: Id>(self, bytes: &[u8], out: &mut [T]) -> Result<(), (usize, i64)> {
        // Fewer instructions a byte let more cache misses overlap: from memory AVX2 makes 1.2 times
        // as many tokens a second as what every machine has, AVX-512 1.1 to 1.2 times as many again.
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                // SAFETY: the machine has these parts of AVX-512, as was just asked.
                return unsafe { decode_avx512(self, bytes, out) };
            }
            if has!("avx2") {
                // SAFETY: the machine has AVX2, as was just asked.
                return unsafe { decode_avx2(self, bytes, out) };
            }
        }
        decode_any(self, bytes, out)
    }
}

/// An integer type that tokens are handed over as.
pub trait Id: Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// The low bytes of `value`.
    fn low(value: i64) -> Self;
    /// The id as it stands.
    fn value(self) -> i64;
}

impl Id for u32 {
    fn low(value: i64) -> Self {
        value as Self
    }

    fn value(self) -> i64 {
        self.into()
    }
}

/// Of negative ids there are none: `value` of those is one that nothing decodes to.
impl Id for i32 {
    fn low(value: i64) -> Self {
        value as Self
    }

    fn value(self) -> i64 {
        if self < 0 { i64::MIN } else { self.into() }
    }
}

/// Holds ids of u32, so that they are the same ids in every type.
impl Id for i64 {
    fn low(value: i64) -> Self {
        value
    }

    fn value(self) -> i64 {
        self & 0xffff_ffff
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn decode_avx512<T: Id>(kind: TokenType, bytes: &[u8], out: &mut [T]) -> Result<(), (usize, i64)> {
    decode_any(kind, bytes, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn decode_avx2<T: Id>(kind: TokenType, bytes: &[u8], out: &mut [T]) -> Result<(), (usize, i64)> {
    decode_any(kind, bytes, out)
}

#[inline(always)]
fn decode_any<T: Id>(kind: TokenType, bytes: &[u8], out: &mut [T]) -> Result<(), (usize, i64)> {
    let bytes = &bytes[..out.len() * kind.bytes()];
    match kind {
        TokenType::U8 => widen(bytes, out, |[byte]| i64::from(byte)),
        TokenType::I8 => widen(bytes, out, |bytes| i8::from_le_bytes(bytes).into()),
        TokenType::U16 => widen(bytes, out, |bytes| u16::from_le_bytes(bytes).into()),
        TokenType::I16 => widen(bytes, out, |bytes| i16::from_le_bytes(bytes).into()),
        TokenType::U32 => widen(bytes, out, |bytes| u32::from_le_bytes(bytes).into()),
        TokenType::I32 => widen(bytes, out, |bytes| i32::from_le_bytes(bytes).into()),
        TokenType::I64 => widen(bytes, out, i64::from_le_bytes),
    }
}

const CACHE_LINE_BYTES: usize = 64;

fn narrow<const N: usize>(tokens: &[u32], out: &mut Vec<u8>, low: impl Fn(u32) -> [u8; N]) {
    let start = out.len();
    out.resize(start + N * tokens.len(), 0);
    for (slot, &id) in out[start..].as_chunks_mut().0.iter_mut().zip(tokens) {
        *slot = low(id);
    }
}

#[inline(always)]
fn widen<const N: usize, T: Id>(
    bytes: &[u8],
    out: &mut [T],
    value: impl Fn([u8; N]) -> i64,
) -> Result<(), (usize, i64)> {
    // Stores that straddle two cache lines cost two: what comes before the first whole line goes
    // first. Tokens start at any byte, so of the loads nothing can be said.
    let head = out.as_ptr().align_offset(CACHE_LINE_BYTES).min(out.len());
    let (first, rest) = out.split_at_mut(head);
    let (first_bytes, rest_bytes) = bytes.as_chunks().0.split_at(head);
    let mut wrong = false;
    // No branch inside: this is the whole cost of reading a batch.
    for (out, bytes) in [(first, first_bytes), (rest, rest_bytes)] {
        for (slot, &bytes) in out.iter_mut().zip(bytes) {
            let value = value(bytes);
            *slot = T::low(value);
            wrong |= T::low(value).value() != value;
        }
    }
    if wrong {
        let values = bytes.as_chunks().0.iter().map(|&bytes| value(bytes));
        let found = values.enumerate().find(|&(_, value)| T::low(value).value() != value);
        return Err(found.unwrap_or_default());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [TokenType; 7] = [
        TokenType::U8,
        TokenType::I8,
        TokenType::U16,
        TokenType::I16,
        TokenType::U32,
        TokenType::I32,
        TokenType::I64,
    ];

    /// One value after the other, by the conversions of the standard library.
    fn slow(kind: TokenType, id: u32) -> Option<Vec<u8>> {
        Some(match kind {
            TokenType::U8 => u8::try_from(id).ok()?.to_le_bytes().to_vec(),
            TokenType::I8 => i8::try_from(id).ok()?.to_le_bytes().to_vec(),
            TokenType::U16 => u16::try_from(id).ok()?.to_le_bytes().to_vec(),
            TokenType::I16 => i16::try_from(id).ok()?.to_le_bytes().to_vec(),
            TokenType::U32 => id.to_le_bytes().to_vec(),
            TokenType::I32 => i32::try_from(id).ok()?.to_le_bytes().to_vec(),
            TokenType::I64 => i64::from(id).to_le_bytes().to_vec(),
        })
    }

    proptest! {
        #[test]
        fn ids_come_back_or_are_refused(
            shift in 0_u32..32,
            ids in prop::collection::vec(any::<u32>(), 0..70),
        ) {
            let ids: Vec<u32> = ids.into_iter().map(|id| id >> shift).collect();
            for kind in ALL {
                let mut bytes = vec![7];
                let expected: Option<Vec<Vec<u8>>> = ids.iter().map(|&id| slow(kind, id)).collect();
                match (kind.encode(&ids, &mut bytes), expected) {
                    (Ok(()), Some(expected)) => {
                        prop_assert_eq!(&bytes[1..], expected.concat());
                        let mut back = vec![0_u32; ids.len()];
                        kind.decode(&bytes[1..], &mut back).unwrap();
                        prop_assert_eq!(&back, &ids);
                        let mut wide = vec![0_i64; ids.len()];
                        kind.decode(&bytes[1..], &mut wide).unwrap();
                        prop_assert!(wide.iter().zip(&ids).all(|(&a, &b)| a == i64::from(b)));
                        let mut signed = vec![0_i32; ids.len()];
                        let large = ids.iter().position(|&id| i32::try_from(id).is_err());
                        let found = kind.decode(&bytes[1..], &mut signed);
                        prop_assert_eq!(found.err(), large.map(|at| (at, i64::from(ids[at]))));
                        if large.is_none() {
                            let equal = |(&a, &b): (&i32, &u32)| i64::from(a) == i64::from(b);
                            prop_assert!(signed.iter().zip(&ids).all(equal));
                        }
                    }
                    (Err(found), None) => {
                        prop_assert_eq!(Some(found), ids.iter().copied().find(|&id| slow(kind, id).is_none()));
                        prop_assert_eq!(bytes, [7]);
                    }
                    other => prop_assert!(false, "{kind:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_is_no_id_is_named() {
        let mut out = [0_u32; 3];
        let bytes: Vec<u8> = [5_i32, -1, -2].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(TokenType::I32.decode(&bytes, &mut out), Err((1, -1)));
        assert_eq!(TokenType::U32.decode(&bytes, &mut out), Ok(()));
        let bytes: Vec<u8> = [5_i64, 1 << 32, -2].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(TokenType::I64.decode(&bytes, &mut out), Err((1, 1 << 32)));
    }
}
