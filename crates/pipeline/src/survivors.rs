//! Survivors: the outcome of dedup, document by document.

use std::collections::{HashMap, HashSet};

use forebay_shard::manifest::Counts;
use forebay_store::{Map, NewFile};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::Result;
use crate::work::Work;

const FILE: &str = "dedup.bin";

/// Who stays, and for whom. Documents are numbered as in the corpus.
#[derive(Debug, PartialEq)]
pub(crate) struct Survivors {
    /// Of each document; itself if it stays.
    survivor: Vec<u32>,
    fate: Vec<Fate>,
    /// Exact similarity to the survivor of those that went for a similar one, in order.
    jaccard: Vec<(u32, f32)>,
    /// Duplicates stay too; they only know of each other.
    keeps_all: bool,
}

/// Why a document stays or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(crate) enum Fate {
    Kept,
    /// It belongs to an index: it stays, and is not written.
    Old,
    Empty,
    Eval,
    Exact,
    Url,
    Fuzzy,
    /// All of its text repeats others.
    Cut,
}

const FATES: [Fate; 8] = [
    Fate::Kept,
    Fate::Old,
    Fate::Empty,
    Fate::Eval,
    Fate::Exact,
    Fate::Url,
    Fate::Fuzzy,
    Fate::Cut,
];

impl Fate {
    /// As it stands in `removed/`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kept | Self::Old => "kept",
            Self::Empty => "empty",
            Self::Eval => "eval",
            Self::Exact => "exact",
            Self::Url => "url",
            Self::Fuzzy => "fuzzy",
            Self::Cut => "cut",
        }
    }

    /// Another document stays in its place.
    pub(crate) fn is_duplicate(self) -> bool {
        matches!(self, Self::Exact | Self::Url | Self::Fuzzy)
    }
}

impl Survivors {
    /// Every document on its own.
    pub(crate) fn new(fate: Vec<Fate>, keeps_all: bool) -> Self {
        let documents = u32::try_from(fate.len()).unwrap_or(u32::MAX);
        Self { survivor: (0..documents).collect(), fate, jaccard: Vec::new(), keeps_all }
    }

    /// Lets a document go for another.
    pub(crate) fn replace(&mut self, document: u32, survivor: u32, fate: Fate) {
        self.survivor[document as usize] = survivor;
        self.fate[document as usize] = fate;
    }

    /// Lets documents go of which nothing is left: all that they hold stands in another, which
    /// takes their place in their clusters too.
    pub(crate) fn cut_away(&mut self, gone: &HashMap<u32, u32>) {
        if gone.is_empty() {
            return;
        }
        let mut moved = HashSet::new();
        for document in 0..self.documents() {
            let survivor = self.survivor(document);
            if let Some(&other) = gone.get(&survivor).filter(|_| survivor != document) {
                self.survivor[document as usize] = other;
                moved.insert(document);
            }
        }
        self.jaccard.retain(|(document, _)| !moved.contains(document));
        gone.keys().for_each(|&document| self.fate[document as usize] = Fate::Cut);
    }

    /// Makes every document point to the one that stays at the end of its chain: a survivor of
    /// one step may have gone in the next. `similar` are exact similarities of the last step.
    ///
    /// # Panics
    /// If a cluster keeps nobody: that must not happen, whatever the input.
    pub(crate) fn settle(&mut self, mut similar: Vec<(u32, f32)>) {
        similar.sort_unstable_by_key(|&(document, _)| document);
        let last_step = |document: u32| {
            similar.binary_search_by_key(&document, |&(d, _)| d).ok().map(|at| similar[at].1)
        };
        let mut jaccard = Vec::new();
        for document in 0..self.documents() {
            let (mut at, mut similarity) = (document, Some(1.0));
            while self.survivor[at as usize] != at {
                similarity = match self.fate[at as usize] {
                    Fate::Exact => similarity,
                    Fate::Fuzzy => similarity.and(last_step(at)),
                    _ => None,
                };
                at = self.survivor[at as usize];
            }
            let end = self.fate[at as usize];
            assert!(matches!(end, Fate::Kept | Fate::Old) || at == document, "a cluster is lost");
            if self.fate[document as usize].is_duplicate()
                && let Some(similarity) = similarity
            {
                jaccard.push((document, similarity));
            }
            self.survivor[document as usize] = at;
        }
        self.jaccard = jaccard;
    }

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

    /// Is `document` in the output?
    pub(crate) fn stays(&self, document: u32) -> bool {
        let fate = self.fate(document);
        fate == Fate::Kept || (self.keeps_all && fate.is_duplicate())
    }

