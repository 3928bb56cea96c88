//! Rates of the link, of files and of kernels: bytes a second, one number a repeat. Safe to call, so
//! that benchmarks need no `unsafe`.

use std::path::Path;
use std::ptr::NonNull;
use std::time::Instant;

use forebay_store::Arena;

use crate::kernels::{Gathered, Kernels, Piece, RAW_PADDING, piece_bytes};
use crate::{Device, Error, Fetched, IoPath, Result, Ring, Shape, Stream, Transfer};

/// Copies until so many bytes went over.
const LINK_BYTES: usize = 1 << 30;

/// Copies of `bytes` from the host, out of memory that is page-locked or not.
///
/// # Errors
/// [`Error::Cuda`]; [`Error::Store`].
pub fn link(device: &Device, bytes: usize, pinned: bool, repeats: usize) -> Result<Vec<f64>> {
    let (stream, event) = (device.stream()?, device.event()?);
    let count = (LINK_BYTES / bytes.max(1)).clamp(4, 4096);
    let target = device.alloc(bytes)?;
    let arena = if pinned { device.pinned(bytes, 1)? } else { Arena::new(bytes, 1)? };
    let lent = arena.lend();
    let mut buffer = lent.ok_or_else(|| Error::wrong("buffers of a measurement", 1, 0))?;
    buffer.fill(1);
    let source = NonNull::from(&buffer[..]).cast::<u8>();
    let run = |count: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..count {
            // SAFETY: the buffer is kept until the wait below.
            unsafe { device.copy_in(target.whole(), source, &stream)? };
        }
        event.record(&stream)?;
        event.wait()?;
        Ok((count * bytes) as f64 / start.elapsed().as_secs_f64().max(1e-9))
    };
    run(count.min(16))?;
    (0..repeats).map(|_| run(count)).collect()
}

/// A file to the device, once more than `repeats` times: the first warms what is taken at first use.
///
/// * `before` — done before each, and not timed.
///
/// # Errors
/// Those of [`Ring::fetch`] and of `before`.
pub fn file<E: From<Error>>(
    device: &Device,
    file: &Path,
    path: &IoPath,
    shape: Shape,
    repeats: usize,
    before: impl Fn() -> std::result::Result<(), E>,
) -> std::result::Result<(Vec<f64>, Fetched), E> {
    let size = forebay_store::File::open(file).map_err(Error::from)?.size();
    let memory = device.alloc(size as usize)?;
    let mut ring = Ring::new(device, path.clone(), shape)?;
    let files = [file.to_path_buf()];
    let transfer = Transfer { file: 0, offset: 0, target: memory.whole() };
    let (mut rates, mut last) = (Vec::new(), Fetched::default());
    for repeat in 0..=repeats {
        before()?;
        // SAFETY: `memory` is ours alone, and outlives the call.
        last = unsafe { ring.fetch(&files, &[transfer])? };
        if repeat > 0 {
            rates.push(last.bytes as f64 / last.elapsed.as_secs_f64().max(1e-9));
        }
    }
    Ok((rates, last))
}

/// Kernels over about `bytes`, and a copy within the device that does nothing else: bytes read and
/// written a second, on the device's own clock.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KernelRates {
    /// A copy.
    pub copy: Vec<f64>,
    /// Tokens of two bytes, from an odd byte on, in documents of 700, to ids and labels of eight.
    pub gather: Vec<f64>,
    /// blake3; it writes next to nothing.
    pub hash: Vec<f64>,
}

/// Measures them.
///
/// # Errors
/// [`Error::Cuda`].
pub fn kernels(
    device: &Device,
    kernels: &Kernels,
    bytes: usize,
    repeats: usize,
) -> Result<KernelRates> {
    let (stream, bytes) = (device.stream()?, bytes.max(1).next_multiple_of(4096));
    let (source, target) = (device.alloc(bytes)?, device.alloc(bytes)?);
    let copy = rates(device, &stream, 2 * bytes, repeats, || {
        device.copy_within(source.whole(), target.whole(), &stream)
    })?;
    let cells = (bytes / 8) as u32;
    let raw = device.alloc(2 * cells as usize + 2 + 1 + RAW_PADDING)?;
    let (mut pieces, mut cell) = (Vec::new(), 0);
    while cell < cells {
        let inputs = 700.min(cells - cell);
        let source = 1 + 2 * u64::from(cell);
        let joined = u32::from(cell > 0);
        let total = inputs + u32::from(cell + inputs == cells);
        pieces.push(Piece { source, cell, inputs, total, joined, width: 2, unused: 0 });
        cell += inputs;
    }
    let table = device.alloc(piece_bytes(&pieces).len())?;
    device.put(table.whole(), piece_bytes(&pieces), &stream)?;
    let labels = device.alloc(bytes)?;
    let out = Gathered { wide: true, cells, ids: target.whole(), labels: Some(labels.whole()) };
    let count = pieces.len() as u32;
    let gather = rates(device, &stream, 2 * cells as usize + 2 * bytes, repeats, || {
        // SAFETY: pieces cover all cells and lie inside `raw`; all memory outlives the waits.
        unsafe { kernels.gather(raw.whole(), table.whole(), count, &out, &stream) }
    })?;
    let scratch = device.alloc(Kernels::hash_scratch_bytes(bytes))?;
    let hash = rates(device, &stream, bytes, repeats, || {
        // SAFETY: all memory outlives the waits.
        unsafe { kernels.hash(source.whole(), &scratch, false, &stream).map(drop) }
    })?;
    Ok(KernelRates { copy, gather, hash })
}

fn rates(
    device: &Device,
    stream: &Stream,
    moved: usize,
    repeats: usize,
    work: impl Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let timed = |count: usize| -> Result<f64> {
        let (start, end) = (device.timed_event()?, device.timed_event()?);
        start.record(stream)?;
        (0..count).try_for_each(|_| work())?;
        end.record(stream)?;
        end.wait()?;
        Ok((count * moved) as f64 / end.seconds_since(&start)?.max(1e-12))
    };
    timed(2)?;
    (0..repeats).map(|_| timed(8)).collect()
}
