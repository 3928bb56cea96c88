//! 3FS without its client library: USRBIO, the rings in shared memory that its daemon serves.
//!
//! ```text
//! this process                                  /dev/shm                        hf3fs_fuse_main
//! Mount ─ one thread registers ─ symlink ──────▶ <mount>/3fs-virt/iovs/<key> ─────────▶ maps
//! Iov   ─ buffers ─────────────────────────────▶ ▒▒▒▒▒▒▒▒ ◀──────────────────── reads, writes
//! Ring  ─ prepare ─ submit ─ semaphore ────────▶ sq │ cq ◀── results ─ semaphore ──── a job
//! ```
//!
//! Start at [`Queue::open_near`](crate::Queue::open_near), which uses it for paths on a 3FS, with
//! buffers from [`Arena::near`](crate::Arena::near): nothing is copied then. What lies below, for
//! who needs rings of his own: [`Mount::of`], [`Iov::create`], [`Ring::create`].
//!
//! A name in `/dev/shm` lives only until the daemon has mapped it, so a process that is killed
//! leaves nothing behind. Waits are on the semaphore, never in slices of time. `unsafe` is in
//! `shared` (atomic words of a map) and `sys` (futex, ioctl), and where a buffer is handed over.

pub(crate) mod backend;
pub(crate) mod blocking;
mod circles;
pub mod control;
mod iov;
mod layout;
#[cfg(test)]
mod model;
mod mount;
mod ring;
mod semaphore;
#[expect(unsafe_code, reason = "atomic words in memory shared with a daemon")]
mod shared;
mod slab;
mod sweep;
#[expect(unsafe_code, reason = "futex, ioctl and mbind have no safe face")]
mod sys;
mod uri;

#[cfg(test)]
mod tests;

pub use circles::{Entry, Reaped};
pub use iov::{Borrowed, Iov, IovOptions};
pub use layout::{
    ALLOW_READ_UNCOMMITTED, FORBID_READ_HOLES, Id, Ioctl, MAGIC, RingKind, RingLayout, iov_key,
    ring_key,
};
pub use mount::{Mount, Pulse, Session, mount_point};
pub use ring::Ring;
pub use sweep::{Orphan, examine, orphans};
pub use sys::is_3fs;
pub use uri::{is_uri, resolve};

/// For tools/usrbio-emulator/fuzz: a daemon that writes whatever `data` says into a ring.
#[cfg(fuzzing)]
pub fn hostile_daemon(data: &[u8]) {
    circles::hostile_daemon(data);
}
