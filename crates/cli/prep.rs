use clap::Args;
use forebay_pipeline::Steps;

use crate::args::{DedupArgs, Global, Inputs, Output, TokenizeArgs};
use crate::report::Report;
use crate::run::Run;

/// The main job: raw text in, a deduplicated, tokenized, shuffled dataset out
#[derive(Args)]
pub struct Prep {
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    output: Output,
    /// Seed of the shuffle
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Keep the order of the inputs
    #[arg(long)]
    no_shuffle: bool,
    /// Store the text beside the tokens
    #[arg(long)]
    keep_text: bool,
    #[command(flatten)]
    dedup: DedupArgs,
    #[command(flatten)]
    tokenize: TokenizeArgs,
}

impl Prep {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let vocabulary = self.tokenize.vocabulary()?;
        let steps = Steps {
            exact: !self.dedup.no_exact,
            fuzzy: self.dedup.fuzzy(),
            keep: self.dedup.keep(),
            tokenize: Some(self.tokenize.options()),
            shuffle: (!self.no_shuffle).then_some(self.seed),
        };
        let run = Run {
            stage: "prep",
            inputs: &self.inputs,
            output: &self.output,
            steps,
            keep_text: self.keep_text,
            vocabulary: Some(&vocabulary),
        };
        run.run(global, report)
    }
}
