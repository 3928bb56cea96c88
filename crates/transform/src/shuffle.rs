//! The global shuffle: a sort by a key that depends on seed and document alone.
//!
//! So the order of two documents never changes because a third one was removed, and every range
//! of keys can be put in order by itself, on any thread or machine.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Where document `(file, position)` goes: keys are uniform over all of `u64`.
pub fn key(seed: u64, file: u32, position: u64) -> u64 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&file.to_le_bytes());
    bytes[4..].copy_from_slice(&position.to_le_bytes());
    xxh3_64_with_seed(&bytes, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_evenly_and_depend_on_all_three() {
        let mut quarters = [0_u32; 4];
        for position in 0..10_000 {
            quarters[(key(7, 1, position) >> 62) as usize] += 1;
        }
        assert!(quarters.iter().all(|&n| (2_300..2_700).contains(&n)), "{quarters:?}");
        let base = key(1, 2, 3);
        assert!(base != key(2, 2, 3) && base != key(1, 3, 3) && base != key(1, 2, 4));
    }
}
