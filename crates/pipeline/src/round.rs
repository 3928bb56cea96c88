//! Rounds: the search for duplicates in shares, on any number of machines.
//!
//! ```text
//! exact k/n ─▶ url k/n ─▶ link k/n ─▶ thin k/n ─▶ group ─▶ place k/n ─▶ compare k/n ─▶ (dedup, which puts it together)
//! ```
//! | round | a share of | reads | leaves |
//! |---|---|---|---|
//! | exact, url | the keys, by range | a column of every part | who goes for whom |
//! | link | the bands end to end, by key range | the bands it touches, of every part | the buckets of two and more, sorted; their links, a run by document |
//! | thin | the documents, by range | its range of all runs of links | links that connect the same documents, each once |
//! | group | (one machine) | all links that are left | the group of each document that has one |
//! | place | the files of `link` | those, the groups | the buckets' entries, a run by group |
//! | compare | the groups, by a hash | its range of all runs of entries, the texts it compares | who goes for whom, and how similar |
//!
//! Each works on what the rounds before left and finds what one machine finds: equal keys are in one
//! share, and groups share no bucket. What a round leaves lies in files of checked bytes, written
//! under names of their own and renamed. Similar documents are linked by most of their bands, so
//! `thin` leaves one link of many, and `group`, which cannot be shared, has little to do.

use std::fmt;

use bytemuck::{Pod, Zeroable};
use forebay_store::{Map, NewFile};
use forebay_transform::dedup::Fuzzy;
use forebay_transform::dedup::cluster::Clusters;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::compare::{Groups, Placed};
use crate::dedup::{Keys, equalities};
use crate::plan::Steps;
use crate::sort::{Record, Sorter};
use crate::stage::{Entry, Stage};
use crate::survivors::{Fate, Survivors};
use crate::task::Share;
use crate::work::Work;
use crate::{Error, Result};

mod runs;

/// A part of the search for duplicates that shares can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Documents of equal text.
    Exact,
    /// Documents of equal URL.
    Url,
    /// Documents that are equal on a band: buckets.
    Link,
    /// Links of documents, each once.
    Thin,
    /// Which documents hang together; a single task.
    Group,
    /// Buckets to the groups that they connect.
    Place,
    /// Texts of documents that share buckets, side by side.
    Compare,
}

impl Round {
    /// In their order.
    pub const ALL: [Self; 7] =
        [Self::Exact, Self::Url, Self::Link, Self::Thin, Self::Group, Self::Place, Self::Compare];

    /// Those that a run of `steps` has, in their order.
    pub fn all(steps: &Steps) -> Vec<Self> {
        let mut rounds = Vec::new();
        rounds.extend(steps.exact.then_some(Self::Exact));
        rounds.extend(steps.url_field.is_some().then_some(Self::Url));
        if let Some(fuzzy) = steps.fuzzy {
            rounds.extend([Self::Link, Self::Thin, Self::Group]);
            if fuzzy.verify {
                rounds.extend([Self::Place, Self::Compare]);
            }
        }
        rounds
    }

