use std::ops::Deref;
use std::path::Path;

use crate::{Error, Result};

/// A read-only memory map of a published file.
#[derive(Debug)]
pub struct Map(Option<memmap2::Mmap>);

impl Map {
    /// Maps all of `path`. An empty file maps to an empty slice.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        let size = file.metadata().map_err(|e| Error::io("stat", path, e))?.len();
        if size == 0 {
            return Ok(Self(None));
        }
        // SAFETY: published files are never written again, they are replaced by rename, so the
        // bytes under the map do not change. A file cut short by someone else raises SIGBUS:
        // the price of not copying an index of gigabytes at every start.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        Ok(Self(Some(map)))
    }

    /// Is all of this range in memory now, so that reading it through the map waits for no disk?
    ///
    /// Of files that the caller could not write, Linux says nothing but yes: a map then waits for
    /// the disk like any read, only without an error of its own. Cost: 10 µs a MiB.
    ///
    /// # Panics
    /// If the range passes the end.
    pub fn is_resident(&self, offset: usize, length: usize) -> bool {
        let bytes = &self[offset..offset + length];
        let page = rustix::param::page_size();
        let start = bytes.as_ptr() as usize & !(page - 1);
        let length = bytes.as_ptr() as usize + length - start;
        let mut pages = vec![0_u8; length.div_ceil(page)];
        // SAFETY: the range starts on a page and lies in the map, which lives as long as `self`;
        // there is a byte in `pages` for each of its pages, and nothing else is written.
        let done = unsafe { libc::mincore(start as *mut _, length, pages.as_mut_ptr().cast()) };
        done == 0 && pages.iter().all(|page| page & 1 == 1)
    }
}

/// Has the processor fetch the first line of each page under `bytes`, and go on: many places in
/// memory are waited for at once, and from there on it fetches ahead by itself.
///
/// Half as long again takes whoever reads a byte of each instead, since a read that waits holds up
/// what comes after it.
pub fn prefetch(bytes: &[u8]) {
    const PAGE: usize = 4096;
    let to_border = PAGE - bytes.as_ptr() as usize % PAGE;
    let firsts = bytes.first().into_iter();
    let borders = bytes.get(to_border..).unwrap_or_default().iter().step_by(PAGE);
    for byte in firsts.chain(borders) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint, which looks at nothing and faults nowhere; the address is that of a byte.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::hint::black_box(*byte);
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_resident() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![7; 20_000]).unwrap();
        let map = Map::open(&path).unwrap();
        assert!(map.is_resident(0, 20_000) && map.is_resident(4_095, 2) && map.is_resident(5, 0));
    }
}
