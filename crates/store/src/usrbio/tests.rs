//! Through the emulator: what queues do not show.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use usrbio_emulator::Faults;

use super::{Mount, Ring, RingKind, control, is_3fs, mount_point, resolve};
use crate::conformance::emulate;
use crate::{
    Access, Arena, Completion, Direct, Engine, Error, Object, Op, Options, Pages, Queue, Request,
};

const READS: RingKind =
    RingKind { for_read: true, io_depth: 0, priority: 0, timeout_ms: 0, flags: 0 };

fn open(path: &Path, depth: usize, bytes: usize) -> (Queue, Arena) {
    let arena = Arena::near(path, bytes, depth).unwrap();
    let options = Options { depth, engine: Engine::Auto, arena: Some(arena.clone()) };
    (Queue::open_near(path, &options).unwrap(), arena)
}

/// One read of `length` bytes.
fn read(path: &Path, offset: u64, length: usize) -> crate::Result<Vec<u8>> {
    let (mut queue, arena) = open(path, 1, length);
    assert_eq!(queue.ladder().won, Engine::Usrbio);
    let object = queue.add(Arc::new(Object::open(path, Access::Read, Direct::Off)?));
    let mut buffer = arena.lend().unwrap();
    // What was there before must not pass for a hole.
    buffer.fill(0xee);
    let request = Request { tag: 0, op: Op::Read, object, offset, length, buffer };
    queue.prepare(request).unwrap();
    let mut done: Vec<Completion> = Vec::new();
    queue.wait(1, Some(Instant::now() + Duration::from_secs(20)), &mut done)?;
    let done = done.pop().unwrap();
    Ok(done.buffer[..done.result?].to_vec())
}

#[test]
fn a_path_on_a_3fs_is_known_by_itself_and_by_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "") else { return };
    let (root, file) = (emulator.path(), emulator.path().join("a/b"));
    fs::create_dir(root.join("a")).unwrap();
    fs::write(&file, b"hello").unwrap();
    assert!(
        is_3fs(&File::open(&file).unwrap()) && !is_3fs(&File::open("/proc/self/stat").unwrap())
    );
    assert_eq!(mount_point(&file).as_deref(), Some(root));
    assert_eq!(mount_point(&root.join("not/yet/there")).as_deref(), Some(root));
    assert_eq!(mount_point(Path::new("/proc")), None);
    let uri = format!("3fs://{}", file.display());
    assert_eq!(resolve(Path::new(&uri)).unwrap(), file);
    let found = control::cluster_id(&File::open(root).unwrap()).unwrap();
    assert_eq!(found, "emulator");
    let facts = control::mount_facts(&File::open(root).unwrap()).unwrap();
    assert_eq!(facts, (root.as_os_str().len() as u32, 1));
    assert_eq!(crate::File::open(&file).unwrap().read(1, 3).unwrap(), b"ell");
}

#[test]
fn the_end_of_a_file_and_a_hole_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "") else { return };
    let path = emulator.path().join("holes");
    // Bytes, a chunk that is not there, bytes, and a hole up to the end.
    let chunk = 1 << 20;
    let file = File::create(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 5000], 0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[2; 5000], 2 * chunk).unwrap();
    file.set_len(3 * chunk + 77).unwrap();
    drop(file);
    let expected = fs::read(&path).unwrap();
    for (offset, length) in [
        (0, 4 * chunk),
        (4000, 3000),
        (chunk, chunk),
        (2 * chunk + 4000, 2 * chunk),
        (3 * chunk, 4096),
    ] {
        let found = read(&path, offset, length as usize).unwrap();
        let end = expected.len().min((offset + length) as usize);
        assert!(found == expected[offset as usize..end], "{length} bytes from {offset}");
    }
    assert!(read(&path, 4 * chunk, 4096).unwrap().is_empty());
    emulator.set_faults(Faults { short_every: 2, ..Faults::default() });
    assert!(read(&path, 0, 4 * chunk as usize).unwrap() == expected);
}

