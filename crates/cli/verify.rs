use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::args::Global;
use crate::format;
use crate::report::Report;

/// Recheck every hash, count and index entry of a dataset; exit code 1 if anything is wrong
#[derive(Args)]
pub struct Verify {
    /// Directory of the dataset, or s3://BUCKET/PREFIX
    dataset: PathBuf,
}

impl Verify {
    pub fn run(self, _: &Global, report: &mut Report) -> anyhow::Result<()> {
        let start = Instant::now();
        let dataset = forebay_store::remote::local(&self.dataset)?;
        let verified = forebay_shard::verify(dataset.path(), |_| {})?;
        let rate = (verified.bytes as f64 / start.elapsed().as_secs_f64()) as u64;
        report.line(format!(
            "read  {:>14} files      {:>12}   {}/s",
            format::count(verified.files),
            format::bytes(verified.bytes),
            format::bytes(rate)
        ));
        report.line(format!(
            "check {:>14} documents  {:>12} tokens",
            format::count(verified.documents),
            format::count(verified.tokens)
        ));
        for problem in &verified.problems {
            report.line(format!("wrong {}: {}", problem.file, problem.what));
        }
        report.json(serde_json::to_value(&verified)?);
        if verified.problems.is_empty() {
            report.line("sound every hash, count and index entry");
        } else {
            report.failed();
            report.hint("copy the files named above again, or rebuild the dataset");
        }
        Ok(())
    }
}
