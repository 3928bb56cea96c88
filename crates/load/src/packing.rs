//! Best-fit packing: documents put together so that sequences are full and no document is torn.
//!
//! A document longer than `seq_len` is cut into chunks of `seq_len` and a rest; all others stay
//! whole. Longest first, each goes where the least room remains that holds it.
//! Source: Ding et al., *Fewer Truncations Improve Language Modeling*, ICML 2024.
//!
//! The plan of a dataset, in memory or in a file, which is mapped:
//!
//! ```text
//! header   64 B   "FBPACK01", u64: documents, seq_len, sequences, chunks, window, 0, 0
//! firsts    8 B × (sequences + 1)   number of the first chunk of each sequence
//! chunks    8 B × chunks            u40 document, u24 number of the chunk in it
//! ```

use std::path::Path;

use bytemuck::{Pod, Zeroable, cast_slice};
use forebay_shard::index::Entry;
use forebay_store::{Map, NewFile};

use crate::{Error, Result};

/// Documents that are packed together. More fill hardly better: the last sequences of a window
/// are the ones that stay open, some of ten thousand.
const WINDOW: usize = 1 << 16;
const CHUNK_BITS: u32 = 24;
const MAGIC: u64 = u64::from_le_bytes(*b"FBPACK01");
const HEADER_BYTES: usize = size_of::<Header>();

#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: u64,
    documents: u64,
    seq_len: u64,
    sequences: u64,
    chunks: u64,
    window: u64,
    reserved: [u64; 2],
}

/// Which chunks of which documents make each sequence.
#[derive(Debug)]
pub(crate) struct Plan {
    header: Header,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    Made { firsts: Vec<u64>, chunks: Vec<u64> },
    Mapped(Map),
}

impl Plan {
    /// Packs all documents of an index, a window at a time.
    ///
    /// Cost: 60 ns and 8 to 16 B a document.
    ///
    /// # Errors
    /// [`Error::Config`] if a document has more chunks than can be counted.
    pub(crate) fn make(entries: &[Entry], seq_len: usize) -> Result<Self> {
        let longest = entries.iter().map(|entry| entry.tokens).max().unwrap_or(0) as usize;
        if longest / seq_len >= 1 << CHUNK_BITS {
            let (expected, found) = (format!("over {}", longest >> CHUNK_BITS), seq_len);
            return Err(Error::config("seq_len for this best-fit", expected, found));
        }
        let (mut firsts, mut chunks) = (vec![0], Vec::new());
        for (window, entries) in entries.chunks(WINDOW).enumerate() {
            let lengths: Vec<u32> = entries.iter().map(|entry| entry.tokens).collect();
            for sequence in pack(&lengths, seq_len) {
                chunks.extend(sequence.iter().map(|chunk| {
                    let document = (window * WINDOW) as u64 + u64::from(chunk.document);
                    document << CHUNK_BITS | u64::from(chunk.number)
                }));
                firsts.push(chunks.len() as u64);
            }
        }
        let header = Header {
            sequences: firsts.len() as u64 - 1,
            chunks: chunks.len() as u64,
            ..Header::wanted(entries, seq_len)
        };
        Ok(Self { header, parts: Parts::Made { firsts, chunks } })
    }

