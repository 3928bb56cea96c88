//! Saving and restoring a checkpoint: N writers write, sync and publish; N readers read back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_store::{
    Access, Arena, Direct, Engine, Error as StoreError, Object, Op, Options, Queue, Request,
};
use serde::Serialize;

use crate::spread::Spread;
use crate::workload::{fill, first_difference};
use crate::{Error, Result};

/// What is saved.
#[derive(Debug, Clone, Serialize)]
pub struct Checkpoint {
    /// Ranks, each with a file of its own.
    pub writers: usize,
    /// Bytes of each.
    pub bytes: u64,
    /// Past the page cache where the file system can.
    pub direct: bool,
    /// Saves and restores.
    pub repeats: usize,
}

/// How long training stands still.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointTimes {
    /// What was saved.
    pub checkpoint: Checkpoint,
    /// Until the last rank's file is durable under its name: the stall of a synchronous save.
    pub save_seconds: Spread,
    /// Until the first rank was done.
    pub first_saved_seconds: Spread,
    /// Until the last rank has read and checked all of its bytes, from a cold cache.
    pub restore_seconds: Spread,
    /// Bytes of all ranks in a second, saving.
    pub save_bytes_per_second: Spread,
    /// The same, restoring.
    pub restore_bytes_per_second: Spread,
    /// What moved the bytes.
    pub engine: String,
    /// Files were opened past the page cache.
    pub is_direct: bool,
}

const STEP: usize = 4 << 20;
const DEPTH: usize = 8;
const PATIENCE: Duration = Duration::from_secs(120);

/// Saves and restores in a directory of its own under `path`, and removes it.
///
/// # Errors
/// What the storage says; [`Error::Wrong`] if a restored byte is not the saved one.
pub fn measure(path: &Path, checkpoint: &Checkpoint) -> Result<CheckpointTimes> {
    let own = path.join(format!("forebay-checkpoint-{}", std::process::id()));
    std::fs::create_dir(&own).map_err(|e| StoreError::io("create directory", &own, e))?;
    let measured = repeats(&own, checkpoint);
    let removed = std::fs::remove_dir_all(&own).map_err(|e| StoreError::io("remove", &own, e));
    let measured = measured?;
    removed?;
    Ok(measured)
}

fn repeats(own: &Path, checkpoint: &Checkpoint) -> Result<CheckpointTimes> {
    let (mut saves, mut firsts, mut restores) = (Vec::new(), Vec::new(), Vec::new());
    let (mut engine, mut is_direct) = (String::new(), false);
    for repeat in 0..checkpoint.repeats {
        let file = |rank: usize| own.join(format!("rank-{rank:05}.bin"));
        let times = ranks(checkpoint, |rank| save(&file(rank), checkpoint, rank, repeat))?;
        let seconds = |of: fn(f64, f64) -> f64, start: f64| {
            times.iter().map(|t| t.0.as_secs_f64()).fold(start, of)
        };
        saves.push(seconds(f64::max, 0.0));
        firsts.push(seconds(f64::min, f64::INFINITY));
        (engine, is_direct) = (times[0].1.clone(), times[0].2);
        let times = ranks(checkpoint, |rank| restore(&file(rank), checkpoint, rank, repeat))?;
        restores.push(times.iter().map(|t| t.0.as_secs_f64()).fold(0.0, f64::max));
    }
    let all = (checkpoint.bytes * checkpoint.writers as u64) as f64;
    let rate = |times: &[f64]| Spread::of(times.iter().map(|t| all / t.max(1e-9)));
    Ok(CheckpointTimes {
        checkpoint: checkpoint.clone(),
        save_bytes_per_second: rate(&saves),
        restore_bytes_per_second: rate(&restores),
        save_seconds: Spread::of(saves),
        first_saved_seconds: Spread::of(firsts),
        restore_seconds: Spread::of(restores),
        engine,
        is_direct,
    })
}

type Rank = (Duration, String, bool);

/// All ranks at once; each tells its time since the common start.
fn ranks(
    checkpoint: &Checkpoint,
    rank: impl Fn(usize) -> Result<(String, bool)> + Sync,
) -> Result<Vec<Rank>> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let rank = &rank;
        let threads: Vec<_> = (0..checkpoint.writers)
            .map(|n| scope.spawn(move || rank(n).map(|(e, d)| (start.elapsed(), e, d))))
            .collect();
        let died = || Err(Error::Usage("a rank of the benchmark died".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
    })
}

fn seed(rank: usize, repeat: usize) -> u64 {
    (rank as u64) << 32 | repeat as u64
}

