//! `documents.idx`: where the tokens of every document lie, and a hash of every block.
//!
//! ```text
//! header    64 B   "FBINDEX2", then u64: documents, tokens, shards, blocks, block_bytes, 0, 0
//! entries   24 B × documents   u64 first token (of all), u64 byte offset, u32 shard, u32 tokens
//! shards     8 B × (shards + 1)   u64 first block of each shard
//! blocks    32 B × blocks   of each MiB of each shard, its value in the tree of blake3: see [`blocks`](crate::blocks)
//! ```
//! Little-endian, everything aligned to 8 bytes, so it is mapped and used as it lies.

use std::path::Path;

use bytemuck::{Pod, Zeroable, cast_slice};
use forebay_store::{Map, NewFile};

use crate::blocks::BLOCK_BYTES;
use crate::{Error, Result};

const MAGIC: u64 = u64::from_le_bytes(*b"FBINDEX2");
const HEADER_BYTES: usize = size_of::<Header>();

/// One document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
    /// Number of its first token, counted through all documents.
    pub token_start: u64,
    /// Where its tokens start in the shard, in bytes. Any byte, not a multiple of four.
    pub offset: u64,
    /// Number of the shard.
    pub shard: u32,
    /// How many tokens, EOS included.
    pub tokens: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: u64,
    documents: u64,
    tokens: u64,
    shards: u64,
    blocks: u64,
    block_bytes: u64,
    reserved: [u64; 2],
}

/// The index of a dataset, mapped, or made from the index of another format.
#[derive(Debug)]
pub struct Index {
    entries: Entries,
    header: Header,
}

#[derive(Debug)]
enum Entries {
    Mapped(Map),
    Made(Vec<Entry>),
}

impl Index {
    /// Maps the index at `path` and checks its header against its size.
    ///
    /// Cost: constant, whatever the number of documents.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is no index or is cut short.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Map::open(path)?;
        let Some(header) = map.get(..HEADER_BYTES) else {
            return Err(Error::corrupt(path, "size", format!("≥ {HEADER_BYTES} B"), map.len()));
        };
        let header: Header = bytemuck::pod_read_unaligned(header);
        if header.magic != MAGIC {
            return Err(Error::corrupt(path, "first bytes", "FBINDEX2", "others"));
        }
        if header.block_bytes != BLOCK_BYTES {
            return Err(Error::corrupt(path, "block size", BLOCK_BYTES, header.block_bytes));
        }
        let size = header.size();
        if size != Some(map.len() as u64) {
            let expected = size.map_or("less".into(), |size| format!("{size} B"));
            return Err(Error::corrupt(path, "size", expected, format!("{} B", map.len())));
        }
        Ok(Self { entries: Entries::Mapped(map), header })
    }

    /// An index without hashes, of runs of tokens in the order in which they are read.
    ///
    /// * `documents` — how many they are; a document may be several runs.
    /// * `shards` — byte offset and tokens of each run, shard by shard.
    ///
    /// Cost: 24 B a run, in memory.
    pub(crate) fn of_runs(documents: u64, shards: &[Vec<(u64, u32)>]) -> Self {
        let (mut entries, mut token_start) = (Vec::new(), 0);
        for (shard, runs) in (0..).zip(shards) {
            entries.extend(runs.iter().map(|&(offset, tokens)| {
                let entry = Entry { token_start, offset, shard, tokens };
                token_start += u64::from(tokens);
                entry
            }));
        }
        let shards = shards.len() as u64;
        let header = Header { documents, tokens: token_start, shards, ..Header::zeroed() };
        Self { entries: Entries::Made(entries), header }
    }

    /// Documents in the dataset.
    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    /// Tokens in the dataset.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// Shards in the dataset.
    pub fn shards(&self) -> u64 {
        self.header.shards
    }

    /// All documents in order; of an index that was made, all runs.
    pub fn entries(&self) -> &[Entry] {
        match &self.entries {
            Entries::Mapped(map) => cast_slice(&map[HEADER_BYTES..self.header.shards_at()]),
            Entries::Made(entries) => entries,
        }
    }

    /// Values of the blocks of `shard`, in order; none if there is no such shard.
    pub fn blocks(&self, shard: u32) -> &[[u8; 32]] {
        let Entries::Mapped(map) = &self.entries else { return &[] };
        let firsts: &[u64] = cast_slice(&map[self.header.shards_at()..self.header.blocks_at()]);
        let blocks: &[[u8; 32]] = cast_slice(&map[self.header.blocks_at()..]);
        let Some(&[first, end]) = firsts.get(shard as usize..shard as usize + 2) else {
            return &[];
        };
        let range = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        blocks.get(range(first)..range(end)).unwrap_or_default()
    }

    /// Number of the document that holds token `token` of all; binary search.
    ///
    /// Documents without tokens hold none. `token` must be below [`Index::tokens`].
    pub fn document_at(&self, token: u64) -> usize {
        self.entries().partition_point(|entry| entry.token_start <= token).saturating_sub(1)
    }
}

