//! Write: spool parts and survivors → documents in their new order → tokens → shards.
//!
//! The order is cut into items of a few megabytes. Threads gather and encode items on their own;
//! what they made is put into shards in order. A task, to be done again after a kill, is a shard.

use std::path::Path;

use forebay_shard::format::Target;
use forebay_shard::{Columns, Note, Row as ShardRow, UnitWriter};
use forebay_transform::shuffle;
use forebay_transform::tokenize::{Pieces, Tokenizer, Verifier};

use crate::cuts;
use crate::ordered::ordered;
use crate::outcome::Outcome;
use crate::part::Part;
use crate::plan::{Execution, Form};
use crate::progress::{Progress, Unit};
use crate::spool::Row;
use crate::stats::Stats;
use crate::survivors::Fate;
use crate::task::Share;
use crate::work::{Done, Work};
use crate::{Error, Result};

/// Text that a thread gathers and encodes at once, at least.
const ITEM_BYTES: u64 = 4 << 20;
/// What is read of one part for one item, about: less, and the disk does nothing but seek.
const PIECE_BYTES: u64 = 64 << 10;
/// The range of keys is cut at multiples of 2^48, fine enough for shards of equal size.
const BUCKET_SHIFT: u32 = 48;
const BUCKETS: usize = 1 << (64 - BUCKET_SHIFT);
/// Which documents are verified has nothing to do with where they are shuffled to.
const VERIFY_SEED: u64 = 0x7665_7269_6679;

/// What becomes of the texts on their way into a shard.
pub(crate) struct Encoder<'a> {
    pub(crate) tokenizer: Option<&'a Tokenizer>,
    /// Compares a sample of the tokens with the reference's.
    pub(crate) verifier: Option<&'a Verifier>,
    /// For statistics.
    pub(crate) pieces: Option<&'a Pieces>,
}

/// Writes the shards of a share that are not complete yet; returns all that are complete.
///
/// With `pieces` it counts what it writes. A shard of a run that did not count is written again.
pub(crate) fn run(
    work: &Work,
    outcome: &Outcome<'_>,
    encoder: &Encoder<'_>,
    share: Share,
    execution: &Execution,
    progress: &Progress,
) -> Result<Vec<Done>> {
    let options = &work.plan.options;
    if options.form == Form::Removed {
        return Ok(Vec::new());
    }
    let (form, duplicates, mask) = (options.form, options.duplicates, options.steps.cuts.mask);
    let spool = Spool { outcome, form, duplicates, mask };
    let parts = outcome.corpus.parts();
    // An item is held as text and as tokens, by every thread and in the queue behind it.
    let most = execution.memory_bytes / (8 * execution.threads.max(1) as u64);
    let item_bytes = (PIECE_BYTES * parts.len() as u64).min(most).max(ITEM_BYTES);
    let items = spool.items(work, item_bytes)?;
    let shards = items.last().map_or(0, |item| item.shard + 1);
    let complete = |done: &Done| encoder.pieces.is_none() || done.stats.is_some();
    let mut done: Vec<Option<Done>> = (0..shards)
        .map(|number| work.shard(number).map(|(done, _)| done).filter(complete))
        .collect();

    let is_left = |item: &&Item| share.holds(item.shard) && done[item.shard].is_none();
    let todo: Vec<&Item> = items.iter().filter(is_left).collect();
    progress.start("write", Unit::Bytes, todo.iter().map(|item| item.text_bytes).sum());
    let columns = Columns {
        tokens: encoder.tokenizer.is_some(),
        text: options.keep_text || encoder.tokenizer.is_none(),
        duplicates,
        annotations: form == Form::Annotated,
        masked: mask,
    };
    let entry = encoder.tokenizer.map(Tokenizer::entry);
    let target = Target {
        format: options.format,
        columns,
        shuffled: options.steps.shuffle.is_some(),
        tokenizer: entry.map_or(String::new(), |entry| entry.name.clone()),
        vocab_size: entry.map_or(0, |entry| entry.vocab_size),
    };
    let mut open: Option<(usize, UnitWriter)> = None;
    let mut stats = encoder.pieces.map(|_| Stats::default());
    let gather = |number: usize| {
        if progress.stopped() {
            return Err(Error::Interrupted);
        }
        let mut batch = spool.gather(todo[number], encoder)?;
        batch.stats = encoder.pieces.map(|pieces| batch.count(pieces)).transpose()?;
        Ok(batch)
    };
    ordered(execution.threads, todo.len(), gather, |number, batch| {
        let item = todo[number];
        let mut writer = match open.take() {
            Some((shard, writer)) if shard == item.shard => writer,
            _ => UnitWriter::create(&work.out, item.shard, &target)?,
        };
        batch.write(&mut writer)?;
        if let (Some(stats), Some(of_batch)) = (&mut stats, &batch.stats) {
            stats.add(of_batch);
        }
        progress.add(item.text_bytes);
        if todo.get(number + 1).is_some_and(|next| next.shard == item.shard) {
            open = Some((item.shard, writer));
        } else {
            let stats = stats.as_mut().map(std::mem::take);
            let shard = writer.finish(execution.threads)?;
            done[item.shard] = Some(work.publish_shard(item.shard, shard, stats)?);
        }
        Ok(())
    })?;
    Ok(done.into_iter().flatten().collect())
}