fn save(
    path: &Path,
    checkpoint: &Checkpoint,
    rank: usize,
    repeat: usize,
) -> Result<(String, bool)> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let wanted = if checkpoint.direct { Direct::Try } else { Direct::Off };
    let object = Object::open(&temporary, Access::Create, wanted)?;
    let is_direct = object.direct().is_some();
    let object = Arc::new(object);
    // What a direct write ends on must be aligned; the file is cut to its size afterwards.
    let padded = checkpoint.bytes.next_multiple_of(4096);
    let engine = transfer(&object, Op::Write, padded, |offset, bytes| {
        fill(bytes, offset, seed(rank, repeat));
        Ok(())
    })?;
    if let Some(file) = object.file() {
        file.set_len(checkpoint.bytes).map_err(|e| StoreError::io("cut", &temporary, e))?;
    }
    object.sync()?;
    std::fs::rename(&temporary, path).map_err(|e| StoreError::io("rename", &temporary, e))?;
    forebay_store::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    Ok((engine, is_direct))
}

fn restore(
    path: &Path,
    checkpoint: &Checkpoint,
    rank: usize,
    repeat: usize,
) -> Result<(String, bool)> {
    let wanted = if checkpoint.direct { Direct::Try } else { Direct::Off };
    let object = Arc::new(Object::open(path, Access::Read, wanted)?);
    if let Some(file) = object.file() {
        // A restart does not find its pages in memory.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    }
    let is_direct = object.direct().is_some();
    let end = checkpoint.bytes;
    let engine = transfer(&object, Op::Read, end.next_multiple_of(4096), |offset, bytes| {
        let there = (end - offset).min(bytes.len() as u64) as usize;
        match first_difference(&bytes[..there / 8 * 8], offset, seed(rank, repeat)) {
            None => Ok(()),
            Some(at) => Err(Error::Wrong { path: path.into(), offset: offset + at as u64 }),
        }
    })?;
    Ok((engine, is_direct))
}

/// Moves a whole object in steps, eight in flight. `each` fills a step before it is written, or
/// looks at it after it was read.
fn transfer(
    object: &Arc<Object>,
    op: Op,
    bytes: u64,
    mut each: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<String> {
    let arena = Arena::new(STEP, DEPTH)?;
    let options = Options { depth: DEPTH, engine: Engine::Auto, arena: Some(arena.clone()) };
    let mut queue = Queue::open(&options)?;
    let id = queue.add(Arc::clone(object));
    let (mut offset, mut completions) = (0, Vec::new());
    while offset < bytes || queue.in_flight() > 0 {
        while offset < bytes
            && let Some(mut buffer) = arena.lend()
        {
            let length = (bytes - offset).min(STEP as u64) as usize;
            if op == Op::Write {
                each(offset, &mut buffer[..length])?;
            }
            let request = Request { tag: length as u64, op, object: id, offset, length, buffer };
            offset += length as u64;
            // There are as many buffers as places in the queue.
            queue.prepare(request).map_err(|_| Error::Usage("the queue is full".into()))?;
        }
        queue.wait(1, Some(Instant::now() + PATIENCE), &mut completions)?;
        for mut done in completions.drain(..) {
            let moved = done.result? as u64;
            let wanted = done.tag.min(object.size().saturating_sub(done.offset));
            if op == Op::Read && moved < wanted {
                let (path, size) = (object.path().to_path_buf(), done.offset + moved);
                let (offset, wanted) = (done.offset, done.tag);
                return Err(StoreError::PastEnd { path, size, offset, wanted }.into());
            }
            if op == Op::Read {
                each(done.offset, &mut done.buffer[..moved as usize])?;
            }
        }
    }
    Ok(queue.ladder().summary())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_saves_and_restores_its_own_bytes() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for direct in [false, true] {
            // Not a multiple of any block.
            let bytes = 5 * (1 << 20) + 1000;
            let checkpoint = Checkpoint { writers: 3, bytes, direct, repeats: 2 };
            let times = measure(dir.path(), &checkpoint).unwrap();
            assert!(times.save_seconds.min > 0.0 && times.restore_seconds.min > 0.0);
            assert!(times.first_saved_seconds.median <= times.save_seconds.median);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_restored_byte_that_changed_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rank-0.bin");
        let checkpoint = Checkpoint { writers: 1, bytes: 100_000, direct: false, repeats: 1 };
        save(&path, &checkpoint, 0, 0).unwrap();
        restore(&path, &checkpoint, 0, 0).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 100_000);
        bytes[70_001] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = restore(&path, &checkpoint, 0, 0).unwrap_err();
        assert!(error.to_string().contains("at 70000"), "{error}");
    }
}
