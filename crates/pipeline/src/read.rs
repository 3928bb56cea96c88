//! Read: inputs → documents → spool parts. A task is a part of an input.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use forebay_shard::input::{self, Cursor};
use forebay_store::publish_bytes;
use forebay_transform::shuffle;

use crate::evals::Evals;
use crate::journal::retried;
use crate::part::Part;
use crate::plan::Execution;
use crate::progress::{Progress, Unit};
use crate::sign::Signer;
use crate::spool::{self, Notes};
use crate::task::Share;
use crate::work::Work;
use crate::{Error, Result};

/// Parts of each input; the stage is complete.
const COUNTS: &str = "read.json";

/// Reads all inputs that are not read yet; returns the parts, in the order of the inputs.
pub(crate) fn run(
    work: &Work,
    evals: Option<&Arc<Evals>>,
    execution: &Execution,
    progress: &Progress,
) -> Result<Vec<Part>> {
    if let Some(parts) = finished(work) {
        return Ok(parts);
    }
    if work.plan.reads_stdin() {
        // What came through a pipe does not come again: start over.
        work.forget()?;
    }
    progress.start("read", Unit::Bytes, work.plan.input_bytes());
    let counts = sources(work, evals, Share::default(), execution, progress)?;
    let counts: Vec<u32> = counts.into_values().collect();
    publish_bytes(&work.path(COUNTS), &serde_json::to_vec(&counts).unwrap_or_default())?;
    open_parts(work, &counts)
}

/// Reads all inputs and leaves no word of it.
pub(crate) fn directly(
    work: &Work,
    evals: Option<&Arc<Evals>>,
    execution: &Execution,
    progress: &Progress,
) -> Result<Vec<Part>> {
    let counts = sources(work, evals, Share::default(), execution, progress)?;
    open_parts(work, &counts.into_values().collect::<Vec<u32>>())
}

/// Reads the inputs of a share, if that is not done yet.
pub(crate) fn share(
    work: &Work,
    evals: Option<&Arc<Evals>>,
    share: Share,
    execution: &Execution,
    progress: &Progress,
) -> Result<()> {
    let done = work.path(&format!("read-{}-of-{}.json", share.number, share.of));
    if work.path(COUNTS).exists() || done.exists() {
        return Ok(());
    }
    if work.plan.reads_stdin() {
        let what = "tasks read files; what comes through a pipe comes once";
        return Err(Error::key("input.paths", format!("expected files, found stdin: {what}")));
    }
    let bytes = work.plan.sources.iter().enumerate().filter(|&(number, _)| share.holds(number));
    let bytes = bytes.flat_map(|(_, source)| source.files()).map(|file| file.bytes).sum();
    progress.start("read", Unit::Bytes, bytes);
    let counts = sources(work, evals, share, execution, progress)?;
    // Another machine will read them: they must have left this one.
    for (&source, &count) in &counts {
        for number in 0..count {
            forebay_store::sync(&work.part(source, number))?;
        }
    }
    Ok(publish_bytes(&done, &serde_json::to_vec(&counts).unwrap_or_default())?)
}

/// The parts of all inputs, once the tasks that read them are done.
pub(crate) fn all(work: &Work) -> Result<Vec<Part>> {
    let sources = work.plan.sources.len();
    let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
    if let Ok(all) = std::fs::read(work.path(COUNTS)) {
        let all: Vec<u32> = serde_json::from_slice(&all).unwrap_or_default();
        counts = (0..).zip(all).collect();
    } else {
        for file in work.shares_read()? {
            let bytes = std::fs::read(&file);
            let bytes = bytes.map_err(|e| forebay_store::Error::io("read", &file, e))?;
            let some: BTreeMap<usize, u32> = serde_json::from_slice(&bytes).unwrap_or_default();
            counts.extend(some);
        }
    }
    if let Some(missing) = (0..sources).find(|source| !counts.contains_key(source)) {
        return Err(Error::Unread { input: work.plan.input_name(missing) });
    }
    let counts: Vec<u32> = counts.into_values().collect();
    if !work.path(COUNTS).exists() {
        publish_bytes(&work.path(COUNTS), &serde_json::to_vec(&counts).unwrap_or_default())?;
    }
    open_parts(work, &counts)
}

/// Reads the inputs of a share; returns the number of parts of each.
fn sources(
    work: &Work,
    evals: Option<&Arc<Evals>>,
    share: Share,
    execution: &Execution,
    progress: &Progress,
) -> Result<BTreeMap<usize, u32>> {
    let cursors = Cursors::new(work, share, progress);
    let failed = Mutex::new(Vec::new());
    let work_on = || {
        let plan = &work.plan;
        let mut signer = Signer::new(&plan.options.steps, &plan.sources, evals.cloned());
        while !progress.stopped() && (execution.keep_going || lock(&failed).is_empty()) {
            let done = cursors.next().and_then(|task| {
                let Some(task) = task else { return Ok(false) };
                let source = task.source;
                task.run(work, &mut signer).map(|()| true).map_err(|error| (source, error))
            });
            match done {
                Ok(true) => {}
                Ok(false) => return,
                Err((source, error)) => {
                    cursors.leave(source);
                    lock(&failed).push((source, error));
                }
            }
        }
    };
    if execution.threads <= 1 {
        work_on();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..execution.threads {
                scope.spawn(work_on);
            }
        });
    }
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_by_key(|&(source, _)| source);
    failed.dedup_by_key(|&mut (source, _)| source);
    let others: Vec<String> =
        failed.iter().skip(1).map(|&(source, _)| work.plan.input_name(source)).collect();
    if let Some((source, error)) = failed.into_iter().next() {
        if !execution.keep_going {
            return Err(error);
        }
        let input = work.plan.input_name(source);
        return Err(Error::Inputs { input, others, cause: Box::new(error) });
    }
    if progress.stopped() {
        return Err(Error::Interrupted);
    }
    Ok(cursors.counts())
}

