use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_load::{Columns, Config, Dtype, Io, OnCorrupt, Sampling, State, Stats, TokenType};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::error;
use crate::tensor::{self, Output, Pool};

/// The loader of `forebay-load`, for one process; `forebay.Loader` stands in front of it.
#[pyclass(module = "forebay._core")]
pub(crate) struct Loader {
    /// Not dropped in a child of `fork`: its threads are not there to be joined.
    inner: ManuallyDrop<forebay_load::Loader>,
    process: u32,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) weights: Option<Vec<f64>>,
    pub(crate) config: Config,
    stride: u64,
    /// Hand over which samples they are. Each column costs some microseconds in Python.
    pub(crate) samples: bool,
    output: Output,
    /// The epoch that a `for` loop is in: it ends where the next one begins.
    epoch: Option<u64>,
    pool: Arc<Pool>,
}

impl Drop for Loader {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            // SAFETY: it is dropped here alone, and `self` is not used again.
            unsafe { ManuallyDrop::drop(&mut self.inner) };
        }
    }
}

fn open(
    paths: &[PathBuf],
    weights: Option<&[f64]>,
    config: &Config,
) -> forebay_load::Result<forebay_load::Loader> {
    match weights {
        None => forebay_load::Loader::open(&paths[0], config.clone()),
        Some(weights) => {
            let datasets = paths.iter().map(PathBuf::as_path).zip(weights.iter().copied());
            let datasets: Vec<(&Path, f64)> = datasets.collect();
            forebay_load::Loader::open_mixture(&datasets, config.clone())
        }
    }
}

fn columns(names: &[String]) -> PyResult<Columns> {
    let mut columns = Columns::default();
    for name in names {
        match name.as_str() {
            "input_ids" | "samples" => {}
            "labels" => columns.labels = true,
            "position_ids" => columns.position_ids = true,
            "cu_seqlens" => columns.cu_seqlens = true,
            "document_ids" => columns.document_ids = true,
            "loss_mask" => columns.loss_mask = true,
            other => {
                let expected =
                    "labels, position_ids, cu_seqlens, document_ids, loss_mask or samples";
                let message = format!("columns: expected {expected}, found {other:?}");
                return Err(error::config(&message));
            }
        }
    }
    Ok(columns)
}

fn one_of<T: Copy>(what: &str, found: &str, known: &[(&str, T)]) -> PyResult<T> {
    known.iter().find(|(name, _)| *name == found).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        error::config(&format!("{what}: expected one of {}, found {found:?}", names.join(", ")))
    })
}

pub(crate) fn stats<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    found.set_item("steps", stats.steps)?;
    found.set_item("tokens", stats.tokens)?;
    found.set_item("loader_bound_steps", stats.bound)?;
    found.set_item("stall_share", stats.stall_share())?;
    for (name, time) in stats.total.times() {
        found.set_item(format!("{name}_seconds"), time.as_secs_f64())?;
    }
    found.set_item("mapped_bytes", stats.total.mapped_bytes)?;
    found.set_item("read_bytes", stats.total.read_bytes)?;
    found.set_item("verdict", stats.verdict())?;
    Ok(found)
}

fn token_type(name: &str) -> PyResult<TokenType> {
    TokenType::named(name).ok_or_else(|| {
        error::config(&format!("token_type: expected uint16, uint32 or such, found {name:?}"))
    })
}

