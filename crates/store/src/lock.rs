use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

/// How often, and how long apart, a lock that is held is tried again before that is an error.
const LOOKS: u32 = 5;
const LOOK: Duration = Duration::from_millis(10);

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

    /// Takes the lock file at `path`, which is created if missing and stays behind. It says who had
    /// it last, for the error of those that come meanwhile.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process holds it.
    pub fn take(path: &Path) -> Result<Self> {
        Self::hold(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Does a process have it for itself? Writes nothing, and hinders nobody that takes the lock.
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = std::fs::File::open(path) else { return false };
        // Shared: to take it for itself, NFS wants a file that is open for writing.
        let taken = flock(&file, FlockOperation::NonBlockingLockShared);
        taken == Err(rustix::io::Errno::WOULDBLOCK)
    }

    fn hold(path: &Path, how: FlockOperation) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| Error::io("create", path, e))?;
        // Who only looks whether it is held has it for an instant.
        let mut taken = flock(&file, how);
        for _ in 0..LOOKS {
            if taken != Err(rustix::io::Errno::WOULDBLOCK) {
                break;
            }
            std::thread::sleep(LOOK);
            taken = flock(&file, how);
        }
        taken.map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => {
                let mut holder = String::new();
                // Advice: without it, the error is the same.
                let _ = (&file).take(256).read_to_string(&mut holder);
                Error::Locked { path: path.to_path_buf(), holder: holder.trim_end().to_owned() }
            }
            other => Error::io("lock", path, other.into()),
        })?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let holder = format!("process {} on {}\n", std::process::id(), host.trim_end());
        let _ = file.set_len(0).and_then(|()| (&file).write_all(holder.as_bytes()));
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err();
        let mine = format!("process {} on ", std::process::id());
        assert!(error.to_string().contains(&mine), "{error}");
        assert!(error.hint().unwrap().contains(path.to_str().unwrap()));
        drop(held);
        let shared = [Lock::share(&path).unwrap(), Lock::share(&path).unwrap()];
        assert!(matches!(Lock::take(&path), Err(Error::Locked { .. })));
        assert!(!Lock::is_held(&path), "by several, none for itself");
        drop(shared);
        assert!(!Lock::is_held(&path) && !Lock::is_held(&dir.path().join("none")));
        let held = Lock::take(&path).unwrap();
        assert!(Lock::is_held(&path));
        drop(held);
    }
}
