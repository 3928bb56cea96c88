//! Reads that wait, for whoever has no queue: each thread keeps one.

use std::cell::RefCell;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::object::Object;
use crate::queue::{Engine, ObjectId, Op, Options, Queue, Request};
use crate::{Arena, Completion, Result};

/// Long reads are cut into so many bytes, and so many are in flight.
const BUFFER_BYTES: usize = 256 << 10;
const DEPTH: usize = 16;

/// A daemon that is silent for longer makes a read fail; one that starts again does not.
const PATIENCE: Duration = Duration::from_secs(120);

struct Own {
    device: u64,
    queue: Queue,
    arena: Arena,
    known: Vec<(Arc<Object>, ObjectId)>,
}

thread_local! {
    /// Mostly one, since a process seldom reads from two 3FS.
    static QUEUES: RefCell<Vec<Own>> = const { RefCell::new(Vec::new()) };
}

/// Since when rings could not be had for a file: asking costs as much as many reads. Not by device,
/// whose number the next mount may get.
pub(crate) type Refused = Mutex<Option<Instant>>;

/// Then it is asked again: what was lacking may have been given back.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// Objects of one thread that are looked up by a walk; beyond, the queue is made anew.
const MOST_KNOWN: usize = 256;

/// Fills `buf` from byte `offset` through the rings of the 3FS that holds `object`, and returns
/// how much there was: less only at the end of the file. Copied once, out of shared memory.
///
/// `None` if no ring can be had there.
///
/// # Errors
/// If the transfer fails.
pub(crate) fn read(
    object: &Arc<Object>,
    refused: &Refused,
    path: &Path,
    offset: u64,
    buf: &mut [u8],
) -> Result<Option<usize>> {
    QUEUES.with_borrow_mut(|queues| {
        let device = object.device();
        queues.retain(|own| own.device != device || own.known.len() < MOST_KNOWN);
        let place = match queues.iter().position(|own| own.device == device) {
            Some(place) => place,
            None => {
                // Too little shared memory, say; FUSE serves the file all the same.
                let Some(own) = Own::unless_refused(path, device, refused) else { return Ok(None) };
                queues.push(own);
                queues.len() - 1
            }
        };
        let done = queues[place].read(object, offset, buf);
        if done.is_err() {
            // Something may still be in flight for a reader that has gone.
            queues.remove(place);
        }
        done.map(Some)
    })
}

impl Own {
    fn unless_refused(path: &Path, device: u64, refused: &Refused) -> Option<Self> {
        let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.is_some_and(|since| since.elapsed() < REFUSED_FOR) {
            return None;
        }
        let own = Self::open(path, device).ok();
        *refused = own.is_none().then(Instant::now);
        own
    }

    fn open(path: &Path, device: u64) -> Result<Self> {
        let arena = Arena::near(path, BUFFER_BYTES, DEPTH)?;
        let options = Options { depth: DEPTH, engine: Engine::Usrbio, arena: Some(arena.clone()) };
        let queue = Queue::open_near(path, &options)?;
        Ok(Self { device, queue, arena, known: Vec::new() })
    }

    fn read(&mut self, object: &Arc<Object>, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let known = self.known.iter().find(|(known, _)| Arc::ptr_eq(known, object));
        let id = match known {
            Some(&(_, id)) => id,
            None => {
                let id = self.queue.add(Arc::clone(object));
                self.known.push((Arc::clone(object), id));
                id
            }
        };
        let deadline = Some(Instant::now() + PATIENCE);
        let (mut asked, mut end) = (0, buf.len());
        let mut over: Vec<Completion> = Vec::new();
        loop {
            while asked < buf.len()
                && let Some(buffer) = self.arena.lend()
            {
                let length = BUFFER_BYTES.min(buf.len() - asked);
                let (tag, offset) = (asked as u64, offset + asked as u64);
                let request = Request { tag, op: Op::Read, object: id, offset, length, buffer };
                asked += length;
                if self.queue.prepare(request).is_err() {
                    unreachable!("as many buffers as places");
                }
            }
            if self.queue.in_flight() == 0 {
                return Ok(end);
            }
            self.queue.wait(1, deadline, &mut over)?;
            for done in over.drain(..) {
                let (count, start) = (done.result?, done.tag as usize);
                buf[start..start + count].copy_from_slice(&done.buffer[..count]);
                if count < BUFFER_BYTES.min(buf.len() - start) {
                    end = end.min(start + count);
                }
            }
        }
    }
}
