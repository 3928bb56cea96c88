//! What `prep`, `dedup` and `tokenize` have in common: one run, and its report.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use forebay_pipeline::{Execution, Finished, Options, Steps};
use forebay_transform::tokenize::Vocabulary;
use serde_json::json;

use crate::args::{Global, Inputs, Output};
use crate::format;
use crate::progress::Bar;
use crate::report::Report;

/// A run of the pipeline, as a verb asks for it.
pub struct Run<'a> {
    pub stage: &'static str,
    pub inputs: &'a Inputs,
    pub output: &'a Output,
    pub steps: Steps,
    pub keep_text: bool,
    pub vocabulary: Option<&'a Vocabulary>,
}

impl Run<'_> {
    /// Runs it with progress on stderr; Ctrl-C stops it after the unit in hand.
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let options = Options {
            input: self.inputs.options(),
            steps: self.steps,
            keep_text: self.keep_text,
            shard_bytes: self.output.shard_size,
        };
        let execution = Execution {
            threads: global.threads(),
            memory_bytes: global.memory,
            tmp_dir: global.tmp_dir.clone(),
            fresh: self.output.fresh,
        };
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one ends it at once.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let start = Instant::now();
        let bar = Bar::start(!global.quiet && !global.no_progress, global.verbose, stop);
        let finished = forebay_pipeline::run(
            self.stage,
            &self.inputs.inputs,
            &self.output.out,
            &options,
            self.vocabulary,
            &execution,
            bar.progress(),
        );
        drop(bar);
        tell(report, self.output, &finished?, start.elapsed());
        Ok(())
    }
}

/// What was read, dropped and kept.
fn tell(report: &mut Report, output: &Output, finished: &Finished, took: Duration) {
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
