use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use forebay_pipeline::recipe::parse_bytes;
use forebay_pipeline::records::Records;
use serde_json::json;

use crate::args::Global;
use crate::format;
use crate::progress::Bar;
use crate::report::Report;
use crate::run::stop_on_signals;

/// The sort proof: generate, sort and validate records of 100 bytes with keys of 10 (GraySort)
///
/// Through tasks and files as a run has them: killed, the same command goes on. Each byte is read
/// twice and written twice, which is the floor of a sort that does not fit into memory.
#[derive(Args)]
pub struct SortArgs {
    /// Directory for input, runs and output; new, empty, or with an unfinished sort of the same
    dir: PathBuf,
    /// Bytes of all records; three times as many are on disk
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    size: u64,
    /// Of the keys
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Leave input and output there
    #[arg(long)]
    keep: bool,
}

impl SortArgs {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let execution = global.recipe();
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = execution.threads.map_or_else(cores, std::num::NonZero::get);
        let records = Records::new(&self.dir, self.size, self.seed, threads, execution.memory.0)?;
        let stop = stop_on_signals()?;
        let bar = Bar::start(!global.quiet && !global.no_progress, global.verbose, stop);
        let start = Instant::now();
        let generated = records.generate(bar.progress())?;
        let generate_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let moved = records.sort(bar.progress())?;
        let sort_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let found = records.validate(bar.progress())?;
        let validate_seconds = start.elapsed().as_secs_f64();
        drop(bar);
        anyhow::ensure!(
            found == generated,
            "{}: expected the records that were generated, {generated:?}, found {found:?}",
            self.dir.display()
        );
        let bytes = records.bytes();
        let gib_per_minute = bytes as f64 / 1_073_741_824.0 / (sort_seconds / 60.0);
        let floor = moved.read.max(moved.written) as f64 / (2 * bytes) as f64;
        report.line(format!(
            "sorted {} records, {}, in {sort_seconds:.2} s: {:.2} GiB/min, {:.2} a core of {threads}",
            format::count(found.records),
            format::bytes(bytes),
            gib_per_minute,
            gib_per_minute / threads as f64
        ));
        report.line(format!(
            "moved  {} read, {} written: {floor:.3} of the floor (each byte twice)",
            format::bytes(moved.read),
            format::bytes(moved.written)
        ));
        report.line(format!(
            "valid  in order, and the records that were generated; generated in {generate_seconds:.2} s, validated in {validate_seconds:.2} s"
        ));
        if moved.tasks_done_before > 0 {
            let (before, all) = (moved.tasks_done_before, moved.tasks);
            report.note(&format!("{before} of {all} tasks were done by an earlier run; the time is that of the others"));
        }
        report.json(json!({
            "bytes": bytes, "records": found.records, "threads": threads,
            "memory_bytes": execution.memory.0,
            "generate_seconds": generate_seconds, "sort_seconds": sort_seconds,
            "validate_seconds": validate_seconds,
            "gib_per_minute": gib_per_minute,
            "gib_per_minute_per_core": gib_per_minute / threads as f64,
            "moved": moved, "sum": found,
        }));
        if !self.keep {
            records.remove()?;
        }
        Ok(())
    }
}