    /// Maps the plan at `path`, or makes it there for the next one.
    ///
    /// # Errors
    /// If it can neither be read nor written; [`forebay_shard::Error::Corrupt`] if it is another's.
    pub(crate) fn open_or_make(path: &Path, entries: &[Entry], seq_len: usize) -> Result<Self> {
        if !path.exists() {
            let plan = Self::make(entries, seq_len)?;
            // Whoever else does the same writes the same bytes: either rename is right.
            let mut file = NewFile::create(path)?;
            file.append(bytemuck::bytes_of(&plan.header))?;
            file.append(cast_slice(plan.firsts()))?;
            file.append(cast_slice(plan.chunks()))?;
            file.publish()?;
        }
        let map = Map::open(path)?;
        let corrupt = |what, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            Error::from(forebay_shard::Error::corrupt(path, what, expected, found))
        };
        let Some(header) = map.get(..HEADER_BYTES) else {
            return Err(corrupt("size", &format!("≥ {HEADER_BYTES} B"), &map.len()));
        };
        let header: Header = bytemuck::pod_read_unaligned(header);
        let wanted = Header {
            sequences: header.sequences,
            chunks: header.chunks,
            ..Header::wanted(entries, seq_len)
        };
        if header != wanted {
            let show = |h: Header| format!("{} documents, seq_len {}", h.documents, h.seq_len);
            return Err(corrupt("plan", &show(wanted), &show(header)));
        }
        let size = header.sequences.checked_add(header.chunks).and_then(|n| n.checked_mul(8));
        let size = size.and_then(|bytes| bytes.checked_add(HEADER_BYTES as u64 + 8));
        if size != Some(map.len() as u64) {
            let expected = size.map_or("less".into(), |size| format!("{size} B"));
            return Err(corrupt("size", &expected, &format!("{} B", map.len())));
        }
        Ok(Self { header, parts: Parts::Mapped(map) })
    }

    pub(crate) fn sequences(&self) -> u64 {
        self.header.sequences
    }

    /// Document and number of each chunk of a sequence, by document.
    pub(crate) fn sequence(&self, number: u64) -> impl Iterator<Item = (u64, u32)> {
        let place = number as usize;
        let (first, end) = (self.firsts()[place] as usize, self.firsts()[place + 1] as usize);
        // A file may say anything: what lies outside holds no chunks.
        let chunks = self.chunks().get(first..end).unwrap_or_default();
        chunks.iter().map(|chunk| (chunk >> CHUNK_BITS, (chunk & ((1 << CHUNK_BITS) - 1)) as u32))
    }

    fn firsts(&self) -> &[u64] {
        match &self.parts {
            Parts::Made { firsts, .. } => firsts,
            Parts::Mapped(map) => cast_slice(&map[HEADER_BYTES..self.header.chunks_at()]),
        }
    }

    fn chunks(&self) -> &[u64] {
        match &self.parts {
            Parts::Made { chunks, .. } => chunks,
            Parts::Mapped(map) => cast_slice(&map[self.header.chunks_at()..]),
        }
    }
}

impl Header {
    fn wanted(entries: &[Entry], seq_len: usize) -> Self {
        let (documents, seq_len) = (entries.len() as u64, seq_len as u64);
        Self { magic: MAGIC, documents, seq_len, window: WINDOW as u64, ..Self::zeroed() }
    }

    fn chunks_at(&self) -> usize {
        HEADER_BYTES + 8 * (self.sequences as usize + 1)
    }
}

/// A part of a document, whole if it is not longer than a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Chunk {
    document: u32,
    /// It starts at token `number × seq_len` of the document.
    number: u32,
}

/// Packs documents of these lengths into sequences of at most `seq_len` tokens.
///
/// Each chunk goes, longest first and equals in order, into the sequence with the least room
/// that holds it; of those with equal room, into the one that got its room last. Sequences come
/// in the order of their first chunk, chunks in the order of documents, so that what is short
/// does not always stand at the end. Documents without tokens are in none.
fn pack(lengths: &[u32], seq_len: usize) -> Vec<Vec<Chunk>> {
    // By length, then by document: a counting sort.
    let mut by_length: Vec<Vec<Chunk>> = vec![Vec::new(); seq_len + 1];
    for (document, &tokens) in (0..).zip(lengths) {
        let whole = tokens / seq_len as u32;
        by_length[seq_len].extend((0..whole).map(|number| Chunk { document, number }));
        let rest = tokens as usize % seq_len;
        if rest > 0 {
            by_length[rest].push(Chunk { document, number: whole });
        }
    }
    let mut sequences: Vec<Vec<Chunk>> = Vec::new();
    let mut open = Rooms::new(seq_len);
    for (length, chunks) in by_length.iter().enumerate().rev() {
        for &chunk in chunks {
            let (number, room) = open.take(length).unwrap_or_else(|| {
                sequences.push(Vec::new());
                (sequences.len() - 1, seq_len)
            });
            sequences[number].push(chunk);
            open.put(number, room - length);
        }
    }
    sequences.iter_mut().for_each(|sequence| sequence.sort_unstable());
    sequences.sort_unstable_by_key(|sequence| sequence[0]);
    sequences
}

/// Sequences by the room that they have: a stack for each, and a bit for each stack in use.
struct Rooms {
    stacks: Vec<Vec<u32>>,
    used: Vec<u64>,
}

impl Rooms {
    fn new(seq_len: usize) -> Self {
        Self { stacks: vec![Vec::new(); seq_len + 1], used: vec![0; seq_len / 64 + 1] }
    }

