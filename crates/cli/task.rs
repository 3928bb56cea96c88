use std::path::PathBuf;

use clap::{Args, ValueEnum};
use forebay_pipeline::{Recipe, Share, Task};
use serde_json::json;

use crate::args::Global;
use crate::progress::Bar;
use crate::report::{Report, Usage};
use crate::run::stop_on_signals;

/// One task of a recipe: what executors call, on any machine that sees inputs and output
#[derive(Args)]
pub struct TaskVerb {
    /// The recipe; equal on all machines
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// The stage: all of `read`, then the rounds of the search for duplicates, then `find`, all of `write`, `finish`
    stage: Stage,
    /// Which share of the stage, such as 3/16: the fourth of sixteen
    #[arg(long, default_value_t, value_name = "K/N")]
    share: Share,
    /// Stands for what the recipe says; equal on all machines
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Stage {
    /// Inputs to spool parts
    Read,
    /// Round: documents of equal text
    Exact,
    /// Round: documents of equal URL
    Url,
    /// Round: documents that are equal on a band
    Link,
    /// Round: links of documents, each once
    Thin,
    /// Round: which documents hang together; one task
    Group,
    /// Round: buckets to the groups that they connect
    Place,
    /// Round: texts of documents that share buckets
    Compare,
    /// What the rounds found, or everything if there were none; repeated text; one task
    Find,
    /// Spool parts to shards
    Write,
    /// What makes the shards a dataset; one task
    Finish,
}

impl TaskVerb {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let single = matches!(self.stage, Stage::Find | Stage::Finish | Stage::Group);
        if single && self.share.of > 1 {
            let what = format!("expected none for a stage of one task, found {}", self.share);
            return Err(Usage(format!("--share: {what}")).into());
        }
        let name = self.stage.to_possible_value().map(|value| value.get_name().to_owned());
        let Some(task) = name.and_then(|name| Task::parse(&name, self.share)) else {
            return Err(Usage("stage: expected one of a run".into()).into());
        };
        let mut recipe = Recipe::read(&self.recipe, &self.set)?;
        global.lay_over(&mut recipe.execution);
        let job = recipe.job()?;
        let stop = stop_on_signals()?;
        let bar = Bar::start(!global.quiet && !global.no_progress, global.verbose, stop);
        let finished = job.perform(task, bar.progress());
        drop(bar);
        let finished = finished?.map(|finished| finished.manifest.documents);
        report.json(json!({ "out": job.out, "documents": finished }));
        Ok(())
    }
}
