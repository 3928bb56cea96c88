//! What stays: policies, scopes, and the forms in which a run says so.

use std::path::Path;

use crate::support::*;

/// Near-copies `near`, in documents of one word more or less.
fn corpus(directory: &Path) -> std::path::PathBuf {
    let words = prose(1, 300, 1 << 40);
    let text = |cut: usize| words[..300 - cut].join(" ");
    let record = |id: &str, text: &str, score: f64, dump: &str, url: &str| {
        let json = serde_json::json!({
            "id": id, "text": text, "score": score, "dump": dump, "url": url,
        });
        format!("{json}\n")
    };
    let lines = [
        record("short", &text(9), 0.5, "one", "http://a"),
        record("long", &text(0), -1.0, "two", "http://b"),
        record("best", &text(5), 7.25, "one", "http://c"),
        record("copy", &text(5), 7.0, "two", "http://d"),
        record("alone", "nothing like the others", 0.0, "two", "http://a"),
    ];
    write(directory.join("in.jsonl"), lines.concat())
}

fn ids(dataset: &Path) -> Vec<String> {
    rows(dataset).into_iter().map(|row| row.id).collect()
}

#[test]
fn the_policy_says_which_document_stays() {
    let dir = temp();
    let input = corpus(dir.path());
    for (policy, kept) in [
        (&["longest"][..], &["long", "alone"][..]),
        (&["first"], &["short", "alone"]),
        (&["score", "--score-field", "score"], &["best", "alone"]),
        (&["none"], &["short", "long", "best", "copy", "alone"]),
    ] {
        let out = dir.path().join(policy[0]);
        dedup(&[&input], &out, &[&["--keep"], policy].concat()).exits(0);
        assert_eq!(ids(&out), kept, "{policy:?}");
        forebay(["verify", out.to_str().unwrap()]).exits(0);
    }
    // A score that is no number is a bad record; one that is missing comes last.
    let missing = write(
        dir.path().join("missing.jsonl"),
        format!(
            "{{\"id\":\"none\",\"text\":\"a b c\"}}\n{}",
            "{\"id\":\"low\",\"text\":\"a b c\",\"score\":-9e9}\n"
        ),
    );
    let out = dir.path().join("missing");
    let by_score = ["--keep", "score", "--score-field", "score"];
    dedup(&[&missing], &out, &by_score).exits(0);
    assert_eq!(ids(&out), ["low"]);
    let wrong = write(dir.path().join("wrong.jsonl"), "{\"text\":\"a\",\"score\":\"high\"}\n");
    dedup(&[&wrong], &dir.path().join("wrong"), &by_score).complains(&["score", "a number"]);
}

#[test]
fn the_input_named_first_has_priority() {
    let dir = temp();
    let text = prose(1, 100, 1 << 40);
    let (short, long) = (text[..98].join(" "), text.join(" "));
    let first = write(dir.path().join("z/a.jsonl"), line("first", &short));
    let second = write(dir.path().join("b.jsonl"), line("second", &long));
    for (inputs, kept) in [([&first, &second], "first"), ([&second, &first], "second")] {
        let out = dir.path().join(kept);
        dedup(&inputs.map(std::path::PathBuf::as_path), &out, &["--keep", "source"]).exits(0);
        assert_eq!(ids(&out), [kept]);
    }
}

#[test]
fn duplicates_are_looked_for_in_their_scope_alone() {
    let dir = temp();
    let input = corpus(dir.path());
    let other = write(dir.path().join("other.jsonl"), std::fs::read(&input).unwrap());
    for (scope, kept) in [
        ("global", &["long", "alone"][..]),
        ("source", &["long", "alone", "long", "alone"]),
        ("dump", &["best", "long", "alone"]),
    ] {
        let out = dir.path().join(scope);
        dedup(&[&input, &other], &out, &["--scope", scope]).exits(0);
        let mut found = ids(&out);
        found.sort();
        let mut kept = kept.to_vec();
        kept.sort_unstable();
        assert_eq!(found, kept, "{scope}");
    }
}

