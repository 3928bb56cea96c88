//! Batches on a GPU: tokens cross the link as they are stored, the device makes the columns.
//!
//! ```text
//! Loader (host, K ahead) ─▶ raw bytes, tables ─▶ Feed (device, K ahead) ─▶ DeviceBatch
//! ```
//! Order, state, mixtures, verification and resume are those of [`Loader`]: the same batches, byte
//! for byte. Nothing here waits for a stream; a consumer's stream waits for the event of a batch.

mod measure;

use std::collections::VecDeque;
use std::path::Path;

pub use forebay_gpu as gpu;
use forebay_gpu::kernels::{Kernels, default_cache};
pub use forebay_gpu::{
    Column, Device, FedBatch, IoPath, Prober, Proof, Way, ordinal, path::self_test, tensors,
};
use forebay_gpu::{Feed, FeedOptions, Wanted};

pub use self::measure::{DeviceMeasured, measure};
use crate::{Batch, Config, Dtype, Error, Loader, Result, State, Stats};

/// What a device is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Which: 0 is `cuda:0`.
    pub ordinal: u32,
    /// Batches on the device ahead of the consumer.
    pub ahead: usize,
    /// Bytes of device memory at most, those that the consumer holds included.
    pub memory: u64,
    /// A way over the host that must be taken: `pinned` or `host`. By default the best that works.
    pub way: Option<Way>,
    /// Where the device fails, go on with batches on the host.
    pub fall_back: bool,
}

impl DeviceConfig {
    /// Two batches ahead within a GiB, and no going on without the device.
    pub fn new(ordinal: u32) -> Self {
        Self { ordinal, ahead: 2, memory: 1 << 30, way: None, fall_back: false }
    }
}

/// A batch, where it was made.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
pub enum Made {
    /// Columns on the device.
    Device(DeviceBatch),
    /// Columns on the host: the device failed, and [`DeviceConfig::fall_back`] was asked for.
    Host(Batch),
}

/// A batch on a device.
#[derive(Debug)]
pub struct DeviceBatch {
    /// Its columns.
    pub columns: FedBatch,
    /// What of it stays on the host: numbers, samples, sources. Its columns say nothing.
    pub host: Batch,
    /// Type of ids, labels and positions.
    pub dtype: Dtype,
}

impl DeviceBatch {
    /// What is for the host, as a batch without columns.
    pub fn numbers(&mut self) -> Batch {
        let Batch { batch_size, seq_len, step, epoch, max_seqlen, .. } = self.host;
        let samples = std::mem::take(&mut self.host.samples);
        let sources = std::mem::take(&mut self.host.sources);
        let replaced = std::mem::take(&mut self.host.replaced);
        let numbers = Batch { batch_size, seq_len, step, epoch, max_seqlen, ..Batch::default() };
        Batch { samples, sources, replaced, ..numbers }
    }
}

/// Iterates the batches of one rank on a device.
#[derive(Debug)]
pub struct DeviceLoader {
    loader: Loader,
    device: DeviceConfig,
    feed: Option<Feed>,
    path: IoPath,
    /// Made, not yet taken, each with the state behind it.
    ahead: VecDeque<(DeviceBatch, State)>,
    /// Behind the last batch that was taken.
    state: State,
    /// Buffers of the host that are used again.
    free: Vec<Batch>,
}

impl DeviceLoader {
    /// Opens one dataset, or a mixture of several with weights, for batches on a device.
    ///
    /// # Errors
    /// Those of [`Loader::open`] and [`Loader::open_mixture`]; [`Error::Gpu`] if there is no such
    /// device, unless [`DeviceConfig::fall_back`].
    pub fn open(
        datasets: &[(&Path, f64)],
        is_mixture: bool,
        config: Config,
        device: DeviceConfig,
    ) -> Result<Self> {
        let loader = match (datasets, is_mixture) {
            ([(path, _)], false) => Loader::open(path, config)?,
            _ => Loader::open_mixture(datasets, config)?,
        };
        let state = loader.state().clone();
        let path = IoPath { way: Way::Host, reason: String::new(), proof: None };
        let (ahead, free) = (VecDeque::new(), Vec::new());
        let mut this = Self { loader, device, feed: None, path, ahead, state, free };
        match this.start() {
            Ok(()) => {}
            Err(Error::Gpu(error)) if error.is_device() && device.fall_back => {
                this.leave_device(&error);
            }
            Err(error) => return Err(error),
        }
        Ok(this)
    }

    fn start(&mut self) -> Result<()> {
        let device = Device::open(self.device.ordinal)?;
        if self.device.way == Some(Way::Gds) {
            let expected = "pinned or host: rows of a batch are spans of kilobytes";
            return Err(Error::config("path", expected, "gds"));
        }
        // A child is not asked: cuFile is slower than this at rows of kilobytes.
        let wish = Some(self.device.way.unwrap_or(Way::Pinned));
        let mut path =
            forebay_gpu::path::choose(wish, &device, Path::new("/"), &Prober::default())?;
        if self.device.way.is_none() {
            let rows =
                "rows are spans of kilobytes, gathered on the device out of one copy a batch";
            path.reason = match path.way {
                Way::Pinned => rows.into(),
                _ => format!("{rows}; {}", path.reason),
            };
        }
        let kernels = Kernels::load(&device, default_cache().as_deref())?;
        let DeviceConfig { ahead, memory, .. } = self.device;
        let options = FeedOptions { ahead: ahead.max(1), memory, way: path.way };
        self.feed = Some(Feed::new(&device, kernels, options)?);
        self.path = path;
        self.loader.set_raw(true);
        Ok(())
    }

