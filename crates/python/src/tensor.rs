//! A column of a batch, shared with NumPy and PyTorch without a copy.

use std::ffi::{CStr, c_void};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, PoisonError};

use forebay_load::{Batch, Ids};
use pyo3::exceptions::PyBufferError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Batches whose buffers nobody uses.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<Batch>>,
}

/// More of them are given back to the system: a consumer that keeps batches may keep many.
const KEPT: usize = 4;

impl Pool {
    pub(crate) fn take(&self) -> Batch {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }
}

/// A batch that tensors look into; its buffers go back to the pool with the last of them.
#[derive(Debug)]
pub(crate) struct Slot {
    batch: ManuallyDrop<Batch>,
    pool: Arc<Pool>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: it is taken here alone, and `self` is not used again.
        let batch = unsafe { ManuallyDrop::take(&mut self.batch) };
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(batch);
        }
    }
}

/// A type of numbers, as DLPack and NumPy name it.
#[derive(Debug, Clone, Copy)]
struct Kind {
    dlpack_code: u8,
    bytes: usize,
    numpy: &'static str,
}

const I64: Kind = Kind { dlpack_code: 0, bytes: 8, numpy: "<i8" };
const I32: Kind = Kind { dlpack_code: 0, bytes: 4, numpy: "<i4" };
const U32: Kind = Kind { dlpack_code: 1, bytes: 4, numpy: "<u4" };
/// 0 and 1 in a byte each.
const BOOL: Kind = Kind { dlpack_code: 6, bytes: 1, numpy: "|b1" };

/// Lengths of one or two dimensions.
#[derive(Debug, Clone, Copy)]
struct Shape {
    lengths: [i64; 2],
    dimensions: usize,
}

impl Shape {
    fn matrix(rows: i64, width: i64) -> Self {
        Self { lengths: [rows, width], dimensions: 2 }
    }

    fn vector(length: i64) -> Self {
        Self { lengths: [length, 1], dimensions: 1 }
    }

    fn lengths(&self) -> &[i64] {
        &self.lengths[..self.dimensions]
    }
}

/// A column of a batch. Hand it to `numpy.asarray` or `torch.from_dlpack`: both share its memory.
#[pyclass(frozen, module = "forebay._core")]
pub(crate) struct Tensor {
    slot: Arc<Slot>,
    data: *mut c_void,
    shape: Shape,
    kind: Kind,
}

// SAFETY: `data` points into `slot`, whose buffers are neither moved nor looked at by Rust until
// the last tensor is gone; what Python's threads do to the numbers is theirs to agree on.
unsafe impl Send for Tensor {}
// SAFETY: as above; all methods only read the description.
unsafe impl Sync for Tensor {}

/// What columns are handed over as.
#[derive(Debug, Default)]
pub(crate) enum Output {
    /// As [`Tensor`]s.
    #[default]
    Tensor,
    /// As what this makes of a [`Tensor`].
    OfTensor(Py<PyAny>),
    /// As what this makes of a capsule of DLPack: no object and no call between them.
    OfCapsule(Py<PyAny>),
}

impl Output {
    pub(crate) fn new(make: Py<PyAny>, of_capsules: bool) -> Self {
        if of_capsules { Self::OfCapsule(make) } else { Self::OfTensor(make) }
    }

    fn of<'py>(&self, py: Python<'py>, tensor: Tensor) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Tensor => Ok(Bound::new(py, tensor)?.into_any()),
            Self::OfTensor(make) => make.bind(py).call1((Bound::new(py, tensor)?,)),
            Self::OfCapsule(make) => make.bind(py).call1((capsule(py, &tensor)?,)),
        }
    }
}

/// The columns of a batch by name; empty ones are left out.
pub(crate) fn columns<'py>(
    py: Python<'py>,
    mut batch: Batch,
    samples: bool,
    output: &Output,
    pool: &Arc<Pool>,
) -> PyResult<Bound<'py, PyDict>> {
    let (rows, width) = (batch.batch_size as i64, batch.seq_len as i64);
    let mut found = Vec::with_capacity(8);
    for (name, ids) in [
        (intern!(py, "input_ids"), &mut batch.input_ids),
        (intern!(py, "labels"), &mut batch.labels),
        (intern!(py, "position_ids"), &mut batch.position_ids),
    ] {
        if !ids.is_empty() {
            let (data, kind) = pointer(ids);
            found.push((name, data, kind, Shape::matrix(rows, width)));
        }
    }
    if !batch.document_ids.is_empty() {
        let data = batch.document_ids.as_mut_ptr().cast::<c_void>();
        found.push((intern!(py, "document_ids"), data, I64, Shape::matrix(rows, width)));
    }
    if !batch.loss_mask.is_empty() {
        let data = batch.loss_mask.as_mut_ptr().cast::<c_void>();
        found.push((intern!(py, "loss_mask"), data, BOOL, Shape::matrix(rows, width)));
    }
    if !batch.cu_seqlens.is_empty() {
        let ends = Shape::vector(batch.cu_seqlens.len() as i64);
        let data = batch.cu_seqlens.as_mut_ptr().cast::<c_void>();
        found.push((intern!(py, "cu_seqlens"), data, I32, ends));
    }
    if samples {
        let data = batch.samples.as_mut_ptr().cast::<c_void>();
        found.push((intern!(py, "samples"), data, I64, Shape::vector(rows)));
        let data = batch.sources.as_mut_ptr().cast::<c_void>();
        found.push((intern!(py, "sources"), data, I32, Shape::vector(rows)));
    }
    let (step, epoch, longest) = (batch.step, batch.epoch, batch.max_seqlen);
    // Moving a batch moves its vectors, not what they point to.
    let slot = Arc::new(Slot { batch: ManuallyDrop::new(batch), pool: Arc::clone(pool) });
    let columns = PyDict::new(py);
    for (name, data, kind, shape) in found {
        let tensor = Tensor { slot: Arc::clone(&slot), data, shape, kind };
        columns.set_item(name, output.of(py, tensor)?)?;
    }
    if longest > 0 {
        columns.set_item(intern!(py, "max_seqlen"), longest)?;
    }
    columns.set_item(intern!(py, "step"), step)?;
    columns.set_item(intern!(py, "epoch"), epoch)?;
    Ok(columns)
}

