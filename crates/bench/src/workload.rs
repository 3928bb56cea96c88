//! What to do to the storage, and in which order: no I/O here.

use std::time::Duration;

use serde::Serialize;

/// Order of the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// One after another; each job in its own part of the target.
    Sequential,
    /// Any block of the target, independently drawn.
    Random,
}

/// What moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The best queue that works here.
    Auto,
    /// io_uring or an error.
    Uring,
    /// A pool of threads that call `pread`.
    Threads,
    /// The rings of a 3FS, or an error.
    Usrbio,
    /// A memory map, copied out of block by block; a read at a time.
    Mmap,
    /// Requests to an object store.
    Object,
}

impl Engine {
    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Threads => "threads",
            Self::Usrbio => "usrbio",
            Self::Mmap => "mmap",
            Self::Object => "object",
        }
    }
}

/// One point of a benchmark.
#[derive(Debug, Clone, Serialize)]
pub struct Workload {
    /// Share of reads, in percent: 100 reads, 0 writes.
    pub read_percent: u8,
    /// Order of the blocks.
    pub pattern: Pattern,
    /// Bytes of a transfer.
    pub block_bytes: u64,
    /// Transfers in flight, of each job.
    pub queue_depth: usize,
    /// Completions that a job waits for at once; more of them cost fewer system calls.
    pub batch: usize,
    /// Threads, each with its own queue.
    pub jobs: usize,
    /// Past the page cache.
    pub direct: bool,
    /// What moves the bytes.
    pub engine: Engine,
    /// Time of a repeat; `None` goes through the target once.
    pub seconds: Option<f64>,
    /// Time before the first repeat that is not counted.
    pub warm_up_seconds: f64,
    /// Measurements of each figure.
    pub repeats: usize,
    /// Blocks carry their place: written so, and checked when read.
    pub verify: bool,
    /// Of everything random.
    pub seed: u64,
}

impl Workload {
    /// Time of a repeat.
    pub fn time(&self) -> Option<Duration> {
        self.seconds.map(Duration::from_secs_f64)
    }

    /// In a few words: "read random 4096 qd 32".
    pub fn title(&self) -> String {
        let what = match self.read_percent {
            100 => "read".into(),
            0 => "write".into(),
            percent => format!("mix {percent}"),
        };
        let pattern = match self.pattern {
            Pattern::Sequential => "sequential",
            Pattern::Random => "random",
        };
        format!("{what} {pattern}")
    }
}

/// The blocks of one job, in order.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    pattern: Pattern,
    first: u64,
    count: u64,
    next: u64,
    random: Random,
    read_percent: u64,
}

/// The part of `blocks` that belongs to `job` of `jobs`.
fn part(blocks: u64, job: usize, jobs: usize) -> (u64, u64) {
    let (job, jobs) = (job as u64, jobs as u64);
    let start = |job: u64| (u128::from(blocks) * u128::from(job) / u128::from(jobs)) as u64;
    (start(job), start(job + 1) - start(job))
}

