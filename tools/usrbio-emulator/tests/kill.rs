//! SIGKILL of clients and of the daemon: nothing leaks, nothing hangs, no byte is wrong.
//!
//! `FOREBAY_KILLS=50` repeats each so often; tools/usrbio-emulator/kill-loop does that.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_store::{
    Access, Arena, Completion, Direct, Engine, Object, Op, Options, Queue, Request,
};
use usrbio_emulator::Emulator;

const BLOCK: usize = 16 << 10;
const BLOCKS: usize = 256;
/// Set where this binary is a client to be killed.
const CLIENT: &str = "FOREBAY_KILL_CLIENT";

fn kills() -> usize {
    std::env::var("FOREBAY_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4)
}

fn byte(at: usize) -> u8 {
    (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]
}

fn is_available() -> bool {
    if let Some(why) = usrbio_emulator::unavailable() {
        eprintln!("skipped: {why}");
        return false;
    }
    true
}

/// A directory to mount at, and one with the file that the emulator starts with.
fn home() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let (mount, files) = (home.path().join("mount"), home.path().join("files"));
    std::fs::create_dir(&mount).unwrap();
    std::fs::create_dir(&files).unwrap();
    let bytes: Vec<u8> = (0..BLOCK * BLOCKS).map(byte).collect();
    std::fs::write(files.join("data"), bytes).unwrap();
    (home, mount, files)
}

fn daemon(mount: &Path, files: &Path) -> Option<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usrbio-emulator"));
    command.arg(mount).arg("--preload").arg(files).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.starts_with("mounted") {
        return Some(child);
    }
    let _ = child.wait();
    eprintln!("skipped: the emulator cannot mount here");
    None
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Reads at random places until `over` says so; every byte is compared.
fn read(path: &Path, mut over: impl FnMut(usize) -> bool) {
    let arena = Arena::near(path, BLOCK, 32).unwrap();
    let options = Options { depth: 32, engine: Engine::Usrbio, arena: Some(arena.clone()) };
    let mut queue = Queue::open_near(path, &options).unwrap();
    let object = Arc::new(Object::open(path, Access::Read, Direct::Off).unwrap());
    let id = queue.add(object);
    let (mut next, mut done) = (7_usize, 0);
    let mut completions: Vec<Completion> = Vec::new();
    while !over(done) {
        while let Some(buffer) = arena.lend() {
            next = (next * 5 + 3) % BLOCKS;
            let offset = (next * BLOCK) as u64;
            let request =
                Request { tag: offset, op: Op::Read, object: id, offset, length: BLOCK, buffer };
            queue.prepare(request).unwrap();
        }
        let deadline = Some(Instant::now() + Duration::from_secs(45));
        queue.wait(1, deadline, &mut completions).unwrap();
        for one in completions.drain(..) {
            assert_eq!(one.result.unwrap(), BLOCK);
            let wrong = one.buffer[..BLOCK]
                .iter()
                .enumerate()
                .find(|(n, b)| **b != byte(one.offset as usize + n));
            assert_eq!(wrong, None, "at {}", one.offset);
            done += 1;
        }
    }
}

#[test]
fn a_daemon_that_is_killed_and_starts_again_is_met_again() {
    if !is_available() {
        return;
    }
    let (_home, mount, files) = home();
    let Some(mut child) = daemon(&mount, &files) else { return };
    let path = mount.join("data");
    let (mut lives, mut since) = (0, 0);
    let (wanted, start) = (kills(), Instant::now());
    read(&path, |done| {
        assert!(start.elapsed() < Duration::from_secs(30 * (wanted as u64 + 2)), "it hangs");
        // In the middle of things, each time.
        if lives < wanted && done >= since + 300 {
            child.kill().unwrap();
            child.wait().unwrap();
            let _ = Command::new("fusermount3").arg("-uz").arg(&mount).output();
            child = daemon(&mount, &files).expect("it could be mounted before");
            (lives, since) = (lives + 1, done);
        }
        lives == wanted && done >= since + 300
    });
    let _ = Command::new("fusermount3").arg("-uz").arg(&mount).output();
    kill(child);
    sweep_semaphores();
}

/// A killed daemon leaves its three semaphores, as that of 3FS does.
fn sweep_semaphores() {
    for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let about = entry.metadata();
        let old = about
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().is_ok_and(|e| e > Duration::from_secs(600)));
        if name.starts_with("sem.hf3fs-submit-ios.") && old {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What the next test kills. Alone it does nothing.
#[test]
fn client() {
    if let Some(path) = std::env::var_os(CLIENT) {
        println!("reading");
        read(Path::new(&path), |_| false);
    }
}

#[test]
fn a_client_that_is_killed_leaves_nothing() {
    if !is_available() {
        return;
    }
    let (_home, mount, files) = home();
    let options = usrbio_emulator::Options { preload: Some(files), ..Default::default() };
    let Ok(emulator) = Emulator::mount(&mount, &options) else {
        eprintln!("skipped: the emulator cannot mount here");
        return;
    };
    let mut names = Vec::new();
    for round in 0..kills() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "client", "--nocapture"]);
        command.env(CLIENT, mount.join("data")).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let start = Instant::now();
        // A buffer and a ring: from here on it reads.
        while emulator.entries().len() < 2 && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(2 + (round as u64 * 7) % 40));
        names.extend(shm_of(child.id()));
        kill(child);
        let start = Instant::now();
        while !emulator.entries().is_empty() {
            let left = emulator.entries();
            assert!(start.elapsed() < Duration::from_secs(20), "round {round}: {left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert!(!names.is_empty(), "no client had shared memory when it was killed");
    for name in names {
        assert!(!Path::new(&name).exists(), "{name} was left");
    }
}

/// Names of shared memory that a process has mapped, gone or not.
fn shm_of(pid: u32) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.split_once("/dev/shm/hf3fs-iov-"));
    paths
        .map(|(_, rest)| format!("/dev/shm/hf3fs-iov-{}", rest.split(' ').next().unwrap_or("")))
        .collect()
}
