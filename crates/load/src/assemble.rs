//! Makes a batch: draws → samples → segments → ranges → columns.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use forebay_shard::Error as ShardError;

use crate::batch::{Batch, Dtype, IGNORED, Typed};
use crate::config::Config;
use crate::mixture::Mixture;
use crate::order::Order;
use crate::reader::{Range, Reading, Traffic};
use crate::samples::{Sampling, Segment};
use crate::source::Source;
use crate::{Error, Replaced, Result};

mod raw;

/// Everything that a batch depends on and that does not change; threads share it.
#[derive(Debug)]
pub(crate) struct Assembler {
    pub(crate) config: Config,
    pub(crate) sources: Vec<Source>,
    /// Leave tokens as they are stored: a device makes the columns.
    pub(crate) raw: bool,
}

/// What may change between batches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    pub(crate) mixture: Option<Mixture>,
    /// `(source, sample)` → what comes in its place.
    pub(crate) replaced: HashMap<(u32, u64), u64>,
}

/// One global batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) step: u64,
    pub(crate) epoch: u64,
    pub(crate) position: u64,
    /// Samples that are left of the epoch from `position` on.
    pub(crate) left: u64,
}

/// What a thread keeps from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Of each source: the epoch and its order.
    orders: Vec<Option<(u64, Order)>>,
    /// Of each slot, if the epoch has a sample for it.
    draws: Vec<Option<Draw>>,
    rows: Vec<Row>,
    segments: Vec<Segment>,
    /// Of all sources, one after another.
    ranges: Vec<Range>,
    targets: Vec<Target>,
    parts: Vec<Part>,
    bytes: Vec<u8>,
    cost: Cost,
}

/// What of a batch is of one source.
#[derive(Debug, Default)]
struct Part {
    source: usize,
    /// Of [`Scratch::ranges`].
    first: usize,
    end: usize,
    reading: Reading,
}

impl Scratch {
    /// Does the batch that was begun wait for the storage?
    pub(crate) fn is_cold(&self) -> bool {
        self.parts.iter().any(|part| part.reading.is_cold())
    }
}

/// Where a row lies among the segments.
#[derive(Debug, Clone, Copy)]
struct Row {
    source: usize,
    /// Of [`Scratch::segments`].
    first: usize,
    end: usize,
}

/// Where the tokens of a range go.
#[derive(Debug, Clone, Copy)]
struct Target {
    row: usize,
    column: usize,
    /// How many go to `input_ids`; what follows is a label alone.
    inputs: usize,
    /// Is the first one the label of the token before it?
    joined: bool,
}

/// What a batch took to make.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Order, index and verification.
    pub(crate) plan: Duration,
    /// Reading and widening.
    pub(crate) fill: Duration,
    /// All of it.
    pub(crate) all: Duration,
    pub(crate) traffic: Traffic,
}

/// A sample that was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draw {
    pub(crate) source: usize,
    pub(crate) sample: u64,
}

impl Assembler {
    /// The sample at a position of an epoch.
    pub(crate) fn draw(
        &self,
        setup: &Setup,
        epoch: u64,
        position: u64,
        scratch: &mut Scratch,
    ) -> Draw {
        let (source, epoch, position) = match &setup.mixture {
            None => (0, epoch, position),
            Some(mixture) => {
                let (source, number) = mixture.at(position);
                let samples = self.sources[source].samples.count();
                (source, number / samples, number % samples)
            }
        };
        scratch.orders.resize(self.sources.len(), None);
        let order = match &mut scratch.orders[source] {
            Some((found, order)) if *found == epoch => order,
            other => &mut other.insert((epoch, self.sources[source].order(epoch))).1,
        };
        Draw { source, sample: order.at(position) }
    }

    /// The position of slot `slot` of this rank, if the epoch has it.
    pub(crate) fn position(&self, place: Place, slot: usize) -> Option<u64> {
        let slot = (self.config.rank + slot * self.config.world_size) as u64;
        (slot < place.left).then_some(place.position + slot)
    }

    /// Fills `batch` with this rank's part of a global batch.
    pub(crate) fn fill(
        &self,
        setup: &Setup,
        place: Place,
        batch: &mut Batch,
        scratch: &mut Scratch,
    ) -> Result<Cost> {
        let begun = self.begin(setup, place, batch, scratch);
        self.finish(begun, batch, scratch)
    }

