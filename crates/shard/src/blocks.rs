//! blake3 of a file and of each of its blocks, in one pass.
//!
//! blake3 is a tree, and a block of a MiB is a whole subtree of it. What is kept of a block is the
//! value of that subtree, so that any block can be verified alone, and the hash of the file
//! follows from its blocks. A file of one block has no tree above it: its value is its hash.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use blake3::{Hash, Hasher};

/// Bytes of a file under one value.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// blake3 of a file, and the value of each block.
pub(crate) fn hash(bytes: &[u8]) -> (Hash, Vec<[u8; 32]>) {
    let block_bytes = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
    let blocks: Vec<[u8; 32]> = (0..)
        .zip(bytes.chunks(block_bytes))
        .map(|(at, b)| value(b, at, bytes.len() as u64))
        .collect();
    (root(&blocks), blocks)
}

/// The value of block number `at` of a file of `file_bytes`, to be compared with the index's.
pub fn value(block: &[u8], at: u64, file_bytes: u64) -> [u8; 32] {
    if file_bytes <= BLOCK_BYTES {
        return *blake3::hash(block).as_bytes();
    }
    Hasher::new().set_input_offset(at * BLOCK_BYTES).update(block).finalize_non_root()
}

/// The hash of a file, of the values of its blocks.
fn root(blocks: &[[u8; 32]]) -> Hash {
    match blocks {
        [] => blake3::hash(&[]),
        [whole] => Hash::from_bytes(*whole),
        blocks => {
            let (left, right) = split(blocks);
            merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

fn subtree(blocks: &[[u8; 32]]) -> ChainingValue {
    match blocks {
        [value] => *value,
        blocks => {
            let (left, right) = split(blocks);
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// The left side of the tree is as large a power of two as leaves something to the right.
fn split(blocks: &[[u8; 32]]) -> (&[[u8; 32]], &[[u8; 32]]) {
    // Full blocks stand for the last too: it fills its place, however short it is.
    let left = left_subtree_len(blocks.len() as u64 * BLOCK_BYTES) / BLOCK_BYTES;
    blocks.split_at(usize::try_from(left).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_file_follows_from_its_blocks() {
        let mib = usize::try_from(BLOCK_BYTES).unwrap();
        let bytes: Vec<u8> = (0..6 * mib + 5000).map(|at| ((at * at) >> 7) as u8).collect();
        let lengths = [0, 1, 5000, mib - 1, mib, mib + 1, 2 * mib, 2 * mib + 1, 3 * mib + 77];
        for length in lengths.into_iter().chain([4 * mib, 5 * mib + 1024, bytes.len()]) {
            let bytes = &bytes[..length];
            let (found, blocks) = hash(bytes);
            assert_eq!(found, blake3::hash(bytes), "{length} bytes");
            assert_eq!(blocks.len(), length.div_ceil(mib), "{length} bytes");
        }
    }

    #[test]
    fn a_block_has_another_value_in_another_place() {
        let block = vec![7; 1000];
        assert_ne!(value(&block, 1, 1 << 22), value(&block, 2, 1 << 22));
        assert_eq!(value(&block, 0, 1000), *blake3::hash(&block).as_bytes());
    }
}
