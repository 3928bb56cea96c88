//! The bytes of a file in order, read in parallel ahead of whoever takes them.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{
    Access, Arena, Completion, Direct, Engine, Error, Object, Op, Options, Queue, Request, Result,
};

/// Parts in flight.
const DEPTH: usize = 8;
const PART: usize = 1 << 20;

/// A transfer that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Writes all of `path` to `out`.
///
/// # Errors
/// The outer one is of the storage, the inner one of `out`.
pub fn cat(path: &Path, out: &mut impl Write) -> Result<io::Result<()>> {
    let object = Arc::new(Object::open(path, Access::Read, Direct::Off)?);
    if object.size() == 0 {
        // What has no length is read until it ends: pipes, /proc.
        let mut file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        return Ok(io::copy(&mut file, out).map(drop));
    }
    let arena = Arena::new(PART, DEPTH)?;
    let options = Options { depth: DEPTH, engine: Engine::Auto, arena: Some(arena.clone()) };
    let mut queue = Queue::open(&options)?;
    let id = queue.add(Arc::clone(&object));
    let parts = object.size().div_ceil(PART as u64);
    let (mut next, mut wanted) = (0, 0);
    // Read, and waiting for those before them.
    let mut read: Vec<Completion> = Vec::with_capacity(DEPTH);
    while wanted < parts {
        while next < parts
            && let Some(buffer) = arena.lend()
        {
            let (op, offset, length) = (Op::Read, next * PART as u64, PART);
            let request = Request { tag: next, op, object: id, offset, length, buffer };
            if queue.prepare(request).is_err() {
                break;
            }
            next += 1;
        }
        queue.wait(1, Some(Instant::now() + PATIENCE), &mut read)?;
        while let Some(place) = read.iter().position(|done| done.tag == wanted) {
            let done = read.swap_remove(place);
            let moved = done.result?;
            let due = (object.size() - done.offset).min(PART as u64) as usize;
            if moved < due {
                let (path, offset) = (path.to_path_buf(), done.offset);
                let size = offset + moved as u64;
                return Err(Error::PastEnd { path, size, offset, wanted: due as u64 });
            }
            if let Err(error) = out.write_all(&done.buffer[..due]) {
                return Ok(Err(error));
            }
            wanted += 1;
        }
    }
    Ok(out.flush())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_order_whatever_the_order_of_the_reads() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 1, PART, 20 * PART + 77] {
            let path = dir.path().join(length.to_string());
            let bytes: Vec<u8> = (0..length).map(|n| (n / 1000) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let mut out = Vec::new();
            cat(&path, &mut out).unwrap().unwrap();
            assert!(out == bytes, "{length} bytes");
        }
        let mut out = Vec::new();
        cat(Path::new("/proc/self/status"), &mut out).unwrap().unwrap();
        assert!(out.starts_with(b"Name:"));
    }
}
