//! Text squeezed: runs of bytes, block by block, copied one after the other.

use forebay_shard::mask::BLOCK;

/// Bytes copied at once.
const STRIDE: usize = 16;

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

    /// Appends the whole block.
    #[inline(always)]
    pub(super) fn extend_whole(&mut self, block: &Padded) {
        self.bytes[self.length..self.length + BLOCK].copy_from_slice(&block[..BLOCK]);
        self.length += BLOCK;
    }

    /// Appends `block[start..start + length]`, some bytes at a time: what is copied beyond the end
    /// is written over by what comes next.
    #[inline(always)]
    pub(super) fn extend_from(&mut self, block: &Padded, start: usize, length: usize) {
        let mut at = 0;
        while at < length {
            let stride = &block[start + at..start + at + STRIDE];
            self.bytes[self.length + at..self.length + at + STRIDE].copy_from_slice(stride);
            at += STRIDE;
        }
        self.length += length;
    }
}
