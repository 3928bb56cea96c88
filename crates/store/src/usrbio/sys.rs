//! System calls without a safe face: futexes in shared memory, the ioctls of 3FS, NUMA policy.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::layout::{Ioctl, MAGIC};

/// What a wait can be for at once.
const AT_ONCE: usize = 16;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The low half of `word`: the value of a semaphore on a little-endian machine.
fn low_half(word: &AtomicU64) -> *mut u32 {
    word.as_ptr().cast()
}

/// Wakes one that waits on the low half of `word`, in any process.
pub(crate) fn futex_wake(word: &AtomicU64) {
    // SAFETY: the address is valid for as long as the borrow; waking reads and writes nothing.
    unsafe { libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAKE, 1) };
}

/// Sleeps while the low half of `word` is zero, for `timeout` at most. May wake early.
pub(crate) fn futex_wait(word: &AtomicU64, timeout: Duration) {
    let spec = timespec(timeout);
    // SAFETY: address and `spec` are valid for the call, which only reads them.
    unsafe {
        libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAIT, 0_u32, &raw const spec)
    };
}

/// As [`futex_wait`], on several words: wakes when one of them does.
///
/// # Errors
/// `ENOSYS` before Linux 5.16.
pub(crate) fn futex_wait_any(words: &[&AtomicU64], timeout: Duration) -> io::Result<()> {
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Waiter {
        value: u64,
        address: u64,
        flags: u32,
        reserved: u32,
    }
    const BITS_32: u32 = 2;
    let mut waiters = [Waiter::default(); AT_ONCE];
    let count = words.len().min(AT_ONCE);
    for (waiter, word) in waiters.iter_mut().zip(words) {
        *waiter = Waiter { address: low_half(word) as u64, flags: BITS_32, ..Waiter::default() };
    }
    let mut until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `until` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut until) };
    let left = timespec(timeout);
    until.tv_sec += left.tv_sec + (until.tv_nsec + left.tv_nsec) / 1_000_000_000;
    until.tv_nsec = (until.tv_nsec + left.tv_nsec) % 1_000_000_000;
    // SAFETY: `count` waiters and `until` are valid for the call, the words for their borrows.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            count as u32,
            0_u32,
            &raw const until,
            libc::CLOCK_MONOTONIC,
        )
    };
    match check(result) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Err(e),
        // Woken, changed meanwhile, interrupted or late: the caller looks again.
        _ => Ok(()),
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs().min(1 << 30) as i64,
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Runs one of the ioctls on `file`; `data` goes in and comes out.
///
/// # Errors
/// What the daemon answers; `ENOTTY` where there is no 3FS.
pub(crate) fn ioctl(file: &impl AsRawFd, request: u32, data: &mut [u8]) -> io::Result<()> {
    let expected = (request >> 16 & 0x3fff) as usize;
    if data.len() < expected {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    #[allow(clippy::cast_lossless, reason = "64 bits with glibc, 32 with musl")]
    let number = request as libc::Ioctl;
    // SAFETY: the number tells the kernel the size of the argument, and there is that much of it.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), number, data.as_mut_ptr()) };
    check(done.into()).map(|_| ())
}

/// Whether a descriptor lies on a 3FS: the answer of the magic ioctl.
pub fn is_3fs(file: &impl AsRawFd) -> bool {
    let mut answer = [0; 4];
    ioctl(file, Ioctl::MAGIC, &mut answer).is_ok() && u32::from_le_bytes(answer) == MAGIC
}

/// Asks for memory on one node of a machine with several; a wish, not a demand.
pub(crate) fn prefer_node(base: std::ptr::NonNull<u8>, bytes: usize, node: u32) {
    const PREFERRED: i32 = 1;
    let mask = 1_u64.checked_shl(node).unwrap_or(0);
    // SAFETY: the policy of a range changes none of its bytes; the mask is valid for the call.
    unsafe {
        libc::syscall(libc::SYS_mbind, base.as_ptr(), bytes, PREFERRED, &raw const mask, 64_u64, 0)
    };
}
