//! Trees of real files: copied whole, resumed after a death, on past what fails.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::copy::{Options, Summary, copy};
use super::remove::remove;
use super::walk::{Kind, walk};
use super::{Tally, large};
use crate::Error;

const PLAIN: Options = Options { threads: 4, verify: false, delete: false, checksum: false };
const CHECKED: Options = Options { verify: true, ..PLAIN };

fn here() -> tempfile::TempDir {
    // Beside the sources, not in the system's temporary folder: a tmpfs has no direct I/O.
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

/// Files of every kind that a copy treats differently.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("nothing"), b"").unwrap();
    fs::write(root.join("a/small"), bytes(1000, 1)).unwrap();
    fs::write(root.join("a/b/large"), bytes(9_000_001, 2)).unwrap();
    fs::write(root.join("a/script"), b"#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("a/script"), fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink("a/small", root.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("broken")).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(root.join("a/small")).unwrap().set_modified(old).unwrap();
}

/// The oracle: names, contents, times and modes, read one by one.
fn picture(root: &Path) -> BTreeMap<PathBuf, (String, Vec<u8>, u32, SystemTime)> {
    let mut picture = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_path_buf();
            let fixed = SystemTime::UNIX_EPOCH;
            let seen = if found.is_dir() {
                open.push(path);
                ("directory".into(), Vec::new(), 0, fixed)
            } else if found.is_symlink() {
                (fs::read_link(&path).unwrap().display().to_string(), Vec::new(), 0, fixed)
            } else {
                let mode = found.permissions().mode();
                ("file".into(), fs::read(&path).unwrap(), mode, found.modified().unwrap())
            };
            picture.insert(name, seen);
        }
    }
    picture
}

fn run(from: &Path, to: &Path, options: Options) -> (Summary, Vec<super::Failure>) {
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let summary = copy(from, to, options, &tally, &stop).unwrap();
    (summary, tally.take_failures())
}

#[test]
fn a_copy_is_its_source_and_a_second_one_has_nothing_to_do() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("deep/to"));
    tree(&from);
    let (summary, failures) = run(&from, &to, CHECKED);
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!((summary.copied, summary.skipped, summary.verified), (6, 0, 4));
    assert_eq!(picture(&from), picture(&to));
    let (summary, _) = run(&from, &to, PLAIN);
    assert_eq!((summary.copied, summary.skipped), (0, 6));
    let (summary, _) = run(&from, &to, Options { checksum: true, ..PLAIN });
    assert_eq!((summary.copied, summary.skipped), (0, 6));
}

#[test]
fn what_changed_is_copied_and_what_is_gone_is_deleted_when_asked() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    tree(&from);
    run(&from, &to, PLAIN);
    fs::write(from.join("a/small"), bytes(1000, 9)).unwrap();
    fs::remove_dir_all(from.join("a/b")).unwrap();
    fs::write(to.join("foreign"), b"x").unwrap();
    let (summary, _) = run(&from, &to, PLAIN);
    assert_eq!((summary.copied, summary.deleted), (1, 0));
    assert!(to.join("foreign").exists() && to.join("a/b/large").exists());
    let (summary, failures) = run(&from, &to, Options { delete: true, ..PLAIN });
    assert_eq!((summary.copied, summary.deleted, failures.len()), (0, 3, 0));
    assert_eq!(picture(&from), picture(&to));
}

#[test]
fn contents_that_changed_behind_an_old_time_are_found_by_checksum_alone() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    tree(&from);
    run(&from, &to, PLAIN);
    let time = fs::metadata(to.join("a/small")).unwrap().modified().unwrap();
    fs::write(to.join("a/small"), bytes(1000, 77)).unwrap();
    fs::File::options().write(true).open(to.join("a/small")).unwrap().set_modified(time).unwrap();
    assert_eq!(run(&from, &to, PLAIN).0.copied, 0);
    assert_eq!(run(&from, &to, Options { checksum: true, ..PLAIN }).0.copied, 1);
    assert_eq!(picture(&from), picture(&to));
}

#[test]
fn one_bad_file_does_not_stop_the_others_and_is_named() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    tree(&from);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        from.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    // A directory stands where a file should go.
    fs::create_dir_all(to.join("a/small/in the way")).unwrap();
    let (summary, failures) = run(&from, &to, PLAIN);
    let names: Vec<_> = failures.iter().map(|f| f.path.strip_prefix(&from).unwrap()).collect();
    assert_eq!(names, [Path::new("a/small"), Path::new("pipe")]);
    assert_eq!(summary.copied, 5);
}

#[test]
fn a_single_file_goes_into_a_directory_or_to_a_name() {
    let dir = here();
    let from = dir.path().join("one");
    fs::write(&from, b"1").unwrap();
    fs::create_dir(dir.path().join("into")).unwrap();
    run(&from, &dir.path().join("into"), PLAIN);
    run(&from, &dir.path().join("named/two"), CHECKED);
    assert_eq!(fs::read(dir.path().join("into/one")).unwrap(), b"1");
    assert_eq!(fs::read(dir.path().join("named/two")).unwrap(), b"1");
}

