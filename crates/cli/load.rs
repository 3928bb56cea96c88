use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use forebay_load::{Batch, Loader, State};
use forebay_transform::tokenize::Tokenizer;
use serde_json::{Value, json};

use crate::args::Global;
use crate::load_options::LoadOptions;
use crate::report::{Report, Usage};
use crate::{bench_loader, format};

/// Iterate the batches of a dataset and say how fast
#[derive(Args)]
pub struct Load {
    #[command(flatten)]
    pub options: LoadOptions,
    /// First global batch, counted through all epochs
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub step: u64,
    /// Batches to iterate; the rest of the epoch by default
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Start where this file says if it exists, and write there where the run ends
    #[arg(long, value_name = "FILE", conflicts_with = "step")]
    pub state: Option<PathBuf>,
    /// Show the first N samples as text (ids if there is no tokenizer), at most those of one epoch
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub print: usize,
    /// Only say of what the batch at `--step` is made: shard, document and bytes of every row
    #[arg(long, conflicts_with_all = ["bench", "print"])]
    explain: bool,
    /// Serve statistics by HTTP, for Prometheus; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["bench", "explain"])]
    metrics: Option<SocketAddr>,
    /// Measure against a training step that takes `--step-time`
    #[arg(long, conflicts_with_all = ["print", "state"])]
    pub bench: bool,
    /// Where batches are made: cpu, or cuda:0
    #[arg(long, default_value = "cpu", conflicts_with = "explain")]
    device: crate::load_device::Target,
    /// Device memory at most
    #[arg(long, default_value = "1GiB", value_parser = forebay_pipeline::recipe::parse_bytes, value_name = "SIZE")]
    device_memory: u64,
    /// With a device that fails: stop, or go on with batches on the host
    #[arg(long, default_value = "fail")]
    on_device_error: crate::load_device::OnDeviceError,
    /// How long each simulated training step takes
    #[arg(long, default_value_t = 0.0, value_name = "MS", requires = "bench")]
    pub step_time: f64,
}

const SHOWN_CHARACTERS: usize = 300;

impl Load {
    fn check(&self) -> Result<(), Usage> {
        self.options.check()?;
        if self.options.datasets.len() > 1 && self.steps.is_none() && !self.explain {
            return Err(Usage("--steps: expected a number, since a mixture has no end".into()));
        }
        Ok(())
    }

    pub fn run(mut self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        self.check()?;
        let _held = self.options.fetch()?;
        let device = (self.device, self.device_memory, self.on_device_error);
        let ahead = self.options.prefetch;
        if let Some(device) = device.0.config(ahead, device.1, device.2) {
            let config = self.options.config(global);
            return crate::load_device::run(&self, config, device, report);
        }
        if self.bench {
            let (step, steps) = (self.step, self.steps.unwrap_or(1_000));
            return bench_loader::run(&self.options, global, step, steps, self.step_time, report);
        }
        let config = self.options.config(global);
        let opening = Instant::now();
        let mut loader = self.options.open(config.clone())?;
        self.start(&mut loader)?;
        if let Some(address) = self.metrics {
            let address = loader.serve_metrics(address)?;
            report.note(&format!("metrics at http://{address}/metrics"));
        }
        if self.explain {
            return explain(&loader, report);
        }
        let step = loader.step();
        let steps = self.steps.or(loader.steps().map(|steps| steps - step % steps)).unwrap_or(0);
        let mut printed = Vec::new();
        if self.print > 0 {
            self.print(&mut loader, &mut printed, report)?;
            self.start(&mut loader)?;
        }

        let resuming = Instant::now();
        let opened = resuming - opening;
        let mut batch = Batch::default();
        let mut tokens = 0;
        for _ in 0..steps {
            loader.next_batch(&mut batch)?;
            tokens += batch.input_ids.len() as u64;
        }
        let seconds = resuming.elapsed().as_secs_f64();
        let rate = tokens as f64 / seconds.max(1e-9);
        // Opening again and the first batch: what a job waits for when it resumes here.
        let resume = {
            let start = Instant::now();
            let mut again = self.options.open(config)?;
            again.seek(step);
            again.next_batch(&mut batch)?;
            start.elapsed().as_secs_f64()
        };
        report.line(format!(
            "load  {:>14} batches    [{}, {}] of {} samples an epoch, rank {} of {}",
            format::count(steps),
            self.options.batch_size,
            self.options.seq_len,
            format::count(loader.samples()),
            self.options.rank,
            self.options.world_size
        ));
        report.line(format!(
            "      {:>14} tokens     {:.1} M tokens/s",
            format::count(tokens),
            rate / 1e6
        ));
        if let Some(fill) = loader.fill() {
            report.line(format!("      {:>14.2} % of the places hold a token", 100.0 * fill));
        }
        report.line(format!("      {:>14.2} ms to resume at step {step}", 1e3 * resume));
        for replaced in &loader.state().replaced {
            report.skipped();
            report.line(format!(
                "      sample {} is corrupt: sample {} came instead",
                replaced.sample, replaced.by
            ));
        }
        let state = serde_json::to_value(loader.state())?;
        report.json(json!({
            "steps": steps,
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": rate,
            "open_seconds": opened.as_secs_f64(),
            "resume_seconds": resume,
            "samples": loader.samples(),
            "steps_per_epoch": loader.steps(),
            "epochs": loader.epochs(),
            "fill": loader.fill(),
            "state": state,
            "printed": printed,
        }));
        if let Some(path) = &self.state {
            forebay_store::publish_bytes(path, format!("{state:#}\n").as_bytes())?;
        }
        Ok(())
    }

