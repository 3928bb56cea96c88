use std::collections::{BTreeMap, BTreeSet};

use crate::support::*;

#[test]
fn every_removed_document_names_a_survivor_that_is_there() {
    let dataset = prepared();
    let kept: BTreeSet<String> = rows(dataset).into_iter().map(|row| row.id).collect();
    let removed = removed(dataset);
    let mut survivors: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for row in &removed {
        let survivor = row.survivor.clone().unwrap();
        assert!(kept.contains(&survivor), "{row:?}");
        assert!((0.8..=1.0).contains(&row.jaccard.unwrap()), "{row:?}");
        assert!((0.0..=1.0).contains(&row.jaccard_estimated.unwrap()), "{row:?}");
        assert!(row.cluster_size.unwrap() >= 2, "{row:?}");
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
    // Nothing goes without a document that is similar enough.
    let unrelated = (0..documents.len()).filter(|&at| similar[at] < 0.8);
    for at in unrelated {
        assert!(kept.contains(&documents[at].1), "{:?} was removed", documents[at].0);
    }
}

/// What stands in `removed/` is the similarity of the two texts, and the estimate is close to it.
#[test]
fn the_reported_similarity_is_the_exact_one() {
    let documents: BTreeMap<String, String> =
        sample_documents().into_iter().filter_map(|(id, text)| Some((id?, text))).collect();
    let mut checked = 0;
    for row in removed(prepared()) {
        let texts = (documents.get(&row.id), documents.get(row.survivor.as_ref().unwrap()));
        let (Some(text), Some(survivor)) = texts else { continue };
        let exact = jaccard(&shingles(text), &shingles(survivor));
        assert!((f64::from(row.jaccard.unwrap()) - exact).abs() < 1e-6, "{row:?}: {exact}");
        assert!(exact >= 0.8, "{row:?}");
        let estimate = f64::from(row.jaccard_estimated.unwrap());
        let error = (exact * (1.0 - exact) / 112.0).sqrt().max(0.01);
        assert!((estimate - exact).abs() < 5.0 * error, "{row:?}: exactly {exact}");
        checked += 1;
    }
    assert!(checked > 100, "{checked}");
}

/// Each word fewer than the one before: neighbours are similar, the ends are not.
fn chain() -> Vec<(String, String)> {
    let words = prose(1, 400, 1 << 40);
    let document = |n: usize| (format!("d{n}"), words[15 * n..200 + 15 * n].join(" "));
    (0..10).map(document).collect()
}

#[test]
fn a_chain_of_small_differences_is_cut_where_similarity_ends() {
    let dir = temp();
    let lines: String = chain().iter().map(|(id, text)| line(id, text)).collect();
    let input = write(dir.path().join("in.jsonl"), lines);
    let [verified, merged] = ["verified", "merged"].map(|name| dir.path().join(name));
    dedup(&[&input], &verified, &["--keep", "first"]).exits(0);
    let kept: Vec<String> = rows(&verified).into_iter().map(|row| row.id).collect();
    // 0.86 to a neighbour, 0.73 to the next but one.
    assert_eq!(kept, ["d0", "d2", "d4", "d6", "d8"]);

    dedup(&[&input], &merged, &["--keep", "first", "--no-verify"]).exits(0);
    assert!(rows(&merged).len() < 3, "links are followed without a look at the texts");
    assert!(removed(&merged).iter().all(|row| row.jaccard.is_none()));
}

/// Thousands of short documents, many of them nearly equal, sorted in pieces of 64 KiB.
#[test]
fn neither_threads_nor_memory_change_a_byte() {
    let dir = temp();
    let lines: String = (0..6_000)
        .map(|n| {
            let mut words = prose(n / 3, 30, 5_000);
            words[29] = format!("end{}", n % 2);
            line(&n.to_string(), &words.join(" "))
        })
        .collect();
    let input = write(dir.path().join("in.jsonl"), lines);
    let mut expected = None;
    for more in [["--threads", "1", "--memory", "4GiB"], ["--threads", "3", "--memory", "1MiB"]] {
        let out = dir.path().join(more[1]);
        let cut = ["--lines", "1", "--min-tokens", "10"];
        dedup(&[&input], &out, &[&more[..], &cut].concat()).exits(0);
        let found = hashes(&out);
        assert_eq!(*expected.get_or_insert(found.clone()), found);
    }
    let counts = &manifest(&dir.path().join("3"))["counts"];
    assert_eq!((&counts["exact"], &counts["fuzzy"]), (&2_000.into(), &2_000.into()));
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
        dedup(&[&input], &out, &["--keep", keep]).exits(0);
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
        dedup(&[&input], &out, &more).exits(0);
        assert_eq!(rows(&out).len(), kept, "{more:?}");
    }
    let zero = dir.path().join("zero");
    for wrong in [
        &["--bands", "0", "--rows", "8"][..],
        &["--bands", "14"],
        &["--threshold", "0"],
        &["--threshold", "1.5"],
        &["--keep", "score"],
        &["--no-exact", "--no-fuzzy", "--write-index", "index"],
        &["--annotate", "--removed-only"],
        &["--preset", "unknown"],
    ] {
        dedup(&[&input], &zero, wrong).exits(2);
    }
}

/// Stage by stage is the same as all at once; a dataset is an input like any other.
#[test]
fn dedup_then_tokenize_equals_prep() {
    let dir = temp();
    let [clean, tokens, whole] = ["clean", "tokens", "whole"].map(|name| dir.path().join(name));
    dedup(&[&sample()], &clean, &[]).exits(0);
    forebay(["tokenize", clean.to_str().unwrap(), "--out", tokens.to_str().unwrap()]).exits(0);
    prep(&[&sample()], &whole, &["--no-shuffle"]).exits(0);
    assert!(rows(&tokens) == rows(&whole), "ids and sources are carried through");
    let parents = manifest(&tokens)["lineage"]["parents"].as_array().unwrap().clone();
    let parent = blake3::hash(&std::fs::read(clean.join("manifest.json")).unwrap()).to_hex();
    assert_eq!(parents, [parent.as_str()]);
}
