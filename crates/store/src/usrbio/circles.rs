//! The two circles of a ring and the slots between them: what needs memory, but no daemon.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::layout::{CQ_HEAD, CQ_TAIL, Id, RingLayout, SQ_HEAD, SQ_TAIL};
use super::semaphore::Semaphore;
use super::shared::Shared;

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
    /// The slot that `Ring::prepare` returned, free again.
    pub slot: usize,
    /// Bytes moved, or a negative error number.
    pub result: i64,
    /// Of the entry.
    pub user_data: u64,
}

/// Lines are asked for by the time they are written, and not lost again before.
const AHEAD: usize = 8;

/// The client's side of a ring, in memory that the daemon writes too.
#[derive(Debug)]
pub(crate) struct Circles {
    layout: RingLayout,
    memory: Shared,
    slots: Mutex<Slots>,
}

/// Which argument slots are free: private to the client.
#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    /// What was asked for in each that is taken.
    taken: Vec<Option<u64>>,
}

impl Circles {
    pub(crate) fn new(memory: Shared, layout: RingLayout) -> Self {
        assert!(layout.file_bytes() <= memory.len(), "a ring outside of its memory");
        let entries = layout.entries();
        let free = (0..entries as u32).rev().collect();
        let slots = Mutex::new(Slots { free, taken: vec![None; entries] });
        Self { layout, memory, slots }
    }

    pub(crate) fn layout(&self) -> RingLayout {
        self.layout
    }

    pub(crate) fn memory(&self) -> (NonNull<u8>, usize) {
        (self.memory.base(), self.memory.len())
    }

    pub(crate) fn semaphore(&self) -> Semaphore<'_> {
        Semaphore::at(&self.memory, self.layout.semaphore())
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, offset: usize) -> Option<usize> {
        let index = self.memory.word32(offset).load(Acquire);
        usize::try_from(index).ok().filter(|&index| index < self.layout.slots())
    }

    /// As [`super::Ring::prepare`]; only words of the ring are written.
    #[inline]
    pub(crate) fn prepare(&self, entry: &Entry) -> io::Result<Option<usize>> {
        let mut slots = self.slots();
        // Ours alone, and written under the lock.
        let head = self.memory.word32(SQ_HEAD).load(Relaxed) as usize % self.layout.slots();
        let tail = self.index(SQ_TAIL).ok_or_else(nonsense)?;
        let next = self.layout.after(head);
        if next == tail {
            return Ok(None);
        }
        let Some(slot) = slots.free.pop() else { return Ok(None) };
        slots.taken[slot as usize] = Some(entry.user_data);
        // The lock orders writes, so that each would wait for its line alone: ask ahead.
        if let Some(&later) = slots.free.len().checked_sub(AHEAD).and_then(|n| slots.free.get(n)) {
            let later = self.layout.args(later as usize);
            self.memory.will_write(later);
            self.memory.will_write(later + 48);
            self.memory.will_write(self.layout.sqe((head + AHEAD) % self.layout.slots()));
        }
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

    /// As [`super::Ring::reap`].
    pub(crate) fn reap(&self, most: usize, mut each: impl FnMut(Reaped)) -> io::Result<usize> {
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
            let answered = self.memory.word64(at + 16).load(Relaxed);
            let slot = usize::try_from(slot).ok().filter(|&slot| slot < slots.taken.len());
            let slot = slot.ok_or_else(nonsense)?;
            // An answer to what was not asked, or to something else, frees nothing.
            let user_data = slots.taken[slot].filter(|&asked| asked == answered);
            let user_data = user_data.ok_or_else(nonsense)?;
            // After all of it was read: the daemon may write the place at once.
            self.memory.word32(CQ_TAIL).store(self.layout.after(tail) as i32, Release);
            slots.taken[slot] = None;
            slots.free.push(slot as u32);
            each(Reaped { slot, result, user_data });
            count += 1;
        }
        Ok(count)
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the 3FS daemon wrote what cannot be")
}

