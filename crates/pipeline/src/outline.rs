//! What a run would do: its stages and tasks, before anything is read.

use forebay_shard::input::{self, Source};
use serde::Serialize;

use crate::Result;
use crate::plan::{Options, Plan};
use crate::recipe::Job;

/// A run that is yet to come.
#[derive(Debug)]
pub struct Outline {
    /// Files that it reads.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// In their order.
    pub stages: Vec<Stage>,
    sources: Vec<Source>,
    part_bytes: u64,
    options: Options,
}

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

/// A task of a run that is yet to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedTask {
    /// Its stage.
    pub stage: &'static str,
    /// What it reads.
    pub reads: String,
    /// What it leaves behind.
    pub writes: String,
}

impl Outline {
    /// What `job` would do.
    ///
    /// # Errors
    /// If an input cannot be found.
    pub fn new(job: &Job) -> Result<Self> {
        let options = job.options.clone();
        let sources = input::discover(&job.inputs, &options.input, Some(&job.out))?;
        let files = || sources.iter().flat_map(Source::files);
        let (count, bytes) = (files().count() as u64, files().map(|file| file.bytes).sum());
        let part_bytes = Plan::part_bytes(bytes);
        let parts = files().map(|file| parts_of(file.bytes, part_bytes)).sum();
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
            let writes = "survivor of every document";
            stage("dedup", 1, "all keys, sorted", "keys of spool parts", writes);
        }
        if !steps.cuts.is_empty() {
            stage("cuts", 1, "all pieces, sorted", "texts of spool parts", "ranges of bytes");
        }
        let shards = bytes.div_ceil(options.shard_bytes.max(1)).max(1);
        stage("write", shards, "a shard", "a key range of every spool part", "shards");
        stage("finish", 1, "the dataset", "shards", "removed/, index, manifest");
        Ok(Self { files: count, bytes, stages, sources, part_bytes, options })
    }

    /// All tasks, in the order of the stages.
    pub fn tasks(&self) -> impl Iterator<Item = PlannedTask> {
        let parts = self.sources.iter().enumerate().flat_map(|(number, source)| {
            let parts = source.files().iter().flat_map(|file| {
                let name = file.name().to_owned();
                (0..parts_of(file.bytes, self.part_bytes)).map(move |_| name.clone())
            });
            parts.enumerate().map(move |(part, reads)| PlannedTask {
                stage: "read",
                reads,
                writes: format!("spool/{number:05}-{part:06}.part"),
            })
        });
        let others = self.stages.iter().skip(1).flat_map(|stage| {
            (0..stage.tasks).map(|number| {
                let (shuffled, format) =
                    (self.options.steps.shuffle.is_some(), self.options.format);
                let shard = || format.files(usize::try_from(number).unwrap_or(0), shuffled);
                let writes = match stage.stage {
                    "write" => shard().join(" "),
                    _ => stage.writes.to_owned(),
                };
                PlannedTask { stage: stage.stage, reads: stage.reads.to_owned(), writes }
            })
        });
        parts.chain(others)
    }
}

/// About, if it is compressed.
fn parts_of(bytes: u64, part_bytes: u64) -> u64 {
    bytes.div_ceil(part_bytes).max(1)
}
