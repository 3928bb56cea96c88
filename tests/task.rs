//! Tasks as a cluster runs them: each a process, in any number, killed and repeated.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::*;

/// What `prepared()` is made with.
fn recipe(dir: &Path) -> PathBuf {
    let text = format!(
        "[input]\npaths = ['{}']\n[dedup]\n[tokenize]\n[shuffle]\nseed = 7\n\
         [output]\npath = 'out'\nshard_size = '1MiB'\nkeep_text = true\n",
        sample().display()
    );
    write(dir.join("recipe.toml"), text)
}

fn command(recipe: &Path, stage: &str, share: &str) -> Command {
    let mut command = binary();
    command.arg("task").arg(recipe).args([stage, "--threads", "1"]);
    if !share.is_empty() {
        command.args(["--share", share]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn task(recipe: &Path, stage: &str, share: &str) -> Ran {
    let mut command = command(recipe, stage, share);
    ran(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// All at once.
fn together(recipe: &Path, stage: &str, shares: &[&str]) {
    let children: Vec<Child> =
        shares.iter().map(|share| command(recipe, stage, share).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success(), "{stage}");
    }
}

#[test]
fn tasks_make_the_bytes_of_one_machine_also_when_done_twice() {
    let dir = temp();
    let recipe = recipe(dir.path());
    together(&recipe, "read", &["2/3", "0/3", "1/3", "1/3"]);
    task(&recipe, "read", "0/3").exits(0);
    task(&recipe, "find", "").exits(0);
    together(&recipe, "write", &["1/2", "1/2", "0/2"]);
    task(&recipe, "finish", "").exits(0);
    assert_eq!(hashes(&dir.path().join("out")), hashes(prepared()));
    // Late copies find that all is done.
    task(&recipe, "write", "0/2").exits(0);
    task(&recipe, "finish", "").exits(0);
    assert_eq!(hashes(&dir.path().join("out")), hashes(prepared()));
}

/// All tasks of a run whose search for duplicates is done in rounds.
fn in_rounds(recipe: &Path, rounds: &[&str]) {
    together(recipe, "read", &["1/2", "0/2"]);
    for round in rounds {
        match *round {
            "group" => together(recipe, round, &["0/1"]),
            _ => together(recipe, round, &["0/5", "3/5", "1/5", "4/5", "2/5", "2/5"]),
        }
    }
    task(recipe, "find", "").exits(0);
    together(recipe, "write", &["1/2", "0/2"]);
    task(recipe, "finish", "").exits(0);
}

#[test]
fn rounds_find_what_one_machine_finds() {
    let cases = [
        ("", &["exact", "link", "thin", "group", "place", "compare"][..]),
        ("verify = false", &["exact", "link", "thin", "group"]),
        ("exact = false\nkeep = 'first'", &["link", "thin", "group", "place", "compare"]),
        ("fuzzy = false\nurl_field = 'url'", &["exact", "url"]),
        (
            "url_field = 'url'\nmin_tokens = 50",
            &["exact", "url", "link", "thin", "group", "place", "compare"],
        ),
    ];
    for (options, rounds) in cases {
        let dir = temp();
        // Two files, since each is read by one task.
        for (file, documents) in ["a.jsonl", "b.jsonl"].iter().zip(sample_documents().chunks(260)) {
            let lines = documents.iter().zip(0..).map(|((_, text), number)| {
                let url = format!("https://example.org/{}", number % 199);
                serde_json::json!({ "text": text, "url": url }).to_string() + "\n"
            });
            write(dir.path().join(file), lines.collect::<String>());
        }
        let text = format!(
            "[input]\npaths = ['a.jsonl', 'b.jsonl']\n[dedup]\n{options}\n[shuffle]\n\
             [output]\npath = 'out'\n[execution]\nmemory = '1MiB'\n"
        );
        let recipe = write(dir.path().join("recipe.toml"), text);
        in_rounds(&recipe, rounds);
        let one = dir.path().join("one");
        let set = format!("output.path={}", one.display());
        forebay(["run", recipe.to_str().unwrap(), "--set", &set]).exits(0);
        assert_eq!(hashes(&dir.path().join("out")), hashes(&one), "{options}");
        let counts = &manifest(&one)["counts"];
        let dropped = ["exact", "url", "fuzzy"].map(|what| counts[what].as_u64().unwrap());
        assert!(dropped.iter().sum::<u64>() > 50, "{options}: {counts}");
    }
}

#[test]
fn a_round_before_its_time_is_told_what_is_missing() {
    let dir = temp();
    let recipe = recipe(dir.path());
    task(&recipe, "read", "").exits(0);
    task(&recipe, "exact", "0/2").exits(0);
    let status = forebay(["run", recipe.to_str().unwrap(), "--status", "--json"]).exits(0).json();
    assert_eq!((&status["stage"], &status["tasks_done"]), (&"exact".into(), &1.into()));
    assert_eq!(status["tasks"], 2);
    task(&recipe, "link", "0/2").complains(&["all tasks of `exact`", "found 1 of 2"]);
    let status = forebay(["run", recipe.to_str().unwrap(), "--status", "--json"]).exits(0).json();
    assert_eq!(status["failed"][0]["task"], "link 0/2", "{status}");
    task(&recipe, "find", "").complains(&["all tasks of `exact`"]);
    task(&recipe, "exact", "1/2").exits(0);
    task(&recipe, "url", "0/2").exits(2);
    task(&recipe, "compare", "1/2").complains(&["all tasks of `place`"]);
    together(&recipe, "link", &["0/1"]);
    let status = forebay(["run", recipe.to_str().unwrap(), "--status", "--json"]).exits(0).json();
    assert_eq!(status["stage"], "link", "{status}");
    // What a machine tore is named, and done again once it is gone.
    let torn = dir.path().join("out/.work/link-0-of-1.bin");
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() - 1]).unwrap();
    task(&recipe, "thin", "0/1").exits(0);
    task(&recipe, "group", "0/1").exits(0);
    task(&recipe, "place", "0/1").complains(&["link-0-of-1.bin", "checksum"]);
    fs::remove_file(&torn).unwrap();
    for round in ["link", "place", "compare"] {
        task(&recipe, round, "0/1").exits(0);
    }
    for stage in ["find", "write", "finish"] {
        task(&recipe, stage, "").exits(0);
    }
    assert_eq!(hashes(&dir.path().join("out")), hashes(prepared()));
}

#[test]
fn tasks_that_die_are_done_again() {
    let dir = temp();
    let recipe = recipe(dir.path());
    let stages = [
        ("read", &["0/2", "1/2"][..]),
        ("exact", &["0/1"][..]),
        ("link", &["0/2", "1/2"][..]),
        ("thin", &["0/2", "1/2"][..]),
        ("group", &["0/1"][..]),
        ("place", &["0/2", "1/2"][..]),
        ("compare", &["0/2", "1/2"][..]),
        ("find", &[""][..]),
        ("write", &["0/2", "1/2"][..]),
        ("finish", &[""][..]),
    ];
    let mut kills = 0;
    for (stage, shares) in stages {
        for share in shares {
            // Later and later, until one is through before its end comes.
            for round in 1_u64.. {
                let mut child = command(&recipe, stage, share).spawn().unwrap();
                std::thread::sleep(Duration::from_millis(20 * round * round));
                match child.try_wait().unwrap() {
                    Some(status) => {
                        assert!(status.success(), "{stage} {share}");
                        break;
                    }
                    None => kills += 1,
                }
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }
    assert!(kills > 4, "{kills}");
    assert_eq!(hashes(&dir.path().join("out")), hashes(prepared()));
}

#[test]
fn a_task_before_its_time_is_told_what_is_missing() {
    let dir = temp();
    let recipe = recipe(dir.path());
    task(&recipe, "read", "0/2").exits(0);
    task(&recipe, "find", "").complains(&["expected the task that reads it"]);
    task(&recipe, "read", "1/2").exits(0);
    task(&recipe, "write", "0/2").complains(&["finds duplicates"]);
    let status = forebay(["run", recipe.to_str().unwrap(), "--status", "--json"]).exits(0).json();
    assert_eq!(status["state"], "unfinished");
    for wrong in ["2/2", "a", "1"] {
        task(&recipe, "read", wrong).exits(2);
    }
    task(&recipe, "find", "0/2").exits(2);
}

#[test]
fn machines_must_agree() {
    let dir = temp();
    let recipe = recipe(dir.path());
    task(&recipe, "read", "0/2").exits(0);
    let mut other = command(&recipe, "read", "1/2");
    other.args(["--set", "dedup.threshold=0.9"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    ran(&mut other).complains(&["other options"]);

    let plan = dir.path().join("out/.work/plan.json");
    let text = fs::read_to_string(&plan).unwrap();
    let version = format!("\"forebay\": \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&version), "{text}");
    fs::write(&plan, text.replace(&version, "\"forebay\": \"0.0.1\"")).unwrap();
    task(&recipe, "read", "1/2").complains(&["forebay version"]);
}

/// The store becomes read-only between two tasks, then too small for one node's share.
#[test]
fn a_store_that_cannot_be_written_stops_a_task_and_no_more() {
    let dir = temp();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&store);
        command.output().is_ok_and(|output| output.status.success())
    };
    if !mount("size=64m") {
        println!("skipped: mounting needs rights that this machine does not give");
        return;
    }
    let text = fs::read_to_string(recipe(dir.path())).unwrap();
    let recipe = write(store.join("recipe.toml"), text);
    let first = task(&recipe, "read", "0/2");
    let locked = mount("remount,ro") && {
        let refused = task(&recipe, "read", "1/2");
        let found = rustix::fs::statvfs(&store).unwrap();
        // It cannot be made smaller than what is on it.
        let little = (found.f_blocks - found.f_bfree) * found.f_bsize + (64 << 10);
        mount(&format!("remount,rw,size={little}")) && {
            let full = task(&recipe, "read", "1/2");
            mount("remount,rw,size=64m") && {
                refused.complains(&["ead-only"]);
                full.complains(&["o space left"]);
                true
            }
        }
    };
    let rest: Vec<Ran> = [("read", "1/2"), ("find", ""), ("write", ""), ("finish", "")]
        .map(|(stage, share)| task(&recipe, stage, share))
        .into();
    let found = hashes(&store.join("out"));
    let _ = Command::new("umount").arg(&store).output();
    first.exits(0);
    assert!(locked, "the mount could not be changed");
    rest.into_iter().for_each(|ran| drop(ran.exits(0)));
    assert_eq!(found, hashes(prepared()));
}

/// Honours what the scripts ask of Slurm: numbers of jobs, arrays, order.
const SBATCH: &str = r#"#!/usr/bin/env bash
set -euo pipefail
after= script=
for argument in "$@"; do
  case $argument in
    --parsable) ;;
    --dependency=afterok:*) after=${argument##*:} ;;
    --partition=*) echo "${argument#*=}" >> "$JOBS/partitions" ;;
    *) script=$argument ;;
  esac
done
[ -z "$after" ] || [ -e "$JOBS/$after.ok" ]
id=$(($(ls "$JOBS" | grep -c ok || true) + 1))
range=$(sed -n 's/^#SBATCH --array=//p' "$script")
export SLURM_CPUS_PER_TASK=1
if [ -z "$range" ]; then bash "$script" >&2; fi
for number in ${range:+$(seq "${range%-*}" "${range#*-}")}; do
  SLURM_ARRAY_TASK_ID=$number bash "$script" >&2
done
touch "$JOBS/$id.ok"
echo "$id;cluster"
"#;

#[test]
fn slurm_scripts_make_the_bytes_of_one_machine() {
    let dir = temp();
    let recipe = recipe(dir.path());
    let (scripts, jobs) = (dir.path().join("scripts"), dir.path().join("jobs"));
    let emit = ["--executor", "slurm", "--tasks", "3", "--emit", scripts.to_str().unwrap()];
    let args = ["run", recipe.to_str().unwrap()].into_iter().chain(emit);
    forebay(args.chain(["--set", "output.path=by-slurm"])).exits(0);
    let bin = write(dir.path().join("bin/sbatch"), SBATCH);
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&jobs).unwrap();

    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut submit = Command::new("bash");
    submit.arg(scripts.join("submit.sh")).arg("--partition=cpu");
    submit.env("PATH", path).env("JOBS", &jobs).current_dir("/");
    let ran = ran(&mut submit).exits(0);
    let stages =
        ["read", "exact", "link", "thin", "group", "place", "compare", "find", "write", "finish"];
    let expected: String =
        (1..).zip(stages).map(|(job, stage)| format!("{stage}: job {job}\n")).collect();
    assert_eq!(ran.stdout, expected);
    assert_eq!(fs::read_to_string(jobs.join("partitions")).unwrap(), "cpu\n".repeat(10));
    assert_eq!(hashes(&dir.path().join("by-slurm")), hashes(prepared()));
}
