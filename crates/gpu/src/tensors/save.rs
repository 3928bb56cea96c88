//! Tensors of a device or of the host into a file, verified by reading it back.

use std::collections::BTreeMap;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_store::{Access, Buffer, Direct, Engine, NewFile, Object, Op, Options, Queue, Request};

use super::{Checkpoint, dtype_bits};
use crate::kernels::Kernels;
use crate::{Device, Error, Region, Result};

/// Where the bytes of a tensor lie.
#[derive(Debug, Clone, Copy)]
pub enum Memory<'a> {
    /// On the host.
    Host(&'a [u8]),
    /// On the device of the [`Saver`].
    Device(Region),
}

impl Memory<'_> {
    /// How many.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Host(bytes) => bytes.len(),
            Self::Device(region) => region.bytes(),
        }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct NewTensor<'a> {
    /// Its name.
    pub name: String,
    /// As safetensors call it: "F32".
    pub dtype: String,
    /// Lengths of its dimensions.
    pub shape: Vec<u64>,
    /// Its numbers, row after row.
    pub memory: Memory<'a>,
}

/// What [`save`] is given besides.
#[derive(Debug, Default)]
pub struct Saver {
    /// The device of [`Memory::Device`], and its kernels for verification.
    pub device: Option<(Device, Arc<Kernels>)>,
    /// Read back what was written and compare blake3, past the page cache where it can be.
    pub verify: bool,
    /// Texts for the header.
    pub metadata: BTreeMap<String, String>,
    /// Threads that read back; writes are one queue.
    pub threads: usize,
}

/// What saving took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of the file.
    pub bytes: u64,
    /// Until all was written, synced and named.
    pub elapsed: Duration,
    /// Of that, reading back and comparing.
    pub verify: Duration,
    /// Past the page cache.
    pub is_direct: bool,
}

/// Tensors start at a multiple of it: a direct read needs no slack.
const ALIGN: usize = 4096;
/// A write, and the buffers for it.
const SLOT_BYTES: usize = 4 << 20;
const SLOTS: usize = 8;

/// Writes tensors as one safetensors file, under a temporary name until it is whole and verified.
///
/// # Errors
/// [`Error::Wrong`] if a tensor cannot be; [`Error::Store`]; [`Error::Cuda`]; [`Error::Differs`] if
/// what is read back is something else. The target is then what it was before.
///
/// # Safety
/// Regions must be live memory of the device, and what writes them must be over or before an event
/// that the host waited for.
pub unsafe fn save(path: &Path, mut tensors: Vec<NewTensor<'_>>, saver: &Saver) -> Result<Saved> {
    let start = Instant::now();
    // As the reference: wide types first, so that all are aligned, then by name.
    tensors.sort_by(|a, b| {
        let bits = |t: &NewTensor<'_>| std::cmp::Reverse(dtype_bits(&t.dtype));
        bits(a).cmp(&bits(b)).then_with(|| a.name.cmp(&b.name))
    });
    let header = header(&tensors, &saver.metadata)?;
    let mut file = NewFile::create(path)?;
    file.append(&header)?;
    let offsets = offsets(&tensors, header.len() as u64);
    let is_direct = write(&file, &header, &tensors, &offsets, saver)?;
    let verifying = Instant::now();
    let mut verify = Duration::ZERO;
    if saver.verify {
        let handle = file.handle()?;
        handle.sync_all().map_err(|e| forebay_store::Error::io("sync", path, e))?;
        // SAFETY: by the caller.
        unsafe { self::verify(path, &file, &tensors, &offsets, saver)? };
        verify = verifying.elapsed();
    }
    let bytes = offsets.last().copied().unwrap_or(header.len() as u64);
    file.publish()?;
    Ok(Saved { bytes, elapsed: start.elapsed(), verify, is_direct })
}

