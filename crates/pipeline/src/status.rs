//! What a run would do, and how far one is: from files alone, so from any machine that sees them.

use std::fs;
use std::path::Path;

use forebay_shard::input::{self, Source};
use forebay_shard::manifest::{self, Manifest, WORK};
use forebay_store::Lock;
use serde::Serialize;

use crate::Result;
use crate::part::Part;
use crate::plan::Plan;
use crate::recipe::Job;

/// A stage of a run that is yet to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Its name.
    pub stage: &'static str,
    /// Tasks that can be done apart, and again; about, where inputs are compressed.
    pub tasks: u64,
    /// What a task is.
    pub task: &'static str,
    /// What it reads.
    pub reads: &'static str,
    /// What it leaves behind.
    pub writes: &'static str,
}

/// The stages of `job`, in their order, with the number of files and bytes that it reads.
///
/// # Errors
/// If an input cannot be found.
pub fn outline(job: &Job) -> Result<(u64, u64, Vec<Stage>)> {
    let options = &job.options;
    let sources = input::discover(&job.inputs, &options.input, Some(&job.out))?;
    let files = || sources.iter().flat_map(Source::files);
    let bytes: u64 = files().map(|file| file.bytes).sum();
    let part_bytes = Plan::part_bytes(bytes);
    let parts = files().map(|file| file.bytes.div_ceil(part_bytes).max(1)).sum();
    let steps = &options.steps;
    let finds = steps.exact || steps.fuzzy.is_some() || steps.url_field.is_some();
    let mut stages = vec![Stage {
        stage: "read",
        tasks: parts,
        task: "a part of an input",
        reads: "inputs",
        writes: "spool parts: texts by shuffle key, keys of dedup",
    }];
    let mut stage = |stage, tasks, task, reads, writes| {
        stages.push(Stage { stage, tasks, task, reads, writes });
    };
    if finds {
        stage("dedup", 1, "all keys, sorted", "keys of spool parts", "survivor of every document");
    }
    if !steps.cuts.is_empty() {
        stage("cuts", 1, "all pieces, sorted", "texts of spool parts", "ranges of bytes");
    }
    let shards = bytes.div_ceil(options.shard_bytes.max(1)).max(1);
    stage("write", shards, "a shard", "a key range of every spool part", "shards");
    stage("finish", 1, "the dataset", "shards", "removed/, index, manifest");
    Ok((files().count() as u64, bytes, stages))
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Status {
    /// There is nothing in the output directory.
    Nothing,
    /// It has begun.
    Unfinished {
        /// A process is at it now.
        running: bool,
        /// The stage it is in.
        stage: &'static str,
        /// Spool parts that are complete.
        parts: u64,
        /// Their documents.
        documents: u64,
        /// Their text.
        text_bytes: u64,
        /// Shards that are complete.
        shards: u64,
    },
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
    let ending = |directory: &Path, suffix: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.to_string_lossy().ends_with(suffix)).collect::<Vec<_>>()
    };
    let parts: Vec<Part> =
        ending(&plan.spool, ".part").iter().filter_map(|path| Part::open(path)).collect();
    let stage = match () {
        () if !work.join("read.json").exists() => "read",
        () if !work.join("dedup.bin").exists() => "dedup",
        () if !plan.options.steps.cuts.is_empty() && !work.join("cuts.bin").exists() => "cuts",
        () => "write",
    };
    Ok(Status::Unfinished {
        running: Lock::take(&work.join("lock")).is_err(),
        stage,
        parts: parts.len() as u64,
        documents: parts.iter().map(|part| u64::from(part.footer.documents)).sum(),
        text_bytes: parts.iter().map(|part| part.footer.text_bytes).sum(),
        shards: ending(&work, ".done").len() as u64,
    })
}
