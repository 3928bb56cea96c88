//! Stage 2: signatures → pairs of documents with an equal bucket.

use std::path::{Path, PathBuf};

use forebay_store::{File, NewFile};
use forebay_transform::dedup::datatrove::Parameters;
use forebay_transform::dedup::datatrove::record::{PAIR_BYTES, words};

use super::merge::{Signatures, corrupt};
use super::{Folder, Node, list};
use crate::ordered::ordered;
use crate::plan::Execution;
use crate::progress::{Progress, Unit};
use crate::{Error, Result};

/// Records read or written at once.
const BLOCK: usize = 1 << 14;

/// What was paired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paired {
    /// Ranks whose signatures were read.
    pub files: u64,
    /// Pairs written, over all buckets; two documents may be a pair in several.
    pub pairs: u64,
}

/// Writes `out/dups/{bucket:05}_00.dups` from a folder that holds `bucket_000`, ….
///
/// Threads take a bucket each. Memory: `execution.memory_bytes` for buffers, or 4 KiB a file if
/// that is more.
///
/// # Errors
/// [`Error::NotEmpty`] if there are pairs already; signatures that are cut short, not in order or
/// of other parameters.
pub fn pairs(
    signatures: &Path,
    out: &Path,
    parameters: &Parameters,
    execution: &Execution,
    progress: &Progress,
) -> Result<Paired> {
    let signatures = Signatures::open(signatures, parameters)?;
    let folder = Folder::create(out, "dups")?;
    progress.start("pairs", Unit::Bytes, signatures.bytes());
    let threads = execution.threads.clamp(1, parameters.buckets);
    let memory = execution.memory_bytes / threads as u64;
    let write = |bucket| {
        let mut file = NewFile::create(&folder.path().join(format!("{bucket:05}_00.dups")))?;
        let mut buffer = Vec::new();
        let mut count = 0;
        signatures.pairs(bucket, memory, progress, |a, b| {
            for word in [a.0, a.1, b.0, b.1] {
                buffer.extend_from_slice(&word.to_le_bytes());
            }
            count += 1;
            if buffer.len() == BLOCK * PAIR_BYTES {
                file.append(&buffer)?;
                buffer.clear();
            }
            Ok(())
        })?;
        file.append(&buffer)?;
        file.publish()?;
        Ok::<u64, Error>(count)
    };
    let mut paired = Paired { files: signatures.ranks.len() as u64, pairs: 0 };
    ordered(threads, parameters.buckets, write, |_, count| {
        paired.pairs += count;
        Ok(())
    })?;
    folder.publish()?;
    Ok(paired)
}

/// The `.dups` files of a folder.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> = list(folder, ".dups")?.into_iter().map(|(_, path)| path).collect();
    if files.is_empty() {
        return Err(corrupt(folder, "files", "`*.dups`", "none"));
    }
    Ok(files)
}

/// Calls `each` with every pair of a file.
pub(super) fn read(
    path: &Path,
    progress: &Progress,
    mut each: impl FnMut(Node, Node) -> Result<()>,
) -> Result<()> {
    let file = File::open(path)?;
    if !file.size().is_multiple_of(PAIR_BYTES as u64) {
        let expected = format!("a multiple of {PAIR_BYTES} bytes");
        return Err(corrupt(path, "size", expected, format!("{} bytes", file.size())));
    }
    let mut at = 0;
    while at < file.size() {
        if progress.stopped() {
            return Err(Error::Interrupted);
        }
        let length = (file.size() - at).min((BLOCK * PAIR_BYTES) as u64);
        let bytes = file.read(at, usize::try_from(length).unwrap_or(0))?;
        let words: Vec<u32> = words(&bytes).collect();
        for pair in words.as_chunks::<4>().0 {
            each((pair[0], pair[1]), (pair[2], pair[3]))?;
        }
        progress.add(length);
        at += length;
    }
    Ok(())
}