    /// Goes to `--state` or `--step`.
    fn start(&self, loader: &mut Loader) -> anyhow::Result<()> {
        match &self.state {
            Some(path) if path.exists() => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| forebay_store::Error::io("read", path, error))?;
                let state: State = serde_json::from_str(&text)
                    .with_context(|| format!("{} is no state of a loader", path.display()))?;
                loader.load_state(&state)?;
            }
            _ => loader.seek(self.step),
        }
        Ok(())
    }

    fn print(
        &self,
        loader: &mut Loader,
        printed: &mut Vec<Value>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let entry = loader.dataset().and_then(|dataset| dataset.manifest().tokenizer.as_ref());
        let tokenizer = entry
            .map(|entry| Tokenizer::of_dataset(&self.options.datasets[0], entry))
            .transpose()?;
        let mut batch = Batch::default();
        let epoch =
            loader.steps().unwrap_or(u64::MAX).saturating_mul(self.options.batch_size.get() as u64);
        let wanted = self.print.min(usize::try_from(epoch).unwrap_or(usize::MAX));
        while printed.len() < wanted {
            loader.next_batch(&mut batch)?;
            let rows = batch.rows();
            for (row, sample) in rows.iter().zip(&batch.samples).take(wanted - printed.len()) {
                let ids: Vec<u32> = row.iter().map(|&id| id as u32).collect();
                let text =
                    tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&ids)).transpose()?;
                let shown = text.clone().unwrap_or_else(|| format!("{ids:?}"));
                report.line(format!("sample {sample}: {}", format::line(&shown, SHOWN_CHARACTERS)));
                printed.push(json!({ "sample": sample, "input_ids": ids, "text": text }));
            }
        }
        Ok(())
    }
}

fn explain(loader: &Loader, report: &mut Report) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for row in loader.explain()? {
        let sample = row.sample.map_or("padding".into(), |sample| format!("sample {sample}"));
        let source = match &loader.state().datasets[..] {
            [_] => String::new(),
            _ => format!(" of dataset {}", row.source),
        };
        report.line(format!("slot {}: {sample}{source}", row.slot));
        let mut parts = Vec::new();
        for part in row.parts {
            let shard = part.shard.display().to_string();
            let (first, tokens) = (part.first_token, part.tokens);
            report.line(format!(
                "  document {} (row {})  tokens {first}..{}  {shard} bytes {}..{}",
                part.document,
                part.row,
                u64::from(first) + u64::from(tokens),
                part.first_byte,
                part.end_byte
            ));
            parts.push(json!({
                "shard": shard,
                "document": part.document,
                "row": part.row,
                "first_token": first,
                "tokens": tokens,
                "first_byte": part.first_byte,
                "end_byte": part.end_byte,
            }));
        }
        rows.push(json!({
            "slot": row.slot,
            "source": row.source,
            "sample": row.sample,
            "parts": parts,
        }));
    }
    report.json(json!({ "step": loader.step(), "epoch": loader.next_epoch(), "rows": rows }));
    Ok(())
}