/// A piece of the output order.
#[derive(Debug)]
struct Item {
    shard: usize,
    text_bytes: u64,
    range: Range,
}

#[derive(Debug, Clone, Copy)]
enum Range {
    /// Keys of these buckets, from every part.
    Buckets { first: usize, end: usize },
    /// Rows of one part.
    Rows { part: usize, first: u32, end: u32 },
}

/// Documents on their way out.
struct Spool<'a> {
    outcome: &'a Outcome<'a>,
    form: Form,
    duplicates: bool,
    mask: bool,
}

impl Spool<'_> {
    fn document(&self, part: usize, row: &Row) -> u32 {
        self.outcome.corpus.first(part) + row.ordinal
    }

    /// Is it written?
    fn stays(&self, part: usize, row: &Row) -> bool {
        let document = self.document(part, row);
        self.form == Form::Annotated || self.outcome.survivors.stays(document)
    }

    /// The run's own parts, numbered through all parts.
    fn own_parts(&self) -> impl Iterator<Item = (usize, &Part)> {
        let corpus = self.outcome.corpus;
        let parts = corpus.parts().iter().enumerate();
        parts.filter(|&(number, _)| corpus.first(number) >= corpus.old())
    }

    /// Calls `each` with every document that stays, part by part.
    fn each_row(&self, mut each: impl FnMut(usize, u32, &Row)) -> Result<()> {
        const ROWS: u32 = 64 << 10;
        for (number, part) in self.own_parts() {
            for first in (0..part.footer.documents).step_by(ROWS as usize) {
                let end = part.footer.documents.min(first.saturating_add(ROWS));
                for (place, row) in (first..).zip(&part.rows(first, end)?) {
                    if self.stays(number, row) {
                        each(number, place, row);
                    }
                }
            }
        }
        Ok(())
    }

    /// Cuts the output order into shards of equal text and those into items.
    fn items(&self, work: &Work, item_bytes: u64) -> Result<Vec<Item>> {
        let mut cutter = Cutter::new(work.plan.options.shard_bytes, item_bytes);
        if work.plan.options.steps.shuffle.is_some() {
            let mut buckets = vec![0; BUCKETS];
            self.each_row(|_, _, row| {
                buckets[(row.key >> BUCKET_SHIFT) as usize] += weight(row);
            })?;
            cutter.total(buckets.iter().sum());
            for (bucket, &text_bytes) in buckets.iter().enumerate() {
                let range = Range::Buckets { first: bucket, end: bucket + 1 };
                cutter.push(range, text_bytes);
            }
        } else {
            let mut total = 0;
            self.each_row(|_, _, row| total += weight(row))?;
            cutter.total(total);
            self.each_row(|part, place, row| {
                let range = Range::Rows { part, first: place, end: place + 1 };
                cutter.push(range, weight(row));
            })?;
        }
        Ok(cutter.items)
    }

    /// Reads the documents of an item, puts them in order and encodes them.
    fn gather(&self, item: &Item, encoder: &Encoder<'_>) -> Result<Batch> {
        let mut batch = Batch::default();
        match item.range {
            Range::Rows { part, first, end } => {
                self.take(part, first, end, &mut batch)?;
                batch.order = (0..batch.documents.len()).collect();
            }
            Range::Buckets { first, end } => {
                for (number, part) in self.own_parts() {
                    let at = part.find((first as u64) << BUCKET_SHIFT)?;
                    let to = match end {
                        BUCKETS => part.footer.documents,
                        end => part.find((end as u64) << BUCKET_SHIFT)?,
                    };
                    self.take(number, at, to, &mut batch)?;
                }
                let key = |&(row, _): &(Row, usize)| (row.key, row.file, row.position);
                batch.order = (0..batch.documents.len()).collect();
                batch.order.sort_unstable_by_key(|&at| key(&batch.documents[at]));
            }
        }
        if let Some(tokenizer) = encoder.tokenizer {
            // Growing would copy all: some bytes to spare instead.
            let text_bytes = usize::try_from(item.text_bytes).unwrap_or(0);
            let mut tokens = Vec::with_capacity(text_bytes / 3 + batch.documents.len());
            let mut ends = Vec::with_capacity(batch.documents.len());
            for at in 0..batch.documents.len() {
                let [_, _, text] = batch.strings(at)?;
                let start = tokens.len();
                tokenizer.encode(text, &mut tokens)?;
                ends.push(tokens.len());
                if let Some(verifier) = encoder.verifier {
                    let end = tokens.len() - usize::from(tokenizer.entry().eos.is_some());
                    batch.verify(at, &tokens[start..end], verifier)?;
                }
            }
            (batch.tokens, batch.ends) = (tokens, ends);
        }
        Ok(batch)
    }

    /// Adds the documents that stay of consecutive rows.
    fn take(&self, number: usize, first: u32, end: u32, batch: &mut Batch) -> Result<()> {
        let part = &self.outcome.corpus.parts()[number];
        let rows = part.rows(first, end)?;
        if rows.is_empty() {
            return Ok(());
        }
        let data = batch.data.len();
        batch.data.push(forebay_shard::string(part.data(&rows)?).ok_or_else(changed)?);
        for row in rows.iter().filter(|row| self.stays(number, row)) {
            let document = self.document(number, row);
            let (mut row, mut data) = (Row { offset: row.offset - rows[0].offset, ..*row }, data);
            let cuts = self.outcome.cuts.of(document);
            if self.form == Form::Dataset && !self.mask && !cuts.is_empty() {
                let [id, source, text] = batch.strings_of(&row, data)?;
                let text: String = cuts::kept(text, cuts).collect();
                let whole = [id, source, &text].concat();
                row.offset = 0;
                row.text_bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
                data = batch.data.len();
                batch.data.push(whole);
            }
            let mut note = self.note(document)?;
            if self.mask {
                note.masked = cuts.iter().flat_map(|cut| [cut.start, cut.end]).collect();
            }
            batch.documents.push((row, data));
            batch.notes.push(note);
        }
        Ok(())
    }

    /// What the columns say about a document.
    fn note(&self, document: u32) -> Result<Note> {
        let Outcome { corpus, survivors, clustering, .. } = self.outcome;
        let mut note = Note::default();
        let cluster = clustering.of(document);
        if self.duplicates && survivors.survivor(document) == document {
            note.duplicates = cluster.map_or(0, |cluster| clustering.size(cluster) - 1);
        }
        if self.form == Form::Annotated {
            let fate = survivors.fate(document);
            note.reason = (fate != Fate::Kept).then(|| fate.name());
            note.cluster = cluster.map(u64::from);
            note.cluster_size = cluster.map(|cluster| clustering.size(cluster));
            let survivor = survivors.survivor(document);
            if survivor != document {
                note.survivor = Some(corpus.names(survivor)?.0);
                note.jaccard = survivors.jaccard(document);
                note.jaccard_estimated = corpus.estimate(document, survivor)?;
            }
        }
        Ok(note)
    }
}