    /// Goes on with batches on the host, from the batch that comes next.
    fn leave_device(&mut self, error: &forebay_gpu::Error) {
        self.feed = None;
        self.ahead.clear();
        self.path = IoPath { way: Way::Host, reason: format!("fell back: {error}"), proof: None };
        self.loader.set_raw(false);
        self.loader.go_to(self.state.clone());
    }

    /// The next batch of this rank; after the last one of an epoch comes the first of the next.
    ///
    /// * `host` — buffers to use again.
    ///
    /// # Errors
    /// Those of [`Loader::next_batch`]; [`Error::Gpu`] if the device fails, unless
    /// [`DeviceConfig::fall_back`]. The loader then stays where it is.
    pub fn next_batch(&mut self, host: Batch) -> Result<Made> {
        self.free.push(host);
        match self.next_on_device() {
            Ok(Some(batch)) => Ok(Made::Device(batch)),
            Ok(None) => self.next_on_host(),
            Err(Error::Gpu(error)) if error.is_device() && self.device.fall_back => {
                self.leave_device(&error);
                self.next_on_host()
            }
            Err(error) => {
                // What was made ahead belongs to the place that it is made from again.
                self.ahead.clear();
                self.loader.go_to(self.state.clone());
                Err(error)
            }
        }
    }

    fn next_on_host(&mut self) -> Result<Made> {
        let mut batch = self.free.pop().unwrap_or_default();
        self.loader.next_batch(&mut batch)?;
        self.state = self.loader.state().clone();
        Ok(Made::Host(batch))
    }

    fn next_on_device(&mut self) -> Result<Option<DeviceBatch>> {
        let Some(feed) = &mut self.feed else { return Ok(None) };
        let Config { batch_size, seq_len, columns, dtype, .. } = *self.loader.config();
        let wanted = Wanted {
            wide: dtype == Dtype::I64,
            labels: columns.labels,
            positions: columns.position_ids,
            documents: columns.document_ids,
            mask: columns.loss_mask,
            cu_seqlens: columns.cu_seqlens,
        };
        // One more than stays ahead: the one that is taken now.
        while self.ahead.len() <= self.device.ahead {
            let mut host = self.free.pop().unwrap_or_default();
            let made = self
                .loader
                .next_batch(&mut host)
                .and_then(|()| Ok(feed.make(&host.raw, (batch_size * seq_len) as u32, &wanted)?));
            match made {
                Ok(columns) => {
                    let state = self.loader.state().clone();
                    self.ahead.push_back((DeviceBatch { columns, host, dtype }, state));
                }
                // What lies ahead of it is fine: the error comes when it is its turn, or it is only
                // that the consumer holds what there is room for.
                Err(_) if !self.ahead.is_empty() => {
                    self.free.push(host);
                    let last = self.ahead.back().map(|(_, state)| state.clone());
                    self.loader.go_to(last.unwrap_or_else(|| self.state.clone()));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let taken = self.ahead.pop_front();
        Ok(taken.map(|(batch, state)| {
            self.state = state;
            batch
        }))
    }

    /// Which way batches take, and why.
    pub fn io_path(&self) -> &IoPath {
        &self.path
    }

    /// Bytes that crossed the link to the device, and where the kernels come from; `None` after it
    /// was left.
    pub fn link(&self) -> Option<(u64, &str)> {
        self.feed.as_ref().map(|feed| (feed.copied_bytes(), feed.kernels().origin()))
    }

    /// The device; `None` after it was left.
    pub fn device(&self) -> Option<&Device> {
        self.feed.as_ref().map(Feed::device)
    }

    /// What it was opened with.
    pub fn config(&self) -> &Config {
        self.loader.config()
    }

    /// See [`Loader::samples`].
    pub fn samples(&self) -> u64 {
        self.loader.samples()
    }

    /// See [`Loader::steps`].
    pub fn steps(&self) -> Option<u64> {
        self.loader.steps()
    }

    /// Where it is: after the last batch that was taken, whatever was made ahead.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Number of the global batch that comes next, and its epoch.
    pub fn place(&self) -> (u64, u64) {
        let place = self.loader.place(self.state.epoch, self.state.position);
        (place.step, place.epoch)
    }

    /// See [`Loader::stats`]: of making batches on the host.
    pub fn stats(&self) -> &Stats {
        self.loader.stats()
    }

    /// Changes where the loader goes, or how, from the batch that comes next: what was made ahead is
    /// forgotten, and made again.
    ///
    /// # Errors
    /// Those of `change`; the loader is then where it was.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Loader) -> Result<T>) -> Result<T> {
        self.ahead.clear();
        self.loader.go_to(self.state.clone());
        let changed = change(&mut self.loader);
        self.state = self.loader.state().clone();
        changed
    }
}
