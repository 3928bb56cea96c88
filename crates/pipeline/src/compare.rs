//! Compare: buckets → groups of candidates → texts side by side → who stays.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use forebay_store::{File, NewFile};
use forebay_transform::dedup::Fuzzy;
use forebay_transform::dedup::cluster::Clusters;
use forebay_transform::dedup::cover::{Covered, Member, cover};
use forebay_transform::dedup::jaccard;
use forebay_transform::dedup::shingle::Shingler;

use crate::Result;
use crate::corpus::Corpus;
use crate::progress::Unit;
use crate::sort::{Record, Sorter};
use crate::stage::{Entry, Stage};

/// Entries of all buckets of two and more.
pub(crate) struct Candidates<'a> {
    stage: &'a Stage<'a>,
    fuzzy: Fuzzy,
    entries: Spill,
}

/// A document in one bucket of its group: groups together, in each the document to keep first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Placed {
    group: u64,
    /// The smaller, the rather kept.
    rank: u64,
    document: u32,
    reserved: u32,
    bucket: u64,
}

impl Record for Placed {
    fn key(&self) -> u64 {
        self.group
    }
}

impl Placed {
    /// `root` is the first document of its group.
    pub(crate) fn new(entry: Entry, root: u32, stage: &Stage<'_>) -> Self {
        let document = entry.document;
        let root = u64::from(root);
        Self {
            // An odd factor: different for different roots, spread over all of u64.
            group: (root + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            rank: u64::MAX - stage.ranks.weight(document),
            document,
            reserved: 0,
            bucket: entry.key(),
        }
    }
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(stage: &'a Stage<'a>, fuzzy: Fuzzy) -> Self {
        let most = usize::try_from(stage.memory_bytes / 8).unwrap_or(usize::MAX);
        let entries = Spill::new(&stage.work.scratch("buckets"), most / size_of::<Entry>());
        Self { stage, fuzzy, entries }
    }

    pub(crate) fn extend(&mut self, entries: &[Entry]) -> Result<()> {
        if self.fuzzy.verify { self.entries.extend(entries) } else { Ok(()) }
    }

    /// Compares the texts of documents that share buckets; calls `covered` for each that goes.
    ///
    /// `clusters` are the documents that buckets connect.
    pub(crate) fn cover(
        self,
        mut clusters: Clusters,
        covered: impl FnMut(Covered) + Send,
    ) -> Result<()> {
        let Self { stage, fuzzy, entries } = self;
        let mut groups = Groups::new(stage, fuzzy, entries.count());
        entries.each(|entry| {
            let root = clusters.root(entry.document);
            groups.push(Placed::new(entry, root, stage))
        })?;
        drop(clusters);
        groups.cover(covered)
    }
}

/// Entries of buckets by the groups that they connect: these share no bucket with others, so each
/// is worked on by itself. Memory: the shingles of those that stay, of one group.
pub(crate) struct Groups<'a> {
    stage: &'a Stage<'a>,
    fuzzy: Fuzzy,
    sorter: Sorter<Placed>,
}

impl<'a> Groups<'a> {
    /// Of about `expected` entries.
    pub(crate) fn new(stage: &'a Stage<'a>, fuzzy: Fuzzy, expected: u64) -> Self {
        stage.progress.start("compare", Unit::Steps, expected);
        let name = stage.work.scratch("groups");
        let sorter = Sorter::new(&name, expected, stage.memory_bytes / 2, stage.threads);
        Self { stage, fuzzy, sorter }
    }

    pub(crate) fn push(&mut self, placed: Placed) -> Result<()> {
        self.sorter.push(placed)
    }

    /// Calls `covered` for each document that goes.
    pub(crate) fn cover(self, mut covered: impl FnMut(Covered) + Send) -> Result<()> {
        let Self { stage, fuzzy, sorter } = self;
        let most_bytes = stage.memory_bytes / (4 * stage.threads.max(1) as u64);
        let work = |placed: &[Placed]| {
            let texts = Texts::new(stage.corpus, fuzzy, most_bytes);
            let mut gone = Vec::new();
            for group in placed.chunk_by(|a, b| a.group == b.group) {
                stage.check()?;
                gone.extend(texts.cover(group)?);
                stage.progress.add(group.len() as u64);
            }
            Ok(gone)
        };
        sorter.sorted(stage.threads, false, work, |gone| {
            gone.into_iter().for_each(&mut covered);
            Ok(())
        })
    }
}

