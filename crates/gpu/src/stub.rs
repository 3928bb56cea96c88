//! For tests: the stub of the CUDA driver, built by `tools/stub-cuda/build` and loaded first, so
//! that it is what `libcuda.so.1` means in this process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The loaded stub, and the turn of whoever holds it: delays and faults are of the whole process.
pub(crate) struct Stub(Library, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

static TURN: Mutex<()> = Mutex::new(());

/// Builds the stub if need be, and loads it; `None`, and why, where there is no C compiler.
pub(crate) fn load() -> Option<Stub> {
    let directory = match build() {
        Ok(directory) => directory,
        Err(why) => {
            eprintln!("skipped: {why}");
            return None;
        }
    };
    // SAFETY: our own stub, which starts nothing when loaded.
    let library = unsafe {
        Library::open(Some(directory.join("libcuda.so.1")), RTLD_NOW | RTLD_GLOBAL).unwrap()
    };
    Some(Stub(library, TURN.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Where the stubs are.
pub(crate) fn build() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let directory = root.join("target/stub-cuda");
    let sources = ["tools/stub-cuda/stub_cuda.c", "tools/stub-cuda/stub_cufile.c"];
    let kernels = "crates/gpu/src/kernels/kernels.cu";
    let changed = |path: PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let newest = sources.iter().chain([&kernels]).filter_map(|s| changed(root.join(s))).max();
    if changed(directory.join("libcufile.so.0")) < newest {
        let built = Command::new(root.join("tools/stub-cuda/build")).arg(&directory).output();
        let output = built.map_err(|error| format!("tools/stub-cuda/build: {error}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let compiler = Command::new("cc").arg("--version").output();
            assert!(compiler.is_err(), "the stub does not build:\n{text}");
            return Err("no C compiler to build the stub of the CUDA driver with".into());
        }
    }
    Ok(directory)
}

impl Stub {
    /// Each piece of work waits up to so many microseconds.
    pub(crate) fn delay(&self, microseconds: u32) {
        // SAFETY: the type is that of the stub's function.
        unsafe {
            let set = self.0.get::<unsafe extern "C" fn(u32)>(b"stub_delay").unwrap();
            set(microseconds);
        }
    }

    /// The `nth` call of a function from now on fails, and all after it; 0: none does.
    pub(crate) fn fail(&self, name: &str, nth: i64) {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: the type is that of the stub's function; the name ends in zero.
        unsafe {
            type Fail = unsafe extern "C" fn(*const std::ffi::c_char, i64);
            self.0.get::<Fail>(b"stub_fail").unwrap()(name.as_ptr(), nth);
        }
    }

    /// How often a function was called.
    pub(crate) fn calls(&self, name: &str) -> i64 {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: the type is that of the stub's function; the name ends in zero.
        unsafe {
            type Calls = unsafe extern "C" fn(*const std::ffi::c_char) -> i64;
            self.0.get::<Calls>(b"stub_calls").unwrap()(name.as_ptr())
        }
    }
}
