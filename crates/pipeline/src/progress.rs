use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a stage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of input files or of text.
    Bytes,
    /// Steps of equal size.
    Steps,
}

/// Where a run is; written by the workers, read by whoever shows it. Also carries the wish to stop.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<Option<(&'static str, Unit, u64)>>,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    cancelled: AtomicBool,
}

/// One look at a [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Stage at work.
    pub stage: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// How much is done.
    pub done: u64,
    /// Of how much; 0 if nobody knows.
    pub total: u64,
}

impl Progress {
    /// A progress that stops the run when `stop` is set, by a signal handler for instance.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..Self::default() }
    }

    /// The stage at work and how far it is.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let stage = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.done.load(Ordering::Relaxed);
        stage.map(|(stage, unit, total)| Snapshot { stage, unit, done, total })
    }

    /// Was it asked to stop?
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.cancelled.load(Ordering::Relaxed)
    }

    /// Ends the run because one of its threads failed; that one says why.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn start(&self, stage: &'static str, unit: Unit, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = Some((stage, unit, total));
    }

    pub(crate) fn add(&self, amount: u64) {
        self.done.fetch_add(amount, Ordering::Relaxed);
    }

    /// The counter itself, for those who count deep below.
    pub(crate) fn counter(&self) -> &Arc<AtomicU64> {
        &self.done
    }
}
