//! Dedup: the keys of all parts → who stays.
//!
//! ```text
//! exact hashes ─▶ sort ─▶ groups ─▶ one of each stays
//! URLs         ─▶ sort ─▶ groups ─▶ one of each stays
//! band keys    ─▶ sort ─▶ buckets ─▶ candidates ─▶ compare texts ─▶ one of each cluster stays
//! ```
//! Each step works on what the one before left.

use bytemuck::{Pod, Zeroable};
use forebay_transform::dedup::Keep;
use forebay_transform::dedup::cluster::Clusters;

use crate::Result;
use crate::compare::Candidates;
use crate::corpus::Corpus;
use crate::plan::{Execution, Steps};
use crate::progress::{Progress, Unit};
use crate::sort::{Record, Sorter};
use crate::spool;
use crate::stage::{Entry, Ranks, Stage};
use crate::survivors::{Fate, Survivors};
use crate::work::Work;

/// Sorting gets at least this, however small `--memory` is.
pub(crate) const MIN_SORT_BYTES: u64 = 1 << 20;
/// Of each document: length, survivor, fate, cluster, score.
const DOCUMENT_BYTES: u64 = 4 + 4 + 1 + 4 + 8;

/// Finds out who stays, or reads what an interrupted run has found.
pub(crate) fn run(
    work: &Work,
    corpus: &Corpus,
    execution: &Execution,
    progress: &Progress,
) -> Result<Survivors> {
    let steps = &work.plan.options.steps;
    let keeps_all = steps.keep == Keep::None;
    if let Some(survivors) = Survivors::load(work, corpus.documents(), keeps_all) {
        return Ok(survivors);
    }
    let documents = corpus.documents();
    let ranks = Ranks::new(corpus, steps.keep)?;
    let memory_bytes = execution.memory_bytes.saturating_sub(DOCUMENT_BYTES * u64::from(documents));
    let stage = Stage {
        work,
        corpus,
        ranks,
        threads: execution.threads,
        memory_bytes: memory_bytes.max(MIN_SORT_BYTES),
        progress,
    };
    let mut survivors = Survivors::new(stage.first_fates(), keeps_all);
    if steps.exact {
        stage.equal(spool::EXACT, Fate::Exact, &mut survivors)?;
    }
    if steps.url_field.is_some() {
        stage.equal(spool::URLS, Fate::Url, &mut survivors)?;
    }
    let similar = stage.similar(steps, &mut survivors)?;
    survivors.settle(similar);
    survivors.save(work)?;
    Ok(survivors)
}

/// A document with 128 bits that are equal for equal documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
struct Equal {
    high: u64,
    low: u64,
    document: u32,
    reserved: u32,
}

impl Record for Equal {
    fn key(&self) -> u64 {
        self.high
    }
}

