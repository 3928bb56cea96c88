//! Rounds: the search for duplicates in shares, on any number of machines.
//!
//! ```text
//! exact k/n ─▶ url k/n ─▶ link k/n ─▶ group ─▶ compare k/n ─▶ (dedup, which puts it together)
//! ```
//! | round | a share of | reads | leaves |
//! |---|---|---|---|
//! | exact, url | the keys, by range | a column of every part | who goes for whom |
//! | link | the bands end to end, by key range | the bands it touches, of every part | the buckets of two and more, sorted |
//! | group | (one machine) | all buckets | the buckets by the groups that they connect, for n shares |
//! | compare | the groups, by a hash | its file of groups, the texts it compares | who goes for whom, and how similar |
//!
//! Each works on what the rounds before left and finds what one machine finds: equal keys are in one
//! share, and groups share no bucket. What a round leaves lies in files of checked bytes, written
//! under names of their own and renamed.

use std::fmt;

use bytemuck::{Pod, Zeroable};
use forebay_store::{Map, NewFile};
use forebay_transform::dedup::Fuzzy;
use forebay_transform::dedup::cluster::Clusters;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::compare::{Groups, Placed};
use crate::dedup::{Keys, connect, equalities};
use crate::plan::Steps;
use crate::stage::{Entry, Stage};
use crate::survivors::{Fate, Survivors};
use crate::task::Share;
use crate::work::Work;
use crate::{Error, Result};

/// A part of the search for duplicates that shares can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Documents of equal text.
    Exact,
    /// Documents of equal URL.
    Url,
    /// Documents that are equal on a band: buckets.
    Link,
    /// Which buckets hang together; a single task, though it is told of shares.
    Group,
    /// Texts of documents that share buckets, side by side.
    Compare,
}

impl Round {
    /// Those that a run of `steps` has, in their order.
    pub fn all(steps: &Steps) -> Vec<Self> {
        let mut rounds = Vec::new();
        rounds.extend(steps.exact.then_some(Self::Exact));
        rounds.extend(steps.url_field.is_some().then_some(Self::Url));
        if let Some(fuzzy) = steps.fuzzy {
            rounds.extend([Self::Link, Self::Group]);
            rounds.extend(fuzzy.verify.then_some(Self::Compare));
        }
        rounds
    }