#[test]
fn a_tree_is_not_copied_into_itself() {
    let dir = here();
    let from = dir.path().join("from");
    tree(&from);
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let to = from.join("a/new/place");
    let error = copy(&from, &to, PLAIN, &tally, &stop).unwrap_err();
    assert!(matches!(error, Error::Inside { .. }), "{error}");
    assert!(!to.exists());
}

#[test]
fn a_large_file_goes_on_at_its_mark_and_not_at_the_mark_of_another() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let content = bytes(9 * large::PART + 5, 3);
    fs::write(&from, &content).unwrap();
    let entry = super::walk::Entry::of(&from).unwrap();
    let temporary = large::temporary(&to);
    // A copy that died after four parts; they hold a sign that tells whether they were kept.
    let mut half = vec![b'k'; 4 * large::PART];
    half.resize(content.len(), 0);
    fs::write(&temporary, &half).unwrap();
    let mark = |size: u64| {
        let line = format!("{size} {} {}\n", entry.modified, 4 * large::PART);
        fs::write(large::mark(&temporary), line).unwrap();
    };
    mark(entry.size);
    assert_eq!(run(&from, &to, PLAIN).1.len(), 0);
    let found = fs::read(&to).unwrap();
    assert!(found[..4 * large::PART].iter().all(|&b| b == b'k'), "it began again");
    assert!(found[4 * large::PART..] == content[4 * large::PART..]);
    // The mark of another source is not believed.
    fs::remove_file(&to).unwrap();
    fs::write(&temporary, &half).unwrap();
    mark(entry.size + 1);
    run(&from, &to, PLAIN);
    assert!(fs::read(&to).unwrap() == content);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "marks stayed behind");
}

#[test]
fn verify_finds_what_an_interrupted_copy_left_wrong() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, bytes(3 * large::PART, 3)).unwrap();
    let entry = super::walk::Entry::of(&from).unwrap();
    let temporary = large::temporary(&to);
    fs::write(&temporary, vec![0; 3 * large::PART]).unwrap();
    let line = format!("{} {} {}\n", entry.size, entry.modified, large::PART);
    fs::write(large::mark(&temporary), line).unwrap();
    let (summary, failures) = run(&from, &to, CHECKED);
    assert_eq!(summary.verified, 0);
    assert!(matches!(failures[0].error, Error::Differs { offset: 0, .. }), "{failures:?}");
}

#[test]
fn a_copy_that_is_stopped_goes_on_where_it_was() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    tree(&from);
    let (tally, stop) = (Tally::default(), AtomicBool::new(true));
    let summary = copy(&from, &to, PLAIN, &tally, &stop).unwrap();
    assert!(summary.stopped && summary.copied == 0);
    stop.store(false, Ordering::Relaxed);
    let summary = copy(&from, &to, PLAIN, &tally, &stop).unwrap();
    assert_eq!((summary.stopped, summary.copied), (false, 6));
    assert_eq!(picture(&from), picture(&to));
}

#[test]
fn parts_of_a_killed_copy_are_gone_on_with_and_no_failure_of_a_deleting_one() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    tree(&from);
    fs::create_dir_all(to.join("a/b")).unwrap();
    fs::write(large::temporary(&to.join("a/b/large")), bytes(100, 1)).unwrap();
    fs::write(large::temporary(&to.join("a/b/gone")), bytes(100, 1)).unwrap();
    let (summary, failures) = run(&from, &to, Options { delete: true, ..CHECKED });
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!((summary.copied, summary.deleted), (6, 1));
    assert_eq!(picture(&from), picture(&to));
}

#[test]
fn many_names_in_one_directory_are_shared_by_all_threads_and_all_arrive() {
    let dir = here();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    for n in 0..1000_u32 {
        fs::write(from.join(format!("file {n}")), n.to_le_bytes()).unwrap();
    }
    let (summary, failures) = run(&from, &to, CHECKED);
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!((summary.copied, summary.verified), (1000, 1000));
    assert_eq!(picture(&from), picture(&to));
}

#[test]
fn a_tree_is_removed_with_its_links_but_not_what_they_lead_to() {
    let dir = here();
    let (from, outside) = (dir.path().join("from"), dir.path().join("outside"));
    tree(&from);
    fs::write(&outside, b"stays").unwrap();
    std::os::unix::fs::symlink(&outside, from.join("way out")).unwrap();
    let tally = Tally::default();
    remove(&from, 4, &tally).unwrap();
    assert!(tally.take_failures().is_empty());
    assert!(!from.exists() && outside.exists());
    assert_eq!(tally.files.load(Ordering::Relaxed), 7);
}

#[test]
fn a_walk_is_sorted_and_knows_kinds() {
    let dir = here();
    let from = dir.path().join("from");
    tree(&from);
    let entries = walk(&from, 4, &Tally::default()).unwrap();
    let names: Vec<PathBuf> = entries.iter().map(|e| e.path.clone()).collect();
    assert_eq!(names, picture(&from).into_keys().collect::<Vec<_>>());
    let kind = |name: &str| entries.iter().find(|e| e.path == Path::new(name)).unwrap().kind;
    assert_eq!(
        (kind("a"), kind("link"), kind("a/small")),
        (Kind::Directory, Kind::Link, Kind::File)
    );
}