/// A daemon that writes anything anywhere, told by `data`: whatever comes out of the ring was
/// asked for, once, and nothing falls over.
#[cfg(any(test, fuzzing))]
pub(crate) fn hostile_daemon(data: &[u8]) {
    let mut data = data.iter().copied();
    let mut number = |bytes: u32| {
        let mut next = || data.next().map(u64::from);
        (0..bytes).try_fold(0, |all, _| Some(all << 8 | next()?))
    };
    let Some(entries) = number(1).map(|n| 1 + n as usize % 8) else { return };
    let layout = RingLayout::of(entries);
    let Ok(memory) = Shared::private(layout.file_bytes()) else { return };
    let circles = Circles::new(memory, layout);
    let mut asked: Vec<Option<u64>> = vec![None; entries];
    let mut next = 0;
    while let Some(what) = number(1) {
        let memory = &circles.memory;
        match what % 8 {
            0 => {
                let (Some(at), Some(value)) = (number(2), number(4)) else { return };
                let words = layout.file_bytes() / 4;
                memory.word32(at as usize % words * 4).store(value as i32, Release);
            }
            1 => {
                let (Some(at), Some(value)) = (number(1), number(1)) else { return };
                // Indices that may just be.
                memory.word32(at as usize % 4 * 4).store(value as i32 % 12, Release);
            }
            2 | 3 => {
                // An answer as it should be, to some slot.
                let (Some(slot), Some(result)) = (number(1), number(8)) else { return };
                let slot = slot as usize % entries;
                let Some(head) = circles.index(CQ_HEAD) else { continue };
                let at = layout.cqe(head);
                memory.word64(at).store(slot as u64, Relaxed);
                memory.word64(at + 8).store(result, Relaxed);
                memory.word64(at + 16).store(asked[slot].unwrap_or(result), Relaxed);
                memory.word32(CQ_HEAD).store(layout.after(head) as i32, Release);
                circles.semaphore().post();
            }
            4 => circles.semaphore().take_all(),
            5 => {
                // With something to take, or each would be a sleep.
                circles.semaphore().post();
                Semaphore::wait_any(&[circles.semaphore()], std::time::Duration::ZERO);
            }
            6 => {
                let most = number(1).unwrap_or(0) as usize;
                let mut seen = 0;
                let done = circles.reap(most, |one| {
                    assert_eq!(asked[one.slot].take(), Some(one.user_data), "not asked for");
                    seen += 1;
                });
                assert!(seen <= most.min(entries), "{seen} of {entries}");
                assert!(done.is_err() || done.is_ok_and(|n| n == seen));
            }
            _ => {
                let entry = Entry {
                    iov: Id([7; 16]),
                    iov_offset: next,
                    inode: 1,
                    offset: next,
                    length: 1,
                    user_data: next << 32 | what,
                };
                next += 1;
                if let Ok(Some(slot)) = circles.prepare(&entry) {
                    assert_eq!(asked[slot].replace(entry.user_data), None, "a slot given twice");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUNDS: u64 = if cfg!(miri) { 40 } else { 20_000 };

    /// Both sides at once, on memory that only the indices order: what the daemon put into the
    /// buffer before it answered is there when the answer is. Under Miri every access that the
    /// indices do not order is a data race, and loads may bring old values.
    #[test]
    #[expect(unsafe_code, reason = "a buffer that both sides touch, as rings are made for")]
    fn what_is_published_is_seen_whole_by_the_other_side() {
        struct Buffer(Vec<std::cell::UnsafeCell<u64>>);
        // SAFETY: a cell is the daemon's between the prepare and the answer, else the client's.
        unsafe impl Sync for Buffer {}
        impl Buffer {
            fn cell(&self, slot: usize) -> *mut u64 {
                self.0[slot].get()
            }
        }
        for entries in [1, 3, 8] {
            let layout = RingLayout::of(entries);
            let circles = Circles::new(Shared::private(layout.file_bytes()).unwrap(), layout);
            let buffer = Buffer((0..entries).map(|_| 0.into()).collect());
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    daemon(&circles, &|slot, value| {
                        // SAFETY: see above.
                        unsafe { *buffer.cell(slot) = value };
                    });
                });
                let (mut next, mut over) = (0, 0);
                while over < ROUNDS {
                    while next < ROUNDS {
                        let entry = Entry {
                            iov: Id([next as u8; 16]),
                            iov_offset: next * 3,
                            inode: next * 5,
                            offset: next * 7,
                            length: next * 11,
                            user_data: next,
                        };
                        if circles.prepare(&entry).unwrap().is_none() {
                            break;
                        }
                        next += 1;
                    }
                    let reaped = circles.reap(3, |one| {
                        // SAFETY: see above.
                        let found = unsafe { *buffer.cell(one.slot) };
                        assert_eq!((found, one.result), (one.user_data * 13, one.user_data as i64));
                    });
                    over += reaped.unwrap() as u64;
                    std::thread::yield_now();
                }
            });
        }
    }

    /// Answers in pairs, the later one first.
    fn daemon(circles: &Circles, put: &dyn Fn(usize, u64)) {
        let (memory, layout) = (&circles.memory, circles.layout());
        let (mut taken, mut cq_head, mut over) = (0, 0, 0);
        while over < ROUNDS {
            let head = memory.word32(SQ_HEAD).load(Acquire) as usize;
            let mut job = Vec::new();
            while taken != head && job.len() < 2 {
                let sqe = layout.sqe(taken);
                let slot = memory.word64(sqe).load(Relaxed) as usize;
                let word = |n: usize| memory.word64(layout.args(slot) + 8 * n).load(Relaxed);
                let user_data = memory.word64(sqe + 8).load(Relaxed);
                let expected = [3, 5, 7, 11, 1].map(|factor| user_data * factor);
                assert_eq!([2, 3, 4, 5, 6].map(word), expected);
                put(slot, user_data * 13);
                job.push((slot, user_data));
                taken = layout.after(taken);
            }
            over += job.len() as u64;
            for &(slot, user_data) in job.iter().rev() {
                let at = layout.cqe(cq_head);
                memory.word64(at).store(slot as u64, Relaxed);
                memory.word64(at + 8).store(user_data, Relaxed);
                memory.word64(at + 16).store(user_data, Relaxed);
                cq_head = layout.after(cq_head);
            }
            memory.word32(SQ_TAIL).store(taken as i32, Release);
            memory.word32(CQ_HEAD).store(cq_head as i32, Release);
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_answer_must_name_what_was_asked() {
        let layout = RingLayout::of(2);
        let circles = Circles::new(Shared::private(layout.file_bytes()).unwrap(), layout);
        let (iov, user_data) = (Id([0; 16]), 5);
        let entry = Entry { iov, iov_offset: 0, inode: 1, offset: 0, length: 1, user_data };
        let slot = circles.prepare(&entry).unwrap().unwrap();
        let answer = |slot: u64, user_data| {
            circles.memory.word64(layout.cqe(0)).store(slot, Relaxed);
            circles.memory.word64(layout.cqe(0) + 16).store(user_data, Relaxed);
            circles.memory.word32(CQ_HEAD).store(1, Release);
            let mut reaped = None;
            circles.reap(9, |one| reaped = Some(one)).map(|_| reaped).map_err(|e| e.kind())
        };
        for (wrong, told) in [(slot as u64, 6), (1, 5), (2, 5), (u64::from(u32::MAX), 5)] {
            assert_eq!(answer(wrong, told), Err(io::ErrorKind::InvalidData), "{wrong}, {told}");
        }
        let right = Reaped { slot, result: 0, user_data };
        assert_eq!(answer(slot as u64, 5), Ok(Some(right)));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 256 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_hostile_daemon_gets_no_slot_twice(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            hostile_daemon(&data);
        }
    }
}
