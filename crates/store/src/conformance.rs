//! One suite, run on every back end: whoever stands on a queue may rely on this.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{
    Access, Arena, Completion, Direct, Engine, Error, Faults, Object, ObjectId, Op, Options, Queue,
    Request,
};

const BLOCK: usize = 4096;

/// How a back end under test is made.
struct Fixture {
    name: &'static str,
    direct: Direct,
    open: fn(usize, &Arena) -> Option<Queue>,
    /// Objects live in memory, not in files.
    in_memory: bool,
    /// Objects live on a 3FS, whose daemon has these faults.
    emulator: Option<&'static str>,
    /// Buffers are shared with that daemon.
    shared: bool,
}

const ON_FILES: Fixture = Fixture {
    name: "",
    direct: Direct::Off,
    open: |_, _| None,
    in_memory: false,
    emulator: None,
    shared: false,
};

fn on(engine: Engine, depth: usize, arena: Option<&Arena>) -> Option<Queue> {
    match Queue::open(&Options { depth, engine, arena: arena.cloned() }) {
        Ok(queue) => Some(queue),
        Err(e) => {
            eprintln!("skipped: {e}: {:?}", std::error::Error::source(&e).map(ToString::to_string));
            None
        }
    }
}

const FIXTURES: [Fixture; 11] = [
    Fixture {
        name: "uring, registered, direct",
        direct: Direct::Try,
        open: |depth, arena| on(Engine::Uring, depth, Some(arena)),
        ..ON_FILES
    },
    Fixture {
        name: "uring, registered, buffered",
        direct: Direct::Off,
        open: |depth, arena| on(Engine::Uring, depth, Some(arena)),
        ..ON_FILES
    },
    Fixture {
        name: "uring, plain, direct",
        direct: Direct::Try,
        open: |depth, _| on(Engine::Uring, depth, None),
        ..ON_FILES
    },
    Fixture {
        name: "threads, direct",
        direct: Direct::Try,
        open: |depth, _| on(Engine::Threads, depth, None),
        ..ON_FILES
    },
    Fixture {
        name: "threads, buffered",
        direct: Direct::Off,
        open: |depth, _| on(Engine::Threads, depth, None),
        ..ON_FILES
    },
    Fixture {
        name: "memory",
        direct: Direct::Off,
        open: |depth, _| Some(Queue::in_memory(depth, Faults::default())),
        in_memory: true,
        ..ON_FILES
    },
    Fixture {
        name: "memory, short, interrupted, out of order",
        direct: Direct::Off,
        open: |depth, _| Some(Queue::in_memory(depth, Faults { seed: 1, ..Faults::default() })),
        in_memory: true,
        ..ON_FILES
    },
    Fixture { name: "usrbio", emulator: Some(""), shared: true, ..ON_FILES },
    Fixture { name: "usrbio, copied", emulator: Some(""), ..ON_FILES },
    Fixture {
        name: "usrbio, short, late, out of order",
        emulator: Some("short=3,delay=1,reorder"),
        shared: true,
        ..ON_FILES
    },
    Fixture {
        name: "usrbio, copied, nobody wakes",
        emulator: Some("short=5,never-wake"),
        ..ON_FILES
    },
];

impl Fixture {
    fn object(&self, path: &Path, bytes: &[u8], access: Access) -> Arc<Object> {
        if self.in_memory {
            return Arc::new(Object::in_memory("object", bytes.to_vec()));
        }
        fs::write(path, bytes).unwrap();
        Arc::new(Object::open(path, access, self.direct).unwrap())
    }

    fn arena(&self, path: &Path, bytes: usize, count: usize) -> Arena {
        match self.shared {
            true => Arena::near(path, bytes, count).unwrap(),
            false => Arena::new(bytes, count).unwrap(),
        }
    }

    fn queue(&self, path: &Path, depth: usize, arena: &Arena) -> Option<Queue> {
        if self.emulator.is_none() {
            return (self.open)(depth, arena);
        }
        let arena = self.shared.then(|| arena.clone());
        let options = Options { depth, engine: Engine::Usrbio, arena };
        Some(Queue::open_near(path, &options).unwrap())
    }
}

fn for_every_backend(test: impl Fn(&Fixture, &Path)) {
    for fixture in &FIXTURES {
        // Beside the target, not in the system's temporary folder: a tmpfs has no direct I/O.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let emulator = match fixture.emulator.map(|faults| emulate(dir.path(), faults)) {
            // It has said why.
            Some(None) => continue,
            Some(Some(emulator)) => Some(emulator),
            None => None,
        };
        eprintln!("on {}", fixture.name);
        test(fixture, &dir.path().join("object"));
        drop(emulator);
    }
}

