//! Semaphores of glibc in shared memory, by their bytes: a static build against musl has them too.
//!
//! One little-endian u64: the value below, the number of waiters above; then a word that says
//! "between processes" and 20 bytes unused.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::shared::Shared;
use super::sys;

/// One waiter.
const WAITER: u64 = 1 << 32;
const VALUE: u64 = WAITER - 1;

/// A semaphore somewhere in shared memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Semaphore<'a>(&'a AtomicU64);

impl<'a> Semaphore<'a> {
    pub(crate) fn at(memory: &'a Shared, offset: usize) -> Self {
        Self(memory.word64(offset))
    }

    /// One more; wakes somebody if somebody waits.
    pub(crate) fn post(self) {
        if self.0.fetch_add(1, Ordering::Release) >= WAITER {
            sys::futex_wake(self.0);
        }
    }

    /// Takes all there is without waiting: who looks at the indices next sees everything that the
    /// posts were about.
    pub(crate) fn take_all(self) {
        if self.0.load(Ordering::Relaxed) & VALUE != 0 {
            self.0.fetch_and(!VALUE, Ordering::Acquire);
        }
    }

    /// Waits for a post to any of these, `timeout` at most; nothing is taken.
    pub(crate) fn wait_any(all: &[Semaphore<'_>], timeout: Duration) {
        for one in all {
            one.0.fetch_add(WAITER, Ordering::Relaxed);
        }
        // A post between the count and the sleep changes the word, and the kernel does not sleep.
        if all.iter().all(|one| one.0.load(Ordering::Acquire) & VALUE == 0) {
            match all {
                [one] => sys::futex_wait(one.0, timeout),
                _ => {
                    let words: Vec<&AtomicU64> = all.iter().map(|one| one.0).collect();
                    if sys::futex_wait_any(&words, timeout).is_err() {
                        // Before Linux 5.16 a thread waits for one word alone.
                        std::thread::sleep(timeout.min(Duration::from_micros(50)));
                    }
                }
            }
        }
        for one in all {
            one.0.fetch_sub(WAITER, Ordering::Relaxed);
        }
    }
}

/// A semaphore with a name, in a file of its own.
#[derive(Debug)]
pub(crate) struct Named(Shared);

impl Named {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Shared::open(path, 32).map(Self)
    }

    pub(crate) fn post(&self) {
        Semaphore::at(&self.0, 0).post();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_glibc() {
        let (memory, _name) = Shared::create(32).unwrap();
        let semaphore = Semaphore::at(&memory, 0);
        semaphore.post();
        semaphore.post();
        assert_eq!(memory.word32(0).load(Ordering::Relaxed), 2);
        // Value below, waiters above.
        assert_eq!(memory.word64(0).load(Ordering::Relaxed), 2);
        memory.word64(0).fetch_add(WAITER, Ordering::Relaxed);
        assert_eq!(memory.word32(4).load(Ordering::Relaxed), 1);
        semaphore.take_all();
        assert_eq!(memory.word32(0).load(Ordering::Relaxed), 0);
        assert_eq!(memory.word32(4).load(Ordering::Relaxed), 1, "waiters are not taken");
    }

    #[test]
    fn a_post_is_never_missed() {
        let (memory, _name) = Shared::create(64).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..2000 {
                    // Alternately one or the other; each time the waiter must see it.
                    while memory.word32(56).load(Ordering::Acquire) != round {
                        std::hint::spin_loop();
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                    Semaphore::at(&memory, (round as usize % 2) * 32).post();
                }
            });
            let both = [Semaphore::at(&memory, 0), Semaphore::at(&memory, 32)];
            let start = Instant::now();
            for round in 0..2000 {
                memory.word32(56).store(round, Ordering::Release);
                loop {
                    let mine = &both[round as usize % 2];
                    if mine.0.load(Ordering::Acquire) & VALUE != 0 {
                        mine.take_all();
                        break;
                    }
                    Semaphore::wait_any(&both, Duration::from_secs(20));
                    if start.elapsed() > Duration::from_secs(60) {
                        stop.store(true, Ordering::Relaxed);
                        panic!("missed the post of round {round}");
                    }
                }
            }
        });
    }
}
