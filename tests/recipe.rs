use std::fs;
use std::path::Path;

use crate::support::*;

fn run(recipe: &Path, more: &[&str]) -> Ran {
    let args: Vec<&str> =
        ["run", recipe.to_str().unwrap()].into_iter().chain(more.iter().copied()).collect();
    forebay(args)
}

/// A recipe in a directory of its own, beside which the sample lies.
fn recipe(dir: &Path, stages: &str) -> std::path::PathBuf {
    let sample = sample();
    let text = format!(
        "{stages}\n[input]\npaths = ['{}']\n[output]\npath = 'out'\nshard_size = '1MiB'\n",
        sample.display()
    );
    write(dir.join("recipe.toml"), text)
}

#[test]
fn a_recipe_makes_what_the_flags_make() {
    let dir = temp();
    let stages = "[dedup]\n[tokenize]\n[shuffle]\nseed = 7";
    let path = recipe(dir.path(), stages);
    let text = fs::read_to_string(&path).unwrap() + "keep_text = true\n";
    fs::write(&path, text).unwrap();
    let ran = run(&path, &["--json"]).exits(0);
    let out = dir.path().join("out");
    assert_eq!(ran.json()["out"], out.to_str().unwrap(), "paths are relative to the recipe");
    assert_eq!(hashes(&out), hashes(prepared()));

    let again = run(&path, &["--json"]).exits(0);
    assert_eq!(again.json()["already"], true);
    let status = run(&path, &["--status", "--json"]).exits(0).json();
    assert_eq!(
        (&status["state"], &status["documents"]),
        (&"finished".into(), &ran.json()["documents"])
    );
}

#[test]
fn stages_without_a_table_do_not_run() {
    let dir = temp();
    let path = recipe(dir.path(), "[shuffle]\n");
    run(&path, &[]).exits(0);
    let rows = rows(&dir.path().join("out"));
    assert_eq!(rows.len(), sample_documents().len(), "all of them");
    assert!(rows.iter().all(|row| row.text.is_some()), "as texts");
    let manifest = manifest(&dir.path().join("out"));
    assert_eq!(manifest["lineage"]["stage"], "shuffle");
}

#[test]
fn what_is_set_is_what_runs() {
    let dir = temp();
    let path = recipe(dir.path(), "[tokenize]\n");
    let plan = run(
        &path,
        &["--set", "dedup.fuzzy=false", "--set", "output.path=other", "--print-plan", "--json"],
    );
    let plan = plan.exits(0).json();
    let stages: Vec<&str> =
        plan["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["read", "dedup", "write", "finish"]);
    assert!(plan["files"].as_u64().unwrap() > 4, "{plan}");
    let tasks = run(&path, &["--print-plan", "-v"]).exits(0);
    let told = plan["stages"].as_array().unwrap().iter().map(|s| s["tasks"].as_u64().unwrap());
    let all: usize = tasks.stdout.lines().filter(|line| line.contains(".part")).count();
    assert_eq!(all as u64, told.into_iter().next().unwrap(), "{tasks:?}");
    assert!(tasks.stdout.contains("prose.jsonl → spool/"), "{tasks:?}");
    assert!(tasks.stdout.contains("→ shard-00000.parquet"), "{tasks:?}");
    assert_eq!(plan["out"], dir.path().join("other").to_str().unwrap());
    assert!(!dir.path().join("other").exists(), "nothing was done");
}

#[test]
fn a_stopped_run_says_how_far_it_is_and_goes_on() {
    let dir = temp();
    write(dir.path().join("bad.jsonl"), line("a", "one") + "no json\n");
    let text = format!(
        "[input]\npaths = ['{}', 'bad.jsonl']\n[output]\npath = 'out'\n[tokenize]\n",
        sample().display()
    );
    let path = write(dir.path().join("recipe.toml"), text);
    run(&path, &["--threads", "1"]).complains(&["bad.jsonl"]);
    let status = run(&path, &["--status", "--json"]).exits(0).json();
    assert_eq!(status["state"], "unfinished");
    assert_eq!((&status["running"], &status["stage"]), (&false.into(), &"read".into()));
    assert!(status["parts"].as_u64().unwrap() > 0, "{status}");

    run(&path, &["--set", "input.on_error=skip"]).exits(3);
    let manifest = manifest(&dir.path().join("out"));
    let skipped = manifest["counts"]["skipped"].as_object().unwrap();
    assert_eq!(skipped.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 1);
}

#[test]
fn what_can_be_read_is_read_if_it_keeps_going() {
    let dir = temp();
    for name in ["a", "c", "e"] {
        write(dir.path().join(format!("{name}.jsonl")), line(name, "one two three"));
    }
    for name in ["b", "d"] {
        write(dir.path().join(format!("{name}.jsonl")), "no json\n");
    }
    let text = "[input]\npaths = ['*.jsonl']\n[output]\npath = 'out'\n[shuffle]\n";
    let path = write(dir.path().join("recipe.toml"), text);
    let ran = run(&path, &["--keep-going", "--threads", "1"]);
    ran.complains(&["2 inputs", "b.jsonl", "d.jsonl", "line 1"]);
    let status = run(&path, &["--status", "--json"]).exits(0).json();
    assert_eq!((&status["parts"], &status["documents"]), (&3.into(), &3.into()));
    assert_eq!(status["failed"][0]["task"], "run");
    let parts = || fs::read_dir(dir.path().join("out/.work/spool")).unwrap().count();
    assert_eq!(parts(), 3);

    run(&path, &["--set", "input.on_error=skip"]).exits(3);
    assert_eq!(manifest(&dir.path().join("out"))["documents"], 3);
}

#[test]
fn prep_takes_its_options_from_a_recipe() {
    let dir = temp();
    let path = recipe(dir.path(), "[dedup]\n[tokenize]\n[shuffle]\nseed = 7");
    fs::write(&path, fs::read_to_string(&path).unwrap() + "keep_text = true\n").unwrap();
    let (sample, out) = (sample(), dir.path().join("by-prep"));
    let args = |more: &'static str| {
        let args = ["prep", sample.to_str().unwrap(), "--out", out.to_str().unwrap(), "--recipe"];
        let all = args.into_iter().chain([path.to_str().unwrap()]).chain(more.split_whitespace());
        forebay(all.collect::<Vec<_>>())
    };
    let ran = args("--seed 8").exits(2);
    assert!(ran.stderr.contains("--seed"), "{ran:?}");
    args("--threads 1 --quiet").exits(0);
    assert_eq!(hashes(&out), hashes(prepared()));
}