impl Blocks {
    /// Of `job`, in a target of `blocks` blocks; `repeat` changes what is drawn.
    pub(crate) fn new(workload: &Workload, blocks: u64, job: usize, repeat: usize) -> Self {
        let (first, count) = match workload.pattern {
            Pattern::Sequential => part(blocks, job, workload.jobs),
            Pattern::Random => (0, blocks),
        };
        let stream = (job as u64) << 32 | repeat as u64;
        let random = Random(workload.seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let read_percent = workload.read_percent.into();
        Self { pattern: workload.pattern, first, count, next: 0, random, read_percent }
    }

    /// Blocks that this job has to go through when it goes through the target once.
    pub(crate) fn once(workload: &Workload, blocks: u64, job: usize) -> u64 {
        part(blocks, job, workload.jobs).1
    }

    /// The next block, and whether it is read. Starts over at the end; `None` if there are none.
    #[inline]
    pub(crate) fn draw(&mut self) -> Option<(u64, bool)> {
        if self.count == 0 {
            return None;
        }
        let is_read = match self.read_percent {
            100 => true,
            0 => false,
            percent => self.random.below(100) < percent,
        };
        let block = match self.pattern {
            Pattern::Random => self.random.below(self.count),
            Pattern::Sequential => {
                let block = self.next;
                self.next = if block + 1 == self.count { 0 } else { block + 1 };
                block
            }
        };
        Some((self.first + block, is_read))
    }
}

/// splitmix64: one multiplication a number, and no state to share.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, by multiplication: the bias is below 2^-40 for any disk.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

/// Words of a block that carries its place: its first byte in the target and the seed, mixed.
pub(crate) fn fill(block: &mut [u8], offset: u64, seed: u64) {
    let mut random = Random(seed ^ offset.rotate_left(32));
    for word in block.chunks_mut(8) {
        word.copy_from_slice(&random.next().to_le_bytes()[..word.len()]);
    }
}

/// Where a block is not what [`fill`] made of it.
pub(crate) fn first_difference(block: &[u8], offset: u64, seed: u64) -> Option<usize> {
    let mut random = Random(seed ^ offset.rotate_left(32));
    for (n, word) in block.chunks(8).enumerate() {
        if *word != random.next().to_le_bytes()[..word.len()] {
            return Some(n * 8);
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    pub(crate) fn workload(pattern: Pattern, jobs: usize) -> Workload {
        Workload {
            read_percent: 100,
            pattern,
            block_bytes: 4096,
            queue_depth: 4,
            batch: 1,
            jobs,
            direct: false,
            engine: Engine::Auto,
            seconds: Some(0.1),
            warm_up_seconds: 0.0,
            repeats: 1,
            verify: false,
            seed: 1,
        }
    }

    proptest! {
        #[test]
        fn sequential_jobs_go_through_every_block_once(blocks in 1..200_u64, jobs in 1..9_usize) {
            let workload = workload(Pattern::Sequential, jobs);
            let mut seen = Vec::new();
            for job in 0..jobs {
                let mut own = Blocks::new(&workload, blocks, job, 0);
                let count = Blocks::once(&workload, blocks, job);
                seen.extend((0..count).map(|_| own.draw().unwrap().0));
            }
            prop_assert_eq!(seen, (0..blocks).collect::<Vec<_>>());
        }

        #[test]
        fn a_changed_byte_is_found(offset in 0..1_u64 << 40, at in 0..4099_usize, flip in 1..=255_u8) {
            let mut block = vec![0; 4099];
            fill(&mut block, offset, 7);
            prop_assert_eq!(first_difference(&block, offset, 7), None);
            prop_assert!(first_difference(&block, offset + 4096, 7).is_some());
            block[at] ^= flip;
            prop_assert_eq!(first_difference(&block, offset, 7), Some(at / 8 * 8));
        }
    }

    #[test]
    fn random_jobs_and_repeats_draw_different_blocks_evenly() {
        let workload = workload(Pattern::Random, 2);
        let draw = |job, repeat| -> Vec<u64> {
            let mut blocks = Blocks::new(&workload, 64, job, repeat);
            (0..6400).map(|_| blocks.draw().unwrap().0).collect()
        };
        let all: HashSet<Vec<u64>> = [draw(0, 0), draw(1, 0), draw(0, 1)].into();
        assert_eq!((all.len(), draw(0, 0) == draw(0, 0)), (3, true));
        for block in 0..64 {
            let count = draw(0, 0).iter().filter(|&&b| b == block).count();
            assert!((50..200).contains(&count), "block {block} was drawn {count} times of 6400");
        }
    }

    #[test]
    fn a_mix_has_its_share_of_reads() {
        let workload = Workload { read_percent: 70, ..workload(Pattern::Random, 1) };
        let mut blocks = Blocks::new(&workload, 64, 0, 0);
        let reads = (0..10_000).filter(|_| blocks.draw().unwrap().1).count();
        assert!((6_700..7_300).contains(&reads), "{reads}");
    }
}
