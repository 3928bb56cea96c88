//! External sort: records of fixed size, split by key into partitions that fit into memory.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytemuck::{Pod, cast_slice, cast_slice_mut};
use forebay_store::{File, NewFile};

use crate::Result;
use crate::ordered::ordered;

/// What can be sorted.
pub(crate) trait Record: Pod + Ord + Send + Sync {
    /// What records are split by: equal for those that belong together, spread over all of `u64`.
    fn key(&self) -> u64;
}

/// Takes records in any order and gives them back sorted, partition by partition.
///
/// Cost: records are written and read once if they do not fit into memory, never otherwise; once
/// more if there are many more of them than expected.
/// Memory: half of the budget for what waits, the rest for the partitions being sorted. Records of
/// one key are held together, however many there are.
pub(crate) struct Sorter<R> {
    name: PathBuf,
    partitions: Vec<Partition<R>>,
    memory_bytes: u64,
    threads: usize,
    /// Records in buffers.
    held: u64,
    /// Keys from the first to the last.
    first: u64,
    last: u64,
}

struct Partition<R> {
    buffer: Vec<R>,
    spilled: Option<NewFile>,
    /// Keys from the first to the last.
    first: u64,
    last: u64,
}

const MIN_PARTITION_BYTES: u64 = 64 << 10;
const MAX_PARTITIONS: u64 = 1024;

impl<R: Record> Sorter<R> {
    /// For about `expected` records; scratch files are called `name` and a number.
    pub(crate) fn new(name: &Path, expected: u64, memory_bytes: u64, threads: usize) -> Self {
        Self::between(name, expected, memory_bytes, threads, 0, u64::MAX)
    }

    /// For keys from `first` to `last` alone.
    pub(crate) fn between(
        name: &Path,
        expected: u64,
        memory_bytes: u64,
        threads: usize,
        first: u64,
        last: u64,
    ) -> Self {
        let bytes = expected.saturating_mul(size_of::<R>() as u64);
        let enough = bytes.div_ceil(Self::partition_bytes(memory_bytes, threads));
        let parallel = (bytes / MIN_PARTITION_BYTES).min(4 * threads.max(1) as u64);
        let count = enough.max(parallel).clamp(1, MAX_PARTITIONS);
        let keys = u128::from(last - first) + 1;
        let bound = |number: u64| (keys * u128::from(number)).div_ceil(u128::from(count));
        let partitions = (0..count).map(|number| Partition {
            buffer: Vec::new(),
            spilled: None,
            first: first + bound(number) as u64,
            last: first + (bound(number + 1) - 1) as u64,
        });
        let (name, partitions) = (name.to_path_buf(), partitions.collect());
        Self { name, partitions, memory_bytes, threads, held: 0, first, last }
    }

    /// How many were pushed.
    pub(crate) fn count(&self) -> u64 {
        let bytes: u64 = self.partitions.iter().map(Partition::bytes).sum();
        bytes / size_of::<R>() as u64
    }

    /// Each thread sorts one partition while results of two more wait.
    fn partition_bytes(memory_bytes: u64, threads: usize) -> u64 {
        (memory_bytes / (4 * threads.max(1) as u64)).max(MIN_PARTITION_BYTES)
    }

    pub(crate) fn push(&mut self, record: R) -> Result<()> {
        let keys = u128::from(self.last - self.first) + 1;
        let place = u128::from(record.key() - self.first);
        let number = (place * self.partitions.len() as u128 / keys) as usize;
        self.partitions[number].buffer.push(record);
        self.held += 1;
        if self.held * size_of::<R>() as u64 > self.memory_bytes / 2 {
            for (number, partition) in self.partitions.iter_mut().enumerate() {
                partition.spill(&self.name, number)?;
            }
            self.held = 0;
        }
        Ok(())
    }

    /// Hands out all records in order of their keys, some partitions of keys at a time, each
    /// sorted: `work` on many threads, what it makes to `take`, in order.
    ///
    /// With `repeated`, records that are alone with their key may be left out.
    pub(crate) fn sorted<T: Send>(
        self,
        threads: usize,
        repeated: bool,
        work: impl Fn(&[R]) -> Result<T> + Sync,
        mut take: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        let most_bytes = 2 * Self::partition_bytes(self.memory_bytes, self.threads);
        let partitions: Vec<_> = self.partitions.into_iter().map(|p| Mutex::new(Some(p))).collect();
        let name = &self.name;
        let work = |number: usize| {
            let partition: &Mutex<Option<Partition<R>>> = &partitions[number];
            let partition = partition.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mut made = Vec::new();
            if let Some(partition) = partition {
                let name = name.with_extension(format!("{number}"));
                partition.sorted(&name, most_bytes, repeated, &mut |records| {
                    made.push(work(records)?);
                    Ok(())
                })?;
            }
            Ok(made)
        };
        ordered(threads, partitions.len(), work, |_, made: Vec<T>| {
            made.into_iter().try_for_each(&mut take)
        })
    }
}

