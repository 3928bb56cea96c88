//! `forebay fs` from outside: copies that die and go on, single failures, full disks.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Ran, binary, pseudo_random, ran, write};

fn here() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn fs_verb(verb: &str, paths: &[&Path], more: &[&str]) -> Ran {
    let mut command = binary();
    command.args(["fs", verb]).args(paths).args(more).stdin(Stdio::null());
    ran(&mut command)
}

fn random_bytes(length: usize, seed: u64) -> Vec<u8> {
    let words = (0..length.div_ceil(8) as u64).map(|n| pseudo_random(seed << 40 | n).to_le_bytes());
    let mut bytes: Vec<u8> = words.flatten().collect();
    bytes.truncate(length);
    bytes
}

fn tree(root: &Path) {
    for n in 0..200 {
        let length = pseudo_random(n) as usize % 20_000;
        write(root.join(format!("d{}/file{n}", n % 7)), random_bytes(length, n));
    }
    write(root.join("large"), random_bytes(11 << 20, 1));
}

fn same(a: &Path, b: &Path) {
    let diff = Command::new("diff").arg("-r").args([a, b]).output().unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
}

#[test]
fn a_copy_killed_at_any_instant_goes_on() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    tree(&from);
    for wait in [1, 5, 10, 20, 40, 80] {
        let mut command = binary();
        command.args(["fs", "cp"]).args([&from, &to]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        child.wait().unwrap();
    }
    fs_verb("cp", &[&from, &to], &["--verify"]).exits(0);
    same(&from, &to);
    let again = fs_verb("cp", &[&from, &to], &["--json"]).exits(0).json();
    assert_eq!((again["copied"].as_u64(), again["skipped"].as_u64()), (Some(0), Some(201)));
}

#[test]
fn sync_removes_what_the_source_has_not_and_cp_does_not() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    tree(&from);
    fs_verb("cp", &[&from, &to], &[]).exits(0);
    write(to.join("d1/foreign"), "x");
    fs_verb("cp", &[&from, &to], &[]).exits(0);
    assert!(to.join("d1/foreign").exists());
    let synced = fs_verb("sync", &[&from, &to], &["--json"]).exits(0).json();
    assert_eq!(synced["deleted"], 1);
    same(&from, &to);
}

#[test]
fn single_failures_are_listed_and_the_rest_is_copied() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    tree(&from);
    fs::create_dir_all(to.join("d3/file3/in the way")).unwrap();
    let copied = fs_verb("cp", &[&from, &to], &["--json"]).exits(1);
    assert!(copied.stderr.contains("failed: ") && copied.stderr.contains("file3"), "{copied:?}");
    assert_eq!(copied.json()["copied"], 200);
    assert_eq!(copied.json()["failures"].as_array().unwrap().len(), 1);
}

/// A file system of 8 MiB, unmounted when dropped.
struct Small(TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = here();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(dir.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        if !mounted {
            eprintln!("skipped: only root may mount a small file system");
        }
        mounted.then_some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_one_clear_error_for_each_file_and_more_room_lets_it_go_on() {
    let dir = here();
    let from = dir.path().join("from");
    tree(&from);
    let Some(full) = Small::mount() else { return };
    let to = full.0.path().join("to");
    let copied = fs_verb("cp", &[&from, &to], &[]).exits(1);
    let failures: Vec<_> = copied.stderr.lines().filter(|l| l.starts_with("failed: ")).collect();
    assert!(failures.iter().any(|l| l.contains("No space left on device")), "{copied:?}");
    assert!(!copied.stderr.contains("panicked"), "{copied:?}");
    let mut more = Command::new("mount");
    assert!(more.args(["-o", "remount,size=64m"]).arg(full.0.path()).status().unwrap().success());
    fs_verb("cp", &[&from, &to], &["--verify"]).exits(0);
    same(&from, &to);
}

#[test]
fn cat_gives_the_bytes_and_stops_when_nobody_listens() {
    let dir = here();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write(a.clone(), random_bytes(3_000_001, 1));
    write(b.clone(), b"end");
    let mut command = binary();
    let output = command.args(["fs", "cat"]).args([&a, &b]).output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == [fs::read(&a).unwrap(), b"end".to_vec()].concat());

    let mut child = binary().args(["fs", "cat"]).arg(&a).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert!(child.wait().unwrap().success());
    fs_verb("cat", &[&dir.path().join("missing")], &[]).complains(&["missing"]);
}

#[test]
fn rm_asks_for_recursive_before_it_takes_a_directory() {
    let dir = here();
    let from = dir.path().join("from");
    tree(&from);
    let refused = fs_verb("rm", &[&from], &[]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(from.join("large").exists());
    let removed = fs_verb("rm", &[&from], &["--recursive", "--json"]).exits(0).json();
    assert_eq!(removed["removed"], 201);
    assert!(!from.exists());
}

#[test]
fn ls_du_and_stat_agree_with_the_file_system() {
    let dir = here();
    let from = dir.path().join("from");
    tree(&from);
    let all = fs_verb("ls", &[&from], &["--recursive", "--json"]).exits(0).json();
    assert_eq!(all["entries"].as_array().unwrap().len(), 201 + 7);
    let top = fs_verb("ls", &[&from], &["--json"]).exits(0).json();
    let names: Vec<&str> =
        top["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "large"]);
    let used = fs_verb("du", &[&from], &["--json"]).exits(0).json();
    let expected: u64 = (0..200).map(|n| pseudo_random(n) % 20_000).sum::<u64>() + (11 << 20);
    assert_eq!((used["files"].as_u64(), used["bytes"].as_u64()), (Some(201), Some(expected)));
    let stat = fs_verb("stat", &[&from.join("large")], &["--layout", "--json"]).exits(0).json();
    assert_eq!(stat["size"], 11 << 20);
    assert!(stat["layout"]["block_bytes"].as_u64().unwrap() >= 512, "{stat}");
}

#[test]
fn the_doctor_looks_at_everything_and_advises() {
    let dir = here();
    let ran = fs_verb("doctor", &[dir.path(), Path::new("/dev/shm")], &["--json"]).exits(0);
    let checks = ran.json()["checks"].as_array().unwrap().clone();
    let names: Vec<&str> = checks.iter().map(|c| c["name"].as_str().unwrap()).collect();
    for name in ["kernel", "queue", "memory to pin", "open files", "huge pages", "CUDA", "3FS"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert_eq!(names.iter().filter(|n| n.starts_with("direct I/O in ")).count(), 2);
    for check in &checks {
        let advised = !check["advice"].as_str().unwrap().is_empty();
        assert_eq!(advised, !check["fine"].as_bool().unwrap(), "{check}");
    }
}

#[test]
fn a_source_that_is_missing_is_one_error() {
    let dir = here();
    let missing = PathBuf::from("/nowhere/at/all");
    let start = Instant::now();
    fs_verb("cp", &[&missing, dir.path()], &[]).complains(&["/nowhere/at/all"]);
    fs_verb("ls", &[&missing], &[]).complains(&["/nowhere/at/all"]);
    fs_verb("rm", &[&missing], &[]).complains(&["/nowhere/at/all"]);
    assert!(start.elapsed() < Duration::from_secs(60));
}
