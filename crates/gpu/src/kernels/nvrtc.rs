//! NVRTC, found at run time: CUDA C → PTX for the device at hand.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use libloading::Library;

use crate::{Error, Result};

/// Newest first: it knows the newest devices. A driver too old for its PTX gets what is shipped.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

type Create = unsafe extern "C" fn(
    *mut *mut c_void,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// The library.
pub(crate) struct Nvrtc {
    library: Library,
    pub(crate) version: (i32, i32),
}

impl Nvrtc {
    pub(crate) fn open() -> Result<Self> {
        // SAFETY: NVRTC's initialisers run; they touch nothing of ours.
        let found = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
        let library = found.ok_or_else(|| Error::absent("NVRTC", "no libnvrtc.so.13 or .12"))?;
        let mut nvrtc = Self { library, version: (0, 0) };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the type is that of nvrtc.h, and both integers are filled.
        unsafe { nvrtc.symbol::<Version>("nvrtcVersion")?(&raw mut major, &raw mut minor) };
        nvrtc.version = (major, minor);
        Ok(nvrtc)
    }

    /// # Safety
    /// `T` must be the type of `name` in nvrtc.h.
    unsafe fn symbol<T: Copy>(&self, name: &str) -> Result<T> {
        // SAFETY: by the caller.
        let found = unsafe { self.library.get::<T>(name.as_bytes()) };
        found.map(|symbol| *symbol).map_err(|error| Error::absent(name, error))
    }

    /// Compiles `source` for a virtual architecture such as `compute_90`.
    ///
    /// # Errors
    /// [`Error::Kernels`] with the compiler's log.
    pub(crate) fn compile(&self, source: &str, architecture: &str) -> Result<String> {
        let refused = |why: String| Error::Kernels { why };
        let text = |text: &str| CString::new(text).map_err(|error| refused(error.to_string()));
        let (code, name) = (text(source)?, text("kernels.cu")?);
        let option = text(&format!("--gpu-architecture={architecture}"))?;
        // SAFETY: the types are those of nvrtc.h; all strings end in zero and live long enough;
        // the program is destroyed once, after its last use.
        unsafe {
            let create: Create = self.symbol("nvrtcCreateProgram")?;
            let compile: Compile = self.symbol("nvrtcCompileProgram")?;
            let destroy: Destroy = self.symbol("nvrtcDestroyProgram")?;
            let mut program = std::ptr::null_mut();
            let none = std::ptr::null();
            let made = create(&raw mut program, code.as_ptr(), name.as_ptr(), 0, none, none);
            if made != 0 {
                return Err(refused(format!("NVRTC error {made}")));
            }
            let options = [option.as_ptr()];
            let compiled = compile(program, 1, options.as_ptr());
            let what = if compiled == 0 { "PTX" } else { "ProgramLog" };
            let text = self.text(program, what);
            destroy(&raw mut program);
            match compiled {
                0 => text,
                error => Err(refused(format!("NVRTC error {error}: {}", text?))),
            }
        }
    }

    /// # Safety
    /// `program` must be one of this library.
    unsafe fn text(&self, program: *mut c_void, what: &str) -> Result<String> {
        // SAFETY: the types are those of nvrtc.h; the buffer has the size that is told, and ends
        // in zero since the library counts that in.
        unsafe {
            let mut size = 0;
            let told = self.symbol::<Size>(&format!("nvrtcGet{what}Size"))?;
            told(program, &raw mut size);
            let mut bytes = vec![0_u8; size + 1];
            let fill = self.symbol::<Text>(&format!("nvrtcGet{what}"))?;
            fill(program, bytes.as_mut_ptr().cast());
            Ok(CStr::from_ptr(bytes.as_ptr().cast()).to_string_lossy().into_owned())
        }
    }
}