#[pymethods]
impl Loader {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "by name, from `forebay.Loader`")]
    #[pyo3(signature = (
        paths, weights, *, seq_len, batch_size, rank, world_size, seed, window, samples, columns,
        dtype, drop_last, token_type, pad_id, prefetch, threads, io, verify, on_corrupt, plan_dir,
    ))]
    fn new(
        py: Python<'_>,
        paths: Vec<PathBuf>,
        weights: Option<Vec<f64>>,
        seq_len: usize,
        batch_size: usize,
        rank: usize,
        world_size: usize,
        seed: Option<u64>,
        window: Option<usize>,
        samples: &str,
        columns: Vec<String>,
        dtype: &str,
        drop_last: bool,
        token_type: Option<&str>,
        pad_id: Option<u32>,
        prefetch: usize,
        threads: usize,
        io: &str,
        verify: bool,
        on_corrupt: &str,
        plan_dir: Option<PathBuf>,
    ) -> PyResult<Self> {
        let dtypes = [("int64", Dtype::I64), ("int32", Dtype::I32), ("uint32", Dtype::U32)];
        let samplings = [Sampling::Concat, Sampling::Documents, Sampling::BestFit];
        let ways = [Io::Auto, Io::Map, Io::Read, Io::Direct].map(|io| (io.name(), io));
        let policies = [("fail", OnCorrupt::Fail), ("skip", OnCorrupt::Skip)];
        let config = Config {
            rank,
            world_size,
            seed,
            window,
            sampling: one_of("samples", samples, &samplings.map(|s| (s.name(), s)))?,
            columns: self::columns(&columns)?,
            dtype: one_of("dtype", dtype, &dtypes)?,
            drop_last,
            token_type: token_type.map(self::token_type).transpose()?,
            pad: pad_id,
            prefetch,
            threads,
            io: one_of("io", io, &ways)?,
            verify,
            on_corrupt: one_of("on_corrupt", on_corrupt, &policies)?,
            plan_dir,
            ..Config::new(seq_len, batch_size)
        };
        let datasets = paths.len();
        if weights.as_ref().map_or(datasets != 1, |weights| weights.len() != datasets) {
            let found = weights.map_or(0, |weights| weights.len());
            let message =
                format!("weights: expected one for each of {datasets} datasets, found {found}");
            return Err(error::config(&message));
        }
        let inner = py.detach(|| open(&paths, weights.as_deref(), &config));
        let inner = ManuallyDrop::new(inner.map_err(|e| error::load(&e))?);
        let (process, pool) = (std::process::id(), Arc::default());
        let samples = columns.iter().any(|name| name == "samples");
        let (stride, output, epoch) = (1, Output::default(), None);
        Ok(Self { inner, process, paths, weights, config, stride, samples, output, epoch, pool })
    }

    /// What columns become: what `make` makes of a capsule of DLPack, or of a `Tensor`.
    fn set_output(&mut self, make: Bound<'_, PyAny>, of_capsules: bool) {
        self.output = Output::new(make.unbind(), of_capsules);
    }

    /// Begins a `for` loop over the batches that are left of this epoch.
    fn begin(&mut self) {
        self.epoch = Some(self.inner.next_epoch());
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        if self.epoch.is_some_and(|epoch| self.inner.next_epoch() != epoch) {
            self.epoch = None;
            return Ok(None);
        }
        self.next(py).map(Some)
    }

    /// The next batch, whatever its epoch: a dict of columns and numbers.
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.after_fork(py)?;
        let mut batch = self.pool.take();
        let inner = &mut *self.inner;
        let taken = py.detach(|| inner.next_batch(&mut batch));
        taken.map_err(|e| error::load(&e))?;
        tensor::columns(py, batch, self.samples, &self.output, &self.pool)
    }

    /// JSON of the state.
    fn state(&mut self, py: Python<'_>) -> PyResult<String> {
        self.after_fork(py)?;
        serde_json::to_string(self.inner.state()).map_err(|e| error::config(&e.to_string()))
    }

    fn load_state(&mut self, py: Python<'_>, state: &str) -> PyResult<()> {
        self.after_fork(py)?;
        let state: State = serde_json::from_str(state)
            .map_err(|e| error::config(&format!("state: expected one of a loader, found {e}")))?;
        self.inner.load_state(&state).map_err(|e| error::load(&e))?;
        self.epoch = self.epoch.map(|_| self.inner.next_epoch());
        Ok(())
    }

    fn seek(&mut self, py: Python<'_>, step: u64) -> PyResult<()> {
        self.after_fork(py)?;
        self.inner.seek(step);
        self.epoch = self.epoch.map(|_| self.inner.next_epoch());
        Ok(())
    }

    fn skip(&mut self, py: Python<'_>, start: u64, end: u64) -> PyResult<()> {
        self.after_fork(py)?;
        self.inner.skip(start..end);
        Ok(())
    }

    fn set_stride(&mut self, py: Python<'_>, stride: u64) -> PyResult<()> {
        self.after_fork(py)?;
        self.stride = stride;
        self.inner.set_stride(stride);
        Ok(())
    }

    fn set_weights(&mut self, py: Python<'_>, step: u64, weights: Vec<f64>) -> PyResult<u64> {
        self.after_fork(py)?;
        self.inner.set_weights(step, &weights).map_err(|e| error::load(&e))
    }

    /// Number and epoch of the batch that comes next.
    fn place(&self) -> (u64, u64) {
        (self.inner.step(), self.inner.next_epoch())
    }

    /// Global batches of an epoch.
    fn steps(&self) -> Option<u64> {
        self.inner.steps()
    }

    fn samples(&self) -> u64 {
        self.inner.samples()
    }

    fn epochs(&self) -> Vec<f64> {
        self.inner.epochs()
    }

    /// Sums over all steps, and the verdict.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats(py, self.inner.stats())
    }

    fn prometheus(&self) -> String {
        self.inner.stats().prometheus()
    }

    /// Serves `prometheus()` by HTTP; says at which port.
    fn serve_metrics(&mut self, py: Python<'_>, address: &str) -> PyResult<u16> {
        self.after_fork(py)?;
        let parsed = address.parse().map_err(|_| {
            error::config(&format!("metrics: expected HOST:PORT in numbers, found {address:?}"))
        })?;
        let address = self.inner.serve_metrics(parsed).map_err(|e| error::load(&e))?;
        Ok(address.port())
    }

    /// Rows of the batch that comes next, each with its parts.
    fn explain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let rows = PyList::empty(py);
        for row in self.inner.explain().map_err(|e| error::load(&e))? {
            let parts = PyList::empty(py);
            for part in row.parts {
                let entry = PyDict::new(py);
                entry.set_item("shard", part.shard.to_string_lossy())?;
                entry.set_item("document", part.document)?;
                entry.set_item("row", part.row)?;
                entry.set_item("first_token", part.first_token)?;
                entry.set_item("tokens", part.tokens)?;
                entry.set_item("first_byte", part.first_byte)?;
                entry.set_item("end_byte", part.end_byte)?;
                parts.append(entry)?;
            }
            let entry = PyDict::new(py);
            entry.set_item("slot", row.slot)?;
            entry.set_item("source", row.source)?;
            entry.set_item("sample", row.sample)?;
            entry.set_item("parts", parts)?;
            rows.append(entry)?;
        }
        Ok(rows)
    }
}

impl Loader {
    /// In a child of `fork`: opens everything again where it was. Threads do not come along, and
    /// what they were making is made again.
    fn after_fork(&mut self, py: Python<'_>) -> PyResult<()> {
        let process = std::process::id();
        if self.process == process {
            return Ok(());
        }
        let state = self.inner.state().clone();
        let (paths, weights, config) = (&self.paths, self.weights.as_deref(), &self.config);
        let opened = py.detach(|| {
            let mut inner = open(paths, weights, config)?;
            inner.load_state(&state)?;
            Ok(inner)
        });
        let mut inner = opened.map_err(|e: forebay_load::Error| error::load(&e))?;
        inner.set_stride(self.stride);
        // The parent's is left as it is: joining its threads would wait for ever.
        self.inner = ManuallyDrop::new(inner);
        self.process = process;
        self.pool = Arc::default();
        Ok(())
    }
}
