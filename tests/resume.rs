//! Death at any instant: what is resumed equals what was never interrupted, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::*;

const MORE: [&str; 4] = ["--shard-size", "300KiB", "--threads", "2"];

fn command(input: &Path, out: &Path) -> Command {
    let mut command = binary();
    command.arg("prep").arg(input).arg("--out").arg(out).args(MORE);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn start(input: &Path, out: &Path) -> Child {
    command(input, out).spawn().unwrap()
}

/// What a run has committed when it is killed: the first file of this name is there.
const AIMS: [&str; 7] =
    ["plan", ".part", "read", "dedup", "shard-00000", "shard-00003", "shard-00006"];

/// Waits until `aim` is committed in the work directory, or the run ends.
fn wait_for(aim: &str, out: &Path, child: &mut Child) {
    let committed = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.any(|name| name.contains(aim) && !name.contains("tmp"))
    };
    let work = out.join(".work");
    while !committed(&work) && !committed(&work.join("spool")) {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// What tasks have left in an output, with numbers that a file made again does not keep.
fn committed(out: &Path) -> BTreeMap<String, u64> {
    let directories = [out.to_path_buf(), out.join(".work"), out.join(".work/spool")];
    let entries = directories.iter().flat_map(|d| fs::read_dir(d).into_iter().flatten().flatten());
    let named = entries.map(|entry| {
        let id = entry.metadata().map_or(0, |found| found.ino());
        (entry.file_name().to_string_lossy().into_owned(), id)
    });
    let ends = [".part", ".bin", ".done", ".parquet", "read.json"];
    named.filter(|(name, _)| ends.iter().any(|end| name.ends_with(end))).collect()
}

#[test]
fn twenty_four_kills_leave_no_trace() {
    let dir = temp();
    let whole = dir.path().join("whole");
    prep(&[&sample()], &whole, &MORE).exits(0);
    let expected = hashes(&whole);

    let (mut kills, mut resumed, mut round) = (0, 0, 0);
    let (mut made, mut again) = (0, 0);
    while kills < 24 {
        let out = dir.path().join(format!("killed-{round}"));
        let mut before = BTreeMap::new();
        let mut count = |before: &mut BTreeMap<String, u64>| {
            let now = committed(&out);
            again +=
                now.iter().filter(|(name, id)| before.get(*name).is_some_and(|b| b != *id)).count();
            made += now.keys().filter(|name| !before.contains_key(*name)).count();
            before.extend(now);
        };
        // Up to three deaths of one run, each a little after something was committed.
        for death in 0..3 {
            let random = pseudo_random(10 * round + death);
            let mut child = start(&sample(), &out);
            wait_for(AIMS[(random >> 32) as usize % AIMS.len()], &out, &mut child);
            std::thread::sleep(Duration::from_micros(random % 5_000));
            child.kill().unwrap();
            child.wait().unwrap();
            count(&mut before);
            kills += usize::from(!out.join("manifest.json").exists());
            if !out.join("manifest.json").exists() {
                assert!(!out.join("documents.idx").exists() || out.join(".work").exists());
            }
        }
        let ran = prep(&[&sample()], &out, &[&MORE[..], &["--json"]].concat()).exits(0);
        resumed += u64::from(ran.json()["resumed"] == true);
        count(&mut before);
        assert_eq!(hashes(&out), expected, "round {round}");
        fs::remove_dir_all(&out).unwrap();
        round += 1;
    }
    println!("{kills} kills: {again} of {made} files were made twice");
    assert!(10 * again <= made, "{again} of {made} were made twice");
    assert!(resumed > 3, "{resumed} of {round} rounds had something to resume");
}

/// Shards of several files are whole or made again, whichever of the files was there.
#[test]
fn kills_leave_no_trace_in_shards_of_several_files() {
    let dir = temp();
    let more = [&MORE[..], &["--format", "olmo"]].concat();
    let whole = dir.path().join("whole");
    prep(&[&sample()], &whole, &more).exits(0);
    let expected = hashes(&whole);
    let (mut resumed, mut round) = (0, 0);
    while resumed < 6 {
        assert!(round < 100, "never caught it between two shards");
        let out = dir.path().join(format!("killed-{round}"));
        let mut child = command(&sample(), &out).args(["--format", "olmo"]).spawn().unwrap();
        wait_for(["part-00000", "part-00002", "part-00005"][round % 3], &out, &mut child);
        std::thread::sleep(Duration::from_micros(pseudo_random(round as u64) % 3_000));
        child.kill().unwrap();
        child.wait().unwrap();
        if out.join("part-00000.csv.gz").exists() && round % 2 == 0 {
            fs::remove_file(out.join("part-00000.csv.gz")).unwrap();
        }
        if !out.join("manifest.json").exists() {
            // The format of shards that are there already cannot be changed.
            let work = out.join(".work");
            if fs::read_dir(&work).is_ok_and(|all| {
                all.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".done"))
            }) {
                resumed += 1;
                prep(&[&sample()], &out, &MORE).complains(&["unfinished run", "options"]);
            }
            prep(&[&sample()], &out, &more).exits(0);
            assert_eq!(hashes(&out), expected, "round {round}");
        }
        fs::remove_dir_all(out).unwrap();
        round += 1;
    }
    prep(&[&sample()], &whole, &MORE).complains(&["finished dataset"]);
}

