//! The CUDA driver: found at run time, each symbol looked up before the first call.
//!
//! cudarc panics where the library or a symbol is missing, so [`present`] asks for all of them
//! once; everything else here is called only after it said yes.

use std::ffi::CStr;
use std::sync::OnceLock;

pub(crate) use cudarc::driver::sys;
use cudarc::driver::sys::CUresult;

use crate::{Error, Result};

/// What we call; the names are those of CUDA 12.0 and every later driver has them.
const SYMBOLS: [&str; 38] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetPCIBusId",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuCtxSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuMemGetInfo_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuLaunchKernel",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuPointerGetAttribute",
];

/// Looks for the driver and everything we call of it; `cuInit` runs once.
///
/// # Errors
/// [`Error::Absent`] with the reason; the answer does not change while the process lives.
pub(crate) fn present() -> Result<()> {
    static ANSWER: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| {
        // SAFETY: loading the driver runs its initialisers, which is what everybody does.
        if !unsafe { sys::is_culib_present() } {
            return Err("no libcuda.so.1 could be loaded".into());
        }
        // SAFETY: it was just loaded, so this does not panic.
        let library = unsafe { sys::culib() };
        for name in SYMBOLS {
            // SAFETY: only the address is asked for; nothing is called through this type.
            let found = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) };
            if found.is_err() {
                return Err(format!("libcuda.so.1 lacks {name}: its driver is older than CUDA 12"));
            }
        }
        // SAFETY: the symbol is there; the only flag is 0.
        check("start", unsafe { sys::cuInit(0) }).map_err(|error| error.to_string())
    });
    answer.clone().map_err(|why| Error::absent("a CUDA driver", why))
}

/// Turns what a call returned into a result.
pub(crate) fn check(action: &'static str, code: CUresult) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |ask: unsafe fn(CUresult, *mut *const std::ffi::c_char) -> CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: both take a code and a place for a pointer to a static string.
        let known = unsafe { ask(code, &raw mut text) } == CUresult::CUDA_SUCCESS;
        if !known || text.is_null() {
            return "unknown".to_owned();
        }
        // SAFETY: the driver gives a static string that ends in zero.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    let (name, text) = (text(sys::cuGetErrorName), text(sys::cuGetErrorString));
    Err(Error::Cuda { action, name, text, code: code as i32 })
}

/// Is what was asked about not over yet, or over, or failed?
pub(crate) fn is_over(action: &'static str, code: CUresult) -> Result<bool> {
    match code {
        CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        code => check(action, code).map(|()| true),
    }
}
