//! Memory that the kernel gives: maps of published files, and arenas of buffers for I/O.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result};

mod map;

pub use map::{Map, prefetch};

/// Size of a huge page on the machines we know; an arena is aligned to it.
const HUGE: usize = 2 << 20;

/// Every buffer starts at a multiple of it: more than any device asks for direct I/O.
pub const BUFFER_ALIGN: usize = 4096;

/// What an arena is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pages {
    /// Reserved huge pages (`vm.nr_hugepages`).
    Huge,
    /// Ordinary memory of which the kernel was asked to make huge pages.
    Transparent,
    /// Ordinary pages of 4 KiB.
    Small,
    /// Memory of somebody else: see [`Arena::adopt`].
    Foreign,
}

/// Buffers of one size, cut out of one piece of memory that stays where it is.
///
/// One region is registered with a ring once, page-locked for a GPU once, or lives in shared memory
/// as a whole; its buffers are lent and come back when dropped. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct Arena(Arc<Region>);

#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    buffer_bytes: usize,
    count: usize,
    pages: Pages,
    /// Positions of the buffers at home.
    free: Mutex<Vec<u32>>,
    _owner: Owner,
}

enum Owner {
    Map(#[expect(dead_code, reason = "held for its memory")] memmap2::MmapMut),
    Foreign(#[expect(dead_code, reason = "held for its memory")] Box<dyn Send + Sync>),
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Map(_) => "Map",
            Self::Foreign(_) => "Foreign",
        })
    }
}

// SAFETY: `base` points into memory that `owner` keeps and that no thread is tied to. Bytes are
// reached only through a `Buffer`, and each position is in the free list or in one `Buffer`.
unsafe impl Send for Region {}
// SAFETY: as above; the free list has its mutex.
unsafe impl Sync for Region {}

impl Arena {
    /// Takes memory for `count` buffers of `buffer_bytes`, rounded up to [`BUFFER_ALIGN`].
    ///
    /// Huge pages are tried first: registering them is four times faster than small ones.
    ///
    /// # Errors
    /// [`Error::Memory`] if the kernel gives none.
    pub fn new(buffer_bytes: usize, count: usize) -> Result<Self> {
        let buffer_bytes = buffer_bytes.max(1).next_multiple_of(BUFFER_ALIGN);
        let wanted = buffer_bytes.checked_mul(count).and_then(|b| b.checked_add(2 * HUGE));
        let refused = |source| Error::Memory { bytes: wanted.unwrap_or(usize::MAX), source };
        let bytes = wanted.ok_or_else(|| refused(std::io::ErrorKind::OutOfMemory.into()))?;
        let bytes = (bytes - 2 * HUGE).next_multiple_of(HUGE);
        if let Ok(map) = memmap2::MmapOptions::new().len(bytes).huge(Some(21)).map_anon() {
            return Ok(Self::over(map, 0, buffer_bytes, count, Pages::Huge));
        }
        let map = memmap2::MmapOptions::new().len(bytes + HUGE).map_anon().map_err(refused)?;
        let skip = map.as_ptr().align_offset(HUGE);
        let asked = map.advise_range(memmap2::Advice::HugePage, skip, bytes);
        let pages = match asked {
            Ok(()) if transparent_pages() => Pages::Transparent,
            _ => Pages::Small,
        };
        Ok(Self::over(map, skip, buffer_bytes, count, pages))
    }

    fn over(
        mut map: memmap2::MmapMut,
        skip: usize,
        buffer_bytes: usize,
        count: usize,
        pages: Pages,
    ) -> Self {
        let base = NonNull::from(&mut map[skip..]).cast();
        Self(Arc::new(Region::new(base, buffer_bytes, count, pages, Owner::Map(map))))
    }

    /// Lends buffers out of memory that exists already: page-locked for a GPU, a shared-memory iov.
    ///
    /// `buffer_bytes` and `base` must be multiples of [`BUFFER_ALIGN`].
    ///
    /// # Safety
    /// `base` must be valid for reads and writes of `buffer_bytes * count` initialised bytes until
    /// `owner` is dropped, and nobody else may touch them meanwhile, except as those who share them
    /// (a GPU, a storage daemon) have agreed.
    pub unsafe fn adopt(
        base: NonNull<u8>,
        buffer_bytes: usize,
        count: usize,
        owner: Box<dyn Send + Sync>,
    ) -> Self {
        assert_eq!(buffer_bytes % BUFFER_ALIGN, 0, "buffers of a page or more");
        assert_eq!(base.as_ptr().align_offset(BUFFER_ALIGN), 0, "memory at the start of a page");
        let owner = Owner::Foreign(owner);
        Self(Arc::new(Region::new(base, buffer_bytes, count, Pages::Foreign, owner)))
    }

