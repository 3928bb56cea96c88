//! Indexes: a corpus that grows is deduplicated as if it came at once.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::*;

/// The sample in three files, as it would come month after month.
fn months(directory: &Path) -> Vec<PathBuf> {
    let documents = sample_documents();
    let named = (0..).zip(&documents).map(|(n, (_, text))| (n, line(&format!("d{n}"), text)));
    let lines: Vec<(usize, String)> = named.collect();
    let month = |month: usize| {
        // Neighbours are often similar: spread them.
        let lines = lines.iter().filter(|(n, _)| n % 3 == month).map(|(_, line)| line.as_str());
        write(directory.join(format!("month{month}.jsonl")), lines.collect::<String>())
    };
    (0..3).map(month).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn against_an_index_equals_the_union_in_order() {
    for more in [&[][..], &["--no-verify"], &["--no-fuzzy"], &["--char", "--ngram", "20"]] {
        let dir = temp();
        let months = months(dir.path());
        let whole = dir.path().join("whole");
        let inputs: Vec<&Path> = months.iter().map(PathBuf::as_path).collect();
        let first = [&["--keep", "first"], more].concat();
        dedup(&inputs, &whole, &first).exits(0);

        let mut found = Vec::new();
        let mut earlier: Option<PathBuf> = None;
        for (number, month) in months.iter().enumerate() {
            let out = dir.path().join(format!("out{number}"));
            let index = dir.path().join(format!("index{number}"));
            let mut args = [&first[..], &["--write-index", text(&index)]].concat();
            if let Some(earlier) = &earlier {
                args.extend(["--against", text(earlier)]);
            }
            dedup(&[month], &out, &args).exits(0);
            forebay(["verify", text(&out)]).exits(0);
            found.extend(rows(&out));
            earlier = Some(index);
        }
        let mut expected = rows(&whole);
        if more.contains(&"--no-verify") {
            // A later document may link earlier ones, which stay if they are in an index.
            let last = months[2].to_str().unwrap();
            expected.retain(|row| row.source == last);
            found.retain(|row| row.source == last);
        }
        assert!(found == expected, "{more:?}: {} of {}", found.len(), expected.len());
        assert!(found.len() < sample_documents().len(), "there is something to find");
    }
}

#[test]
fn what_went_for_an_old_document_names_it() {
    let dir = temp();
    let index = dir.path().join("index");
    let words = prose(1, 100, 1 << 40);
    let old = write(dir.path().join("old.jsonl"), line("old", &words[..99].join(" ")));
    let new = write(
        dir.path().join("new.jsonl"),
        [line("longer", &words.join(" ")), line("other", "something else")].concat(),
    );
    dedup(&[&old], &dir.path().join("first"), &["--write-index", text(&index)]).exits(0);
    let out = dir.path().join("second");
    dedup(&[&new], &out, &["--against", text(&index)]).exits(0);
    let removed = removed(&out);
    assert_eq!(removed.len(), 1);
    assert_eq!((removed[0].id.as_str(), removed[0].survivor.as_deref()), ("longer", Some("old")));
    assert!(removed[0].jaccard.unwrap() > 0.9);
    assert_eq!(manifest(&out)["counts"]["read"], 2);

    // The cluster can be looked at, across runs.
    let shown = forebay(["inspect", text(&out), "--cluster", "1", "--json"]).exits(0).json();
    assert_eq!(shown["survivor"]["text"], words[..99].join(" "));

    let shown = forebay(["inspect", text(&index), "--json"]).exits(0).json();
    assert_eq!(shown["documents"], 1);
    let signatures = forebay(["inspect", text(&index), "--signatures"]).exits(0);
    let signature = signatures.json();
    assert_eq!(
        (&signature["id"], signature["bands"].as_array().unwrap().len()),
        (&"old".into(), 14)
    );
}

#[test]
fn an_index_of_another_kind_or_a_broken_one_is_refused() {
    let dir = temp();
    let index = dir.path().join("index");
    let input = write(dir.path().join("in.jsonl"), line("a", "one two three four five six"));
    dedup(&[&input], &dir.path().join("out"), &["--write-index", text(&index)]).exits(0);
    let out = dir.path().join("other");
    let against = |index: &Path, more: &[&str]| {
        let _ = fs::remove_dir_all(&out);
        dedup(&[&input], &out, &[&["--against", text(index)], more].concat())
    };
    against(&index, &["--ngram", "6"]).complains(&["index of parameters", "5", "6"]);
    against(&index, &["--scope", "source"]).complains(&["index of parameters"]);
    against(&dir.path().join("none"), &[]).complains(&["expected an index"]);
    // Another threshold over the same signatures is fine.
    against(&index, &["--threshold", "0.9", "--bands", "14", "--rows", "8"]).exits(0);

    let spoiled = |name: &str, spoil: &dyn Fn(&Path)| {
        let copied = dir.path().join(name);
        copy(&index, &copied);
        spoil(&copied);
        against(&copied, &[])
    };
    let part = |index: &Path| index.join("part-00000.part");
    spoiled("flipped", &|index| {
        let mut bytes = fs::read(part(index)).unwrap();
        bytes[12] ^= 1;
        fs::write(part(index), bytes).unwrap();
    })
    .complains(&["part-00000.part", "expected checksum"]);
    spoiled("cut", &|index| fs::write(part(index), "").unwrap()).complains(&["part-00000.part"]);
    spoiled("gone", &|index| fs::remove_file(part(index)).unwrap()).complains(&["part-00000"]);
    spoiled("newer", &|index| {
        let json = fs::read_to_string(index.join("index.json")).unwrap();
        fs::write(index.join("index.json"), json.replace("\"version\": 1", "\"version\": 9"))
            .unwrap();
    })
    .complains(&["version", "expected 1", "9"]);

    let unverified = dir.path().join("unverified");
    let more = ["--no-verify", "--write-index", text(&unverified)];
    dedup(&[&input], &dir.path().join("out2"), &more).exits(0);
    against(&unverified, &[]).complains(&["texts", "signatures alone"]);
    against(&unverified, &["--no-verify"]).exits(0);
    against(&index, &["--no-verify"]).complains(&["made with --no-verify"]);
    // Nothing of another run is overwritten.
    let more = ["--write-index", text(&index), "--keep", "first"];
    dedup(&[&input], &dir.path().join("out3"), &more).complains(&["holds an index already"]);
}

/// What an index holds only to link others is nobody's survivor.
#[test]
fn survivors_of_unverified_runs_are_in_a_dataset() {
    let dir = temp();
    let words = prose(1, 300, 1 << 40);
    let document = |n: usize| line(&format!("d{n}"), &words[10 * n..200 + 10 * n].join(" "));
    let first: String = (0..6).map(document).collect();
    let second: String = (6..9).map(document).collect();
    let first = write(dir.path().join("a.jsonl"), first);
    let second = write(dir.path().join("b.jsonl"), second);
    let index = dir.path().join("index");
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    dedup(&[&first], &one, &["--no-verify", "--write-index", text(&index)]).exits(0);
    dedup(&[&second], &two, &["--no-verify", "--against", text(&index)]).exits(0);
    let kept: Vec<String> = rows(&one).into_iter().map(|row| row.id).collect();
    let gone = removed(&two);
    assert!(!gone.is_empty());
    assert!(gone.iter().all(|row| kept.contains(row.survivor.as_ref().unwrap())), "{gone:?}");
    // An index among the inputs is not taken for documents.
    let inputs = dir.path().to_str().unwrap();
    forebay(["dedup", inputs, "--dry-run"]).exits(0);
}
