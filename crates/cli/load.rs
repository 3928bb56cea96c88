use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use forebay_load::{
    Batch, Columns, Config, Dtype, Io, Loader, Measured, OnCorrupt, Sampling, State, measure,
};
use forebay_transform::tokenize::Tokenizer;
use serde_json::{Value, json};

use crate::args::Global;
use crate::format;
use crate::report::{Report, Usage};

/// Iterate the batches of a dataset and say how fast
#[derive(Args)]
pub struct Load {
    /// Directory of the dataset or of MDS shards, or PREFIX, PREFIX.bin or PREFIX.idx of a Megatron dataset; several
    /// with `--weights`
    #[arg(required = true, value_name = "DATASET")]
    datasets: Vec<PathBuf>,
    /// Tokens of a sample
    #[arg(long, default_value = "2048", value_name = "N")]
    seq_len: NonZeroUsize,
    /// Samples of a batch of this rank
    #[arg(long, default_value = "8", value_name = "N")]
    batch_size: NonZeroUsize,
    /// This rank
    #[arg(long, default_value_t = 0, value_name = "R")]
    rank: usize,
    /// Ranks; each takes its slots of the same global batches
    #[arg(long, default_value = "1", value_name = "W")]
    world_size: NonZeroUsize,
    /// How documents become samples
    #[arg(long, default_value = "concat")]
    samples: Samples,
    /// Weights of the datasets, exact over every 4,096 samples; they sum to 1
    #[arg(long, value_delimiter = ',', value_name = "W,…")]
    weights: Vec<f64>,
    /// Seed of the order of samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Samples in the order of the dataset
    #[arg(long)]
    no_shuffle: bool,
    /// Shuffle so many shards at a time instead of all samples
    #[arg(long, value_name = "SHARDS")]
    window: Option<NonZeroUsize>,
    /// Columns besides input_ids
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    columns: Vec<Column>,
    /// Type of the ids
    #[arg(long, default_value = "i64")]
    dtype: Type,
    /// Complete the last batch of an epoch with rows of padding instead of leaving it out
    #[arg(long)]
    keep_last: bool,
    /// Id of padding; the end-of-document token by default
    #[arg(long, value_name = "ID")]
    pad_id: Option<u32>,
    /// Batches made ahead by `--threads` threads; with 0 each is made when it is asked for
    #[arg(long, default_value_t = 0, value_name = "N")]
    prefetch: usize,
    /// Through a map what lies in the page cache, or all by reads
    #[arg(long, default_value = "auto")]
    io: Reads,
    /// Hash each block when it is first needed, and compare with the index
    #[arg(long)]
    verify: bool,
    /// With `--verify`: stop at a corrupt block, or put other samples in the place of its own
    #[arg(long, default_value = "fail", requires = "verify")]
    on_corrupt: Corrupt,
    /// Keep the plan of best-fit in this directory for the next time
    #[arg(long, value_name = "DIR")]
    plan_dir: Option<PathBuf>,
    /// First global batch, counted through all epochs
    #[arg(long, default_value_t = 0, value_name = "N")]
    step: u64,
    /// Batches to iterate; the rest of the epoch by default
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Start where this file says if it exists, and write there where the run ends
    #[arg(long, value_name = "FILE", conflicts_with = "step")]
    state: Option<PathBuf>,
    /// Show the first N samples as text (ids if there is no tokenizer), at most those of one epoch
    #[arg(long, default_value_t = 0, value_name = "N")]
    print: usize,
    /// Only say of what the batch at `--step` is made: shard, document and bytes of every row
    #[arg(long, conflicts_with_all = ["bench", "print"])]
    explain: bool,
    /// Measure against a training step that takes `--step-time`
    #[arg(long, conflicts_with_all = ["print", "state", "weights"])]
    bench: bool,
    /// How long each simulated training step takes
    #[arg(long, default_value_t = 0.0, value_name = "MS", requires = "bench")]
    step_time: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Samples {
    Concat,
    Documents,
    BestFit,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Column {
    Labels,
    PositionIds,
    CuSeqlens,
    DocumentIds,
    LossMask,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    U32,
    I32,
    I64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Reads {
    Auto,
    Read,
}

#[derive(Clone, Copy, ValueEnum)]
enum Corrupt {
    Fail,
    Skip,
}

const SHOWN_CHARACTERS: usize = 300;

impl Load {
    fn config(&self, global: &Global) -> Config {
        let has = |column| self.columns.contains(&column);
        Config {
            rank: self.rank,
            world_size: self.world_size.get(),
            seed: (!self.no_shuffle).then_some(self.seed),
            window: self.window.map(NonZeroUsize::get),
            sampling: match self.samples {
                Samples::Concat => Sampling::Concat,
                Samples::Documents => Sampling::Documents,
                Samples::BestFit => Sampling::BestFit,
            },
            columns: Columns {
                labels: has(Column::Labels),
                position_ids: has(Column::PositionIds),
                cu_seqlens: has(Column::CuSeqlens),
                document_ids: has(Column::DocumentIds),
                loss_mask: has(Column::LossMask),
            },
            dtype: match self.dtype {
                Type::U32 => Dtype::U32,
                Type::I32 => Dtype::I32,
                Type::I64 => Dtype::I64,
            },
            drop_last: !self.keep_last,
            pad: self.pad_id,
            prefetch: self.prefetch,
            threads: global.threads.map_or(1, NonZeroUsize::get),
            io: match self.io {
                Reads::Auto => Io::Auto,
                Reads::Read => Io::Read,
            },
            verify: self.verify,
            on_corrupt: match self.on_corrupt {
                Corrupt::Fail => OnCorrupt::Fail,
                Corrupt::Skip => OnCorrupt::Skip,
            },
            plan_dir: self.plan_dir.clone(),
            ..Config::new(self.seq_len.get(), self.batch_size.get())
        }
    }

    fn open(&self, config: Config) -> anyhow::Result<Loader> {
        let [only] = &self.datasets[..] else {
            let datasets: Vec<(&Path, f64)> =
                self.datasets.iter().map(PathBuf::as_path).zip(self.weights.clone()).collect();
            return Ok(Loader::open_mixture(&datasets, config)?);
        };
        Ok(Loader::open(only, config)?)
    }

    fn check(&self) -> Result<(), Usage> {
        if self.rank >= self.world_size.get() {
            let (rank, world_size) = (self.rank, self.world_size);
            let what = format!("--rank {rank}: expected a rank below --world-size {world_size}");
            return Err(Usage(what));
        }
        let (datasets, weights) = (self.datasets.len(), self.weights.len());
        if weights != datasets && (weights > 0 || datasets > 1) {
            let what =
                format!("--weights: expected one for each of {datasets} datasets, found {weights}");
            return Err(Usage(what));
        }
        if datasets > 1 && self.steps.is_none() && !self.explain {
            return Err(Usage("--steps: expected a number, since a mixture has no end".into()));
        }
        Ok(())
    }

    pub fn run(mut self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        for dataset in &mut self.datasets {
            *dataset = forebay_store::usrbio::resolve(dataset)?;
        }
        self.check()?;
        let config = self.config(global);
        if self.bench {
            return self.bench(config, report);
        }
        let opening = Instant::now();
        let mut loader = self.open(config.clone())?;
        self.start(&mut loader)?;
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
            let mut again = self.open(config)?;
            again.seek(step);
            again.next_batch(&mut batch)?;
            start.elapsed().as_secs_f64()
        };
        report.line(format!(
            "load  {:>14} batches    [{}, {}] of {} samples an epoch, rank {} of {}",
            format::count(steps),
            self.batch_size,
            self.seq_len,
            format::count(loader.samples()),
            self.rank,
            self.world_size
        ));
        report.line(format!(
            "      {:>14} tokens     {:.1} M tokens/s",
            format::count(tokens),
            rate / 1e6
        ));
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

    fn bench(&self, config: Config, report: &mut Report) -> anyhow::Result<()> {
        let [dataset] = &self.datasets[..] else {
            return Err(Usage("--bench: expected one dataset".into()).into());
        };
        let work = Duration::from_secs_f64(self.step_time.max(0.0) / 1e3);
        let steps = self.steps.unwrap_or(1_000);
        let found = measure(dataset, config, self.step, steps, work)?;
        let Measured { tokens, elapsed, cpu, first_batch, stall_share, verdict, peak_rss, .. } =
            &found;
        let rate = *tokens as f64 / elapsed.as_secs_f64().max(1e-9);
        let per_cpu = cpu.map(|cpu| *tokens as f64 / cpu.as_secs_f64().max(1e-9));
        report.line(format!(
            "load  {:>14} batches    {:.1} M tokens/s, {} M a CPU second",
            format::count(steps),
            rate / 1e6,
            per_cpu.map_or("?".into(), |rate| format!("{:.1}", rate / 1e6))
        ));
        report
            .line(format!("      {:>14.2} ms to the first batch", 1e3 * first_batch.as_secs_f64()));
        if let Some((all, own)) = peak_rss {
            let (all, own) = (format::bytes(*all), format::bytes(*own));
            report.line(format!(
                "      {all:>14} resident at the peak, {own} without pages of files"
            ));
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

    fn print(
        &self,
        loader: &mut Loader,
        printed: &mut Vec<Value>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let entry = loader.dataset().and_then(|dataset| dataset.manifest().tokenizer.as_ref());
        let tokenizer =
            entry.map(|entry| Tokenizer::of_dataset(&self.datasets[0], entry)).transpose()?;
        let mut batch = Batch::default();
        let epoch = loader.steps().unwrap_or(u64::MAX).saturating_mul(self.batch_size.get() as u64);
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