    /// As tasks call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Url => "url",
            Self::Link => "link",
            Self::Thin => "thin",
            Self::Group => "group",
            Self::Place => "place",
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

/// Two documents that are equal on a band, the first one of a bucket and another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
struct Pair {
    document: u32,
    /// A smaller number.
    other: u32,
}

impl Record for Pair {
    fn key(&self) -> u64 {
        self.document.into()
    }
}

/// Does a share of a round, if it is not done yet.
pub(crate) fn perform(stage: &Stage<'_>, round: Round, share: Share) -> Result<()> {
    let work = stage.work;
    let steps = &work.plan.options.steps;
    let none = || {
        let what = format!("expected a task of this recipe, found `{round}`: it has no such round");
        Error::key("stage", what)
    };
    if !Round::all(steps).contains(&round) {
        return Err(none());
    }
    let fuzzy = || steps.fuzzy.ok_or_else(none);
    match round {
        _ if work.path(&round.file(share)).exists() => Ok(()),
        Round::Exact | Round::Url => equal(stage, round, share),
        Round::Link => link(stage, fuzzy()?, share),
        Round::Thin => thin(stage, share),
        Round::Group => group(stage, fuzzy()?),
        Round::Place => place(stage, share),
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
    let work = stage.work;
    let survivors = before(stage, None)?;
    let mut file = Rows::create(work, Round::Link, share)?;
    let keys = |band| keys_of(share, fuzzy.bands, band);
    let all = documents(stage, Share::default());
    // A bucket for every document would be more than there ever are.
    let expected = u64::from(stage.corpus.documents()) * fuzzy.bands as u64 / share.of as u64;
    // What waits beside what is sorted.
    let memory = stage.memory_bytes / 4;
    let name = work.scratch(&format!("pairs-{}", share.number));
    let mut pairs =
        Sorter::between(&name, expected / 4, memory, stage.threads, all.first, all.last);
    stage.link(fuzzy, &survivors, keys, |buckets| {
        for bucket in buckets.chunk_by(|a, b| a.key() == b.key()) {
            // k - 1 links, not k (k - 1) / 2 pairs: a page repeated a million times is cheap.
            for entry in &bucket[1..] {
                pairs.push(Pair { document: entry.document, other: bucket[0].document })?;
            }
        }
        file.append(&buckets)
    })?;
    let mut run = runs::Run::create(&work.path(&pairs_of(share)), all, pairs.count())?;
    let each = |rows: &[Pair]| Ok(rows.to_vec());
    pairs.sorted(stage.threads, false, each, |rows| run.append(&rows))?;
    run.publish()?;
    // Says that the share is done.
    file.publish()
}

/// The run of links that a share of `link` leaves beside its buckets.
fn pairs_of(share: Share) -> String {
    format!("pairs-{}-of-{}.run", share.number, share.of)
}

/// The documents of a share: a range of their numbers.
fn documents(stage: &Stage<'_>, share: Share) -> Keys {
    let all = u64::from(stage.corpus.documents().max(1));
    let bound = |number: usize| (u128::from(all) * number as u128 / share.of as u128) as u64;
    // One that has none gets one that is nowhere.
    let (first, end) = (bound(share.number), bound(share.number + 1));
    if first == end { Keys { first: all, last: all } } else { Keys { first, last: end - 1 } }
}

fn thin(stage: &Stage<'_>, share: Share) -> Result<()> {
    let work = stage.work;
    let linked = shares(work, Round::Link)?;
    let keys = documents(stage, share);
    let name = work.scratch(&format!("thin-{}", share.number));
    let expected = (keys.last - keys.first + 1) * linked.len() as u64 / 4;
    let memory = stage.memory_bytes;
    let mut pairs = Sorter::between(&name, expected, memory, stage.threads, keys.first, keys.last);
    for of_share in linked {
        stage.check()?;
        runs::each::<Pair>(&work.path(&pairs_of(of_share)), keys, |rows| {
            rows.iter().try_for_each(|&pair| pairs.push(pair))
        })?;
    }
    let mut file = Rows::create(work, Round::Thin, share)?;
    pairs.sorted(stage.threads, false, |rows| Ok(thinned(rows)), |rows| file.append(&rows))?;
    file.publish()
}

/// Of sorted links those that connect the same documents, each once: a document to the first that
/// it is linked with, the others of those to that first one too.
fn thinned(pairs: &[Pair]) -> Vec<Pair> {
    let mut thin = Vec::new();
    for of_document in pairs.chunk_by(|a, b| a.document == b.document) {
        let first = of_document[0];
        thin.push(first);
        let others = of_document.chunk_by(|a, b| a == b).skip(1);
        thin.extend(others.map(|same| Pair { document: same[0].other, other: first.other }));
    }
    thin
}

fn group(stage: &Stage<'_>, fuzzy: Fuzzy) -> Result<()> {
    let work = stage.work;
    let mut clusters = Clusters::new(stage.corpus.documents());
    for share in shares(work, Round::Thin)? {
        stage.check()?;
        for pair in load::<Pair>(work, Round::Thin, share)? {
            clusters.link(pair.document, pair.other);
        }
    }
    if fuzzy.verify {
        let mut file = Rows::create(work, Round::Group, Share::default())?;
        let numbers: Vec<u32> = (0..stage.corpus.documents()).collect();
        for numbers in numbers.chunks(BLOCK) {
            let pairs =
                numbers.iter().map(|&document| Pair { document, other: clusters.root(document) });
            file.append(&pairs.filter(|pair| pair.other != pair.document).collect::<Vec<_>>())?;
        }
        return file.publish();
    }
    let mut survivors = before(stage, None)?;
    stage.merge(clusters, &mut survivors);
    let documents = (0..survivors.documents()).filter(|&d| survivors.fate(d) == Fate::Fuzzy);
    let gone: Vec<Gone> = documents
        .map(|document| (document, survivors.survivor(document)))
        .map(|(document, survivor)| Gone { document, survivor, jaccard: 0.0 })
        .collect();
    save(work, Round::Group, Share::default(), &gone)
}

const PLACED_BYTES: u64 = size_of::<Placed>() as u64;
/// Documents that are looked at at once.
const BLOCK: usize = 64 << 10;

fn place(stage: &Stage<'_>, share: Share) -> Result<()> {
    let work = stage.work;
    let mut roots: Vec<u32> = (0..stage.corpus.documents()).collect();
    for pair in load::<Pair>(work, Round::Group, Share::default())? {
        roots[pair.document as usize] = pair.other;
    }
    let linked = shares(work, Round::Link)?;
    let mine: Vec<Share> = linked.into_iter().skip(share.number).step_by(share.of).collect();
    let mut sorter: Option<Sorter<Placed>> = None;
    for of_share in mine {
        stage.check()?;
        let entries = load::<Entry>(work, Round::Link, of_share)?;
        let name = work.scratch(&format!("place-{}", share.number));
        let expected = entries.len() as u64 * 4;
        let memory = stage.memory_bytes / 2;
        let sorter =
            sorter.get_or_insert_with(|| Sorter::new(&name, expected, memory, stage.threads));
        for entry in entries {
            sorter.push(Placed::new(entry, roots[entry.document as usize], stage))?;
        }
    }
    let count = sorter.as_ref().map_or(0, Sorter::count);
    let mut run = runs::Run::create(&work.path(&Round::Place.file(share)), Keys::ALL, count)?;
    if let Some(sorter) = sorter {
        let each = |rows: &[Placed]| Ok(rows.to_vec());
        sorter.sorted(stage.threads, false, each, |rows| run.append(&rows))?;
    }
    run.publish()
}

fn compare(stage: &Stage<'_>, fuzzy: Fuzzy, share: Share) -> Result<()> {
    let Some(keys) = keys_of(share, 1, 0) else {
        return save::<Gone>(stage.work, Round::Compare, share, &[]);
    };
    let placed = shares(stage.work, Round::Place)?.into_iter();
    let placed: Vec<_> =
        placed.map(|of_share| stage.work.path(&Round::Place.file(of_share))).collect();
    let bytes: u64 =
        placed.iter().filter_map(|path| path.metadata().ok()).map(|found| found.len()).sum();
    let mut groups = Groups::new(stage, fuzzy, bytes / PLACED_BYTES / share.of as u64);
    for path in placed {
        stage.check()?;
        runs::each::<Placed>(&path, keys, |rows| {
            rows.iter().try_for_each(|&placed| groups.push(placed))
        })?;
    }
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

    /// The groups of `documents`, each by its first document.
    fn groups(documents: u32, pairs: impl IntoIterator<Item = Pair>) -> Vec<u32> {
        let mut clusters = Clusters::new(documents);
        pairs.into_iter().for_each(|pair| clusters.link(pair.document, pair.other));
        (0..documents).map(|document| clusters.root(document)).collect()
    }

    proptest! {
        #[test]
        fn thin_links_connect_what_all_links_connect(
            links in prop::collection::vec((1..60_u32, 0..60_u32), 0..200),
            bounds in prop::collection::vec(0..60_u32, 0..4),
        ) {
            let mut pairs: Vec<Pair> = links
                .into_iter()
                .map(|(document, other)| Pair { document, other: other % document })
                .collect();
            let expected = groups(60, pairs.clone());
            // Each range of documents by itself, as shares do it.
            pairs.sort_unstable();
            let of_share = |pair: &Pair| bounds.iter().filter(|&&b| b <= pair.document).count();
            let mut shares: Vec<Vec<Pair>> = vec![Vec::new(); bounds.len() + 1];
            pairs.iter().for_each(|pair| shares[of_share(pair)].push(*pair));
            let thin: Vec<Pair> = shares.iter().flat_map(|pairs| thinned(pairs)).collect();
            prop_assert_eq!(groups(60, thin.clone()), expected);
            prop_assert!(thin.iter().all(|pair| pair.other < pair.document), "{:?}", thin);
            pairs.dedup();
            prop_assert!(thin.len() <= pairs.len());
        }

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
