use std::time::Duration;

use clap::Args;
use forebay_load::{Measured, measure};
use serde_json::json;

use crate::args::Global;
use crate::format;
use crate::load_options::LoadOptions;
use crate::report::{Report, Usage};

/// Batches against a training step of `--step-time`: tokens a second, who waits, time to the first, memory
#[derive(Args)]
pub struct BenchLoader {
    #[command(flatten)]
    options: LoadOptions,
    /// First global batch, counted through all epochs
    #[arg(long, default_value_t = 0, value_name = "N")]
    step: u64,
    /// Batches to take
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    steps: u64,
    /// How long each simulated training step takes; the processor is free meanwhile
    #[arg(long, default_value_t = 0.0, value_name = "MS")]
    step_time: f64,
}

impl BenchLoader {
    pub fn run(mut self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let _held = self.options.fetch()?;
        run(&self.options, global, self.step, self.steps, self.step_time, report)
    }
}

/// Also what `load --bench` does.
pub fn run(
    options: &LoadOptions,
    global: &Global,
    step: u64,
    steps: u64,
    step_time: f64,
    report: &mut Report,
) -> anyhow::Result<()> {
    options.check()?;
    let config = options.config(global);
    let work = Duration::try_from_secs_f64(step_time / 1e3)
        .map_err(|_| Usage(format!("--step-time: expected milliseconds, found {step_time}")))?;
    let found = measure(|| options.open(config), step, steps, work)?;
    let Measured { tokens, elapsed, cpu, first_batch, stall_share, verdict, peak_rss, .. } = &found;
    let rate = *tokens as f64 / elapsed.as_secs_f64().max(1e-9);
    let per_cpu = cpu.map(|cpu| *tokens as f64 / cpu.as_secs_f64().max(1e-9));
    report.line(format!(
        "load  {:>14} batches    {:.1} M tokens/s, {} M a CPU second",
        format::count(steps),
        rate / 1e6,
        per_cpu.map_or("?".into(), |rate| format!("{:.1}", rate / 1e6))
    ));
    report.line(format!("      {:>14.2} ms to the first batch", 1e3 * first_batch.as_secs_f64()));
    if let Some((all, own)) = peak_rss {
        let (all, own) = (format::bytes(*all), format::bytes(*own));
        report.line(format!("      {all:>14} resident at the peak, {own} without pages of files"));
    }
    report.line(verdict);
    report.json(json!({
        "steps": steps,
        "tokens": tokens,
        "seconds": elapsed.as_secs_f64(),
        "tokens_per_second": rate,
        "tokens_per_cpu_second": per_cpu,
        "first_batch_seconds": first_batch.as_secs_f64(),
        "stall_share": stall_share,
        "verdict": verdict,
        "peak_rss_bytes": peak_rss.map(|rss| rss.0),
        "anonymous_bytes": peak_rss.map(|rss| rss.1),
    }));
    Ok(())
}
