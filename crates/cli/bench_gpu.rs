use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use forebay_bench::gpu::{self, Plan};
use forebay_load::Config;
use forebay_load::device::{self, DeviceConfig, Way, ordinal};
use forebay_pipeline::recipe::parse_bytes;
use serde_json::json;

use crate::format;
use crate::load_device;
use crate::report::{Report, Usage};

/// How fast bytes reach a GPU, beside the limit of its link, and by which path
///
/// Copies by size; FILE to the device by way, block size and depth; kernels; and, with --dataset,
/// batches of a loader against a simulated step.
#[derive(Args)]
pub struct Gpu {
    /// File to read to the device; without one, only the link and kernels are measured
    file: Option<PathBuf>,
    /// Which device
    #[arg(long, default_value = "cuda:0")]
    device: String,
    /// Sizes of copies over the link
    #[arg(long, default_value = "64KiB,1MiB,16MiB,256MiB", value_delimiter = ',', value_parser = parse_bytes, value_name = "SIZE,…")]
    copies: Vec<u64>,
    /// Ways to try; gds only where it is proven
    #[arg(long, default_value = "gds,pinned,host", value_delimiter = ',', value_name = "WAY,…")]
    path: Vec<String>,
    /// Bytes of a read
    #[arg(long, default_value = "1MiB,4MiB", value_delimiter = ',', value_parser = parse_bytes, value_name = "SIZE,…")]
    block_size: Vec<u64>,
    /// Reads in flight on each lane
    #[arg(long, default_value = "4,8", value_delimiter = ',', value_name = "N,…")]
    queue_depth: Vec<usize>,
    /// Threads, each with slots, a queue and a stream
    #[arg(long, default_value = "1,8", value_delimiter = ',', value_name = "N,…")]
    lanes: Vec<usize>,
    /// Bytes that kernels work on
    #[arg(long, default_value = "1GiB", value_parser = parse_bytes, value_name = "SIZE")]
    kernel_size: u64,
    /// Measurements, of which the median and the spread are told
    #[arg(long, default_value_t = 3, value_name = "N")]
    repeats: usize,
    /// Dataset whose batches are made on the device too
    #[arg(long, value_name = "DATASET")]
    dataset: Option<PathBuf>,
    /// Tokens of a sample
    #[arg(long, default_value_t = 2048, value_name = "N")]
    seq_len: usize,
    /// Samples of a batch
    #[arg(long, default_value_t = 8, value_name = "N")]
    batch_size: usize,
    /// How long a simulated training step takes; 0 measures throughput
    #[arg(long, default_value_t = 10.0, value_name = "MS")]
    step_time: f64,
    /// Batches
    #[arg(long, default_value_t = 200, value_name = "N")]
    steps: u64,
}

impl Gpu {
    pub fn run(self, report: &mut Report) -> anyhow::Result<()> {
        let wrong = |what: &str, expected: &str, found: &str| {
            Usage(format!("{what}: expected {expected}, found {found}"))
        };
        let Some(number) = ordinal(&self.device) else {
            return Err(wrong("--device", "cuda:N", &self.device).into());
        };
        let mut ways = Vec::new();
        for name in &self.path {
            let known = [Way::Gds, Way::Pinned, Way::Host].into_iter().find(|w| w.name() == name);
            ways.push(known.ok_or_else(|| wrong("--path", "gds, pinned or host", name))?);
        }
        if let Some(block) = self.block_size.iter().find(|b| **b == 0 || !b.is_multiple_of(4096)) {
            let found = block.to_string();
            return Err(wrong("--block-size", "multiples of 4096", &found).into());
        }
        let sizes = |sizes: &[u64]| sizes.iter().map(|&size| size as usize).collect();
        let found = gpu::measure_all(&Plan {
            ordinal: number,
            repeats: self.repeats.max(1),
            copies: sizes(&self.copies),
            file: self.file.clone(),
            ways,
            blocks: sizes(&self.block_size),
            depths: self.queue_depth.clone(),
            lanes: self.lanes.clone(),
            kernel_bytes: self.kernel_size as usize,
            prober: load_device::prober(),
        })?;
        tell(&found, report);
        let mut value = serde_json::to_value(&found)?;
        if let Some(dataset) = &self.dataset {
            let mut loader = Vec::new();
            for step_time in [0.0, self.step_time] {
                let mut config = Config::new(self.seq_len, self.batch_size);
                config.prefetch = 2;
                config.columns.labels = true;
                let work = Duration::from_secs_f64(step_time.max(0.0) / 1e3);
                let device = DeviceConfig::new(number);
                let found = device::measure(dataset, config, device, 0, self.steps, work)?;
                report.line(format!(
                    "batches of [{}, {}], a step of {step_time} ms",
                    self.batch_size, self.seq_len
                ));
                load_device::tell(&found, self.steps, report);
                let mut entry = load_device::value(&found, self.steps);
                entry["step_ms"] = json!(step_time);
                loader.push(entry);
            }
            value["loader"] = json!(loader);
        }
        report.json(value);
        Ok(())
    }
}

fn tell(found: &gpu::Report, report: &mut Report) {
    let rate = |rate: f64| format!("{}/s", format::bytes(rate as u64));
    let about = &found.device;
    report.line(format!(
        "{}, compute capability {}, CUDA {}, kernels: {}",
        about.name, about.capability, about.driver, about.kernels
    ));
    report.line("   copy of      page-locked         pageable");
    for link in &found.link {
        report.line(format!(
            "{:>10}  {:>15}  {:>15}",
            format::bytes(link.bytes as u64),
            rate(link.pinned_bytes_per_second.median),
            rate(link.pageable_bytes_per_second.median)
        ));
    }
    if !found.storage.is_empty() {
        report.line("way         block  depth  lanes  cache            rate   of link   direct");
    }
    for one in &found.storage {
        report.line(format!(
            "{:<7}{:>10}  {:>5}  {:>5}  {:<5}  {:>14}  {:>6.1} %  {:>5.1} %",
            one.path.way.name(),
            format::bytes(one.block_bytes as u64),
            one.depth,
            one.lanes,
            if one.cold { "cold" } else { "warm" },
            rate(one.bytes_per_second.median),
            100.0 * one.share_of_link,
            100.0 * one.direct_share
        ));
        if let Some(proof) = &one.proof {
            report.line(format!("       {proof}"));
        }
    }
    report.line(format!("copy on the device  {:>14}", rate(found.copy_bytes_per_second.median)));
    for kernel in &found.kernels {
        report.line(format!(
            "kernel {:<12} {:>14}   {:>5.1} % of it",
            kernel.name,
            rate(kernel.bytes_per_second.median),
            100.0 * kernel.share_of_copy
        ));
    }
}
