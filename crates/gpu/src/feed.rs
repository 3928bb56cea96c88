//! Batches on a device: raw bytes and tables in, columns out, everything in the order of a stream.
//!
//! ```text
//! raw bytes, pieces, segments ─▶ pinned slot ── one copy ──▶ device slot ── kernels ──▶ columns
//!                                      side stream, an event behind it: `ready`
//! consumer's stream waits for `ready` … drops its tensors: an event on that stream, for which the
//! next batch in the same memory waits. The host waits for neither.
//! ```
//! A token of two bytes crosses the link as two bytes, however wide its columns are: labels,
//! positions and documents are made on the device.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use forebay_store::{Arena, BUFFER_ALIGN, Buffer};

use crate::kernels::{
    Described, Gathered, Kernels, Piece, RAW_PADDING, Segment, piece_bytes, segment_bytes,
};
use crate::path::Way;
use crate::{Device, DeviceMemory, Error, Event, Region, Result, Stream};

/// What a batch is made of, in memory of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawBatch {
    /// Bytes of tokens, and [`RAW_PADDING`] behind them.
    pub bytes: Vec<u8>,
    /// Sorted; they leave no cell out.
    pub pieces: Vec<Piece>,
    /// Sorted; they leave no cell out.
    pub segments: Vec<Segment>,
}

/// Columns that are wanted, and how wide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the columns of a batch")]
pub struct Wanted {
    /// Ids, labels and positions of eight bytes, else of four.
    pub wide: bool,
    pub labels: bool,
    pub positions: bool,
    pub documents: bool,
    pub mask: bool,
    pub cu_seqlens: bool,
}

/// How a feed is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedOptions {
    /// Batches that may be on their way at once.
    pub ahead: usize,
    /// Bytes of device memory that it takes at most, slots and columns together.
    pub memory: u64,
    /// Slots that are page-locked, or not.
    pub way: Way,
}

/// Makes batches on a device.
#[derive(Debug)]
pub struct Feed {
    device: Device,
    kernels: Kernels,
    stream: Stream,
    options: FeedOptions,
    slots: Vec<FeedSlot>,
    /// Of the slot that is used next: they end in turn.
    next: usize,
    slot_bytes: usize,
    pool: Arc<Pool>,
    copied_bytes: u64,
}

#[derive(Debug)]
struct FeedSlot {
    host: Option<Buffer>,
    device: DeviceMemory,
    over: Event,
}

/// Memory for columns that is not in use.
#[derive(Debug)]
struct Pool {
    device: Device,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    free: Vec<Output>,
    /// Bytes of all outputs, in use or not.
    taken: u64,
}

#[derive(Debug)]
struct Output {
    memory: DeviceMemory,
    ready: Event,
    /// Behind the last use by each stream of the consumer.
    used: Vec<Event>,
}

/// Columns on a device, in the order in which a batch has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the columns of a batch")]
pub enum Column {
    InputIds,
    Labels,
    PositionIds,
    DocumentIds,
    LossMask,
    CuSeqlens,
}

const COLUMNS: [Column; 6] = [
    Column::InputIds,
    Column::Labels,
    Column::PositionIds,
    Column::DocumentIds,
    Column::LossMask,
    Column::CuSeqlens,
];

/// A batch on a device. Its memory is used again when it is dropped, behind what the consumer's
/// streams were given until then.
#[derive(Debug)]
pub struct FedBatch {
    output: Option<Output>,
    regions: [Option<Region>; 6],
    pool: Arc<Pool>,
    /// Streams that were told to wait for it.
    streams: Mutex<Vec<u64>>,
}

/// Columns start at multiples of it, as memory of the device does.
const COLUMN_ALIGN: usize = 256;

