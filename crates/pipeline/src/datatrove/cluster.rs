//! Stage 3, or 2 and 3: signatures or pairs → clusters → what to remove.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use forebay_store::{File, publish_bytes};
use forebay_transform::dedup::datatrove::Parameters;

use super::forest::{Forest, key};
use super::merge::{Signatures, corrupt};
use super::{Folder, Node, pairs};
use crate::ordered::ordered;
use crate::plan::Execution;
use crate::progress::{Progress, Unit};
use crate::{Error, Result};

/// Pairs that a thread gathers before it links them.
const BATCH: usize = 4096;

/// What was clustered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clustered {
    /// Documents seen: all with a signature, or all in a pair.
    pub documents: u64,
    /// Pairs over all buckets; two documents may be a pair in several.
    pub pairs: u64,
    /// Documents in clusters of two and more.
    pub duplicates: u64,
    /// Such clusters.
    pub clusters: u64,
    /// Documents to remove: all but the first of each cluster, and all that match an index.
    pub removed: u64,
    /// Documents in the largest cluster.
    pub largest: u64,
}

/// Stages 2 and 3: writes `out/remove/{rank:06}.remove`, `.clusters` and `.sizes` from a folder
/// that holds `bucket_000`, ….
///
/// Ranks without duplicates have no file, as in datatrove. Threads take a bucket each. Memory:
/// 20 B a document, and `execution.memory_bytes` for buffers, or 4 KiB a file if that is more.
///
/// # Errors
/// [`Error::NotEmpty`] if there are clusters already; signatures that are cut short, not in
/// order, of other parameters, or of other documents than the first bucket's.
pub fn cluster(
    signatures: &Path,
    out: &Path,
    parameters: &Parameters,
    execution: &Execution,
    progress: &Progress,
) -> Result<Clustered> {
    let signatures = Signatures::open(signatures, parameters)?;
    let folder = Folder::create(out, "remove")?;
    let first = signatures.bytes() / parameters.buckets.max(1) as u64;
    progress.start("cluster", Unit::Bytes, first + signatures.bytes());
    let mut keys = Vec::new();
    signatures.documents(execution.memory_bytes, progress, |node| keys.push(key(node)))?;
    let forest = Mutex::new(Forest::new(keys)?);

    let threads = execution.threads.clamp(1, parameters.buckets.max(1));
    let memory = execution.memory_bytes / threads as u64;
    let link = |bucket| {
        // The order of links does not matter, so buckets need not wait for each other.
        let link = |batch: &mut Vec<(Node, Node)>| {
            let mut forest = forest.lock().unwrap_or_else(PoisonError::into_inner);
            batch.drain(..).try_for_each(|(a, b)| forest.link(a, b)).map_err(|unknown| {
                let rank = signatures.ranks.iter().position(|(rank, _)| *rank == unknown.0);
                let path = signatures.path(bucket, rank.unwrap_or(0));
                let expected = "a document of bucket 0";
                corrupt(&path, "records", expected, format!("document {}", unknown.1))
            })
        };
        let mut batch = Vec::with_capacity(BATCH);
        let mut count = 0_u64;
        signatures.pairs(bucket, memory, progress, |a, b| {
            batch.push((a, b));
            count += 1;
            if batch.len() == BATCH { link(&mut batch) } else { Ok(()) }
        })?;
        link(&mut batch)?;
        Ok::<u64, Error>(count)
    };
    let mut pairs = 0;
    ordered(threads, parameters.buckets, link, |_, count| {
        pairs += count;
        Ok(())
    })?;
    write(folder, forest.into_inner().unwrap_or_else(PoisonError::into_inner), pairs)
}

/// Stage 3: as [`cluster`], from a folder of `.dups`.
///
/// Memory: 8 B a pair in one file and 28 B a document in any pair.
///
/// # Errors
/// [`Error::NotEmpty`] if there are clusters already; a file that is cut short.
pub fn cluster_pairs(dups: &Path, out: &Path, progress: &Progress) -> Result<Clustered> {
    let files = pairs::files(dups)?;
    let folder = Folder::create(out, "remove")?;
    let mut bytes = 0;
    for path in &files {
        bytes += File::open(path)?.size();
    }
    progress.start("cluster", Unit::Bytes, 2 * bytes);
    let mut keys = Vec::new();
    for path in &files {
        pairs::read(path, progress, |a, b| {
            keys.extend([key(a), key(b)]);
            Ok(())
        })?;
        // Most documents stand in many files.
        keys.sort_unstable();
        keys.dedup();
    }
    let mut forest = Forest::new(keys)?;
    let mut count = 0;
    for path in &files {
        pairs::read(path, progress, |a, b| {
            count += 1;
            forest.link(a, b).map_err(|unknown| {
                let found = format!("document {} of rank {}", unknown.1, unknown.0);
                corrupt(path, "pairs", "those of a moment ago", found)
            })
        })?;
    }
    write(folder, forest, count)
}

/// The files of one rank.
#[derive(Default)]
struct Lists {
    remove: Vec<u8>,
    clusters: Vec<u8>,
    sizes: Vec<u8>,
}

impl Lists {
    fn publish(self, rank: u32, folder: &Path) -> Result<()> {
        for (bytes, suffix) in
            [(self.remove, "remove"), (self.clusters, "clusters"), (self.sizes, "sizes")]
        {
            if !bytes.is_empty() {
                publish_bytes(&folder.join(format!("{rank:06}.{suffix}")), &bytes)?;
            }
        }
        Ok(())
    }
}

fn write(folder: Folder, forest: Forest, pairs: u64) -> Result<Clustered> {
    let mut counts = Clustered { documents: forest.len() as u64, pairs, ..Clustered::default() };
    let mut open: Option<(u32, Lists)> = None;
    for member in forest.members() {
        let (rank, document) = member.node;
        let lists = match &mut open {
            Some((number, lists)) if *number == rank => lists,
            _ => {
                if let Some((number, lists)) = open.take() {
                    lists.publish(number, folder.path())?;
                }
                &mut open.insert((rank, Lists::default())).1
            }
        };
        let document = document.to_le_bytes();
        counts.duplicates += 1;
        counts.clusters = counts.clusters.max(u64::from(member.cluster) + 1);
        counts.largest = counts.largest.max(u64::from(member.size));
        if !member.stays {
            counts.removed += 1;
            lists.remove.extend_from_slice(&document);
        }
        lists.clusters.extend_from_slice(&document);
        lists.clusters.extend_from_slice(&member.cluster.to_le_bytes());
        lists.sizes.extend_from_slice(&document);
        lists.sizes.extend_from_slice(&member.size.to_le_bytes());
    }
    if let Some((number, lists)) = open {
        lists.publish(number, folder.path())?;
    }
    folder.publish()?;
    Ok(counts)
}
