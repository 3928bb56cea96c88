//! Cuts: lines, paragraphs and substrings that repeat, against slow and obvious oracles.

use std::collections::HashMap;
use std::path::Path;

use crate::support::*;

const ALONE: [&str; 2] = ["--no-exact", "--no-fuzzy"];

fn cut(texts: &[String], directory: &Path, more: &[&str]) -> Vec<String> {
    let lines: String =
        texts.iter().zip(0..).map(|(text, n)| line(&format!("{n:04}"), text)).collect();
    let input = write(directory.join("in.jsonl"), lines);
    let out = directory.join("out");
    let _ = std::fs::remove_dir_all(&out);
    dedup(&[&input], &out, &[&ALONE, more].concat()).exits(0);
    forebay(["verify", out.to_str().unwrap()]).exits(0);
    rows(&out).into_iter().map(|row| row.text.unwrap()).collect()
}

#[test]
fn lines_that_repeat_are_cut_but_for_the_first() {
    let dir = temp();
    let texts = ["menu\nabout  bees\n", "menu\r\nabout cats", "x\n\n menu \ny\nabout bees", "menu"];
    let texts = texts.map(str::to_owned);
    let all = cut(&texts, dir.path(), &["--lines", "1"]);
    assert_eq!(all, ["menu\nabout  bees\n", "about cats", "x\n\ny\n"]);
    let out = dir.path().join("out");
    let counts = manifest(&out)["counts"].clone();
    assert_eq!((&counts["cut"], &counts["kept"]), (&1.into(), &3.into()));
    let removed = removed(&out);
    let reasons: Vec<&str> = removed.iter().map(|row| row.reason.as_str()).collect();
    assert_eq!(reasons, ["line", "line", "line", "cut"]);
    assert_eq!(removed[0].survivor.as_deref(), Some("0000"));
    assert_eq!(removed[0].detail.as_deref(), Some("bytes 0..6"));

    // Two and three times are few enough.
    assert_eq!(cut(&texts, dir.path(), &["--lines", "2"])[1], "about cats");
    assert_eq!(cut(&texts, dir.path(), &["--lines", "4"]), texts);
}

#[test]
fn paragraphs_that_repeat_are_cut_but_for_the_first() {
    let dir = temp();
    let texts = ["a\nb\n\nc", "c\n\na\n b\n\nd", "a\n\nb"].map(str::to_owned);
    let all = cut(&texts, dir.path(), &["--paragraphs", "1"]);
    assert_eq!(all, ["a\nb\n\nc", "d", "a\n\nb"]);
}

/// Every window of `tokens` words that stood before is marked; what is marked goes.
fn oracle(texts: &[String], tokens: usize) -> Vec<String> {
    let mut seen: HashMap<String, ()> = HashMap::new();
    let mut kept = Vec::new();
    for text in texts {
        let words: Vec<(usize, usize)> = text
            .split_inclusive(' ')
            .scan(0, |at, word| {
                let start = *at;
                *at += word.len();
                Some((start, start + word.trim_end().len()))
            })
            .collect();
        let mut marked = vec![false; text.len()];
        for window in words.windows(tokens) {
            let range = window[0].0..window[tokens - 1].1;
            if seen.insert(text[range.clone()].to_owned(), ()).is_some() {
                marked[range].fill(true);
            }
        }
        let bytes = text.bytes().zip(marked).filter(|(_, marked)| !marked).map(|(byte, _)| byte);
        let text = String::from_utf8(bytes.collect()).unwrap();
        if !text.trim().is_empty() {
            kept.push(text);
        }
    }
    kept
}

#[test]
fn substrings_that_repeat_are_cut_as_an_oracle_says() {
    let dir = temp();
    // Few words: repeats of all lengths, within documents and across them.
    for (seed, vocabulary, tokens) in [(1, 3, 8), (2, 2, 10), (3, 8, 4), (4, 1 << 20, 5)] {
        let mut texts: Vec<String> =
            (0..40).map(|n| prose(100 * seed + n, 10 + 7 * n, vocabulary).join(" ")).collect();
        // A passage of one document in another, and one document in itself.
        let passage: Vec<&str> = texts[30].split(' ').skip(20).take(60).collect();
        let passage = passage.join(" ");
        texts[35] = format!("before {passage} after");
        texts[36] = format!("{0} {0}", texts[36]);
        texts[38] = vec!["same"; 200].join(" ");
        let found = cut(&texts, dir.path(), &["--min-tokens", &tokens.to_string()]);
        assert_eq!(found, oracle(&texts, tokens), "seed {seed}");
    }
}

