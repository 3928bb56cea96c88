use std::time::Instant;

use clap::Args;
use forebay_pipeline::Steps;

use crate::args::{DedupArgs, Global, Inputs, Output};
use crate::prep::tell;
use crate::report::Report;

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
        let start = Instant::now();
        let finished = global.run("dedup", &self.inputs, &self.output, steps, true, None)?;
        tell(report, &self.output, &finished, start.elapsed());
        Ok(())
    }
}
