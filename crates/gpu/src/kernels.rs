//! Kernels on a device, and their twins on the CPU.
//!
//! ```text
//! raw bytes, pieces ──▶ gather ──▶ input_ids, labels           [cells] i32 or i64
//! segments ──────────▶ describe ─▶ position_ids, document_ids, loss_mask, cu_seqlens
//! memory ────────────▶ hash ─────▶ blake3, and the value of each block of 1 MiB
//! ```
//! blake3, since it is what an index holds of every block: its tree gives a thread to each KiB, and
//! what a device computes is compared with what the writer of a dataset computed.

mod nvrtc;
pub mod twin;

use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};

use self::nvrtc::Nvrtc;
use crate::driver::{check, sys};
use crate::{Device, DeviceMemory, Error, Region, Result, Stream};

const SOURCE: &str = include_str!("kernels/kernels.cu");
/// Made by `tools/make-ptx` of the same source; every driver of CUDA 12 and later takes it.
const SHIPPED: &str = include_str!("kernels/kernels.ptx");

/// Label of a cell that has none.
pub const IGNORED: i64 = -100;
/// Cells that a block of threads makes, as in the source.
const TILE: u32 = 2048;
const THREADS: u32 = 256;

/// Bytes to spare behind raw bytes, which are read by the word.
pub const RAW_PADDING: usize = 8;

/// Where cells come from. Pieces of a batch are sorted and follow each other without a gap.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Piece {
    /// First byte among the raw bytes; all ones for padding.
    pub source: u64,
    /// First cell of the batch, laid end to end.
    pub cell: u32,
    /// Cells; none if it is only the label of the cell before, which then comes first at its cell.
    pub inputs: u32,
    /// Tokens at `source`, of which the last may be a label alone. Of padding: its id.
    pub total: u32,
    /// 1 if its first token is the label of the cell before.
    pub joined: u32,
    /// Bytes of a token as it is stored: 1, 2, 4 or 8.
    pub width: u32,
    /// Nothing.
    pub unused: u32,
}

impl Piece {
    /// Cells without a document.
    pub fn padding(cell: u32, inputs: u32, id: u32) -> Self {
        Self { source: u64::MAX, cell, inputs, total: id, width: 4, ..Self::default() }
    }

    /// Is it that?
    pub fn is_padding(&self) -> bool {
        self.source == u64::MAX
    }
}

/// A document's part of a row, or padding. Segments are sorted and leave no gap; none is empty.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Number of the document; -1 for padding.
    pub document: i64,
    /// First cell.
    pub cell: u32,
    /// Cells.
    pub tokens: u32,
    /// 1 if its last cell has a label of the same document.
    pub goes_on: u32,
    /// Nothing.
    pub unused: u32,
}

/// As the bytes that a kernel reads.
pub fn piece_bytes(pieces: &[Piece]) -> &[u8] {
    // SAFETY: `repr(C)` of integers without a gap: every byte is initialised.
    unsafe { std::slice::from_raw_parts(pieces.as_ptr().cast(), size_of_val(pieces)) }
}

/// As the bytes that a kernel reads.
pub fn segment_bytes(segments: &[Segment]) -> &[u8] {
    // SAFETY: `repr(C)` of integers without a gap: every byte is initialised.
    unsafe { std::slice::from_raw_parts(segments.as_ptr().cast(), size_of_val(segments)) }
}

/// The kernels, loaded into a device.
#[derive(Debug)]
pub struct Kernels {
    device: Device,
    module: sys::CUmodule,
    gather: sys::CUfunction,
    describe: sys::CUfunction,
    chunks: sys::CUfunction,
    parents: sys::CUfunction,
    origin: String,
}

// SAFETY: handles of the driver's, which may be used from any thread.
unsafe impl Send for Kernels {}
// SAFETY: as above; nothing is changed after loading.
unsafe impl Sync for Kernels {}

/// Outputs of [`Kernels::gather`]: `[cells]` of four or eight bytes.
#[derive(Debug, Clone, Copy)]
pub struct Gathered {
    /// Eight bytes an id, else four.
    pub wide: bool,
    /// Cells.
    pub cells: u32,
    /// `input_ids`.
    pub ids: Region,
    /// `labels`, or none.
    pub labels: Option<Region>,
}

