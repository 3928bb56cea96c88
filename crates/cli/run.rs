//! What `prep`, `dedup` and `tokenize` have in common: one run, and its report.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use forebay_pipeline::{Error, Finished, Form, Job, Recipe};
use forebay_shard::manifest::{Counts, ShardEntry};
use serde_json::json;

use crate::args::Global;
use crate::format;
use crate::progress::Bar;
use crate::report::{Report, Usage};
use crate::staging::Staging;
use crate::stats;

/// A run of the pipeline, as a verb or a recipe asks for it.
pub struct Run {
    pub job: Job,
    /// The output is thrown away.
    pub dry: bool,
}

/// Flags are keys of a recipe: an error about one is about the other.
pub fn as_flag(error: Error) -> anyhow::Error {
    match error {
        // One in a file is told by its line.
        Error::Recipe { place, what, .. } if !place.contains(' ') => {
            let key = place.rsplit('.').next().unwrap_or_default().replace('_', "-");
            Usage(format!("--{key}: {what}")).into()
        }
        other => other.into(),
    }
}

impl Run {
    pub fn new(recipe: &Recipe) -> anyhow::Result<Self> {
        Ok(Self { job: recipe.job().map_err(as_flag)?, dry: false })
    }

    /// Runs it with progress on stderr; Ctrl-C stops it after the unit in hand.
    pub fn run(mut self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let staging = Staging::begin(&mut self.job.out, global)?;
        let job = &self.job;
        if let Some(index) = &job.options.write_index {
            let [index, out] = [index, &job.out].map(std::path::absolute);
            if index?.starts_with(out?) {
                let what = "expected a directory outside of --out, found one inside";
                return Err(Usage(format!("--write-index: {what}")).into());
            }
        }
        let stop = stop_on_signals()?;
        let start = Instant::now();
        let bar = Bar::start(!global.quiet && !global.no_progress, global.verbose, stop);
        let finished = job.run(bar.progress());
        drop(bar);
        let finished = finished?;
        if let Some(staging) = staging {
            staging.publish(global, report)?;
            self.job.out = staging.uri;
        }
        self.tell(report, &finished, start.elapsed());
        Ok(())
    }
}

/// A flag that Ctrl-C sets; the second one ends the program at once.
pub fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

impl Run {
    /// What was read, dropped and kept.
    fn tell(&self, report: &mut Report, finished: &Finished, took: Duration) {
        let Finished { manifest, already, resumed, notes, stats, loading } = finished;
        let counts = &manifest.counts;
        let out = self.job.out.display();
        notes.iter().for_each(|note| report.note(note));
        if *already {
            report.note(&format!("{out} is finished already; nothing was done"));
        } else if *resumed {
            report.note("resumed an interrupted run");
        }
        let size = (!manifest.shards.is_empty()).then_some(manifest.text_bytes);
        tell_counts(report, counts, size, (!already).then_some(took));
        for large in &manifest.large_clusters {
            report.note(&format!(
                "cluster {} holds {} documents, for which {} stays; they begin:\n{}",
                large.cluster,
                format::count(large.size.into()),
                large.survivor,
                large.samples.iter().map(|s| format!("        {s}")).collect::<Vec<_>>().join("\n")
            ));
        }

        let size: u64 = manifest.shards.iter().map(ShardEntry::all_bytes).sum();
        let (shards, size) = (manifest.shards.len(), format::bytes(size));
        let plural = if shards == 1 { "" } else { "s" };
        match manifest.tokens {
            _ if self.dry => {}
            _ if self.job.options.form == Form::Removed => {
                let removed = manifest.removed.iter().map(|entry| entry.bytes).sum();
                report.line(format!("write {:>40}   removed/ in {out}", format::bytes(removed)));
            }
            Some(tokens) => report.line(format!(
                "write {:>14} tokens     {size:>12}   {shards} shard{plural} in {out}",
                format::count(tokens)
            )),
            None => {
                report.line(format!("write {:>14} shard{plural}    {size:>14}   in {out}", shards));
            }
        }
        if let Some(index) = &self.job.options.write_index {
            report.line(format!("index {:>40}   in {}", "", index.display()));
        }
        if let Some(stats) = stats {
            stats::show(stats, report);
        } else if self.job.execution.stats {
            report.note("--stats counts while shards are written; nothing was written");
        }
        report.json(json!({
            "out": (!self.dry).then_some(&self.job.out),
            "already": already,
            "resumed": resumed,
            "seconds": took.as_secs_f64(),
            "vocabulary_cpu_seconds": loading.as_secs_f64(),
            "documents": counts.kept,
            "tokens": manifest.tokens,
            "text_bytes": manifest.text_bytes,
            "counts": counts,
            "large_clusters": manifest.large_clusters,
            "shards": manifest.shards,
            "removed": if self.dry { &[][..] } else { &manifest.removed },
            "tokenizer": manifest.tokenizer,
            "stats": stats.as_ref().map(stats::json),
        }));
        if !counts.skipped.is_empty() {
            if !self.dry {
                report.hint(&format!("the skipped records are listed in {out}/removed/"));
            }
            report.skipped();
        }
    }
}

fn tell_counts(
    report: &mut Report,
    counts: &Counts,
    kept_bytes: Option<u64>,
    took: Option<Duration>,
) {
    let documents = |n: u64| format!("{:>14} documents", format::count(n));
    let mut read =
        format!("read  {}  {:>12}", documents(counts.read), format::bytes(counts.read_bytes));
    if let Some(took) = took {
        let rate = (counts.read_bytes as f64 / took.as_secs_f64()) as u64;
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
    let verb = if counts.kept_duplicates > 0 { "find" } else { "drop" };
    for (name, dropped) in counts.found().into_iter().filter(|&(_, dropped)| dropped > 0) {
        report.line(format!("{verb}  {}  {name}", documents(dropped)));
    }
    if counts.clusters > 0 {
        let (clusters, largest) =
            (format::count(counts.clusters), format::count(counts.largest_cluster));
        report.line(format!("      {clusters:>14} clusters   the largest of {largest}"));
    }
    if counts.cut_bytes > 0 {
        report.line(format!("cut   {:>24}  {:>12}", "", format::bytes(counts.cut_bytes)));
    }
    let share = format::percent(counts.kept, counts.read);
    let size = kept_bytes.map_or(String::new(), format::bytes);
    report.line(format!("keep  {}  {size:>12}   {share}", documents(counts.kept)));
}