    /// Chooses the samples of `batch` and starts to read what is not in memory. Others may be begun
    /// on the same thread before it is finished, each with a scratch of its own.
    pub(crate) fn begin(
        &self,
        setup: &Setup,
        place: Place,
        batch: &mut Batch,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let start = Instant::now();
        let mut cost = Cost::default();
        // What an earlier batch that failed left.
        scratch.parts.clear();
        let Config { batch_size, seq_len, .. } = self.config;
        (batch.batch_size, batch.seq_len) = (batch_size, seq_len);
        (batch.step, batch.epoch) = (place.step, place.epoch);
        self.choose(setup, place, batch, scratch, &mut cost.traffic)?;
        cost.plan = start.elapsed().saturating_sub(cost.traffic.verify);
        match self.config.dtype {
            _ if self.raw => self.lay_out_raw(batch, scratch),
            Dtype::U32 => self.lay_out::<u32>(batch, scratch),
            Dtype::I32 => self.lay_out::<i32>(batch, scratch),
            Dtype::I64 => self.lay_out::<i64>(batch, scratch),
        }
        let Scratch { ranges, parts, .. } = &mut *scratch;
        let begun = parts.iter_mut().try_for_each(|part| {
            let (Part { source, first, end, reading }, traffic) = (part, &mut cost.traffic);
            let source = &self.sources[*source];
            source.reader.begin(&source.tokens, &ranges[*first..*end], reading, traffic)
        });
        cost.all = start.elapsed();
        scratch.cost = cost;
        begun
    }

    /// Fills `batch` with what was begun.
    ///
    /// * `begun` — what [`Assembler::begin`] said; if that is an error, it is told again here, after
    ///   what is in flight.
    pub(crate) fn finish(
        &self,
        begun: Result<()>,
        batch: &mut Batch,
        scratch: &mut Scratch,
    ) -> Result<Cost> {
        let start = Instant::now();
        let written = match self.config.dtype {
            _ if begun.is_err() => self.give_up(scratch),
            _ if self.raw => self.write_raw(batch, scratch),
            Dtype::U32 => self.write::<u32>(batch, scratch),
            Dtype::I32 => self.write::<i32>(batch, scratch),
            Dtype::I64 => self.write::<i64>(batch, scratch),
        };
        begun?;
        written?;
        if !self.raw {
            self.describe(batch, scratch);
        }
        let cost = &mut scratch.cost;
        cost.all += start.elapsed();
        cost.fill = cost.all.saturating_sub(cost.plan + cost.traffic.verify);
        Ok(*cost)
    }

    /// Waits for what is in flight of a batch that cannot be made.
    fn give_up(&self, scratch: &mut Scratch) -> Result<()> {
        let Scratch { ranges, parts, bytes, cost, .. } = &mut *scratch;
        for Part { source, first, end, reading } in parts {
            if reading.is_cold() {
                let (source, ranges) = (&self.sources[*source], &ranges[*first..*end]);
                let traffic = &mut cost.traffic;
                source
                    .reader
                    .finish(&source.tokens, ranges, reading, bytes, traffic, |_, _| Ok(()))?;
            }
        }
        Ok(())
    }

    /// Samples and segments of every row.
    fn choose(
        &self,
        setup: &Setup,
        place: Place,
        batch: &mut Batch,
        scratch: &mut Scratch,
        traffic: &mut Traffic,
    ) -> Result<()> {
        batch.samples.clear();
        batch.sources.clear();
        batch.replaced.clear();
        let mut rows = std::mem::take(&mut scratch.rows);
        let mut all = std::mem::take(&mut scratch.segments);
        let mut segments = Vec::new();
        let mut draws = std::mem::take(&mut scratch.draws);
        rows.clear();
        all.clear();
        draws.clear();
        let mut touched = 0;
        for slot in 0..self.config.batch_size {
            let draw = self
                .position(place, slot)
                .map(|position| self.draw(setup, place.epoch, position, scratch));
            if let Some(Draw { source, sample }) = draw {
                let Source { tokens, samples, .. } = &self.sources[source];
                touched ^= samples.touch(tokens.index(), sample);
            }
            draws.push(draw);
        }
        std::hint::black_box(touched);
        for draw in &draws {
            let first = all.len();
            let Some(Draw { source, sample }) = *draw else {
                batch.samples.push(-1);
                batch.sources.push(0);
                rows.push(Row { source: 0, first, end: first });
                continue;
            };
            let dataset = &self.sources[source];
            let known = setup.replaced.get(&(source as u32, sample)).copied();
            let by = dataset.sound_segments(sample, &self.config, known, &mut segments, traffic)?;
            if by != sample {
                batch.replaced.push(dataset.replaced(sample, by));
            }
            batch.samples.push(by as i64);
            batch.sources.push(source as i32);
            all.extend_from_slice(&segments);
            rows.push(Row { source, first, end: all.len() });
        }
        (scratch.rows, scratch.segments, scratch.draws) = (rows, all, draws);
        Ok(())
    }

