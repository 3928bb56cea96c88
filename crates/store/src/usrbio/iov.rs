//! A buffer that the daemon reads and writes too.

use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::layout::{Id, iov_key};
use super::mount::{Mount, Session};
use super::shared::{Name, Shared};
use super::sys;
use crate::memory::{Arena, BUFFER_ALIGN};
use crate::{Error, Result};

/// Registrations of a buffer with network cards are cut into pieces of at most this.
const BLOCK_BYTES: usize = 1 << 30;

/// How the memory of an [`Iov`] is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct IovOptions {
    /// No transfer may cross a multiple of it; 0 for no such bound.
    pub block_bytes: usize,
    /// Memory of this node, if it has some.
    pub numa: Option<u32>,
    /// The name in `/dev/shm` stays until drop, for other processes to open; a process that is
    /// killed then leaves it behind.
    pub keep_name: bool,
}

/// Shared memory, registered with a daemon.
#[derive(Debug)]
pub struct Iov {
    id: Id,
    key: String,
    memory: Shared,
    block_bytes: usize,
    mount: Arc<Mount>,
    session: Arc<Session>,
    name: Mutex<Option<Name>>,
}

/// Iovs by address, so that a queue knows which buffers need no copy.
static IOVS: Mutex<Vec<Weak<Iov>>> = Mutex::new(Vec::new());

impl Iov {
    /// Takes `bytes` of shared memory and registers them.
    ///
    /// # Errors
    /// [`Error::Memory`] if `/dev/shm` is too small, [`Error::ThreeFs`] if the daemon refuses.
    pub fn create(mount: &Arc<Mount>, bytes: usize, options: IovOptions) -> Result<Arc<Self>> {
        let (memory, name) =
            Shared::create(bytes).map_err(|source| Error::Memory { bytes, source })?;
        if let Some(node) = options.numa {
            sys::prefer_node(memory.base(), memory.len(), node);
        }
        let action = "register a buffer with";
        let fail = |source| Error::ThreeFs { action, mount: mount.root().into(), source };
        let id = Id::random().map_err(fail)?;
        let key = iov_key(id, options.block_bytes);
        let session = mount.session();
        mount.register(&key, &name.0).map_err(fail)?;
        // The daemon has mapped it: a process killed from here on leaves nothing behind.
        let name = Mutex::new(options.keep_name.then_some(name));
        let (mount, block_bytes) = (Arc::clone(mount), options.block_bytes);
        let iov = Arc::new(Self { id, key, memory, block_bytes, mount, session, name });
        let mut iovs = IOVS.lock().unwrap_or_else(PoisonError::into_inner);
        iovs.retain(|other| other.strong_count() > 0);
        iovs.push(Arc::downgrade(&iov));
        Ok(iov)
    }

    /// Memory for `count` buffers of `buffer_bytes`, each of which a transfer may fill at once.
    pub(crate) fn for_buffers(
        mount: &Arc<Mount>,
        buffer_bytes: usize,
        count: usize,
    ) -> Result<Arc<Self>> {
        let bytes = buffer_bytes.saturating_mul(count);
        let block_bytes = match BLOCK_BYTES / buffer_bytes {
            _ if bytes <= BLOCK_BYTES => 0,
            0 => BLOCK_BYTES,
            whole => whole * buffer_bytes,
        };
        Self::create(mount, bytes, IovOptions { block_bytes, ..IovOptions::default() })
    }

    /// Lends the memory out as buffers.
    #[expect(unsafe_code, reason = "an arena over memory that a daemon writes")]
    pub(crate) fn into_arena(self: Arc<Self>, buffer_bytes: usize, count: usize) -> Arena {
        let base = self.base();
        assert!(buffer_bytes.saturating_mul(count) <= self.len(), "buffers outside of the iov");
        // SAFETY: the map is zeros, lives as long as the iov that the arena owns, and the daemon
        // touches only what transfers name, which own their buffers until they are over.
        unsafe { Arena::adopt(base, buffer_bytes, count, Box::new(self)) }
    }

    /// The iov whose memory holds the `length` bytes at `start`, registered in this session.
    pub(crate) fn around(
        start: NonNull<u8>,
        length: usize,
        session: &Session,
    ) -> Option<Arc<Self>> {
        let iovs = IOVS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut alive = iovs.iter().filter_map(Weak::upgrade);
        alive.find(|iov| {
            std::ptr::eq(&raw const *iov.session, session) && iov.place(start, length).is_some()
        })
    }

    /// Offset of the `length` bytes at `start`; `None` if they are not all inside.
    pub fn place(&self, start: NonNull<u8>, length: usize) -> Option<u64> {
        let offset = (start.as_ptr() as usize).checked_sub(self.base().as_ptr() as usize)?;
        (offset.checked_add(length)? <= self.len()).then_some(offset as u64)
    }

    /// What the daemon knows it by.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Name of its entry in `3fs-virt/iovs`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where it lies in this process.
    pub fn base(&self) -> NonNull<u8> {
        self.memory.base()
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// No transfer may cross a multiple of it; 0 for no such bound.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Removes its name in `/dev/shm` if it still has one; the memory stays.
    pub fn unlink(&self) {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Iov {
    fn drop(&mut self) {
        self.mount.unregister(&self.key);
    }
}

impl Arena {
    /// Buffers for transfers from and to `path`: in memory shared with the daemon where that is on
    /// a 3FS, so that nothing is copied; as [`Arena::new`] elsewhere.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is too little, [`Error::ThreeFs`] if the daemon refuses.
    pub fn near(path: &std::path::Path, buffer_bytes: usize, count: usize) -> Result<Self> {
        let Some(mount) = Mount::of(path)? else { return Self::new(buffer_bytes, count) };
        let buffer_bytes = buffer_bytes.max(1).next_multiple_of(BUFFER_ALIGN);
        let too_much = || io::Error::from(io::ErrorKind::OutOfMemory);
        if buffer_bytes.checked_mul(count).is_none() {
            return Err(Error::Memory { bytes: usize::MAX, source: too_much() });
        }
        let iov = Iov::for_buffers(&mount, buffer_bytes, count)?;
        Ok(iov.into_arena(buffer_bytes, count))
    }
}

/// Memory registered by another process, mapped here too.
#[derive(Debug)]
pub struct Borrowed {
    memory: Shared,
}

impl Borrowed {
    /// Maps the memory behind the entry of `id` at `mount`, `bytes` of it.
    ///
    /// # Errors
    /// If there is no such entry, its name in `/dev/shm` is gone, or it is shorter.
    pub fn open(mount: &Mount, id: Id, block_bytes: usize, bytes: usize) -> io::Result<Self> {
        let entry = mount.root().join("3fs-virt/iovs").join(iov_key(id, block_bytes));
        let target = mount.ask(move || std::fs::read_link(entry))?;
        Ok(Self { memory: Shared::open(&target, bytes)? })
    }

    /// Where it lies in this process.
    pub fn base(&self) -> NonNull<u8> {
        self.memory.base()
    }
}