#[test]
fn init_writes_a_recipe_that_runs() {
    let dir = temp();
    let path = dir.path().join("recipe.toml");
    forebay(["recipe", "init", path.to_str().unwrap()]).exits(0);
    write(dir.path().join("raw/a.jsonl"), line("a", "one two three"));
    run(&path, &[]).exits(0);
    assert_eq!(manifest(&dir.path().join("corpus"))["documents"], 1);
    // It is not written over.
    let before = fs::read(&path).unwrap();
    forebay(["recipe", "init", path.to_str().unwrap()]).exits(2);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(forebay(["recipe", "init", "-"]).exits(0).stdout.as_bytes(), before);
}

#[test]
fn a_wrong_recipe_is_wrong_usage_and_says_where() {
    let dir = temp();
    let path = recipe(dir.path(), "[dedup]\nthresold = 0.9");
    let ran = run(&path, &[]).exits(2);
    assert!(ran.stderr.contains("recipe.toml, line 2: unknown field `thresold`"), "{ran:?}");
    assert!(ran.stderr.contains("hint: did you mean `threshold`?"), "{ran:?}");
    assert!(!dir.path().join("out").exists());
    run(&dir.path().join("none.toml"), &[]).complains(&["none.toml"]);
}

#[test]
fn the_executor_may_stand_in_the_recipe() {
    let dir = temp();
    let path = recipe(dir.path(), "[dedup]\n[execution]\nexecutor = 'slurm'");
    let ran = run(&path, &[]).exits(2);
    assert!(ran.stderr.contains("--emit DIR"), "{ran:?}");
    let scripts = dir.path().join("jobs");
    run(&path, &["--emit", scripts.to_str().unwrap(), "--tasks", "3"]).exits(0);
    assert!(scripts.join("submit.sh").exists() && !dir.path().join("out").exists());
    let plan = run(&path, &["--print-plan", "--tasks", "3", "--json"]).exits(0).json();
    let shares = serde_json::json!([
        ["read", 3],
        ["exact", 3],
        ["link", 3],
        ["thin", 3],
        ["group", 1],
        ["place", 3],
        ["compare", 3],
        ["find", 1],
        ["write", 3],
        ["finish", 1]
    ]);
    assert_eq!(plan["shares"], shares);
    let sample = sample();
    let by_prep =
        ["prep", sample.to_str().unwrap(), "--out", "o", "--recipe", path.to_str().unwrap()];
    assert!(forebay(by_prep).exits(2).stderr.contains("another executor"));
    // What the command line says goes first.
    run(&path, &["--executor", "local"]).exits(0);
    for (flags, told) in [(["--tasks", "3"], "--tasks"), (["--address", "a"], "--address")] {
        let ran = run(&path, &[&["--executor", "local"][..], &flags].concat()).exits(2);
        assert!(ran.stderr.contains(told), "{ran:?}");
    }
}
