//! Dedup: the keys of all parts → links → clusters → the survivor of every document.

use forebay_shard::manifest::Counts;
use forebay_store::{Map, NewFile};
use forebay_transform::dedup::Keep;
use forebay_transform::dedup::cluster::Clusters;
use forebay_transform::dedup::lsh;
use xxhash_rust::xxh3::xxh3_64;

use crate::plan::{Execution, Steps};
use crate::progress::{Progress, Unit};
use crate::spool::Part;
use crate::work::Work;
use crate::{Error, Result};

const FILE: &str = "dedup.bin";
/// Sorting gets at least this, however small `--memory` is.
const MIN_SORT_BYTES: u64 = 32 << 20;

/// Who stays. Documents are numbered through all parts, in input order.
pub(crate) struct Survivors {
    /// Of each document; itself if it stays.
    survivor: Vec<u32>,
    fate: Vec<Fate>,
}

/// Why a document stays or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    Empty,
    Exact,
    Fuzzy,
}

/// 8 B a document for the result, and what sorting one band, or a slice of one, takes.
pub(crate) fn run(
    work: &Work,
    parts: &[Part],
    execution: &Execution,
    progress: &Progress,
) -> Result<Survivors> {
    if let Some(survivors) = Survivors::load(work, parts) {
        return Ok(survivors);
    }
    let steps = &work.plan.options.steps;
    let bands = steps.fuzzy.map_or(0, |fuzzy| fuzzy.bands as u64);
    progress.start("dedup", Unit::Steps, bands + u64::from(steps.exact));
    let survivors = find(parts, steps, execution, progress)?;
    survivors.save(work)?;
    Ok(survivors)
}

fn find(
    parts: &[Part],
    steps: &Steps,
    execution: &Execution,
    progress: &Progress,
) -> Result<Survivors> {
    let mut lengths = Vec::new();
    for part in parts {
        lengths.extend(part.lengths()?);
    }
    let documents = u32::try_from(lengths.len()).map_err(|_| Error::TooManyDocuments)?;
    let weight = |document: u32| match steps.keep {
        Keep::Longest => u64::from(lengths[document as usize]),
        Keep::First => 0,
    };
    let sort_bytes =
        execution.memory_bytes.saturating_sub(13 * u64::from(documents)).max(MIN_SORT_BYTES);

    // Equal documents first: only one of each group goes on.
    let mut exact = Clusters::new(documents);
    if steps.exact {
        let slices = Slices::new(documents, size_of::<(u128, u32)>(), sort_bytes);
        each_slice(
            slices,
            parts,
            Part::exact,
            |hash| (hash >> 64) as u64,
            progress,
            |entries| {
                entries.retain(|&(_, document)| lengths[document as usize] > 0);
                lsh::links(entries, |a, b| exact.link(a, b));
            },
        )?;
        progress.add(1);
    }
    let exact = exact.survivors(weight);
    let stays =
        |document: u32| exact[document as usize] == document && lengths[document as usize] > 0;

    let mut similar = Clusters::new(documents);
    for band in 0..steps.fuzzy.map_or(0, |fuzzy| u32::try_from(fuzzy.bands).unwrap_or(0)) {
        let slices = Slices::new(documents, size_of::<(u64, u32)>(), sort_bytes);
        each_slice(
            slices,
            parts,
            |part| part.band(band),
            |key| key,
            progress,
            |entries| {
                entries.retain(|&(key, document)| key != 0 && stays(document));
                lsh::links(entries, |a, b| similar.link(a, b));
            },
        )?;
        progress.add(1);
    }
    // Among those that went on, the heaviest of a cluster is also the heaviest of all of it.
    let similar =
        similar.survivors(|document| if stays(document) { weight(document) + 1 } else { 0 });

    let mut survivor = exact;
    let mut fate = Vec::with_capacity(survivor.len());
    for (document, survivor) in (0..).zip(&mut survivor) {
        let representative = *survivor;
        *survivor = similar[representative as usize];
        fate.push(if lengths[document as usize] == 0 {
            Fate::Empty
        } else if representative != document {
            Fate::Exact
        } else if *survivor != document {
            Fate::Fuzzy
        } else {
            Fate::Kept
        });
    }
    Ok(Survivors { survivor, fate })
}

/// Equal key ranges, as many as it takes for one of them to fit into memory.
#[derive(Clone, Copy)]
struct Slices(u64);

