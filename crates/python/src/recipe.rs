use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_pipeline::{Finished, Job, Progress, Recipe, Result, Share, Task};
use pyo3::prelude::*;
use serde_json::json;

use crate::error;
use crate::remote::Target;

/// How often Ctrl-C is looked for.
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// A recipe, from a TOML file, as JSON with the paths that it means.
#[pyfunction]
pub(crate) fn read_recipe(path: PathBuf, set: Vec<String>) -> PyResult<String> {
    let recipe = Recipe::read(&path, &set).map_err(|e| error::pipeline(&e))?;
    serde_json::to_string(&recipe).map_err(|e| error::config(&e.to_string()))
}

/// Runs a recipe of JSON on threads of this process; returns JSON.
#[pyfunction]
pub(crate) fn run(py: Python<'_>, recipe: &str, fresh: bool) -> PyResult<String> {
    let mut job = job(recipe)?;
    job.execution.fresh = fresh;
    let target = Target::of(&mut job.out, job.execution.tmp_dir.as_ref())?;
    let finished = watched(py, |progress| {
        let finished = job.run(progress)?;
        target.publish(progress)?;
        Ok(finished)
    })?;
    job.out = target.name(&job.out);
    Ok(told(&job, &finished))
}

/// The stages of a recipe of JSON in their order, each with how many tasks it has where others have
/// `tasks`.
#[pyfunction]
pub(crate) fn stages(recipe: &str, tasks: usize) -> PyResult<Vec<(&'static str, usize)>> {
    let stages = job(recipe)?.stages();
    Ok(stages.into_iter().map(|stage| (stage.stage, stage.count(tasks))).collect())
}

/// Bytes that each of `of` shares of `read` reads; one of none need not be done.
#[pyfunction]
pub(crate) fn bytes_to_read(recipe: &str, of: usize) -> PyResult<Vec<u64>> {
    job(recipe)?.bytes_to_read(of.max(1)).map_err(|e| error::pipeline(&e))
}

/// Does one task of a recipe of JSON; returns JSON after the last of them, else nothing.
#[pyfunction]
pub(crate) fn perform(
    py: Python<'_>,
    recipe: &str,
    stage: &str,
    number: usize,
    of: usize,
) -> PyResult<Option<String>> {
    let share = Share { number, of };
    if number >= of {
        return Err(error::config("share: expected a number below `of`"));
    }
    let Some(task) = Task::parse(stage, share) else {
        return Err(error::config(&format!("stage: expected one of `stages`, found {stage:?}")));
    };
    let job = kept(recipe)?;
    let finished = watched(py, |progress| job.perform(task, progress))?;
    Ok(finished.map(|finished| told(&job, &finished)))
}

/// The job of a recipe, with what it has built: a worker does many tasks of one.
fn kept(recipe: &str) -> PyResult<Job> {
    static LAST: Mutex<Option<(String, Job)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, job)) = &*last
        && of == recipe
    {
        return Ok(job.clone());
    }
    let job = job(recipe)?;
    *last = Some((recipe.to_owned(), job.clone()));
    Ok(job)
}

fn job(recipe: &str) -> PyResult<Job> {
    let recipe: Recipe =
        serde_json::from_str(recipe).map_err(|e| error::config(&format!("recipe: {e}")))?;
    recipe.job().map_err(|e| error::pipeline(&e))
}

/// Works on a thread of its own, so that this one can look for signals. Ctrl-C stops it after the
/// unit in hand.
fn watched<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&Progress) -> Result<T> + Send,
) -> PyResult<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Progress::new(Arc::clone(&stop));
    let ended = AtomicBool::new(false);
    let (done, signal) = py.detach(|| {
        let waiting = std::thread::current();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let _end = End(&ended, waiting.clone());
                work(&progress)
            });
            let mut signal = None;
            while !ended.load(Ordering::Acquire) {
                std::thread::park_timeout(LOOK);
                if signal.is_none() && !ended.load(Ordering::Acquire) {
                    signal = Python::attach(|py| py.check_signals().err());
                    stop.store(signal.is_some(), Ordering::Relaxed);
                }
            }
            (run.join(), signal)
        })
    });
    if let Some(signal) = signal {
        return Err(signal);
    }
    let done = done.map_err(|_| error::config("a thread of the run panicked"))?;
    done.map_err(|e| error::pipeline(&e))
}

/// Wakes whoever waits, also if the work panics: most tasks take less than a look.
struct End<'a>(&'a AtomicBool, std::thread::Thread);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        self.1.unpark();
    }
}

fn told(job: &Job, finished: &Finished) -> String {
    let manifest = &finished.manifest;
    json!({
        "out": job.out,
        "already": finished.already,
        "resumed": finished.resumed,
        "documents": manifest.documents,
        "tokens": manifest.tokens,
        "text_bytes": manifest.text_bytes,
        "counts": manifest.counts,
        "shards": manifest.shards.len(),
        "notes": finished.notes,
    })
    .to_string()
}
