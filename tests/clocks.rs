//! Clocks of machines differ, by years if nobody looks after them: nothing may depend on that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::*;

const YEAR: u64 = 31_556_952;
/// 1971 and 2099.
const YEARS: [u64; 2] = [YEAR, 129 * YEAR];

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// Every file and directory below, each of another machine's clock than the one before.
fn skew(directory: &Path, turn: usize) {
    for (number, entry) in fs::read_dir(directory).into_iter().flatten().enumerate() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            skew(&path, turn + number);
        }
        set_time(&path, YEARS[(turn + number) % 2]);
    }
}

fn recipe(dir: &Path) -> PathBuf {
    copy(&sample(), &dir.join("in"));
    skew(&dir.join("in"), 0);
    let text = "[input]\npaths = ['in']\n[dedup]\n[tokenize]\n[shuffle]\n\
                [output]\npath = 'out'\nshard_size = '1MiB'\n";
    write(dir.join("recipe.toml"), text)
}

fn status(recipe: &Path) -> serde_json::Value {
    forebay(["run", recipe.to_str().unwrap(), "--status", "--json"]).exits(0).json()
}

#[test]
fn tasks_of_machines_whose_clocks_are_years_apart_make_the_same_bytes() {
    let dir = temp();
    let recipe = recipe(dir.path());
    let out = dir.path().join("out");
    let stages = [
        ("read", 2),
        ("exact", 2),
        ("link", 3),
        ("thin", 2),
        ("group", 0),
        ("place", 2),
        ("compare", 3),
        ("find", 0),
        ("write", 2),
        ("finish", 0),
    ];
    let mut turn = 0;
    for (stage, shares) in stages {
        for number in 0..shares.max(1) {
            let share = format!("{number}/{}", shares.max(1));
            let label = if matches!(stage, "find" | "finish") {
                stage.to_owned()
            } else {
                format!("{stage} {share}")
            };
            let args =
                ["task", recipe.to_str().unwrap(), stage, "--share", &share, "--threads", "1"];
            let task = || forebay(args);
            task().exits(0);
            if stage != "finish" {
                // A word of a failure on a machine that is ahead of all others.
                let failed =
                    format!(r#"{{"task":"{label}","error":"e","host":"h","at":{}}}"#, u64::MAX);
                let file = out.join(format!(".work/{}.failed", label.replace([' ', '/'], "-")));
                write(file, failed);
            }
            turn += 1;
            skew(&out, turn);
            let found = status(&recipe);
            if stage != "finish" {
                assert_eq!(found["state"], "unfinished", "{found}");
                assert_eq!(found["failed"].as_array().unwrap().len(), 1, "{found}");
                assert_eq!(
                    (&found["running"], &found["lost"]),
                    (&false.into(), &serde_json::json!([]))
                );
                for what in ["seconds_left", "bytes_per_second"] {
                    assert!(found[what].is_null(), "nobody is at it: {found}");
                }
                let took = found["stages"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|stage| stage["seconds"].as_f64().unwrap());
                assert!(
                    took.clone().count() > 0
                        && took.clone().all(|took| (0.0..600.0).contains(&took)),
                    "{found}"
                );
                // Done already: it ends at once, and the word of its failure goes.
                task().exits(0);
            }
        }
    }
    assert_eq!(status(&recipe)["state"], "finished");
    forebay(["run", recipe.to_str().unwrap(), "--set", "output.path=one"]).exits(0);
    assert_eq!(hashes(&out), hashes(&dir.path().join("one")));

    // Inputs that seem to be written in a hundred years: the dataset is theirs all the same.
    let again = || forebay(["run", recipe.to_str().unwrap(), "--json"]);
    assert_eq!(again().exits(0).json()["already"], true);
    skew(&out, 1);
    assert_eq!(again().exits(0).json()["already"], true);
    // Another one that seems to be older than the dataset is another one.
    let input = fs::read_dir(dir.path().join("in")).unwrap().next().unwrap().unwrap().path();
    set_time(&input, 2 * YEAR);
    again().complains(&["an input has changed since"]);
}

/// Starts a run and stops it in the middle of its work.
fn stopped(recipe: &Path, work: &Path) -> (Child, PathBuf) {
    let mut command = binary();
    command
        .arg("run")
        .arg(recipe)
        .args(["--threads", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    loop {
        let entries = fs::read_dir(work).into_iter().flatten().flatten();
        let mut running = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "running"));
        // It has said where it is.
        if let Some(file) =
            running.find(|file| fs::read_to_string(file).is_ok_and(|text| text.contains("legs")))
        {
            kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
            return (child, file);
        }
        assert!(child.try_wait().unwrap().is_none(), "it was through before it could be stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn who_is_at_work_is_told_by_a_lock_and_not_by_the_age_of_a_file() {
    let dir = temp();
    let recipe = recipe(dir.path());
    let (out, work) = (dir.path().join("out"), dir.path().join("out/.work"));
    // More than is done before it says that it is at work.
    let documents = sample_documents();
    let lines = (0..8).flat_map(|copy| {
        let numbered = (0..).zip(&documents);
        numbered.map(move |(n, (_, text))| line(&format!("{copy}-{n}"), &format!("{copy} {text}")))
    });
    write(dir.path().join("in/more.jsonl"), lines.collect::<String>());
    let (mut child, file) = stopped(&recipe, &work);
    for year in YEARS {
        set_time(&file, year);
        set_time(&work.join("lock"), year);
        let found = status(&recipe);
        assert_eq!(
            (&found["running"], &found["at_work"][0]["task"]),
            (&true.into(), &"run".into()),
            "{found}"
        );
        assert_eq!(found["at_work"][0]["process"], child.id(), "{found}");
        // Refused, however old the lock is.
        forebay(["run", recipe.to_str().unwrap()])
            .complains(&["in use by process", &child.id().to_string()]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for year in YEARS {
        set_time(&file, year);
        let found = status(&recipe);
        assert_eq!(
            (&found["running"], &found["lost"][0]["task"]),
            (&false.into(), &"run".into()),
            "{found}"
        );
    }
    assert_eq!(
        status(&recipe)["failed"],
        serde_json::json!([]),
        "those that were refused did not fail"
    );
    let text = forebay(["run", recipe.to_str().unwrap(), "--status"]).exits(0).stdout;
    assert!(
        text.contains("stopped; the same command resumes it") && text.contains("died at"),
        "{text}"
    );
    forebay(["run", recipe.to_str().unwrap()]).exits(0);
    forebay(["run", recipe.to_str().unwrap(), "--set", "output.path=one"]).exits(0);
    assert_eq!(hashes(&out), hashes(&dir.path().join("one")));
}
