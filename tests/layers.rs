//! The picture in ARCHITECTURE.md holds: a crate depends on those it may and on no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ALLOWED: [(&str, &[&str]); 10] = [
    ("store", &[]),
    ("shard", &["store"]),
    ("usrbio-abi", &["store"]),
    ("transform", &["shard", "store"]),
    ("pipeline", &["transform", "shard", "store"]),
    ("gpu", &["store"]),
    ("load", &["shard", "store", "gpu"]),
    ("bench", &["store", "load", "gpu"]),
    ("python", &["load", "shard", "pipeline", "store"]),
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

/// The list in deny.toml, checked also where cargo-deny is not installed.
#[test]
fn every_dependency_has_an_allowed_licence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let deny = fs::read_to_string(root.join("deny.toml")).unwrap();
    let allowed = deny.split("allow = [").nth(1).unwrap().split(']').next().unwrap();
    let allowed: BTreeSet<&str> = allowed.split('"').skip(1).step_by(2).collect();

    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform"]);
    let output = cargo.arg("x86_64-unknown-linux-gnu").current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50);
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        // Either side of an OR will do, all of an AND must.
        let either = licence.replace('/', " OR ").replace(['(', ')'], "");
        let fine = either
            .split(" OR ")
            .any(|all| all.split(" AND ").all(|one| allowed.contains(one.trim())));
        assert!(fine, "{} is under {licence}", package["name"]);
    }
}
