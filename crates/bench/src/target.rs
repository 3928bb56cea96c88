//! What a benchmark runs against: files it makes and removes again, or what is there already.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_store::{
    Access, Arena, Direct, Engine, Error as StoreError, Object, Op, Options, Queue, Request,
};

use crate::workload::{Workload, fill};
use crate::{Error, Result};

/// What to make where there is nothing yet.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Bytes of all files together.
    pub bytes: u64,
    /// In how many files.
    pub files: usize,
    /// Existing data may be written over.
    pub destroy: bool,
    /// Files that were made stay.
    pub keep: bool,
}

/// Files or a device, open, all of one size.
#[derive(Debug)]
pub struct Target {
    objects: Vec<Arc<Object>>,
    /// Blocks of each object.
    blocks: u64,
    /// Removed at the end.
    made: Made,
}

#[derive(Debug, Default)]
struct Made {
    files: Vec<PathBuf>,
    directory: Option<PathBuf>,
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Target {
    /// Opens `path` for a workload.
    ///
    /// A directory gets files of its own; a missing file is made; an existing file or device is
    /// taken as it is, and written over only with [`Wish::destroy`].
    ///
    /// # Errors
    /// [`Error::WouldDestroy`], [`Error::TooSmall`], or what the storage says.
    pub fn open(path: &Path, workload: &Workload, wish: &Wish) -> Result<Self> {
        let block = workload.block_bytes;
        let writes = workload.read_percent < 100;
        let mut made = Made::default();
        let paths = match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                if writes && !wish.destroy {
                    let what = if found.is_file() { "its data" } else { "the whole device" };
                    return Err(Error::WouldDestroy { path: path.into(), what });
                }
                vec![path.to_path_buf()]
            }
            found => {
                let files = wish.files.max(1);
                let each = (wish.bytes / files as u64 / block).max(1) * block;
                let paths: Vec<PathBuf> = match found {
                    Ok(_) => {
                        let own = path.join(format!("forebay-bench-{}", std::process::id()));
                        fs::create_dir(&own)
                            .map_err(|e| StoreError::io("create directory", &own, e))?;
                        let paths = (0..files).map(|n| own.join(format!("{n:06}"))).collect();
                        made.directory = Some(own);
                        paths
                    }
                    Err(_) if files == 1 => vec![path.to_path_buf()],
                    Err(_) => return Err(Error::Usage("--files wants a directory".into())),
                };
                for (n, file) in paths.iter().enumerate() {
                    made.files.push(file.clone());
                    create(file, each, block, n as u64 * each, workload.seed)?;
                }
                if wish.keep {
                    // Forgotten, not dropped: that would remove them.
                    made.files.clear();
                    made.directory = None;
                }
                paths
            }
        };
        let access = match workload.read_percent {
            100 => Access::Read,
            0 => Access::Write,
            _ => Access::ReadWrite,
        };
        let direct = if workload.direct { Direct::Try } else { Direct::Off };
        let mut objects = Vec::with_capacity(paths.len());
        for path in &paths {
            objects.push(Arc::new(Object::open(path, access, direct)?));
        }
        let found = objects.iter().map(|object| object.size()).min().unwrap_or(0);
        if found < block {
            return Err(Error::TooSmall { path: path.into(), found, expected: block });
        }
        if let Some(needs) = objects[0].direct()
            && !block.is_multiple_of(needs.offset)
        {
            let (path, expected) = (paths[0].clone(), needs.offset);
            let length = block as usize;
            return Err(StoreError::Misaligned { path, offset: 0, length, expected }.into());
        }
        Ok(Self { objects, blocks: found / block, made })
    }

    /// All files.
    pub fn objects(&self) -> &[Arc<Object>] {
        &self.objects
    }

    /// Blocks of all files together.
    pub fn blocks(&self) -> u64 {
        self.blocks * self.objects.len() as u64
    }

    /// File and position in it of a block.
    #[inline]
    pub(crate) fn place(&self, block: u64) -> (usize, u64) {
        if self.objects.len() == 1 {
            return (0, block);
        }
        ((block / self.blocks) as usize, block % self.blocks)
    }

    /// Whether the files are the benchmark's own.
    pub fn is_made(&self) -> bool {
        !self.made.files.is_empty()
    }

    /// Asks the kernel to forget what it has cached of the target.
    pub(crate) fn forget(&self) {
        for file in self.objects.iter().filter_map(|object| object.file()) {
            let _ = file.sync_all();
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

/// A transfer while a target is made may take as long, no longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Writes a file of blocks that carry their place; random to anyone else, so nothing compresses.
fn create(path: &Path, bytes: u64, block: u64, base: u64, seed: u64) -> Result<()> {
    const STEP: u64 = 1 << 20;
    const DEPTH: usize = 8;
    let object = Arc::new(Object::open(path, Access::Create, Direct::Off)?);
    if let Some(file) = object.file() {
        // Without holes, as a file has that was copied in; where the file system cannot, it
        // says so later by running full.
        let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes);
    }
    let step = if block <= STEP { STEP / block * block } else { block };
    let arena = Arena::new(step as usize, DEPTH)?;
    let mut queue =
        Queue::open(&Options { depth: DEPTH, engine: Engine::Auto, arena: Some(arena.clone()) })?;
    let id = queue.add(Arc::clone(&object));
    let (mut offset, mut completions) = (0, Vec::new());
    while offset < bytes || queue.in_flight() > 0 {
        while offset < bytes
            && let Some(mut buffer) = arena.lend()
        {
            let length = step.min(bytes - offset);
            for (n, one) in buffer[..length as usize].chunks_mut(block as usize).enumerate() {
                fill(one, base + offset + n as u64 * block, seed);
            }
            let length = length as usize;
            let request = Request { tag: 0, op: Op::Write, object: id, offset, length, buffer };
            offset += length as u64;
            // There are as many buffers as places in the queue.
            queue.prepare(request).map_err(|_| Error::Usage("the queue is full".into()))?;
        }
        queue.wait(1, Some(Instant::now() + PATIENCE), &mut completions)?;
        for done in completions.drain(..) {
            done.result?;
        }
    }
    object.sync()?;
    Ok(())
}