/// Text of a document; something also if there is none, since it is written all the same.
fn weight(row: &Row) -> u64 {
    u64::from(row.text_bytes).max(1)
}

/// Cuts a sequence of ranges into shards and items by the text they hold.
struct Cutter {
    shard_bytes: u64,
    item_bytes: u64,
    /// Text of all, text of a shard if all are equal, text pushed so far.
    total: u64,
    shards: u64,
    before: u64,
    items: Vec<Item>,
}

impl Cutter {
    fn new(shard_bytes: u64, item_bytes: u64) -> Self {
        Self { shard_bytes, item_bytes, total: 0, shards: 1, before: 0, items: Vec::new() }
    }

    fn total(&mut self, total: u64) {
        self.total = total;
        self.shards = total.div_ceil(self.shard_bytes.max(1)).max(1);
    }

    fn push(&mut self, range: Range, text_bytes: u64) {
        if text_bytes == 0 {
            return;
        }
        // A shard is full when as much text lies before its end as its share of the whole.
        let opened = self.items.last().map_or(0, |item| item.shard);
        let share = u128::from(self.total) * (opened as u128 + 1) / u128::from(self.shards);
        let full = !self.items.is_empty() && u128::from(self.before) >= share;
        self.before += text_bytes;
        let shard = if full { opened + 1 } else { opened };
        if let Some(last) = self.items.last_mut()
            && last.shard == shard
            && last.text_bytes < self.item_bytes
            && last.range.extend(range)
        {
            last.text_bytes += text_bytes;
            return;
        }
        self.items.push(Item { shard, text_bytes, range });
    }
}

