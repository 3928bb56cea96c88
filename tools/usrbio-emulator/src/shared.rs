//! Memory of clients, seen as atomic words and as bytes; semaphores as glibc lays them out.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};

/// Memory that a client made. It may write any byte at any time, so no reference to bytes is made.
#[derive(Debug)]
pub(crate) struct Shared(MmapRaw);

impl Shared {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self(MmapOptions::new().map_raw(&file)?))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn word32(&self, offset: usize) -> &AtomicI32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len(), "a word outside");
        // SAFETY: inside the map and aligned; all access to it is atomic or by raw copies.
        unsafe { AtomicI32::from_ptr(self.0.as_mut_ptr().add(offset).cast()) }
    }

    pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len(), "a word outside");
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().add(offset).cast()) }
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len()), "outside");
        // SAFETY: inside the map. The client gave these bytes to us until their completion; if it
        // touches them meanwhile, bytes of its own are mixed up and nothing else.
        unsafe {
            let to = self.0.as_mut_ptr().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Zeros `length` bytes from `offset`.
    pub(crate) fn clear(&self, offset: usize, length: usize) {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.len()), "outside");
        // SAFETY: as in `put`.
        unsafe { std::ptr::write_bytes(self.0.as_mut_ptr().add(offset), 0, length) };
    }

    /// Copies bytes from `offset` into `bytes`.
    pub(crate) fn get(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len()), "outside");
        // SAFETY: as in `put`, the other way.
        unsafe {
            let from = self.0.as_mut_ptr().add(offset);
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
        }
    }

    /// Sets up a semaphore between processes, of value zero.
    pub(crate) fn init_semaphore(&self, offset: usize) {
        self.word64(offset).store(0, Ordering::Relaxed);
        self.word32(offset + 8).store(0x80, Ordering::Release);
    }

    pub(crate) fn post(&self, offset: usize) {
        let word = self.word64(offset);
        if word.fetch_add(1, Ordering::Release) >> 32 != 0 {
            // SAFETY: the address is that of the word's value; waking touches nothing.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
        }
    }

    /// Takes one if there is one within `timeout`.
    pub(crate) fn wait(&self, offset: usize, timeout: Duration) -> bool {
        let word = self.word64(offset);
        let take = || {
            let now = word.load(Ordering::Acquire);
            let wish = if now as u32 == 0 { None } else { Some(now - 1) };
            match wish {
                None => Some(false),
                Some(next) => word
                    .compare_exchange_weak(now, next, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                    .then_some(true),
            }
        };
        let try_take = || loop {
            if let Some(taken) = take() {
                return taken;
            }
        };
        if try_take() {
            return true;
        }
        word.fetch_add(1 << 32, Ordering::Relaxed);
        let spec = libc::timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: address and time are valid for the call.
        unsafe {
            let (op, spec) = (libc::FUTEX_WAIT, &raw const spec);
            libc::syscall(libc::SYS_futex, word.as_ptr(), op, 0_u32, spec)
        };
        let taken = try_take();
        word.fetch_sub(1 << 32, Ordering::Relaxed);
        taken
    }
}

/// The three semaphores that clients post, unlinked when this goes.
#[derive(Debug)]
pub(crate) struct Submits {
    pub(crate) paths: [PathBuf; 3],
    pub(crate) memory: [Shared; 3],
}

impl Submits {
    pub(crate) fn create() -> io::Result<Self> {
        let make = || {
            let path = PathBuf::from(format!("/dev/shm/sem.hf3fs-submit-ios.{}", random_uuid()?));
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(0o666).open(&path)?;
            // Whatever the umask says: clients of other users post it too.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            file.set_permissions(mode)?;
            file.set_len(32)?;
            let memory = Shared::open(&path)?;
            memory.init_semaphore(0);
            Ok::<_, io::Error>((path, memory))
        };
        let ((a, x), (b, y), (c, z)) = (make()?, make()?, make()?);
        Ok(Self { paths: [a, b, c], memory: [x, y, z] })
    }
}

impl Drop for Submits {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn random_uuid() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}
