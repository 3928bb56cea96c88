//! libcufile, found at run time: files and device memory registered, reads, and who carried them.
//!
//! cudarc does not find the library that wheels and runtime images ship (`libcufile.so.0`), and
//! takes a structure of statistics for shorter than newer libraries write it.

use std::ffi::{c_int, c_uint, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use libloading::Library;
use serde::{Deserialize, Serialize};

use crate::{Error, Region, Result};

/// `CUfileError_t`: an error of the library, and one of the driver.
#[repr(C)]
#[derive(Clone, Copy)]
struct Code {
    error: c_int,
    driver: c_int,
}

/// `CUfileDescr_t`.
#[repr(C)]
struct Description {
    kind: c_int,
    unused: c_int,
    /// A union of a descriptor and a pointer: the low half counts here.
    file: u64,
    operations: *const c_void,
}

/// `CUfileIOParams_t`.
#[repr(C)]
struct BatchEntry {
    mode: c_int,
    unused: c_int,
    device: *mut c_void,
    file_offset: i64,
    device_offset: i64,
    bytes: usize,
    handle: *mut c_void,
    operation: c_int,
    unused_too: c_int,
    cookie: *mut c_void,
}

/// `CUfileIOEvents_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct BatchEvent {
    cookie: *mut c_void,
    status: c_int,
    unused: c_int,
    result: usize,
}

type Plain = unsafe extern "C" fn() -> Code;
type GetVersion = unsafe extern "C" fn(*mut c_int) -> Code;
type Register = unsafe extern "C" fn(*mut *mut c_void, *mut Description) -> Code;
type Deregister = unsafe extern "C" fn(*mut c_void);
type RegisterMemory = unsafe extern "C" fn(*const c_void, usize, c_int) -> Code;
type DeregisterMemory = unsafe extern "C" fn(*const c_void) -> Code;
type Read = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, i64, i64) -> isize;
type Level = unsafe extern "C" fn(c_int) -> Code;
type Statistics = unsafe extern "C" fn(*mut c_void) -> Code;
type BatchSetUp = unsafe extern "C" fn(*mut *mut c_void, c_uint) -> Code;
type BatchSubmit = unsafe extern "C" fn(*mut c_void, c_uint, *mut BatchEntry, c_uint) -> Code;
type BatchStatus =
    unsafe extern "C" fn(*mut c_void, c_uint, *mut c_uint, *mut BatchEvent, *const c_void) -> Code;
type BatchDestroy = unsafe extern "C" fn(*mut c_void);

/// Reads that each path carried, as the library counts them at level 3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// All reads.
    pub total: u64,
    /// From the device to the GPU over PCI.
    pub p2p: u64,
    /// Likewise, by nvidia-fs.
    pub nvfs: u64,
    /// Through memory of the host: not GPU-direct, whatever the library is called.
    pub posix: u64,
    /// With an address or length that a direct read cannot have.
    pub unaligned: u64,
}

impl Proof {
    /// Did every read go to the device without a stop?
    pub fn is_direct(&self) -> bool {
        self.total > 0 && self.p2p + self.nvfs == self.total
    }

    /// In words: "GPU-direct: no (posix 48/48)".
    pub fn verdict(&self) -> String {
        let Self { total, p2p, nvfs, posix, .. } = self;
        match self.is_direct() {
            true if *p2p > 0 => format!("GPU-direct: yes (p2p {p2p}/{total})"),
            true => format!("GPU-direct: yes (nvidia-fs {nvfs}/{total})"),
            false => format!("GPU-direct: no (posix {posix}/{total})"),
        }
    }

    /// What happened since.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            p2p: self.p2p.saturating_sub(earlier.p2p),
            nvfs: self.nvfs.saturating_sub(earlier.nvfs),
            posix: self.posix.saturating_sub(earlier.posix),
            unaligned: self.unaligned.saturating_sub(earlier.unaligned),
        }
    }
}

/// The library, with its driver open.
pub struct CuFile {
    symbols: Symbols,
    version: i32,
}

struct Symbols {
    register: Register,
    deregister: Deregister,
    register_memory: RegisterMemory,
    deregister_memory: DeregisterMemory,
    read: Read,
    statistics: Option<Statistics>,
    batch: Option<(BatchSetUp, BatchSubmit, BatchStatus, BatchDestroy)>,
    /// Its functions stay until the process ends: its threads do not stop.
    _library: &'static Library,
}

