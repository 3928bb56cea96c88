//! Work that makes more work: a stack of tasks that threads empty.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is still to do. The newest task goes first, so a tree is worked off one branch after the
/// other and few tasks wait at a time.
pub(super) struct Tasks<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: Vec<T>,
    /// Threads at a task, which may make more of them.
    at_work: usize,
}

impl<T> Tasks<T> {
    /// Adds tasks; the last one is taken first.
    pub(super) fn push(&self, tasks: impl IntoIterator<Item = T>) {
        self.lock().waiting.extend(tasks);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics while it holds this.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one; `None` when there is none and nobody can make one.
    fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.waiting.pop() {
                state.at_work += 1;
                return Some(task);
            }
            if state.at_work == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Ends a task, also when it panics: the others must not wait for it.
struct AtWork<'a, T>(&'a Tasks<T>);

impl<T> Drop for AtWork<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.at_work -= 1;
        if state.at_work == 0 && state.waiting.is_empty() {
            self.0.changed.notify_all();
        }
    }
}

/// Runs `work` on `first` and on all that it pushes. Each thread has a value of its own, such as a
/// buffer.
pub(super) fn work_off<T: Send, Own>(
    first: T,
    threads: usize,
    own: impl Fn() -> Own + Sync,
    work: impl Fn(T, &Tasks<T>, &mut Own) + Sync,
) {
    let state = Mutex::new(State { waiting: vec![first], at_work: 0 });
    let tasks = Tasks { state, changed: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut own = own();
                while let Some(task) = tasks.take() {
                    let _at_work = AtWork(&tasks);
                    work(task, &tasks, &mut own);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn tasks_of_tasks_are_all_done_once() {
        for threads in [1, 2, 8] {
            let (leaves, sum) = (AtomicU64::new(0), AtomicU64::new(0));
            work_off(
                (0_u64, 10_u32),
                threads,
                || (),
                |(number, height), tasks, ()| {
                    if height == 0 {
                        leaves.fetch_add(1, Ordering::Relaxed);
                        sum.fetch_add(number, Ordering::Relaxed);
                    } else {
                        tasks.push([(2 * number, height - 1), (2 * number + 1, height - 1)]);
                    }
                },
            );
            assert_eq!(leaves.into_inner(), 1024);
            assert_eq!(sum.into_inner(), 1023 * 1024 / 2);
        }
    }

    #[test]
    fn a_task_that_panics_leaves_nobody_waiting() {
        let done = AtomicU64::new(0);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            work_off(
                0,
                4,
                || (),
                |number, tasks, ()| match number {
                    0 => tasks.push(1..=100),
                    7 => panic!("seven"),
                    _ => {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                },
            );
        }));
        assert!(ended.is_err());
        assert_eq!(done.into_inner(), 99);
    }
}
