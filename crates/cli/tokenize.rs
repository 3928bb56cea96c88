use std::path::PathBuf;

use clap::{Args, Subcommand};
use forebay_pipeline::Steps;

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
        let out = self.out.unwrap_or_default();
        let format = self.format.get(self.keep_text)?;
        let vocabulary = self.tokenize.vocabulary()?;
        let steps = Steps { tokenize: Some(self.tokenize.options()), ..Steps::default() };
        let mut run = Run::new("tokenize", &self.inputs, &out, &self.output, steps);
        run.options.keep_text = self.keep_text;
        run.options.format = format;
        run.vocabulary = Some(&vocabulary);
        run.verify_tokens = self.tokenize.verify_tokens;
        run.stats = self.stats;
        run.run(global, report)
    }
}