/// Where the library may be: by its soname, then in the wheels of a virtual environment.
fn candidates() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("libcufile.so.0"), PathBuf::from("libcufile.so")];
    let Some(environment) = std::env::var_os("VIRTUAL_ENV") else { return found };
    let library = PathBuf::from(environment).join("lib");
    for python in std::fs::read_dir(library).into_iter().flatten().flatten() {
        for part in ["cu13", "cufile"] {
            let wheel = python.path().join("site-packages/nvidia").join(part);
            found.push(wheel.join("lib/libcufile.so.0"));
        }
    }
    found
}

/// Is the library here? It is loaded, and nothing of it is called.
pub(crate) fn is_here() -> bool {
    library().is_some()
}

fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<&'static Library>> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        // Wheels for some machines forgot this one. SAFETY: a part of the C library.
        let realtime = unsafe { Library::new("librt.so.1") };
        std::mem::forget(realtime);
        // SAFETY: its initialisers run, which read an environment and start nothing.
        let library = candidates().iter().find_map(|path| unsafe { Library::new(path) }.ok())?;
        Some(Box::leak(Box::new(library)))
    })
}

impl CuFile {
    /// Opens the driver of the library, once in a process.
    ///
    /// In machines without `/proc/modules` the library spins in here for ever: only after
    /// [`crate::path`] had a child try it.
    ///
    /// # Errors
    /// [`Error::Absent`]; [`Error::CuFile`].
    pub(crate) fn open() -> Result<&'static Arc<Self>> {
        static OPENED: OnceLock<std::result::Result<Arc<CuFile>, Error>> = OnceLock::new();
        let opened = OPENED.get_or_init(|| Self::try_open().map(Arc::new));
        opened.as_ref().map_err(|error| match error {
            Error::CuFile { action, code } => Error::CuFile { action, code: *code },
            other => Error::absent("libcufile", other),
        })
    }

    fn try_open() -> Result<Self> {
        let Some(library) = library() else {
            return Err(Error::absent("libcufile", "no libcufile.so.0 could be loaded"));
        };
        // SAFETY: each type is that of the function in cufile.h.
        let (symbols, version, open) = unsafe {
            let mut version = 0;
            if let Ok(ask) = get::<GetVersion>(library, "cuFileGetVersion") {
                ask(&raw mut version);
            }
            let batch = || -> Result<(BatchSetUp, BatchSubmit, BatchStatus, BatchDestroy)> {
                Ok((
                    get(library, "cuFileBatchIOSetUp")?,
                    get(library, "cuFileBatchIOSubmit")?,
                    get(library, "cuFileBatchIOGetStatus")?,
                    get(library, "cuFileBatchIODestroy")?,
                ))
            };
            let symbols = Symbols {
                register: get(library, "cuFileHandleRegister")?,
                deregister: get(library, "cuFileHandleDeregister")?,
                register_memory: get(library, "cuFileBufRegister")?,
                deregister_memory: get(library, "cuFileBufDeregister")?,
                read: get(library, "cuFileRead")?,
                statistics: get(library, "cuFileGetStatsL3").ok(),
                batch: batch().ok(),
                _library: library,
            };
            (symbols, version, get::<Plain>(library, "cuFileDriverOpen")?)
        };
        // SAFETY: takes nothing.
        check("open its driver", unsafe { open() })?;
        if symbols.statistics.is_some() {
            // SAFETY: the types are those of cufile.h. Without statistics there is no proof, and
            // what has none is not called direct.
            unsafe {
                check("count reads", get::<Level>(library, "cuFileSetStatsLevel")?(3))?;
                check("count reads", get::<Plain>(library, "cuFileStatsStart")?())?;
            }
        }
        Ok(Self { symbols, version })
    }

    /// 1140 is 1.14.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// Reads so far, by path; all zero where the library does not count.
    ///
    /// # Errors
    /// [`Error::CuFile`].
    pub fn proof(&self) -> Result<Proof> {
        let Some(ask) = self.symbols.statistics else { return Ok(Proof::default()) };
        // Far more than any version writes.
        let mut words = vec![0_u64; 8192];
        // SAFETY: 64 KiB, aligned to 8.
        check("tell its statistics", unsafe { ask(words.as_mut_ptr().cast()) })?;
        Ok(read_statistics(&words, self.version))
    }

    /// Registers a file. Opened with O_DIRECT for a direct path.
    ///
    /// # Errors
    /// [`Error::CuFile`]: 5027 where the file system is unknown to it.
    pub fn file(self: &Arc<Self>, file: File) -> Result<CuFileHandle> {
        let mut handle = std::ptr::null_mut();
        let descriptor = file.as_raw_fd() as u32;
        let mut description = Description {
            kind: 1,
            unused: 0,
            file: descriptor.into(),
            operations: std::ptr::null(),
        };
        let register = self.symbols.register;
        // SAFETY: the description lives through the call; the file is kept open beside the handle.
        check("register a file", unsafe { register(&raw mut handle, &raw mut description) })?;
        Ok(CuFileHandle { library: Arc::clone(self), handle, _file: file })
    }

    /// Registers device memory, until the result is dropped.
    ///
    /// # Errors
    /// [`Error::CuFile`].
    ///
    /// # Safety
    /// The region must not be freed before the result is dropped.
    pub unsafe fn memory(self: &Arc<Self>, region: Region) -> Result<Registered> {
        let register = self.symbols.register_memory;
        let start = region.pointer() as *const c_void;
        // SAFETY: device memory by the region's promise.
        check("register device memory", unsafe { register(start, region.bytes(), 0) })?;
        Ok(Registered { library: Arc::clone(self), start: region.pointer() })
    }
}