#[test]
fn equal_urls_are_duplicates_if_asked() {
    let dir = temp();
    let input = corpus(dir.path());
    let out = dir.path().join("out");
    let more = ["--no-exact", "--no-fuzzy", "--url-field", "url", "--keep", "first"];
    dedup(&[&input], &out, &more).exits(0);
    assert_eq!(ids(&out), ["short", "long", "best", "copy"]);
    let removed = removed(&out);
    assert_eq!((removed[0].id.as_str(), removed[0].reason.as_str()), ("alone", "url"));
    assert_eq!((removed[0].survivor.as_deref(), removed[0].jaccard), (Some("short"), None));
}

#[test]
fn the_same_is_found_in_every_form() {
    let dir = temp();
    let dataset = dir.path().join("dataset");
    dedup(&[&sample()], &dataset, &[]).exits(0);
    let listed = removed(&dataset);

    let only = dir.path().join("only");
    dedup(&[&sample()], &only, &["--removed-only"]).exits(0);
    assert_eq!(removed(&only), listed);
    assert!(rows(&only).is_empty());
    forebay(["verify", only.to_str().unwrap()]).exits(0);

    let annotated = dir.path().join("annotated");
    dedup(&[&sample()], &annotated, &["--annotate"]).exits(0);
    assert_eq!(removed(&annotated), listed);
    assert_eq!(rows(&annotated).len(), sample_documents().len());
    forebay(["verify", annotated.to_str().unwrap()]).exits(0);
    let columns = column_names(&annotated);
    assert_eq!(
        columns[3..],
        [
            "duplicates",
            "reason",
            "survivor",
            "cluster",
            "cluster_size",
            "jaccard",
            "jaccard_estimated",
        ]
    );

    let tmp = dir.path().join("tmp");
    let sample = sample();
    let args = ["dedup", sample.to_str().unwrap(), "--dry-run", "--json", "--tmp-dir"];
    let dry = forebay(args.iter().copied().chain([tmp.to_str().unwrap()])).exits(0).json();
    assert_eq!(dry["counts"], manifest(&dataset)["counts"]);
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "nothing is left behind");
}

/// Duplicates of each document that stays add up to what went.
#[test]
fn the_number_of_duplicates_is_kept_as_a_signal() {
    let dir = temp();
    let input = corpus(dir.path());
    let out = dir.path().join("out");
    dedup(&[&input], &out, &[]).exits(0);
    let duplicates = numbers(&out, "duplicates");
    assert_eq!(duplicates, [3, 0]);
}

#[test]
fn a_threshold_picks_bands_and_a_preset_all_parameters() {
    let dir = temp();
    let input = write(dir.path().join("in.jsonl"), line("a", "some words"));
    for (more, unit, ngram, bands, rows) in [
        (&["--threshold", "0.8"][..], "word", 5, 14, 8),
        (&["--threshold", "0.5"], "word", 5, 19, 3),
        (&["--preset", "olmo3"], "word", 5, 26, 11),
        (&["--preset", "nemo"], "char", 24, 20, 13),
        (&["--preset", "fineweb", "--bands", "9", "--rows", "13"], "word", 5, 9, 13),
        (&["--char", "--ngram", "7"], "char", 7, 14, 8),
    ] {
        let out = dir.path().join(more.join(""));
        dedup(&[&input], &out, more).exits(0);
        let fuzzy = &manifest(&out)["lineage"]["options"]["steps"]["fuzzy"];
        let found = [&fuzzy["ngram"], &fuzzy["bands"], &fuzzy["rows"]].map(|n| n.as_u64().unwrap());
        assert_eq!((fuzzy["unit"].as_str().unwrap(), found), (unit, [ngram, bands, rows]));
    }
}

/// Text without spaces: only shingles of characters see that most of it is equal.
#[test]
fn characters_find_what_words_cannot() {
    let dir = temp();
    let character = |n: u64| char::from_u32(0x4e00 + (pseudo_random(n) % 5_000) as u32).unwrap();
    let text: String = (0..400).map(character).collect();
    let edited = text.replacen(&text[300..303], "天", 1);
    let input = write(dir.path().join("in.jsonl"), [line("a", &text), line("b", &edited)].concat());
    for (more, kept) in [(&[][..], 2), (&["--char"], 1)] {
        let out = dir.path().join(format!("out{kept}"));
        dedup(&[&input], &out, more).exits(0);
        assert_eq!(rows(&out).len(), kept);
    }
}

