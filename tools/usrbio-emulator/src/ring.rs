//! The daemon's side of a ring: which submissions make a job, and where results go.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::key::RingKey;
use crate::shared::Shared;

/// A watcher takes no more jobs from one ring at a time.
pub(crate) const JOBS_A_PASS: usize = 32;

/// Offsets of the indices; the rest follows from the number of slots.
const SQ_HEAD: usize = 0;
const SQ_TAIL: usize = 4;
const CQ_HEAD: usize = 8;
const CQ_TAIL: usize = 12;

/// Argument slots, completions and submissions of 56, 24 and 16 bytes; a semaphore; slack.
const ENTRY_BYTES: usize = 56 + 24 + 16;
const FIXED_BYTES: usize = 16 + 32 + 4096;

#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) key: RingKey,
    memory: Shared,
    /// One more than may be in use.
    slots: usize,
    state: Mutex<State>,
}

/// What must not be believed from shared memory, since the client may write there.
#[derive(Debug, Default)]
struct State {
    taken: usize,
    cq_head: usize,
    sq_tail: usize,
    /// Jobs in order of their submissions: how many, and whether they are over.
    jobs: VecDeque<(u64, usize, bool)>,
    next_job: u64,
    in_process: usize,
    waits_since: Option<Instant>,
}

/// Submissions that are done together and answered together.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) ring: Arc<Ring>,
    number: u64,
    pub(crate) slots: Vec<i32>,
}

/// One transfer as the client described it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Args {
    pub(crate) iov: [u8; 16],
    pub(crate) iov_offset: u64,
    pub(crate) inode: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) user_data: u64,
}

/// Sizes of the jobs that `available` submissions make.
///
/// `waited`: a partial job has waited for as long as the ring's name allows. With a negative depth
/// and a timeout the daemon never issues a partial one, which is a defect of its own, kept here.
fn form(available: usize, room: usize, depth: i32, timeout_ms: u64, waited: bool) -> Vec<usize> {
    let count = available.min(room);
    if count == 0 {
        return Vec::new();
    }
    if depth == 0 {
        return vec![count];
    }
    let size = depth.unsigned_abs() as usize;
    let mut jobs = vec![size; (count / size).min(JOBS_A_PASS)];
    let rest = count - jobs.len() * size;
    let partial = match depth {
        1.. => waited && timeout_ms > 0,
        _ => timeout_ms == 0,
    };
    if rest > 0 && rest < size && partial && jobs.len() < JOBS_A_PASS {
        jobs.push(rest);
    }
    jobs
}

impl Ring {
    /// `None` if the memory holds no ring, or none in which a job of its depth fits.
    pub(crate) fn new(memory: Shared, key: RingKey) -> Option<Self> {
        let slots = memory.len().checked_sub(FIXED_BYTES)? / ENTRY_BYTES;
        if slots < 2 || key.io_depth.unsigned_abs() as usize > slots - 1 {
            return None;
        }
        let ring = Self { key, memory, slots, state: Mutex::default() };
        ring.memory.init_semaphore(ring.semaphore());
        Some(ring)
    }

    fn semaphore(&self) -> usize {
        16 + ENTRY_BYTES * self.slots
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, offset: usize) -> Option<usize> {
        let index = usize::try_from(self.memory.word32(offset).load(Acquire)).ok()?;
        (index < self.slots).then_some(index)
    }

    fn between(&self, from: usize, to: usize) -> usize {
        (to + self.slots - from) % self.slots
    }

    /// Jobs that can start now. Indices that cannot be are taken for an empty ring.
    pub(crate) fn take(self: &Arc<Self>) -> Vec<Job> {
        let mut state = self.state();
        let (Some(head), Some(cq_tail)) = (self.index(SQ_HEAD), self.index(CQ_TAIL)) else {
            return Vec::new();
        };
        let available = self.between(state.taken, head);
        let answered = self.between(cq_tail, state.cq_head);
        let room = (self.slots - 1).saturating_sub(state.in_process + answered);
        let timeout = Duration::from_millis(self.key.timeout_ms);
        let waited = state.waits_since.is_some_and(|since| since.elapsed() >= timeout);
        let sizes = form(available, room, self.key.io_depth, self.key.timeout_ms, waited);
        let mut jobs = Vec::with_capacity(sizes.len());
        for size in sizes {
            let mut slots = Vec::with_capacity(size);
            for _ in 0..size {
                let sqe = 16 + 80 * self.slots + 16 * state.taken;
                slots.push(self.memory.word32(sqe).load(Relaxed));
                state.taken = (state.taken + 1) % self.slots;
            }
            let number = state.next_job;
            state.next_job += 1;
            state.in_process += size;
            state.jobs.push_back((number, size, false));
            jobs.push(Job { ring: Arc::clone(self), number, slots });
        }
        let left = self.between(state.taken, head);
        state.waits_since = match state.waits_since {
            Some(since) if left > 0 && jobs.is_empty() => Some(since),
            _ if left > 0 => Some(Instant::now()),
            _ => None,
        };
        jobs
    }

