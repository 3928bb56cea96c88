//! Removing a tree: files in parallel, then directories from the inside out.

use std::fs;
use std::path::Path;

use super::walk::{Kind, walk};
use super::{Tally, in_parallel};
use crate::{Error, Result};

/// Removes `path` and all below it; counts in `tally`, where failures go too.
///
/// # Errors
/// [`Error::Io`] if `path` cannot be read at all.
pub fn remove(path: &Path, threads: usize, tally: &Tally) -> Result<()> {
    let entries = walk(path, threads, tally)?;
    let (directories, files): (Vec<_>, Vec<_>) =
        entries.iter().partition(|entry| entry.kind == Kind::Directory);
    in_parallel(&files, threads, |entry| {
        let place = if entry.path.as_os_str().is_empty() {
            path.to_path_buf()
        } else {
            path.join(&entry.path)
        };
        match fs::remove_file(&place) {
            Ok(()) => tally.add(1, entry.size),
            Err(e) => tally.fail(place.clone(), Error::io("remove", &place, e)),
        }
    });
    let own = (!path.is_symlink() && path.is_dir()).then(|| path.to_path_buf());
    // Sorted by path, so what is inside comes later; backwards, it goes first.
    for place in directories.iter().rev().map(|entry| path.join(&entry.path)).chain(own) {
        match fs::remove_dir(&place) {
            Ok(()) => {}
            // Something inside could not go; that is told already.
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) => tally.fail(place.clone(), Error::io("remove", &place, e)),
        }
    }
    Ok(())
}