impl Stage<'_> {
    fn first_fates(&self) -> Vec<Fate> {
        let lengths = (0..).zip(&self.ranks.lengths);
        let mut fates: Vec<Fate> = lengths
            .map(|(document, &length)| match length {
                _ if document < self.corpus.old() => Fate::Old,
                0 => Fate::Empty,
                _ => Fate::Kept,
            })
            .collect();
        if self.work.plan.options.steps.evals.as_ref().is_some_and(|evals| evals.drop) {
            for (part, first) in self.corpus.own() {
                for found in &part.footer.matches {
                    fates[(first + found.ordinal) as usize] = Fate::Eval;
                }
            }
        }
        fates
    }

    /// Of documents equal in a column of 128 bits, one stays; 0 is equal to nothing.
    fn equal(&self, column: &'static str, fate: Fate, survivors: &mut Survivors) -> Result<()> {
        let documents = u64::from(self.corpus.documents());
        self.progress.start(fate.name(), Unit::Steps, 0);
        let name = self.work.scratch(column);
        let mut sorter = Sorter::new(&name, documents, self.memory_bytes, self.threads);
        for (number, part) in self.corpus.parts().iter().enumerate() {
            self.check()?;
            let first = self.corpus.first(number);
            for (document, key) in (first..).zip(part.column::<u128>(column)?) {
                let bridge = self.ranks.is_bridge(document);
                let alive = matches!(survivors.fate(document), Fate::Kept | Fate::Old);
                if key != 0 && alive && !bridge {
                    let (high, low) = ((key >> 64) as u64, key as u64);
                    sorter.push(Equal { high, low, document, reserved: 0 })?;
                }
            }
        }
        let replace = |group: &[Equal], gone: &mut Vec<(u32, u32)>| {
            let rank =
                |equal: &&Equal| (u64::MAX - self.ranks.weight(equal.document), equal.document);
            let Some(best) = group.iter().min_by_key(rank) else { return };
            let others = group.iter().filter(|other| other.document != best.document);
            let others = others.filter(|other| other.document >= self.corpus.old());
            gone.extend(others.map(|other| (other.document, best.document)));
        };
        let work = |records: &[Equal]| {
            self.check()?;
            let mut gone = Vec::new();
            let groups = records.chunk_by(|a, b| (a.high, a.low) == (b.high, b.low));
            groups.filter(|group| group.len() > 1).for_each(|group| replace(group, &mut gone));
            Ok(gone)
        };
        sorter.sorted(self.threads, true, work, |gone| {
            gone.into_iter().for_each(|(document, by)| survivors.replace(document, by, fate));
            Ok(())
        })
    }

    /// Of similar documents one stays; returns exact similarities, if texts were compared.
    fn similar(&self, steps: &Steps, survivors: &mut Survivors) -> Result<Vec<(u32, f32)>> {
        let Some(fuzzy) = steps.fuzzy else { return Ok(Vec::new()) };
        self.progress.start("link", Unit::Steps, fuzzy.bands as u64);
        let documents = u64::from(self.corpus.documents());
        let expected = documents * fuzzy.bands as u64;
        let name = self.work.scratch("bands");
        let mut sorter = Sorter::new(&name, expected, self.memory_bytes, self.threads);
        for band in 0..fuzzy.bands {
            for (number, part) in self.corpus.parts().iter().enumerate() {
                self.check()?;
                let first = self.corpus.first(number);
                for (document, key) in (first..).zip(part.band(band)?) {
                    if key != 0 && matches!(survivors.fate(document), Fate::Kept | Fate::Old) {
                        sorter.push(Entry::new(key, document))?;
                    }
                }
            }
            self.progress.add(1);
        }

        let mut clusters = Clusters::new(self.corpus.documents());
        let mut candidates = Candidates::new(self, fuzzy);
        let work = |records: &[Entry]| {
            self.check()?;
            let buckets = records.chunk_by(|a, b| a.key() == b.key());
            Ok(buckets.filter(|bucket| bucket.len() > 1).flatten().copied().collect::<Vec<_>>())
        };
        sorter.sorted(self.threads, true, work, |buckets: Vec<Entry>| {
            for bucket in buckets.chunk_by(|a, b| a.key() == b.key()) {
                // k - 1 links, not k (k - 1) / 2 pairs: a page repeated a million times is cheap.
                for other in &bucket[1..] {
                    clusters.link(bucket[0].document, other.document);
                }
            }
            candidates.extend(&buckets)
        })?;
        if !fuzzy.verify {
            self.merge(clusters, survivors);
            return Ok(Vec::new());
        }
        let mut similar = Vec::new();
        candidates.cover(clusters, |covered| {
            survivors.replace(covered.document, covered.survivor, Fate::Fuzzy);
            similar.push((covered.document, covered.jaccard));
        })?;
        Ok(similar)
    }

    /// Without looking at texts: whatever is linked, however far, is one cluster.
    fn merge(&self, clusters: Clusters, survivors: &mut Survivors) {
        let weight = |document: u32| match survivors.fate(document) {
            Fate::Kept => self.ranks.weight(document).saturating_add(1),
            Fate::Old => self.ranks.weight(document),
            _ => 0,
        };
        let best = clusters.survivors(weight);
        for (document, best) in (0..).zip(best) {
            if best != document && survivors.fate(document) == Fate::Kept {
                survivors.replace(document, best, Fate::Fuzzy);
            }
        }
    }
}
