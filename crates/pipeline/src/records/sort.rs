//! Split and sort: the two halves of an external sort.

use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::{cast_slice, cast_slice_mut};
use forebay_store::{File, NewFile};
use xxhash_rust::xxh3::Xxh3;

use super::{KEY_BYTES, Moved, RECORD_BYTES, Record, Records, SAMPLE, each_task};
use crate::progress::{Progress, Unit};
use crate::{Error, Result};

/// What a record takes in memory while its range is sorted: itself and its place.
pub(super) const HELD_BYTES: u64 = RECORD_BYTES as u64 + 16;
/// Of the output, at once.
const BLOCK_RECORDS: usize = 10_000;

/// Moved bytes, counted by threads.
#[derive(Default)]
struct Counters {
    read: AtomicU64,
    written: AtomicU64,
    done_before: AtomicU64,
}

impl Counters {
    fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn done_before(&self) {
        self.done_before.fetch_add(1, Ordering::Relaxed);
    }
}

impl Records {
    /// Sorts the records, or goes on where a sort of them stopped.
    ///
    /// Cost: each byte is read and written twice, and a sample of the keys read once more.
    /// Memory: what [`Records::new`] was given; the ranges differ in size by a few percent.
    ///
    /// # Errors
    /// If something cannot be read or written.
    pub fn sort(&self, progress: &Progress) -> Result<Moved> {
        let counters = Counters::default();
        let ranges = Ranges::new(self.cuts(&counters)?);
        let (files, outputs) = (self.files(), self.plan.ranges);
        // A task of the second half needs all of the first.
        if (0..outputs).any(|range| !self.output(range).exists()) {
            progress.start("split", Unit::Bytes, self.bytes());
            each_task(self.threads, files, progress, |file| {
                self.split(file, &ranges, &counters, progress)
            })?;
        } else {
            counters.done_before.fetch_add(files as u64, Ordering::Relaxed);
        }
        progress.start("sort", Unit::Bytes, self.bytes());
        each_task(self.threads, outputs, progress, |range| {
            self.sort_range(range, &counters, progress)
        })?;
        Ok(Moved {
            read: counters.read.into_inner(),
            written: counters.written.into_inner(),
            tasks_done_before: counters.done_before.into_inner(),
            tasks: (files + outputs) as u64,
        })
    }

    /// The least keys of all ranges but the first: from records evenly spread over the input.
    fn cuts(&self, counters: &Counters) -> Result<Vec<[u8; KEY_BYTES]>> {
        let mut keys = Vec::new();
        for file in 0..self.files() {
            let (first, end) = self.span(file);
            let share = (SAMPLE / self.files() as u64).max(1);
            // A block of neighbours is as good as any: generated keys know nothing of their place.
            let count = (end - first).min(share) as usize;
            let mut block = vec![0; count * RECORD_BYTES];
            File::open(&self.input(file))?.read_at(0, &mut block)?;
            counters.read(block.len());
            let (records, _) = block.as_chunks::<RECORD_BYTES>();
            keys.extend(records.iter().map(key));
        }
        keys.sort_unstable();
        let ranges = self.plan.ranges;
        Ok((1..ranges).map(|range| keys[range * keys.len() / ranges]).collect())
    }

    /// A file of the input by range: the places of its pieces, the pieces, a checksum.
    fn split(
        &self,
        file: usize,
        ranges: &Ranges,
        counters: &Counters,
        progress: &Progress,
    ) -> Result<()> {
        let path = self.run(file);
        if Run::open(self, file).is_ok_and(|run| run.is_sound()) {
            counters.done_before();
            return Ok(());
        }
        let input = File::open(&self.input(file))?;
        let mut bytes = vec![0; usize::try_from(input.size()).unwrap_or(0)];
        input.read_at(0, &mut bytes)?;
        counters.read(bytes.len());
        let (records, _) = bytes.as_chunks::<RECORD_BYTES>();

        let of: Vec<u16> = records.iter().map(|record| ranges.of(record)).collect();
        let mut bounds = vec![0_u64; self.plan.ranges + 1];
        of.iter().for_each(|&range| bounds[usize::from(range) + 1] += 1);
        for range in 0..self.plan.ranges {
            bounds[range + 1] += bounds[range];
        }
        let mut next: Vec<usize> = bounds.iter().map(|&bound| bound as usize).collect();
        let mut split = vec![[0; RECORD_BYTES]; records.len()];
        for (record, &range) in records.iter().zip(&of) {
            split[next[usize::from(range)]] = *record;
            next[usize::from(range)] += 1;
        }
        drop(bytes);

        let mut run = NewFile::create(&path)?;
        let mut checksum = Xxh3::new();
        for section in [cast_slice(&bounds), split.as_flattened()] {
            checksum.update(section);
            run.append(section)?;
            counters.written(section.len());
        }
        run.append(&checksum.digest().to_le_bytes())?;
        counters.written(8);
        // Scratch: it is checked before it is believed.
        run.rename()?;
        progress.add(split.as_flattened().len() as u64);
        Ok(())
    }

