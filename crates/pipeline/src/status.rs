//! How far a run is: from files alone, so from any machine that sees them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use forebay_shard::manifest::{self, Manifest, WORK};
use forebay_store::Lock;
use serde::Serialize;

use crate::Result;
use crate::journal::{self, Failure};
use crate::part::Part;
use crate::plan::Plan;
use crate::round::Round;
use crate::task::Share;

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Status {
    /// There is nothing in the output directory.
    Nothing,
    /// It has begun.
    Unfinished(Box<Unfinished>),
    /// There is a dataset.
    Finished {
        /// Its documents.
        documents: u64,
        /// Its tokens.
        tokens: Option<u64>,
        /// Its shards.
        shards: u64,
    },
}

/// A run that has begun.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unfinished {
    /// A process is at it now.
    pub running: bool,
    /// The stage it is in.
    pub stage: &'static str,
    /// Its tasks that are done: parts, shares of a round, shards.
    pub tasks_done: u64,
    /// Of how many, about; unknown before the first share of a round is done.
    pub tasks: Option<u64>,
    /// Bytes of text that the stage does in a second, by the times of its files.
    pub bytes_per_second: Option<f64>,
    /// Until the stage is done, about, at that rate.
    pub seconds_left: Option<f64>,
    /// Spool parts that are complete.
    pub parts: u64,
    /// Their documents.
    pub documents: u64,
    /// Their text.
    pub text_bytes: u64,
    /// Shards that are complete.
    pub shards: u64,
    /// Tasks that failed and were not done since.
    pub failed: Vec<Failure>,
}

/// How far the run in `out` is.
///
/// Cost: the footers of all spool parts are read.
///
/// # Errors
/// If there is a manifest that cannot be read.
pub fn status(out: &Path) -> Result<Status> {
    if out.join(manifest::FILE).exists() {
        let manifest = Manifest::read(out)?;
        let (documents, tokens) = (manifest.documents, manifest.tokens);
        return Ok(Status::Finished { documents, tokens, shards: manifest.shards.len() as u64 });
    }
    let work = out.join(WORK);
    let plan = fs::read(work.join("plan.json")).unwrap_or_default();
    let Ok(plan) = serde_json::from_slice::<Plan>(&plan) else { return Ok(Status::Nothing) };
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let at_work = names(&work);
    let of_spool = names(&plan.spool);
    let paths = of_spool.iter().filter(|name| name.ends_with(".part"));
    let parts: Vec<(PathBuf, Part)> = paths
        .map(|name| plan.spool.join(name))
        .filter_map(|path| Part::open(&path).map(|part| (path, part)))
        .collect();
    let done: Vec<PathBuf> =
        at_work.iter().filter(|name| name.ends_with(".done")).map(|name| work.join(name)).collect();
    let text_bytes: u64 = parts.iter().map(|(_, part)| part.footer.text_bytes).sum();

    // A round is where its first file is, until the next one has begun.
    let shares = |round: &Round| {
        let found: Vec<Share> = at_work.iter().filter_map(|name| round.share_of(name)).collect();
        found
            .iter()
            .map(|share| share.of)
            .max()
            .map(|of| (found.iter().filter(|share| share.of == of).count() as u64, of as u64))
    };
    let rounds = Round::all(&plan.options.steps).into_iter().rev();
    let round = rounds.into_iter().find_map(|round| Some((round.name(), shares(&round)?)));
    let has = |name: &str| at_work.iter().any(|found| found == name);
    let parts_expected: u64 =
        plan.files().map(|file| file.bytes.div_ceil(plan.part_bytes).max(1)).sum();
    // More than there will be, where documents go.
    let shards_expected = text_bytes.div_ceil(plan.options.shard_bytes.max(1)).max(1);
    let counted = |count: usize, of: u64| (count as u64, Some(of.max(count as u64)));
    let (stage, (tasks_done, tasks), times) = match round {
        _ if !has("read.json") && round.is_none() => {
            let times = rate(parts.iter().map(|(path, part)| (path, part.footer.text_bytes)));
            ("read", counted(parts.len(), parts_expected), times)
        }
        Some((name, (found, of))) if !has("dedup.bin") => (name, (found, Some(of)), None),
        _ if !has("dedup.bin") => ("dedup", (0, Some(1)), None),
        _ if !plan.options.steps.cuts.is_empty() && !has("cuts.bin") => {
            ("cuts", (0, Some(1)), None)
        }
        _ => {
            let times = rate(done.iter().map(|path| (path, plan.options.shard_bytes)));
            ("write", counted(done.len(), shards_expected), times)
        }
    };
    let seconds_left = match (times, tasks) {
        (Some((_, seconds_each)), Some(tasks)) => Some((tasks - tasks_done) as f64 * seconds_each),
        _ => None,
    };
    Ok(Status::Unfinished(Box::new(Unfinished {
        running: Lock::take(&work.join("lock")).is_err(),
        stage,
        tasks_done,
        tasks,
        bytes_per_second: times.map(|(rate, _)| rate),
        seconds_left,
        parts: parts.len() as u64,
        documents: parts.iter().map(|(_, part)| u64::from(part.footer.documents)).sum(),
        text_bytes,
        shards: done.len() as u64,
        failed: journal::failures(&work),
    })))
}

/// Bytes a second and seconds a file, from when files were written; needs two of different times.
fn rate<'a>(files: impl Iterator<Item = (&'a PathBuf, u64)>) -> Option<(f64, f64)> {
    let time = |path: &PathBuf| fs::metadata(path).and_then(|found| found.modified()).ok();
    let mut written: Vec<(SystemTime, u64)> =
        files.filter_map(|(path, bytes)| Some((time(path)?, bytes))).collect();
    written.sort_unstable();
    let (first, last) = (written.first()?.0, written.last()?.0);
    let seconds = last.duration_since(first).ok().filter(|took| !took.is_zero())?.as_secs_f64();
    // The first was begun before the clock was.
    let bytes: u64 = written[1..].iter().map(|&(_, bytes)| bytes).sum();
    Some((bytes as f64 / seconds, seconds / (written.len() - 1) as f64))
}
