use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use forebay_bench::checkpoint::{self, Checkpoint};
use forebay_bench::sweep::{Grid, batch, sweep};
use forebay_bench::{
    Engine, Error, Glance, Latency, Measured, Pattern, Spread, Wish, Workload, fio, metadata, plot,
};
use forebay_pipeline::recipe::parse_bytes;
use serde_json::{Value, json};

use crate::args::Global;
use crate::format;
use crate::report::{Report, Usage};

/// Measure what storage really gives, by which path, and what a loader makes of it
#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Storage(Box<Storage>),
    Checkpoint(CheckpointArgs),
    Loader(Box<crate::bench_loader::BenchLoader>),
    Sort(crate::bench_sort::SortArgs),
    Gpu(Box<crate::bench_gpu::Gpu>),
}

impl Bench {
    pub fn run(self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let done = match self.what {
            What::Storage(verb) => verb.run(global, report),
            What::Checkpoint(verb) => verb.run(report),
            What::Loader(verb) => verb.run(global, report),
            What::Sort(verb) => verb.run(global, report),
            What::Gpu(verb) => verb.run(report),
        };
        done.map_err(|error| match error.downcast::<Error>() {
            Ok(Error::Usage(what)) => Usage(what).into(),
            Ok(error) => error.into(),
            Err(error) => error,
        })
    }
}

/// Reads and writes of blocks: throughput, latency, CPU, and which path the bytes took
///
/// PATH is a directory, where files are made and removed again; a name that is free, likewise; or
/// an existing file or device, which is written over only with --destroy. Several sizes or depths,
/// with commas between, make a sweep.
#[derive(Args)]
struct Storage {
    /// Directory, file or device; s3://BUCKET/PREFIX, or https://HOST/PATH to read
    path: PathBuf,
    /// Order of the blocks
    #[arg(default_value = "random")]
    pattern: PatternArg,
    /// Read (the default)
    #[arg(long, group = "way")]
    read: bool,
    /// Write; ends with a sync, whose time counts
    #[arg(long, group = "way")]
    write: bool,
    /// Both: this percentage of the blocks is read
    #[arg(long, group = "way", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..100))]
    mix: Option<u8>,
    /// Bytes of a transfer
    #[arg(long, default_value = "4KiB", value_delimiter = ',', value_parser = parse_bytes, value_name = "SIZE")]
    block_size: Vec<u64>,
    /// Transfers in flight, of each job
    #[arg(long, default_value = "32", value_delimiter = ',', value_parser = depth, value_name = "N")]
    queue_depth: Vec<usize>,
    /// Completions to wait for at once; by default an eighth of the queue depth
    #[arg(long, value_parser = depth, value_name = "N")]
    batch: Option<usize>,
    /// Threads, each with a queue of its own
    #[arg(long, default_value_t = 1, value_parser = depth, value_name = "N")]
    jobs: usize,
    /// Past the page cache
    #[arg(long)]
    direct: bool,
    /// Make the kernel forget its cache of the target before each repeat
    #[arg(long)]
    cold: bool,
    /// What moves the bytes
    #[arg(long, default_value = "auto")]
    engine: EngineArg,
    /// Time of a repeat
    #[arg(long, default_value_t = 3.0, value_parser = seconds, value_name = "SECONDS")]
    seconds: f64,
    /// Go through the target once instead
    #[arg(long, conflicts_with = "seconds")]
    once: bool,
    /// Time before the first repeat
    #[arg(long, default_value_t = 0.5, value_parser = seconds, value_name = "SECONDS")]
    warm_up: f64,
    /// Measurements, of which the median and the spread are told
    #[arg(long, default_value_t = 3, value_parser = depth, value_name = "N")]
    repeats: usize,
    /// Blocks carry their place: written so, checked when read
    #[arg(long)]
    verify: bool,
    /// Bytes of the files that are made
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    size: u64,
    /// In how many files
    #[arg(long, default_value_t = 1, value_parser = depth, value_name = "N")]
    files: usize,
    /// Write over an existing file or device
    #[arg(long)]
    destroy: bool,
    /// Leave the files that were made
    #[arg(long)]
    keep: bool,
    /// Seed of what is drawn and written
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Exit with 1 unless all bytes took the path asked for
    #[arg(long)]
    require_path: bool,
    /// Print the equivalent fio command and do nothing
    #[arg(long)]
    emit_fio: bool,
    /// Names instead of bytes: create, stat, open, list, rename, unlink, of --files files
    #[arg(long, conflicts_with_all = ["way", "direct", "verify", "emit_fio", "require_path"])]
    metadata: bool,
    /// Of object stores: share of the reads that may be asked a second time when they are late
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    hedge: f64,
    /// Draw throughput and latency against queue depth
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PatternArg {
    Sequential,
    Random,
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineArg {
    Auto,
    Uring,
    Threads,
    Usrbio,
    Mmap,
    Object,
}

fn depth(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=65_535) => Ok(number),
        _ => Err(format!("expected a number from 1 to 65535, found `{text}`")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=86_400.0).contains(&number) => Ok(number),
        _ => Err(format!("expected seconds from 0 to 86400, found `{text}`")),
    }
}

