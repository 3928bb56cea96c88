//! The sort proof: records of 100 bytes with keys of 10, as the GraySort benchmark has them
//! (sortbenchmark.org, `gensort -a`), through tasks like those of a run.
//!
//! ```text
//! in/K.rec ─▶ split K ─▶ runs/K.run ─▶ sort R ─▶ out/R.rec
//! 64 MB       by range    pieces, one a range     range R of all runs, sorted
//! ```
//! Each byte is read twice and written twice: that is the floor of a sort that does not fit into
//! memory, and all that this one moves. Tasks commit by rename, so a killed sort goes on where it was.

mod sort;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use forebay_store::{File, NewFile, create_dir, publish_bytes};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::progress::{Progress, Unit};
use crate::{Error, Result};

/// Bytes of a record.
pub const RECORD_BYTES: usize = 100;
/// Bytes of its key, at its start.
pub const KEY_BYTES: usize = 10;
/// Records of an input file, at most.
const FILE_RECORDS: u64 = 640_000;
/// Keys that are looked at to cut the ranges, of all files together.
const SAMPLE: u64 = 100_000;

type Record = [u8; RECORD_BYTES];

/// Records in a directory, and how they are sorted.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    plan: Plan,
    threads: usize,
}

/// What a sort that goes on must have in common with the one that began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plan {
    records: u64,
    seed: u64,
    file_records: u64,
    ranges: usize,
}

/// What a sort moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Tasks that were done already.
    pub tasks_done_before: u64,
    /// All tasks.
    pub tasks: u64,
}

/// What is equal of the same records in any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Records.
    pub records: u64,
    /// Sum of the hashes of all records.
    pub hash: u64,
}

impl Sum {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        self.hash = self.hash.wrapping_add(xxh3_64(record));
    }
}

impl Records {
    /// `bytes` of records in `directory`, which is new, empty or holds a sort of the same; to be
    /// sorted by `threads` within `memory_bytes`.
    ///
    /// # Errors
    /// If the directory holds anything else, or the memory is less than 1 MiB a thread.
    pub fn new(
        directory: &Path,
        bytes: u64,
        seed: u64,
        threads: usize,
        memory_bytes: u64,
    ) -> Result<Self> {
        let records = bytes / RECORD_BYTES as u64;
        // A thread splits a file that it holds into another of the same size, or sorts a range.
        let each = memory_bytes / threads.max(1) as u64;
        if each < 1 << 20 || records == 0 {
            let what = format!(
                "expected at least 1 MiB of memory a thread and a record, found {each} B and {records}"
            );
            return Err(Error::key("memory", what));
        }
        let file_records = FILE_RECORDS.min(each / 3 / RECORD_BYTES as u64);
        // Half of it, since ranges are cut by a sample.
        let range_bytes = each / 2 / sort::HELD_BYTES * RECORD_BYTES as u64;
        let ranges = usize::try_from(bytes.div_ceil(range_bytes.max(1))).unwrap_or(usize::MAX);
        let plan = Plan { records, seed, file_records, ranges: ranges.clamp(1, 4096) };
        let file = directory.join("plan.json");
        if let Ok(found) = std::fs::read(&file) {
            if serde_json::from_slice(&found).ok() != Some(plan.clone()) {
                return Err(Error::OtherRun {
                    out: directory.to_path_buf(),
                    differs: "records or memory",
                });
            }
        } else {
            if let Some(Ok(found)) =
                std::fs::read_dir(directory).ok().and_then(|mut all| all.next())
            {
                let found = found.file_name().to_string_lossy().into_owned();
                return Err(Error::NotEmpty { out: directory.to_path_buf(), found });
            }
            create_dir(directory)?;
            publish_bytes(&file, &serde_json::to_vec(&plan).unwrap_or_default())?;
        }
        for name in ["in", "runs", "out"] {
            create_dir(&directory.join(name))?;
        }
        Ok(Self { directory: directory.to_path_buf(), plan, threads })
    }

    /// Bytes of all records.
    pub fn bytes(&self) -> u64 {
        self.plan.records * RECORD_BYTES as u64
    }

    fn files(&self) -> usize {
        usize::try_from(self.plan.records.div_ceil(self.plan.file_records)).unwrap_or(usize::MAX)
    }

