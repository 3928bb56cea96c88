use clap::Args;

use crate::args::{Global, Inputs, Out, Output, TokenizeArgs};
use crate::duplicates::DedupArgs;
use crate::report::{Report, Usage};
use crate::run::Run;
use crate::shard_format::ShardFormat;

/// The main job: raw text in, a deduplicated, tokenized, shuffled dataset out
#[derive(Args)]
pub struct Prep {
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    out: Out,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    format: ShardFormat,
    /// Seed of the shuffle
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Keep the order of the inputs
    #[arg(long)]
    no_shuffle: bool,
    /// Store the text beside the tokens
    #[arg(long)]
    keep_text: bool,
    /// Count documents, bytes and tokens of every source
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    tokenize: TokenizeArgs,
    #[command(flatten)]
    dedup: DedupArgs,
}

impl Prep {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let mut steps = self.dedup.steps()?;
        if steps.cuts.mask {
            let what = "ranges of bytes say nothing about tokens";
            return Err(Usage(format!("--cuts mask: {what}; expected it with `dedup`")).into());
        }
        let format = self.format.get(self.keep_text)?;
        let vocabulary = self.tokenize.vocabulary()?;
        steps.tokenize = Some(self.tokenize.options());
        steps.shuffle = (!self.no_shuffle).then_some(self.seed);
        let mut run = Run::new("prep", &self.inputs, &self.out.out, &self.output, steps);
        run.options.keep_text = self.keep_text;
        run.options.format = format;
        run.options.against = self.dedup.against();
        run.options.write_index = self.dedup.write_index();
        run.vocabulary = Some(&vocabulary);
        run.verify_tokens = self.tokenize.verify_tokens;
        run.stats = self.stats;
        run.run(global, report)
    }
}
