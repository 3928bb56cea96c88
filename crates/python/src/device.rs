use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_load::device::{Column, DeviceBatch, DeviceConfig, Made, Way};
use forebay_load::{Dtype, State};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::dlpack::{Owner, Shared, number};
use crate::error;
use crate::loader::Loader;
use crate::tensor::{self, Output, Pool};

/// The loader of `forebay-load` for a device; `forebay.Loader` stands in front of it.
#[pyclass(module = "forebay._core")]
pub(crate) struct DeviceLoader {
    inner: forebay_load::device::DeviceLoader,
    process: u32,
    samples: bool,
    output: Output,
    /// What makes a column of a `Shared`; itself without it.
    share: Option<Py<PyAny>>,
    /// The epoch that a `for` loop is in: it ends where the next one begins.
    epoch: Option<u64>,
    pool: Arc<Pool>,
}

/// A way over the host by its name.
pub(crate) fn way(name: &str) -> PyResult<Option<Way>> {
    Ok(match name {
        "auto" => None,
        "gds" => Some(Way::Gds),
        "pinned" => Some(Way::Pinned),
        "host" => Some(Way::Host),
        other => {
            let what = format!("path: expected auto, gds, pinned or host, found {other:?}");
            return Err(error::config(&what));
        }
    })
}

#[pymethods]
impl DeviceLoader {
    /// As `host`, which says what to load, on a device.
    #[new]
    #[pyo3(signature = (host, *, ordinal, ahead, memory, path, fall_back))]
    fn new(
        py: Python<'_>,
        host: &Loader,
        ordinal: u32,
        ahead: usize,
        memory: u64,
        path: &str,
        fall_back: bool,
    ) -> PyResult<Self> {
        let device = DeviceConfig { ordinal, ahead, memory, way: way(path)?, fall_back };
        let weights = host.weights.clone();
        let (paths, config): (Vec<PathBuf>, _) = (host.paths.clone(), host.config.clone());
        let opened = py.detach(|| {
            let all = weights.clone().unwrap_or_else(|| vec![1.0; paths.len()]);
            let datasets: Vec<(&Path, f64)> = paths.iter().map(PathBuf::as_path).zip(all).collect();
            forebay_load::device::DeviceLoader::open(&datasets, weights.is_some(), config, device)
        });
        let inner = opened.map_err(|e| error::load(&e))?;
        let (process, pool) = (std::process::id(), Arc::default());
        let (samples, output) = (host.samples, Output::default());
        Ok(Self { inner, process, samples, output, share: None, epoch: None, pool })
    }

    /// As that of `Loader`, for columns on the host.
    fn set_output(&mut self, make: Bound<'_, PyAny>, of_capsules: bool) {
        self.output = Output::new(make.unbind(), of_capsules);
    }

    /// What makes a column of a `Shared`.
    fn set_share(&mut self, make: Bound<'_, PyAny>) {
        self.share = Some(make.unbind());
    }

    /// Begins a `for` loop over the batches that are left of this epoch.
    fn begin(&mut self) {
        self.epoch = Some(self.inner.place().1);
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        if self.epoch.is_some_and(|epoch| self.inner.place().1 != epoch) {
            self.epoch = None;
            return Ok(None);
        }
        self.next(py).map(Some)
    }

