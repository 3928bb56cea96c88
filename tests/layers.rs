//! The picture in ARCHITECTURE.md holds: a crate depends on those it may and on no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ALLOWED: [(&str, &[&str]); 9] = [
    ("store", &[]),
    ("shard", &["store"]),
    ("transform", &["shard", "store"]),
    ("pipeline", &["transform", "shard", "store"]),
    ("gpu", &["store"]),
    ("load", &["shard", "store", "gpu"]),
    ("bench", &["store", "load", "gpu"]),
    ("python", &["load", "shard", "pipeline"]),
    ("cli", &["store", "shard", "transform", "pipeline", "gpu", "load", "bench"]),
];

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut checked = BTreeSet::new();
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        let directory = entry.unwrap().path();
        let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
        // The command line is the root package: its crate has no manifest of its own.
        let manifest = match name.as_str() {
            "cli" => root.join("Cargo.toml"),
            _ => directory.join("Cargo.toml"),
        };
        let (_, allowed) = ALLOWED.iter().find(|(n, _)| *n == name).expect("a crate in the table");
        for dependency in dependencies(&fs::read_to_string(manifest).unwrap()) {
            assert!(allowed.contains(&dependency.as_str()), "{name} may not use {dependency}");
        }
        checked.insert(name);
    }
    assert!(checked.contains("cli") && checked.contains("store"), "{checked:?}");
}

/// Ours, from `[dependencies]` and `[dev-dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut ours = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.ends_with("dependencies]") && !section.starts_with("workspace");
        } else if inside && let Some(rest) = line.strip_prefix("forebay-") {
            ours.push(rest.split(['.', ' ', '=']).next().unwrap().to_owned());
        }
    }
    ours
}

#[test]
fn preparation_and_training_meet_only_on_disk() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    for (crate_, other) in [("transform", "load"), ("load", "transform"), ("load", "pipeline")] {
        let manifest = fs::read_to_string(root.join(crate_).join("Cargo.toml")).unwrap();
        assert!(!manifest.contains(&format!("forebay-{other}")), "{crate_} knows {other}");
    }
}