/// Shingles of documents, read when they are first compared.
struct Texts<'a> {
    corpus: &'a Corpus,
    fuzzy: Fuzzy,
    most_bytes: u64,
    inside: RefCell<Inside>,
}

#[derive(Default)]
struct Inside {
    shingler: Shingler,
    sets: HashMap<u32, Rc<[u64]>>,
    bytes: u64,
}

impl<'a> Texts<'a> {
    fn new(corpus: &'a Corpus, fuzzy: Fuzzy, most_bytes: u64) -> Self {
        Self { corpus, fuzzy, most_bytes, inside: RefCell::default() }
    }

    fn cover(&self, group: &[Placed]) -> Result<Vec<Covered>> {
        let documents = group.chunk_by(|a, b| a.document == b.document);
        let buckets: Vec<(u32, Vec<u64>)> = documents
            .map(|same| (same[0].document, same.iter().map(|placed| placed.bucket).collect()))
            .collect();
        let members: Vec<Member<'_>> = buckets
            .iter()
            .map(|(document, buckets)| {
                let fixed = *document < self.corpus.old();
                Member { document: *document, buckets, fixed }
            })
            .collect();
        let covered = cover(&members, |document, other| {
            // Those that stay are compared again and again, the others never again.
            let kept = self.set(other)?;
            let set = self.set(document)?;
            let jaccard = jaccard::compare(&set, &kept, self.fuzzy.threshold);
            if jaccard.is_some() {
                self.forget(document);
            }
            Ok(jaccard)
        });
        let inside = &mut *self.inside.borrow_mut();
        inside.sets.clear();
        inside.bytes = 0;
        covered
    }

    fn set(&self, document: u32) -> Result<Rc<[u64]>> {
        let inside = &mut *self.inside.borrow_mut();
        if let Some(set) = inside.sets.get(&document) {
            return Ok(Rc::clone(set));
        }
        let text = self.corpus.text(document)?;
        let shingles = inside.shingler.shingles(&text, self.fuzzy.unit, self.fuzzy.ngram);
        let set: Rc<[u64]> = jaccard::set(shingles).into();
        inside.bytes += 8 * set.len() as u64;
        if inside.bytes > self.most_bytes {
            // They are read again when they are needed again.
            inside.sets.clear();
            inside.bytes = 8 * set.len() as u64;
        }
        inside.sets.insert(document, Rc::clone(&set));
        Ok(set)
    }

    fn forget(&self, document: u32) {
        let inside = &mut *self.inside.borrow_mut();
        if let Some(set) = inside.sets.remove(&document) {
            inside.bytes -= 8 * set.len() as u64;
        }
    }
}

/// Entries in the order they came, in memory or in a file.
struct Spill {
    buffer: Vec<Entry>,
    most: usize,
    name: std::path::PathBuf,
    file: Option<NewFile>,
}

impl Spill {
    fn new(name: &Path, most: usize) -> Self {
        Self { buffer: Vec::new(), most: most.max(1), name: name.to_path_buf(), file: None }
    }

    fn extend(&mut self, entries: &[Entry]) -> Result<()> {
        self.buffer.extend_from_slice(entries);
        if self.buffer.len() >= self.most {
            let file = match &mut self.file {
                Some(file) => file,
                empty => empty.insert(NewFile::create(&self.name)?),
            };
            file.append(cast_slice(&self.buffer))?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn count(&self) -> u64 {
        let spilled = self.file.as_ref().map_or(0, NewFile::written);
        spilled / size_of::<Entry>() as u64 + self.buffer.len() as u64
    }

    fn each(mut self, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
        let buffered = std::mem::take(&mut self.buffer);
        if let Some(file) = &self.file {
            let spilled = File::open(file.temporary())?;
            let mut block = vec![Entry::zeroed(); BLOCK];
            let mut at = 0;
            while at < file.written() {
                let left = (file.written() - at) / size_of::<Entry>() as u64;
                let block = &mut block[..usize::try_from(left).unwrap_or(BLOCK).min(BLOCK)];
                spilled.read_at(at, cast_slice_mut(block))?;
                at += size_of_val(block) as u64;
                block.iter().try_for_each(|&entry| each(entry))?;
            }
        }
        buffered.into_iter().try_for_each(each)
    }
}

/// Entries read at once.
const BLOCK: usize = 64 << 10;
