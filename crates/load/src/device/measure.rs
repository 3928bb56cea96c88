//! A training loop without the training, on a device.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{DeviceConfig, DeviceLoader, Made};
use crate::{Batch, Config, Result};

/// What [`measure`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceMeasured {
    /// Tokens of all batches.
    pub tokens: u64,
    /// From the first batch, on the device, to the last.
    pub elapsed: Duration,
    /// Opening, seeking, and the first batch on the device.
    pub first_batch: Duration,
    /// Steps whose batch was not on the device when it was asked for.
    pub stalls: u64,
    /// Share of the time that the consumer waited.
    pub stall_share: f64,
    /// Bytes that crossed the link, for each token.
    pub bytes_per_token: f64,
    /// Way and reason.
    pub path: String,
    /// Where the kernels come from.
    pub kernels: String,
}

/// Waiting for less is the price of asking.
const STALL: Duration = Duration::from_micros(200);

/// Takes `steps` batches and is busy for `work` after each, as a GPU would be; each batch is waited
/// for until it is on the device.
///
/// # Errors
/// Those of the loader.
pub fn measure(
    path: &Path,
    config: Config,
    device: DeviceConfig,
    step: u64,
    steps: u64,
    work: Duration,
) -> Result<DeviceMeasured> {
    let opening = Instant::now();
    let mut loader = DeviceLoader::open(&[(path, 1.0)], false, config, device)?;
    loader.change(|loader| {
        loader.seek(step);
        Ok(())
    })?;
    let take = |loader: &mut DeviceLoader, host: Batch| -> Result<Batch> {
        Ok(match loader.next_batch(host)? {
            Made::Device(batch) => {
                batch.columns.wait()?;
                batch.host
            }
            Made::Host(batch) => batch,
        })
    };
    let mut host = take(&mut loader, Batch::default())?;
    let first_batch = opening.elapsed();
    let (start, mut waited, mut stalls) = (Instant::now(), Duration::ZERO, 0);
    for _ in 0..steps {
        if !work.is_zero() {
            std::thread::sleep(work);
        }
        let asked = Instant::now();
        host = take(&mut loader, host)?;
        let wait = asked.elapsed();
        waited += wait;
        stalls += u64::from(wait > STALL);
    }
    let elapsed = start.elapsed();
    let tokens = steps * (loader.config().batch_size * loader.config().seq_len) as u64;
    // What is on its way counts too: it crossed the link for tokens that are not counted.
    let made = steps + 1 + device.ahead as u64;
    let (bytes, kernels) =
        loader.link().map_or((0, "none".into()), |(bytes, kernels)| (bytes, kernels.to_owned()));
    Ok(DeviceMeasured {
        tokens,
        elapsed,
        first_batch,
        stalls,
        stall_share: waited.as_secs_f64() / elapsed.as_secs_f64().max(1e-12),
        bytes_per_token: bytes as f64 / (tokens / steps.max(1) * made).max(1) as f64,
        path: loader.io_path().to_string(),
        kernels,
    })
}