/// Outputs of [`Kernels::describe`], those that are wanted.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "named as the columns of a batch")]
pub struct Described {
    pub positions: Option<Region>,
    pub documents: Option<Region>,
    pub mask: Option<Region>,
    pub cu_seqlens: Option<Region>,
}

impl Kernels {
    /// Loads them: compiled for this device by NVRTC, out of its cache, or as they are shipped.
    ///
    /// `FOREBAY_KERNELS=shipped` leaves NVRTC out.
    ///
    /// * `cache` — directory of what NVRTC made before; [`default_cache`] is the usual one.
    ///
    /// # Errors
    /// [`Error::Kernels`] if the driver takes neither.
    pub fn load(device: &Device, cache: Option<&Path>) -> Result<Self> {
        let (major, minor) = device.capability();
        if std::env::var_os("FOREBAY_KERNELS").is_some_and(|wish| wish == "shipped") {
            return Self::of(device, SHIPPED, "shipped".into());
        }
        let compiled = compile(&format!("compute_{major}{minor}"), cache);
        if let Ok((ptx, origin)) = compiled
            && let Ok(kernels) = Self::of(device, &ptx, origin)
        {
            return Ok(kernels);
        }
        // NVRTC is not here, or newer than the driver.
        Self::of(device, SHIPPED, "shipped".into())
    }

