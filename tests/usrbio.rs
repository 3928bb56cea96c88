//! A 3FS, as the emulator has it: the same batches, files and answers as from a disk.

use std::path::Path;

use usrbio_emulator::{Emulator, Options};

use crate::support::*;

/// What `files` holds, on a 3FS at `mount`; `None`, and a word about it, where none can be.
fn emulate(mount: &Path, files: &Path) -> Option<Emulator> {
    if let Some(why) = usrbio_emulator::unavailable() {
        eprintln!("skipped: {why}");
        return None;
    }
    let options = Options { preload: Some(files.to_path_buf()), ..Default::default() };
    match Emulator::mount(mount, &options) {
        Ok(emulator) => Some(emulator),
        Err(e) => {
            eprintln!("skipped: cannot mount: {e}");
            None
        }
    }
}

#[test]
fn batches_from_a_3fs_are_those_from_a_disk() {
    let dir = temp();
    let Some(emulator) = emulate(dir.path(), prepared()) else { return };
    let uri = format!("3fs://{}", emulator.path().display());
    let load = |from: &str| {
        let words =
            ["load", from, "--seq-len", "128", "--batch-size", "3", "--print", "40", "--seed", "5"];
        let told = forebay(words).exits(0).stdout;
        // The other lines tell how fast.
        told.lines().filter(|line| line.starts_with("sample ")).collect::<Vec<_>>().join("\n")
    };
    let (local, remote) = (load(prepared().to_str().unwrap()), load(&uri));
    assert!(local.len() > 1000 && local == remote, "{local}\n{remote}");
    // The daemon hears of the end of a process a moment later.
    let start = std::time::Instant::now();
    while !emulator.entries().is_empty() && start.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(emulator.entries().is_empty(), "{:?}", emulator.entries());
    let named = forebay([
        "load",
        "3fs://emulator",
        "--seq-len",
        "128",
        "--batch-size",
        "3",
        "--print",
        "1",
    ]);
    // Another test may have mounted a cluster of that name later, and unmounted it since.
    assert!(named.code == 0 || named.stderr.contains("3fs://emulator"), "{}", named.stderr);
}

#[test]
fn files_on_a_3fs_are_listed_copied_and_removed_by_their_uris() {
    let (dir, files, out) = (temp(), temp(), temp());
    std::fs::create_dir(files.path().join("d")).unwrap();
    std::fs::write(files.path().join("d/a"), vec![7; 3_000_000]).unwrap();
    let Some(emulator) = emulate(dir.path(), files.path()) else { return };
    let uri = |below: &str| format!("3fs://{}/{below}", emulator.path().display());
    let told = forebay(["fs", "ls", &uri("d"), "--json"]).exits(0).json();
    assert_eq!(told["entries"][0]["path"], "a");
    assert_eq!(told["entries"][0]["size"], 3_000_000);
    assert_eq!(forebay(["fs", "cat", &uri("d/a")]).exits(0).stdout.len(), 3_000_000);
    let copied = out.path().join("a");
    forebay(["fs", "cp", &uri("d/a"), copied.to_str().unwrap()]).exits(0);
    assert!(std::fs::read(&copied).unwrap() == vec![7; 3_000_000]);
    forebay(["fs", "cp", copied.to_str().unwrap(), &uri("b")]).exits(0);
    assert!(std::fs::read(emulator.path().join("b")).unwrap() == vec![7; 3_000_000]);
    forebay(["fs", "rm", &uri("b")]).exits(0);
    assert!(!emulator.path().join("b").exists());
    let wrong = forebay(["fs", "ls", "3fs:///proc/self"]).exits(1);
    assert!(wrong.stderr.contains("hint:"), "{}", wrong.stderr);
}

#[test]
fn a_benchmark_takes_the_rings_and_says_so() {
    let (dir, files) = (temp(), temp());
    let Some(emulator) = emulate(dir.path(), files.path()) else { return };
    let path = emulator.path().to_str().unwrap();
    let words = [
        "bench",
        "storage",
        path,
        "random",
        "--engine",
        "usrbio",
        "--block-size",
        "64KiB",
        "--once",
        "--verify",
        "--size",
        "8MiB",
        "--repeats",
        "1",
        "--warm-up",
        "0",
        "--json",
    ];
    let result = forebay(words).exits(0).json()["results"][0].clone();
    assert_eq!(result["path"]["engine"], "usrbio");
    assert!(result["iops"]["median"].as_f64().unwrap() > 0.0);
    let nowhere = files.path().to_str().unwrap();
    let wrong =
        forebay(["bench", "storage", nowhere, "--engine", "usrbio", "--size", "1MiB"]).exits(1);
    assert!(wrong.stderr.contains("usrbio"), "{}", wrong.stderr);
}

#[test]
fn the_doctor_examines_a_3fs() {
    let (dir, files) = (temp(), temp());
    let Some(emulator) = emulate(dir.path(), files.path()) else { return };
    let told =
        forebay(["fs", "doctor", emulator.path().to_str().unwrap(), "--json"]).exits(0).json();
    let checks = told["checks"].as_array().unwrap();
    let rings = checks.iter().find(|check| check["name"] == "3FS rings").unwrap();
    assert_eq!(rings["fine"], true, "{rings}");
    assert!(told["orphans"].is_array());
}