    fn put(&mut self, number: usize, room: usize) {
        self.stacks[room].push(number as u32);
        self.used[room / 64] |= 1 << (room % 64);
    }

    /// The sequence with the least room that holds `length`, and its room.
    fn take(&mut self, length: usize) -> Option<(usize, usize)> {
        let mut word = length / 64;
        let mut bits = self.used[word] & !0 << (length % 64);
        while bits == 0 {
            word += 1;
            bits = *self.used.get(word)?;
        }
        let room = 64 * word + bits.trailing_zeros() as usize;
        let number = self.stacks[room].pop()?;
        if self.stacks[room].is_empty() {
            self.used[word] &= !(1 << (room % 64));
        }
        Some((number as usize, room))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The slow and obvious way: look at every sequence for every chunk.
    fn slow(lengths: &[u32], seq_len: usize) -> Vec<Vec<Chunk>> {
        let mut chunks = Vec::new();
        for (document, &tokens) in (0..).zip(lengths) {
            let mut left = tokens as usize;
            for number in 0.. {
                if left == 0 {
                    break;
                }
                chunks.push((left.min(seq_len), Chunk { document, number }));
                left -= left.min(seq_len);
            }
        }
        chunks.sort_by_key(|&(length, _)| std::cmp::Reverse(length));
        // Chunks, room, when it got that room.
        let mut sequences: Vec<(Vec<Chunk>, usize, usize)> = Vec::new();
        for (time, (length, chunk)) in chunks.into_iter().enumerate() {
            let fits = |s: &&mut (Vec<Chunk>, usize, usize)| s.1 >= length;
            let best =
                sequences.iter_mut().filter(fits).min_by_key(|s| (s.1, std::cmp::Reverse(s.2)));
            match best {
                Some(sequence) => {
                    sequence.0.push(chunk);
                    sequence.1 -= length;
                    sequence.2 = time;
                }
                None => sequences.push((vec![chunk], seq_len - length, time)),
            }
        }
        let mut sequences: Vec<Vec<Chunk>> = sequences.into_iter().map(|s| s.0).collect();
        sequences.iter_mut().for_each(|s| s.sort());
        sequences.sort();
        sequences
    }

    proptest! {
        #[test]
        fn it_packs_as_the_slow_way_does(
            lengths in prop::collection::vec(0_u32..300, 0..80),
            seq_len in prop::sample::select(vec![1_usize, 7, 63, 64, 65, 100, 128, 400]),
        ) {
            let packed = pack(&lengths, seq_len);
            prop_assert_eq!(&packed, &slow(&lengths, seq_len));
            let tokens = |c: &Chunk| {
                (lengths[c.document as usize] - c.number * seq_len as u32).min(seq_len as u32)
            };
            let sums = packed.iter().map(|s| s.iter().map(tokens).sum::<u32>());
            prop_assert!(sums.clone().all(|sum| (1..=seq_len as u32).contains(&sum)));
            prop_assert_eq!(sums.sum::<u32>(), lengths.iter().sum::<u32>());
        }
    }

    fn entries(lengths: &[u32]) -> Vec<Entry> {
        let mut token_start = 0;
        let entries = lengths.iter().map(|&tokens| {
            let entry = Entry { token_start, offset: 4 * token_start, shard: 0, tokens };
            token_start += u64::from(tokens);
            entry
        });
        entries.collect()
    }

    #[test]
    fn a_plan_in_a_file_is_the_plan_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan");
        let lengths: Vec<u32> =
            (0..70_000_u64).map(|n| (crate::order::mix(n) % 900) as u32).collect();
        let entries = entries(&lengths);
        let made = Plan::make(&entries, 512).unwrap();
        for _ in 0..2 {
            let stored = Plan::open_or_make(&path, &entries, 512).unwrap();
            assert_eq!((stored.firsts(), stored.chunks()), (made.firsts(), made.chunks()));
        }
        let full = entries.iter().map(|e| u64::from(e.tokens)).sum::<u64>() as f64;
        let fill = full / (made.sequences() * 512) as f64;
        assert!(fill > 0.99, "{fill}");
        assert!(Plan::open_or_make(&path, &entries, 511).is_err());
        assert!(Plan::open_or_make(&path, &entries[1..], 512).is_err());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
        assert!(Plan::open_or_make(&path, &entries, 512).is_err());
    }
}