    fn of(device: &Device, ptx: &str, origin: String) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| Error::Kernels { why: error.to_string() };
        let text = CString::new(ptx).map_err(|error| wrong(&error))?;
        let _bound = device.bind()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the text ends in zero and lives through the call, which copies it.
        let loaded = unsafe { sys::cuModuleLoadData(&raw mut module, text.as_ptr().cast()) };
        check("load the kernels", loaded).map_err(|error| wrong(&error))?;
        let find = |name: &str| -> Result<sys::CUfunction> {
            let mut function = std::ptr::null_mut();
            let name = CString::new(name).map_err(|error| wrong(&error))?;
            // SAFETY: the module is loaded, the name ends in zero.
            let found =
                unsafe { sys::cuModuleGetFunction(&raw mut function, module, name.as_ptr()) };
            check("find a kernel", found).map_err(|error| wrong(&error))?;
            Ok(function)
        };
        let (gather, describe) = (find("gather")?, find("describe")?);
        let (chunks, parents) = (find("blake3_chunks")?, find("blake3_parents")?);
        let device = device.clone();
        Ok(Self { device, module, gather, describe, chunks, parents, origin })
    }

    /// Where they come from: "NVRTC 12.9, compute_90", "shipped".
    pub fn origin(&self) -> &str {
        &self.origin
    }

    fn launch(
        &self,
        function: sys::CUfunction,
        blocks: u64,
        stream: &Stream,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let _bound = self.device.bind()?;
        let blocks = blocks.clamp(1, i32::MAX as u64) as u32;
        // SAFETY: each caller gives as many arguments as the kernel has, of its types, and has
        // checked that regions are as long as the kernel will use them.
        check("start a kernel", unsafe {
            let none = std::ptr::null_mut();
            let arguments = arguments.as_mut_ptr();
            let handle = stream.handle();
            sys::cuLaunchKernel(function, blocks, 1, 1, THREADS, 1, 1, 0, handle, arguments, none)
        })
    }

    /// Starts to make `input_ids` and `labels` of raw bytes.
    ///
    /// * `raw` — bytes that pieces point into, and [`RAW_PADDING`] behind them; at a multiple of 4.
    /// * `pieces` — `count` of [`Piece`], at a multiple of 8.
    ///
    /// # Errors
    /// [`Error::Wrong`] if a region is too short or not aligned; [`Error::Cuda`].
    ///
    /// # Safety
    /// Pieces must lie inside `raw` and leave no cell out; no region may go before an event behind
    /// this is over.
    pub unsafe fn gather(
        &self,
        raw: Region,
        pieces: Region,
        count: u32,
        out: &Gathered,
        stream: &Stream,
    ) -> Result<()> {
        let id = if out.wide { 8 } else { 4 };
        room("pieces", pieces, count as usize * size_of::<Piece>(), 8)?;
        room("raw bytes", raw, RAW_PADDING, 4)?;
        room("input_ids", out.ids, out.cells as usize * id, id)?;
        if let Some(labels) = out.labels {
            room("labels", labels, out.cells as usize * id, id)?;
        }
        let (mut raw, mut pieces) = (raw.pointer(), pieces.pointer());
        let (mut count, mut cells, mut wide) = (count, out.cells, u32::from(out.wide));
        let mut ids = out.ids.pointer();
        let mut labels = out.labels.map_or(0, |labels| labels.pointer());
        let mut arguments = [
            (&raw mut raw).cast(),
            (&raw mut pieces).cast(),
            (&raw mut count).cast(),
            (&raw mut cells).cast(),
            (&raw mut wide).cast(),
            (&raw mut ids).cast(),
            (&raw mut labels).cast(),
        ];
        self.launch(self.gather, cells.div_ceil(TILE).into(), stream, &mut arguments)
    }

    /// Starts to make the columns that follow from segments.
    ///
    /// * `segments` — `count` of [`Segment`], at a multiple of 8.
    ///
    /// # Errors
    /// [`Error::Wrong`] if a region is too short or not aligned; [`Error::Cuda`].
    ///
    /// # Safety
    /// Segments must leave no cell out; no region may go before an event behind this is over.
    pub unsafe fn describe(
        &self,
        segments: Region,
        count: u32,
        cells: u32,
        wide: bool,
        out: &Described,
        stream: &Stream,
    ) -> Result<()> {
        let id = if wide { 8 } else { 4 };
        let all = cells as usize;
        room("segments", segments, count as usize * size_of::<Segment>(), 8)?;
        for (what, region, bytes, align) in [
            ("position_ids", out.positions, id * all, id),
            ("document_ids", out.documents, 8 * all, 8),
            ("loss_mask", out.mask, all, 1),
            ("cu_seqlens", out.cu_seqlens, 4 * (count as usize + 1), 4),
        ] {
            if let Some(region) = region {
                room(what, region, bytes, align)?;
            }
        }
        let pointer = |region: Option<Region>| region.map_or(0, |region| region.pointer());
        let (mut segments, mut count) = (segments.pointer(), count);
        let (mut cells, mut wide) = (cells, u32::from(wide));
        let mut positions = pointer(out.positions);
        let mut documents = pointer(out.documents);
        let (mut mask, mut cu_seqlens) = (pointer(out.mask), pointer(out.cu_seqlens));
        let mut arguments = [
            (&raw mut segments).cast(),
            (&raw mut count).cast(),
            (&raw mut cells).cast(),
            (&raw mut wide).cast(),
            (&raw mut positions).cast(),
            (&raw mut documents).cast(),
            (&raw mut mask).cast(),
            (&raw mut cu_seqlens).cast(),
        ];
        self.launch(self.describe, cells.div_ceil(TILE).into(), stream, &mut arguments)
    }

    /// Device memory that [`Kernels::hash`] wants beside the data: 48 bytes a KiB.
    pub fn hash_scratch_bytes(bytes: usize) -> usize {
        let chunks = bytes.div_ceil(1024).max(1);
        32 * (chunks + chunks.div_ceil(2))
    }

    /// Starts to hash device memory: its blake3 is at the start of the region returned, which lies
    /// in `scratch`, once an event behind this is over.
    ///
    /// * `blocks` — stop at the values of blocks of 1 MiB, one after another, which an index holds;
    ///   of memory of one block that is its hash.
    ///
    /// # Errors
    /// [`Error::Wrong`] if `scratch` is too short or memory not aligned; [`Error::Cuda`].
    ///
    /// # Safety
    /// No region may go before an event behind this is over.
    pub unsafe fn hash(
        &self,
        data: Region,
        scratch: &DeviceMemory,
        blocks: bool,
        stream: &Stream,
    ) -> Result<Region> {
        let bytes = data.bytes();
        room("hashed memory", data, 0, 4)?;
        room("scratch", scratch.whole(), Self::hash_scratch_bytes(bytes), 4)?;
        let mut count = bytes.div_ceil(1024).max(1);
        let (lower, upper) = (scratch.region(0..32 * count), 32 * count..scratch.bytes());
        let mut levels = [lower, scratch.region(upper)];
        let (mut from, mut length, mut counter) = (data.pointer(), bytes as u64, 0_u64);
        let (mut root, mut values) = (u32::from(count == 1), levels[0].pointer());
        let mut arguments = [
            (&raw mut from).cast(),
            (&raw mut length).cast(),
            (&raw mut counter).cast(),
            (&raw mut root).cast(),
            (&raw mut values).cast(),
        ];
        let grid = count.div_ceil(THREADS as usize) as u64;
        self.launch(self.chunks, grid, stream, &mut arguments)?;
        let mut level = 0;
        // A level of a flat tree is the same level of every block, since blocks hold 2^10 chunks.
        while count > 1 && (!blocks || level < 10 || bytes <= 1 << 20) {
            let (mut below, mut above) = (levels[0].pointer(), levels[1].pointer());
            let (mut pairs, mut root) = (count as u64, u32::from(count == 2));
            let mut arguments = [
                (&raw mut below).cast(),
                (&raw mut pairs).cast(),
                (&raw mut root).cast(),
                (&raw mut above).cast(),
            ];
            count = count.div_ceil(2);
            let grid = count.div_ceil(THREADS as usize) as u64;
            self.launch(self.parents, grid, stream, &mut arguments)?;
            levels.swap(0, 1);
            level += 1;
        }
        Ok(levels[0].part(0..32 * count))
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if let Ok(_bound) = self.device.bind() {
            // SAFETY: loaded once; the driver waits for kernels that run.
            let _ = unsafe { sys::cuModuleUnload(self.module) };
        }
    }
}