/// Torn scratch files, as a power cut leaves them, are found out and made again.
#[test]
fn scratch_files_are_checked_before_they_are_believed() {
    let dir = temp();
    let whole = dir.path().join("whole");
    prep(&[&sample()], &whole, &MORE).exits(0);
    let expected = hashes(&whole);

    let out = dir.path().join("out");
    let work = out.join(".work");
    // Stop late: shards are there, the manifest is not.
    let mut rounds = 0;
    while !work.join("shard-00001.parquet.done").exists() {
        rounds += 1;
        assert!(rounds < 200, "never caught it between two shards");
        let _ = fs::remove_dir_all(&out);
        let mut child = start(&sample(), &out);
        while !work.join("shard-00001.parquet.done").exists() && child.try_wait().unwrap().is_none()
        {
            std::thread::sleep(Duration::from_micros(100));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let spoil = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(path, bytes).unwrap();
    };
    let state = dir.path().join("state");
    copy(&out, &state);
    let part = |out: &Path| {
        let mut parts: Vec<_> =
            fs::read_dir(out.join(".work/spool")).unwrap().map(|e| e.unwrap().path()).collect();
        parts.sort();
        parts[0].clone()
    };
    type Spoil<'a> = (&'a str, &'a dyn Fn(&Path));
    let cases: [Spoil<'_>; 6] = [
        ("part flipped", &|out| spoil(&part(out))),
        ("part cut", &|out| fs::write(part(out), "").unwrap()),
        ("dedup flipped", &|out| spoil(&out.join(".work/dedup.bin"))),
        ("shard record flipped", &|out| spoil(&out.join(".work/shard-00000.parquet.done"))),
        ("part gone", &|out| fs::remove_file(part(out)).unwrap()),
        ("shard gone", &|out| fs::remove_file(out.join("shard-00000.parquet")).unwrap()),
    ];
    for (name, spoil) in cases {
        let out = dir.path().join(name.replace(' ', "-"));
        copy(&state, &out);
        // The work directory names its spool by path.
        let plan = fs::read_to_string(out.join(".work/plan.json")).unwrap();
        let plan = plan.replace(dir.path().join("out").to_str().unwrap(), out.to_str().unwrap());
        fs::write(out.join(".work/plan.json"), plan).unwrap();
        spoil(&out);
        prep(&[&sample()], &out, &MORE).exits(0);
        assert_eq!(hashes(&out), expected, "{name}");
    }
}

#[test]
fn an_interrupt_is_answered_and_resumes() {
    let dir = temp();
    let input = dir.path().join("in.jsonl");
    // Large enough to be caught at work.
    let text: String = sample_documents().into_iter().map(|(_, text)| text).collect();
    let lines: String = (0..400)
        .map(|n| {
            line(
                &n.to_string(),
                &format!("{n} {}", text.chars().skip(n * 5_000).take(20_000).collect::<String>()),
            )
        })
        .collect();
    fs::write(&input, lines).unwrap();
    let whole = dir.path().join("whole");
    prep(&[&input], &whole, &MORE).exits(0);

    let out = dir.path().join("out");
    let mut child = command(&input, &out).stderr(Stdio::piped()).spawn().unwrap();
    while !out.join(".work/plan.json").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr}");
    assert!(stderr.contains("error: interrupted") && stderr.contains("resumes"), "{stderr}");
    prep(&[&input], &out, &MORE).exits(0);
    assert_eq!(hashes(&out), hashes(&whole));
}

