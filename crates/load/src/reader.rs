//! Byte ranges of shards: the only file of this crate that touches storage.
//!
//! ```text
//! begin ─▶ each range: in a map │ in the page cache │ cold ─▶ queue, in flight
//! finish ─▶ its bytes: of the map │ pread, at once    │ as they come
//! ```
//!
//! The loader hands over all ranges of a batch at once and takes the bytes in any order. Between the
//! two it may begin other batches. A cache of remote shards fits behind `Reader::open`, the one place
//! where a path becomes a file.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use forebay_shard::blocks::{self, BLOCK_BYTES};
use forebay_shard::{Error as ShardError, TokenFiles};
use forebay_store::{Access, Direct, File, Map, Object, prefetch};

use crate::{Error, Result};

mod cold;
mod memory;

pub(crate) use cold::has_room;

/// How shards are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Io {
    /// What is in the page cache through a map if the file system is local, up to 160 MiB of
    /// it, or by reads; what is not through a queue, past the page cache if the dataset is
    /// larger than half of the memory that is free. Pages of a map count as memory of the process.
    #[default]
    Auto,
    /// As `Auto` without a limit: faster, and all of the dataset that is in the page
    /// cache may come to count as memory of the process.
    Map,
    /// Positional reads alone: nothing of the dataset counts as memory of the process.
    Read,
    /// All through a queue, past the page cache where the file system can.
    Direct,
}

impl Io {
    /// Its name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Map => "map",
            Self::Read => "read",
            Self::Direct => "direct",
        }
    }
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
    /// Waiting for the storage; copies out of the page cache are not counted here.
    pub(crate) storage: Duration,
    pub(crate) verify: Duration,
    pub(crate) mapped_bytes: u64,
    pub(crate) read_bytes: u64,
}

/// How the ranges of a batch are read, from `begin` to `finish`.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Numbers of ranges that no map serves, in order, and whether the storage is waited for.
    unmapped: Vec<(usize, bool)>,
    /// Those of them that are in flight.
    queued: Vec<usize>,
    ticket: Option<cold::Ticket>,
}

impl Reading {
    /// Is something in flight?
    pub(crate) fn is_cold(&self) -> bool {
        self.ticket.is_some()
    }
}

/// The shards of one dataset; threads share it.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Opened when first needed.
    shards: Vec<OnceLock<Shard>>,
    io: Io,
    /// Cold ranges pass by the page cache.
    direct: Direct,
    /// Huge pages that may still be mapped.
    free_pages: AtomicU64,
    /// No queue could be had: asking again with every batch costs more than reading without.
    no_queue: AtomicBool,
    /// Of each run of tokens that has a checksum of its own, whether it was found sound: a bit.
    sound_runs: OnceLock<Vec<AtomicU64>>,
}

#[derive(Debug)]
struct Shard {
    file: File,
    map: Option<Map>,
    /// For a queue; opened when something is cold.
    object: OnceLock<Arc<Object>>,
    /// Of a 3FS.
    home: Option<u64>,
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
/// Of all datasets of a loader together, unless it maps all. With the rest of a loader, a process
/// stays below 200 MiB above what it was.
const MAPPED_BYTES: u64 = 160 << 20;
/// The kernel copies faster to where a line of the cache starts.
const LINE_BYTES: usize = 64;
/// Two blocks.
const HUGE_BYTES: u64 = 2 << 20;

impl Reader {
    /// * `share` — one of so many datasets.
    /// * `bytes` — of all shards.
    pub(crate) fn new(shards: usize, io: Io, share: usize, bytes: u64) -> Self {
        let free_pages = match io {
            Io::Auto => (MAPPED_BYTES / HUGE_BYTES / share as u64).max(1),
            Io::Map => u64::MAX,
            Io::Read | Io::Direct => 0,
        };
        let direct = match io {
            Io::Direct => Direct::Try,
            // What fits is read once and stays, what does not would only push out others.
            Io::Auto if bytes.saturating_mul(2 * share as u64) > memory::free_bytes() => {
                Direct::Try
            }
            Io::Auto | Io::Map | Io::Read => Direct::Off,
        };
        let free_pages = AtomicU64::new(free_pages);
        let shards = (0..shards).map(|_| OnceLock::new()).collect();
        let no_queue = AtomicBool::new(io == Io::Read);
        Self { shards, io, direct, free_pages, no_queue, sound_runs: OnceLock::new() }
    }

