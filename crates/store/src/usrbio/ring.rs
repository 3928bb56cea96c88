//! Submissions and completions of one direction.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::circles::{Circles, Entry, Reaped};
use super::layout::{Id, RingKind, RingLayout, lane, ring_key};
use super::mount::{Mount, Session};
use super::semaphore::Semaphore;
use super::shared::Shared;
use super::sys;
use crate::{Error, Result};

/// A wait looks at the indices this often by itself, for a daemon that forgot to wake us.
const LOOK: Duration = Duration::from_millis(100);

/// A ring, registered with a daemon. Any thread may prepare and reap.
#[derive(Debug)]
pub struct Ring {
    id: Id,
    key: String,
    kind: RingKind,
    circles: Circles,
    mount: Arc<Mount>,
    session: Arc<Session>,
}

impl Ring {
    /// Makes a ring of `entries` and registers it. Its memory has no name afterwards.
    ///
    /// # Errors
    /// [`Error::Memory`] if `/dev/shm` is full, [`Error::ThreeFs`] if the daemon refuses, as it
    /// does when `kind.io_depth` is above `entries`.
    pub fn create(
        mount: &Arc<Mount>,
        entries: usize,
        kind: RingKind,
        numa: Option<u32>,
    ) -> Result<Self> {
        let action = "register a ring with";
        let fail = |source| Error::ThreeFs { action, mount: mount.root().into(), source };
        if entries == 0 || entries > 1 << 24 {
            return Err(fail(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let layout = RingLayout::of(entries);
        let bytes = layout.file_bytes();
        let (memory, name) =
            Shared::create(bytes).map_err(|source| Error::Memory { bytes, source })?;
        if let Some(node) = numa {
            sys::prefer_node(memory.base(), bytes, node);
        }
        let id = Id::random().map_err(fail)?;
        let key = ring_key(id, &kind);
        let session = mount.session();
        mount.register(&key, &name.0).map_err(fail)?;
        drop(name);
        let (circles, mount) = (Circles::new(memory, layout), Arc::clone(mount));
        Ok(Self { id, key, kind, circles, mount, session })
    }

    /// Usable entries.
    pub fn entries(&self) -> usize {
        self.circles.layout().entries()
    }

    /// What the daemon was told about it.
    pub fn kind(&self) -> &RingKind {
        &self.kind
    }

    /// What the daemon knows it by.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Where its file lies in this process, and how long it is.
    pub fn memory(&self) -> (std::ptr::NonNull<u8>, usize) {
        self.circles.memory()
    }

    /// Puts an entry into the ring; the daemon may run it from here on, told or not.
    /// Returns its slot, or `None` if the ring is full: reap, then try again.
    ///
    /// # Safety
    /// Nobody else may touch the bytes of the iov that `entry` names until its completion is
    /// reaped or the daemon is gone, and the iov must stay for as long.
    ///
    /// # Errors
    /// `InvalidData` if the other side wrote indices that cannot be.
    #[expect(unsafe_code, reason = "the daemon moves bytes behind the compiler's back")]
    #[inline]
    pub unsafe fn prepare(&self, entry: &Entry) -> io::Result<Option<usize>> {
        self.circles.prepare(entry)
    }

    /// Wakes the daemon. One call does for any number of entries, in all rings of a priority.
    pub fn submit(&self) {
        self.session.wake(lane(self.kind.priority));
    }

    /// Hands what is over to `each`, `most` at most; does not wait. Returns how many.
    ///
    /// # Errors
    /// `InvalidData` if the other side wrote what cannot be: use this ring no more.
    pub fn reap(&self, most: usize, each: impl FnMut(Reaped)) -> io::Result<usize> {
        self.circles.reap(most, each)
    }

    /// Waits until `at_least` are over or `deadline` passed; as [`Ring::reap`] otherwise.
    ///
    /// # Errors
    /// As [`Ring::reap`]; `NotConnected` if the daemon died, whose completions never come.
    pub fn wait(
        &self,
        at_least: usize,
        most: usize,
        deadline: Option<Instant>,
        mut each: impl FnMut(Reaped),
    ) -> io::Result<usize> {
        let mut count = 0;
        loop {
            self.semaphore().take_all();
            let reaped = self.reap(most - count, &mut each)?;
            if reaped > 0 {
                // There is room for completions again, which the daemon may wait for.
                self.submit();
            }
            count += reaped;
            if count >= at_least.min(most) {
                return Ok(count);
            }
            let left =
                deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(count);
            }
            let start = Instant::now();
            Self::sleep(&[self], left.min(LOOK));
            if start.elapsed() >= LOOK
                && !matches!(self.mount.pulse(&self.session), super::Pulse::Alive)
            {
                return Err(io::ErrorKind::NotConnected.into());
            }
        }
    }

    fn semaphore(&self) -> Semaphore<'_> {
        self.circles.semaphore()
    }

    /// Forgets posts, so that [`Ring::sleep`] wakes only for completions after the next look.
    pub(crate) fn forget_posts(&self) {
        self.semaphore().take_all();
    }

    /// Sleeps until the daemon posts one of these rings, or for `timeout`.
    pub(crate) fn sleep(rings: &[&Self], timeout: Duration) {
        match rings {
            [] => std::thread::sleep(timeout),
            [one] => Semaphore::wait_any(&[one.semaphore()], timeout),
            all => {
                let all: Vec<Semaphore<'_>> = all.iter().map(|ring| ring.semaphore()).collect();
                Semaphore::wait_any(&all, timeout);
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.mount.unregister(&self.key);
    }
}
