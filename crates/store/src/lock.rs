use std::fs::OpenOptions;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

/// An exclusive hold on a path, given up when dropped or when the process dies.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

impl Lock {
    /// As [`Lock::take`], together with others that share it.
    ///
    /// # Errors
    /// [`Error::Locked`] if a process has it for itself.
    pub fn share(path: &Path) -> Result<Self> {
        Self::hold(path, FlockOperation::NonBlockingLockShared)
    }

    /// Takes the lock file at `path`, which is created if missing and stays behind, empty.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process holds it.
    pub fn take(path: &Path) -> Result<Self> {
        Self::hold(path, FlockOperation::NonBlockingLockExclusive)
    }

    fn hold(path: &Path, how: FlockOperation) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|e| Error::io("create", path, e))?;
        flock(&file, how).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => Error::Locked { path: path.to_path_buf() },
            other => Error::io("lock", path, other.into()),
        })?;
        Ok(Self(file))
    }
}
