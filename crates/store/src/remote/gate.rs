//! How many requests are in flight: the controller of [`Concurrency`], with those who wait for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Concurrency;

#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Debug)]
struct State {
    concurrency: Concurrency,
    in_flight: usize,
    /// Answers and bytes of the current round, and when it began.
    answers: usize,
    bytes: u64,
    since: Instant,
}

impl Gate {
    pub(super) fn new(concurrency: Concurrency) -> Self {
        let state =
            State { concurrency, in_flight: 0, answers: 0, bytes: 0, since: Instant::now() };
        Self { state: Mutex::new(state), opened: Condvar::new() }
    }

    /// Waits for a place.
    pub(super) fn pass(&self) -> Pass<'_> {
        let mut state = self.lock();
        while state.in_flight >= state.concurrency.limit() {
            state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.in_flight += 1;
        Pass(self)
    }

    /// The endpoint asked for less.
    pub(super) fn refused(&self) {
        self.lock().concurrency.refused();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in flight, given back when dropped.
pub(super) struct Pass<'a>(&'a Gate);

impl Pass<'_> {
    /// A round is as many answers as may be in flight.
    pub(super) fn answered(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.answers += 1;
        state.bytes += bytes;
        if state.answers >= state.concurrency.limit() {
            let rate = state.bytes as f64 / state.since.elapsed().as_secs_f64().max(1e-6);
            // Rounds in which the callers asked for less say nothing about more.
            if state.in_flight >= state.concurrency.limit() {
                state.concurrency.answered(rate);
                self.0.opened.notify_all();
            }
            (state.answers, state.bytes, state.since) = (0, 0, Instant::now());
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
        self.0.opened.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_pass_than_may() {
        let gate = Gate::new(Concurrency::new(3, 3, 3));
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let pass = gate.pass();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        pass.answered(1);
                    }
                });
            }
        });
        let (now, most) = (now.into_inner(), most.into_inner());
        assert!(now == 0 && (1..=3).contains(&most), "{most} at once");
    }
}
