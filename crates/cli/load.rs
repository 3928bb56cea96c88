use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use forebay_load::{Batch, Config, Loader};
use forebay_transform::tokenize::Tokenizer;
use serde_json::json;

use crate::args::Global;
use crate::format;
use crate::report::{Report, Usage};

/// Iterate the batches of a dataset and say how fast
#[derive(Args)]
pub struct Load {
    /// Directory of the dataset, or PREFIX, PREFIX.bin or PREFIX.idx of a Megatron dataset
    dataset: PathBuf,
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
    /// Seed of the order of samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Samples in the order of the dataset
    #[arg(long)]
    no_shuffle: bool,
    /// First global batch, counted through all epochs
    #[arg(long, default_value_t = 0, value_name = "N")]
    step: u64,
    /// Batches to iterate; the rest of the epoch by default
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Show the first N samples as text (ids if there is no tokenizer), at most those of one epoch
    #[arg(long, default_value_t = 0, value_name = "N")]
    print: usize,
}

const SHOWN_CHARACTERS: usize = 300;

impl Load {
    pub fn run(self, _: &Global, report: &mut Report) -> anyhow::Result<()> {
        let config = Config {
            seq_len: self.seq_len.get(),
            batch_size: self.batch_size.get(),
            rank: self.rank,
            world_size: self.world_size.get(),
            seed: (!self.no_shuffle).then_some(self.seed),
        };
        if self.rank >= self.world_size.get() {
            let (rank, world_size) = (self.rank, self.world_size);
            let what = format!("--rank {rank}: expected a rank below --world-size {world_size}");
            return Err(Usage(what).into());
        }
        let opening = Instant::now();
        let mut loader = Loader::open(&self.dataset, config)?;
        let mut batch = Batch::default();
        loader.seek(self.step);
        let steps = self.steps.unwrap_or(loader.steps() - self.step % loader.steps());
        let mut printed = Vec::new();
        if self.print > 0 {
            self.print(&mut loader, &mut printed, report)?;
            loader.seek(self.step);
        }

        let resuming = Instant::now();
        let opened = resuming - opening;
        let (mut tokens, mut first) = (0, None);
        for _ in 0..steps {
            loader.next_batch(&mut batch)?;
            tokens += batch.input_ids.len() as u64;
            first.get_or_insert_with(|| resuming.elapsed());
        }
        let seconds = resuming.elapsed().as_secs_f64();
        let rate = tokens as f64 / seconds.max(1e-9);
        // Opening again and the first batch: what a job waits for when it resumes here.
        let resume = {
            let start = Instant::now();
            let mut again = Loader::open(&self.dataset, config)?;
            again.seek(self.step);
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
            "      {:>14} tokens     {:.1} M tokens/s, {}/s",
            format::count(tokens),
            rate / 1e6,
            format::bytes((4.0 * rate) as u64)
        ));
        report.line(format!("      {:>14.2} ms to resume at step {}", 1e3 * resume, self.step));
        report.json(json!({
            "steps": steps,
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": rate,
            "open_seconds": opened.as_secs_f64(),
            "resume_seconds": resume,
            "samples": loader.samples(),
            "steps_per_epoch": loader.steps(),
            "state": { "epoch": loader.state().epoch, "position": loader.state().position },
            "printed": printed,
        }));
        Ok(())
    }

    fn print(
        &self,
        loader: &mut Loader,
        printed: &mut Vec<serde_json::Value>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let entry = loader.dataset().and_then(|dataset| dataset.manifest().tokenizer.as_ref());
        let tokenizer =
            entry.map(|entry| Tokenizer::of_dataset(&self.dataset, entry)).transpose()?;
        let mut batch = Batch::default();
        let epoch = loader.steps() * self.batch_size.get() as u64;
        let wanted = self.print.min(usize::try_from(epoch).unwrap_or(usize::MAX));
        while printed.len() < wanted {
            loader.next_batch(&mut batch)?;
            let rows = batch.input_ids.chunks_exact(self.seq_len.get()).zip(&batch.samples);
            for (row, sample) in rows.take(wanted - printed.len()) {
                let text = tokenizer.as_ref().map(|tokenizer| tokenizer.decode(row)).transpose()?;
                let shown = text.clone().unwrap_or_else(|| format!("{row:?}"));
                report.line(format!("sample {sample}: {}", format::line(&shown, SHOWN_CHARACTERS)));
                printed.push(json!({ "sample": sample, "input_ids": row, "text": text }));
            }
        }
        Ok(())
    }
}
