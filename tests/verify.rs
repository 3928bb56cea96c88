use std::fs;
use std::path::Path;

use crate::support::*;

fn problems(dataset: &Path) -> Vec<(String, String)> {
    let ran = forebay(["verify", "--json", dataset.to_str().unwrap()]);
    let problems = ran.json()["problems"].as_array().unwrap().clone();
    assert_eq!(ran.code, i32::from(!problems.is_empty()), "{ran:?}");
    let string = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    problems.iter().map(|p| (string(&p["file"]), string(&p["what"]))).collect()
}

#[test]
fn a_sound_dataset_is_found_sound() {
    let ran = forebay(["verify", "--json", prepared().to_str().unwrap()]).exits(0).json();
    assert_eq!(ran["documents"], manifest(prepared())["documents"]);
    assert_eq!(ran["tokens"], manifest(prepared())["tokens"]);
}

/// Whatever byte of whatever file is flipped, `verify` names the file.
#[test]
fn every_flipped_byte_is_found() {
    let dir = temp();
    let dataset = dir.path().join("dataset");
    copy(prepared(), &dataset);
    let names: Vec<String> =
        hashes(&dataset).into_keys().filter(|n| n != "manifest.json").collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let path = dataset.join(&name);
        let bytes = fs::read(&path).unwrap();
        for at in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            let mut spoiled = bytes.clone();
            spoiled[at] ^= 1;
            fs::write(&path, spoiled).unwrap();
            let found = problems(&dataset);
            assert!(found.iter().any(|(file, _)| *file == name), "byte {at} of {name}: {found:?}");
        }
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(problems(&dataset), []);
}

#[test]
fn the_broken_block_is_named() {
    let dir = temp();
    let dataset = dir.path().join("dataset");
    copy(prepared(), &dataset);
    let path = dataset.join("shard-00001.parquet");
    let mut bytes = fs::read(&path).unwrap();
    assert!(bytes.len() > (1 << 20) + 5, "shards of more than one block");
    bytes[(1 << 20) + 5] ^= 4;
    fs::write(&path, bytes).unwrap();
    let found = problems(&dataset);
    let block = "block 1, bytes 1048576 to";
    assert!(
        found.iter().any(|(f, what)| f == "shard-00001.parquet" && what.contains(block)),
        "{found:?}"
    );
}

#[test]
fn every_count_of_the_manifest_is_checked() {
    let dir = temp();
    let dataset = dir.path().join("dataset");
    copy(prepared(), &dataset);
    let sound = manifest(&dataset);
    let counts =
        ["/documents", "/tokens", "/text_bytes", "/counts/read", "/counts/exact", "/counts/fuzzy"];
    let shard =
        ["/shards/0/documents", "/shards/0/tokens", "/shards/0/text_bytes", "/shards/1/bytes"];
    for pointer in counts.iter().chain(&shard) {
        let mut wrong = sound.clone();
        let count = wrong.pointer_mut(pointer).unwrap();
        *count = (count.as_u64().unwrap() + 1).into();
        fs::write(dataset.join("manifest.json"), wrong.to_string()).unwrap();
        assert_ne!(problems(&dataset), [], "{pointer}");
    }
    let mut wrong = sound.clone();
    wrong["removed"] = serde_json::json!([]);
    fs::write(dataset.join("manifest.json"), wrong.to_string()).unwrap();
    assert!(problems(&dataset).iter().any(|(file, _)| file.starts_with("removed")));
    wrong["shards"][0]["file"] = "../../etc/passwd".into();
    fs::write(dataset.join("manifest.json"), wrong.to_string()).unwrap();
    forebay(["verify", dataset.to_str().unwrap()]).complains(&["inside the dataset", "passwd"]);
}

#[test]
fn missing_cut_swapped_and_foreign_files_are_found() {
    let dir = temp();
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil); 6] = [
        ("shard-00000.parquet", |d| fs::remove_file(d.join("shard-00000.parquet")).unwrap()),
        ("shard-00001.parquet", |d| {
            let file =
                fs::OpenOptions::new().write(true).open(d.join("shard-00001.parquet")).unwrap();
            file.set_len(1_000).unwrap();
        }),
        ("shard-00000.parquet", |d| {
            let [a, b, c] = ["shard-00000.parquet", "shard-00001.parquet", "x"].map(|n| d.join(n));
            fs::rename(&a, &c).unwrap();
            fs::rename(&b, &a).unwrap();
            fs::rename(&c, &b).unwrap();
        }),
        ("documents.idx", |d| fs::remove_file(d.join("documents.idx")).unwrap()),
        ("shard-00099.parquet", |d| fs::write(d.join("shard-00099.parquet"), "stray").unwrap()),
        ("manifest.json", |d| {
            let mut manifest = manifest(d);
            manifest["documents"] = 7.into();
            fs::write(d.join("manifest.json"), manifest.to_string()).unwrap();
        }),
    ];
    for (number, (name, spoil)) in cases.iter().enumerate() {
        let dataset = dir.path().join(number.to_string());
        copy(prepared(), &dataset);
        spoil(&dataset);
        let found = problems(&dataset);
        assert!(found.iter().any(|(file, _)| file == name), "case {number}: {found:?}");
    }
    // A missing shard is not blamed on the ones after it.
    let found = problems(&dir.path().join("0"));
    assert!(found.iter().all(|(file, _)| file == "shard-00000.parquet"), "{found:?}");
    forebay(["verify", dir.path().to_str().unwrap()]).complains(&["no manifest.json"]);
    let broken = dir.path().join("broken");
    write(broken.join("manifest.json"), "{\"format\":\"forebay\",\"version\":99}");
    forebay(["verify", broken.to_str().unwrap()]).complains(&["version", "at most 1", "99"]);
}