/// Where each tensor starts, and the end of the file.
fn offsets(tensors: &[NewTensor<'_>], header: u64) -> Vec<u64> {
    let mut at = header;
    let mut offsets = vec![at];
    for tensor in tensors {
        at += tensor.memory.bytes() as u64;
        offsets.push(at);
    }
    offsets
}

fn header(tensors: &[NewTensor<'_>], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut entries = serde_json::Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut at = 0;
    for NewTensor { name, dtype, shape, memory } in tensors {
        let what = |what: &str| format!("{what} of {name:?}");
        let bits = dtype_bits(dtype)
            .ok_or_else(|| Error::wrong(what("dtype"), "one of safetensors", dtype))?;
        let count = shape.iter().try_fold(bits, |product, &length| product.checked_mul(length));
        let bytes = memory.bytes() as u64;
        if count.is_none_or(|count| count != 8 * bytes) {
            let expected = format!("those of shape {shape:?} of {dtype}");
            return Err(Error::wrong(what("bytes"), expected, bytes));
        }
        let entry = serde_json::json!({
            "dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes],
        });
        if name == "__metadata__" || entries.insert(name.clone(), entry).is_some() {
            return Err(Error::wrong("name of a tensor", "one of its own", format!("{name:?}")));
        }
        at += bytes;
    }
    let mut text = serde_json::to_vec(&entries).map_err(|e| Error::wrong("header", "JSON", e))?;
    text.resize((8 + text.len()).next_multiple_of(ALIGN) - 8, b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header)
}

/// A part of the file that fits into a slot: whole pages, made of parts of tensors.
struct Part {
    offset: u64,
    bytes: usize,
}

/// Writes everything behind the header: device → slot → queue, slot after slot, many in flight.
fn write(
    file: &NewFile,
    header: &[u8],
    tensors: &[NewTensor<'_>],
    offsets: &[u64],
    saver: &Saver,
) -> Result<bool> {
    let end = *offsets.last().unwrap_or(&0);
    let arena = match &saver.device {
        Some((device, _)) => device.pinned(SLOT_BYTES, SLOTS)?,
        None => forebay_store::Arena::new(SLOT_BYTES, SLOTS)?,
    };
    let object = Arc::new(Object::open(file.temporary(), Access::Write, Direct::Try)?);
    let is_direct = object.direct().is_some();
    let grain = object.direct().map_or(1, |needs| needs.offset);
    let mut queue =
        Queue::open(&Options { depth: SLOTS, engine: Engine::Auto, arena: Some(arena.clone()) })?;
    let id = queue.add(object);
    let lane = match &saver.device {
        Some((device, _)) => Some((device, device.stream()?, device.event()?)),
        None => None,
    };
    let mut at = header.len() as u64;
    let mut completions = Vec::new();
    while at < end || queue.in_flight() > 0 {
        let lent = (at < end).then(|| arena.lend()).flatten();
        let Some(mut buffer) = lent else {
            queue.wait(1, None, &mut completions)?;
            for completion in completions.drain(..) {
                completion.result?;
            }
            continue;
        };
        let part = Part { offset: at, bytes: (end - at).min(SLOT_BYTES as u64) as usize };
        fill(&mut buffer, &part, tensors, offsets, lane.as_ref())?;
        at += part.bytes as u64;
        // A direct write ends at a multiple of a sector; the file is cut to its length after.
        let length = part.bytes.next_multiple_of(grain as usize);
        buffer[part.bytes..length].fill(0);
        let request =
            Request { tag: 0, op: Op::Write, object: id, offset: part.offset, length, buffer };
        if queue.prepare(request).is_err() {
            return Err(Error::wrong("writes in flight", SLOTS, SLOTS + 1));
        }
        queue.submit()?;
    }
    let handle = file.handle()?;
    let cut = handle.set_len(end);
    cut.map_err(|e| forebay_store::Error::io("cut", file.temporary(), e))?;
    Ok(is_direct)
}

/// The bytes of a part: copies of memory of the host, and of the device, which are waited for.
fn fill(
    buffer: &mut Buffer,
    part: &Part,
    tensors: &[NewTensor<'_>],
    offsets: &[u64],
    lane: Option<&(&Device, crate::Stream, crate::Event)>,
) -> Result<()> {
    let end = part.offset + part.bytes as u64;
    let first = offsets.partition_point(|&offset| offset <= part.offset) - 1;
    let mut copied = false;
    let mut filled = Ok(());
    for (tensor, &offset) in tensors[first..].iter().zip(&offsets[first..]) {
        if offset >= end {
            break;
        }
        let from = part.offset.max(offset);
        let to = end.min(offset + tensor.memory.bytes() as u64);
        let inside = (from - offset) as usize..to.saturating_sub(offset) as usize;
        let target = &mut buffer[(from - part.offset) as usize..][..inside.len()];
        if inside.is_empty() {
            continue;
        }
        match (tensor.memory, lane) {
            (Memory::Host(bytes), _) => target.copy_from_slice(&bytes[inside]),
            (Memory::Device(region), Some((device, stream, _))) => {
                let target = NonNull::from(target).cast();
                // SAFETY: the buffer is not looked at before the wait below, which comes whatever
                // happens here.
                filled = unsafe { device.copy_out(region.part(inside), target, stream) };
                copied = true;
                if filled.is_err() {
                    break;
                }
            }
            (Memory::Device(_), None) => {
                return Err(Error::wrong("memory of a tensor", "of the host", "of a device"));
            }
        }
    }
    if let Some((_, stream, event)) = lane.filter(|_| copied) {
        event.record(stream)?;
        event.wait()?;
    }
    filled
}

/// Reads every tensor back and compares its hash with that of the memory it came from.
///
/// # Safety
/// As of [`save`].
unsafe fn verify(
    path: &Path,
    file: &NewFile,
    tensors: &[NewTensor<'_>],
    offsets: &[u64],
    saver: &Saver,
) -> Result<()> {
    // A header that the reader does not take is found here, not at the next start.
    let found = Checkpoint::open(file.temporary())?;
    if found.tensors.len() != tensors.len() {
        return Err(Error::tensors(path, "tensors", tensors.len(), found.tensors.len()));
    }
    let mut expected = Vec::new();
    for tensor in tensors {
        expected.push(match (tensor.memory, &saver.device) {
            (Memory::Host(bytes), _) => *blake3::hash(bytes).as_bytes(),
            // SAFETY: by the caller.
            (Memory::Device(region), Some((device, kernels))) => unsafe {
                hash_on_device(device, kernels, region)?
            },
            (Memory::Device(_), None) => {
                return Err(Error::wrong("memory of a tensor", "of the host", "of a device"));
            }
        });
    }
    let object = Object::open(file.temporary(), Access::Read, Direct::Off)?;
    if let Some(file) = object.file() {
        // Nobody else has these pages: they come from the device again.
        forget(file);
    }
    let next = AtomicUsize::new(0);
    let read = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(expected) = expected.get(number) else { return Ok(()) };
            let stored = forebay_store::File::open(file.temporary())?;
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; SLOT_BYTES];
            let mut at = offsets[number];
            while at < offsets[number + 1] {
                let bytes = (offsets[number + 1] - at).min(SLOT_BYTES as u64) as usize;
                stored.read_at(at, &mut buffer[..bytes])?;
                hasher.update(&buffer[..bytes]);
                at += bytes as u64;
            }
            let found = hasher.finalize();
            if found.as_bytes() != expected {
                let hex = |hash: [u8; 32]| blake3::Hash::from(hash).to_hex()[..16].to_owned();
                return Err(Error::Differs {
                    path: path.to_path_buf(),
                    expected: hex(*expected),
                    found: hex(*found.as_bytes()),
                });
            }
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..saver.threads.max(1)).map(|_| scope.spawn(read)).collect();
        let mine = read();
        let theirs = others.into_iter().map(|t| t.join().unwrap_or(Err(Error::Panicked)));
        std::iter::once(mine).chain(theirs).collect()
    })
}

fn forget(file: &std::fs::File) {
    use rustix::fs::{Advice, fadvise};
    // Without it the pages may come out of memory, which verifies less.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// # Safety
/// As of [`save`].
unsafe fn hash_on_device(device: &Device, kernels: &Kernels, region: Region) -> Result<[u8; 32]> {
    // Tensors need not start at a word; the kernel does.
    let stream = device.stream()?;
    let (aligned, data);
    if region.pointer().is_multiple_of(4) {
        data = region;
    } else {
        aligned = device.alloc(region.bytes())?;
        data = aligned.region(0..region.bytes());
        device.copy_within(region, data, &stream)?;
    }
    let scratch = device.alloc(Kernels::hash_scratch_bytes(data.bytes()))?;
    // SAFETY: all memory lives until the fetch is over; the region by the caller.
    let root = unsafe { kernels.hash(data, &scratch, false, &stream)? };
    let hash = device.fetch(root.part(0..32), &stream)?;
    <[u8; 32]>::try_from(hash).map_err(|hash| Error::wrong("bytes of a hash", 32, hash.len()))
}