fn pointer(ids: &mut Ids) -> (*mut c_void, Kind) {
    match ids {
        Ids::U32(ids) => (ids.as_mut_ptr().cast(), U32),
        Ids::I32(ids) => (ids.as_mut_ptr().cast(), I32),
        Ids::I64(ids) => (ids.as_mut_ptr().cast(), I64),
    }
}

#[pymethods]
impl Tensor {
    /// For NumPy, which holds on to the tensor: `{"shape", "typestr", "data", "version"}`.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("shape", PyTuple::new(py, self.shape.lengths())?)?;
        interface.set_item("typestr", self.kind.numpy)?;
        interface.set_item("data", (self.data as usize, false))?;
        interface.set_item("version", 3)?;
        Ok(interface)
    }

    /// A capsule of DLPack; the memory is of the host and writable.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<Bound<'py, PyAny>>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // Neither says anything about memory of the host in this version of the protocol.
        let _ = (stream, max_version);
        if copy == Some(true) || dl_device.is_some_and(|device| device != CPU) {
            return Err(PyBufferError::new_err("expected a view on the CPU, found another wish"));
        }
        capsule(py, self)
    }

    /// `(1, 0)`: the CPU.
    fn __dlpack_device__(&self) -> (i32, i32) {
        CPU
    }

    /// Lengths of the dimensions.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.shape.lengths())
    }

    fn __repr__(&self) -> String {
        format!("Tensor({:?}, {})", self.shape.lengths(), self.kind.numpy)
    }
}

fn capsule<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    let pointer = Box::into_raw(Box::new(Managed::new(tensor)));
    // SAFETY: the pointer is of a live `Managed`, which does not move any more and whose first
    // field is what DLPack describes; the name is static; the destructor frees what no consumer
    // has taken.
    unsafe {
        (*pointer).tensor.shape = (&raw mut (*pointer).shape).cast();
        (*pointer).tensor.strides = (&raw mut (*pointer).strides).cast();
        let free = Some(drop_capsule as unsafe extern "C" fn(_));
        let capsule = pyo3::ffi::PyCapsule_New(pointer.cast(), NAME.as_ptr(), free);
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

const CPU: (i32, i32) = (1, 0);
const NAME: &CStr = c"dltensor";

/// `DLTensor` of dlpack.h.
#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: [i32; 2],
    dimensions: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensor` of dlpack.h, and behind it what it points to.
#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
    shape: [i64; 2],
    strides: [i64; 2],
    _slot: Option<Arc<Slot>>,
}

impl Managed {
    fn new(tensor: &Tensor) -> Self {
        let Shape { lengths, dimensions } = tensor.shape;
        Self {
            tensor: DlTensor {
                data: tensor.data,
                device: [CPU.0, CPU.1],
                dimensions: dimensions as i32,
                code: tensor.kind.dlpack_code,
                bits: 8 * tensor.kind.bytes as u8,
                lanes: 1,
                shape: std::ptr::null_mut(),
                strides: std::ptr::null_mut(),
                byte_offset: 0,
            },
            context: std::ptr::null_mut(),
            deleter: Some(delete),
            shape: lengths,
            strides: [lengths[1], 1],
            _slot: Some(Arc::clone(&tensor.slot)),
        }
    }
}

/// Called once by whoever owns the tensor, on any thread.
unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: it was made by `Box::into_raw` in `__dlpack__`, and its owner gives it up here.
    drop(unsafe { Box::from_raw(managed) });
}

/// A capsule that goes with its tensor still in it.
unsafe extern "C" fn drop_capsule(capsule: *mut pyo3::ffi::PyObject) {
    // SAFETY: Python hands over a live capsule; a consumer has renamed it if it took the tensor.
    unsafe {
        if pyo3::ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            let managed = pyo3::ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr());
            delete(managed.cast());
        }
    }
}