impl Header {
    fn shards_at(&self) -> usize {
        HEADER_BYTES + size_of::<Entry>() * usize::try_from(self.documents).unwrap_or(0)
    }

    fn blocks_at(&self) -> usize {
        self.shards_at() + 8 * (usize::try_from(self.shards).unwrap_or(0) + 1)
    }

    /// Bytes of the whole file; `None` if the counts cannot be true.
    fn size(&self) -> Option<u64> {
        let entries = self.documents.checked_mul(size_of::<Entry>() as u64)?;
        let shards = self.shards.checked_add(1)?.checked_mul(8)?;
        let blocks = self.blocks.checked_mul(32)?;
        (HEADER_BYTES as u64).checked_add(entries)?.checked_add(shards)?.checked_add(blocks)
    }
}

/// What the index says of one shard, on the way to [`write()`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardIndex {
    /// Byte offset and tokens of each document.
    pub documents: Vec<(u64, u32)>,
    /// blake3 of each block.
    pub blocks: Vec<[u8; 32]>,
}

/// Writes the index of shards that `shard` hands out one after another, each twice.
///
/// # Errors
/// Those of `shard`, and of the storage.
pub fn write(
    path: &Path,
    shards: usize,
    mut shard: impl FnMut(usize) -> Result<ShardIndex>,
) -> Result<()> {
    let mut header = Header { magic: MAGIC, block_bytes: BLOCK_BYTES, ..Header::zeroed() };
    header.shards = shards as u64;
    let mut firsts = vec![0];
    for number in 0..shards {
        let index = shard(number)?;
        header.documents += index.documents.len() as u64;
        header.tokens += index.documents.iter().map(|&(_, tokens)| u64::from(tokens)).sum::<u64>();
        header.blocks += index.blocks.len() as u64;
        firsts.push(header.blocks);
    }

    let mut file = NewFile::create(path)?;
    file.append(bytemuck::bytes_of(&header))?;
    let mut token_start = 0;
    let mut blocks = Vec::new();
    for number in 0..shards {
        let index = shard(number)?;
        let number = u32::try_from(number).map_err(|_| Error::file(path, "too many shards"))?;
        let entries: Vec<Entry> = index
            .documents
            .iter()
            .map(|&(offset, tokens)| {
                let entry = Entry { token_start, offset, shard: number, tokens };
                token_start += u64::from(tokens);
                entry
            })
            .collect();
        file.append(cast_slice(&entries))?;
        blocks.extend_from_slice(&index.blocks);
    }
    file.append(cast_slice(&firsts))?;
    file.append(cast_slice(&blocks))?;
    file.publish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards() -> [ShardIndex; 2] {
        [
            ShardIndex { documents: vec![(100, 5), (120, 0), (120, 7)], blocks: vec![[1; 32]; 2] },
            ShardIndex { documents: vec![(9, 3)], blocks: vec![[2; 32]] },
        ]
    }

    #[test]
    fn every_token_is_found_in_its_document() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(crate::manifest::INDEX);
        write(&path, 2, |n| Ok(shards()[n].clone())).unwrap();
        let index = Index::open(&path).unwrap();
        assert_eq!((index.documents(), index.tokens(), index.shards()), (4, 15, 2));
        let found: Vec<usize> = (0..15).map(|token| index.document_at(token)).collect();
        assert_eq!(found, [0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3]);
        assert_eq!(index.entries()[3], Entry { token_start: 12, offset: 9, shard: 1, tokens: 3 });
        assert_eq!(
            (index.blocks(0).len(), index.blocks(1), index.blocks(2).len()),
            (2, &[[2; 32]][..], 0)
        );
    }

    #[test]
    fn a_cut_or_foreign_index_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(crate::manifest::INDEX);
        write(&path, 2, |n| Ok(shards()[n].clone())).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for end in [0, 10, 63, 64, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert!(matches!(Index::open(&path), Err(Error::Corrupt { .. })), "cut at {end}");
        }
        std::fs::write(&path, vec![b'x'; 200]).unwrap();
        assert!(matches!(Index::open(&path), Err(Error::Corrupt { .. })));
    }
}
