//! Many threads work, results are taken in order.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

struct State<T, E> {
    /// Next to be worked on.
    next: usize,
    /// Next to be taken.
    take: usize,
    done: BTreeMap<usize, Result<T, E>>,
    taking: bool,
    failed: Option<E>,
    /// A thread panicked: all stop, and the scope hands the panic on.
    panicked: bool,
}

impl<T, E> State<T, E> {
    fn ended(&self) -> bool {
        self.failed.is_some() || self.panicked
    }
}

/// Calls `work(0)`, `work(1)`, … `work(count - 1)` on `threads` threads and hands the results to
/// `take` in that order, one at a time.
///
/// At most `2 × threads` results wait, so memory is bounded when one takes long. The error
/// returned is the one of the lowest number; nothing after it is taken.
pub(crate) fn ordered<T: Send, E: Send>(
    threads: usize,
    count: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
    mut take: impl FnMut(usize, T) -> Result<(), E> + Send,
) -> Result<(), E> {
    if threads <= 1 {
        return (0..count).try_for_each(|number| take(number, work(number)?));
    }
    let window = 2 * threads;
    let state = Mutex::new(State {
        next: 0,
        take: 0,
        done: BTreeMap::new(),
        taking: false,
        failed: None,
        panicked: false,
    });
    let changed = Condvar::new();
    let take = Mutex::new(&mut take);
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);

    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                let _guard = OnPanic(|| {
                    lock().panicked = true;
                    changed.notify_all();
                });
                loop {
                    let mut now = lock();
                    while !now.ended() && now.next < count && now.next >= now.take + window {
                        now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
                    }
                    if now.ended() || now.next >= count {
                        return;
                    }
                    let number = now.next;
                    now.next += 1;
                    drop(now);

                    let result = work(number);

                    let mut now = lock();
                    now.done.insert(number, result);
                    // One thread at a time takes all that is ready; the others go on working.
                    while !now.taking && !now.ended() {
                        let number = now.take;
                        let Some(result) = now.done.remove(&number) else { break };
                        now.taking = true;
                        drop(now);
                        let taken = result.and_then(|result| {
                            take.lock().unwrap_or_else(PoisonError::into_inner)(number, result)
                        });
                        now = lock();
                        now.taking = false;
                        now.take += 1;
                        now.failed = taken.err();
                        changed.notify_all();
                    }
                }
            });
        }
    });
    state.into_inner().unwrap_or_else(PoisonError::into_inner).failed.map_or(Ok(()), Err)
}

/// Calls its function if the thread panics.
struct OnPanic<F: Fn()>(F);

impl<F: Fn()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whatever_the_threads() {
        for threads in [1, 2, 5] {
            let mut taken = Vec::new();
            let slow = |n: usize| {
                std::thread::sleep(std::time::Duration::from_micros((n * 7919 % 13) as u64 * 50));
                Ok::<_, ()>(n * n)
            };
            ordered(threads, 100, slow, |n, square| {
                taken.push((n, square));
                Ok(())
            })
            .unwrap();
            assert_eq!(taken, (0..100).map(|n| (n, n * n)).collect::<Vec<_>>());
        }
    }

    #[test]
    #[should_panic(expected = "scoped thread panicked")]
    fn a_panic_ends_it_too() {
        let work = |n: usize| if n == 5 { panic!("at five") } else { Ok::<_, ()>(n) };
        let _ = ordered(3, 100, work, |_, _| Ok(()));
    }

    #[test]
    fn the_first_error_ends_it_and_nothing_after_it_is_taken() {
        for threads in [1, 3] {
            let mut taken = 0;
            let work = |n: usize| if n % 10 == 7 { Err(n) } else { Ok(n) };
            let result = ordered(threads, 100, work, |n, _| {
                taken = n;
                Ok(())
            });
            assert_eq!((result, taken), (Err(7), 6));
        }
    }
}
