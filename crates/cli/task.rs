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
    /// The stage: all of `read`, then `find`, then all of `write`, then `finish`
    stage: Stage,
    /// Which share of `read` or `write`, such as 3/16: the fourth of sixteen
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
    /// Duplicates and repeated text, among all parts
    Find,
    /// Spool parts to shards
    Write,
    /// What makes the shards a dataset
    Finish,
}

impl TaskVerb {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let task = match self.stage {
            Stage::Read => Task::Read(self.share),
            Stage::Write => Task::Write(self.share),
            Stage::Find | Stage::Finish if self.share != Share::default() => {
                let what = "only `read` and `write` have shares";
                return Err(Usage(format!("--share: {what}")).into());
            }
            Stage::Find => Task::Find,
            Stage::Finish => Task::Finish,
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
