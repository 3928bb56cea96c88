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
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