    /// The next batch, whatever its epoch: a dict of `Shared` on the device, or, where the loader
    /// fell back, of `Tensor`; and numbers.
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if self.process != std::process::id() {
            let what = "device: expected the process that opened the loader, found a child of fork";
            return Err(error::config(what));
        }
        let host = self.pool.take();
        let inner = &mut self.inner;
        let made = py.detach(|| inner.next_batch(host)).map_err(|e| error::load(&e))?;
        match made {
            Made::Host(batch) => tensor::columns(py, batch, self.samples, &self.output, &self.pool),
            Made::Device(batch) => self.columns(py, batch),
        }
    }

    /// JSON of the state.
    fn state(&self) -> PyResult<String> {
        serde_json::to_string(self.inner.state()).map_err(|e| error::config(&e.to_string()))
    }

    fn load_state(&mut self, state: &str) -> PyResult<()> {
        let state: State = serde_json::from_str(state)
            .map_err(|e| error::config(&format!("state: expected one of a loader, found {e}")))?;
        self.inner.change(|loader| loader.load_state(&state)).map_err(|e| error::load(&e))?;
        self.epoch = self.epoch.map(|_| self.inner.place().1);
        Ok(())
    }

    fn seek(&mut self, step: u64) -> PyResult<()> {
        let sought = self.inner.change(|loader| {
            loader.seek(step);
            Ok(())
        });
        sought.map_err(|e| error::load(&e))?;
        self.epoch = self.epoch.map(|_| self.inner.place().1);
        Ok(())
    }

    fn skip(&mut self, start: u64, end: u64) -> PyResult<()> {
        let skipped = self.inner.change(|loader| {
            loader.skip(start..end);
            Ok(())
        });
        skipped.map_err(|e| error::load(&e))
    }

    fn set_stride(&mut self, stride: u64) -> PyResult<()> {
        let set = self.inner.change(|loader| {
            loader.set_stride(stride);
            Ok(())
        });
        set.map_err(|e| error::load(&e))
    }

    fn set_weights(&mut self, step: u64, weights: Vec<f64>) -> PyResult<u64> {
        let set = self.inner.change(|loader| loader.set_weights(step, &weights));
        set.map_err(|e| error::load(&e))
    }

    fn place(&self) -> (u64, u64) {
        self.inner.place()
    }

    fn steps(&self) -> Option<u64> {
        self.inner.steps()
    }

    fn samples(&self) -> u64 {
        self.inner.samples()
    }

    fn epochs(&mut self) -> PyResult<Vec<f64>> {
        self.inner.change(|loader| Ok(loader.epochs())).map_err(|e| error::load(&e))
    }

    /// Sums over all steps of making batches, and bytes that crossed the link.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let found = crate::loader::stats(py, self.inner.stats())?;
        if let Some((bytes, kernels)) = self.inner.link() {
            found.set_item("device_bytes", bytes)?;
            found.set_item("kernels", kernels)?;
        }
        Ok(found)
    }

    fn prometheus(&self) -> String {
        self.inner.stats().prometheus()
    }

    /// Way and reason.
    fn io_path(&self) -> String {
        self.inner.io_path().to_string()
    }
}

impl DeviceLoader {
    fn columns<'py>(
        &self,
        py: Python<'py>,
        mut batch: DeviceBatch,
    ) -> PyResult<Bound<'py, PyDict>> {
        // Numbers of samples are for the host: they come as its tensors.
        let told = batch.numbers();
        let DeviceBatch { columns, host, dtype } = batch;
        let ordinal = columns.device().ordinal();
        let (rows, width) = (host.batch_size as i64, host.seq_len as i64);
        let ids = match dtype {
            Dtype::I64 => "I64",
            Dtype::I32 => "I32",
            Dtype::U32 => "U32",
        };
        let owner = Arc::new(columns);
        let found = PyDict::new(py);
        for (name, column, kind) in [
            ("input_ids", Column::InputIds, ids),
            ("labels", Column::Labels, ids),
            ("position_ids", Column::PositionIds, ids),
            ("document_ids", Column::DocumentIds, "I64"),
            ("loss_mask", Column::LossMask, "BOOL"),
            ("cu_seqlens", Column::CuSeqlens, "I32"),
        ] {
            let Some(region) = owner.column(column) else { continue };
            let shape = match column {
                Column::CuSeqlens => vec![region.bytes() as i64 / 4],
                _ => vec![rows, width],
            };
            let kept = Owner::Batch(Arc::clone(&owner));
            let shared = Shared::new(kept, region.pointer(), shape, number(kind), Some(ordinal));
            let shared = Bound::new(py, shared)?.into_any();
            match &self.share {
                Some(make) => found.set_item(name, make.bind(py).call1((shared,))?)?,
                None => found.set_item(name, shared)?,
            }
        }
        let told = tensor::columns(py, told, self.samples, &self.output, &Arc::default())?;
        found.update(told.as_mapping())?;
        Ok(found)
    }
}
