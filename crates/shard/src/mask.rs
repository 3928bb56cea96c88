//! Text in blocks of 64 bytes: a bit for each byte, so that bytes are found by counting bits.

/// Bytes of a block.
pub const BLOCK: usize = 64;

/// One bit a byte, the lowest for the first.
#[inline(always)]
pub fn mask(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    gather(&flags(block, is))
}

/// 255 for each byte that is, 0 for the others.
#[inline(always)]
pub fn flags(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> [u8; BLOCK] {
    let mut flags = [0_u8; BLOCK];
    for (flag, &byte) in flags.iter_mut().zip(block) {
        *flag = u8::from(is(byte)).wrapping_neg();
    }
    flags
}

/// The highest bit of every byte.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn gather(flags: &[u8; BLOCK]) -> u64 {
    use std::arch::x86_64::{__m128i, _mm_movemask_epi8};
    let quarters: [__m128i; 4] = bytemuck::cast(*flags);
    // SAFETY: the instruction is part of every x86-64.
    let bits = quarters.map(|quarter| u64::from(unsafe { _mm_movemask_epi8(quarter) } as u32));
    let [a, b, c, d] = bits;
    a | b << 16 | c << 32 | d << 48
}

/// The highest bit of every byte.
#[cfg(not(target_arch = "x86_64"))]
pub fn gather(flags: &[u8; BLOCK]) -> u64 {
    let mut mask = 0;
    for (at, eight) in flags.chunks_exact(8).enumerate() {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(eight);
        let lowest = u64::from_le_bytes(bytes) & 0x0101_0101_0101_0101;
        // Gathers the lowest bits of eight bytes in the highest byte of the product.
        mask |= (lowest.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * at);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_bit() {
        for at in 0..BLOCK {
            let mut block = [b'a'; BLOCK];
            block[at] = b'x';
            assert_eq!(mask(&block, |byte| byte == b'x'), 1 << at);
        }
        assert_eq!(mask(&[0; BLOCK], |_| true), u64::MAX);
    }
}