    /// As tasks call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Url => "url",
            Self::Link => "link",
            Self::Group => "group",
            Self::Compare => "compare",
        }
    }

    /// The name of the file that a share leaves.
    fn file(self, share: Share) -> String {
        format!("{}-{}-of-{}.bin", self.name(), share.number, share.of)
    }

    /// The share whose file this is, if it is one of the round.
    pub(crate) fn share_of(self, name: &str) -> Option<Share> {
        let name = name.strip_prefix(self.name())?.strip_prefix('-')?.strip_suffix(".bin")?;
        name.replacen("-of-", "/", 1).parse().ok()
    }

    fn of(fate: Fate) -> Self {
        if fate == Fate::Url { Self::Url } else { Self::Exact }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A document that goes, for whom, and how similar they are where that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Gone {
    document: u32,
    survivor: u32,
    jaccard: f32,
}

/// Does a share of a round, if it is not done yet.
pub(crate) fn perform(stage: &Stage<'_>, round: Round, share: Share) -> Result<()> {
    let work = stage.work;
    let fuzzy = || {
        let what = format!("expected a task of this recipe, found `{round}`: it has no such round");
        work.plan.options.steps.fuzzy.ok_or_else(|| Error::key("stage", what))
    };
    match round {
        _ if is_done(work, round, share) => Ok(()),
        Round::Exact | Round::Url => equal(stage, round, share),
        Round::Link => link(stage, fuzzy()?, share),
        Round::Group => group(stage, fuzzy()?, share.of),
        Round::Compare => compare(stage, fuzzy()?, share),
    }
}

/// Who stays before the last step is settled, and its exact similarities.
pub(crate) type Unsettled = (Survivors, Vec<(u32, f32)>);

/// What the rounds have found: who stays before the last step is settled, and exact similarities.
/// `None` if there was no round at all.
pub(crate) fn found(stage: &Stage<'_>) -> Result<Option<Unsettled>> {
    let steps = &stage.work.plan.options.steps;
    let rounds = Round::all(steps);
    let any = |round: &Round| !files(stage.work, *round).unwrap_or_default().is_empty();
    let Some(&last) = rounds.last().filter(|_| rounds.iter().any(any)) else { return Ok(None) };
    let mut survivors = before(stage, None)?;
    let mut similar = Vec::new();
    if let Some(fuzzy) = steps.fuzzy {
        for share in shares(stage.work, last)? {
            for gone in load::<Gone>(stage.work, last, share)? {
                survivors.replace(gone.document, gone.survivor, Fate::Fuzzy);
                similar.extend(fuzzy.verify.then_some((gone.document, gone.jaccard)));
            }
        }
    }
    Ok(Some((survivors, similar)))
}

/// Who stays before `round`; `None`: after the last one that looks for equal documents.
fn before(stage: &Stage<'_>, round: Option<Round>) -> Result<Survivors> {
    let mut survivors = stage.survivors();
    for (fate, _) in equalities(&stage.work.plan.options.steps) {
        if Some(Round::of(fate)) == round {
            break;
        }
        for share in shares(stage.work, Round::of(fate))? {
            for gone in load::<Gone>(stage.work, Round::of(fate), share)? {
                survivors.replace(gone.document, gone.survivor, fate);
            }
        }
    }
    Ok(survivors)
}

fn equal(stage: &Stage<'_>, round: Round, share: Share) -> Result<()> {
    let steps = &stage.work.plan.options.steps;
    let Some((fate, column)) = equalities(steps).find(|&(fate, _)| Round::of(fate) == round) else {
        let what = format!("expected a task of this recipe, found `{round}`: it has no such round");
        return Err(Error::key("stage", what));
    };
    let survivors = before(stage, Some(round))?;
    let Some(keys) = keys_of(share, 1, 0) else {
        return save::<Gone>(stage.work, round, share, &[]);
    };
    let equals = stage.equals(column, fate, &survivors, keys)?;
    let mut gone = Vec::new();
    stage.replaced(equals, |document, survivor| {
        gone.push(Gone { document, survivor, jaccard: 1.0 });
    })?;
    save(stage.work, round, share, &gone)
}

fn link(stage: &Stage<'_>, fuzzy: Fuzzy, share: Share) -> Result<()> {
    let survivors = before(stage, None)?;
    let mut file = Rows::create(stage.work, Round::Link, share)?;
    let keys = |band| keys_of(share, fuzzy.bands, band);
    stage.link(fuzzy, &survivors, keys, |buckets| file.append(&buckets))?;
    file.publish()
}

fn group(stage: &Stage<'_>, fuzzy: Fuzzy, of: usize) -> Result<()> {
    let work = stage.work;
    let mut clusters = Clusters::new(stage.corpus.documents());
    let linked = shares(work, Round::Link)?;
    for &share in &linked {
        stage.check()?;
        connect(&mut clusters, &load::<Entry>(work, Round::Link, share)?);
    }
    if !fuzzy.verify {
        let mut survivors = before(stage, None)?;
        stage.merge(clusters, &mut survivors);
        let documents = (0..survivors.documents()).filter(|&d| survivors.fate(d) == Fate::Fuzzy);
        let gone: Vec<Gone> = documents
            .map(|document| (document, survivors.survivor(document)))
            .map(|(document, survivor)| Gone { document, survivor, jaccard: 0.0 })
            .collect();
        return save(work, Round::Group, Share { number: 0, of: 1 }, &gone);
    }
    let share = |number| Share { number, of };
    let files = (0..of).map(|number| Rows::create(work, Round::Group, share(number)));
    let mut files: Vec<Rows> = files.collect::<Result<_>>()?;
    let mut rows: Vec<Vec<Placed>> = vec![Vec::new(); of];
    for linked in linked {
        stage.check()?;
        for entry in load::<Entry>(work, Round::Link, linked)? {
            let placed = Placed::new(entry, &mut clusters, stage);
            let number = (u128::from(placed.group()) * of as u128) >> 64;
            rows[number as usize].push(placed);
        }
        for (file, rows) in files.iter_mut().zip(&mut rows) {
            file.append(rows)?;
            rows.clear();
        }
    }
    files.into_iter().try_for_each(Rows::publish)
}

fn compare(stage: &Stage<'_>, fuzzy: Fuzzy, share: Share) -> Result<()> {
    let placed = load::<Placed>(stage.work, Round::Group, share)?;
    let mut groups = Groups::new(stage, fuzzy, placed.len() as u64);
    placed.into_iter().try_for_each(|placed| groups.push(placed))?;
    let mut gone = Vec::new();
    groups.cover(|covered| {
        let (document, survivor) = (covered.document, covered.survivor);
        gone.push(Gone { document, survivor, jaccard: covered.jaccard });
    })?;
    save(stage.work, Round::Compare, share, &gone)
}

/// The keys of `band` that a share has: the keys of all `bands` stand in a row, which is cut into
/// equal pieces. A share reads the bands that it touches and no others.
fn keys_of(share: Share, bands: usize, band: usize) -> Option<Keys> {
    let all = (bands as u128) << 64;
    let bound = |number: usize| all * number as u128 / share.of as u128;
    let start = (band as u128) << 64;
    let first = bound(share.number).max(start);
    let end = bound(share.number + 1).min(start + (1 << 64));
    let place = |at: u128| u64::try_from(at - start).unwrap_or(u64::MAX);
    (first < end).then(|| Keys { first: place(first), last: place(end - 1) })
}

/// Is there what the share of a round leaves?
fn is_done(work: &Work, round: Round, share: Share) -> bool {
    let verify = work.plan.options.steps.fuzzy.is_some_and(|fuzzy| fuzzy.verify);
    match round {
        // The last file is published last.
        Round::Group if verify => {
            work.path(&round.file(Share { number: share.of - 1, of: share.of })).exists()
        }
        Round::Group => work.path(&round.file(Share { number: 0, of: 1 })).exists(),
        _ => work.path(&round.file(share)).exists(),
    }
}

/// The shares of a round that are done.
pub(crate) fn files(work: &Work, round: Round) -> Result<Vec<Share>> {
    Ok(work.names()?.iter().filter_map(|name| round.share_of(name)).collect())
}

/// All shares of a round, if they are done.
fn shares(work: &Work, round: Round) -> Result<Vec<Share>> {
    let mut done = files(work, round)?;
    done.sort_unstable_by_key(|share| (share.of, share.number));
    let runs = done.chunk_by(|a, b| a.of == b.of);
    if let Some(all) = runs.clone().find(|run| run.len() == run[0].of) {
        return Ok(all.to_vec());
    }
    let most = runs.max_by_key(|run| run.len());
    let (found, of) = most.map_or((0, 1), |run| (run.len(), run[0].of));
    Err(Error::Unsearched { round, found, of })
}

/// Rows on their way to a file of a round.
struct Rows {
    file: NewFile,
    checksum: Xxh3,
}

impl Rows {
    fn create(work: &Work, round: Round, share: Share) -> Result<Self> {
        let file = NewFile::create(&work.path(&round.file(share)))?;
        Ok(Self { file, checksum: Xxh3::new() })
    }

    fn append<T: Pod>(&mut self, rows: &[T]) -> Result<()> {
        let bytes = bytemuck::cast_slice(rows);
        self.checksum.update(bytes);
        Ok(self.file.append(bytes)?)
    }

    fn publish(mut self) -> Result<()> {
        self.file.append(&self.checksum.digest().to_le_bytes())?;
        Ok(self.file.publish()?)
    }
}

fn save<T: Pod>(work: &Work, round: Round, share: Share, rows: &[T]) -> Result<()> {
    let mut file = Rows::create(work, round, share)?;
    file.append(rows)?;
    file.publish()
}

fn load<T: Pod>(work: &Work, round: Round, share: Share) -> Result<Vec<T>> {
    let path = work.path(&round.file(share));
    if !path.exists() {
        return Err(Error::Unsearched { round, found: share.number, of: share.of });
    }
    let bytes = Map::open(&path)?;
    let sound = bytes.split_last_chunk::<8>().filter(|(rows, checksum)| {
        rows.len() % size_of::<T>() == 0 && xxh3_64(rows) == u64::from_le_bytes(**checksum)
    });
    let Some((rows, _)) = sound else {
        let what = "expected rows of a task and their checksum, found others; delete it and do the task again";
        return Err(forebay_shard::Error::file(&path, what).into());
    };
    Ok(bytemuck::pod_collect_to_vec(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_key_of_every_band_is_in_one_share(
            of in 1_usize..70, bands in 1_usize..20, key: u64, band in 0_usize..20,
        ) {
            let band = band % bands;
            let holders = (0..of)
                .filter_map(|number| keys_of(Share { number, of }, bands, band))
                .filter(|keys| (keys.first..=keys.last).contains(&key));
            prop_assert_eq!(holders.count(), 1);
            // The ends of a band too.
            for end in [0, u64::MAX] {
                let holders = (0..of)
                    .filter_map(|number| keys_of(Share { number, of }, bands, band))
                    .filter(|keys| (keys.first..=keys.last).contains(&end));
                prop_assert_eq!(holders.count(), 1);
            }
        }

        #[test]
        fn a_share_touches_few_bands(of in 1_usize..70, bands in 1_usize..20) {
            let touched = |number| {
                let share = Share { number, of };
                (0..bands).filter(|&band| keys_of(share, bands, band).is_some()).count()
            };
            let all: usize = (0..of).map(touched).sum();
            prop_assert!(all < of + bands, "{}", all);
        }
    }
}
