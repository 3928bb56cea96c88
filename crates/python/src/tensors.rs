//! safetensors for Python: files into memory of a device or of the host, and back.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_load::device::gpu::kernels::{Kernels, default_cache};
use forebay_load::device::gpu::path::{self, largest};
use forebay_load::device::gpu::{Region, Ring, Shape, Transfer};
use forebay_load::device::tensors::{self, Checkpoint, Memory, NewTensor, Saver};
use forebay_load::device::{Device, Prober};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::device::way;
use crate::dlpack::{Owner, Shared, number};
use crate::error;

/// Name, type of safetensors, array.
type Entry = (String, String, Shared);

fn lengths(shape: &[u64]) -> Vec<i64> {
    shape.iter().map(|&length| length as i64).collect()
}

/// The tensors of a file, an index or a directory, on a device or the host; and how they came.
#[pyfunction]
#[pyo3(signature = (path, *, ordinal, way, threads, prober))]
pub(crate) fn load_tensors<'py>(
    py: Python<'py>,
    path: PathBuf,
    ordinal: Option<u32>,
    way: &str,
    threads: usize,
    prober: Vec<OsString>,
) -> PyResult<(Vec<Entry>, Bound<'py, PyDict>)> {
    let info = PyDict::new(py);
    let wish = self::way(way)?;
    let Some(ordinal) = ordinal else {
        let loaded = py.detach(|| tensors::load_host(&path, threads));
        let loaded = loaded.map_err(|e| error::gpu(&e))?;
        let mut files = Vec::new();
        for mut file in loaded.files {
            let start = file.pointer() as u64;
            files.push((start, Arc::new(file)));
        }
        let entries = loaded.checkpoint.tensors.into_iter().zip(loaded.places);
        let entries = entries.map(|(tensor, (file, first))| {
            let (start, owner) = &files[file];
            let (shape, kind) = (lengths(&tensor.shape), number(&tensor.dtype));
            let owner = Owner::Host(Arc::clone(owner));
            let shared = Shared::new(owner, start + first as u64, shape, kind, None);
            (tensor.name, tensor.dtype, shared)
        });
        info.set_item("path", "host memory")?;
        info.set_item("metadata", loaded.checkpoint.metadata)?;
        return Ok((entries.collect(), info));
    };
    let loaded = py.detach(|| {
        let device = Device::open(ordinal)?;
        let files = Checkpoint::open(&path)?.files;
        let file = largest(&files).map_or(path.as_path(), PathBuf::as_path);
        let way = path::choose(wish, &device, file, &Prober { command: prober })?;
        let shape = Shape { lanes: threads, ..Shape::default() };
        let mut ring = Ring::new(&device, way.clone(), shape)?;
        tensors::load(&path, &mut ring).map(|loaded| (loaded, way))
    });
    let (loaded, way) = loaded.map_err(|e| error::gpu(&e))?;
    let entries = loaded.checkpoint.tensors.into_iter().zip(loaded.places);
    let entries = entries.map(|(tensor, (memory, first))| {
        let (shape, kind) = (lengths(&tensor.shape), number(&tensor.dtype));
        let pointer = memory.pointer() + first as u64;
        let shared = Shared::new(Owner::Device(memory), pointer, shape, kind, Some(ordinal as i32));
        (tensor.name, tensor.dtype, shared)
    });
    info.set_item("path", way.to_string())?;
    info.set_item("metadata", loaded.checkpoint.metadata)?;
    info.set_item("bytes", loaded.fetched.bytes)?;
    info.set_item("direct_bytes", loaded.fetched.direct_bytes)?;
    info.set_item("cached_bytes", loaded.fetched.cached_bytes)?;
    info.set_item("seconds", loaded.fetched.elapsed.as_secs_f64())?;
    info.set_item("proof", loaded.fetched.proof.map(|proof| proof.verdict()))?;
    Ok((entries.collect(), info))
}

/// Name, type of safetensors, shape, address, bytes.
type Given = (String, String, Vec<u64>, u64, usize);

