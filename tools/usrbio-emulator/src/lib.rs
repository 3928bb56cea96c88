//! A 3FS daemon in memory, to test clients of its USRBIO rings without a cluster.
//!
//! ```text
//! <mount>/                    files in memory, in chunks, with holes
//! └── 3fs-virt/
//!     ├── iovs/               symlinks into /dev/shm register buffers and rings
//!     │   └── submit-ios{.ph,,.pl} ─▶ /dev/shm/sem.hf3fs-submit-ios.<uuid>   wake the watchers
//!     ├── rm-rf/              a symlink here removes its target and all below
//!     └── get-conf/ set-conf/ `ln -s short=3 set-conf/emulator.faults` breaks something
//! ```
//!
//! [`Emulator::mount`] serves a mount point from threads of this process; the binary
//! `usrbio-emulator` does so alone. [`Faults`] says what goes wrong. It shares no code with any
//! client: what both sides believe of the bytes is written down twice.

mod faults;
mod fs;
#[cfg(any(test, fuzzing))]
mod hostile;
mod key;
mod ring;
mod shared;
mod table;
mod tree;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use fuser::{BackgroundSession, Config, MountOption, SessionACL};

pub use self::faults::Faults;
#[cfg(fuzzing)]
pub use self::hostile::hostile_client;
pub use self::key::{Key, RingKey, parse};
use self::watch::Daemon;

/// How an emulator is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Cluster id, shorter than 32 bytes.
    pub cluster: String,
    /// Size of chunks, a power of two.
    pub chunk_bytes: u64,
    /// Threads that do jobs; with 0 a watcher does its own, which is fastest.
    pub workers: usize,
    /// Entries in `iovs` at most.
    pub iov_limit: usize,
    /// What goes wrong from the start.
    pub faults: Faults,
    /// Files of this directory are there from the start.
    pub preload: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cluster: "emulator".into(),
            chunk_bytes: 1 << 20,
            workers: 2,
            iov_limit: 1 << 20,
            faults: Faults::default(),
            preload: None,
        }
    }
}

/// A mounted emulator; unmounted when dropped, as by a daemon that ends in order.
#[derive(Debug)]
pub struct Emulator {
    mount: PathBuf,
    daemon: Arc<Daemon>,
    session: Option<BackgroundSession>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// Why no file system can be mounted here; `None` if one can.
pub fn unavailable() -> Option<String> {
    if let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return Some(format!("/dev/fuse: {e}"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("fusermount3").exists());
    (!found).then(|| "no fusermount3: apt install fuse3".into())
}

impl Emulator {
    /// Mounts an empty 3FS at `mount`, a directory.
    ///
    /// # Errors
    /// Without /dev/fuse, fusermount3 or the right to mount.
    pub fn mount(mount: &Path, options: &Options) -> io::Result<Self> {
        if options.cluster.len() >= 32 || !options.chunk_bytes.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mount = mount.canonicalize()?;
        let submits = shared::Submits::create()?;
        let faults = options.faults.clone();
        let daemon = Daemon::new(submits, options.chunk_bytes, options.workers, faults);
        if let Some(from) = &options.preload {
            daemon.tree.load(from, tree::ROOT, options.chunk_bytes)?;
        }
        let daemon = Arc::new(daemon);
        let files = fs::Files::new(Arc::clone(&daemon), &mount, options);
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(format!("hf3fs.{}", options.cluster)),
            MountOption::Subtype("hf3fs".into()),
            MountOption::DefaultPermissions,
            // Makes fusermount3 mount, which sets the type to `fuse.hf3fs`, and unmount when this
            // process is killed.
            MountOption::AutoUnmount,
            MountOption::CUSTOM("max_read=1048576".into()),
        ];
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(files, &mount, &config)?;
        let threads = watch::start(&daemon)?;
        Ok(Self { mount, daemon, session: Some(session), threads })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Breaks something from now on, or mends it.
    pub fn set_faults(&self, faults: Faults) {
        *self.daemon.faults.write().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Names of the entries that clients have in `iovs`.
    pub fn entries(&self) -> Vec<String> {
        self.daemon.table().all().map(|(name, _)| name.to_owned()).collect()
    }

    /// Transfers that rings asked for, so far.
    pub fn transfers(&self) -> u64 {
        self.daemon.transfers.load(Ordering::Relaxed)
    }

    /// Entries that clients asked for in `iovs` and did not get, so far.
    pub fn refused(&self) -> u64 {
        self.daemon.refused.load(Ordering::Relaxed)
    }

    /// Serves until somebody unmounts it.
    ///
    /// # Errors
    /// If the kernel breaks off.
    pub fn run(mut self) -> io::Result<()> {
        self.session.take().map_or(Ok(()), BackgroundSession::join)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // The helper of an automatic unmount leaves a mount alone whose daemon still answers.
            let mut unmount = std::process::Command::new("fusermount3");
            let _ = unmount.arg("-uz").arg(&self.mount).output();
            // Not joined: whoever still has a file open here, this process perhaps, is served until
            // it closes it, and the session ends then.
            drop(session);
        }
        self.daemon.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
