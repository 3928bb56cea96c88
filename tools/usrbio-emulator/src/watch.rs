//! Watchers wait for posts and form jobs; workers do them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::faults::Faults;
use crate::ring::{Args, Job, Ring};
use crate::shared::Submits;
use crate::table::Table;
use crate::tree::{Kind, Tree};

/// Everything that threads of the daemon share.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) tree: Tree,
    pub(crate) table: Mutex<Table>,
    pub(crate) submits: Submits,
    pub(crate) chunk_bytes: u64,
    pub(crate) faults: RwLock<Faults>,
    pub(crate) stopped: AtomicBool,
    jobs: Mutex<VecDeque<Job>>,
    any: Condvar,
    workers: usize,
    pub(crate) transfers: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Daemon {
    pub(crate) fn new(submits: Submits, chunk_bytes: u64, workers: usize, faults: Faults) -> Self {
        Self {
            tree: Tree::new(),
            table: Mutex::default(),
            submits,
            chunk_bytes,
            faults: RwLock::new(faults),
            stopped: AtomicBool::new(false),
            jobs: Mutex::default(),
            any: Condvar::new(),
            workers,
            transfers: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> Faults {
        self.faults.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Watches one lane until stopped.
    pub(crate) fn watch(&self, lane: usize) {
        while !self.is_stopped() {
            let rings = self.table().rings(lane);
            // The daemon wakes every millisecond; without a job that may come of age, nobody
            // can tell.
            let due = rings.iter().any(|ring| ring.is_waiting());
            let patience = Duration::from_millis(if due { 1 } else { 20 });
            if !self.submits.memory[lane].wait(0, patience) && !due {
                continue;
            }
            if self.faults().hang {
                continue;
            }
            // Not in the head of the loop: the table would stay locked while jobs look into it.
            let rings = self.table().rings(lane);
            for ring in rings.iter() {
                for job in ring.take() {
                    if self.workers == 0 {
                        self.run(&job);
                    } else {
                        self.queue().push_back(job);
                        self.any.notify_one();
                    }
                }
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does jobs until stopped.
    pub(crate) fn work(&self) {
        loop {
            let mut jobs = self.queue();
            let job = loop {
                if self.is_stopped() {
                    return;
                }
                let next = match self.faults().reorder {
                    true => jobs.pop_back(),
                    false => jobs.pop_front(),
                };
                if let Some(job) = next {
                    break job;
                }
                let waited = self.any.wait_timeout(jobs, Duration::from_millis(20));
                jobs = waited.unwrap_or_else(PoisonError::into_inner).0;
            };
            drop(jobs);
            self.run(&job);
        }
    }

    pub(crate) fn run(&self, job: &Job) {
        let faults = self.faults();
        if !faults.delay.is_zero() {
            std::thread::sleep(faults.delay);
        }
        let results: Vec<(i64, u64)> = job
            .slots
            .iter()
            .map(|&slot| match job.ring.args(slot) {
                Some(args) => (self.transfer(&job.ring, &args, &faults), args.user_data),
                None => (-i64::from(libc::EINVAL), 0),
            })
            .collect();
        while self.faults().hold && !self.is_stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if faults.garbage {
            job.ring.spoil();
            return;
        }
        if job.ring.finish(job, &results, !faults.never_wake) {
            self.submits.memory[job.ring.key.lane].post(0);
        }
    }

    fn transfer(&self, ring: &Ring, args: &Args, faults: &Faults) -> i64 {
        let number = self.transfers.fetch_add(1, Ordering::Relaxed) + 1;
        let every = |n: u64| n > 0 && number.is_multiple_of(n);
        if every(faults.error_every) {
            return -i64::from(if faults.errno == 0 { libc::EIO } else { faults.errno });
        }
        let mut args = *args;
        if ring.key.for_read && every(faults.short_every) && args.length > 1 {
            args.length /= 2;
        }
        self.moved(ring, &args).unwrap_or_else(|errno| -i64::from(errno))
    }

    fn moved(&self, ring: &Ring, args: &Args) -> Result<i64, i32> {
        let iov = self.table().iov(&args.iov).ok_or(libc::EINVAL)?;
        let end = args.iov_offset.checked_add(args.length).ok_or(libc::EINVAL)?;
        let crosses = iov.block_bytes > 0
            && args.length > 0
            && args.iov_offset / iov.block_bytes != (end - 1) / iov.block_bytes;
        if args.length == 0 || end > iov.memory.len() as u64 || crosses {
            return Err(libc::EINVAL);
        }
        // Only inodes that the kernel holds: somebody must have the file open.
        let node = self.tree.get(args.inode).ok_or(libc::EBADF)?;
        if !matches!(node.kind, Kind::File(_)) || node.about().looked_up == 0 {
            return Err(libc::EBADF);
        }
        if args.offset.checked_add(args.length).is_none_or(|end| end > i64::MAX as u64) {
            return Err(libc::EFBIG);
        }
        let base = args.iov_offset as usize;
        if !ring.key.for_read {
            let mut bytes = vec![0; args.length as usize];
            iov.memory.get(base, &mut bytes);
            let mut data = node.data_mut().ok_or(libc::EBADF)?;
            data.write(self.chunk_bytes, args.offset, &bytes);
            return Ok(args.length as i64);
        }
        let data = node.data().ok_or(libc::EBADF)?;
        let (mut at, mut holes) = (args.offset, false);
        data.read(self.chunk_bytes, args.offset, args.length, |first, bytes| {
            let place = base + (first - args.offset) as usize;
            if first > at {
                holes = true;
                let gap = (first - at) as usize;
                iov.memory.clear(place - gap, gap);
            }
            iov.memory.put(place, bytes);
            at = first + bytes.len() as u64;
        });
        if holes && ring.key.flags & 2 != 0 {
            return Err(libc::ENODATA);
        }
        // What is missing at the end is not filled up, whether the file goes on or not.
        Ok((at - args.offset) as i64)
    }
}

/// Starts all threads; they end when the daemon is told to stop.
pub(crate) fn start(daemon: &Arc<Daemon>) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    let mut threads = Vec::new();
    for lane in 0..3 {
        let daemon = Arc::clone(daemon);
        let builder = std::thread::Builder::new().name(format!("watch-{lane}"));
        threads.push(builder.spawn(move || daemon.watch(lane))?);
    }
    for number in 0..daemon.workers {
        let daemon = Arc::clone(daemon);
        let builder = std::thread::Builder::new().name(format!("work-{number}"));
        threads.push(builder.spawn(move || daemon.work())?);
    }
    Ok(threads)
}
