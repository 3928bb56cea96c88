use clap::Args;
use forebay_pipeline::Steps;

use crate::args::{DedupArgs, Global, Inputs, Output};
use crate::report::Report;
use crate::run::Run;

/// Drop equal and similar documents, keeping one of each cluster; text in, text out, in order
#[derive(Args)]
pub struct Dedup {
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    dedup: DedupArgs,
}

impl Dedup {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let steps = Steps {
            exact: !self.dedup.no_exact,
            fuzzy: self.dedup.fuzzy(),
            keep: self.dedup.keep(),
            tokenize: None,
            shuffle: None,
        };
        let (inputs, output) = (&self.inputs, &self.output);
        let run = Run { stage: "dedup", inputs, output, steps, keep_text: true, vocabulary: None };
        run.run(global, report)
    }
}
