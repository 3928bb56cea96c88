use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

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
    stages: Mutex<Stages>,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    cancelled: AtomicBool,
}

#[derive(Debug, Default)]
struct Stages {
    now: Option<(&'static str, Unit, u64, Instant)>,
    before: Vec<Leg>,
}

/// A stage that a run went through, or is in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    /// Its name.
    pub stage: String,
    /// It counts bytes, otherwise steps of equal size.
    pub bytes: bool,
    /// How much is done.
    pub done: u64,
    /// Of how much; 0 if nobody knows.
    pub total: u64,
    /// How long it took so far, by the steady clock of its machine.
    pub seconds: f64,
}

impl Leg {
    /// Until it is done, at its pace so far.
    pub fn seconds_left(&self) -> Option<f64> {
        let left = self.total.checked_sub(self.done).filter(|_| self.done > 0)?;
        Some(self.seconds * left as f64 / self.done as f64)
    }

    /// Bytes a second.
    pub fn rate(&self) -> Option<f64> {
        (self.bytes && self.done > 0 && self.seconds > 0.0).then(|| self.done as f64 / self.seconds)
    }
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
        let now = self.stages().now;
        let done = self.done.load(Ordering::Relaxed);
        now.map(|(stage, unit, total, _)| Snapshot { stage, unit, done, total })
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
        let mut stages = self.stages();
        let before = self.leg(&stages);
        stages.before.extend(before);
        self.done.store(0, Ordering::Relaxed);
        stages.now = Some((stage, unit, total, Instant::now()));
    }

    /// Forgets the stages so far: another task begins.
    pub(crate) fn begin(&self) {
        *self.stages() = Stages::default();
    }

    /// All stages so far; the last one is still at work.
    pub(crate) fn legs(&self) -> Vec<Leg> {
        let stages = self.stages();
        stages.before.iter().cloned().chain(self.leg(&stages)).collect()
    }

    fn leg(&self, stages: &Stages) -> Option<Leg> {
        let (stage, unit, total, since) = stages.now?;
        let (done, seconds) = (self.done.load(Ordering::Relaxed), since.elapsed().as_secs_f64());
        Some(Leg { stage: stage.into(), bytes: unit == Unit::Bytes, done, total, seconds })
    }

    fn stages(&self) -> MutexGuard<'_, Stages> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, amount: u64) {
        self.done.fetch_add(amount, Ordering::Relaxed);
    }

    /// The counter itself, for those who count deep below.
    pub(crate) fn counter(&self) -> &Arc<AtomicU64> {
        &self.done
    }
}