#[test]
fn what_was_written_through_rings_has_its_length_after_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "") else { return };
    let path = emulator.path().join("new");
    let object = Arc::new(Object::open(&path, Access::Create, Direct::Off).unwrap());
    let (mut queue, arena) = open(&path, 4, 1 << 20);
    let id = queue.add(Arc::clone(&object));
    for n in 0..4_u64 {
        let mut buffer = arena.lend().unwrap();
        buffer.fill(n as u8 + 1);
        // Off the grain of chunks, so that each is cut in two.
        let (offset, length) = (n * 1_000_000, 1_000_000);
        queue
            .prepare(Request { tag: n, op: Op::Write, object: id, offset, length, buffer })
            .unwrap();
    }
    let mut done = Vec::new();
    queue.wait(4, Some(Instant::now() + Duration::from_secs(20)), &mut done).unwrap();
    assert!(done.iter().all(|d| matches!(d.result, Ok(1_000_000))), "{done:?}");
    object.sync().unwrap();
    assert_eq!(object.size_now(), 4_000_000);
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.iter().enumerate().all(|(at, &b)| b as usize == at / 1_000_000 + 1));
}

#[test]
fn an_error_of_the_daemon_is_that_of_its_transfer() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "") else { return };
    let path = emulator.path().join("a");
    fs::write(&path, [7; 4096]).unwrap();
    emulator.set_faults(Faults { error_every: 1, errno: libc::EREMOTEIO, ..Faults::default() });
    let error = read(&path, 0, 4096).unwrap_err();
    let Error::Transfer { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.raw_os_error(), Some(libc::EREMOTEIO));
}

#[test]
fn what_the_daemon_keeps_back_meets_the_deadline_and_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "hold") else { return };
    let path = emulator.path().join("a");
    fs::write(&path, [7; 8192]).unwrap();
    let (mut queue, arena) = open(&path, 2, 4096);
    let object = queue.add(Arc::new(Object::open(&path, Access::Read, Direct::Off).unwrap()));
    for n in 0..2 {
        let (offset, buffer) = (n * 4096, arena.lend().unwrap());
        queue
            .prepare(Request { tag: n, op: Op::Read, object, offset, length: 4096, buffer })
            .unwrap();
    }
    let (mut done, start) = (Vec::new(), Instant::now());
    let error = queue.wait(2, Some(start + Duration::from_millis(50)), &mut done).unwrap_err();
    assert!(matches!(error, Error::Deadline { in_flight: 2 }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
    emulator.set_faults(Faults::default());
    queue.wait(2, Some(Instant::now() + Duration::from_secs(20)), &mut done).unwrap();
    assert!(done.iter().all(|d| d.buffer[..4096] == [7; 4096]));
}

#[test]
fn indices_that_cannot_be_are_an_error_and_no_crash() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "garbage") else { return };
    let path = emulator.path().join("a");
    fs::write(&path, [7; 4096]).unwrap();
    let error = read(&path, 0, 4096).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("indices that cannot be"), "{source}");
}

#[test]
fn nothing_is_left_behind_by_those_that_go_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "") else { return };
    let path = emulator.path().join("a");
    fs::write(&path, [7; 4096]).unwrap();
    let (queue, arena) = open(&path, 300, 4096);
    assert_eq!(arena.pages(), Pages::Foreign);
    // A buffer, and two rings for that depth.
    assert_eq!(emulator.entries().len(), 3, "{:?}", emulator.entries());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mine = maps.lines().filter(|line| line.contains("/dev/shm/hf3fs-iov-"));
    assert!(mine.filter(|line| line.ends_with("(deleted)")).count() >= 3, "{maps}");
    drop((queue, arena));
    assert!(emulator.entries().is_empty(), "{:?}", emulator.entries());
}

#[test]
fn a_ring_that_the_daemon_refuses_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "") else { return };
    let mount = Mount::at(emulator.path()).unwrap();
    let error = Ring::create(&mount, 4, RingKind { io_depth: 5, ..READS }, None).unwrap_err();
    assert!(error.to_string().contains("register a ring"), "{error}");
    assert!(error.hint().unwrap().contains("doctor"), "{error}");
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(Mount::at(other.path()), Err(Error::ThreeFs { .. })));
    assert!(Mount::of(other.path()).unwrap().is_none());
    let options = Options { depth: 1, engine: Engine::Usrbio, arena: None };
    let error = Queue::open_near(other.path(), &options).unwrap_err();
    assert!(matches!(error, Error::Engine { engine: "usrbio", .. }), "{error}");
}

