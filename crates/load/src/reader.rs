//! Byte ranges of shards: the only file of this crate that touches storage.
//!
//! The loader hands over all ranges of a batch at once and takes the bytes in any order, so a
//! queue with many requests in flight fits behind [`Reader::read`] as well as what is there:
//! a map for what lies in the page cache, positional reads for the rest, announced all together.
//! A cache of remote shards fits behind `Reader::open`, the one place where a path becomes a file.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_shard::blocks::{self, BLOCK_BYTES};
use forebay_shard::{Error as ShardError, TokenFiles};
use forebay_store::{File, Map};

use crate::{Error, Result};

/// How shards are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Io {
    /// What is in the page cache through a map if the file system is local, up to 128 MiB of
    /// blocks; the rest by reads. Pages of a map count as memory of the process.
    #[default]
    Auto,
    /// As `Auto` without a limit: up to twice as fast, and all of the dataset that is in the page
    /// cache may come to count as memory of the process.
    Map,
    /// Positional reads alone: nothing of the dataset counts as memory of the process.
    Read,
}

/// Bytes of one shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) shard: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

/// What reading took and did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// In reads that the storage answers; copies out of the page cache are not counted here.
    pub(crate) storage: Duration,
    pub(crate) verify: Duration,
    pub(crate) mapped_bytes: u64,
    pub(crate) read_bytes: u64,
}

/// The shards of one dataset; threads share it.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Opened when first needed.
    shards: Vec<OnceLock<Shard>>,
    io: Io,
    /// Blocks that may still be mapped.
    free_blocks: AtomicU64,
}

#[derive(Debug)]
struct Shard {
    file: File,
    map: Option<Map>,
    /// Of each block, what is known: [`MAPPED`], [`SOUND`], [`CACHED`].
    blocks: Vec<AtomicU8>,
}

/// It was in the page cache and is read through the map from then on.
const MAPPED: u8 = 1;
const SOUND: u8 = 2;
/// It was in the page cache when no block could be mapped any more.
const CACHED: u8 = 4;
/// The bits above count visits while not all of a block is in memory; they wrap after 16.
const VISIT: u8 = 16;
/// Of all datasets of a loader together, unless it maps all.
const MAPPED_BYTES: u64 = 128 << 20;
/// Distance at which the processor stops to fetch ahead by itself.
const PAGE_BYTES: usize = 4096;

impl Reader {
    /// * `share` — one of so many datasets.
    pub(crate) fn new(shards: usize, io: Io, share: usize) -> Self {
        let free_blocks = match io {
            Io::Auto => (MAPPED_BYTES / BLOCK_BYTES / share as u64).max(1),
            Io::Map => u64::MAX,
            Io::Read => 0,
        };
        let free_blocks = AtomicU64::new(free_blocks);
        Self { shards: (0..shards).map(|_| OnceLock::new()).collect(), io, free_blocks }
    }

    /// Hands the bytes of every range to `each`, with its number; in any order.
    ///
    /// # Errors
    /// If a shard is missing or is not as long as the manifest says, or the storage fails; those
    /// of `each`.
    pub(crate) fn read(
        &self,
        tokens: &TokenFiles,
        ranges: &[Range],
        scratch: &mut Vec<u8>,
        traffic: &mut Traffic,
        mut each: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        // Of those that are read, whether the storage has to be waited for.
        let mut unmapped = Vec::new();
        let mut touched = 0;
        for (number, range) in ranges.iter().enumerate() {
            let shard = self.shard(tokens, range.shard)?;
            match shard.place(range, &self.free_blocks) {
                // All pages of the batch are looked up at once, not one after the other.
                Place::Mapped(bytes) => {
                    touched ^= bytes.iter().step_by(PAGE_BYTES).fold(0, |x, b| x ^ b);
                }
                Place::Cached => unmapped.push((number, false)),
                Place::Cold => {
                    shard.file.will_need(range.offset, range.bytes as u64);
                    unmapped.push((number, true));
                }
            }
        }
        std::hint::black_box(touched);
        let mut skipped = unmapped.iter().peekable();
        for (number, range) in ranges.iter().enumerate() {
            if skipped.next_if(|(other, _)| *other == number).is_some() {
                continue;
            }
            let shard = self.shard(tokens, range.shard)?;
            if let Some(map) = &shard.map {
                traffic.mapped_bytes += range.bytes as u64;
                let first = range.offset as usize;
                each(number, &map[first..first + range.bytes])?;
            }
        }
        for (number, cold) in unmapped {
            let range = &ranges[number];
            let shard = self.shard(tokens, range.shard)?;
            if scratch.len() < range.bytes {
                scratch.resize(range.bytes, 0);
            }
            let bytes = &mut scratch[..range.bytes];
            let start = cold.then(Instant::now);
            shard.file.read_at(range.offset, bytes)?;
            traffic.storage += start.map_or(Duration::ZERO, |start| start.elapsed());
            traffic.read_bytes += range.bytes as u64;
            each(number, bytes)?;
        }
        Ok(())
    }

