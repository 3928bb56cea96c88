use std::path::PathBuf;

use clap::{Args, ValueEnum};
use forebay_pipeline::recipe::{self, Size};
use forebay_pipeline::{Form, Recipe};

use crate::args::{Global, Inputs, Output};
use crate::compat;
use crate::duplicates::DedupArgs;
use crate::report::Report;
use crate::run::Run;

/// Drop equal and similar documents, keeping one of each cluster; text in, text out, in order
#[derive(Args)]
pub struct Dedup {
    #[command(flatten)]
    inputs: Inputs,
    /// Directory of the dataset; new, empty, or with an unfinished run of the same command
    #[arg(long, short, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    /// Keep all documents, with columns that say which would go, and why
    #[arg(long, conflicts_with = "removed_only")]
    annotate: bool,
    /// Write only removed/, the list of what goes: for corpora that stay where they are
    #[arg(long)]
    removed_only: bool,
    /// Write nothing, only say what would go
    #[arg(long, conflicts_with_all = ["out", "annotate", "write_index", "fresh"])]
    dry_run: bool,
    /// Work with the files of another program: signatures/ and remove/ in its format, no dataset
    #[arg(long, value_name = "PROGRAM", requires = "out", conflicts_with_all = ["annotate", "removed_only", "dry_run"])]
    compat: Option<Program>,
    #[command(flatten)]
    dedup: DedupArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Program {
    /// datatrove's MinHash stages: INPUT may also be a folder of its signatures or pairs
    Datatrove,
}

impl Dedup {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        if let (Some(Program::Datatrove), Some(out)) = (self.compat, &self.out) {
            return compat::run(&self.inputs, out, &self.dedup, global, report);
        }
        let form = match () {
            () if self.removed_only || self.dry_run => Form::Removed,
            () if self.annotate => Form::Annotated,
            () => Form::Dataset,
        };
        let scratch;
        let out = match &self.out {
            Some(out) => out.as_path(),
            None => {
                let tmp = global.tmp_dir.clone().unwrap_or_else(std::env::temp_dir);
                std::fs::create_dir_all(&tmp)?;
                scratch = tempfile::Builder::new().prefix("forebay-").tempdir_in(tmp)?;
                scratch.path()
            }
        };
        let recipe = Recipe {
            input: self.inputs.recipe(),
            dedup: Some(self.dedup.recipe()),
            tokenize: None,
            shuffle: None,
            output: recipe::Output {
                path: out.to_path_buf(),
                shard_size: Size(self.output.shard_size),
                ..recipe::Output::default()
            },
            execution: global.recipe(),
            places: recipe::Places::default(),
        };
        let mut run = Run::new(&recipe)?;
        run.job.options.form = form;
        run.job.execution.fresh = self.output.fresh;
        run.job.execution.keep_going |= self.output.keep_going;
        run.dry = self.dry_run;
        run.run(global, report)
    }
}
