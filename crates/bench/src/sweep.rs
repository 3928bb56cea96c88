//! A grid of block sizes and queue depths, each point measured on the same open target.

use std::path::Path;
use std::sync::Arc;

use crate::Result;
use crate::run::{Glance, Measured, measure_target};
use crate::target::{Target, Wish};
use crate::workload::Workload;

/// The points of a grid.
#[derive(Debug, Clone)]
pub struct Grid {
    /// Bytes of a transfer.
    pub block_bytes: Vec<u64>,
    /// Transfers in flight of each job.
    pub queue_depths: Vec<usize>,
}

/// Completions to wait for at once when nobody says: an eighth of the depth.
///
/// Fewer system calls, and still seven eighths of the depth in flight.
pub fn batch(queue_depth: usize) -> usize {
    (queue_depth / 8).max(1)
}

/// Measures `workload` at every point of `grid`; `point` hears of each before it starts.
///
/// Points are visited depth by depth inside a block size; repeats of a point follow each other.
///
/// # Errors
/// The first that any point meets.
pub fn sweep(
    path: &Path,
    workload: &Workload,
    grid: &Grid,
    wish: &Wish,
    cold: bool,
    mut point: impl FnMut(&Workload),
    mut watch: impl FnMut(&Glance),
) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for &block_bytes in &grid.block_bytes {
        let of_block = Workload { block_bytes, ..workload.clone() };
        let target = Arc::new(Target::open(path, &of_block, wish)?);
        for &queue_depth in &grid.queue_depths {
            let one = Workload { queue_depth, batch: batch(queue_depth), ..of_block.clone() };
            point(&one);
            measured.push(measure_target(&target, &one, cold, &mut watch)?);
        }
    }
    Ok(measured)
}