    /// Finds out where every range is, and starts to read what the storage has to be waited for.
    ///
    /// # Errors
    /// If a shard is missing or is not as long as the manifest says.
    pub(crate) fn begin(
        &self,
        tokens: &TokenFiles,
        ranges: &[Range],
        reading: &mut Reading,
        traffic: &mut Traffic,
    ) -> Result<()> {
        let Reading { unmapped, queued, ticket } = reading;
        unmapped.clear();
        queued.clear();
        *ticket = None;
        let no_queue = self.no_queue.load(Ordering::Relaxed);
        for (number, range) in ranges.iter().enumerate() {
            let shard = self.shard(tokens, range.shard)?;
            match shard.place(range, &self.free_pages) {
                // All pages of the batch are fetched at once, not one after the other.
                Place::Mapped(bytes) => prefetch(bytes),
                Place::Cached => unmapped.push((number, false)),
                Place::Cold if no_queue || range.bytes == 0 => {
                    shard.file.will_need(range.offset, range.bytes as u64);
                    unmapped.push((number, true));
                }
                Place::Cold => queued.push(number),
            }
        }
        if !queued.is_empty() {
            let start = Instant::now();
            *ticket = self.enqueue(tokens, ranges, queued)?;
            traffic.storage += start.elapsed();
            if ticket.is_none() {
                // No queue can be had here: read by position, in the order of the list.
                self.no_queue.store(true, Ordering::Relaxed);
                unmapped.extend(queued.drain(..).map(|number| (number, true)));
                unmapped.sort_unstable();
            }
        }
        Ok(())
    }

    /// Has all of `queued` in flight.
    fn enqueue(
        &self,
        tokens: &TokenFiles,
        ranges: &[Range],
        queued: &[usize],
    ) -> Result<Option<cold::Ticket>> {
        let mut objects: Vec<Arc<Object>> = Vec::new();
        // Few shards of many: positions are looked up by a walk from the end.
        let mut shards: Vec<u32> = Vec::new();
        let mut wanted = Vec::with_capacity(queued.len());
        let mut place = None;
        for &number in queued {
            let range = &ranges[number];
            let shard = self.shard(tokens, range.shard)?;
            place.get_or_insert((shard.file.path(), shard.home));
            let known = shards.iter().rposition(|&known| known == range.shard);
            let object = match known {
                Some(known) => known,
                None => {
                    objects.push(shard.object(self.direct)?);
                    shards.push(range.shard);
                    shards.len() - 1
                }
            };
            let (object, length) = (object as u32, range.bytes as u64);
            wanted.push(forebay_store::Range { object, offset: range.offset, length });
        }
        Ok(place.and_then(|(near, home)| cold::begin(near, home, &objects, wanted)))
    }

    /// Hands the bytes of every range to `each`, with its number; in any order.
    ///
    /// * `reading` — of [`Reader::begin`] with the same ranges on the same thread.
    ///
    /// # Errors
    /// If the storage fails or a shard has been cut short; those of `each`.
    pub(crate) fn finish(
        &self,
        tokens: &TokenFiles,
        ranges: &[Range],
        reading: &mut Reading,
        scratch: &mut Vec<u8>,
        traffic: &mut Traffic,
        mut each: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Reading { unmapped, queued, ticket } = reading;
        let ticket = ticket.take();
        let mut done = Ok(());
        let mut skipped = unmapped.iter().map(|(number, _)| *number).peekable();
        let mut waiting = queued.iter().copied().peekable();
        for (number, range) in ranges.iter().enumerate() {
            if skipped.next_if_eq(&number).is_some() || waiting.next_if_eq(&number).is_some() {
                continue;
            }
            let shard = self.shard(tokens, range.shard)?;
            if let Some(map) = &shard.map
                && done.is_ok()
            {
                traffic.mapped_bytes += range.bytes as u64;
                let first = range.offset as usize;
                done = each(number, &map[first..first + range.bytes]);
            }
        }
        for &(number, cold) in &*unmapped {
            if done.is_ok() {
                done =
                    self.copy(tokens, number, &ranges[number], cold, scratch, traffic, &mut each);
            }
        }
        let Some(ticket) = ticket else { return done };
        // What is in flight is waited for in any case: a buffer is at home again then.
        let (start, mut copying) = (Instant::now(), Duration::ZERO);
        let failed = done.is_err();
        let found = cold::finish(ticket, |place, bytes| {
            if failed {
                return Ok(());
            }
            let (number, start) = (queued[place], Instant::now());
            traffic.read_bytes += bytes.len() as u64;
            let done = each(number, bytes);
            copying += start.elapsed();
            done
        });
        traffic.storage += start.elapsed().saturating_sub(copying);
        done?;
        if found? {
            return Ok(());
        }
        // Its queue went with a batch that failed.
        queued.iter().try_for_each(|&number| {
            self.copy(tokens, number, &ranges[number], true, scratch, traffic, &mut each)
        })
    }

