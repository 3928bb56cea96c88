//! Dedup: the keys of all parts → who stays.
//!
//! ```text
//! exact hashes ─▶ sort ─▶ groups ─▶ one of each stays
//! URLs         ─▶ sort ─▶ groups ─▶ one of each stays
//! band keys    ─▶ sort ─▶ buckets ─▶ candidates ─▶ compare texts ─▶ one of each cluster stays
//! ```
//! Each step works on what the one before left. One machine does them one after another, here; on many,
//! a [`round`](crate::round) does a share of one.

use bytemuck::{Pod, Zeroable};
use forebay_transform::dedup::cluster::Clusters;
use forebay_transform::dedup::{Fuzzy, Keep};

use crate::Result;
use crate::compare::Candidates;
use crate::corpus::Corpus;
use crate::plan::{Execution, Steps};
use crate::progress::{Progress, Unit};
use crate::sort::{Record, Sorter};
use crate::stage::{Entry, Ranks, Stage};
use crate::survivors::{Fate, Survivors};
use crate::work::Work;
use crate::{round, spool};

/// Sorting gets at least this, however small `--memory` is.
pub(crate) const MIN_SORT_BYTES: u64 = 1 << 20;
/// Of each document: length, survivor, fate, cluster, score.
const DOCUMENT_BYTES: u64 = 4 + 4 + 1 + 4 + 8;

/// Finds out who stays, or reads what an interrupted run or the rounds of other machines have found.
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
    let stage = stage(work, corpus, execution, progress)?;
    let (mut survivors, similar) = match round::found(&stage)? {
        Some(found) => found,
        None => stage.search(steps)?,
    };
    survivors.settle(similar);
    survivors.save(work)?;
    Ok(survivors)
}

/// Finds out who stays and leaves no word of it.
pub(crate) fn directly(
    work: &Work,
    corpus: &Corpus,
    execution: &Execution,
    progress: &Progress,
) -> Result<Survivors> {
    let stage = stage(work, corpus, execution, progress)?;
    let (mut survivors, similar) = stage.search(&work.plan.options.steps)?;
    survivors.settle(similar);
    Ok(survivors)
}

/// What the search needs; part of the memory goes to what is known of each document.
pub(crate) fn stage<'a>(
    work: &'a Work,
    corpus: &'a Corpus,
    execution: &Execution,
    progress: &'a Progress,
) -> Result<Stage<'a>> {
    let documents = u64::from(corpus.documents());
    let memory_bytes = execution.memory_bytes.saturating_sub(DOCUMENT_BYTES * documents);
    Ok(Stage {
        work,
        corpus,
        ranks: Ranks::new(corpus, work.plan.options.steps.keep)?,
        threads: execution.threads,
        memory_bytes: memory_bytes.max(MIN_SORT_BYTES),
        progress,
    })
}

/// A document with 128 bits that are equal for equal documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Equal {
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

/// Keys from the first to the last: what a search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Keys {
    pub(crate) const ALL: Self = Self { first: 0, last: u64::MAX };

    fn hold(self, key: u64) -> bool {
        (self.first..=self.last).contains(&key)
    }

    /// How many of `records`, spread over all keys, are among these; about.
    fn expect(self, records: u64) -> u64 {
        ((u128::from(records) * (u128::from(self.last - self.first) + 1)) >> 64) as u64
    }
}