impl Feed {
    /// Loads the kernels and makes a stream; memory is taken when the first batch says how much.
    ///
    /// # Errors
    /// [`Error::Cuda`]; [`Error::Kernels`].
    pub fn new(device: &Device, kernels: Kernels, options: FeedOptions) -> Result<Self> {
        let pool = Pool { device: device.clone(), shelf: Mutex::default() };
        Ok(Self {
            device: device.clone(),
            kernels,
            stream: device.stream()?,
            options,
            slots: Vec::new(),
            next: 0,
            slot_bytes: 0,
            pool: Arc::new(pool),
            copied_bytes: 0,
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The stream of copies and kernels.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Where the kernels come from.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Bytes that crossed the link so far.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// Starts to make a batch of `cells` tokens; `raw` may be used again at once.
    ///
    /// Waits for the host's part of the batch before the last [`FeedOptions::ahead`] alone.
    ///
    /// # Errors
    /// [`Error::Wrong`] if the tables do not describe the batch; [`Error::Memory`] if the consumer
    /// holds more batches than the limit has room for; [`Error::Cuda`].
    pub fn make(&mut self, raw: &RawBatch, cells: u32, wanted: &Wanted) -> Result<FedBatch> {
        check(raw, cells)?;
        let (pieces, segments) = (piece_bytes(&raw.pieces), segment_bytes(&raw.segments));
        let second = pieces.len();
        let third = second + segments.len();
        let all = third + raw.bytes.len();
        self.grow(all)?;
        let mut output = self.output(cells, raw.segments.len(), wanted)?;
        let turn = self.next % self.slots.len();
        let slot = &mut self.slots[turn];
        // Its last copy must be over before the slot is written; in a ring it mostly is long since.
        slot.over.wait()?;
        let Some(buffer) = &mut slot.host else {
            return Err(Error::wrong("buffer of a slot", "one", "none"));
        };
        buffer[..second].copy_from_slice(pieces);
        buffer[second..third].copy_from_slice(segments);
        buffer[third..all].copy_from_slice(&raw.bytes);
        let target = slot.device.region(0..all);
        // The consumer's last use of this memory, on whichever stream, comes first.
        for used in output.used.drain(..) {
            self.stream.wait_for(&used)?;
        }
        let source = NonNull::from(&buffer[..]).cast();
        let regions = regions(&output.memory, cells, raw.segments.len(), wanted);
        let counts = (raw.pieces.len() as u32, raw.segments.len() as u32);
        let (table, bytes) = (target.part(0..second), target.part(third..all));
        let of = |column: Column| regions[column as usize];
        let Some(ids) = of(Column::InputIds) else {
            return Err(Error::wrong("memory of input_ids", "some", "none"));
        };
        let gathered = Gathered { wide: wanted.wide, cells, ids, labels: of(Column::Labels) };
        let described = Described {
            positions: of(Column::PositionIds),
            documents: of(Column::DocumentIds),
            mask: of(Column::LossMask),
            cu_seqlens: of(Column::CuSeqlens),
        };
        let start = || -> Result<()> {
            // SAFETY: the slot is written again only after its event, recorded below whatever
            // happens here. `check` saw that tables leave no cell out and lie inside the bytes; the
            // slot and the output live until their events are over.
            unsafe {
                self.device.copy_in(target, source, &self.stream)?;
                self.kernels.gather(bytes, table, counts.0, &gathered, &self.stream)?;
                if regions[2..].iter().any(Option::is_some) {
                    let table = target.part(second..third);
                    let (stream, wide) = (&self.stream, wanted.wide);
                    self.kernels.describe(table, counts.1, cells, wide, &described, stream)?;
                }
            }
            Ok(())
        };
        let started = start();
        let marked = slot.over.record(&self.stream);
        started.and(marked)?;
        output.ready.record(&self.stream)?;
        self.next += 1;
        self.copied_bytes += all as u64;
        let (pool, streams) = (Arc::clone(&self.pool), Mutex::default());
        Ok(FedBatch { output: Some(output), regions, pool, streams })
    }

    /// Slots of at least so many bytes.
    fn grow(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.slot_bytes {
            return Ok(());
        }
        self.retire()?;
        // Batches differ a little in their tables: room for that, so that this is done once.
        let wanted = (bytes + bytes / 4).next_multiple_of(BUFFER_ALIGN);
        let count = self.options.ahead.max(1) + 1;
        let limit = self.options.memory;
        if (wanted * count) as u64 > limit {
            let wanted = (wanted * count) as u64;
            return Err(Error::Memory { what: "slots of batches made ahead", limit, wanted });
        }
        let arena = match self.options.way {
            Way::Host => Arena::new(wanted, count)?,
            Way::Pinned | Way::Gds => self.device.pinned(wanted, count)?,
        };
        let slot = |_| -> Result<FeedSlot> {
            let (device, over) = (self.device.alloc(wanted)?, self.device.event()?);
            Ok(FeedSlot { host: arena.lend(), device, over })
        };
        self.slots = (0..count).map(slot).collect::<Result<_>>()?;
        self.slot_bytes = wanted;
        Ok(())
    }

    /// Waits for the copies of all slots and gives them back.
    fn retire(&mut self) -> Result<()> {
        for slot in &self.slots {
            slot.over.record(&self.stream)?;
            slot.over.wait()?;
        }
        self.slots.clear();
        self.slot_bytes = 0;
        Ok(())
    }

    /// Memory for columns: of a batch that is done with, or new.
    fn output(&self, cells: u32, segments: usize, wanted: &Wanted) -> Result<Output> {
        let bytes = layout(cells, segments, wanted).1;
        let mut shelf = self.pool.shelf();
        // The one that was given back first: its consumer is most likely through with it.
        if let Some(at) = shelf.free.iter().position(|output| output.memory.bytes() >= bytes) {
            return Ok(shelf.free.remove(at));
        }
        // Too small for the batches of now.
        for output in std::mem::take(&mut shelf.free) {
            shelf.taken -= output.memory.bytes() as u64;
        }
        let bytes = (bytes + bytes / 8).next_multiple_of(COLUMN_ALIGN);
        let slots = (self.slot_bytes * self.slots.len()) as u64;
        let (limit, wanted) = (self.options.memory, slots + shelf.taken + bytes as u64);
        if wanted > limit {
            return Err(Error::Memory { what: "batches in use", limit, wanted });
        }
        let memory = self.device.alloc(bytes)?;
        shelf.taken += bytes as u64;
        Ok(Output { memory, ready: self.device.event()?, used: Vec::new() })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if self.retire().is_err() {
            // A context that answers no more may still read: the slots are never used again.
            self.slots.drain(..).for_each(|mut slot| std::mem::forget(slot.host.take()));
        }
    }
}

impl Pool {
    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        // A panic cannot leave a list half changed.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FedBatch {
    /// Where a column lies, if it was wanted.
    pub fn column(&self, column: Column) -> Option<Region> {
        self.regions[column as usize]
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.pool.device
    }

    /// Lets a stream of the consumer, by its handle, wait until the columns are made, and remembers
    /// it: the memory is used again behind what that stream is given until the batch is dropped.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn ready_on(&self, stream: u64) -> Result<()> {
        if let Some(output) = &self.output {
            output.ready.hold_back(stream)?;
        }
        self.used_on(stream);
        Ok(())
    }

    /// Remembers a stream without letting it wait.
    pub fn used_on(&self, stream: u64) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if !streams.contains(&stream) {
            streams.push(stream);
        }
    }

    /// Waits on the host until the columns are made.
    ///
    /// # Errors
    /// [`Error::Cuda`], of anything that ran before.
    pub fn wait(&self) -> Result<()> {
        self.output.as_ref().map_or(Ok(()), |output| output.ready.wait())
    }

    /// A column in memory of the host. For tests and for showing: it waits.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn fetch(&self, column: Column) -> Result<Vec<u8>> {
        self.wait()?;
        match self.column(column) {
            Some(region) => self.device().fetch(region, &self.device().stream()?),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for FedBatch {
    fn drop(&mut self) {
        let Some(mut output) = self.output.take() else { return };
        let streams =
            std::mem::take(self.streams.get_mut().unwrap_or_else(PoisonError::into_inner));
        for stream in streams {
            let marked = self.pool.device.event().and_then(|event| {
                event.record_on(stream)?;
                Ok(event)
            });
            match marked {
                Ok(event) => output.used.push(event),
                // The stream is gone. What it ran may not be.
                Err(_) => drop(self.pool.device.drain()),
            }
        }
        self.pool.shelf().free.push(output);
    }
}

/// First bytes of the columns, and the end of the last.
fn layout(cells: u32, segments: usize, wanted: &Wanted) -> ([Option<(usize, usize)>; 6], usize) {
    let all = cells as usize;
    let id = if wanted.wide { 8 } else { 4 };
    let mut end = 0;
    let columns = COLUMNS.map(|column| {
        let (is_wanted, bytes) = match column {
            Column::InputIds => (true, id * all),
            Column::Labels => (wanted.labels, id * all),
            Column::PositionIds => (wanted.positions, id * all),
            Column::DocumentIds => (wanted.documents, 8 * all),
            Column::LossMask => (wanted.mask, all),
            Column::CuSeqlens => (wanted.cu_seqlens, 4 * (segments + 1)),
        };
        is_wanted.then(|| {
            let start = end;
            end = (start + bytes).next_multiple_of(COLUMN_ALIGN);
            (start, bytes)
        })
    });
    (columns, end)
}

fn regions(
    memory: &DeviceMemory,
    cells: u32,
    segments: usize,
    wanted: &Wanted,
) -> [Option<Region>; 6] {
    let (columns, _) = layout(cells, segments, wanted);
    columns.map(|column| column.map(|(start, bytes)| memory.region(start..start + bytes)))
}

/// Do the tables leave no cell out, and name only bytes that are there? A kernel does not ask.
fn check(raw: &RawBatch, cells: u32) -> Result<()> {
    let room = raw.bytes.len().checked_sub(RAW_PADDING);
    let room = room.ok_or_else(|| Error::wrong("raw bytes", RAW_PADDING, raw.bytes.len()))? as u64;
    let mut cell = 0_u32;
    for piece in &raw.pieces {
        let tokens = u64::from(piece.total.max(piece.inputs));
        let end = piece.source.checked_add(tokens * u64::from(piece.width));
        let inside = piece.is_padding() || end.is_some_and(|end| end <= room);
        let width = matches!(piece.width, 1 | 2 | 4 | 8);
        // A piece without cells is a label alone, of the cell before.
        let some = piece.inputs > 0 || (piece.joined == 1 && piece.cell > 0);
        let next = cell.checked_add(piece.inputs).filter(|_| some);
        let Some(next) = next.filter(|_| piece.cell == cell && inside && width) else {
            let expected = format!("one at cell {cell} within {room} bytes");
            return Err(Error::wrong("piece of a batch", expected, format!("{piece:?}")));
        };
        cell = next;
    }
    if cell != cells {
        return Err(Error::wrong("cells of all pieces", cells, cell));
    }
    let mut cell = 0_u32;
    for segment in &raw.segments {
        let next = cell.checked_add(segment.tokens).filter(|_| segment.tokens > 0);
        let Some(next) = next.filter(|_| segment.cell == cell) else {
            let expected = format!("one at cell {cell}");
            return Err(Error::wrong("segment of a batch", expected, format!("{segment:?}")));
        };
        cell = next;
    }
    if cell != cells {
        return Err(Error::wrong("cells of all segments", cells, cell));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::twin;
    use crate::stub;

    const WANTED: Wanted = Wanted {
        wide: true,
        labels: true,
        positions: true,
        documents: true,
        mask: true,
        cu_seqlens: true,
    };

    /// One row of `cells` tokens of two bytes, all of them `value`, in two documents.
    fn raw(cells: u32, value: u16) -> RawBatch {
        let mut bytes: Vec<u8> = (0..=cells).flat_map(|_| value.to_le_bytes()).collect();
        bytes.extend([0; RAW_PADDING]);
        let whole = Piece { inputs: cells, total: cells + 1, width: 2, ..Piece::default() };
        let half = cells / 2;
        let first = Segment { tokens: half, document: 4, ..Segment::default() };
        let second =
            Segment { cell: half, tokens: cells - half, document: 5, goes_on: 1, unused: 0 };
        RawBatch { bytes, pieces: vec![whole], segments: vec![first, second] }
    }

    fn feed(device: &Device, ahead: usize, memory: u64) -> Feed {
        let kernels = Kernels::load(device, None).unwrap();
        Feed::new(device, kernels, FeedOptions { ahead, memory, way: Way::Pinned }).unwrap()
    }

    fn values(bytes: &[u8]) -> Vec<i64> {
        bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// A consumer on a slow stream of its own that lets go of its batches before it has read them:
    /// their memory must not be written before it has.
    #[test]
    fn a_batch_is_not_written_over_while_a_stream_still_reads_it() {
        let Some(stub) = stub::load() else { return };
        let device = Device::open(0).unwrap();
        let mut feed = feed(&device, 2, 1 << 30);
        let consumer = device.stream().unwrap();
        let cells = 3000;
        let copies: Vec<DeviceMemory> =
            (0..30).map(|_| device.alloc(8 * cells as usize).unwrap()).collect();
        stub.delay(2_000);
        let waits = stub.calls("cuCtxSynchronize");
        let mut addresses = std::collections::BTreeSet::new();
        for (value, copy) in (0..).zip(&copies) {
            let batch = feed.make(&raw(cells, value), cells, &WANTED).unwrap();
            batch.ready_on(consumer.handle() as u64).unwrap();
            let ids = batch.column(Column::InputIds).unwrap();
            addresses.insert(ids.pointer());
            device.copy_within(ids, copy.whole(), &consumer).unwrap();
        }
        for (value, copy) in (0..).zip(&copies) {
            let found = values(&device.fetch(copy.whole(), &consumer).unwrap());
            assert!(found.iter().all(|&id| id == value), "batch {value}: {}", found[0]);
        }
        stub.delay(0);
        assert_eq!(addresses.len(), 1, "one batch in use at a time needs one piece of memory");
        assert_eq!(stub.calls("cuCtxSynchronize"), waits);
    }

    #[test]
    fn columns_are_those_of_the_twins() {
        let Some(_stub) = stub::load() else { return };
        let device = Device::open(0).unwrap();
        let mut feed = feed(&device, 1, 1 << 30);
        for cells in [2, 7, 5000, 3] {
            let raw = raw(cells, 9);
            let batch = feed.make(&raw, cells, &WANTED).unwrap();
            let (mut ids, mut labels) = (vec![0; cells as usize], vec![0; cells as usize]);
            twin::gather(&raw.bytes, &raw.pieces, &mut ids, &mut labels);
            let described = twin::describe(&raw.segments);
            assert_eq!(values(&batch.fetch(Column::InputIds).unwrap()), ids);
            assert_eq!(values(&batch.fetch(Column::Labels).unwrap()), labels);
            assert_eq!(values(&batch.fetch(Column::PositionIds).unwrap()), described.positions);
            assert_eq!(values(&batch.fetch(Column::DocumentIds).unwrap()), described.documents);
            assert_eq!(batch.fetch(Column::LossMask).unwrap(), described.mask);
            let ends: Vec<u8> =
                described.cu_seqlens.iter().flat_map(|end| end.to_le_bytes()).collect();
            assert_eq!(batch.fetch(Column::CuSeqlens).unwrap(), ends);
        }
    }

    #[test]
    fn memory_stays_below_its_limit_and_a_batch_given_back_makes_room() {
        let Some(_stub) = stub::load() else { return };
        let device = Device::open(0).unwrap();
        let mut feed = feed(&device, 1, 1 << 20);
        let mut held = Vec::new();
        let error = loop {
            match feed.make(&raw(4096, 1), 4096, &WANTED) {
                Ok(batch) => held.push(batch),
                Err(error) => break error,
            }
        };
        assert!((2..9).contains(&held.len()), "{} batches", held.len());
        assert!(matches!(error, Error::Memory { what: "batches in use", .. }), "{error}");
        held.pop();
        held.push(feed.make(&raw(4096, 1), 4096, &WANTED).unwrap());
    }

    #[test]
    fn tables_that_are_not_of_the_batch_are_refused() {
        let Some(_stub) = stub::load() else { return };
        let device = Device::open(0).unwrap();
        let mut feed = feed(&device, 1, 1 << 30);
        let good = raw(10, 1);
        let mut made = |change: fn(&mut RawBatch)| {
            let mut raw = good.clone();
            change(&mut raw);
            feed.make(&raw, 10, &WANTED).unwrap_err().to_string()
        };
        type Change = fn(&mut RawBatch);
        let cases: [(Change, &str); 8] = [
            (|raw| raw.pieces[0].source = 1, "piece of a batch"),
            (|raw| raw.pieces[0].cell = 1, "piece of a batch"),
            (|raw| raw.pieces[0].width = 3, "piece of a batch"),
            (|raw| raw.pieces[0].source = u64::MAX - 1, "piece of a batch"),
            (|raw| raw.pieces.clear(), "cells of all pieces"),
            (|raw| raw.segments[1].cell = 4, "segment of a batch"),
            (|raw| raw.segments.truncate(1), "cells of all segments"),
            (|raw| raw.bytes.clear(), "raw bytes"),
        ];
        for (change, expected) in cases {
            let found = made(change);
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
