//! datatrove's MinHash stages, each on its own, over datatrove's files.
//!
//! ```text
//! inputs ──▶ OUT/signatures/bucket_000/00000.minhash.sig   stage 1: sign
//! signatures ──▶ OUT/dups/00000_00.dups                    stage 2: pairs
//! dups ──▶ OUT/remove/000000.{remove,clusters,sizes}       stage 3: cluster_pairs
//! signatures ──▶ OUT/remove/…                              stages 2 and 3 in one: cluster
//! ```
//!
//! Any stage may read what datatrove's wrote, or the other way round, if both were given the same
//! parameters. A *rank* is an input file: datatrove must run with as many tasks as there are files,
//! named so that they sort as they were given here. A document is its place among the documents of
//! its file, those without signature counted, those with an empty text not, since datatrove's
//! readers drop them.
//!
//! Signatures and pairs equal datatrove's bit for bit (of pairs: datatrove with one worker a
//! bucket and fewer than 100,000 ranks), and so do `.clusters` and `.sizes`. `.remove` differs: of
//! each cluster the first document stays, by rank and place, while datatrove keeps whatever its
//! union-find makes the root. Both remove as many.
//!
//! A folder appears whole or not at all, under its name with `.tmp` until then.

mod cluster;
mod forest;
mod merge;
mod pairs;
mod sign;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use forebay_store::{create_dir, sync_dir};

pub use cluster::{Clustered, cluster, cluster_pairs};
pub use pairs::{Paired, pairs};
pub use sign::{Signed, sign};

use crate::{Error, Result};

/// A document: rank and place, as in the files.
type Node = (u32, u32);

/// `bucket_000`.
fn bucket_name(bucket: usize) -> String {
    format!("bucket_{bucket:03}")
}

/// An output folder under its temporary name.
struct Folder {
    target: PathBuf,
    temporary: PathBuf,
}

impl Folder {
    /// # Errors
    /// [`Error::NotEmpty`] if something stands in its place.
    fn create(out: &Path, name: &str) -> Result<Self> {
        let target = out.join(name);
        let wrap = |e| forebay_store::Error::io("list", &target, e);
        match fs::read_dir(&target) {
            Ok(mut entries) => {
                if let Some(entry) = entries.next() {
                    let found = entry.map_err(wrap)?.file_name().to_string_lossy().into_owned();
                    return Err(Error::NotEmpty { out: target, found });
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(wrap(e).into()),
        }
        let temporary = out.join(format!("{name}.tmp"));
        match fs::remove_dir_all(&temporary) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(forebay_store::Error::io("remove", &temporary, e).into());
            }
            _ => create_dir(&temporary)?,
        }
        Ok(Self { target, temporary })
    }

    fn path(&self) -> &Path {
        &self.temporary
    }

    /// Gives it its name; the files in it are durable.
    fn publish(self) -> Result<()> {
        sync_dir(&self.temporary)?;
        fs::rename(&self.temporary, &self.target)
            .map_err(|e| forebay_store::Error::io("rename", &self.temporary, e))?;
        if let Some(parent) = self.target.parent() {
            sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
        }
        Ok(())
    }
}

/// Files of `folder` whose names end in `suffix`, sorted by what comes before it.
fn list(folder: &Path, suffix: &str) -> Result<Vec<(String, PathBuf)>> {
    let wrap = |e| forebay_store::Error::io("list", folder, e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrap)? {
        let path = entry.map_err(wrap)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(suffix) {
            found.push((stem.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}