    /// Whether a partial job may become due without anybody posting.
    pub(crate) fn is_waiting(&self) -> bool {
        self.key.timeout_ms > 0 && self.state().waits_since.is_some()
    }

    /// What the client wrote into an argument slot; `None` for a slot that is none.
    pub(crate) fn args(&self, slot: i32) -> Option<Args> {
        let slot = usize::try_from(slot).ok().filter(|&slot| slot < self.slots)?;
        let word = |n: usize| self.memory.word64(16 + 56 * slot + 8 * n).load(Relaxed);
        let mut iov = [0; 16];
        iov[..8].copy_from_slice(&word(0).to_le_bytes());
        iov[8..].copy_from_slice(&word(1).to_le_bytes());
        Some(Args {
            iov,
            iov_offset: word(2),
            inode: word(3),
            offset: word(4),
            length: word(5),
            user_data: word(6),
        })
    }

    /// Answers a whole job; wakes the client once. True if submissions are left.
    pub(crate) fn finish(&self, job: &Job, results: &[(i64, u64)], wake: bool) -> bool {
        let mut state = self.state();
        for (&slot, &(result, user_data)) in job.slots.iter().zip(results) {
            let cqe = 16 + 56 * self.slots + 24 * state.cq_head;
            self.memory.word64(cqe).store(u64::from(slot as u32), Relaxed);
            self.memory.word64(cqe + 8).store(result as u64, Relaxed);
            self.memory.word64(cqe + 16).store(user_data, Relaxed);
            state.cq_head = (state.cq_head + 1) % self.slots;
        }
        state.in_process -= job.slots.len();
        if let Some(entry) = state.jobs.iter_mut().find(|(number, ..)| *number == job.number) {
            entry.2 = true;
        }
        while let Some(&(_, count, true)) = state.jobs.front() {
            state.sq_tail = (state.sq_tail + count) % self.slots;
            state.jobs.pop_front();
        }
        self.memory.word32(SQ_TAIL).store(state.sq_tail as i32, Release);
        self.memory.word32(CQ_HEAD).store(state.cq_head as i32, Release);
        let left = self.index(SQ_HEAD).is_some_and(|head| self.between(state.taken, head) > 0);
        drop(state);
        if wake {
            self.memory.post(self.semaphore());
        }
        left
    }

    /// Writes an index that cannot be, as a daemon would that has lost its mind.
    pub(crate) fn spoil(&self) {
        self.memory.word32(CQ_HEAD).store(i32::MAX, Release);
        self.memory.post(self.semaphore());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_zero_makes_one_job_of_all() {
        assert_eq!(form(7, 100, 0, 0, false), [7]);
        assert_eq!(form(7, 5, 0, 0, false), [5]);
        assert!(form(0, 100, 0, 0, false).is_empty());
        assert!(form(7, 0, 0, 0, false).is_empty());
    }

    #[test]
    fn a_positive_depth_waits_for_full_jobs_or_the_timeout() {
        assert_eq!(form(7, 100, 3, 0, true), [3, 3]);
        assert_eq!(form(7, 100, 3, 5, false), [3, 3]);
        assert_eq!(form(7, 100, 3, 5, true), [3, 3, 1]);
        assert!(form(2, 100, 3, 0, true).is_empty());
    }

    #[test]
    fn a_negative_depth_only_bounds_a_job() {
        assert_eq!(form(7, 100, -3, 0, false), [3, 3, 1]);
        assert_eq!(form(7, 100, -3, 5, true), [3, 3], "as the daemon does it");
    }

    #[test]
    fn no_more_than_32_jobs_a_pass() {
        assert_eq!(form(100, 1000, -1, 0, false).len(), 32);
        assert_eq!(form(100, 1000, 2, 0, false).len(), 32);
    }
}
