use clap::Args;
use forebay_pipeline::Steps;
use forebay_transform::dedup::Keep;

use crate::args::{Global, Inputs, Output, TokenizeArgs};
use crate::report::Report;
use crate::run::Run;

/// Turn documents into tokens, in order; those without any text are left out
#[derive(Args)]
pub struct Tokenize {
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    output: Output,
    /// Store the text beside the tokens
    #[arg(long)]
    keep_text: bool,
    #[command(flatten)]
    tokenize: TokenizeArgs,
}

impl Tokenize {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let vocabulary = self.tokenize.vocabulary()?;
        let steps = Steps {
            exact: false,
            fuzzy: None,
            keep: Keep::First,
            tokenize: Some(self.tokenize.options()),
            shuffle: None,
        };
        let run = Run {
            stage: "tokenize",
            inputs: &self.inputs,
            output: &self.output,
            steps,
            keep_text: self.keep_text,
            vocabulary: Some(&vocabulary),
        };
        run.run(global, report)
    }
}