/// A 3FS in memory, mounted at `mount`; `None`, and a word about it, where none can be.
pub(crate) fn emulate(mount: &Path, faults: &str) -> Option<usrbio_emulator::Emulator> {
    if let Some(why) = usrbio_emulator::unavailable() {
        eprintln!("skipped: usrbio: {why}");
        return None;
    }
    let faults = usrbio_emulator::Faults::parse(faults).unwrap();
    let options = usrbio_emulator::Options { faults, ..Default::default() };
    match usrbio_emulator::Emulator::mount(mount, &options) {
        Ok(emulator) => Some(emulator),
        Err(e) => {
            eprintln!("skipped: usrbio: cannot mount: {e}");
            None
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

fn request(op: Op, object: ObjectId, offset: u64, length: usize, arena: &Arena) -> Request {
    Request { tag: offset, op, object, offset, length, buffer: arena.lend().unwrap() }
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(20))
}

#[test]
fn many_reads_in_flight_bring_the_bytes_of_their_place() {
    for_every_backend(|fixture, path| {
        let bytes = pattern(64 * BLOCK);
        let arena = fixture.arena(path, BLOCK, 16);
        let Some(mut queue) = fixture.queue(path, 16, &arena) else { return };
        let object = queue.add(fixture.object(path, &bytes, Access::Read));
        let (mut next, mut seen) = (0, 0);
        let mut completions: Vec<Completion> = Vec::new();
        while seen < 64 {
            while next < 64 && queue.in_flight() < queue.depth() {
                let offset = (next * 37 % 64 * BLOCK) as u64;
                queue.prepare(request(Op::Read, object, offset, BLOCK, &arena)).unwrap();
                next += 1;
            }
            queue.wait(1, soon(), &mut completions).unwrap();
            for done in completions.drain(..) {
                assert_eq!(done.result.unwrap(), BLOCK);
                assert_eq!(done.tag, done.offset);
                assert!(done.buffer[..] == bytes[done.offset as usize..][..BLOCK]);
                seen += 1;
            }
        }
        assert_eq!((queue.in_flight(), arena.idle()), (0, 16));
    });
}

#[test]
fn what_was_written_is_read_back() {
    for_every_backend(|fixture, path| {
        let arena = fixture.arena(path, BLOCK, 8);
        let Some(mut queue) = fixture.queue(path, 8, &arena) else { return };
        let object = queue.add(fixture.object(path, &[0; 8 * BLOCK], Access::ReadWrite));
        for n in 0..8_u64 {
            let mut write = request(Op::Write, object, n * BLOCK as u64, BLOCK, &arena);
            write.buffer.fill(n as u8 + 1);
            queue.prepare(write).unwrap();
        }
        queue.submit().unwrap();
        let mut written = Vec::new();
        queue.wait(8, soon(), &mut written).unwrap();
        assert!(written.drain(..).all(|done| matches!(done.result, Ok(BLOCK))));
        for n in 0..8_u64 {
            queue.prepare(request(Op::Read, object, n * BLOCK as u64, BLOCK, &arena)).unwrap();
        }
        let mut read = Vec::new();
        queue.wait(8, soon(), &mut read).unwrap();
        for done in read {
            let expected = (done.offset / BLOCK as u64) as u8 + 1;
            assert!(done.buffer.iter().all(|&b| b == expected), "block {expected}");
        }
    });
}

#[test]
fn a_read_past_the_end_is_short_and_says_so() {
    for_every_backend(|fixture, path| {
        let bytes = pattern(BLOCK + 100);
        let arena = fixture.arena(path, 2 * BLOCK, 2);
        let Some(mut queue) = fixture.queue(path, 2, &arena) else { return };
        let object = queue.add(fixture.object(path, &bytes, Access::Read));
        queue.prepare(request(Op::Read, object, 0, 2 * BLOCK, &arena)).unwrap();
        queue.prepare(request(Op::Read, object, 4 * BLOCK as u64, BLOCK, &arena)).unwrap();
        let mut completions = Vec::new();
        queue.wait(2, soon(), &mut completions).unwrap();
        completions.sort_by_key(|done| done.offset);
        assert_eq!(*completions[0].result.as_ref().unwrap(), BLOCK + 100);
        assert!(completions[0].buffer[..BLOCK + 100] == bytes[..]);
        assert_eq!(*completions[1].result.as_ref().unwrap(), 0);
    });
}

#[test]
fn a_full_queue_gives_the_request_back() {
    for_every_backend(|fixture, path| {
        let arena = fixture.arena(path, BLOCK, 3);
        let Some(mut queue) = fixture.queue(path, 2, &arena) else { return };
        let object = queue.add(fixture.object(path, &pattern(4 * BLOCK), Access::Read));
        queue.prepare(request(Op::Read, object, 0, BLOCK, &arena)).unwrap();
        queue.prepare(request(Op::Read, object, BLOCK as u64, BLOCK, &arena)).unwrap();
        let third = request(Op::Read, object, 2 * BLOCK as u64, BLOCK, &arena);
        assert_eq!(queue.prepare(third).unwrap_err().offset, 2 * BLOCK as u64);
        queue.wait(2, soon(), &mut Vec::new()).unwrap();
        assert_eq!(arena.idle(), 3);
    });
}

#[test]
fn a_file_that_shrank_ends_sooner() {
    for_every_backend(|fixture, path| {
        if fixture.in_memory {
            return;
        }
        let arena = fixture.arena(path, 4 * BLOCK, 1);
        let Some(mut queue) = fixture.queue(path, 1, &arena) else { return };
        let object = queue.add(fixture.object(path, &pattern(4 * BLOCK), Access::Read));
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(BLOCK as u64).unwrap();
        queue.prepare(request(Op::Read, object, 0, 4 * BLOCK, &arena)).unwrap();
        let mut completions = Vec::new();
        queue.wait(1, soon(), &mut completions).unwrap();
        assert_eq!(*completions[0].result.as_ref().unwrap(), BLOCK);
    });
}

#[test]
fn an_object_that_may_not_be_written_is_named_in_the_error() {
    for_every_backend(|fixture, path| {
        if fixture.in_memory {
            return;
        }
        let arena = fixture.arena(path, BLOCK, 1);
        let Some(mut queue) = fixture.queue(path, 1, &arena) else { return };
        let object = queue.add(fixture.object(path, &pattern(BLOCK), Access::Read));
        queue.prepare(request(Op::Write, object, 0, BLOCK, &arena)).unwrap();
        let mut completions = Vec::new();
        queue.wait(1, soon(), &mut completions).unwrap();
        let error = completions.pop().unwrap().result.unwrap_err();
        assert!(matches!(error, Error::Transfer { action: "write", attempts: 1, .. }), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    });
}

#[test]
fn buffers_of_another_arena_work_too() {
    for_every_backend(|fixture, path| {
        let (registered, other) = (fixture.arena(path, BLOCK, 1), fixture.arena(path, BLOCK, 1));
        let bytes = pattern(2 * BLOCK);
        let Some(mut queue) = fixture.queue(path, 2, &registered) else { return };
        let object = queue.add(fixture.object(path, &bytes, Access::Read));
        queue.prepare(request(Op::Read, object, 0, BLOCK, &registered)).unwrap();
        queue.prepare(request(Op::Read, object, BLOCK as u64, BLOCK, &other)).unwrap();
        let mut completions = Vec::new();
        queue.wait(2, soon(), &mut completions).unwrap();
        for done in completions {
            assert!(done.buffer[..] == bytes[done.offset as usize..][..BLOCK]);
        }
    });
}

#[test]
fn more_objects_than_the_kernel_registers_are_served() {
    for_every_backend(|fixture, path| {
        let arena = fixture.arena(path, BLOCK, 1);
        let Some(mut queue) = fixture.queue(path, 1, &arena) else { return };
        let object = fixture.object(path, &pattern(BLOCK), Access::Read);
        let ids: Vec<ObjectId> = (0..300).map(|_| queue.add(Arc::clone(&object))).collect();
        for &id in [&ids[0], &ids[299]] {
            queue.prepare(request(Op::Read, id, 0, BLOCK, &arena)).unwrap();
            let mut completions = Vec::new();
            queue.wait(1, soon(), &mut completions).unwrap();
            assert!(completions[0].buffer[..] == pattern(BLOCK)[..]);
        }
    });
}

#[test]
fn waiting_for_nothing_returns_at_once() {
    for_every_backend(|fixture, path| {
        let arena = fixture.arena(path, BLOCK, 1);
        let Some(mut queue) = fixture.queue(path, 4, &arena) else { return };
        let mut completions = Vec::new();
        queue.wait(4, None, &mut completions).unwrap();
        queue.wait(0, None, &mut completions).unwrap();
        assert!(completions.is_empty());
    });
}

#[test]
fn a_queue_dropped_in_flight_gives_its_buffers_back() {
    for_every_backend(|fixture, path| {
        let arena = fixture.arena(path, 64 * BLOCK, 8);
        let Some(mut queue) = fixture.queue(path, 8, &arena) else { return };
        let object = queue.add(fixture.object(path, &pattern(512 * BLOCK), Access::Read));
        for n in 0..8 {
            let offset = n * 64 * BLOCK as u64;
            queue.prepare(request(Op::Read, object, offset, 64 * BLOCK, &arena)).unwrap();
        }
        queue.submit().unwrap();
        drop(queue);
        // A thread that was at work gives its buffer back a moment later.
        let until = Instant::now() + Duration::from_secs(10);
        while arena.idle() < 8 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(arena.idle(), 8);
    });
}

#[test]
fn what_hangs_meets_the_deadline_and_the_rest_is_delivered() {
    let arena = Arena::new(BLOCK, 2).unwrap();
    let mut queue = Queue::in_memory(2, Faults { hang_at: Some(0), ..Faults::default() });
    let object = queue.add(Arc::new(Object::in_memory("object", pattern(2 * BLOCK))));
    queue.prepare(request(Op::Read, object, 0, BLOCK, &arena)).unwrap();
    queue.prepare(request(Op::Read, object, BLOCK as u64, BLOCK, &arena)).unwrap();
    let (mut completions, start) = (Vec::new(), Instant::now());
    let deadline = Some(start + Duration::from_millis(50));
    let error = queue.wait(2, deadline, &mut completions).unwrap_err();
    assert!(matches!(error, Error::Deadline { in_flight: 1 }), "{error}");
    assert_eq!(completions[0].offset, BLOCK as u64);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_pipe_that_nobody_fills_meets_the_deadline_and_is_cancelled() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let arena = Arena::new(BLOCK, 1).unwrap();
    let Some(mut queue) = on(Engine::Uring, 1, Some(&arena)) else { return };
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(reader));
    let object = queue.add(Arc::new(Object::over(Path::new("a pipe"), file).unwrap()));
    let mut read = request(Op::Read, object, u64::MAX, BLOCK, &arena);
    read.tag = 7;
    queue.prepare(read).unwrap();
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let error = queue.wait(1, deadline, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Deadline { in_flight: 1 }), "{error}");
    drop(queue);
    assert_eq!(arena.idle(), 1, "a cancelled read holds its buffer");
}

#[test]
fn an_error_of_the_device_names_object_offset_and_attempts() {
    let arena = Arena::new(BLOCK, 1).unwrap();
    let mut queue = Queue::in_memory(1, Faults { error_at: Some(5000), ..Faults::default() });
    let object = queue.add(Arc::new(Object::in_memory("corpus/shard-7", pattern(2 * BLOCK))));
    queue.prepare(request(Op::Read, object, BLOCK as u64, BLOCK, &arena)).unwrap();
    let mut completions = Vec::new();
    queue.wait(1, soon(), &mut completions).unwrap();
    let error = completions.pop().unwrap().result.unwrap_err();
    assert_eq!(error.to_string(), "cannot read corpus/shard-7 at byte 4096, first attempt");
}

#[test]
fn a_direct_request_out_of_step_is_explained() {
    for_every_backend(|fixture, path| {
        let arena = fixture.arena(path, BLOCK, 1);
        let Some(mut queue) = fixture.queue(path, 1, &arena) else { return };
        let object = fixture.object(path, &pattern(2 * BLOCK), Access::Read);
        // Where the kernel reports no alignment it may also take any.
        if !object.direct().is_some_and(|needs| needs.reported) {
            return;
        }
        let id = queue.add(object);
        queue.prepare(request(Op::Read, id, 3, BLOCK, &arena)).unwrap();
        let mut completions = Vec::new();
        queue.wait(1, soon(), &mut completions).unwrap();
        let error = completions.pop().unwrap().result.unwrap_err();
        assert!(matches!(error, Error::Misaligned { offset: 3, .. }), "{error}");
    });
}

#[test]
fn the_ladder_says_which_step_won() {
    let arena = Arena::new(BLOCK, 1).unwrap();
    let queue = Queue::open(&Options { depth: 1, engine: Engine::Auto, arena: Some(arena) });
    let queue = queue.unwrap();
    let ladder = queue.ladder();
    assert!(matches!(ladder.won, Engine::Uring | Engine::Threads));
    assert!(ladder.steps.iter().any(|step| step.works), "{ladder:?}");
    let threads = on(Engine::Threads, 1, None).unwrap();
    assert_eq!(threads.ladder().summary(), "threads");
}
