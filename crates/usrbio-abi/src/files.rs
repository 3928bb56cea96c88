//! Descriptors that transfers may name.
//!
//! A copy of each is kept: the daemon serves only files that somebody has open. The table grows
//! with the numbers in use, not with the limit on them, which is a billion in some containers.

use std::ffi::c_int;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{PoisonError, RwLock};

use forebay_store::usrbio::is_3fs;

use crate::{errno, lent};

/// By number: of the descriptor and of its copy.
static FILES: RwLock<Vec<Option<Known>>> = RwLock::new(Vec::new());

struct Known {
    inode: u64,
    readable: bool,
    writable: bool,
    /// The other number.
    other: usize,
    /// In the place of the copy alone.
    #[expect(dead_code, reason = "held so that the file stays open")]
    copy: Option<File>,
}

fn number(fd: c_int) -> usize {
    fd.unsigned_abs() as usize
}

/// Returns the number of the copy.
pub(crate) fn register(fd: c_int) -> Result<c_int, c_int> {
    if fd < 0 {
        return Err(libc::EBADF);
    }
    let file = lent(fd);
    if !is_3fs(&*file) {
        return Err(libc::EBADF);
    }
    let mut files = FILES.write().unwrap_or_else(PoisonError::into_inner);
    if files.get(number(fd)).is_some_and(Option::is_some) {
        return Err(libc::EINVAL);
    }
    let inode = file.metadata().map_err(|e| errno(&e))?.ino();
    // SAFETY: asks for flags, changes nothing.
    let mode = unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_ACCMODE;
    let (readable, writable) = (mode != libc::O_WRONLY, mode != libc::O_RDONLY);
    let copy = file.try_clone().map_err(|e| errno(&e))?;
    let copied = copy.as_raw_fd();
    let (first, second) = (number(fd), number(copied));
    let places = files.len().max(first.max(second) + 1);
    files.resize_with(places, || None);
    files[first] = Some(Known { inode, readable, writable, other: second, copy: None });
    files[second] = Some(Known { inode, readable, writable, other: first, copy: Some(copy) });
    Ok(copied)
}

/// Closes the copy; the caller's descriptor stays open.
pub(crate) fn forget(fd: c_int) {
    let mut files = FILES.write().unwrap_or_else(PoisonError::into_inner);
    let known = files.get_mut(number(fd)).and_then(Option::take);
    let other = known.as_ref().and_then(|known| files.get_mut(known.other)?.take());
    drop((known, other));
}

/// Inode of a registered descriptor, its copy, or the negative of that.
pub(crate) fn inode(fd: c_int, read: bool) -> Result<u64, c_int> {
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
    let known = files.get(number(fd)).and_then(Option::as_ref).ok_or(libc::EBADF)?;
    if if read { known.readable } else { known.writable } {
        Ok(known.inode)
    } else {
        Err(libc::EACCES)
    }
}