impl Slices {
    fn new(documents: u32, entry_bytes: usize, memory_bytes: u64) -> Self {
        Self((u64::from(documents) * entry_bytes as u64).div_ceil(memory_bytes).max(1))
    }
}

/// Hands out the `(key, document)` of all parts, slice by slice.
fn each_slice<K: Copy>(
    Slices(slices): Slices,
    parts: &[Part],
    column: impl Fn(&Part) -> Result<Vec<K>>,
    high: impl Fn(K) -> u64,
    progress: &Progress,
    mut each: impl FnMut(&mut Vec<(K, u32)>),
) -> Result<()> {
    let mut entries = Vec::new();
    for slice in 0..slices {
        entries.clear();
        let mut document = 0;
        for part in parts {
            if progress.stopped() {
                return Err(Error::Interrupted);
            }
            for key in column(part)? {
                let at = (u128::from(high(key)) * u128::from(slices)) >> 64;
                if at as u64 == slice {
                    entries.push((key, document));
                }
                document += 1;
            }
        }
        each(&mut entries);
    }
    Ok(())
}

impl Survivors {
    /// All documents, also those that go.
    pub(crate) fn documents(&self) -> u32 {
        u32::try_from(self.survivor.len()).unwrap_or(u32::MAX)
    }

    /// The document that stays in place of `document`.
    pub(crate) fn survivor(&self, document: u32) -> u32 {
        self.survivor[document as usize]
    }

    /// Why `document` stays or goes.
    pub(crate) fn fate(&self, document: u32) -> Fate {
        self.fate[document as usize]
    }

    /// Numbers the clusters of two and more by their first document: 0 is no cluster.
    pub(crate) fn clusters(&self) -> Vec<u32> {
        let mut cluster = vec![0_u32; self.survivor.len()];
        let mut next = 0;
        for document in 0..self.documents() {
            let survivor = self.survivor(document);
            if survivor != document && cluster[survivor as usize] == 0 {
                next += 1;
                cluster[survivor as usize] = next;
            }
        }
        cluster
    }

    /// Adds what happened to `counts`.
    pub(crate) fn count(&self, counts: &mut Counts) {
        let count = |fate| self.fate.iter().filter(|&&f| f == fate).count() as u64;
        counts.empty = count(Fate::Empty);
        counts.exact = count(Fate::Exact);
        counts.fuzzy = count(Fate::Fuzzy);
        let mut sizes = vec![0_u32; self.survivor.len()];
        self.survivor.iter().for_each(|&survivor| sizes[survivor as usize] += 1);
        counts.clusters = sizes.iter().filter(|&&size| size > 1).count() as u64;
        let largest = sizes.iter().copied().filter(|&size| size > 1).max();
        counts.largest_cluster = u64::from(largest.unwrap_or(0));
    }

    fn save(&self, work: &Work) -> Result<()> {
        let survivor: &[u8] = bytemuck::cast_slice(&self.survivor);
        let fate: Vec<u8> = self.fate.iter().map(|&fate| fate as u8).collect();
        let mut file = NewFile::create(&work.path(FILE))?;
        file.append(survivor)?;
        file.append(&fate)?;
        let checksum = xxh3_64(survivor) ^ xxh3_64(&fate).rotate_left(1);
        file.append(&checksum.to_le_bytes())?;
        file.publish()?;
        Ok(())
    }

    fn load(work: &Work, parts: &[Part]) -> Option<Self> {
        let map = Map::open(&work.path(FILE)).ok()?;
        let documents: usize = parts.iter().map(|part| part.footer.documents as usize).sum();
        if map.len() != 5 * documents + 8 {
            return None;
        }
        let (survivor, rest) = map.split_at(4 * documents);
        let (fate, checksum) = rest.split_at(documents);
        let found = xxh3_64(survivor) ^ xxh3_64(fate).rotate_left(1);
        if found.to_le_bytes() != checksum {
            return None;
        }
        let fates = [Fate::Kept, Fate::Empty, Fate::Exact, Fate::Fuzzy];
        let fate = fate.iter().map(|&byte| fates.get(byte as usize).copied());
        let fate = fate.collect::<Option<Vec<Fate>>>()?;
        Some(Self { survivor: bytemuck::cast_slice(survivor).to_vec(), fate })
    }
}