/// The parts of a read stage that is complete and still whole.
fn finished(work: &Work) -> Option<Vec<Part>> {
    let counts = std::fs::read(work.path(COUNTS)).ok()?;
    let counts: Vec<u32> = serde_json::from_slice(&counts).ok()?;
    let parts = open_parts(work, &counts).ok()?;
    parts.iter().all(Part::is_sound).then_some(parts)
}

fn open_parts(work: &Work, counts: &[u32]) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (source, &count) in counts.iter().enumerate() {
        for number in 0..count {
            let path = work.part(source, number);
            let Some(part) = Part::open(&path) else {
                // Says why, if it cannot be opened at all.
                forebay_store::File::open(&path)?;
                let what = "is missing or torn; run with `--fresh`";
                return Err(forebay_shard::Error::file(&path, what).into());
            };
            parts.push(part);
        }
    }
    Ok(parts)
}

/// A part, read but not parsed.
struct Task {
    source: usize,
    number: u32,
    part: input::Part,
}

impl Task {
    fn run(self, work: &Work, signer: &mut Signer<'_>) -> Result<()> {
        let next = self.part.next;
        let parsed = self.part.parse(&work.plan.options.input)?;
        let documents = parsed.documents;
        let keys = signer.sign(&documents);
        let notes = Notes { next, skipped: parsed.skipped, replaced: parsed.replaced };
        let key = |at: usize| match work.plan.options.steps.shuffle {
            Some(seed) => shuffle::key(seed, documents.files[at], documents.positions[at]),
            None => at as u64,
        };
        let path = work.part(self.source, self.number);
        spool::write(&path, &documents, keys, notes, work.plan.needs_text(), key)
    }
}

/// All inputs. Threads read different ones while there are some, then share what is left.
struct Cursors<'a> {
    work: &'a Work,
    sources: Vec<(AtomicBool, Mutex<Reading>)>,
    /// Which of them.
    numbers: Vec<usize>,
}

struct Reading {
    cursor: Cursor,
    /// Where it stands.
    at: u64,
    /// Number of the next part.
    next: u32,
    taken: Arc<AtomicU64>,
}

impl<'a> Cursors<'a> {
    fn new(work: &'a Work, share: Share, progress: &Progress) -> Self {
        let plan = &work.plan;
        let numbers: Vec<usize> =
            (0..plan.sources.len()).filter(|&number| share.holds(number)).collect();
        let sources = numbers.iter().map(|&number| {
            let source = &plan.sources[number];
            let taken = Arc::clone(progress.counter());
            let cursor = Cursor::new(source, &plan.options.input, plan.part_bytes, &taken);
            (AtomicBool::new(false), Mutex::new(Reading { cursor, at: 0, next: 0, taken }))
        });
        let sources = sources.collect();
        Self { work, sources, numbers }
    }

    /// The next part, or the input that cannot be read, and why.
    fn next(&self) -> std::result::Result<Option<Task>, (usize, Error)> {
        // First an input that nobody is reading from, then any that has more.
        for wait in [false, true] {
            for (&number, (ended, reading)) in self.numbers.iter().zip(&self.sources) {
                if ended.load(Ordering::Relaxed) {
                    continue;
                }
                let mut reading = match reading.try_lock() {
                    Ok(reading) => reading,
                    Err(TryLockError::WouldBlock) if wait => lock(reading),
                    Err(TryLockError::WouldBlock) => continue,
                    Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                };
                // What other threads have found out meanwhile.
                if ended.load(Ordering::Relaxed) {
                    continue;
                }
                let mut tried = false;
                let next = retried(|| {
                    if std::mem::replace(&mut tried, true) {
                        reading.again(self.work, number)?;
                    }
                    reading.next(self.work, number)
                });
                if let Some(task) = next.map_err(|error| (number, error))? {
                    return Ok(Some(task));
                }
                ended.store(true, Ordering::Relaxed);
            }
        }
        Ok(None)
    }

    /// Takes no more from an input.
    fn leave(&self, source: usize) {
        if let Some(at) = self.numbers.iter().position(|&number| number == source) {
            self.sources[at].0.store(true, Ordering::Relaxed);
        }
    }

    /// Parts of each source.
    fn counts(&self) -> BTreeMap<usize, u32> {
        let counts = self.sources.iter().map(|(_, reading)| lock(reading).next);
        self.numbers.iter().copied().zip(counts).collect()
    }
}

impl Reading {
    /// The next part that an earlier run did not complete.
    fn next(&mut self, work: &Work, source: usize) -> Result<Option<Task>> {
        if work.resumed {
            while let Some(part) = Part::open(&work.part(source, self.next)).filter(Part::is_sound)
            {
                self.cursor.advance_to(part.footer.next)?;
                self.at = part.footer.next;
                self.next += 1;
            }
        }
        let Some(part) = self.cursor.next_part()? else { return Ok(None) };
        self.at = part.next;
        let number = self.next;
        self.next += 1;
        Ok(Some(Task { source, number, part }))
    }
}

impl Reading {
    /// Opens the input anew where it stood: a stream that failed is no good any more.
    fn again(&mut self, work: &Work, source: usize) -> Result<()> {
        let plan = &work.plan;
        // What is read for the second time was counted the first time.
        let taken = self.taken.load(Ordering::Relaxed);
        let (source, options) = (&plan.sources[source], &plan.options.input);
        self.cursor = Cursor::new(source, options, plan.part_bytes, &self.taken);
        self.cursor.advance_to(self.at)?;
        self.taken.store(taken, Ordering::Relaxed);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
