//! How far a run is: from files alone, so from any machine that sees them. Their times are not looked
//! at: the clocks of machines differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use forebay_shard::manifest::{self, Manifest, WORK};
use forebay_store::Lock;
use serde::Serialize;

use crate::Result;
use crate::journal::{self, Failure};
use crate::part::Part;
use crate::plan::Plan;
use crate::progress::Leg;
use crate::pulse::{self, Pulses, Running};
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
    /// Bytes that the stage does in a second, on all machines that are at it now.
    pub bytes_per_second: Option<f64>,
    /// Until the stage is done, about, as fast as it went so far.
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
    /// Who is at work.
    pub at_work: Vec<Running>,
    /// Who was, and died.
    pub lost: Vec<Running>,
    /// What stages took so far, in their order.
    pub stages: Vec<StageRate>,
}

/// What a stage took so far, summed over all tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageRate {
    /// Its name.
    pub stage: String,
    /// Processes that were or are at it.
    pub tasks: u64,
    /// What they did, if it is counted in bytes.
    pub bytes: u64,
    /// Their time: two processes of a second each took two.
    pub seconds: f64,
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
    let parts = of_spool.iter().filter(|name| name.ends_with(".part"));
    let parts: Vec<Part> = parts.filter_map(|name| Part::open(&plan.spool.join(name))).collect();
    let done = at_work.iter().filter(|name| name.ends_with(".done")).count();
    let text_bytes: u64 = parts.iter().map(|part| part.footer.text_bytes).sum();

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
    let (stage, (tasks_done, tasks)) = match round {
        // Shares, if tasks read; they end when the next task finds them complete.
        _ if !has("read.json") && round.is_none() => match shares_read(&at_work) {
            Some((found, of)) => ("read", (found, Some(of))),
            None => ("read", counted(parts.len(), parts_expected)),
        },
        Some((name, (found, of))) if !has("dedup.bin") => (name, (found, Some(of))),
        _ if !has("dedup.bin") => ("dedup", (0, Some(1))),
        _ if !plan.options.steps.cuts.is_empty() && !has("cuts.bin") => ("cuts", (0, Some(1))),
        _ => ("write", counted(done, shards_expected)),
    };
    let pulses = Pulses::of(&work, &at_work);
    // A run on one machine is in the stage that it says; a task goes through others on its way.
    let legs = |running: &Running| running.legs.last().cloned();
    let alone = pulses.running.iter().find(|running| running.task == "run").and_then(legs);
    let (bytes_per_second, seconds_left) = match &alone {
        Some(leg) => (leg.rate(), leg.seconds_left()),
        None => together(&pulses, stage),
    };
    Ok(Status::Unfinished(Box::new(Unfinished {
        // The lock tells of a run that has only begun.
        running: !pulses.running.is_empty() || Lock::is_held(&work.join("lock")),
        stage,
        tasks_done,
        tasks,
        bytes_per_second,
        seconds_left,
        parts: parts.len() as u64,
        documents: parts.iter().map(|part| u64::from(part.footer.documents)).sum(),
        text_bytes,
        shards: done as u64,
        failed: journal::failures(&work),
        stages: rates(&pulses),
        at_work: pulses.running,
        lost: pulses.lost,
    })))
}

/// Tasks that have read their share, and of how many, about.
fn shares_read(names: &[String]) -> Option<(u64, u64)> {
    let shares = names.iter().filter_map(|name| {
        let share = name.strip_prefix("read-")?.strip_suffix(".json")?;
        share.replacen("-of-", "/", 1).parse().ok()
    });
    let shares: Vec<Share> = shares.collect();
    let of = shares.iter().map(|share| share.of).max()?;
    Some((shares.iter().filter(|share| share.of == of).count() as u64, of as u64))
}

/// Bytes a second of all tasks that are at `stage`, and the time until it is done.
fn together(pulses: &Pulses, stage: &str) -> (Option<f64>, Option<f64>) {
    // What `find` does has names of its own.
    let task = if matches!(stage, "dedup" | "cuts") { "find" } else { stage };
    let at_it: Vec<&Running> =
        pulses.running.iter().filter(|running| pulse::stage_of(&running.task).0 == task).collect();
    let rates: Vec<f64> =
        at_it.iter().filter_map(|running| running.legs.last().and_then(Leg::rate)).collect();
    let rate = (!rates.is_empty()).then(|| rates.iter().sum());
    // All have the same number of shares, or the run was begun twice.
    let of = at_it.iter().map(|running| pulse::stage_of(&running.task).1.of).max();
    (rate, of.and_then(|of| pulse::seconds_left(pulses, task, of)))
}

fn rates(pulses: &Pulses) -> Vec<StageRate> {
    let mut stages: BTreeMap<&str, StageRate> = BTreeMap::new();
    let of_running = pulses.running.iter().map(|running| &running.legs);
    for leg in pulses.took.iter().map(|took| &took.legs).chain(of_running).flatten() {
        let of_stage = stages.entry(&leg.stage).or_default();
        of_stage.stage.clone_from(&leg.stage);
        of_stage.tasks += 1;
        of_stage.bytes += if leg.bytes { leg.done } else { 0 };
        of_stage.seconds += leg.seconds;
    }
    // What is not among them is looked for by name at the end.
    const ORDER: [&str; 12] = [
        "load", "read", "exact", "url", "link", "thin", "group", "place", "compare", "cuts",
        "write", "finish",
    ];
    let mut stages: Vec<StageRate> = stages.into_values().collect();
    stages.sort_by_key(|of| ORDER.iter().position(|name| *name == of.stage).unwrap_or(ORDER.len()));
    stages
}
