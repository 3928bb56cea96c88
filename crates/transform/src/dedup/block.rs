//! Text in blocks of 64 bytes: a bit for each byte, so that runs are found by counting bits.

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;
/// What a copy may write beyond its end.
const STRIDE: usize = 16;

/// One bit a byte, the lowest for the first.
pub(super) fn mask(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    let mut flags = [0_u8; BLOCK];
    for (flag, &byte) in flags.iter_mut().zip(block) {
        *flag = u8::from(is(byte));
    }
    let mut mask = 0;
    for (at, eight) in flags.chunks_exact(8).enumerate() {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(eight);
        // Gathers the lowest bits of eight bytes in the highest byte of the product.
        let bits = u64::from_le_bytes(bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= bits << (8 * at);
    }
    mask
}

/// A block that may be copied from beyond its end.
pub(super) type Padded = [u8; BLOCK + STRIDE];

/// Bytes written one after the other; keeps its memory.
#[derive(Debug, Default)]
pub(super) struct Squeezed {
    bytes: Vec<u8>,
    length: usize,
}

impl Squeezed {
    /// Forgets all and makes room for `most` bytes.
    pub(super) fn clear(&mut self, most: usize) {
        self.length = 0;
        if self.bytes.len() < most + BLOCK + STRIDE {
            self.bytes.resize(most + BLOCK + STRIDE, 0);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    pub(super) fn pop(&mut self) {
        self.length -= 1;
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Appends `block[start..start + length]`; most runs are short, one copy of fixed size does.
    #[inline(always)]
    pub(super) fn extend_short(&mut self, block: &Padded, start: usize, length: usize) {
        if length <= STRIDE {
            let stride = &block[start..start + STRIDE];
            self.bytes[self.length..self.length + STRIDE].copy_from_slice(stride);
        } else {
            self.bytes[self.length..][..length].copy_from_slice(&block[start..start + length]);
        }
        self.length += length;
    }
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
