use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use crate::support::*;

/// Word 5-grams as the definition has them, kept as strings.
fn shingles(text: &str) -> HashSet<String> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|w| !w.is_empty())
        .collect();
    words.windows(5.min(words.len().max(1))).map(|window| window.join(" ")).collect()
}

fn jaccard(a: &HashSet<String>, b: &HashSet<String>) -> f64 {
    let shared = a.intersection(b).count();
    shared as f64 / (a.len() + b.len() - shared).max(1) as f64
}

#[test]
fn every_removed_document_names_a_survivor_that_is_there() {
    let dataset = prepared();
    let kept: BTreeSet<String> = rows(dataset).into_iter().map(|row| row.id).collect();
    let removed = removed(dataset);
    let mut survivors: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for row in &removed {
        let survivor = row.survivor.clone().unwrap();
        assert!(kept.contains(&survivor), "{row:?}");
        assert!((0.0..=1.0).contains(&row.jaccard.unwrap()), "{row:?}");
        survivors.entry(row.cluster.unwrap()).or_default().insert(survivor);
    }
    assert!(survivors.values().all(|survivors| survivors.len() == 1), "one survivor a cluster");
    let manifest = manifest(dataset);
    assert_eq!(manifest["counts"]["clusters"], survivors.len());
    assert_eq!(
        survivors.keys().copied().collect::<Vec<_>>(),
        (1..=survivors.len() as u64).collect::<Vec<_>>()
    );
}

/// Against all pairs, exactly: what is nearly equal goes, what has nothing in common stays.
#[test]
fn real_near_duplicates_go_and_unrelated_documents_stay() {
    let documents = sample_documents();
    let sets: Vec<_> = documents.iter().map(|(_, text)| shingles(text)).collect();
    let kept: BTreeSet<String> =
        rows(prepared()).into_iter().map(|row| row.text.unwrap()).collect();
    let (mut near, mut caught) = (0, 0);
    let mut similar = vec![0.0_f64; documents.len()];
    for a in 0..documents.len() {
        for b in a + 1..documents.len() {
            if documents[a].1 == documents[b].1 {
                continue;
            }
            let j = jaccard(&sets[a], &sets[b]);
            similar[a] = similar[a].max(j);
            similar[b] = similar[b].max(j);
            if j >= 0.9 {
                near += 1;
                caught += usize::from(
                    !(kept.contains(&documents[a].1) && kept.contains(&documents[b].1)),
                );
            }
        }
    }
    assert!(near > 50, "the sample has {near} pairs");
    // 1 - (1 - 0.9^8)^14 = 0.9996 a pair
    assert_eq!(caught, near, "pairs at 0.9 and more");
    let unrelated = (0..documents.len()).filter(|&at| similar[at] < 0.2);
    for at in unrelated {
        assert!(kept.contains(&documents[at].1), "{:?} was removed", documents[at].0);
    }
}

/// The estimate in `removed/` is within five standard errors of the exact similarity.
#[test]
fn the_reported_similarity_is_close_to_the_exact_one() {
    let documents: BTreeMap<String, String> =
        sample_documents().into_iter().filter_map(|(id, text)| Some((id?, text))).collect();
    let mut checked = 0;
    for row in removed(prepared()) {
        let texts = (documents.get(&row.id), documents.get(row.survivor.as_ref().unwrap()));
        let (Some(text), Some(survivor)) = texts else { continue };
        let exact = jaccard(&shingles(text), &shingles(survivor));
        let estimate = f64::from(row.jaccard.unwrap());
        let error = (exact * (1.0 - exact) / 112.0).sqrt().max(0.01);
        assert!((estimate - exact).abs() < 5.0 * error, "{row:?}: exactly {exact}");
        checked += 1;
    }
    assert!(checked > 100, "{checked}");
}

fn dedup(input: &Path, out: &Path, more: &[&str]) -> Ran {
    let args = [&["dedup", input.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat();
    forebay(args)
}

#[test]
fn the_longest_of_a_cluster_stays_or_the_first_if_asked() {
    let dir = temp();
    let words: Vec<String> = (0..2000).map(|n| format!("word{n}")).collect();
    let text = words.join(" ");
    let lines = [
        line("first", &text),
        line("other", "nothing like it at all in any way"),
        line("longest", &format!("{text} {}", "and a few more words ".repeat(20))),
        line("copy", &format!("  {}\n", text.replacen(' ', "\n ", 9))),
    ];
    let input = write(dir.path().join("in.jsonl"), lines.concat());
    for (keep, survivor) in [("longest", "longest"), ("first", "first")] {
        let out = dir.path().join(keep);
        dedup(&input, &out, &["--keep", keep]).exits(0);
        let kept: Vec<_> = rows(&out).into_iter().map(|row| row.id).collect();
        assert_eq!(kept, if keep == "first" { ["first", "other"] } else { ["other", "longest"] });
        for row in removed(&out) {
            assert_eq!(row.survivor.as_deref(), Some(survivor));
            assert_eq!(row.cluster, Some(1));
        }
        // Equal but for white space: exact, and said so although its survivor is a similar one.
        let reasons: BTreeMap<_, _> = removed(&out).into_iter().map(|r| (r.id, r.reason)).collect();
        assert!(reasons.values().any(|reason| reason == "exact"), "{reasons:?}");
    }
}

#[test]
fn steps_can_be_left_out() {
    let dir = temp();
    let lines = [
        line("a", "one two three four five six"),
        line("b", "one two three four five six"),
        line("c", "One two, three four five six!"),
    ];
    let input = write(dir.path().join("in.jsonl"), lines.concat());
    for (more, kept) in [
        (vec![], 1),
        (vec!["--no-fuzzy"], 2),
        (vec!["--no-exact"], 1),
        (vec!["--no-exact", "--no-fuzzy"], 3),
    ] {
        let out = dir.path().join(format!("out{}", more.join("")));
        dedup(&input, &out, &more).exits(0);
        assert_eq!(rows(&out).len(), kept, "{more:?}");
    }
    dedup(&input, &dir.path().join("zero"), &["--bands", "0"]).exits(2);
}

/// Stage by stage is the same as all at once; a dataset is an input like any other.
#[test]
fn dedup_then_tokenize_equals_prep() {
    let dir = temp();
    let [clean, tokens, whole] = ["clean", "tokens", "whole"].map(|name| dir.path().join(name));
    dedup(&sample(), &clean, &[]).exits(0);
    forebay(["tokenize", clean.to_str().unwrap(), "--out", tokens.to_str().unwrap()]).exits(0);
    prep(&[&sample()], &whole, &["--no-shuffle"]).exits(0);
    assert!(rows(&tokens) == rows(&whole), "ids and sources are carried through");
    let parents = manifest(&tokens)["lineage"]["parents"].as_array().unwrap().clone();
    let parent = blake3::hash(&std::fs::read(clean.join("manifest.json")).unwrap()).to_hex();
    assert_eq!(parents, [parent.as_str()]);
}