/// Offsets in words of the first GPU's counts, which follow `CUfileStatsLevel1`: that grew by 112
/// bytes in 1.20.
fn read_statistics(words: &[u64], version: i32) -> Proof {
    let first = if version >= 1200 { 1144 / 8 } else { 1032 / 8 };
    let at = |word: usize| words[first + word];
    Proof { total: at(6), p2p: at(7), nvfs: at(8), posix: at(9), unaligned: at(10) }
}

/// # Safety
/// `T` must be the type of `name` in cufile.h.
unsafe fn get<T: Copy>(library: &Library, name: &str) -> Result<T> {
    // SAFETY: by the caller.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|error| Error::absent(name, error))
}

fn check(action: &'static str, code: Code) -> Result<()> {
    match (code.error, code.driver) {
        (0, _) => Ok(()),
        (error, 0) => Err(Error::CuFile { action, code: error.into() }),
        (_, driver) => Err(Error::CuFile { action, code: driver.into() }),
    }
}

/// A registered file.
pub struct CuFileHandle {
    library: Arc<CuFile>,
    handle: *mut c_void,
    _file: File,
}

// SAFETY: a handle of the library's, which may be read from many threads.
unsafe impl Send for CuFileHandle {}
// SAFETY: as above.
unsafe impl Sync for CuFileHandle {}

/// A read of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchRead {
    /// First byte in the file.
    pub offset: u64,
    /// Where it goes; as many bytes are read.
    pub target: Region,
}

impl CuFileHandle {
    /// Fills a region from byte `offset`, and waits for it.
    ///
    /// # Errors
    /// [`Error::CuFile`] if it fails or the file ends before.
    ///
    /// # Safety
    /// The region must be live device memory that nobody else writes meanwhile.
    pub unsafe fn read(&self, offset: u64, target: Region) -> Result<()> {
        let mut done = 0;
        while done < target.bytes() {
            let start = target.pointer() as *mut c_void;
            let (rest, at) = (target.bytes() - done, offset as i64 + done as i64);
            let read = self.library.symbols.read;
            // SAFETY: by the caller; `done` is below the length.
            let moved = unsafe { read(self.handle, start, rest, at, done as i64) };
            match usize::try_from(moved) {
                Ok(moved) if moved > 0 => done += moved,
                _ => return Err(Error::CuFile { action: "read", code: moved as i64 }),
            }
        }
        Ok(())
    }