#[test]
fn cuts_of_several_kinds_do_not_overlap() {
    let dir = temp();
    let words = prose(1, 60, 1 << 40).join(" ");
    let texts = [format!("head\n{words}\n\ntail"), format!("head\n{words}\n\nend"), "new".into()];
    let more = ["--lines", "1", "--paragraphs", "1", "--min-tokens", "20"];
    assert_eq!(cut(&texts, dir.path(), &more), [&texts[0], "end", "new"].map(str::to_owned));
}

/// What documents that go for others hold does not count.
#[test]
fn duplicates_go_before_anything_is_cut() {
    let dir = temp();
    let text = format!("title\n{}", prose(1, 100, 1 << 40).join(" "));
    let input = write(dir.path().join("in.jsonl"), [line("a", &text), line("b", &text)].concat());
    let out = dir.path().join("out");
    dedup(&[&input], &out, &["--lines", "1"]).exits(0);
    assert_eq!(rows(&out)[0].text.as_ref(), Some(&text));
    assert_eq!(rows(&out).len(), 1);
}

#[test]
fn repeated_text_may_be_masked_instead() {
    let dir = temp();
    let texts = ["menu\nbees\n", "cats\nmenu\n", "menu"].map(str::to_owned);
    let all = cut(&texts, dir.path(), &["--lines", "1", "--cuts", "mask"]);
    assert_eq!(all, texts);
    let out = dir.path().join("out");
    assert_eq!(column_names(&out).last().unwrap(), "masked");
    assert_eq!(lists(&out, "masked"), [vec![], vec![5, 10], vec![0, 4]]);
    prep(&[&sample()], &dir.path().join("prep"), &["--cuts", "mask"]).exits(2);
}

#[test]
fn a_survivor_of_which_nothing_is_left_hands_its_cluster_on() {
    let dir = temp();
    let lines = [line("a", "x\ny\nz"), line("b", "y\nx"), line("c", "y \nx")];
    let input = write(dir.path().join("in.jsonl"), lines.concat());
    let out = dir.path().join("out");
    dedup(&[&input], &out, &["--no-fuzzy", "--lines", "1", "--keep", "first"]).exits(0);
    let kept: Vec<String> = rows(&out).into_iter().map(|row| row.id).collect();
    assert_eq!(kept, ["a"]);
    for row in removed(&out) {
        assert_eq!(row.survivor.as_deref(), Some("a"), "{row:?}");
    }
    forebay(["verify", out.to_str().unwrap()]).exits(0);
    dedup(&[&input], &dir.path().join("none"), &["--keep", "none", "--lines", "1"]).exits(2);
}

/// Each piece that is cut names the document in which it stays.
#[test]
fn neighbouring_cuts_name_their_own_origins() {
    let dir = temp();
    cut(&["one\n", "two\n", "one\ntwo\nx"].map(str::to_owned), dir.path(), &["--lines", "1"]);
    let rows = removed(&dir.path().join("out"));
    let origins: Vec<_> = rows.iter().map(|row| row.survivor.as_deref().unwrap()).collect();
    assert_eq!(origins, ["0000", "0001"]);
}

/// A sequence that polynomials modulo powers of two cannot tell from its mirror image.
#[test]
fn thue_morse_texts_are_told_apart() {
    let dir = temp();
    let word =
        |n: u32, flip: u32| if (n.count_ones() + flip).is_multiple_of(2) { "a" } else { "b" };
    let text = |flip| (0..1024).map(|n| word(n, flip)).collect::<Vec<_>>().join(" ") + " end";
    let texts = [text(0), text(1)];
    assert_eq!(cut(&texts, dir.path(), &["--min-tokens", "1025"]), texts);
}
