//! Cuts: lines, paragraphs and substrings that stand elsewhere too, taken out of what stays.
//!
//! ```text
//! texts that stay ─▶ pieces, hashed ─▶ sort ─▶ those that repeat ─▶ sort by document ─▶ cuts.bin
//! ```
//! Of equal pieces the first one stays, in the order of the inputs.

use std::collections::HashMap;
use std::ops::Range;

use bytemuck::{Pod, Zeroable, cast_slice};
use forebay_store::{Map, NewFile};
use forebay_transform::dedup::exact::ExactHasher;
use forebay_transform::dedup::units::{self, Piece};
use forebay_transform::dedup::windows::Windows;
use xxhash_rust::xxh3::Xxh3;

use crate::corpus::Corpus;
use crate::dedup::MIN_SORT_BYTES;
use crate::ordered::ordered;
use crate::plan::{Cuts as Options, Execution};
use crate::progress::{Progress, Unit};
use crate::sort::{Record, Sorter};
use crate::spool::Row;
use crate::survivors::Survivors;
use crate::work::Work;
use crate::{Error, Result};

const FILE: &str = "cuts.bin";
/// Text whose pieces are found at once.
const BLOCK_BYTES: u64 = 2 << 20;

/// Bytes of a document that are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Cut {
    pub(crate) document: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// Document in which they stay.
    pub(crate) first: u32,
    pub(crate) reason: Reason,
}

/// Why they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct Reason(u32);

impl Reason {
    const LINE: Self = Self(0);
    const PARAGRAPH: Self = Self(1);
    const SUBSTRING: Self = Self(2);

    /// As it stands in `removed/`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LINE => "line",
            Self::PARAGRAPH => "paragraph",
            _ => "substring",
        }
    }
}

/// All cuts, by document and place; mapped, so that they take no memory that others need.
pub(crate) struct Cuts {
    map: Option<Map>,
}

impl Cuts {
    pub(crate) fn all(&self) -> &[Cut] {
        self.map.as_ref().map_or(&[], |map| cast_slice(&map[..map.len() - CHECKSUM_BYTES]))
    }

    pub(crate) fn of(&self, document: u32) -> &[Cut] {
        let all = self.all();
        let start = all.partition_point(|cut| cut.document < document);
        let end = start + all[start..].partition_point(|cut| cut.document == document);
        &all[start..end]
    }

    /// Bytes that are cut out of documents that stay.
    pub(crate) fn bytes(&self, survivors: &Survivors) -> u64 {
        let cuts = self.all().iter().filter(|cut| survivors.stays(cut.document));
        cuts.map(|cut| u64::from(cut.end - cut.start)).sum()
    }
}

const CHECKSUM_BYTES: usize = 8;

/// A piece of a text, and what it is equal to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
struct Hashed {
    high: u64,
    /// 30 more bits of the hash, then the reason: pieces of different kinds are never equal.
    low: u32,
    document: u32,
    start: u32,
    end: u32,
}

impl Hashed {
    fn new(reason: Reason, hash: u128, document: u32, range: Range<u32>) -> Self {
        let (high, low) = ((hash >> 64) as u64, hash as u32 & !3 | reason.0);
        Self { high, low, document, start: range.start, end: range.end }
    }
}

impl Record for Hashed {
    fn key(&self) -> u64 {
        self.high
    }
}

/// A cut on its way into the order of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
struct Placed {
    cut: Cut,
    /// So many documents are there.
    documents: u32,
}

impl Record for Placed {
    fn key(&self) -> u64 {
        // In the order of documents, and spread over all of u64.
        ((u128::from(self.cut.document) << 64) / u128::from(self.documents)) as u64
    }
}