impl<R: Record> Partition<R> {
    fn spill(&mut self, name: &Path, number: usize) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let file = match &mut self.spilled {
            Some(file) => file,
            empty => {
                let mut path = name.as_os_str().to_owned();
                path.push(format!("-{number:05}"));
                empty.insert(NewFile::create(Path::new(&path))?)
            }
        };
        file.append(cast_slice(&self.buffer))?;
        self.buffer.clear();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let spilled = self.spilled.as_ref().map_or(0, NewFile::written);
        spilled + size_of_val(&self.buffer[..]) as u64
    }

    /// Sorts what is there; what is too much for memory is split by key once more.
    fn sorted(
        self,
        name: &Path,
        most_bytes: u64,
        repeated: bool,
        work: &mut dyn FnMut(&[R]) -> Result<()>,
    ) -> Result<()> {
        if self.bytes() > most_bytes && self.last > self.first {
            let expected = self.bytes() / size_of::<R>() as u64;
            let (first, last) = (self.first, self.last);
            let mut parts = Sorter::between(name, expected, most_bytes, 1, first, last);
            self.each(|record| parts.push(record))?;
            for (number, part) in parts.partitions.into_iter().enumerate() {
                // Half as many keys at least: this comes to an end.
                let name = name.with_extension(format!("{number}-"));
                part.sorted(&name, most_bytes, repeated, work)?;
            }
            return Ok(());
        }
        let mut records = Vec::with_capacity(self.bytes() as usize / size_of::<R>());
        self.each(|record| {
            records.push(record);
            Ok(())
        })?;
        if repeated {
            drop_singles(&mut records);
        }
        records.sort_unstable();
        work(&records)
    }

    /// All records, in the order they came; the file is deleted.
    fn each(self, mut each: impl FnMut(R) -> Result<()>) -> Result<()> {
        if let Some(file) = &self.spilled {
            let spilled = File::open(file.temporary())?;
            let mut block = Vec::new();
            block.resize(BLOCK_RECORDS, R::zeroed());
            let mut at = 0;
            while at < file.written() {
                let left = (file.written() - at) / size_of::<R>() as u64;
                let count = usize::try_from(left).unwrap_or(BLOCK_RECORDS).min(BLOCK_RECORDS);
                spilled.read_at(at, cast_slice_mut(&mut block[..count]))?;
                at += size_of_val(&block[..count]) as u64;
                block[..count].iter().try_for_each(|&record| each(record))?;
            }
        }
        self.buffer.into_iter().try_for_each(each)
    }
}

/// Records read at once.
const BLOCK_RECORDS: usize = 4 << 10;

/// Drops most records that are alone with their key: two bits a slot, for slots by key, tell
/// whether a second one came. Sorting, the dearer part, is left with what may have company.
fn drop_singles<R: Record>(records: &mut Vec<R>) {
    if records.len() < 64 {
        return;
    }
    let slots = (8 * records.len()).next_power_of_two();
    let slot =
        |record: &R| (record.key().wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize) & (slots - 1);
    let (mut seen, mut again) = (vec![0_u64; slots / 64], vec![0_u64; slots / 64]);
    for record in &*records {
        let (word, bit) = (slot(record) / 64, 1 << (slot(record) % 64));
        again[word] |= seen[word] & bit;
        seen[word] |= bit;
    }
    records.retain(|record| again[slot(record) / 64] >> (slot(record) % 64) & 1 == 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
    #[repr(C)]
    struct Pair(u64, u64);

    impl Record for Pair {
        fn key(&self) -> u64 {
            self.0
        }
    }

    fn groups(
        pairs: &[Pair],
        expected: u64,
        memory_bytes: u64,
        threads: usize,
        repeated: bool,
    ) -> Vec<Vec<Pair>> {
        let dir = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(&dir.path().join("sort"), expected, memory_bytes, threads);
        pairs.iter().for_each(|&pair| sorter.push(pair).unwrap());
        let mut found = Vec::new();
        let work = |records: &[Pair]| {
            let groups = records.chunk_by(|a, b| a.0 == b.0).filter(|g| g.len() > 1 || !repeated);
            Ok(groups.map(<[Pair]>::to_vec).collect::<Vec<_>>())
        };
        let take = |groups| {
            found.extend::<Vec<Vec<Pair>>>(groups);
            Ok(())
        };
        sorter.sorted(threads, repeated, work, take).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "scratch is left behind");
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn equals_a_sort_in_memory(
            keys in prop::collection::vec(0..2_000_u64, 0..20_000),
            repeated: bool,
            threads in 1..4_usize,
        ) {
            let spread = |key: u64| key.wrapping_mul(0xd6e8_feb8_6659_fd93);
            let pairs: Vec<Pair> = keys.iter().zip(0..).map(|(&k, n)| Pair(spread(k), n)).collect();
            let mut expected = pairs.clone();
            expected.sort_unstable();
            let expected: Vec<Vec<Pair>> = expected
                .chunk_by(|a, b| a.0 == b.0)
                .filter(|group| group.len() > 1 || !repeated)
                .map(<[Pair]>::to_vec)
                .collect();
            // In memory, all of it through files, and more of it than was expected.
            for memory_bytes in [1 << 30, 0] {
                for scale in [1, 0] {
                    let expecting = scale * pairs.len() as u64;
                    let found = groups(&pairs, expecting, memory_bytes, threads, repeated);
                    prop_assert_eq!(&found, &expected);
                }
            }
        }
    }
}