impl Storage {
    fn workload(&self) -> Workload {
        Workload {
            read_percent: if self.write { 0 } else { self.mix.unwrap_or(100) },
            pattern: match self.pattern {
                PatternArg::Sequential => Pattern::Sequential,
                PatternArg::Random => Pattern::Random,
            },
            block_bytes: self.block_size[0],
            queue_depth: self.queue_depth[0],
            batch: self
                .batch
                .map_or_else(|| batch(self.queue_depth[0]), |b| b.min(self.queue_depth[0])),
            jobs: self.jobs,
            direct: self.direct,
            engine: match self.engine {
                EngineArg::Auto => Engine::Auto,
                EngineArg::Uring => Engine::Uring,
                EngineArg::Threads => Engine::Threads,
                EngineArg::Usrbio => Engine::Usrbio,
                EngineArg::Mmap => Engine::Mmap,
                EngineArg::Object => Engine::Object,
            },
            seconds: (!self.once).then_some(self.seconds),
            warm_up_seconds: self.warm_up,
            repeats: self.repeats,
            verify: self.verify,
            seed: self.seed,
        }
    }

    fn run(mut self, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        let uri = self.path.to_string_lossy().into_owned();
        if forebay_store::remote::scheme(&uri).is_some() {
            return self.object(&uri, global, report);
        }
        self.path = forebay_store::usrbio::resolve(&self.path)?;
        if self.metadata {
            return self.metadata(report);
        }
        let workload = self.workload();
        if self.emit_fio {
            let bytes = std::fs::metadata(&self.path).map_or(0, |m| m.len());
            let is_file = self.path.is_file() && bytes > 0;
            let (path, bytes) = match self.path.is_dir() {
                true => (self.path.join("forebay-bench"), self.size),
                false => (self.path.clone(), if is_file { bytes } else { self.size }),
            };
            report.line(fio::line(&fio::command(&path, bytes, &workload)));
            report.json(json!({ "fio": fio::command(&path, bytes, &workload) }));
            return Ok(());
        }
        let grid =
            Grid { block_bytes: self.block_size.clone(), queue_depths: self.queue_depth.clone() };
        let wish =
            Wish { bytes: self.size, files: self.files, destroy: self.destroy, keep: self.keep };
        let mut live = Live::new(global);
        let results = if grid.block_bytes.len() * grid.queue_depths.len() == 1 {
            let watch = |glance: &Glance| live.glance(glance);
            vec![forebay_bench::measure(&self.path, &workload, &wish, self.cold, watch)?]
        } else {
            if self.batch.is_some() {
                return Err(Usage("--batch wants one --queue-depth".into()).into());
            }
            sweep(&self.path, &workload, &grid, &wish, self.cold, |_| {}, |g| live.glance(g))?
        };
        live.end();
        self.tell(&results, &json!(results), report)
    }

    /// `value` are the results for programs.
    fn tell(&self, results: &[Measured], value: &Value, report: &mut Report) -> anyhow::Result<()> {
        if let [one] = results {
            tell_one(one, report);
        } else {
            tell_table(results, report);
        }
        if let Some(path) = &self.plot {
            let title = format!(
                "{}, {}, {}",
                results[0].workload.title(),
                if self.direct {
                    "direct"
                } else if results[0].path.engine == "object" {
                    "by requests"
                } else {
                    "through the page cache"
                },
                results[0].path.file_system
            );
            forebay_store::publish_bytes(path, plot::svg(&title, results).as_bytes())?;
        }
        let astray = results.iter().find(|measured| !measured.path.is_as_asked());
        report.json(json!({ "target": self.path, "results": value }));
        if let Some(astray) = astray {
            let share = 100.0 * astray.path.asked_share;
            let told = format!("{share:.1} % of the bytes took the path asked for");
            if self.require_path {
                report.failed();
                report.hint(&format!("{told}; see `path` in the result"));
            } else {
                report.note(&told);
            }
        }
        Ok(())
    }