/// Finds all cuts. Documents of which nothing is left go.
pub(crate) fn run(
    work: &Work,
    corpus: &Corpus,
    survivors: &mut Survivors,
    execution: &Execution,
    progress: &Progress,
) -> Result<Cuts> {
    let options = &work.plan.options.steps.cuts;
    if options.is_empty() {
        return Ok(Cuts { map: None });
    }
    let cuts = match load(work) {
        Some(cuts) => cuts,
        None => {
            find(work, corpus, survivors, execution, progress)?;
            load(work).ok_or_else(|| forebay_shard::Error::file(&work.path(FILE), "has gone"))?
        }
    };
    let mut gone = HashMap::new();
    for same in cuts.all().chunk_by(|a, b| a.document == b.document) {
        // What is cut from start to end leaves nothing.
        if !options.mask && same.len() == 1 && same[0].start == 0 && same[0].end == u32::MAX {
            gone.insert(same[0].document, same[0].first);
        }
    }
    survivors.cut_away(&gone);
    Ok(cuts)
}

fn find(
    work: &Work,
    corpus: &Corpus,
    survivors: &Survivors,
    execution: &Execution,
    progress: &Progress,
) -> Result<()> {
    let options = &work.plan.options.steps.cuts;
    let threads = execution.threads;
    let memory_bytes = execution.memory_bytes.max(MIN_SORT_BYTES);
    let check = || if progress.stopped() { Err(Error::Interrupted) } else { Ok(()) };
    let blocks = blocks(corpus)?;
    let text_bytes: u64 = corpus.own().map(|(part, _)| part.footer.text_bytes).sum();
    progress.start("cut", Unit::Bytes, text_bytes);
    // A token takes five bytes, with what follows it; a line more.
    let expected = if options.tokens.is_some() { text_bytes / 5 } else { text_bytes / 40 };
    let mut sorter = Sorter::new(&work.scratch("pieces"), expected, memory_bytes, threads);
    let hash = |number: usize| {
        check()?;
        let (part, rows) = &blocks[number];
        pieces(corpus, *part, rows.clone(), survivors, options)
    };
    ordered(threads, blocks.len(), hash, |_, (pieces, bytes): (Vec<Hashed>, u64)| {
        progress.add(bytes);
        pieces.into_iter().try_for_each(|piece| sorter.push(piece))
    })?;

    let documents = corpus.documents();
    let mut by_document =
        Sorter::new(&work.scratch("cuts"), expected / 4, memory_bytes / 2, threads);
    let repeated = |pieces: &[Hashed]| {
        check()?;
        let mut cuts = Vec::new();
        for same in pieces.chunk_by(|a, b| (a.high, a.low) == (b.high, b.low)) {
            let reason = Reason(same[0].low & 3);
            let most = match reason {
                Reason::LINE => options.lines,
                Reason::PARAGRAPH => options.paragraphs,
                _ => Some(1),
            };
            if same.len() as u64 > u64::from(most.unwrap_or(u32::MAX)) {
                let first = same[0].document;
                cuts.extend(same[1..].iter().map(|&Hashed { document, start, end, .. }| Placed {
                    cut: Cut { document, start, end, first, reason },
                    documents,
                }));
            }
        }
        Ok(cuts)
    };
    sorter.sorted(threads, true, repeated, |cuts| {
        cuts.into_iter().try_for_each(|cut| by_document.push(cut))
    })?;

    let mut file = NewFile::create(&work.path(FILE))?;
    let mut checksum = Xxh3::new();
    let merge = |cuts: &[Placed]| {
        check()?;
        let mut merged: Vec<Cut> = Vec::new();
        for same in cuts.chunk_by(|a, b| a.cut.document == b.cut.document) {
            let first = merged.len();
            same.iter().for_each(|placed| join(&mut merged, first, placed.cut));
            let document = same[0].cut.document;
            if !options.mask && is_blank_without(&corpus.text(document)?, &merged[first..]) {
                merged.truncate(first + 1);
                (merged[first].start, merged[first].end) = (0, u32::MAX);
            }
        }
        Ok(merged)
    };
    by_document.sorted(threads, false, merge, |cuts| {
        let bytes: &[u8] = cast_slice(&cuts);
        checksum.update(bytes);
        Ok(file.append(bytes)?)
    })?;
    file.append(&checksum.digest().to_le_bytes())?;
    file.publish()?;
    Ok(())
}