    /// A range of all runs, sorted.
    fn sort_range(&self, range: usize, counters: &Counters, progress: &Progress) -> Result<()> {
        let path = self.output(range);
        if path.exists() {
            counters.done_before();
            return Ok(());
        }
        let runs = (0..self.files()).map(|file| Run::open(self, file));
        let runs = runs.collect::<Result<Vec<_>>>()?;
        let count: u64 = runs.iter().map(|run| run.piece(range).1).sum();
        let count = usize::try_from(count).unwrap_or(0);
        let mut records = vec![[0; RECORD_BYTES]; count];
        let mut rest = records.as_flattened_mut();
        for run in &runs {
            let (first, count) = run.piece(range);
            let (piece, left) = rest.split_at_mut(count as usize * RECORD_BYTES);
            run.file.read_at(run.start + first * RECORD_BYTES as u64, piece)?;
            counters.read(piece.len());
            rest = left;
        }
        drop(runs);

        // The key and the place in one number: one comparison, nothing to follow.
        let places = records.iter().zip(0_u32..);
        let mut order: Vec<u128> =
            places.map(|(record, place)| number_of(record) << 32 | u128::from(place)).collect();
        order.sort_unstable();
        // Keys that are equal, which is rare, have the rest of their records decide.
        for equal in order.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|equal| equal.len() > 1) {
            equal.sort_by_key(|&number| records[number as u32 as usize]);
        }

        let mut output = NewFile::create(&path)?;
        let mut block: Vec<Record> = Vec::with_capacity(BLOCK_RECORDS);
        for numbers in order.chunks(BLOCK_RECORDS) {
            block.clear();
            block.extend(numbers.iter().map(|&number| records[number as u32 as usize]));
            output.append(block.as_flattened())?;
            counters.written(block.as_flattened().len());
        }
        output.publish()?;
        progress.add((count * RECORD_BYTES) as u64);
        Ok(())
    }
}

fn key(record: &Record) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&record[..KEY_BYTES]);
    key
}

/// The key as a number: 80 bits, in the order of its bytes.
fn number_of(record: &Record) -> u128 {
    let mut bytes = [0; 16];
    bytes[16 - KEY_BYTES..].copy_from_slice(&record[..KEY_BYTES]);
    u128::from_be_bytes(bytes)
}

/// Which range a key is in.
struct Ranges {
    /// The least keys of all ranges but the first.
    cuts: Vec<[u8; KEY_BYTES]>,
    /// Of the first two bytes of a key: the range of the least such key.
    table: Vec<u16>,
}

impl Ranges {
    fn new(cuts: Vec<[u8; KEY_BYTES]>) -> Self {
        let table = (0..=u16::MAX)
            .map(|start| {
                let mut least = [0; KEY_BYTES];
                least[..2].copy_from_slice(&start.to_be_bytes());
                cuts.partition_point(|cut| *cut <= least) as u16
            })
            .collect();
        Self { cuts, table }
    }

    fn of(&self, record: &Record) -> u16 {
        let key = key(record);
        let mut range = self.table[usize::from(u16::from_be_bytes([key[0], key[1]]))];
        while self.cuts.get(usize::from(range)).is_some_and(|cut| *cut <= key) {
            range += 1;
        }
        range
    }
}

/// A file of the input, split.
struct Run {
    file: File,
    bounds: Vec<u64>,
    /// Where the records start.
    start: u64,
}

impl Run {
    fn open(records: &Records, file: usize) -> Result<Self> {
        let (first, end) = records.span(file);
        let file = File::open(&records.run(file))?;
        let mut bounds = vec![0_u64; records.plan.ranges + 1];
        let start = size_of_val(&bounds[..]) as u64;
        let whole = start + (end - first) * RECORD_BYTES as u64 + 8;
        if file.size() == whole {
            file.read_at(0, cast_slice_mut(&mut bounds))?;
        }
        if file.size() != whole || !bounds.is_sorted() || bounds.last() != Some(&(end - first)) {
            let what = format!(
                "expected a run of {whole} bytes, found another; delete it and run the same command"
            );
            return Err(Error::from(forebay_shard::Error::file(file.path(), what)));
        }
        Ok(Self { file, bounds, start })
    }

    /// Number of the first record of a range, and how many there are.
    fn piece(&self, range: usize) -> (u64, u64) {
        (self.bounds[range], self.bounds[range + 1] - self.bounds[range])
    }

    /// Reads all of it and compares the checksum.
    fn is_sound(&self) -> bool {
        let Ok(bytes) = self.file.read(0, usize::try_from(self.file.size()).unwrap_or(0)) else {
            return false;
        };
        let Some((bytes, checksum)) = bytes.split_last_chunk::<8>() else { return false };
        let mut found = Xxh3::new();
        found.update(bytes);
        found.digest() == u64::from_le_bytes(*checksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_holds_the_keys_from_its_cut_to_the_next(
            mut cuts in prop::collection::vec(prop::array::uniform10(0_u8..4), 0..20),
            key in prop::array::uniform10(0_u8..4),
        ) {
            cuts.sort_unstable();
            let expected = cuts.iter().filter(|cut| **cut <= key).count();
            let mut record = [b'x'; RECORD_BYTES];
            record[..KEY_BYTES].copy_from_slice(&key);
            prop_assert_eq!(usize::from(Ranges::new(cuts).of(&record)), expected);
        }
    }
}