impl Range {
    /// Makes it reach to the end of `next`, if that follows in the same part.
    fn extend(&mut self, next: Self) -> bool {
        match (self, next) {
            (Self::Buckets { end, .. }, Self::Buckets { end: next, .. }) => *end = next,
            (Self::Rows { part, end, .. }, Self::Rows { part: other, end: next, .. })
                if *part == other =>
            {
                *end = next;
            }
            _ => return false,
        }
        true
    }
}

/// Documents of an item, in order, with their tokens.
#[derive(Default)]
struct Batch {
    data: Vec<String>,
    /// Row, its offset now counted in its data; number of its data.
    documents: Vec<(Row, usize)>,
    /// Of each document, as they were taken.
    notes: Vec<Note>,
    /// Place in `documents` and `notes` of each document, in order.
    order: Vec<usize>,
    tokens: Vec<u32>,
    /// Where the tokens of each document end.
    ends: Vec<usize>,
    /// If the run counts.
    stats: Option<Stats>,
}

impl Batch {
    /// Id, source and text of a document, by its place in the order.
    fn strings(&self, at: usize) -> Result<[&str; 3]> {
        let (row, number) = &self.documents[self.order[at]];
        self.strings_of(row, *number)
    }

    fn strings_of(&self, row: &Row, number: usize) -> Result<[&str; 3]> {
        let mut rest = self.data[number].get(usize::try_from(row.offset).unwrap_or(usize::MAX)..);
        let mut next = |bytes: u32| {
            let (string, after) = rest?.split_at_checked(bytes as usize)?;
            rest = Some(after);
            Some(string)
        };
        let [id, source, text] = [row.id_bytes, row.source_bytes, row.text_bytes].map(&mut next);
        Ok([id.ok_or_else(changed)?, source.ok_or_else(changed)?, text.ok_or_else(changed)?])
    }

    /// Compares the tokens of a document, by its place in the order, if it is in the sample.
    fn verify(&self, at: usize, tokens: &[u32], verifier: &Verifier) -> Result<()> {
        let (row, _) = &self.documents[self.order[at]];
        if !verifier.picks(shuffle::key(VERIFY_SEED, row.file, row.position)) {
            return Ok(());
        }
        let [id, source, text] = self.strings(at)?;
        verifier.check(text, tokens).map_err(|difference| Error::Tokens {
            id: id.to_owned(),
            source_name: source.to_owned(),
            position: row.position,
            difference: Box::new(difference),
        })
    }

    /// The tokens of a document, by its place in the order.
    fn tokens(&self, at: usize) -> &[u32] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.tokens[start..self.ends[at]]
    }

    fn count(&self, pieces: &Pieces) -> Result<Stats> {
        let mut stats = Stats::default();
        for at in 0..self.order.len() {
            let [_, source, text] = self.strings(at)?;
            stats.push(source, text, self.tokens(at), pieces);
        }
        Ok(stats)
    }

    fn write(&self, writer: &mut UnitWriter) -> Result<()> {
        let mut start = 0;
        for at in 0..self.order.len() {
            let [id, source, text] = self.strings(at)?;
            let end = self.ends.get(at).copied().unwrap_or(0);
            let (tokens, note) = (&self.tokens[start..end], self.notes[self.order[at]].clone());
            let position = self.documents[self.order[at]].0.position;
            writer.push(&ShardRow { id, source, position, tokens, text, note })?;
            start = end;
        }
        Ok(())
    }
}

fn changed() -> forebay_shard::Error {
    forebay_shard::Error::file(Path::new("spool"), "changed under the run")
}