    /// The exact similarity of a document to its survivor, if it was measured.
    pub(crate) fn jaccard(&self, document: u32) -> Option<f32> {
        let found = self.jaccard.binary_search_by_key(&document, |&(d, _)| d);
        found.ok().map(|at| self.jaccard[at].1)
    }

    /// Number and size of the cluster of every document: clusters of two and more are numbered
    /// by their first document that goes, from 1; 0 is no cluster.
    pub(crate) fn clusters(&self) -> Clustering {
        let mut number = vec![0_u32; self.survivor.len()];
        let mut sizes = vec![0_u32];
        for document in 0..self.documents() {
            let survivor = self.survivor(document) as usize;
            if survivor != document as usize {
                if number[survivor] == 0 {
                    number[survivor] = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
                    sizes.push(1);
                }
                number[document as usize] = number[survivor];
                sizes[number[survivor] as usize] += 1;
            }
        }
        Clustering { number, sizes }
    }

    /// Adds what happened to `counts`.
    pub(crate) fn count(&self, counts: &mut Counts) {
        let count = |fate| self.fate.iter().filter(|&&f| f == fate).count() as u64;
        counts.empty = count(Fate::Empty);
        counts.evals = count(Fate::Eval);
        counts.exact = count(Fate::Exact);
        counts.url = count(Fate::Url);
        counts.fuzzy = count(Fate::Fuzzy);
        counts.cut = count(Fate::Cut);
        counts.kept = (0..self.documents()).filter(|&d| self.stays(d)).count() as u64;
        counts.kept_duplicates = if self.keeps_all { counts.duplicates() } else { 0 };
        let Clustering { sizes, .. } = self.clusters();
        counts.clusters = sizes.len() as u64 - 1;
        counts.largest_cluster = u64::from(sizes[1..].iter().copied().max().unwrap_or(0));
    }

    pub(crate) fn save(&self, work: &Work) -> Result<()> {
        let fate: Vec<u8> = self.fate.iter().map(|&fate| fate as u8).collect();
        let (documents, values): (Vec<u32>, Vec<f32>) = self.jaccard.iter().copied().unzip();
        let sections: [&[u8]; 5] = [
            &(self.jaccard.len() as u64).to_le_bytes(),
            bytemuck::cast_slice(&self.survivor),
            &fate,
            bytemuck::cast_slice(&documents),
            bytemuck::cast_slice(&values),
        ];
        let mut file = NewFile::create(&work.path(FILE))?;
        let mut checksum = Xxh3::new();
        for section in sections {
            file.append(section)?;
            checksum.update(section);
        }
        file.append(&checksum.digest().to_le_bytes())?;
        file.publish()?;
        Ok(())
    }

    /// What an interrupted run has found already.
    pub(crate) fn load(work: &Work, documents: u32, keeps_all: bool) -> Option<Self> {
        let map = Map::open(&work.path(FILE)).ok()?;
        let (bytes, found) = map.split_last_chunk::<8>()?;
        let mut checksum = Xxh3::new();
        checksum.update(bytes);
        if checksum.digest().to_le_bytes() != *found {
            return None;
        }
        let (similar, rest) = bytes.split_first_chunk::<8>()?;
        let similar = usize::try_from(u64::from_le_bytes(*similar)).ok()?;
        let documents = documents as usize;
        if rest.len() != 5 * documents + 8 * similar {
            return None;
        }
        let (survivor, rest) = rest.split_at(4 * documents);
        let (fate, rest) = rest.split_at(documents);
        let (of, values) = rest.split_at(4 * similar);
        let fate = fate.iter().map(|&byte| FATES.get(byte as usize).copied());
        let of: Vec<u32> = bytemuck::pod_collect_to_vec(of);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(values);
        Some(Self {
            survivor: bytemuck::pod_collect_to_vec(survivor),
            fate: fate.collect::<Option<Vec<Fate>>>()?,
            jaccard: of.into_iter().zip(values).collect(),
            keeps_all,
        })
    }
}

/// Clusters of two documents and more.
pub(crate) struct Clustering {
    /// Of each document; 0: none.
    number: Vec<u32>,
    /// Of each cluster; place 0 is unused.
    sizes: Vec<u32>,
}

impl Clustering {
    /// Number of the cluster of a document.
    pub(crate) fn of(&self, document: u32) -> Option<u32> {
        Some(self.number[document as usize]).filter(|&number| number > 0)
    }

    /// Number and size of the clusters of at least `size` documents.
    pub(crate) fn at_least(&self, size: u32) -> impl Iterator<Item = (u32, u32)> {
        let numbered = (0..).zip(self.sizes.iter().copied());
        numbered.skip(1).filter(move |&(_, of)| of >= size)
    }

    /// Documents of a cluster, the survivor included.
    pub(crate) fn size(&self, number: u32) -> u32 {
        self.sizes[number as usize]
    }
}
