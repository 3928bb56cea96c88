use std::path::PathBuf;

use clap::{Args, Subcommand};
use forebay_pipeline::Recipe;
use forebay_pipeline::recipe::{self, Size};

use crate::args::{Global, Inputs, Output, TokenizeArgs};
use crate::report::Report;
use crate::run::Run;
use crate::shard_format::ShardFormat;
use crate::train::Train;

/// Turn documents into tokens, in order; those without any text are left out
#[derive(Args)]
// An input may be called `train` too, when written as `./train`.
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    subcommand_help_heading = "Instead of inputs"
)]
pub struct Tokenize {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    inputs: Inputs,
    /// Directory of the dataset; new, empty, or with an unfinished run of the same command
    #[arg(long, short, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    format: ShardFormat,
    /// Store the text beside the tokens
    #[arg(long)]
    keep_text: bool,
    /// Count documents, bytes and tokens of every source
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    tokenize: TokenizeArgs,
}

#[derive(Subcommand)]
enum Other {
    Train(Train),
}

impl Tokenize {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        if let Some(Other::Train(train)) = self.other {
            return train.run(global, report);
        }
        let recipe = Recipe {
            input: self.inputs.recipe(),
            dedup: None,
            tokenize: Some(self.tokenize.recipe()),
            shuffle: None,
            output: recipe::Output {
                path: self.out.unwrap_or_default(),
                format: self.format.get(self.keep_text)?,
                shard_size: Size(self.output.shard_size),
                keep_text: self.keep_text,
                stats: self.stats,
            },
            execution: global.recipe(),
            places: recipe::Places::default(),
        };
        let mut run = Run::new(&recipe)?;
        run.job.execution.fresh = self.output.fresh;
        run.job.execution.keep_going |= self.output.keep_going;
        run.run(global, report)
    }
}