    fn input(&self, file: usize) -> PathBuf {
        self.directory.join(format!("in/{file:05}.rec"))
    }

    fn run(&self, file: usize) -> PathBuf {
        self.directory.join(format!("runs/{file:05}.run"))
    }

    fn output(&self, range: usize) -> PathBuf {
        self.directory.join(format!("out/{range:05}.rec"))
    }

    /// Numbers of the first record of a file and of the one behind its last.
    fn span(&self, file: usize) -> (u64, u64) {
        let first = file as u64 * self.plan.file_records;
        (first, self.plan.records.min(first + self.plan.file_records))
    }

    /// Writes the records that are not there yet.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn generate(&self, progress: &Progress) -> Result<Sum> {
        progress.start("generate", Unit::Bytes, self.bytes());
        let sum = Mutex::new(Sum::default());
        each_task(self.threads, self.files(), progress, |file| {
            let (first, end) = self.span(file);
            let mut bytes = Vec::with_capacity((end - first) as usize * RECORD_BYTES);
            let mut mine = Sum::default();
            for number in first..end {
                let record = record(self.plan.seed, number);
                mine.add(&record);
                bytes.extend_from_slice(&record);
            }
            let path = self.input(file);
            if std::fs::metadata(&path).map_or(0, |found| found.len()) != bytes.len() as u64 {
                let mut new = NewFile::create(&path)?;
                new.append(&bytes)?;
                new.rename()?;
            }
            progress.add(bytes.len() as u64);
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            sum.records += mine.records;
            sum.hash = sum.hash.wrapping_add(mine.hash);
            Ok(())
        })?;
        Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the output: its records are in order, within and across files.
    ///
    /// # Errors
    /// If they are not.
    pub fn validate(&self, progress: &Progress) -> Result<Sum> {
        progress.start("validate", Unit::Bytes, self.bytes());
        let (mut sum, mut last) = (Sum::default(), None::<Record>);
        let mut block = vec![0; 10_000 * RECORD_BYTES];
        for range in 0..self.plan.ranges {
            let file = File::open(&self.output(range))?;
            let mut at = 0;
            while at < file.size() {
                let length = block.len().min((file.size() - at) as usize);
                file.read_at(at, &mut block[..length])?;
                let (records, rest) = block[..length].as_chunks::<RECORD_BYTES>();
                let sorted = records.is_sorted()
                    && last.is_none_or(|last| records.first().is_none_or(|first| last <= *first));
                if !sorted || !rest.is_empty() {
                    let what = format!("expected records in order from byte {at} on, found others");
                    return Err(forebay_shard::Error::file(file.path(), what).into());
                }
                records.iter().for_each(|record| sum.add(record));
                last = records.last().copied();
                at += length as u64;
                progress.add(length as u64);
                if progress.stopped() {
                    return Err(Error::Interrupted);
                }
            }
        }
        Ok(sum)
    }

    /// Removes all files, and the directory if nothing else is in it.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn remove(self) -> Result<()> {
        for name in ["in", "runs", "out"] {
            let path = self.directory.join(name);
            std::fs::remove_dir_all(&path)
                .map_err(|e| forebay_store::Error::io("remove", &path, e))?;
        }
        let path = self.directory.join("plan.json");
        std::fs::remove_file(&path).map_err(|e| forebay_store::Error::io("remove", &path, e))?;
        // Not ours if there is more in it.
        let _ = std::fs::remove_dir(&self.directory);
        Ok(())
    }
}

/// Record `number` of a seed: ten printable characters, the number, a filler; a line of text.
fn record(seed: u64, number: u64) -> Record {
    const FILLER: &[u8; 16] = b"0123456789ABCDEF";
    let mut record = [b' '; RECORD_BYTES];
    for (half, key) in record[..KEY_BYTES].chunks_mut(5).enumerate() {
        // The digits of a fraction of 64 bits in base 95.
        let mut fraction = mixed(seed ^ mixed(2 * number + half as u64));
        for character in key {
            let wide = u128::from(fraction) * 95;
            *character = b' ' + (wide >> 64) as u8;
            fraction = wide as u64;
        }
    }
    for (place, digit) in record[12..44].iter_mut().rev().enumerate() {
        let shift = 4 * place as u32;
        *digit = FILLER[(number.checked_shr(shift).unwrap_or(0) & 15) as usize];
    }
    for (place, filler) in record[46..98].iter_mut().enumerate() {
        *filler = FILLER[(number as usize + place / 4) & 15];
    }
    record[98] = b'\r';
    record[99] = b'\n';
    record
}