#[test]
fn a_cluster_is_shown_with_its_differences() {
    let dataset = prepared();
    let documents = sample_documents();
    let row = removed(dataset).into_iter().find(|row| row.reason == "fuzzy").unwrap();
    let number = row.cluster.unwrap().to_string();
    let path = dataset.to_str().unwrap();
    let args = ["inspect", path, "--cluster", &number, "--samples", "100"];
    let shown = forebay(args.iter().chain(&["--json"])).exits(0).json();
    assert_eq!(shown["survivor"]["id"], row.survivor.unwrap());
    let member = shown["documents"].as_array().unwrap();
    let member = member.iter().find(|member| member["id"] == row.id).unwrap();
    let text = &documents.iter().find(|(id, _)| id.as_ref() == Some(&row.id)).unwrap().1;
    assert_eq!(member["text"], text.as_str());
    assert!(!member["differences"].as_array().unwrap().is_empty());
    let text = forebay(args).exits(0).stdout;
    assert!(text.contains("[-") || text.contains("{+"), "{text}");
    forebay(["inspect", path, "--cluster", "99999"]).exits(1);
}

#[test]
fn annotated_documents_are_all_there_the_empty_ones_too() {
    let dir = temp();
    let lines = [("a", ""), ("b", "x y"), ("c", " "), ("d", "x y"), ("e", "")];
    let lines: String = lines.iter().map(|(id, text)| line(id, text)).collect();
    let input = write(dir.path().join("in.jsonl"), lines);
    let out = dir.path().join("out");
    dedup(&[&input], &out, &["--annotate"]).exits(0);
    assert_eq!(ids(&out), ["a", "b", "c", "d", "e"]);
    forebay(["verify", out.to_str().unwrap()]).exits(0);
}

#[test]
fn what_is_no_number_is_no_score() {
    let dir = temp();
    let lines = "{\"id\":\"nan\",\"text\":\"a b\",\"score\":\"nan\"}\n{\"id\":\"low\",\"text\":\"a b\",\"score\":-1}\n";
    let input = write(dir.path().join("in.jsonl"), lines);
    let out = dir.path().join("out");
    dedup(&[&input], &out, &["--keep", "score", "--score-field", "score"]).exits(0);
    assert_eq!(ids(&out), ["low"]);
}

#[test]
fn a_field_may_have_two_tasks_and_must_be_there() {
    let dir = temp();
    let input = write(dir.path().join("in.jsonl"), [line("u", "a"), line("u", "b")].concat());
    let out = dir.path().join("out");
    let by_id = ["--url-field", "id"];
    dedup(&[&input], &out, &by_id).exits(0);
    assert_eq!(rows(&out).len(), 1);
    dedup(&[&input], &dir.path().join("typo"), &["--scope", "sources"])
        .complains(&["field `sources`", "none"]);
    dedup(&[&input], &dir.path().join("empty"), &["--scope", ""]).exits(2);
    let inside = out.join("index");
    dedup(&[&input], &out, &["--write-index", inside.to_str().unwrap()]).exits(2);
}

/// A dataset of a dataset: what `removed/` points to can be read again.
#[test]
fn clusters_of_a_dataset_are_shown_from_its_shards() {
    let dir = temp();
    let words = prose(1, 60, 1 << 40);
    let lines = [line("a", &words.join(" ")), line("b", &words[..58].join(" "))];
    let input = write(dir.path().join("in.jsonl"), lines.concat());
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    dedup(&[&input], &first, &["--no-fuzzy"]).exits(0);
    dedup(&[&first], &second, &[]).exits(0);
    let args = ["inspect", second.to_str().unwrap(), "--cluster", "1", "--json"];
    let shown = forebay(args).exits(0).json();
    assert_eq!(shown["documents"][0]["text"], words[..58].join(" "));
}