    /// Finds out which ranges go where in `input_ids` and `labels`.
    fn lay_out<T: Typed>(&self, batch: &mut Batch, scratch: &mut Scratch) {
        let Config { batch_size, seq_len, .. } = self.config;
        let cells = batch_size * seq_len;
        let inputs = T::buffer(&mut batch.input_ids);
        inputs.resize(cells, T::default());
        let labels = T::buffer(&mut batch.labels);
        labels.resize(if self.config.columns.labels { cells } else { 0 }, T::default());
        self.parts(scratch, inputs, labels);
    }

    /// The part of each source that has rows.
    fn parts<T: Typed>(&self, scratch: &mut Scratch, inputs: &mut [T], labels: &mut [T]) {
        scratch.ranges.clear();
        scratch.targets.clear();
        for source in 0..self.sources.len() {
            if scratch.rows.iter().all(|row| row.source != source) {
                continue;
            }
            let first = scratch.ranges.len();
            self.target(source, scratch, inputs, labels);
            let (end, reading) = (scratch.ranges.len(), Reading::default());
            scratch.parts.push(Part { source, first, end, reading });
        }
    }

    /// Reads the tokens and writes `input_ids` and `labels`.
    fn write<T: Typed>(&self, batch: &mut Batch, scratch: &mut Scratch) -> Result<()> {
        let seq_len = self.config.seq_len;
        let inputs = T::buffer(&mut batch.input_ids);
        let labels = T::buffer(&mut batch.labels);
        let Scratch { ranges, targets, parts, bytes, cost, .. } = &mut *scratch;
        let traffic = &mut cost.traffic;
        each_part(parts, |Part { source, first, end, reading }| {
            let source = &self.sources[*source];
            let (ranges, targets) = (&ranges[*first..*end], &targets[*first..*end]);
            let (kind, width) = (source.tokens.token_type(), source.tokens.token_type().bytes());
            source.reader.finish(&source.tokens, ranges, reading, bytes, traffic, |at, bytes| {
                let target = targets[at];
                let cell = target.row * seq_len + target.column;
                let mut decoded = kind
                    .decode(&bytes[..target.inputs * width], &mut inputs[cell..][..target.inputs]);
                if !labels.is_empty() {
                    // The tokens again, a place to the left.
                    let skip = usize::from(!target.joined || target.column == 0);
                    let to = &mut labels[cell + skip - 1..];
                    let count = (bytes.len() / width).saturating_sub(skip);
                    let again =
                        kind.decode(&bytes[(skip * width).min(bytes.len())..], &mut to[..count]);
                    decoded = decoded.and(again);
                }
                decoded.map_err(|(token, found)| {
                    let range = &ranges[at];
                    let byte = range.offset + (width * token) as u64;
                    let path = &source.tokens.files()[range.shard as usize];
                    let expected = format!("an id from 0 to {}", T::LARGEST);
                    ShardError::corrupt(path, format!("token at byte {byte}"), expected, found)
                        .into()
                })
            })
        })
    }

    /// Ranges of all rows of a source, and where they go; padding and missing labels are written.
    fn target<T: Typed>(
        &self,
        number: usize,
        scratch: &mut Scratch,
        inputs: &mut [T],
        labels: &mut [T],
    ) {
        let source = &self.sources[number];
        let width = source.tokens.token_type().bytes();
        let seq_len = self.config.seq_len;
        let joined = self.config.sampling == Sampling::Concat;
        let ignored = T::low(IGNORED);
        for (row, found) in scratch.rows.iter().enumerate() {
            if found.source != number {
                continue;
            }
            let mut column = 0;
            // Of the last range of this row; documents that touch become one.
            let mut end = None;
            for segment in &scratch.segments[found.first..found.end] {
                let tokens = segment.tokens as usize;
                let inside = tokens.min(seq_len - column);
                let ahead = usize::from(!joined && segment.goes_on && !labels.is_empty());
                let bytes = width * (tokens + ahead);
                let start = segment.offset;
                if joined
                    && end == Some((segment.shard, start))
                    && let (Some(range), Some(target)) =
                        (scratch.ranges.last_mut(), scratch.targets.last_mut())
                {
                    range.bytes += bytes;
                    target.inputs += inside;
                } else {
                    scratch.ranges.push(Range { shard: segment.shard, offset: start, bytes });
                    scratch.targets.push(Target { row, column, inputs: inside, joined });
                }
                end = Some((segment.shard, start + bytes as u64));
                column += inside;
                // Overwritten where there is a label.
                if let Some(label) = labels.get_mut(row * seq_len + column - 1) {
                    *label = ignored;
                }
            }
            let rest = row * seq_len + column..(row + 1) * seq_len;
            inputs[rest.clone()].fill(T::low(source.pad.into()));
            if !labels.is_empty() {
                labels[rest].fill(ignored);
            }
        }
    }