    /// Does up to 128 reads at once, and waits for all: for many small ones.
    ///
    /// # Errors
    /// [`Error::Absent`] where the library has no batches; [`Error::CuFile`].
    ///
    /// # Safety
    /// As of [`CuFileHandle::read`], of each.
    pub unsafe fn read_batch(&self, reads: &[BatchRead]) -> Result<()> {
        let Some((set_up, submit, status, destroy)) = self.library.symbols.batch else {
            return Err(Error::absent("batches of cuFile", "this version has none"));
        };
        for reads in reads.chunks(128) {
            let mut entries: Vec<BatchEntry> = (1_usize..)
                .zip(reads)
                .map(|(cookie, read)| BatchEntry {
                    mode: 1,
                    unused: 0,
                    device: read.target.pointer() as *mut c_void,
                    file_offset: read.offset as i64,
                    device_offset: 0,
                    bytes: read.target.bytes(),
                    handle: self.handle,
                    operation: 0,
                    unused_too: 0,
                    cookie: cookie as *mut c_void,
                })
                .collect();
            let count = entries.len() as c_uint;
            let mut batch = std::ptr::null_mut();
            // SAFETY: the entries live until all are over; the batch is destroyed once.
            let done = unsafe {
                check("set up a batch", set_up(&raw mut batch, count))?;
                let done = submit_and_wait(batch, &mut entries, submit, status);
                destroy(batch);
                done
            };
            done?;
        }
        Ok(())
    }
}

/// # Safety
/// `batch` must be set up for as many entries, and they must be valid reads.
unsafe fn submit_and_wait(
    batch: *mut c_void,
    entries: &mut [BatchEntry],
    submit: BatchSubmit,
    status: BatchStatus,
) -> Result<()> {
    const COMPLETE: c_int = 0x10;
    const FAILED: c_int = 0x04 | 0x08 | 0x20 | 0x40;
    let count = entries.len() as c_uint;
    // SAFETY: by the caller.
    check("submit a batch", unsafe { submit(batch, count, entries.as_mut_ptr(), 0) })?;
    let empty = BatchEvent { cookie: std::ptr::null_mut(), status: 0, unused: 0, result: 0 };
    let mut over = 0;
    let mut failed = None;
    while over < count {
        let mut events = vec![empty; entries.len()];
        let mut some = count - over;
        let none = std::ptr::null();
        // SAFETY: there is room for `some` events.
        let told = unsafe { status(batch, 1, &raw mut some, events.as_mut_ptr(), none) };
        check("wait for a batch", told)?;
        for event in &events[..some as usize] {
            let wanted = entries.get((event.cookie as usize).wrapping_sub(1));
            if event.status & FAILED != 0 {
                failed = Some(event.status);
            } else if event.status & COMPLETE == 0 {
                continue;
            } else if wanted.is_none_or(|entry| entry.bytes != event.result) {
                failed = Some(event.status);
            }
            over += 1;
        }
    }
    match failed {
        None => Ok(()),
        Some(status) => Err(Error::CuFile { action: "read a batch", code: status.into() }),
    }
}

impl Drop for CuFileHandle {
    fn drop(&mut self) {
        // SAFETY: registered once; the file is closed after this.
        unsafe { (self.library.symbols.deregister)(self.handle) };
    }
}

/// Device memory that the library knows.
pub struct Registered {
    library: Arc<CuFile>,
    start: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: registered once, and not freed yet.
        unsafe { (self.library.symbols.deregister_memory)(self.start as *const c_void) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_lie_where_the_version_says() {
        let mut words = vec![0_u64; 8192];
        for (version, first) in [(1140, 1032 / 8), (1170, 1032 / 8), (1200, 1144 / 8)] {
            words.fill(0);
            words[first + 6..first + 11].copy_from_slice(&[48, 1, 2, 45, 5]);
            let found = read_statistics(&words, version);
            let expected = Proof { total: 48, p2p: 1, nvfs: 2, posix: 45, unaligned: 5 };
            assert_eq!(found, expected, "{version}");
            assert!(!found.is_direct());
            assert_eq!(found.verdict(), "GPU-direct: no (posix 45/48)");
        }
        let direct = Proof { total: 3, p2p: 3, ..Proof::default() };
        assert!(direct.is_direct() && direct.verdict().contains("yes"));
        assert!(!Proof::default().is_direct(), "no reads prove nothing");
    }

    #[test]
    fn structures_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<Description>(), 24);
        assert_eq!(size_of::<BatchEntry>(), 64);
        assert_eq!(size_of::<BatchEvent>(), 24);
    }
}
