//! How fast bytes reach a GPU: the link by size, files by way and shape, kernels; each beside the
//! limit that the same run measured.

use std::path::{Path, PathBuf};

use forebay_gpu::kernels::{Kernels, default_cache};
use forebay_gpu::path::{self, IoPath, Prober, Way};
use forebay_gpu::{Device, Error as GpuError, Shape, measure};
use serde::Serialize;

use crate::{Result, Spread};

/// The device that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct About {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: String,
    /// CUDA of the driver: 12040 is 12.4.
    pub driver: i32,
    /// Where the kernels come from.
    pub kernels: String,
}

/// Copies of one size from the host.
#[derive(Debug, Clone, Serialize)]
pub struct Link {
    /// Bytes of a copy.
    pub bytes: usize,
    /// Out of page-locked memory.
    pub pinned_bytes_per_second: Spread,
    /// Out of pageable memory.
    pub pageable_bytes_per_second: Spread,
}

/// Files to the device in one way and shape.
#[derive(Debug, Clone, Serialize)]
pub struct Storage {
    /// The way, and why.
    pub path: IoPath,
    /// Bytes of a read.
    pub block_bytes: usize,
    /// Reads in flight on a lane.
    pub depth: usize,
    /// Lanes.
    pub lanes: usize,
    /// Out of the page cache, or dropped from it before each repeat.
    pub cold: bool,
    /// Bytes over time.
    pub bytes_per_second: Spread,
    /// Of the fastest pinned copy of this run.
    pub share_of_link: f64,
    /// Share of the bytes past the page cache in the last repeat.
    pub direct_share: f64,
    /// What libcufile counted.
    pub proof: Option<String>,
}

/// A kernel over a large input.
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    /// Which.
    pub name: &'static str,
    /// Bytes that it reads and writes, over time.
    pub bytes_per_second: Spread,
    /// Of a copy within the device, whose bytes count twice too.
    pub share_of_copy: f64,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The device.
    pub device: About,
    /// The link, by size.
    pub link: Vec<Link>,
    /// Files, by way and shape.
    pub storage: Vec<Storage>,
    /// Kernels.
    pub kernels: Vec<Kernel>,
    /// A copy within the device: bytes read and written.
    pub copy_bytes_per_second: Spread,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which device.
    pub ordinal: u32,
    /// Measurements, of which the median and the spread are told.
    pub repeats: usize,
    /// Sizes of copies.
    pub copies: Vec<usize>,
    /// A file to read; none leaves storage out.
    pub file: Option<PathBuf>,
    /// Ways to try; gds is left out with a reason where it is not proven.
    pub ways: Vec<Way>,
    /// Bytes of a read, each a multiple of 4096.
    pub blocks: Vec<usize>,
    /// Reads in flight on a lane.
    pub depths: Vec<usize>,
    /// Lanes.
    pub lanes: Vec<usize>,
    /// Bytes that kernels work on.
    pub kernel_bytes: usize,
    /// How to ask libcufile.
    pub prober: Prober,
}

/// Measures all that the plan says.
///
/// # Errors
/// If there is no such device, or it or the file fails.
pub fn measure_all(plan: &Plan) -> Result<Report> {
    let device = Device::open(plan.ordinal)?;
    let kernels = Kernels::load(&device, default_cache().as_deref())?;
    let (major, minor) = device.capability();
    let about = About {
        name: device.name().to_owned(),
        capability: format!("{major}.{minor}"),
        driver: device.driver(),
        kernels: kernels.origin().to_owned(),
    };
    let mut link = Vec::new();
    for &bytes in &plan.copies {
        let rate = |pinned| measure::link(&device, bytes, pinned, plan.repeats).map(Spread::of);
        let (pinned_bytes_per_second, pageable_bytes_per_second) = (rate(true)?, rate(false)?);
        link.push(Link { bytes, pinned_bytes_per_second, pageable_bytes_per_second });
    }
    let limit = link.iter().map(|l| l.pinned_bytes_per_second.median).fold(0.0, f64::max);
    let mut storage = Vec::new();
    if let Some(file) = &plan.file {
        for &way in &plan.ways {
            let path = match path::choose(Some(way), &device, file, &plan.prober) {
                Ok(path) => path,
                // Not here, and the result says so by leaving it out of what ran.
                Err(GpuError::Wrong { .. }) if way == Way::Gds => continue,
                Err(error) => return Err(error.into()),
            };
            for (shape, cold) in grid(plan) {
                storage.push(files(&device, file, &path, shape, cold, plan.repeats, limit)?);
            }
        }
    }
    let rates = measure::kernels(&device, &kernels, plan.kernel_bytes, plan.repeats)?;
    let copy_bytes_per_second = Spread::of(rates.copy);
    let kernel = |name, rates| {
        let bytes_per_second = Spread::of(rates);
        let share_of_copy = bytes_per_second.median / copy_bytes_per_second.median.max(1.0);
        Kernel { name, bytes_per_second, share_of_copy }
    };
    let kernels = vec![kernel("gather", rates.gather), kernel("blake3", rates.hash)];
    Ok(Report { device: about, link, storage, kernels, copy_bytes_per_second })
}

/// Every shape, warm and cold.
fn grid(plan: &Plan) -> Vec<(Shape, bool)> {
    let mut shapes = Vec::new();
    for &slot_bytes in &plan.blocks {
        for &slots in &plan.depths {
            for &lanes in &plan.lanes {
                for cold in [false, true] {
                    shapes.push((Shape { lanes, slots, slot_bytes, direct: cold }, cold));
                }
            }
        }
    }
    shapes
}

fn files(
    device: &Device,
    file: &Path,
    path: &IoPath,
    shape: Shape,
    cold: bool,
    repeats: usize,
    limit: f64,
) -> Result<Storage> {
    let before = || if cold { forget(file) } else { Ok(()) };
    let (rates, last) = measure::file(device, file, path, shape, repeats, before)?;
    let bytes_per_second = Spread::of(rates);
    Ok(Storage {
        path: path.clone(),
        block_bytes: shape.slot_bytes,
        depth: shape.slots,
        lanes: shape.lanes,
        cold,
        bytes_per_second,
        share_of_link: bytes_per_second.median / limit.max(1.0),
        direct_share: last.direct_bytes as f64 / last.bytes.max(1) as f64,
        proof: last.proof.map(|proof| proof.verdict()),
    })
}

/// Drops a file from the page cache, as far as nobody maps it.
fn forget(path: &Path) -> Result<()> {
    use rustix::fs::{Advice, fadvise};
    let file = std::fs::File::open(path).map_err(|e| forebay_store::Error::io("open", path, e))?;
    file.sync_all().map_err(|e| forebay_store::Error::io("sync", path, e))?;
    fadvise(&file, 0, None, Advice::DontNeed)
        .map_err(|e| forebay_store::Error::io("drop from the page cache", path, e.into()))?;
    Ok(())
}
