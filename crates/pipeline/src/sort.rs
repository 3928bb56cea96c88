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
/// Cost: records are written and read once if they do not fit into memory, never otherwise.
/// Memory: a quarter of the budget for buffers, the rest for the partitions being sorted.
pub(crate) struct Sorter<R> {
    name: PathBuf,
    partitions: Vec<Partition<R>>,
    /// Records of a partition that stay in memory before they are written.
    most: usize,
}

struct Partition<R> {
    buffer: Vec<R>,
    spilled: Option<NewFile>,
}

const MIN_PARTITION_BYTES: u64 = 64 << 10;
const MAX_PARTITIONS: u64 = 4096;
const MIN_BUFFER_BYTES: u64 = 4 << 10;

impl<R: Record> Sorter<R> {
    /// For about `expected` records; scratch files are called `name` and a number.
    pub(crate) fn new(name: &Path, expected: u64, memory_bytes: u64, threads: usize) -> Self {
        let bytes = expected.saturating_mul(size_of::<R>() as u64);
        // Each thread sorts one partition while results of two more wait.
        let partition_bytes = (memory_bytes / (4 * threads.max(1) as u64)).max(MIN_PARTITION_BYTES);
        let enough = bytes.div_ceil(partition_bytes);
        let parallel = (bytes / MIN_PARTITION_BYTES).min(4 * threads.max(1) as u64);
        let partitions = enough.max(parallel).clamp(1, MAX_PARTITIONS);
        let most = if bytes <= memory_bytes / 2 {
            usize::MAX
        } else {
            let buffer_bytes = (memory_bytes / 4 / partitions).max(MIN_BUFFER_BYTES);
            usize::try_from(buffer_bytes).unwrap_or(usize::MAX) / size_of::<R>()
        };
        let partitions = (0..partitions).map(|_| Partition { buffer: Vec::new(), spilled: None });
        Self { name: name.to_path_buf(), partitions: partitions.collect(), most }
    }

    pub(crate) fn push(&mut self, record: R) -> Result<()> {
        let number = (u128::from(record.key()) * self.partitions.len() as u128) >> 64;
        let number = number as usize;
        let partition = &mut self.partitions[number];
        partition.buffer.push(record);
        if partition.buffer.len() >= self.most {
            partition.spill(&self.name, number)?;
        }
        Ok(())
    }

    /// Hands out all records in order of their partitions, each partition sorted: `work` on many
    /// threads, what it makes to `take`, in order.
    ///
    /// With `repeated`, records that are alone with their key may be left out.
    pub(crate) fn sorted<T: Send>(
        self,
        threads: usize,
        repeated: bool,
        work: impl Fn(&[R]) -> Result<T> + Sync,
        mut take: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        let partitions: Vec<_> = self.partitions.into_iter().map(|p| Mutex::new(Some(p))).collect();
        let work = |number: usize| {
            let partition: &Mutex<Option<Partition<R>>> = &partitions[number];
            let partition = partition.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mut records = partition.map_or(Ok(Vec::new()), Partition::load)?;
            if repeated {
                drop_singles(&mut records);
            }
            records.sort_unstable();
            work(&records)
        };
        ordered(threads, partitions.len(), work, |_, made| take(made))
    }
}

impl<R: Record> Partition<R> {
    fn spill(&mut self, name: &Path, number: usize) -> Result<()> {
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

    /// All records; the file is deleted.
    fn load(self) -> Result<Vec<R>> {
        let Self { mut buffer, spilled } = self;
        if let Some(file) = spilled {
            let size = usize::try_from(file.written()).unwrap_or(usize::MAX) / size_of::<R>();
            let mut records = vec![R::zeroed(); size + buffer.len()];
            File::open(file.temporary())?.read_at(0, cast_slice_mut(&mut records[..size]))?;
            records[size..].copy_from_slice(&buffer);
            buffer = records;
        }
        Ok(buffer)
    }
}

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

    fn groups(pairs: &[Pair], memory_bytes: u64, threads: usize, repeated: bool) -> Vec<Vec<Pair>> {
        let dir = tempfile::tempdir().unwrap();
        let expected = pairs.len() as u64;
        let mut sorter = Sorter::new(&dir.path().join("sort"), expected, memory_bytes, threads);
        pairs.iter().for_each(|&pair| sorter.push(pair).unwrap());
        let mut found = Vec::new();
        let work = |records: &[Pair]| {
            let groups = records.chunk_by(|a, b| a.0 == b.0).filter(|g| g.len() > 1 || !repeated);
            Ok(groups.map(<[Pair]>::to_vec).collect::<Vec<_>>())
        };
        sorter.sorted(threads, repeated, work, |groups| Ok(found.extend(groups))).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "scratch is left behind");
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn equals_a_sort_in_memory(
            keys in prop::collection::vec(0..2_000_u64, 0..3_000),
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
            // In memory, and all of it through files.
            for memory_bytes in [1 << 30, 0] {
                prop_assert_eq!(&groups(&pairs, memory_bytes, threads, repeated), &expected);
            }
        }
    }
}
