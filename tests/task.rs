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

#[test]
fn tasks_that_die_are_done_again() {
    let dir = temp();
    let recipe = recipe(dir.path());
    let stages = [
        ("read", &["0/2", "1/2"][..]),
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
    assert_eq!(ran.stdout, "read: job 1\nfind: job 2\nwrite: job 3\nfinish: job 4\n");
    assert_eq!(fs::read_to_string(jobs.join("partitions")).unwrap(), "cpu\n".repeat(4));
    assert_eq!(hashes(&dir.path().join("by-slurm")), hashes(prepared()));
}
