//! Write: spool parts and survivors → documents in their new order → tokens → shards.
//!
//! The order is cut into items of a few megabytes. Threads gather and encode items on their own;
//! what they made is put into shards in order. A task, to be done again after a kill, is a shard.

use std::path::Path;

use forebay_shard::manifest::ShardEntry;
use forebay_shard::{Columns, Row as ShardRow, ShardWriter};
use forebay_transform::tokenize::Tokenizer;

use crate::dedup::{Fate, Survivors};
use crate::ordered::ordered;
use crate::plan::Execution;
use crate::progress::{Progress, Unit};
use crate::spool::{Part, Row, first_documents};
use crate::work::{Work, shard_name};
use crate::{Error, Result};

/// Text that a thread gathers and encodes at once, at least.
const ITEM_BYTES: u64 = 4 << 20;
/// What is read of one part for one item, about: less, and the disk does nothing but seek.
const PIECE_BYTES: u64 = 64 << 10;
/// The range of keys is cut at multiples of 2^48, fine enough for shards of equal size.
const BUCKET_SHIFT: u32 = 48;
const BUCKETS: usize = 1 << (64 - BUCKET_SHIFT);

/// Writes the shards that are not complete yet; returns all of them.
pub(crate) fn run(
    work: &Work,
    parts: &[Part],
    survivors: &Survivors,
    tokenizer: Option<&Tokenizer>,
    execution: &Execution,
    progress: &Progress,
) -> Result<Vec<ShardEntry>> {
    let spool = Spool::new(parts, survivors);
    // An item is held as text and as tokens, by every thread and in the queue behind it.
    let most = execution.memory_bytes / (8 * execution.threads.max(1) as u64);
    let item_bytes = (PIECE_BYTES * parts.len() as u64).min(most).max(ITEM_BYTES);
    let items = spool.items(work, item_bytes)?;
    let shards = items.last().map_or(0, |item| item.shard + 1);
    let mut done: Vec<Option<ShardEntry>> =
        (0..shards).map(|number| work.shard(number).map(|(entry, _)| entry)).collect();

    let todo: Vec<&Item> = items.iter().filter(|item| done[item.shard].is_none()).collect();
    progress.start("write", Unit::Bytes, todo.iter().map(|item| item.text_bytes).sum());
    let columns = Columns {
        tokens: tokenizer.is_some(),
        text: work.plan.options.keep_text || tokenizer.is_none(),
    };
    let mut open: Option<(usize, ShardWriter)> = None;
    let gather = |number: usize| {
        if progress.stopped() {
            return Err(Error::Interrupted);
        }
        spool.gather(todo[number], tokenizer)
    };
    ordered(execution.threads, todo.len(), gather, |number, batch| {
        let item = todo[number];
        let mut writer = match open.take() {
            Some((shard, writer)) if shard == item.shard => writer,
            _ => ShardWriter::create(&work.out.join(shard_name(item.shard)), columns)?,
        };
        batch.write(&mut writer)?;
        progress.add(item.text_bytes);
        if todo.get(number + 1).is_some_and(|next| next.shard == item.shard) {
            open = Some((item.shard, writer));
        } else {
            done[item.shard] =
                Some(work.publish_shard(item.shard, writer.finish(execution.threads)?)?);
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

/// All parts and who stays of their documents.
struct Spool<'a> {
    parts: &'a [Part],
    survivors: &'a Survivors,
    /// Number of the first document of each part.
    firsts: Vec<u32>,
}

impl<'a> Spool<'a> {
    fn new(parts: &'a [Part], survivors: &'a Survivors) -> Self {
        Self { parts, survivors, firsts: first_documents(parts) }
    }

    fn stays(&self, part: usize, row: &Row) -> bool {
        self.survivors.fate(self.firsts[part] + row.ordinal) == Fate::Kept
    }

    /// Calls `each` with every document that stays, part by part.
    fn each_row(&self, mut each: impl FnMut(usize, u32, &Row)) -> Result<()> {
        const ROWS: u32 = 64 << 10;
        for (number, part) in self.parts.iter().enumerate() {
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
                buckets[(row.key >> BUCKET_SHIFT) as usize] += u64::from(row.text_bytes);
            })?;
            cutter.total(buckets.iter().sum());
            for (bucket, &text_bytes) in buckets.iter().enumerate() {
                let range = Range::Buckets { first: bucket, end: bucket + 1 };
                cutter.push(range, text_bytes);
            }
        } else {
            let mut total = 0;
            self.each_row(|_, _, row| total += u64::from(row.text_bytes))?;
            cutter.total(total);
            self.each_row(|part, place, row| {
                let range = Range::Rows { part, first: place, end: place + 1 };
                cutter.push(range, u64::from(row.text_bytes));
            })?;
        }
        Ok(cutter.items)
    }

    /// Reads the documents of an item, puts them in order and encodes them.
    fn gather(&self, item: &Item, tokenizer: Option<&Tokenizer>) -> Result<Batch> {
        let mut batch = Batch::default();
        match item.range {
            Range::Rows { part, first, end } => self.take(part, first, end, &mut batch)?,
            Range::Buckets { first, end } => {
                for (number, part) in self.parts.iter().enumerate() {
                    let at = part.find((first as u64) << BUCKET_SHIFT)?;
                    let to = match end {
                        BUCKETS => part.footer.documents,
                        end => part.find((end as u64) << BUCKET_SHIFT)?,
                    };
                    self.take(number, at, to, &mut batch)?;
                }
                batch.documents.sort_unstable_by_key(|(row, _)| (row.key, row.file, row.position));
            }
        }
        if let Some(tokenizer) = tokenizer {
            let (mut tokens, mut ends) = (Vec::new(), Vec::new());
            for at in 0..batch.documents.len() {
                let (_, _, text) = batch.strings(at)?;
                tokenizer.encode(text, &mut tokens)?;
                ends.push(tokens.len());
            }
            (batch.tokens, batch.ends) = (tokens, ends);
        }
        Ok(batch)
    }

    /// Adds the documents that stay of consecutive rows.
    fn take(&self, part: usize, first: u32, end: u32, batch: &mut Batch) -> Result<()> {
        let rows = self.parts[part].rows(first, end)?;
        if rows.is_empty() {
            return Ok(());
        }
        let number = batch.data.len();
        batch.data.push(self.parts[part].data(&rows)?);
        for row in rows.iter().filter(|row| self.stays(part, row)) {
            let offset = row.offset - rows[0].offset;
            batch.documents.push((Row { offset, ..*row }, number));
        }
        Ok(())
    }
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
    data: Vec<Vec<u8>>,
    /// Row, its offset now counted in its data; number of its data.
    documents: Vec<(Row, usize)>,
    tokens: Vec<u32>,
    /// Where the tokens of each document end.
    ends: Vec<usize>,
}

impl Batch {
    /// Id, source and text of a document.
    fn strings(&self, at: usize) -> Result<(&str, &str, &str)> {
        let (row, number) = &self.documents[at];
        let start = usize::try_from(row.offset).unwrap_or(usize::MAX);
        let bytes = &self.data[*number][start..];
        let (id, bytes) = bytes.split_at(row.id_bytes as usize);
        let (source, bytes) = bytes.split_at(row.source_bytes as usize);
        let text = &bytes[..row.text_bytes as usize];
        Ok((utf8(id)?, utf8(source)?, utf8(text)?))
    }

    fn write(&self, writer: &mut ShardWriter) -> Result<()> {
        let mut start = 0;
        for at in 0..self.documents.len() {
            let (id, source, text) = self.strings(at)?;
            let end = self.ends.get(at).copied().unwrap_or(0);
            writer.push(&ShardRow { id, source, tokens: &self.tokens[start..end], text })?;
            start = end;
        }
        Ok(())
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    let broken = || forebay_shard::Error::file(Path::new("spool"), "changed under the run");
    Ok(std::str::from_utf8(bytes).map_err(|_| broken())?)
}
