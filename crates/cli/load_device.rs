//! `forebay load --device cuda:0`, and the child that asks libcufile.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use forebay_load::device::{
    self, Column, DeviceConfig, DeviceLoader, DeviceMeasured, Made, Prober, ordinal,
};
use forebay_load::{Batch, Config, State};
use serde_json::json;

use crate::format;
use crate::load::Load;
use crate::report::{Report, Usage};

/// Where batches are made.
#[derive(Clone, Copy)]
pub struct Target(Option<u32>);

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, ordinal(text)) {
            ("cpu", _) => Ok(Self(None)),
            (_, Some(ordinal)) => Ok(Self(Some(ordinal))),
            _ => Err(format!("expected cpu or cuda:N, found `{text}`")),
        }
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum OnDeviceError {
    Fail,
    Host,
}

impl Target {
    /// `None` for the CPU.
    pub fn config(
        self,
        prefetch: usize,
        memory: u64,
        on_error: OnDeviceError,
    ) -> Option<DeviceConfig> {
        let fall_back = on_error == OnDeviceError::Host;
        let ahead = prefetch.max(1);
        self.0.map(|ordinal| DeviceConfig {
            ahead,
            memory,
            fall_back,
            ..DeviceConfig::new(ordinal)
        })
    }
}

/// How to start ourselves as the child that asks libcufile.
pub fn prober() -> Prober {
    let me = std::env::current_exe().map(PathBuf::into_os_string);
    Prober { command: me.map(|me| vec![me, OsString::from("gpu-probe")]).unwrap_or_default() }
}

pub fn run(
    load: &Load,
    config: Config,
    device: DeviceConfig,
    report: &mut Report,
) -> anyhow::Result<()> {
    if load.bench {
        return bench(load, config, device, report);
    }
    let opening = Instant::now();
    let weights =
        if load.options.weights.is_empty() { vec![1.0] } else { load.options.weights.clone() };
    let datasets: Vec<(&Path, f64)> =
        load.options.datasets.iter().map(PathBuf::as_path).zip(weights).collect();
    let mut loader =
        DeviceLoader::open(&datasets, !load.options.weights.is_empty(), config, device)?;
    start(load, &mut loader)?;
    let step = loader.place().0;
    let steps = load.steps.or(loader.steps().map(|steps| steps - step % steps)).unwrap_or(0);
    let (opened, started) = (opening.elapsed(), Instant::now());
    let (mut host, mut tokens, mut shown) = (Batch::default(), 0, Vec::new());
    for _ in 0..steps {
        host = match loader.next_batch(host)? {
            Made::Device(batch) => {
                batch.columns.wait()?;
                if shown.len() < load.print {
                    let bytes = batch.columns.fetch(Column::InputIds)?;
                    let width = bytes.len() / (batch.host.batch_size * batch.host.seq_len).max(1);
                    let rows = bytes.chunks(width * batch.host.seq_len);
                    shown.extend(rows.take(load.print - shown.len()).map(|row| ids(row, width)));
                }
                batch.host
            }
            Made::Host(batch) => {
                shown.extend(batch.rows().into_iter().take(load.print.saturating_sub(shown.len())));
                batch
            }
        };
        tokens += (host.batch_size * host.seq_len) as u64;
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = tokens as f64 / seconds.max(1e-9);
    let name = loader.device().map_or("the host".into(), |device| device.name().to_owned());
    for row in &shown {
        let text: Vec<String> = row.iter().map(ToString::to_string).collect();
        report.line(format::line(&text.join(" "), 300));
    }
    report.line(format!("load  {:>14} batches    on {name}", format::count(steps)));
    report.line(format!(
        "      {:>14} tokens     {:.1} M tokens/s",
        format::count(tokens),
        rate / 1e6
    ));
    report.line(format!("path  {}", loader.io_path()));
    let (bytes, kernels) =
        loader.link().map_or((0, String::new()), |(bytes, kernels)| (bytes, kernels.to_owned()));
    let state = serde_json::to_value(loader.state())?;
    report.json(json!({
        "steps": steps,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": rate,
        "open_seconds": opened.as_secs_f64(),
        "device": name,
        "device_bytes": bytes,
        "io_path": loader.io_path(),
        "kernels": kernels,
        "printed": shown,
        "state": state,
    }));
    if let Some(path) = &load.state {
        forebay_store::publish_bytes(path, format!("{state:#}\n").as_bytes())?;
    }
    Ok(())
}

fn ids(row: &[u8], width: usize) -> Vec<i64> {
    let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, &byte| id << 8 | i64::from(byte));
    row.chunks_exact(width).map(id).collect()
}

fn start(load: &Load, loader: &mut DeviceLoader) -> anyhow::Result<()> {
    let state = match &load.state {
        Some(path) if path.exists() => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| forebay_store::Error::io("read", path, error))?;
            let state: State = serde_json::from_str(&text)
                .with_context(|| format!("{} is no state of a loader", path.display()))?;
            Some(state)
        }
        _ => None,
    };
    loader.change(|loader| match &state {
        Some(state) => loader.load_state(state),
        None => {
            loader.seek(load.step);
            Ok(())
        }
    })?;
    Ok(())
}

fn bench(
    load: &Load,
    config: Config,
    device: DeviceConfig,
    report: &mut Report,
) -> anyhow::Result<()> {
    let [dataset] = &load.options.datasets[..] else {
        return Err(Usage("--bench: expected one dataset".into()).into());
    };
    let work = Duration::from_secs_f64(load.step_time.max(0.0) / 1e3);
    let steps = load.steps.unwrap_or(1_000);
    let found = device::measure(dataset, config, device, load.step, steps, work)?;
    tell(&found, steps, report);
    Ok(())
}

/// Lines and JSON of a measurement.
pub fn tell(found: &DeviceMeasured, steps: u64, report: &mut Report) {
    report.line(format!(
        "load  {:>14} batches    {:.1} M tokens/s, {:.2} bytes a token over the link",
        format::count(steps),
        found.tokens as f64 / found.elapsed.as_secs_f64().max(1e-9) / 1e6,
        found.bytes_per_token
    ));
    report.line(format!(
        "      {:>14.2} ms to the first batch; {} stalls, waited {:.2} % of the time",
        1e3 * found.first_batch.as_secs_f64(),
        found.stalls,
        100.0 * found.stall_share
    ));
    report.line(format!("path  {}", found.path));
    report.json(value(found, steps));
}

/// The same for programs.
pub fn value(found: &DeviceMeasured, steps: u64) -> serde_json::Value {
    json!({
        "steps": steps,
        "tokens": found.tokens,
        "seconds": found.elapsed.as_secs_f64(),
        "tokens_per_second": found.tokens as f64 / found.elapsed.as_secs_f64().max(1e-9),
        "first_batch_seconds": found.first_batch.as_secs_f64(),
        "stalls": found.stalls,
        "stall_share": found.stall_share,
        "bytes_per_token": found.bytes_per_token,
        "io_path": found.path,
        "kernels": found.kernels,
    })
}

/// Ask libcufile for a direct path: the child of `load` and `bench gpu`
#[derive(Args)]
pub struct GpuProbe {
    file: PathBuf,
    ordinal: u32,
}

impl GpuProbe {
    pub fn run(self, report: &mut Report) -> anyhow::Result<()> {
        report.silent();
        Ok(device::self_test(&self.file, self.ordinal)?)
    }
}
