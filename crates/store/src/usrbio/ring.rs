//! Submissions and completions of one direction.

use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::layout::{CQ_HEAD, CQ_TAIL, Id, RingKind, RingLayout, SQ_HEAD, SQ_TAIL, lane, ring_key};
use super::mount::{Mount, Session};
use super::semaphore::Semaphore;
use super::shared::Shared;
use super::sys;
use crate::{Error, Result};

/// A wait looks at the indices this often by itself, for a daemon that forgot to wake us.
const LOOK: Duration = Duration::from_millis(100);

/// One transfer, as the daemon is told.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Of the iov that holds the bytes.
    pub iov: Id,
    /// First byte in the iov.
    pub iov_offset: u64,
    /// Inode number of the file; somebody must hold it open.
    pub inode: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes, one at least.
    pub length: u64,
    /// Comes back with the completion.
    pub user_data: u64,
}

/// A completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// The slot that [`Ring::prepare`] returned, free again.
    pub slot: usize,
    /// Bytes moved, or a negative error number.
    pub result: i64,
    /// Of the entry.
    pub user_data: u64,
}

/// A ring, registered with a daemon. Any thread may prepare and reap.
#[derive(Debug)]
pub struct Ring {
    id: Id,
    key: String,
    kind: RingKind,
    layout: RingLayout,
    memory: Shared,
    slots: Mutex<Slots>,
    mount: Arc<Mount>,
    session: Arc<Session>,
}

/// Which argument slots are free: private to the client.
#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    taken: Vec<bool>,
}

