//! Files of tensors into memory, of a device or of the host.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use forebay_store::{Arena, Buffer, File};

use super::{Checkpoint, dtype_bits};
use crate::{DeviceMemory, Error, Fetched, Result, Ring, Transfer};

/// A checkpoint on a device: the bytes of each file, and tensors that had to be moved.
#[derive(Debug)]
pub struct Loaded {
    /// What it holds.
    pub checkpoint: Checkpoint,
    /// For each tensor: its memory, and its first byte there.
    pub places: Vec<(Arc<DeviceMemory>, usize)>,
    /// How the bytes came.
    pub fetched: Fetched,
}

/// Reads a checkpoint to a device; when it returns, it is there for every stream.
///
/// Tensors are views of the memory of their file. Those that do not start at a multiple of the size
/// of their numbers, which files of other writers may have, are copied to a place of their own.
///
/// # Errors
/// [`Error::Tensors`]; [`Error::Store`]; [`Error::Cuda`], also if the device has too little memory.
pub fn load(path: &Path, ring: &mut Ring) -> Result<Loaded> {
    let checkpoint = Checkpoint::open(path)?;
    let device = ring.device().clone();
    let files = checkpoint.sizes.iter().map(|&size| device.alloc(size as usize).map(Arc::new));
    let files = files.collect::<Result<Vec<_>>>()?;
    let transfers: Vec<Transfer> = (0..)
        .zip(&files)
        .map(|(file, memory)| Transfer { file, offset: 0, target: memory.whole() })
        .collect();
    // SAFETY: the memory was taken just now and lives until after the call.
    let fetched = unsafe { ring.fetch(&checkpoint.files, &transfers)? };
    let stream = device.stream()?;
    let mut moved = false;
    let mut places = Vec::with_capacity(checkpoint.tensors.len());
    for tensor in &checkpoint.tensors {
        let (file, first) = (&files[tensor.file], tensor.offset as usize);
        if first.is_multiple_of(alignment(&tensor.dtype)) {
            places.push((Arc::clone(file), first));
            continue;
        }
        let own = Arc::new(device.alloc(tensor.bytes as usize)?);
        let region = file.region(first..first + tensor.bytes as usize);
        device.copy_within(region, own.region(0..region.bytes()), &stream)?;
        places.push((own, 0));
        moved = true;
    }
    if moved {
        let event = device.event()?;
        event.record(&stream)?;
        event.wait()?;
    }
    Ok(Loaded { checkpoint, places, fetched })
}

/// Bytes that a number of this type is aligned to.
fn alignment(dtype: &str) -> usize {
    let bytes = dtype_bits(dtype).unwrap_or(8).div_ceil(8) as usize;
    // Complex numbers are pairs.
    if dtype == "C64" { 4 } else { bytes.next_power_of_two() }
}

/// The bytes of a file, in memory of the host.
#[derive(Debug)]
pub struct HostFile(Buffer);

impl HostFile {
    /// From the first byte of the file on; the memory may be longer.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where they lie, for whoever shares them. Nothing else of Rust looks at them.
    pub fn pointer(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

/// A checkpoint in memory of the host.
#[derive(Debug)]
pub struct LoadedHost {
    /// What it holds.
    pub checkpoint: Checkpoint,
    /// The bytes of each file, and tensors that had to be moved.
    pub files: Vec<HostFile>,
    /// For each tensor: its place in `files`, and its first byte there.
    pub places: Vec<(usize, usize)>,
}

/// Reads a checkpoint into memory of the host, with `threads`.
///
/// # Errors
/// [`Error::Tensors`]; [`Error::Store`].
pub fn load_host(path: &Path, threads: usize) -> Result<LoadedHost> {
    let checkpoint = Checkpoint::open(path)?;
    let mut files = Vec::new();
    for (path, &size) in checkpoint.files.iter().zip(&checkpoint.sizes) {
        let arena = Arena::new(size as usize, 1)?;
        let lent = arena.lend();
        let mut buffer = lent.ok_or_else(|| Error::wrong("buffers of a file", 1, 0))?;
        read_parallel(&File::open(path)?, 0, &mut buffer[..size as usize], threads)?;
        files.push(HostFile(buffer));
    }
    let mut places = Vec::with_capacity(checkpoint.tensors.len());
    for tensor in &checkpoint.tensors {
        let (first, bytes) = (tensor.offset as usize, tensor.bytes as usize);
        if first.is_multiple_of(alignment(&tensor.dtype)) {
            places.push((tensor.file, first));
            continue;
        }
        let lent = Arena::new(bytes, 1)?.lend();
        let mut own = lent.ok_or_else(|| Error::wrong("buffers of a tensor", 1, 0))?;
        own[..bytes].copy_from_slice(&files[tensor.file].bytes()[first..first + bytes]);
        places.push((files.len(), 0));
        files.push(HostFile(own));
    }
    Ok(LoadedHost { checkpoint, files, places })
}

/// Bytes of a file into memory of the host.
///
/// # Errors
/// [`Error::Store`], also if the file ends before.
pub fn read_into_host(path: &Path, offset: u64, target: &mut [u8], threads: usize) -> Result<()> {
    read_parallel(&File::open(path)?, offset, target, threads)
}

/// A thread reads parts of so many bytes.
const PART: usize = 16 << 20;

fn read_parallel(file: &File, offset: u64, target: &mut [u8], threads: usize) -> Result<()> {
    let parts: Vec<_> =
        target.chunks_mut(PART).map(|part| std::sync::Mutex::new(Some(part))).collect();
    let next = AtomicUsize::new(0);
    let read = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(number) else { return Ok(()) };
            let part = part.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            if let Some(part) = part {
                file.read_at(offset + (number * PART) as u64, part)?;
            }
        }
    };
    std::thread::scope(|scope| {
        let wanted = threads.clamp(1, parts.len().max(1));
        let others: Vec<_> = (1..wanted).map(|_| scope.spawn(read)).collect();
        let mine = read();
        let theirs = others.into_iter().map(|t| t.join().unwrap_or(Err(Error::Panicked)));
        std::iter::once(mine).chain(theirs).collect()
    })
}
