use std::time::{Duration, Instant};

use clap::Args;
use forebay_pipeline::{Finished, Steps};
use serde_json::json;

use crate::args::{DedupArgs, Global, Inputs, Output, TokenizeArgs};
use crate::format;
use crate::report::Report;

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
        let start = Instant::now();
        let finished = global.run(
            "prep",
            &self.inputs,
            &self.output,
            steps,
            self.keep_text,
            Some(&vocabulary),
        )?;
        tell(report, &self.output, &finished, start.elapsed());
        Ok(())
    }
}

/// What was read, dropped and kept.
pub fn tell(report: &mut Report, output: &Output, finished: &Finished, took: Duration) {
    let Finished { manifest, already, resumed, notes } = finished;
    let counts = &manifest.counts;
    let out = output.out.display();
    notes.iter().for_each(|note| report.note(note));
    if *already {
        report.note(&format!("{out} is finished already; nothing was done"));
    } else if *resumed {
        report.note("resumed an interrupted run");
    }

    let documents = |n: u64| format!("{:>14} documents", format::count(n));
    let rate = (counts.read_bytes as f64 / took.as_secs_f64()) as u64;
    let mut read =
        format!("read  {}  {:>12}", documents(counts.read), format::bytes(counts.read_bytes));
    if !already {
        read += &format!("   {}/s in all", format::bytes(rate));
    }
    report.line(read);
    for (reason, &skipped) in &counts.skipped {
        report.line(format!("skip  {:>14} records    {reason}", format::count(skipped)));
    }
    if counts.replaced > 0 {
        report.line(format!(
            "mend  {}  U+FFFD for bytes that are not UTF-8",
            documents(counts.replaced)
        ));
    }
    for (name, dropped) in
        [("empty", counts.empty), ("exact", counts.exact), ("fuzzy", counts.fuzzy)]
    {
        if dropped > 0 {
            report.line(format!("drop  {}  {name}", documents(dropped)));
        }
    }
    if counts.clusters > 0 {
        let (clusters, largest) =
            (format::count(counts.clusters), format::count(counts.largest_cluster));
        report.line(format!("      {clusters:>14} clusters   the largest of {largest}"));
    }
    let share = format::percent(manifest.documents, counts.read);
    let size: u64 = manifest.shards.iter().map(|shard| shard.bytes).sum();
    let kept = documents(manifest.documents);
    report.line(format!("keep  {kept}  {:>12}   {share}", format::bytes(manifest.text_bytes)));
    let (shards, size) = (manifest.shards.len(), format::bytes(size));
    let plural = if shards == 1 { "" } else { "s" };
    match manifest.tokens {
        Some(tokens) => report.line(format!(
            "write {:>14} tokens     {size:>12}   {shards} shard{plural} in {out}",
            format::count(tokens)
        )),
        None => report.line(format!("write {:>14} shard{plural}    {size:>14}   in {out}", shards)),
    }
    report.json(json!({
        "out": output.out,
        "already": already,
        "resumed": resumed,
        "seconds": took.as_secs_f64(),
        "documents": manifest.documents,
        "tokens": manifest.tokens,
        "text_bytes": manifest.text_bytes,
        "counts": counts,
        "shards": manifest.shards,
        "removed": manifest.removed,
        "tokenizer": manifest.tokenizer,
    }));
    if !counts.skipped.is_empty() {
        report.hint(&format!("the skipped records are listed in {out}/removed/"));
        report.skipped();
    }
}
