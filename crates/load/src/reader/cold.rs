//! Ranges that the storage has to be waited for: in flight together, of any number of batches.
//!
//! ```text
//! begin ─▶ plan ─▶ reads ─▶ queue, as many as there are buffers        returns at once
//! begin ─▶ plan ─▶ reads    behind those before
//! finish ◀── bytes of a range of the first, as they come ── its buffer goes to the next read
//! ```
//!
//! A queue belongs to a thread, so each thread that makes batches has its own, and what is in flight
//! is bounded by its buffers. Reads start in the order of [`begin`], and batches are finished in that
//! order too: so either all reads of the first have started, or nobody behind it holds a buffer.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_store::{
    Arena, Completion, Costs, Engine, Error as StoreError, Object, ObjectId, Op, Options, Plan,
    Queue, Range, Request, plan,
};

use crate::Result;

/// Of a queue: more than most disks work on at once.
const DEPTH: usize = 128;
/// No read is longer. All buffers of a thread together are 8 MiB.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes between two ranges that cost less than another read.
const GAP_BYTES: u64 = 8 << 10;
/// A storage that is silent for longer makes a batch fail.
const PATIENCE: Duration = Duration::from_secs(120);
/// A queue lets go of no object: with more of them it is made anew.
const MOST_OBJECTS: usize = 1024;

thread_local! {
    /// One for all that is on no 3FS, and one for each of those.
    static LANES: RefCell<Vec<Lane>> = const { RefCell::new(Vec::new()) };
}

/// A queue and what is begun on it.
struct Lane {
    /// Device of a 3FS.
    home: Option<u64>,
    process: u32,
    queue: Queue,
    arena: Arena,
    known: HashMap<*const Object, ObjectId>,
    /// Oldest first; numbers go up by one.
    begun: VecDeque<Begun>,
    next: u64,
    /// Reads without a buffer: number of the batch and of the read in its plan, oldest first.
    waiting: VecDeque<(u64, usize)>,
}

/// The reads of one batch.
struct Begun {
    number: u64,
    ranges: Vec<Range>,
    objects: Vec<(Arc<Object>, ObjectId)>,
    plan: Plan,
    /// Over and not looked at.
    over: Vec<Completion>,
    /// Reads that are not over.
    left: usize,
}

/// What was begun, for [`finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    home: Option<u64>,
    number: u64,
}

/// Starts to read `ranges` of `objects`, which all lie beside `near`.
///
/// * `home` — device of the 3FS that holds them, if one does.
/// * returns `None` if no queue can be had: memory that may not be pinned, no threads.
pub(super) fn begin(
    near: &Path,
    home: Option<u64>,
    objects: &[Arc<Object>],
    ranges: Vec<Range>,
) -> Option<Ticket> {
    LANES.with_borrow_mut(|lanes| {
        close_strange(lanes);
        let full = |lane: &Lane| lane.known.len() + objects.len() > MOST_OBJECTS;
        lanes.retain(|lane| lane.home != home || !lane.begun.is_empty() || !full(lane));
        let place = lanes.iter().position(|lane| lane.home == home);
        let place = place.or_else(|| {
            lanes.push(Lane::open(near, home)?);
            Some(lanes.len() - 1)
        })?;
        // Should it fail or panic half-way, the lane is gone, and with it what was in flight.
        let mut lane = lanes.swap_remove(place);
        let number = lane.begin(objects, ranges)?;
        lanes.push(lane);
        Some(Ticket { home, number })
    })
}