impl Ring {
    /// Makes a ring of `entries` and registers it. Its memory has no name afterwards.
    ///
    /// # Errors
    /// [`Error::Memory`] if `/dev/shm` is full, [`Error::ThreeFs`] if the daemon refuses, as it
    /// does when `kind.io_depth` is above `entries`.
    pub fn create(
        mount: &Arc<Mount>,
        entries: usize,
        kind: RingKind,
        numa: Option<u32>,
    ) -> Result<Self> {
        let action = "register a ring with";
        let fail = |source| Error::ThreeFs { action, mount: mount.root().into(), source };
        if entries == 0 || entries > 1 << 24 {
            return Err(fail(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let layout = RingLayout::of(entries);
        let bytes = layout.file_bytes();
        let (memory, name) =
            Shared::create(bytes).map_err(|source| Error::Memory { bytes, source })?;
        if let Some(node) = numa {
            sys::prefer_node(memory.base(), bytes, node);
        }
        let id = Id::random().map_err(fail)?;
        let key = ring_key(id, &kind);
        let session = mount.session();
        mount.register(&key, &name.0).map_err(fail)?;
        drop(name);
        let free = (0..entries as u32).rev().collect();
        let slots = Mutex::new(Slots { free, taken: vec![false; entries] });
        let mount = Arc::clone(mount);
        Ok(Self { id, key, kind, layout, memory, slots, mount, session })
    }

    /// Usable entries.
    pub fn entries(&self) -> usize {
        self.layout.entries()
    }

    /// What the daemon was told about it.
    pub fn kind(&self) -> &RingKind {
        &self.kind
    }

    /// What the daemon knows it by.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Where its file lies in this process, and how long it is.
    pub fn memory(&self) -> (std::ptr::NonNull<u8>, usize) {
        (self.memory.base(), self.memory.len())
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, offset: usize) -> Option<usize> {
        let index = self.memory.word32(offset).load(Acquire);
        usize::try_from(index).ok().filter(|&index| index < self.layout.slots())
    }

    /// Puts an entry into the ring; the daemon may run it from here on, told or not.
    /// Returns its slot, or `None` if the ring is full: reap, then try again.
    ///
    /// # Safety
    /// Nobody else may touch the bytes of the iov that `entry` names until its completion is
    /// reaped or the daemon is gone, and the iov must stay for as long.
    ///
    /// # Errors
    /// `InvalidData` if the other side wrote indices that cannot be.
    #[expect(unsafe_code, reason = "the daemon moves bytes behind the compiler's back")]
    #[inline]
    pub unsafe fn prepare(&self, entry: &Entry) -> io::Result<Option<usize>> {
        let mut slots = self.slots();
        // Ours alone, and written under the lock.
        let head = self.memory.word32(SQ_HEAD).load(Relaxed) as usize % self.layout.slots();
        let tail = self.index(SQ_TAIL).ok_or_else(nonsense)?;
        let next = self.layout.after(head);
        if next == tail {
            return Ok(None);
        }
        let Some(slot) = slots.free.pop() else { return Ok(None) };
        slots.taken[slot as usize] = true;
        let args = self.layout.args(slot as usize);
        let [high, low] = [0, 8].map(|at| {
            let mut half = [0; 8];
            half.copy_from_slice(&entry.iov.0[at..at + 8]);
            u64::from_le_bytes(half)
        });
        let words =
            [high, low, entry.iov_offset, entry.inode, entry.offset, entry.length, entry.user_data];
        for (n, word) in words.into_iter().enumerate() {
            self.memory.word64(args + 8 * n).store(word, Relaxed);
        }
        let sqe = self.layout.sqe(head);
        self.memory.word64(sqe).store(slot.into(), Relaxed);
        self.memory.word64(sqe + 8).store(entry.user_data, Relaxed);
        self.memory.word32(SQ_HEAD).store(next as i32, Release);
        Ok(Some(slot as usize))
    }

    /// Wakes the daemon. One call does for any number of entries, in all rings of a priority.
    pub fn submit(&self) {
        self.session.wake(lane(self.kind.priority));
    }

    /// Hands what is over to `each`, `most` at most; does not wait. Returns how many.
    ///
    /// # Errors
    /// `InvalidData` if the other side wrote what cannot be: use this ring no more.
    pub fn reap(&self, most: usize, mut each: impl FnMut(Reaped)) -> io::Result<usize> {
        let mut count = 0;
        let mut slots = self.slots();
        while count < most {
            let tail = self.index(CQ_TAIL).ok_or_else(nonsense)?;
            if tail == self.index(CQ_HEAD).ok_or_else(nonsense)? {
                break;
            }
            let at = self.layout.cqe(tail);
            let slot = self.memory.word32(at).load(Relaxed);
            let result = self.memory.word64(at + 8).load(Relaxed) as i64;
            let user_data = self.memory.word64(at + 16).load(Relaxed);
            // Before the place is given back: the daemon may write it at once.
            let slot =
                usize::try_from(slot).ok().filter(|&slot| slots.taken.get(slot) == Some(&true));
            let slot = slot.ok_or_else(nonsense)?;
            self.memory.word32(CQ_TAIL).store(self.layout.after(tail) as i32, Release);
            slots.taken[slot] = false;
            slots.free.push(slot as u32);
            each(Reaped { slot, result, user_data });
            count += 1;
        }
        Ok(count)
    }

    /// Waits until `at_least` are over or `deadline` passed; as [`Ring::reap`] otherwise.
    ///
    /// # Errors
    /// As [`Ring::reap`]; `NotConnected` if the daemon died, whose completions never come.
    pub fn wait(
        &self,
        at_least: usize,
        most: usize,
        deadline: Option<Instant>,
        mut each: impl FnMut(Reaped),
    ) -> io::Result<usize> {
        let mut count = 0;
        loop {
            self.semaphore().take_all();
            let reaped = self.reap(most - count, &mut each)?;
            if reaped > 0 {
                // There is room for completions again, which the daemon may wait for.
                self.submit();
            }
            count += reaped;
            if count >= at_least.min(most) {
                return Ok(count);
            }
            let left =
                deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(count);
            }
            let start = Instant::now();
            Self::sleep(&[self], left.min(LOOK));
            if start.elapsed() >= LOOK
                && !matches!(self.mount.pulse(&self.session), super::Pulse::Alive)
            {
                return Err(io::ErrorKind::NotConnected.into());
            }
        }
    }

    fn semaphore(&self) -> Semaphore<'_> {
        Semaphore::at(&self.memory, self.layout.semaphore())
    }

    /// Forgets posts, so that [`Ring::sleep`] wakes only for completions after the next look.
    pub(crate) fn forget_posts(&self) {
        self.semaphore().take_all();
    }

    /// Sleeps until the daemon posts one of these rings, or for `timeout`.
    pub(crate) fn sleep(rings: &[&Self], timeout: Duration) {
        match rings {
            [] => std::thread::sleep(timeout),
            [one] => Semaphore::wait_any(&[one.semaphore()], timeout),
            all => {
                let all: Vec<Semaphore<'_>> = all.iter().map(|ring| ring.semaphore()).collect();
                Semaphore::wait_any(&all, timeout);
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.mount.unregister(&self.key);
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the 3FS daemon wrote indices that cannot be")
}
