//! A training loop without the training: how fast, how long to the first batch, who waits.

use std::time::{Duration, Instant};

use crate::{Batch, Loader, Result};

/// What [`measure`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Batches taken.
    pub steps: u64,
    /// Their tokens.
    pub tokens: u64,
    /// From the first batch to the last.
    pub elapsed: Duration,
    /// CPU time of the process meanwhile, of all threads; `None` where the system does not say.
    pub cpu: Option<Duration>,
    /// Opening, seeking and the first batch.
    pub first_batch: Duration,
    /// Share of the time that the consumer waited.
    pub stall_share: f64,
    /// The loader's own view.
    pub verdict: String,
    /// Memory of the process at its peak, in bytes, and the part that is not pages of files.
    pub peak_rss: Option<(u64, u64)>,
}

/// Opens a loader at global batch `step`, takes `steps` batches, and is busy for `work` after
/// each, as a GPU would be: the processor is free meanwhile.
///
/// # Errors
/// Those of the loader.
pub fn measure(
    open: impl FnOnce() -> Result<Loader>,
    step: u64,
    steps: u64,
    work: Duration,
) -> Result<Measured> {
    let opening = Instant::now();
    let mut loader = open()?;
    loader.seek(step);
    let mut batch = Batch::default();
    loader.next_batch(&mut batch)?;
    let first_batch = opening.elapsed();
    let (start, cpu) = (Instant::now(), cpu());
    for _ in 0..steps {
        if !work.is_zero() {
            std::thread::sleep(work);
        }
        loader.next_batch(&mut batch)?;
    }
    let elapsed = start.elapsed();
    let cpu = cpu.and_then(|before| self::cpu()?.checked_sub(before));
    Ok(Measured {
        steps,
        tokens: steps * (batch.batch_size * batch.seq_len) as u64,
        elapsed,
        cpu,
        first_batch,
        stall_share: loader.stats().stall_share(),
        verdict: loader.stats().verdict(),
        peak_rss: peak_rss(),
    })
}

/// Time on a processor of this process, all threads; nanoseconds in Linux' `schedstat`.
fn cpu() -> Option<Duration> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        sum += text.split(' ').next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(sum))
}

fn peak_rss() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some((field("VmHWM:")?, field("RssAnon:")?))
}