#[test]
fn an_unfinished_run_resumes_only_for_the_same() {
    let dir = temp();
    let out = dir.path().join("out");
    let input = dir.path().join("in");
    copy(&sample(), &input);
    // An output that cannot be finished: a directory stands where the manifest goes.
    fs::create_dir_all(out.join(".work")).unwrap();
    fs::create_dir(out.join("documents.idx")).unwrap();
    prep(&[&input], &out, &MORE).exits(1);
    assert!(out.join(".work/dedup.bin").exists());

    prep(&[&input], &out, &["--seed", "3"]).complains(&["unfinished run", "options"]);
    prep(&[&input], &out, &["--keep-text"]).complains(&["unfinished run", "options"]);
    forebay(["dedup", input.to_str().unwrap(), "--out", out.to_str().unwrap()])
        .complains(&["verb"]);
    let prose = input.join("prose.jsonl");
    let before = fs::read(&prose).unwrap();
    fs::write(&prose, [&before[..], line("new", "a line more").as_bytes()].concat()).unwrap();
    prep(&[&input], &out, &MORE).complains(&["inputs", "changed since"]);
    fs::remove_dir(out.join("documents.idx")).unwrap();
    let fresh =
        prep(&[&input], &out, &[&MORE[..], &["--fresh", "--json"]].concat()).exits(0).json();
    assert_eq!(fresh["resumed"], false);
    assert_eq!(fresh["counts"]["read"], 514);
}

/// A mistake found out early costs nothing: what is done is used with the corrected options.
#[test]
fn what_is_not_done_yet_may_still_be_changed() {
    let dir = temp();
    let (out, whole) = (dir.path().join("out"), dir.path().join("whole"));
    let input = dir.path().join("in");
    copy(&sample(), &input);
    write(input.join("zz.jsonl"), "{\"text\":\"the last line is torn");
    prep(&[&input], &out, &["--eos", "<no such>"]).exits(1);
    prep(&[&input], &out, &[]).complains(&["zz.jsonl"]);
    assert!(!out.join("manifest.json").exists());
    let more = ["--on-error", "skip", "--shard-size", "1MiB", "--json"];
    prep(&[&input], &out, &more).exits(3);
    prep(&[&input], &whole, &more).exits(3);
    assert_eq!(hashes(&out), hashes(&whole));

    // Nothing was read before the mistake: the corrected input is taken.
    let (out, input) = (dir.path().join("single"), dir.path().join("single.jsonl"));
    write(input.clone(), "{}");
    prep(&[&input], &out, &[]).complains(&["single.jsonl"]);
    write(input.clone(), line("a", "mended"));
    prep(&[&input], &out, &[]).exits(0);
}

#[test]
fn two_runs_do_not_write_to_one_place() {
    let dir = temp();
    let out = dir.path().join("out");
    fs::create_dir_all(out.join(".work")).unwrap();
    let lock = fs::File::create(out.join(".work/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    prep(&[&sample()], &out, &[]).complains(&["in use by another process"]);
    // What a run leaves there tells who it is.
    fs::write(out.join(".work/lock"), "process 7 on elsewhere\n").unwrap();
    let ran = prep(&[&sample()], &out, &[]).exits(1);
    assert!(ran.stderr.contains("in use by process 7 on elsewhere"), "{ran:?}");
    assert!(ran.stderr.contains("if its machine is gone"), "{ran:?}");
    // A server that keeps the lock of a machine that is gone: the hint says how to go on.
    let file = out.join(".work/lock");
    assert!(ran.stderr.contains(&format!("delete {}", file.display())), "{ran:?}");
    fs::remove_file(file).unwrap();
    prep(&[&sample()], &out, &[]).exits(0);
    drop(lock);
}
