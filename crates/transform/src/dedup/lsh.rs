//! Links between documents that agree on a key: a whole band, or a whole text.

/// Calls `link` for each run of equal keys with the first document and every other one.
///
/// `entries` are `(key, document)`; they are sorted here. A bucket of `k` documents gives `k - 1`
/// links, not `k (k - 1) / 2` pairs, so a page repeated a million times stays cheap.
pub fn links<K: Ord + Copy>(entries: &mut [(K, u32)], mut link: impl FnMut(u32, u32)) {
    entries.sort_unstable();
    for bucket in entries.chunk_by(|a, b| a.0 == b.0) {
        for &(_, other) in &bucket[1..] {
            link(bucket[0].1, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_with_equal_keys_are_linked_to_the_first_of_them() {
        let mut entries = [(7, 4), (9, 0), (7, 2), (8, 1), (7, 3)];
        let mut found = Vec::new();
        links(&mut entries, |a, b| found.push((a, b)));
        assert_eq!(found, [(2, 3), (2, 4)]);
    }
}
