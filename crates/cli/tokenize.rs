use clap::Args;
use forebay_pipeline::Steps;

use crate::args::{Global, Inputs, Out, Output, TokenizeArgs};
use crate::report::Report;
use crate::run::Run;
use crate::shard_format::ShardFormat;

/// Turn documents into tokens, in order; those without any text are left out
#[derive(Args)]
pub struct Tokenize {
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    out: Out,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    format: ShardFormat,
    /// Store the text beside the tokens
    #[arg(long)]
    keep_text: bool,
    #[command(flatten)]
    tokenize: TokenizeArgs,
}

impl Tokenize {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let format = self.format.get(self.keep_text)?;
        let vocabulary = self.tokenize.vocabulary()?;
        let steps = Steps { tokenize: Some(self.tokenize.options()), ..Steps::default() };
        let mut run = Run::new("tokenize", &self.inputs, &self.out.out, &self.output, steps);
        run.options.keep_text = self.keep_text;
        run.options.format = format;
        run.vocabulary = Some(&vocabulary);
        run.verify_tokens = self.tokenize.verify_tokens;
        run.run(global, report)
    }
}