#[test]
fn files_are_linked_moved_punched_and_removed_by_ioctl() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "") else { return };
    let root = emulator.path();
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::write(root.join("a"), vec![1; 2 << 20]).unwrap();
    let open = |path: &str| File::options().read(true).open(root.join(path)).unwrap();
    let top = File::open(root).unwrap();
    control::hardlink(&open("a"), &File::open(root.join("d")).unwrap(), "b").unwrap();
    assert_eq!(
        fs::metadata(root.join("d/b")).unwrap().ino(),
        fs::metadata(root.join("a")).unwrap().ino()
    );
    assert_eq!(control::exact_length(&open("a")).unwrap(), 2 << 20);
    let bad = control::punch_holes(&open("a"), &[(1, 2)], 0).unwrap_err();
    assert_eq!(bad.raw_os_error(), Some(libc::EINVAL));
    control::punch_holes(&open("a"), &[(0, 1 << 20)], 0).unwrap();
    assert!(read(&root.join("a"), (1 << 20) - 1, 2).unwrap() == [0, 1]);
    control::rename((&top, "a"), (&File::open(root.join("d")).unwrap(), "c"), false).unwrap();
    control::remove(&File::open(root.join("d")).unwrap(), "b", false).unwrap();
    let left: Vec<_> =
        fs::read_dir(root.join("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["c", "e"]);
    control::remove_all(&File::open(root.join("d")).unwrap()).unwrap();
    assert_eq!(fs::read_dir(root.join("d")).unwrap().count(), 0);
    assert!(control::hardlink(&top, &top, &"x".repeat(255)).is_err(), "a name that does not fit");
}

#[test]
fn the_doctor_says_what_a_3fs_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "") else { return };
    let checks = super::examine(emulator.path());
    let fine = |name: &str| checks.iter().find(|c| c.name == name).unwrap().is_fine;
    assert!(fine("3FS mount") && fine("3FS rings"), "{checks:?}");
    assert!(checks.iter().any(|c| c.name == "3FS /dev/shm"));
    assert!(super::examine(Path::new("/proc")).is_empty());
}

/// How often this thread went to sleep by itself.
fn sleeps() -> u64 {
    let told = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_wait_sleeps_until_it_is_woken_and_not_in_slices() {
    let dir = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(dir.path(), "") else { return };
    let path = emulator.path().join("data");
    fs::write(&path, [7; 4096]).unwrap();
    let (mut queue, arena) = open(&path, 4, 4096);
    let object = Arc::new(Object::open(&path, Access::Read, Direct::Off).unwrap());
    let object = queue.add(object);
    emulator.set_faults(Faults { hold: true, ..Faults::default() });
    let buffer = arena.lend().unwrap();
    let request = Request { tag: 0, op: Op::Read, object, offset: 0, length: 4096, buffer };
    queue.prepare(request).unwrap();
    let mut done: Vec<Completion> = Vec::new();
    let before = sleeps();
    let _ = queue.wait(1, Some(Instant::now() + Duration::from_secs(1)), &mut done);
    // Four looks at a silent daemon, with a few sleeps each for its answer; slices of a
    // millisecond, as 3FS has them, would be a thousand.
    let slept = sleeps() - before;
    assert!(done.is_empty() && slept < 100, "{slept} sleeps in a second");

    let mount = Mount::at(emulator.path()).unwrap();
    let ring = Ring::create(&mount, 4, READS, None).unwrap();
    let before = sleeps();
    let deadline = Some(Instant::now() + Duration::from_secs(1));
    assert_eq!(ring.wait(1, 1, deadline, |_| {}).unwrap(), 0);
    let slept = sleeps() - before;
    assert!(slept < 100, "{slept} sleeps in a second");

    emulator.set_faults(Faults::default());
    queue.wait(1, Some(Instant::now() + Duration::from_secs(20)), &mut done).unwrap();
    assert_eq!(done.pop().unwrap().result.unwrap(), 4096);
}
