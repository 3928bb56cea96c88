//! What `forebay fs` does: walk, copy, remove, look. Many requests in flight, on past failures.

#[cfg(test)]
mod broken;
pub mod cat;
pub mod copy;
pub mod doctor;
mod large;
pub mod layout;
pub mod remove;
mod small;
mod tasks;
#[cfg(test)]
mod tests;
pub mod walk;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// One thing that did not work out; the rest went on.
#[derive(Debug)]
pub struct Failure {
    /// What it was about.
    pub path: PathBuf,
    /// Why.
    pub error: Error,
}

/// What has been done so far; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Files done.
    pub files: AtomicU64,
    /// Bytes moved.
    pub bytes: AtomicU64,
    failures: Mutex<Vec<Failure>>,
}

impl Tally {
    pub(crate) fn add(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn fail(&self, path: PathBuf, error: Error) {
        let mut failures = self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        failures.push(Failure { path, error });
    }

    #[cfg(feature = "s3")]
    pub(crate) fn has_failures(&self) -> bool {
        let failures = self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        !failures.is_empty()
    }

    /// All failures so far, by path; they are taken out.
    pub fn take_failures(&self) -> Vec<Failure> {
        let mut failures = self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        failures.sort_by(|a, b| a.path.cmp(&b.path));
        std::mem::take(&mut failures)
    }
}

/// Runs `work` on every item, `threads` at a time.
pub(crate) fn in_parallel<T: Sync>(items: &[T], threads: usize, work: impl Fn(&T) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}