/// Is a region as long and as aligned as a kernel will use it?
fn room(what: &str, region: Region, bytes: usize, align: usize) -> Result<()> {
    if region.bytes() < bytes {
        return Err(Error::wrong(format!("bytes of {what}"), bytes, region.bytes()));
    }
    if !region.pointer().is_multiple_of(align as u64) {
        let expected = format!("a multiple of {align}");
        return Err(Error::wrong(format!("address of {what}"), expected, region.pointer()));
    }
    Ok(())
}

/// `$XDG_CACHE_HOME/forebay`, or `~/.cache/forebay`.
pub fn default_cache() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    Some(cache.join("forebay"))
}

/// PTX by NVRTC, and how it was come by.
fn compile(architecture: &str, cache: Option<&Path>) -> Result<(String, String)> {
    let nvrtc = Nvrtc::open()?;
    let (major, minor) = nvrtc.version;
    let origin = format!("NVRTC {major}.{minor}, {architecture}");
    let file = cache.map(|directory| {
        directory.join(format!("kernels-{:016x}-{architecture}-{major}.{minor}.ptx", fnv(SOURCE)))
    });
    if let Some(ptx) = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()) {
        return Ok((ptx, format!("{origin}, cached")));
    }
    let ptx = nvrtc.compile(SOURCE, architecture)?;
    if let Some((directory, file)) = cache.zip(file) {
        // A cache that cannot be written costs half a second the next time, nothing else.
        let kept = forebay_store::create_dir(directory)
            .and_then(|()| forebay_store::publish_bytes(&file, ptx.as_bytes()));
        drop(kept);
    }
    Ok((ptx, origin))
}

/// FNV-1a of 64 bits, as in `tools/make-ptx`.
fn fnv(text: &str) -> u64 {
    let step = |value: u64, byte| (value ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_kernels_are_those_of_the_source() {
        let hash = format!("FNV-1a {:016x}", fnv(SOURCE));
        assert!(SHIPPED.lines().next().unwrap().contains(&hash), "run tools/make-ptx: {hash}");
        for name in ["gather", "describe", "blake3_chunks", "blake3_parents"] {
            assert!(SHIPPED.contains(&format!(".visible .entry {name}(")), "{name}");
        }
    }

    #[test]
    fn nvrtc_compiles_the_source_where_it_is() {
        let nvrtc = match Nvrtc::open() {
            Ok(nvrtc) => nvrtc,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        for architecture in ["compute_80", "compute_90"] {
            let ptx = nvrtc.compile(SOURCE, architecture).unwrap();
            assert_eq!(ptx.matches(".visible .entry").count(), 4, "{architecture}");
        }
        let error = nvrtc.compile("KERNEL nothing(", "compute_90").unwrap_err();
        assert!(error.to_string().contains("kernels.cu"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let first = compile("compute_80", Some(dir.path())).unwrap();
        let again = compile("compute_80", Some(dir.path())).unwrap();
        assert!(first.0 == again.0 && again.1.ends_with("cached"), "{}", again.1);
    }
}