/// What an interrupted run has found already.
fn load(work: &Work) -> Option<Cuts> {
    let map = Map::open(&work.path(FILE)).ok()?;
    let (bytes, found) = map.split_last_chunk::<CHECKSUM_BYTES>()?;
    let mut checksum = Xxh3::new();
    checksum.update(bytes);
    let sound = checksum.digest().to_le_bytes() == *found && bytes.len() % size_of::<Cut>() == 0;
    sound.then_some(Cuts { map: Some(map) })
}

/// Rows of each part, a few megabytes of text at once.
fn blocks(corpus: &Corpus) -> Result<Vec<(usize, Range<u32>)>> {
    let mut blocks = Vec::new();
    for (number, part) in corpus.parts().iter().enumerate() {
        if corpus.first(number) < corpus.old() {
            continue;
        }
        let (mut first, mut bytes) = (0, 0);
        for (place, row) in (0..).zip(part.rows(0, part.footer.documents)?) {
            bytes += row.data_bytes();
            if bytes >= BLOCK_BYTES {
                blocks.push((number, first..place + 1));
                (first, bytes) = (place + 1, 0);
            }
        }
        if first < part.footer.documents {
            blocks.push((number, first..part.footer.documents));
        }
    }
    Ok(blocks)
}

/// All pieces of the documents that stay, of some rows of a part; and the bytes looked at.
fn pieces(
    corpus: &Corpus,
    part: usize,
    rows: Range<u32>,
    survivors: &Survivors,
    options: &Options,
) -> Result<(Vec<Hashed>, u64)> {
    let first = corpus.first(part);
    let part = &corpus.parts()[part];
    let rows: Vec<Row> = part.rows(rows.start, rows.end)?;
    let (mut hasher, mut windows) = (ExactHasher::default(), Windows::default());
    let (mut found, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let document = first + row.ordinal;
        bytes += u64::from(row.text_bytes);
        if !survivors.stays(document) {
            continue;
        }
        let [_, _, text] = part.strings(&row)?;
        let kinds = [
            (Reason::LINE, Piece::Line, options.lines),
            (Reason::PARAGRAPH, Piece::Paragraph, options.paragraphs),
        ];
        for (reason, piece, _) in kinds.into_iter().filter(|(_, _, most)| most.is_some()) {
            units::pieces(&text, piece, &mut hasher, |range, hash| {
                // Records are bounded to far below 4 GiB.
                let range = range.start as u32..range.end as u32;
                found.push(Hashed::new(reason, hash, document, range));
            });
        }
        if let Some(tokens) = options.tokens {
            windows.windows(&text, tokens as usize, |range, hash| {
                found.push(Hashed::new(Reason::SUBSTRING, hash, document, range));
            });
        }
    }
    Ok((found, bytes))
}

/// Adds a cut to those of one document, which start at `first` and come in order.
fn join(merged: &mut Vec<Cut>, first: usize, mut cut: Cut) {
    if let Some(last) = merged[first..].last_mut() {
        let touches = cut.start < last.end || cut.start == last.end && cut.first == last.first;
        if touches && cut.reason == last.reason {
            last.end = last.end.max(cut.end);
            return;
        }
        // What two reasons share is cut once.
        cut.start = cut.start.max(last.end);
        if cut.start >= cut.end {
            return;
        }
    }
    merged.push(cut);
}

fn is_blank_without(text: &str, cuts: &[Cut]) -> bool {
    kept(text, cuts).all(|kept| kept.trim_start().is_empty())
}

/// What is left of a text.
pub(crate) fn kept<'a>(text: &'a str, cuts: &'a [Cut]) -> impl Iterator<Item = &'a str> {
    let starts = std::iter::once(0).chain(cuts.iter().map(|cut| cut.end as usize));
    let ends = cuts.iter().map(|cut| cut.start as usize).chain([text.len()]);
    starts.zip(ends).map(move |(start, end)| text.get(start..end).unwrap_or_default())
}
