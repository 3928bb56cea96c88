use clap::Args;
use forebay_pipeline::Recipe;
use forebay_pipeline::recipe::{self, Shuffle, Size};

use crate::args::{Global, Inputs, Out, Output, TokenizeArgs};
use crate::duplicates::DedupArgs;
use crate::report::Report;
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
        let recipe = Recipe {
            input: self.inputs.recipe(),
            dedup: Some(self.dedup.recipe()),
            tokenize: Some(self.tokenize.recipe()),
            shuffle: (!self.no_shuffle).then_some(Shuffle { seed: self.seed }),
            output: recipe::Output {
                path: self.out.out,
                format: self.format.get(self.keep_text)?,
                shard_size: Size(self.output.shard_size),
                keep_text: self.keep_text,
                stats: self.stats,
            },
            execution: global.recipe(),
        };
        let mut run = Run::new(&recipe)?;
        run.job.execution.fresh = self.output.fresh;
        run.run(global, report)
    }
}