/// The finalizer of splitmix64.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Does tasks 0 to `count - 1` on `threads` threads; the first error ends it.
fn each_task(
    threads: usize,
    count: usize,
    progress: &Progress,
    task: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let done = if progress.stopped() { Err(Error::Interrupted) } else { task(number) };
            if let Err(error) = done {
                next.store(count, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All output files, one after another.
    fn output(records: &Records) -> Vec<u8> {
        let ranges = 0..records.plan.ranges;
        ranges.flat_map(|range| std::fs::read(records.output(range)).unwrap()).collect()
    }

    #[test]
    fn sorted_records_are_those_of_a_sort_in_memory() {
        for (count, seed, threads, memory) in
            [(1, 0, 1, 1 << 20), (9_999, 1, 2, 2 << 20), (60_000, 2, 3, 3 << 20)]
        {
            let dir = tempfile::tempdir().unwrap();
            let records = Records::new(dir.path(), count * 100, seed, threads, memory).unwrap();
            let progress = Progress::default();
            let sum = records.generate(&progress).unwrap();
            let mut expected: Vec<Record> = (0..count).map(|number| record(seed, number)).collect();
            let found: Vec<u8> = (0..records.files())
                .flat_map(|file| std::fs::read(records.input(file)).unwrap())
                .collect();
            assert_eq!(found, expected.as_flattened());
            let moved = records.sort(&progress).unwrap();
            expected.sort();
            assert_eq!(output(&records), expected.as_flattened(), "{count}");
            assert_eq!(records.validate(&progress).unwrap(), sum);
            // What the ranges were cut by is read once more.
            let pieces = 8 * (records.plan.ranges as u64 + 2) * records.files() as u64;
            assert!(moved.written <= 2 * 100 * count + pieces, "{moved:?}");
            assert!(moved.read <= 2 * 100 * count + pieces + 100 * SAMPLE.min(count), "{moved:?}");
            // Again: all is done.
            let again = records.sort(&progress).unwrap();
            assert_eq!((again.tasks_done_before, again.written), (again.tasks, 0));
            records.remove().unwrap();
            assert!(!dir.path().exists());
        }
    }

    #[test]
    fn what_is_out_of_order_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path(), 100_000, 0, 1, 1 << 20).unwrap();
        let progress = Progress::default();
        records.generate(&progress).unwrap();
        records.sort(&progress).unwrap();
        let mut bytes = std::fs::read(records.output(0)).unwrap();
        bytes.rotate_left(RECORD_BYTES);
        std::fs::write(records.output(0), &bytes).unwrap();
        let error = records.validate(&progress).unwrap_err().to_string();
        assert!(error.contains("expected records in order"), "{error}");
    }

    #[test]
    fn other_records_or_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        Records::new(dir.path(), 1000, 0, 1, 1 << 20).unwrap();
        Records::new(dir.path(), 1000, 0, 1, 1 << 20).unwrap();
        assert!(matches!(
            Records::new(dir.path(), 2000, 0, 1, 1 << 20),
            Err(Error::OtherRun { .. })
        ));
        std::fs::remove_file(dir.path().join("plan.json")).unwrap();
        assert!(matches!(
            Records::new(dir.path(), 1000, 0, 1, 1 << 20),
            Err(Error::NotEmpty { .. })
        ));
    }

    #[test]
    fn keys_are_spread_and_records_are_lines() {
        let mut firsts = [0; 95];
        for number in 0..95_000 {
            let record = record(7, number);
            assert!(record[..98].iter().all(|byte| (b' '..=b'~').contains(byte)));
            assert_eq!(&record[98..], b"\r\n");
            let written = std::str::from_utf8(&record[12..44]).unwrap();
            assert_eq!(u64::from_str_radix(written, 16).unwrap(), number);
            firsts[usize::from(record[0] - b' ')] += 1;
        }
        assert!(firsts.iter().all(|count| (850..1150).contains(count)), "{firsts:?}");
    }
}