    #[cfg(not(feature = "s3"))]
    fn object(self, _: &str, _: &Global, _: &mut Report) -> anyhow::Result<()> {
        Err(Usage("this build has no object stores: build it with the feature `s3`".into()).into())
    }

    #[cfg(feature = "s3")]
    fn object(self, uri: &str, global: &Global, report: &mut Report) -> anyhow::Result<()> {
        use forebay_bench::object;

        let is_engine = matches!(self.engine, EngineArg::Auto | EngineArg::Object);
        if !is_engine || self.emit_fio || self.cold {
            let what = "on object stores: no --emit-fio, no --cold, no --engine but `object`";
            return Err(Usage(what.into()).into());
        }
        if self.metadata {
            let names = object::names(uri, self.files, self.jobs, self.repeats)?;
            self.tell_names(&names, report);
            return Ok(());
        }
        let wish =
            Wish { bytes: self.size, files: self.files, destroy: self.destroy, keep: self.keep };
        let mut live = Live::new(global);
        let (mut results, mut values) = (Vec::new(), Vec::new());
        for &block_bytes in &self.block_size {
            for &queue_depth in &self.queue_depth {
                let engine = Engine::Object;
                let workload = Workload { block_bytes, queue_depth, engine, ..self.workload() };
                let watch = |glance: &Glance| live.glance(glance);
                let (measured, stats) = object::measure(uri, &workload, &wish, self.hedge, watch)?;
                let mut value = json!(measured);
                value["requests"] = json!({
                    "reads": stats.requests,
                    "hedges_issued": stats.hedges_issued,
                    "hedges_won": stats.hedges_won,
                    "retries": stats.retries,
                });
                results.push(measured);
                values.push(value);
            }
        }
        live.end();
        self.tell(&results, &json!(values), report)
    }

    fn metadata(&self, report: &mut Report) -> anyhow::Result<()> {
        let operations = metadata::measure(&self.path, self.files, self.jobs, self.repeats)?;
        self.tell_names(&operations, report);
        Ok(())
    }

    fn tell_names(&self, operations: &[metadata::Operation], report: &mut Report) {
        for one in operations {
            report.line(format!(
                "{:<8}{:>12} a second ({}–{})   p50 {:.1} µs   p99 {:.1} µs",
                one.name,
                format::count(one.per_second.median as u64),
                format::count(one.per_second.min as u64),
                format::count(one.per_second.max as u64),
                one.p50_us.median,
                one.p99_us.median
            ));
        }
        report.json(json!({ "target": self.path, "files": self.files, "metadata": operations }));
    }
}

fn tell_one(measured: &Measured, report: &mut Report) {
    let work = &measured.workload;
    report.line(format!(
        "{}   {}   queue depth {}   {}   {}",
        work.title(),
        format::bytes(work.block_bytes),
        work.queue_depth,
        if work.jobs == 1 { "1 job".into() } else { format!("{} jobs", work.jobs) },
        match (work.engine, work.direct) {
            (Engine::Object, _) => "requests",
            (_, true) => "direct",
            _ => "page cache",
        }
    ));
    let spread = |s: Spread, show: fn(u64) -> String| {
        format!("{} ({}–{})", show(s.median as u64), show(s.min as u64), show(s.max as u64))
    };
    report.line(format!("rate     {} operations/s", spread(measured.iops, format::count)));
    report.line(format!("         {} a second", spread(measured.bytes_per_second, format::bytes)));
    if work.seconds.is_none() {
        let (first, last) =
            (measured.first_done_bytes_per_second, measured.last_done_bytes_per_second);
        report.line(format!(
            "         {} until the first job was done",
            spread(first, format::bytes)
        ));
        report.line(format!("         {} until the last was", spread(last, format::bytes)));
    }
    report.line(format!("latency  {}", quantiles(&measured.latency_us)));
    for (name, latency) in
        [("reads", &measured.read_latency_us), ("writes", &measured.write_latency_us)]
    {
        if let Some(latency) = latency {
            report.line(format!("  {name:<7}{}", quantiles(latency)));
        }
    }
    report.line(format!("cpu      {:.2} µs an operation", measured.cpu_us_per_operation.median));
    let path = &measured.path;
    report.line(format!(
        "path     {} on {}: {:.1} % past the page cache, {:.1} % from the device, {:.1} % as asked",
        path.set_up,
        path.file_system,
        100.0 * path.direct_share,
        100.0 * path.device_share,
        100.0 * path.asked_share
    ));
    for step in path.steps.iter().filter(|step| !step.works) {
        report.line(format!("         without {}: {}", step.what, step.detail));
    }
    for caveat in &path.caveats {
        report.line(format!("         {caveat}"));
    }
}