    /// A buffer, or `None` while all are lent. Its bytes are what the last borrower left.
    pub fn lend(&self) -> Option<Buffer> {
        let position = self.0.free().pop()?;
        let length = self.0.buffer_bytes;
        // SAFETY: `position < count`, so the result lies inside the region.
        let start = unsafe { self.0.base.add(position as usize * length) };
        Some(Buffer { region: Arc::clone(&self.0), start, position })
    }

    /// Size of each buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.0.buffer_bytes
    }

    /// How many buffers there are, lent or not.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// How many are at home.
    pub fn idle(&self) -> usize {
        self.0.free().len()
    }

    /// What it is made of.
    pub fn pages(&self) -> Pages {
        self.0.pages
    }

    /// Where its memory lies, for whoever registers or page-locks it as a whole.
    pub fn memory(&self) -> (NonNull<u8>, usize) {
        (self.0.base, self.0.buffer_bytes * self.0.count)
    }

    /// Position of `buffer` in this arena, or `None` if it belongs to another.
    pub(crate) fn position(&self, buffer: &Buffer) -> Option<usize> {
        Arc::ptr_eq(&self.0, &buffer.region).then_some(buffer.position as usize)
    }
}

impl Region {
    fn new(base: NonNull<u8>, bytes: usize, count: usize, pages: Pages, owner: Owner) -> Self {
        let count = count.min(u32::MAX as usize);
        // The last is lent first: low addresses are used again while they are warm.
        let free = Mutex::new((0..count as u32).rev().collect());
        Self { base, buffer_bytes: bytes, count, pages, free, _owner: owner }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        // A panic cannot leave a list of numbers half changed.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the kernel makes huge pages out of memory that asks for them.
fn transparent_pages() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|modes| !modes.contains("[never]"))
}

/// A piece of an [`Arena`], one owner at a time, at home again when dropped.
///
/// It does not move: a kernel or device may hold its address for as long as the `Buffer` exists.
#[derive(Debug)]
pub struct Buffer {
    region: Arc<Region>,
    start: NonNull<u8>,
    position: u32,
}

// SAFETY: one `Buffer` owns its bytes alone, and they are not tied to a thread.
unsafe impl Send for Buffer {}
// SAFETY: a shared `Buffer` only gives shared slices.
unsafe impl Sync for Buffer {}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes lie inside the region, are initialised (zeros of a fresh map, or as
        // `adopt` promises), and belong to this `Buffer` alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.region.buffer_bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.region.buffer_bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.region.free().push(self.position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_apart_from_each_other_and_come_back() {
        let arena = Arena::new(5000, 3).unwrap();
        assert_eq!((arena.buffer_bytes(), arena.count()), (8192, 3));
        let mut lent: Vec<Buffer> = std::iter::from_fn(|| arena.lend()).collect();
        assert_eq!((lent.len(), arena.idle()), (3, 0));
        for (n, buffer) in lent.iter_mut().enumerate() {
            assert_eq!(buffer.as_ptr().align_offset(BUFFER_ALIGN), 0);
            buffer.fill(n as u8 + 1);
        }
        for (n, buffer) in lent.iter().enumerate() {
            assert!(buffer.iter().all(|&b| b == n as u8 + 1), "buffer {n} was written by another");
        }
        drop(lent.pop());
        assert_eq!(arena.idle(), 1);
        assert!(arena.lend().is_some());
    }

    #[test]
    fn a_buffer_keeps_the_memory_of_its_arena() {
        let arena = Arena::new(4096, 1).unwrap();
        let mut buffer = arena.lend().unwrap();
        drop(arena);
        buffer.fill(7);
        assert!(buffer.iter().all(|&b| b == 7));
    }

    #[test]
    fn memory_of_others_is_lent_the_same_way() {
        let mut memory = memmap2::MmapOptions::new().len(8192).map_anon().unwrap();
        let base = NonNull::from(&mut memory[..]).cast();
        // SAFETY: two pages, owned by the arena from here on and touched by nobody else.
        let arena = unsafe { Arena::adopt(base, 4096, 2, Box::new(memory)) };
        assert_eq!((arena.pages(), arena.memory().1), (Pages::Foreign, 8192));
        let (mut a, b) = (arena.lend().unwrap(), arena.lend().unwrap());
        a.fill(1);
        assert!(b.iter().all(|&byte| byte == 0));
        assert!(arena.lend().is_none());
    }

    #[test]
    fn more_memory_than_there_can_be_is_an_error() {
        let error = Arena::new(usize::MAX / 4, 16).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