    /// One range by position.
    #[expect(clippy::too_many_arguments, reason = "a loop of `finish` that is there twice")]
    fn copy(
        &self,
        tokens: &TokenFiles,
        number: usize,
        range: &Range,
        cold: bool,
        scratch: &mut Vec<u8>,
        traffic: &mut Traffic,
        each: &mut impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let shard = self.shard(tokens, range.shard)?;
        if scratch.len() < range.bytes + LINE_BYTES {
            scratch.resize(range.bytes + LINE_BYTES, 0);
        }
        let skip = scratch.as_ptr().align_offset(LINE_BYTES).min(LINE_BYTES);
        let bytes = &mut scratch[skip..skip + range.bytes];
        let start = cold.then(Instant::now);
        shard.file.read_at(range.offset, bytes)?;
        traffic.storage += start.map_or(Duration::ZERO, |start| start.elapsed());
        traffic.read_bytes += range.bytes as u64;
        each(number, bytes)
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

    /// Compares a run of tokens with its checksum, where the format has one, if that was not done
    /// before.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they differ, also when asked again.
    pub(crate) fn verify_run(
        &self,
        tokens: &TokenFiles,
        shard: u32,
        run: u64,
        traffic: &mut Traffic,
    ) -> Result<()> {
        let runs = tokens.index().entries().len().div_ceil(64);
        let sound = self.sound_runs.get_or_init(|| (0..runs).map(|_| AtomicU64::new(0)).collect());
        let (place, bit) = ((run / 64) as usize, 1 << (run % 64));
        if sound.get(place).is_some_and(|bits| bits.load(Ordering::Relaxed) & bit != 0) {
            return Ok(());
        }
        let start = Instant::now();
        let file = &self.shard(tokens, shard)?.file;
        let found = tokens.checksum(run as usize, file)?;
        traffic.verify += start.elapsed();
        if let Some((expected, found)) = found.filter(|(expected, found)| expected != found) {
            let entry = &tokens.index().entries()[run as usize];
            let bytes = u64::from(entry.tokens) * tokens.token_type().bytes() as u64;
            let (path, first) = (file.path().to_path_buf(), entry.offset);
            let (expected, found) = (format!("{expected:08x}"), format!("{found:08x}"));
            return Err(Error::Corrupt { path, first, end: first + bytes, expected, found });
        }
        if let Some(bits) = sound.get(place) {
            bits.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
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
            Io::Auto | Io::Map | Io::Read | Io::Direct => None,
        };
        let home = file.home();
        let blocks = file.size().div_ceil(BLOCK_BYTES);
        let blocks = (0..blocks).map(|_| AtomicU8::new(0)).collect();
        let object = OnceLock::new();
        Ok(Shard { file, map, object, home, blocks })
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

impl Drop for Reader {
    fn drop(&mut self) {
        // A queue would keep files open that nobody reads any more.
        cold::close_idle();
    }
}

impl Shard {
    /// What a queue reads from.
    fn object(&self, direct: Direct) -> Result<Arc<Object>> {
        if let Some(object) = self.object.get() {
            return Ok(Arc::clone(object));
        }
        // Rings know no page cache.
        let direct = if self.home.is_some() { Direct::Off } else { direct };
        let object = Arc::new(Object::open(self.file.path(), Access::Read, direct)?);
        Ok(Arc::clone(self.object.get_or_init(|| object)))
    }

    /// Through the map what lies in the page cache, as long as there are blocks to map.
    ///
    /// What was there once is taken to be there: if it went meanwhile, it is read again.
    fn place(&self, range: &Range, free_pages: &AtomicU64) -> Place<'_> {
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
            // A file lies in the page cache in pieces of up to a huge page, and who touches one maps
            // all of it.
            let twin = self.blocks.get(block ^ 1);
            let paid = twin.is_some_and(|twin| twin.load(Ordering::Relaxed) & MAPPED != 0);
            let less = |free: u64| free.checked_sub(u64::from(!paid));
            if free_pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
                state.fetch_or(CACHED, Ordering::Relaxed);
                return Place::Cached;
            }
            state.fetch_or(MAPPED, Ordering::Relaxed);
        }
        Place::Mapped(bytes)
    }
}