/// Hands the bytes of every range of `ticket` to `each`, with its place among the ranges, in any
/// order. What was begun before it and never finished is thrown away.
///
/// * returns false if the queue has gone with it: a batch before this one failed.
///
/// # Errors
/// If a read fails or the storage is silent; those of `each`.
pub(super) fn finish(
    ticket: Ticket,
    mut each: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<bool> {
    LANES.with_borrow_mut(|lanes| {
        close_strange(lanes);
        let known = |lane: &Lane| {
            lane.home == ticket.home && lane.begun.iter().any(|b| b.number == ticket.number)
        };
        let Some(place) = lanes.iter().position(known) else { return Ok(false) };
        let mut lane = lanes.swap_remove(place);
        while lane.begun.front().is_some_and(|begun| begun.number < ticket.number) {
            lane.finish(&mut |_, _| Ok(()))?.ok();
        }
        let done = lane.finish(&mut each)?;
        lanes.push(lane);
        done.map(|()| true)
    })
}

/// Is there a buffer for the reads of another batch?
pub(crate) fn has_room() -> bool {
    LANES.with_borrow(|lanes| lanes.iter().all(|lane| lane.waiting.is_empty()))
}

/// Closes what nobody waits for, and with it files.
pub(super) fn close_idle() {
    // The thread may be at its end.
    let _ = LANES.try_with(|lanes| {
        if let Ok(mut lanes) = lanes.try_borrow_mut() {
            close_strange(&mut lanes);
            lanes.retain(|lane| !lane.begun.is_empty());
        }
    });
}

/// In a child of `fork`, rings and buffers are those of the parent: nothing here may touch them.
fn close_strange(lanes: &mut Vec<Lane>) {
    let process = std::process::id();
    while let Some(place) = lanes.iter().position(|lane| lane.process != process) {
        std::mem::forget(lanes.swap_remove(place));
    }
}

impl Lane {
    fn open(near: &Path, home: Option<u64>) -> Option<Self> {
        let arena = Arena::near(near, BUFFER_BYTES, DEPTH).ok()?;
        let engine = Engine::Auto;
        let options = Options { depth: DEPTH, engine, arena: Some(arena.clone()) };
        let queue = Queue::open_near(near, &options).ok()?;
        Some(Self::over(queue, arena, home))
    }

    fn over(queue: Queue, arena: Arena, home: Option<u64>) -> Self {
        let (begun, waiting) = (VecDeque::new(), VecDeque::new());
        let (known, process) = (HashMap::new(), std::process::id());
        Self { home, process, queue, arena, known, begun, next: 0, waiting }
    }

    /// `None` if the kernel takes no more.
    fn begin(&mut self, objects: &[Arc<Object>], ranges: Vec<Range>) -> Option<u64> {
        let align = objects.iter().filter_map(|o| o.direct()).map(|d| d.offset).max().unwrap_or(1);
        let costs = Costs {
            gap_bytes: GAP_BYTES,
            max_bytes: self.arena.buffer_bytes() as u64,
            border_bytes: 0,
            align,
        };
        let plan = plan(&ranges, &costs, |_| 0);
        let Self { known, queue, .. } = self;
        let id = |object: &Arc<Object>| {
            let new = || queue.add(Arc::clone(object));
            (Arc::clone(object), *known.entry(Arc::as_ptr(object)).or_insert_with(new))
        };
        let objects = objects.iter().map(id).collect();
        let number = self.next;
        self.next += 1;
        let left = plan.reads.len();
        self.waiting.extend((0..left).map(|read| (number, read)));
        self.begun.push_back(Begun { number, ranges, objects, plan, over: Vec::new(), left });
        self.start().ok()?;
        Some(number)
    }

    /// Starts what has a buffer.
    fn start(&mut self) -> Result<()> {
        let first = self.begun.front().map_or(0, |begun| begun.number);
        let mut started = false;
        while self.queue.in_flight() < self.queue.depth()
            && let Some(&(number, read)) = self.waiting.front()
            && let Some(buffer) = self.arena.lend()
        {
            self.waiting.pop_front();
            let begun = &self.begun[(number - first) as usize];
            let wanted = &begun.plan.reads[read];
            let request = Request {
                tag: number << 32 | read as u64,
                op: Op::Read,
                object: begun.objects[wanted.object as usize].1,
                offset: wanted.offset,
                length: wanted.length as usize,
                buffer,
            };
            if self.queue.prepare(request).is_err() {
                unreachable!("there was room");
            }
            started = true;
        }
        if started {
            self.queue.submit()?;
        }
        Ok(())
    }

    /// Finishes the oldest. The outer error is of the queue, the inner one of this batch alone.
    fn finish(&mut self, each: &mut impl FnMut(usize, &[u8]) -> Result<()>) -> Result<Result<()>> {
        let mut done = Ok(());
        // Ranges that more than one read serves: their bytes, and how many are there.
        let mut pieces: HashMap<u32, (Vec<u8>, u64)> = HashMap::new();
        let mut over = Vec::new();
        loop {
            let Some(first) = self.begun.front_mut() else { return Ok(done) };
            for completion in first.over.drain(..).collect::<Vec<_>>() {
                // What fails is remembered, and the rest waited for.
                if done.is_ok() {
                    done = first.hand_over(completion, &mut pieces, each);
                }
            }
            if first.left == 0 {
                self.begun.pop_front();
                self.start()?;
                return Ok(done);
            }
            self.start()?;
            self.queue.wait(1, Some(Instant::now() + PATIENCE), &mut over)?;
            let first = self.begun.front().map_or(0, |begun| begun.number);
            for completion in over.drain(..) {
                // The upper half of a number that wrapped is missing in its tag.
                let place = (completion.tag >> 32) as u32;
                let begun = &mut self.begun[place.wrapping_sub(first as u32) as usize];
                begun.left -= 1;
                begun.over.push(completion);
            }
        }
    }
}

impl Begun {
    /// The ranges of one read.
    fn hand_over(
        &self,
        completion: Completion,
        pieces: &mut HashMap<u32, (Vec<u8>, u64)>,
        each: &mut impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let read = (completion.tag & u64::from(u32::MAX)) as usize;
        let there = completion.result?;
        for segment in self.plan.segments_of(read) {
            let range = self.ranges[segment.range as usize];
            let (start, length) = (segment.in_read as usize, segment.length as usize);
            let Some(bytes) = completion.buffer[..there].get(start..start + length) else {
                let object = &self.objects[range.object as usize].0;
                return Err(StoreError::PastEnd {
                    path: object.path().to_path_buf(),
                    size: object.size_now(),
                    offset: range.offset,
                    wanted: range.length,
                }
                .into());
            };
            if segment.length == range.length {
                each(segment.range as usize, bytes)?;
                continue;
            }
            let (whole, have) =
                pieces.entry(segment.range).or_insert_with(|| (vec![0; range.length as usize], 0));
            whole[segment.in_range as usize..][..length].copy_from_slice(bytes);
            *have += segment.length;
            if *have == range.length {
                each(segment.range as usize, whole)?;
                pieces.remove(&segment.range);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use forebay_store::Faults;
    use proptest::prelude::*;

    use super::*;

    const BYTES: u64 = 40_000;

    fn byte(object: u32, at: u64) -> u8 {
        crate::order::mix(at ^ u64::from(object) << 40) as u8
    }

    fn objects() -> Vec<Arc<Object>> {
        let object =
            |n: u32| Object::in_memory("object", (0..BYTES).map(|at| byte(n, at)).collect());
        (0..3).map(|n| Arc::new(object(n))).collect()
    }

    /// A queue of few transfers and small buffers, over memory.
    fn lane(depth: usize, buffers: usize, faults: Faults) -> Lane {
        let arena = Arena::new(4096, buffers).unwrap();
        Lane::over(Queue::in_memory(depth, faults), arena, None)
    }

    /// Every range once, with the bytes that are there.
    fn is_all(lane: &mut Lane, ranges: &[Range]) {
        let mut seen = vec![0; ranges.len()];
        let done = lane.finish(&mut |place, bytes| {
            let Range { object, offset, length } = ranges[place];
            assert!((offset..offset + length).map(|at| byte(object, at)).eq(bytes.iter().copied()));
            seen[place] += 1;
            Ok(())
        });
        done.unwrap().unwrap();
        assert!(seen.iter().all(|&times| times == 1), "{seen:?}");
    }

    prop_compose! {
        fn some_range()(object in 0..3_u32, offset in 0..BYTES - 9_000, length in 1..9_000_u64) -> Range {
            Range { object, offset, length }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        /// Batches of more bytes than there are buffers, completed out of order, torn and
        /// interrupted, begun before those before them are finished.
        #[test]
        fn every_range_of_every_batch_comes_once_with_its_bytes(
            batches in prop::collection::vec(prop::collection::vec(some_range(), 1..12), 1..6),
            depth in 1_usize..9,
            buffers in 1_usize..6,
            ahead in 1_usize..4,
            seed in any::<u64>(),
        ) {
            let objects = objects();
            let mut lane = lane(depth, buffers, Faults { seed, ..Faults::default() });
            let mut begun = VecDeque::new();
            for ranges in &batches {
                lane.begin(&objects, ranges.clone()).unwrap();
                begun.push_back(ranges);
                if begun.len() > ahead {
                    is_all(&mut lane, begun.pop_front().unwrap());
                }
            }
            while let Some(ranges) = begun.pop_front() {
                is_all(&mut lane, ranges);
            }
            prop_assert_eq!((lane.queue.in_flight(), lane.arena.idle()), (0, buffers));
        }
    }

    #[test]
    fn a_read_that_fails_is_an_error_of_its_batch_alone() {
        let objects = objects();
        let faults = Faults { error_at: Some(20_000), ..Faults::default() };
        let mut lane = lane(4, 4, faults);
        let at = |offset| Range { object: 1, offset, length: 100 };
        let (sound, hit) = (vec![at(0), at(9_000)], vec![at(30_000), at(19_950), at(100)]);
        for ranges in [&sound, &hit, &sound] {
            lane.begin(&objects, ranges.clone()).unwrap();
        }
        is_all(&mut lane, &sound);
        let error = lane.finish(&mut |_, _| Ok(())).unwrap().unwrap_err();
        assert!(error.to_string().contains("cannot read object at byte 19950"), "{error}");
        is_all(&mut lane, &sound);
        assert_eq!((lane.queue.in_flight(), lane.arena.idle()), (0, 4));
    }

    #[test]
    fn an_object_that_ends_too_soon_is_told_with_the_range() {
        let objects = objects();
        let mut lane = lane(4, 4, Faults::default());
        let past = vec![Range { object: 2, offset: BYTES - 50, length: 100 }];
        lane.begin(&objects, past).unwrap();
        let error = lane.finish(&mut |_, _| unreachable!("half a range")).unwrap().unwrap_err();
        assert!(error.is_corrupt() && error.to_string().contains("39950"), "{error}");
        assert_eq!(lane.arena.idle(), 4);
    }

    #[test]
    fn what_is_never_finished_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("object");
        std::fs::write(&path, (0..BYTES).map(|at| byte(0, at)).collect::<Vec<u8>>()).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let objects = [Arc::new(Object::over(&path, file).unwrap())];
        let range = |offset| vec![Range { object: 0, offset, length: 5_000 }];
        let first = begin(&path, None, &objects, range(0)).unwrap();
        let second = begin(&path, None, &objects, range(7)).unwrap();
        assert!(has_room());
        let mut found = Vec::new();
        let done = finish(second, |_, bytes| {
            found.extend_from_slice(bytes);
            Ok(())
        });
        assert!(done.unwrap() && (7..5_007).map(|at| byte(0, at)).eq(found));
        assert!(!finish(first, |_, _| unreachable!("it was thrown away")).unwrap());
        drop(LANES.take());
    }
}