/// Writes arrays at addresses that the caller keeps alive, and that nobody writes meanwhile.
#[pyfunction]
#[pyo3(signature = (path, tensors, *, ordinal, verify, metadata, threads))]
pub(crate) fn save_tensors<'py>(
    py: Python<'py>,
    path: PathBuf,
    tensors: Vec<Given>,
    ordinal: Option<u32>,
    verify: bool,
    metadata: BTreeMap<String, String>,
    threads: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let path = forebay_store::usrbio::resolve(&path).map_err(error::store)?;
    let saved = py.detach(|| {
        let device = match ordinal {
            None => None,
            Some(ordinal) => {
                let device = Device::open(ordinal)?;
                let kernels = Arc::new(Kernels::load(&device, default_cache().as_deref())?);
                Some((device, kernels))
            }
        };
        let given = tensors.into_iter().map(|(name, dtype, shape, address, bytes)| {
            let memory = if Device::owns(address).is_some() {
                // SAFETY: the driver says so, and the caller keeps it.
                Memory::Device(unsafe { Region::foreign(address, bytes) })
            } else if bytes == 0 {
                Memory::Host(&[])
            } else {
                // SAFETY: the caller's promise.
                Memory::Host(unsafe { std::slice::from_raw_parts(address as *const u8, bytes) })
            };
            NewTensor { name, dtype, shape, memory }
        });
        let given = given.collect();
        let saver = Saver { device, verify, metadata, threads };
        // SAFETY: the caller's promise; `forebay.save_checkpoint` waits for streams first.
        unsafe { tensors::save(&path, given, &saver) }
    });
    let saved = saved.map_err(|e| error::gpu(&e))?;
    let found = PyDict::new(py);
    found.set_item("bytes", saved.bytes)?;
    found.set_item("seconds", saved.elapsed.as_secs_f64())?;
    found.set_item("verify_seconds", saved.verify.as_secs_f64())?;
    found.set_item("direct", saved.is_direct)?;
    Ok(found)
}

/// Reads files into memory at an address, of a device or of the host.
#[pyclass(module = "forebay._core")]
pub(crate) struct Reader {
    way: String,
    prober: Vec<OsString>,
    threads: usize,
    ring: Mutex<Option<(i32, Ring)>>,
}

#[pymethods]
impl Reader {
    #[new]
    #[pyo3(signature = (*, way, threads, prober))]
    fn new(way: String, threads: usize, prober: Vec<OsString>) -> Self {
        Self { way, prober, threads, ring: Mutex::new(None) }
    }

    /// Fills `bytes` at `address` from byte `offset`; returns how many.
    fn read(
        &self,
        py: Python<'_>,
        path: PathBuf,
        address: u64,
        offset: u64,
        bytes: usize,
    ) -> PyResult<usize> {
        let wish = way(&self.way)?;
        py.detach(|| {
            let Some(ordinal) = Device::owns(address).filter(|_| bytes > 0) else {
                if bytes == 0 {
                    return Ok(0);
                }
                // SAFETY: the caller's promise.
                let target = unsafe { std::slice::from_raw_parts_mut(address as *mut u8, bytes) };
                return tensors::read_into_host(&path, offset, target, self.threads)
                    .map(|()| bytes);
            };
            let mut kept = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.as_ref().is_none_or(|(known, _)| *known != ordinal) {
                let device = Device::open(ordinal as u32)?;
                let prober = Prober { command: self.prober.clone() };
                let way = path::choose(wish, &device, Path::new(&path), &prober)?;
                let shape = Shape { lanes: self.threads, ..Shape::default() };
                *kept = Some((ordinal, Ring::new(&device, way, shape)?));
            }
            // SAFETY: the driver says that it is memory of the device; the caller keeps it.
            let target = unsafe { Region::foreign(address, bytes) };
            let transfer = Transfer { file: 0, offset, target };
            if let Some((_, ring)) = &mut *kept {
                // SAFETY: the caller's promise.
                unsafe { ring.fetch(std::slice::from_ref(&path), &[transfer])? };
            }
            Ok(bytes)
        })
        .map_err(|e| error::gpu(&e))
    }

    /// Which way files take to a device, once one was read.
    fn io_path(&self) -> Option<String> {
        let kept = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map(|(_, ring)| ring.path().to_string())
    }
}

/// For the child that asks libcufile: see `forebay._probe`.
#[pyfunction]
pub(crate) fn self_test(path: PathBuf, ordinal: u32) -> PyResult<()> {
    path::self_test(&path, ordinal).map_err(|e| error::gpu(&e))
}
