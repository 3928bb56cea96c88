//! Threads that call `pread` and `pwrite`: where there is no ring, and as the oracle of the ring.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Backend, ObjectId, Op, Transfer};
use crate::object::{Bytes, Object};

/// More threads than this cost more than they bring; the rest of the depth waits its turn.
const THREADS: usize = 64;

pub(super) struct Threads {
    objects: Vec<Arc<Object>>,
    started: Vec<Job>,
    shared: Arc<Shared>,
}

type Job = (Transfer, Arc<Object>);

struct Shared {
    jobs: Mutex<Jobs>,
    to_do: Condvar,
    ended: Mutex<Vec<(Transfer, i32)>>,
    any_ended: Condvar,
}

struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
}

impl Threads {
    pub(super) fn new(depth: usize) -> io::Result<Self> {
        let jobs = Mutex::new(Jobs { waiting: VecDeque::with_capacity(depth), closed: false });
        let (to_do, any_ended) = (Condvar::new(), Condvar::new());
        let ended = Mutex::new(Vec::with_capacity(depth));
        let shared = Arc::new(Shared { jobs, to_do, ended, any_ended });
        let backend =
            Self { objects: Vec::new(), started: Vec::new(), shared: Arc::clone(&shared) };
        for _ in 0..depth.min(THREADS) {
            let shared = Arc::clone(&shared);
            // Not joined: a thread that hangs in the kernel owns its buffer and may keep it.
            let builder = std::thread::Builder::new().name("forebay-io".into());
            builder.stack_size(64 << 10).spawn(move || work(&shared))?;
        }
        Ok(backend)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut jobs = lock(&self.shared.jobs);
        jobs.closed = true;
        jobs.waiting.clear();
        self.shared.to_do.notify_all();
    }
}

impl Backend for Threads {
    fn add(&mut self, _: ObjectId, object: &Arc<Object>) {
        self.objects.push(Arc::clone(object));
    }

    fn start(&mut self, transfer: Transfer) {
        let object = Arc::clone(&self.objects[transfer.request.object.0 as usize]);
        self.started.push((transfer, object));
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.started.is_empty() {
            return Ok(());
        }
        let mut jobs = lock(&self.shared.jobs);
        let many = self.started.len() > 1;
        jobs.waiting.extend(self.started.drain(..));
        drop(jobs);
        if many {
            self.shared.to_do.notify_all();
        } else {
            self.shared.to_do.notify_one();
        }
        Ok(())
    }

    fn reap(
        &mut self,
        at_least: usize,
        timeout: Option<Duration>,
        ended: &mut Vec<(Transfer, i32)>,
    ) -> io::Result<()> {
        self.submit()?;
        let until = timeout.map(|t| Instant::now() + t);
        let mut list = lock(&self.shared.ended);
        while list.len() < at_least {
            list = match until.map(|u| u.saturating_duration_since(Instant::now())) {
                None => self.shared.any_ended.wait(list).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = self.shared.any_ended.wait_timeout(list, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        ended.append(&mut list);
        Ok(())
    }
}

fn work(shared: &Shared) {
    loop {
        let mut jobs = lock(&shared.jobs);
        let (mut transfer, object) = loop {
            if jobs.closed {
                return;
            }
            match jobs.waiting.pop_front() {
                Some(job) => break job,
                None => jobs = shared.to_do.wait(jobs).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(jobs);
        let result = transfer_now(&mut transfer, &object);
        drop(object);
        lock(&shared.ended).push((transfer, result));
        shared.any_ended.notify_one();
    }
}

fn transfer_now(transfer: &mut Transfer, object: &Object) -> i32 {
    let Bytes::File(file) = &object.bytes else {
        return -rustix::io::Errno::BADF.raw_os_error();
    };
    let (op, offset) = (transfer.request.op, transfer.offset());
    let moved = match op {
        Op::Read => rustix::io::pread(file, transfer.rest(), offset),
        Op::Write => rustix::io::pwrite(file, transfer.rest(), offset),
    };
    moved.map_or_else(|errno| -errno.raw_os_error(), |count| count as i32)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