    /// The columns that follow from the segments alone.
    fn describe(&self, batch: &mut Batch, scratch: &Scratch) {
        let Config { batch_size, seq_len, columns, dtype, .. } = self.config;
        let cells = batch_size * seq_len;
        batch.cu_seqlens.clear();
        batch.max_seqlen = 0;
        batch.document_ids.resize(if columns.document_ids { cells } else { 0 }, 0);
        batch.loss_mask.resize(if columns.loss_mask { cells } else { 0 }, 0);
        let positions = if columns.position_ids { cells } else { 0 };
        match dtype {
            Dtype::U32 => u32::buffer(&mut batch.position_ids).resize(positions, 0),
            Dtype::I32 => i32::buffer(&mut batch.position_ids).resize(positions, 0),
            Dtype::I64 => i64::buffer(&mut batch.position_ids).resize(positions, 0),
        }
        let wanted =
            columns.position_ids || columns.cu_seqlens || columns.document_ids || columns.loss_mask;
        if !wanted {
            return;
        }
        if columns.cu_seqlens {
            batch.cu_seqlens.push(0);
        }
        for (row, found) in scratch.rows.iter().enumerate() {
            let mut column = 0;
            for segment in &scratch.segments[found.first..found.end] {
                let tokens = (segment.tokens as usize).min(seq_len - column);
                let cells = row * seq_len + column..row * seq_len + column + tokens;
                // What was cut off here is the label of the last token.
                let goes_on = segment.goes_on || tokens < segment.tokens as usize;
                write_segment(batch, cells, segment.document as i64, goes_on);
                column += tokens;
            }
            write_segment(batch, row * seq_len + column..(row + 1) * seq_len, -1, false);
        }
    }
}

/// All of them, whatever becomes of one: what is in flight is waited for. The first error counts.
fn each_part(parts: &mut [Part], mut finish: impl FnMut(&mut Part) -> Result<()>) -> Result<()> {
    parts.iter_mut().map(&mut finish).fold(Ok(()), Result::and)
}

/// The columns of one segment, or of padding.
fn write_segment(batch: &mut Batch, cells: std::ops::Range<usize>, document: i64, goes_on: bool) {
    let tokens = cells.len();
    if tokens == 0 {
        return;
    }
    match &mut batch.position_ids {
        crate::Ids::U32(ids) if !ids.is_empty() => {
            ids[cells.clone()].iter_mut().zip(0..).for_each(|(id, place)| *id = place);
        }
        crate::Ids::I32(ids) if !ids.is_empty() => {
            ids[cells.clone()].iter_mut().zip(0..).for_each(|(id, place)| *id = place);
        }
        crate::Ids::I64(ids) if !ids.is_empty() => {
            ids[cells.clone()].iter_mut().zip(0..).for_each(|(id, place)| *id = place);
        }
        _ => {}
    }
    if !batch.cu_seqlens.is_empty() {
        batch.cu_seqlens.push(cells.end as i32);
        batch.max_seqlen = batch.max_seqlen.max(tokens as i32);
    }
    if !batch.document_ids.is_empty() {
        batch.document_ids[cells.clone()].fill(document);
    }
    if !batch.loss_mask.is_empty() {
        let mask = &mut batch.loss_mask[cells];
        mask.fill(u8::from(document >= 0));
        if !goes_on {
            mask[tokens - 1] = 0;
        }
    }
}

/// As the state has them, for looking up.
pub(crate) fn by_sample(replaced: &[Replaced]) -> HashMap<(u32, u64), u64> {
    replaced.iter().map(|r| ((r.source, r.sample), r.by)).collect()
}

/// A panic of a thread, as an error.
pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    Error::Panicked { what: text.unwrap_or("for no reason given").into() }
}
