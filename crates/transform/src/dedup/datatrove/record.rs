//! The records of datatrove's files, all little-endian, none with a header.
//!
//! ```text
//! bucket_000/00000.minhash.sig   rows × (8 | 4) B hashes, 4 B document; sorted by all of them
//! 00000_00.dups                  4 B × (rank, document, rank, document): neighbours in a bucket
//! 000000.remove                  4 B document; sorted
//! 000000.clusters                4 B document, 4 B cluster; sorted
//! 000000.sizes                   4 B document, 4 B documents in its cluster; sorted
//! ```
//!
//! A document is its place among those that the task of that rank read.

use super::{Parameters, Precision};

/// Bytes of a `.dups` record.
pub const PAIR_BYTES: usize = 16;

/// `rank` and `document` of what matched an index instead of a document.
pub const INDEX_MATCH: u32 = u32::MAX;

/// Bytes of a hash.
pub fn hash_bytes(parameters: &Parameters) -> usize {
    match parameters.precision {
        Precision::Bits32 => 4,
        Precision::Bits64 => 8,
    }
}

/// Bytes of a `.minhash.sig` record.
pub fn signature_bytes(parameters: &Parameters) -> usize {
    parameters.rows * hash_bytes(parameters) + 4
}

/// Appends a signature record: the rows of one bucket and the document.
pub fn put_signature(rows: &[u64], document: u32, precision: Precision, out: &mut Vec<u8>) {
    for &row in rows {
        match precision {
            Precision::Bits32 => out.extend_from_slice(&(row as u32).to_le_bytes()),
            Precision::Bits64 => out.extend_from_slice(&row.to_le_bytes()),
        }
    }
    out.extend_from_slice(&document.to_le_bytes());
}

/// Appends the rows of each whole signature record to `rows`, `[records, rows]`, and its document
/// to `documents`.
pub fn take_signatures(
    bytes: &[u8],
    parameters: &Parameters,
    rows: &mut Vec<u64>,
    documents: &mut Vec<u32>,
) {
    for record in bytes.chunks_exact(signature_bytes(parameters)) {
        let (hashes, document) = record.split_at(record.len() - 4);
        match parameters.precision {
            Precision::Bits32 => rows.extend(words(hashes).map(u64::from)),
            Precision::Bits64 => {
                let (hashes, _) = hashes.as_chunks::<8>();
                rows.extend(hashes.iter().map(|&hash| u64::from_le_bytes(hash)));
            }
        }
        documents.extend(words(document));
    }
}

/// The 32-bit words of a record.
pub fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|&word| u32::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_come_back() {
        for precision in [Precision::Bits32, Precision::Bits64] {
            let parameters = Parameters { rows: 2, precision, ..Parameters::default() };
            let mut bytes = Vec::new();
            put_signature(&[1, 2], 3, precision, &mut bytes);
            put_signature(&[4, 0xffff_fff0], 5, precision, &mut bytes);
            assert_eq!(bytes.len(), 2 * signature_bytes(&parameters));
            let (mut rows, mut documents) = (Vec::new(), Vec::new());
            take_signatures(&bytes, &parameters, &mut rows, &mut documents);
            assert_eq!((rows, documents), (vec![1, 2, 4, 0xffff_fff0], vec![3, 5]));
        }
    }

    #[test]
    fn the_sizes_are_those_of_datatrove() {
        let wide = Parameters::default();
        assert_eq!(signature_bytes(&wide), 68);
        assert_eq!(signature_bytes(&Parameters { precision: Precision::Bits32, ..wide }), 36);
    }
}
