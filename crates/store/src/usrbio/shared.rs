//! A piece of `/dev/shm`, seen as atomic words: the other side may write at any instant.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};

use super::layout::Id;

/// Where shared memory has names.
pub(crate) const SHM: &str = "/dev/shm";

/// Shared memory, mapped for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Shared {
    map: MmapRaw,
}

/// A name in `/dev/shm`, removed when dropped.
#[derive(Debug)]
pub(crate) struct Name(pub(crate) PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Shared {
    /// New memory of zeros under a new name.
    ///
    /// # Errors
    /// `ENOSPC` if `/dev/shm` cannot hold it: found out now, not by SIGBUS at the first touch.
    pub(crate) fn create(bytes: usize) -> io::Result<(Self, Name)> {
        let path = Path::new(SHM).join(format!("hf3fs-iov-{}", Id::random()?));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o666).open(&path)?;
        let name = Name(path);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.max(1) as u64)?;
        Ok((Self::map(&file, bytes)?, name))
    }

    /// Memory of this process alone.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn private(bytes: usize) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(bytes).map_anon()?.into() })
    }

    /// The memory behind a name that somebody made, `bytes` of it.
    pub(crate) fn open(path: &Path, bytes: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < bytes as u64 {
            let what = format!("{} is shorter than {bytes} bytes", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Self::map(&file, bytes)
    }

    fn map(file: &File, bytes: usize) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(bytes).map_raw(file)? })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        // A map is nowhere at zero.
        NonNull::new(self.map.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// # Panics
    /// If the word is not wholly inside, or not at a multiple of its size.
    #[inline]
    pub(crate) fn word32(&self, offset: usize) -> &AtomicI32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.map.len(), "a word outside");
        // SAFETY: inside the map, which lives as long as `self`, and aligned since maps start on a
        // page. Every access to shared words is atomic, here as in the daemon.
        unsafe { AtomicI32::from_ptr(self.map.as_mut_ptr().add(offset).cast()) }
    }

    /// # Panics
    /// If the word is not wholly inside, or not at a multiple of its size.
    #[inline]
    pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.map.len(), "a word outside");
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(offset).cast()) }
    }

    /// Asks for the cache line of `offset` to write it soon: the other side has read it, so it must
    /// be taken away from its core, which is the better part of what a small write costs.
    #[inline]
    pub(crate) fn will_write(&self, offset: usize) {
        debug_assert!(offset < self.map.len(), "a line outside");
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a hint, which faults nowhere and writes nothing.
        unsafe {
            let line = self.map.as_mut_ptr().wrapping_add(offset);
            std::arch::asm!("prefetchw [{0}]", in(reg) line, options(nostack, preserves_flags));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_one_map_writes_another_reads_until_the_name_is_gone() {
        let (ours, name) = Shared::create(100).unwrap();
        let theirs = Shared::open(&name.0, 100).unwrap();
        ours.word64(8).store(7, Ordering::Release);
        assert_eq!(theirs.word64(8).load(Ordering::Acquire), 7);
        assert!(Shared::open(&name.0, 5000).is_err(), "more than there is");
        let path = name.0.clone();
        drop(name);
        assert!(!path.exists());
        ours.word32(0).store(3, Ordering::Release);
        assert_eq!(theirs.word32(0).load(Ordering::Acquire), 3, "memory outlives its name");
    }

    #[test]
    fn more_than_dev_shm_holds_is_an_error_and_leaves_no_name() {
        let before = std::fs::read_dir(SHM).unwrap().count();
        assert!(Shared::create(1 << 46).is_err());
        // Other tests come and go; a leak here would be one more for good.
        let after = std::fs::read_dir(SHM).unwrap().count();
        assert!(after <= before + 8, "{before} names, then {after}");
    }
}