impl Stage<'_> {
    /// All steps, on this machine.
    fn search(&self, steps: &Steps) -> Result<(Survivors, Vec<(u32, f32)>)> {
        let mut survivors = self.survivors();
        for (fate, column) in equalities(steps) {
            let equals = self.equals(column, fate, &survivors, Keys::ALL)?;
            self.replaced(equals, |document, by| survivors.replace(document, by, fate))?;
        }
        let Some(fuzzy) = steps.fuzzy else { return Ok((survivors, Vec::new())) };
        let mut clusters = Clusters::new(self.corpus.documents());
        let mut candidates = Candidates::new(self, fuzzy);
        self.link(
            fuzzy,
            &survivors,
            |_| Some(Keys::ALL),
            |buckets| {
                connect(&mut clusters, &buckets);
                candidates.extend(&buckets)
            },
        )?;
        if !fuzzy.verify {
            self.merge(clusters, &mut survivors);
            return Ok((survivors, Vec::new()));
        }
        let mut similar = Vec::new();
        candidates.cover(clusters, |covered| {
            survivors.replace(covered.document, covered.survivor, Fate::Fuzzy);
            similar.push((covered.document, covered.jaccard));
        })?;
        Ok((survivors, similar))
    }

    /// Before anything is compared.
    pub(crate) fn survivors(&self) -> Survivors {
        let keeps_all = self.work.plan.options.steps.keep == Keep::None;
        Survivors::new(self.first_fates(), keeps_all)
    }

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

    /// Those that are left, by a column of 128 bits; 0 is equal to nothing.
    pub(crate) fn equals(
        &self,
        column: &'static str,
        fate: Fate,
        survivors: &Survivors,
        keys: Keys,
    ) -> Result<Sorter<Equal>> {
        self.progress.start(fate.name(), Unit::Steps, 0);
        let expected = keys.expect(u64::from(self.corpus.documents()));
        let mut sorter = self.sorter(column, expected, keys);
        for (number, part) in self.corpus.parts().iter().enumerate() {
            self.check()?;
            let first = self.corpus.first(number);
            for (document, key) in (first..).zip(part.column::<u128>(column)?) {
                let (high, low) = ((key >> 64) as u64, key as u64);
                let alive = matches!(survivors.fate(document), Fate::Kept | Fate::Old);
                if key != 0 && keys.hold(high) && alive && !self.ranks.is_bridge(document) {
                    sorter.push(Equal { high, low, document, reserved: 0 })?;
                }
            }
        }
        Ok(sorter)
    }

    /// Of documents that are equal one stays; calls `gone` for each other and that one.
    pub(crate) fn replaced(
        &self,
        equals: Sorter<Equal>,
        mut gone: impl FnMut(u32, u32) + Send,
    ) -> Result<()> {
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
        equals.sorted(self.threads, true, work, |pairs| {
            pairs.into_iter().for_each(|(document, by)| gone(document, by));
            Ok(())
        })
    }

    /// Hands out the entries of all buckets of two and more, some whole buckets at a time.
    ///
    /// A band is looked at if it has `keys`. Each is sorted by itself: documents that are equal on
    /// different bands are not linked by that.
    pub(crate) fn link(
        &self,
        fuzzy: Fuzzy,
        survivors: &Survivors,
        keys: impl Fn(usize) -> Option<Keys>,
        mut take: impl FnMut(Vec<Entry>) -> Result<()> + Send,
    ) -> Result<()> {
        self.progress.start("link", Unit::Steps, fuzzy.bands as u64);
        let work = |records: &[Entry]| {
            self.check()?;
            let buckets = records.chunk_by(|a, b| a.key() == b.key());
            Ok(buckets.filter(|bucket| bucket.len() > 1).flatten().copied().collect::<Vec<_>>())
        };
        for band in 0..fuzzy.bands {
            let Some(keys) = keys(band) else { continue };
            let expected = keys.expect(u64::from(self.corpus.documents()));
            let mut sorter = self.sorter("bands", expected, keys);
            for (number, part) in self.corpus.parts().iter().enumerate() {
                self.check()?;
                let first = self.corpus.first(number);
                for (document, key) in (first..).zip(part.band(band)?) {
                    let alive = matches!(survivors.fate(document), Fate::Kept | Fate::Old);
                    if key != 0 && keys.hold(key) && alive {
                        sorter.push(Entry::new(key, document))?;
                    }
                }
            }
            sorter.sorted(self.threads, true, work, &mut take)?;
            self.progress.add(1);
        }
        Ok(())
    }

    fn sorter<R: Record>(&self, name: &str, expected: u64, keys: Keys) -> Sorter<R> {
        let name = self.work.scratch(name);
        Sorter::between(&name, expected, self.memory_bytes, self.threads, keys.first, keys.last)
    }

    /// Without looking at texts: whatever is linked, however far, is one cluster.
    pub(crate) fn merge(&self, clusters: Clusters, survivors: &mut Survivors) {
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

/// The columns in which documents may be equal, in the order of the steps.
pub(crate) fn equalities(steps: &Steps) -> impl Iterator<Item = (Fate, &'static str)> {
    let exact = steps.exact.then_some((Fate::Exact, spool::EXACT));
    let url = steps.url_field.is_some().then_some((Fate::Url, spool::URLS));
    exact.into_iter().chain(url)
}

/// Links the documents of each bucket.
pub(crate) fn connect(clusters: &mut Clusters, buckets: &[Entry]) {
    for bucket in buckets.chunk_by(|a, b| a.key() == b.key()) {
        // k - 1 links, not k (k - 1) / 2 pairs: a page repeated a million times is cheap.
        for other in &bucket[1..] {
            clusters.link(bucket[0].document, other.document);
        }
    }
}