fn quantiles(latency: &Latency) -> String {
    format!(
        "p50 {:.0}   p90 {:.0}   p99 {:.0}   p99.9 {:.0}   max {:.0} µs",
        latency.p50.median,
        latency.p90.median,
        latency.p99.median,
        latency.p999.median,
        latency.max.median
    )
}

fn tell_table(results: &[Measured], report: &mut Report) {
    report.line("     block  depth   operations/s            bytes/s   p50 µs   p99 µs   as asked");
    for measured in results {
        report.line(format!(
            "{:>10}  {:>5}  {:>13}  {:>15}/s  {:>7.0}  {:>7.0}  {:>7.1} %",
            format::bytes(measured.workload.block_bytes),
            measured.workload.queue_depth,
            format::count(measured.iops.median as u64),
            format::bytes(measured.bytes_per_second.median as u64),
            measured.latency_us.p50.median,
            measured.latency_us.p99.median,
            100.0 * measured.path.asked_share
        ));
    }
}

/// A line on stderr while it runs.
struct Live {
    wanted: bool,
    terminal: bool,
    last: Instant,
}

impl Live {
    fn new(global: &Global) -> Self {
        let wanted = !global.quiet && !global.no_progress;
        Self { wanted, terminal: std::io::stderr().is_terminal(), last: Instant::now() }
    }

    fn glance(&mut self, glance: &Glance) {
        if !self.wanted || (!self.terminal && self.last.elapsed() < Duration::from_secs(10)) {
            return;
        }
        self.last = Instant::now();
        let what = match glance.repeat {
            0 => "warm-up".into(),
            repeat => format!("repeat {repeat}"),
        };
        let line = format!(
            "{what}  {:>4.1} s  {:>12} operations/s  {:>12}/s",
            glance.elapsed.as_secs_f64(),
            format::count(glance.iops as u64),
            format::bytes(glance.bytes_per_second as u64)
        );
        let mut stderr = std::io::stderr().lock();
        let _ = if self.terminal {
            write!(stderr, "\r{line}\x1b[K")
        } else {
            writeln!(stderr, "{line}")
        };
    }

    fn end(&self) {
        if self.wanted && self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// How long training stands still: N writers save, sync and publish, then read back and check
#[derive(Args)]
struct CheckpointArgs {
    /// Directory to work in; everything is removed again
    path: PathBuf,
    /// Ranks, each with a file of its own
    #[arg(long, default_value_t = 4, value_parser = depth, value_name = "N")]
    writers: usize,
    /// Bytes of each rank
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes, value_name = "SIZE")]
    size: u64,
    /// Through the page cache; past it by default, where the file system can
    #[arg(long)]
    buffered: bool,
    /// Saves and restores
    #[arg(long, default_value_t = 3, value_parser = depth, value_name = "N")]
    repeats: usize,
}

impl CheckpointArgs {
    fn run(self, report: &mut Report) -> anyhow::Result<()> {
        let (writers, bytes) = (self.writers, self.size);
        let asked = Checkpoint { writers, bytes, direct: !self.buffered, repeats: self.repeats };
        let times = checkpoint::measure(Path::new(&self.path), &asked)?;
        let line = |name: &str, seconds: Spread, rate: Spread| {
            format!(
                "{name:<9}{:.2} s ({:.2}–{:.2})   {:>10}/s",
                seconds.median,
                seconds.min,
                seconds.max,
                format::bytes(rate.median as u64)
            )
        };
        report.line(format!(
            "{} ranks of {}, {}, {}",
            writers,
            format::bytes(bytes),
            times.engine,
            if times.is_direct { "direct" } else { "page cache" }
        ));
        report.line(line("save", times.save_seconds, times.save_bytes_per_second));
        report.line(format!("  first  {:.2} s", times.first_saved_seconds.median));
        report.line(line("restore", times.restore_seconds, times.restore_bytes_per_second));
        report.json(json!({ "target": self.path, "checkpoint": times }));
        Ok(())
    }
}
