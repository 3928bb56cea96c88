//! Memory of a device or of the host, handed to Python by DLPack in the order of streams.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use forebay_load::device::FedBatch;
use forebay_load::device::gpu::DeviceMemory;
use forebay_load::device::tensors::HostFile;
use pyo3::exceptions::{PyAttributeError, PyBufferError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::error;

/// Who keeps the memory, and knows when it is ready.
#[derive(Clone)]
pub(crate) enum Owner {
    /// Made by kernels that may still run.
    Batch(Arc<FedBatch>),
    /// Ready.
    Device(#[expect(dead_code, reason = "held for its memory")] Arc<DeviceMemory>),
    /// Ready.
    Host(#[expect(dead_code, reason = "held for its memory")] Arc<HostFile>),
}

/// A type of numbers: code and bits of DLPack, and NumPy's name if it has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    code: u8,
    bits: u8,
    numpy: Option<&'static str>,
}

/// By the name that safetensors has for it. Types of eight bits and fewer that DLPack learnt late are
/// bytes here, and get their type in Python.
pub(crate) fn number(name: &str) -> Number {
    let (code, bits, numpy) = match name {
        "I64" => (0, 64, Some("<i8")),
        "I32" => (0, 32, Some("<i4")),
        "I16" => (0, 16, Some("<i2")),
        "I8" => (0, 8, Some("|i1")),
        "U64" => (1, 64, Some("<u8")),
        "U32" => (1, 32, Some("<u4")),
        "U16" => (1, 16, Some("<u2")),
        "F64" => (2, 64, Some("<f8")),
        "F32" => (2, 32, Some("<f4")),
        "F16" => (2, 16, Some("<f2")),
        "BF16" => (4, 16, None),
        "C64" => (5, 64, Some("<c8")),
        "BOOL" => (6, 8, Some("|b1")),
        _ => (1, 8, Some("|u1")),
    };
    Number { code, bits, numpy }
}

/// An array in memory that Forebay keeps until the last tensor that shares it is gone.
#[pyclass(frozen, module = "forebay._core")]
pub(crate) struct Shared {
    owner: Owner,
    pointer: u64,
    shape: Vec<i64>,
    number: Number,
    /// As DLPack has it: 1 is the CPU, 2 is CUDA; and its number.
    device: (i32, i32),
}

const CPU: i32 = 1;
const CUDA: i32 = 2;

impl Shared {
    /// An array of a device, or of the host if `ordinal` is none.
    pub(crate) fn new(
        owner: Owner,
        pointer: u64,
        shape: Vec<i64>,
        number: Number,
        ordinal: Option<i32>,
    ) -> Self {
        let device = ordinal.map_or((CPU, 0), |ordinal| (CUDA, ordinal));
        Self { owner, pointer, shape, number, device }
    }
}

#[pymethods]
impl Shared {
    /// For NumPy, of arrays of the host.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let numpy = self.number.numpy.filter(|_| self.device.0 == CPU);
        let numpy = numpy.ok_or_else(|| {
            PyAttributeError::new_err("memory of a device, or a type that NumPy has not")
        })?;
        let interface = PyDict::new(py);
        interface.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        interface.set_item("typestr", numpy)?;
        interface.set_item("data", (self.pointer, false))?;
        interface.set_item("version", 3)?;
        Ok(interface)
    }

    /// A capsule of DLPack. Of a device: `stream` waits until the array is made, and its memory is
    /// used again only behind what that stream is given until the tensor is gone.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<i64>,
        max_version: Option<Bound<'py, PyAny>>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // A consumer that speaks a newer version takes a capsule of the first one too.
        let _ = max_version;
        if copy == Some(true) || dl_device.is_some_and(|device| device != self.device) {
            let found = format!("expected a view on {:?}, found another wish", self.device);
            return Err(PyBufferError::new_err(found));
        }
        if let Owner::Batch(batch) = &self.owner {
            let waited = match stream {
                // The array API: none is the default stream, -1 asks not to wait.
                None => batch.ready_on(1),
                Some(-1) => {
                    batch.used_on(1);
                    Ok(())
                }
                Some(stream) if stream > 0 => batch.ready_on(stream as u64),
                Some(other) => {
                    let found = format!("stream: expected a handle, None or -1, found {other}");
                    return Err(PyBufferError::new_err(found));
                }
            };
            waited.map_err(|e| error::gpu(&e))?;
        }
        let pointer = Box::into_raw(Box::new(Managed::new(self)));
        // SAFETY: the pointer is of a live `Managed`, which does not move any more and whose first
        // field is what DLPack describes; its shape lives beside it. The name is static; the
        // destructor frees what no consumer has taken.
        unsafe {
            let free = Some(drop_capsule as unsafe extern "C" fn(_));
            let capsule = pyo3::ffi::PyCapsule_New(pointer.cast(), NAME.as_ptr(), free);
            Bound::from_owned_ptr_or_err(py, capsule)
        }
    }

    /// Kind and number of its device.
    fn __dlpack_device__(&self) -> (i32, i32) {
        self.device
    }

    /// Lengths of the dimensions.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    /// Its address.
    fn data_ptr(&self) -> u64 {
        self.pointer
    }

    fn __repr__(&self) -> String {
        let device =
            if self.device.0 == CPU { "cpu".into() } else { format!("cuda:{}", self.device.1) };
        format!("Shared({:?}, {} bits, {device})", self.shape, self.number.bits)
    }
}

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
    _lengths: Vec<i64>,
    _owner: Owner,
}

impl Managed {
    fn new(shared: &Shared) -> Self {
        let count = shared.shape.len();
        // Lengths, then strides: row after row.
        let mut lengths = shared.shape.clone();
        lengths.resize(2 * count, 1);
        for axis in (1..count).rev() {
            lengths[count + axis - 1] = lengths[count + axis] * shared.shape[axis].max(1);
        }
        let shape = lengths.as_mut_ptr();
        let tensor = DlTensor {
            data: shared.pointer as *mut c_void,
            device: [shared.device.0, shared.device.1],
            dimensions: count as i32,
            code: shared.number.code,
            bits: shared.number.bits,
            lanes: 1,
            shape,
            strides: shape.wrapping_add(count),
            byte_offset: 0,
        };
        let context = std::ptr::null_mut();
        Self {
            tensor,
            context,
            deleter: Some(delete),
            _lengths: lengths,
            _owner: shared.owner.clone(),
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