    /// Hashes the blocks under a range that were not hashed before.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a block that is not as it was written, also when asked again.
    pub(crate) fn verify(
        &self,
        tokens: &TokenFiles,
        range: &Range,
        traffic: &mut Traffic,
    ) -> Result<()> {
        let shard = self.shard(tokens, range.shard)?;
        let start = Instant::now();
        let done = range.blocks().try_for_each(|block| {
            let state = shard.blocks.get(block).map_or(0, |state| state.load(Ordering::Relaxed));
            if state & SOUND != 0 {
                return Ok(());
            }
            let expected = tokens.index().blocks(range.shard).get(block);
            let first = block as u64 * BLOCK_BYTES;
            let length = BLOCK_BYTES.min(shard.file.size().saturating_sub(first));
            let bytes = shard.file.read(first, length as usize)?;
            let found = blocks::value(&bytes, block as u64, shard.file.size());
            let sound = expected == Some(&found);
            if sound {
                if let Some(state) = shard.blocks.get(block) {
                    state.fetch_or(SOUND, Ordering::Relaxed);
                }
                return Ok(());
            }
            let hex = |hash: &[u8; 32]| blake3::Hash::from(*hash).to_hex()[..16].to_owned();
            Err(Error::Corrupt {
                path: shard.file.path().to_path_buf(),
                first,
                end: first + length,
                expected: expected.map_or("nothing".into(), hex),
                found: hex(&found),
            })
        });
        traffic.verify += start.elapsed();
        done
    }

    fn shard(&self, tokens: &TokenFiles, number: u32) -> Result<&Shard> {
        let Some(slot) = self.shards.get(number as usize) else {
            let what = format!("expected a shard {number}, found {}", self.shards.len());
            return Err(ShardError::file(Path::new("documents.idx"), what).into());
        };
        if let Some(shard) = slot.get() {
            return Ok(shard);
        }
        let shard = self.open(tokens, number)?;
        Ok(slot.get_or_init(|| shard))
    }

    fn open(&self, tokens: &TokenFiles, number: u32) -> Result<Shard> {
        let path: &PathBuf = &tokens.files()[number as usize];
        let file = File::open(path)?;
        // A shard that was cut short or taken from another dataset is told by its size, at no
        // cost; one that was changed in place only by its hash.
        let entry = tokens.dataset().map(|d| &d.manifest().shards[number as usize]);
        if let Some(entry) = entry.filter(|entry| entry.bytes != file.size()) {
            let (expected, found) = (format!("{} B", entry.bytes), format!("{} B", file.size()));
            return Err(ShardError::corrupt(path, "size", expected, found).into());
        }
        let map = match self.io {
            Io::Auto | Io::Map if file.is_local() => Some(Map::open(path)?),
            Io::Auto | Io::Map | Io::Read => None,
        };
        let blocks = file.size().div_ceil(BLOCK_BYTES);
        let blocks = (0..blocks).map(|_| AtomicU8::new(0)).collect();
        Ok(Shard { file, map, blocks })
    }
}

impl Range {
    fn blocks(&self) -> std::ops::Range<usize> {
        let end = self.offset + self.bytes as u64;
        (self.offset / BLOCK_BYTES) as usize..end.div_ceil(BLOCK_BYTES) as usize
    }
}

/// How a range is read.
enum Place<'a> {
    Mapped(&'a [u8]),
    Cached,
    Cold,
}

impl Shard {
    /// Through the map what lies in the page cache, as long as there are blocks to map.
    ///
    /// What was there once is taken to be there: if it went meanwhile, it is read again.
    fn place(&self, range: &Range, free_blocks: &AtomicU64) -> Place<'_> {
        let Some(map) = &self.map else { return Place::Cold };
        let bytes = usize::try_from(range.offset).ok().and_then(|first| {
            let end = first.checked_add(range.bytes)?;
            map.get(first..end)
        });
        let Some(bytes) = bytes else { return Place::Cold };
        for block in range.blocks() {
            let Some(state) = self.blocks.get(block) else { return Place::Cold };
            let known = state.load(Ordering::Relaxed);
            if known & MAPPED != 0 {
                continue;
            }
            if known & CACHED != 0 {
                return Place::Cached;
            }
            // Asked now and then: the answer takes as long as some reads.
            state.fetch_add(VISIT, Ordering::Relaxed);
            let start = block * BLOCK_BYTES as usize;
            let end = map.len().min(start + BLOCK_BYTES as usize);
            if known >= VISIT || !map.is_resident(start, end - start) {
                return Place::Cold;
            }
            let less = |free: u64| free.checked_sub(1);
            if free_blocks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
                state.fetch_or(CACHED, Ordering::Relaxed);
                return Place::Cached;
            }
            state.fetch_or(MAPPED, Ordering::Relaxed);
        }
        Place::Mapped(bytes)
    }
}
