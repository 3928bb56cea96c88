use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::*;

/// The whole promise at once, against readers and an encoder that share no code with ours.
#[test]
fn every_document_is_kept_whole_or_accounted_for() {
    let dataset = prepared();
    let (rows, removed) = (rows(dataset), removed(dataset));
    let documents = sample_documents();
    assert_eq!(rows.len() + removed.len(), documents.len());

    let mut texts: BTreeMap<&str, usize> = BTreeMap::new();
    documents.iter().for_each(|(_, text)| *texts.entry(text).or_default() += 1);
    let reference = reference();
    for row in &rows {
        let text = row.text.as_deref().unwrap();
        assert!(texts.contains_key(text), "{} has a text that is not in the sample", row.id);
        let mut expected = reference.encode_fast(text, false).unwrap().get_ids().to_vec();
        expected.push(EOS);
        assert!(row.tokens == expected, "{} has other ids than the reference", row.id);
        assert_eq!(reference.decode(&row.tokens[..row.tokens.len() - 1], false).unwrap(), text);
    }
    let ids: BTreeSet<&str> = documents.iter().filter_map(|(id, _)| id.as_deref()).collect();
    let named = rows.iter().map(|r| &r.id).chain(removed.iter().map(|r| &r.id));
    assert_eq!(named.filter(|id| ids.contains(id.as_str())).count(), 474, "39 texts have no id");

    let manifest = manifest(dataset);
    assert_eq!(manifest["documents"], rows.len());
    assert_eq!(manifest["tokens"], rows.iter().map(|r| r.tokens.len()).sum::<usize>());
    assert_eq!(manifest["counts"]["read"], documents.len());
    assert!(manifest["shards"].as_array().unwrap().len() >= 3, "of a MiB each");
}

#[test]
fn output_does_not_depend_on_threads_memory_or_place() {
    let dir = temp();
    let expected = hashes(prepared());
    let tmp = dir.path().join("scratch");
    let more = [
        vec!["--threads", "1"],
        vec!["--threads", "5", "--memory", "1KiB"],
        vec!["--threads", "2", "--tmp-dir", tmp.to_str().unwrap()],
    ];
    for (number, more) in more.iter().enumerate() {
        let out = dir.path().join(number.to_string());
        let args = [&["--keep-text", "--shard-size", "1MiB", "--seed", "7"], more.as_slice()];
        prep(&[&sample()], &out, &args.concat()).exits(0);
        assert_eq!(hashes(&out), expected, "{more:?}");
    }
    assert_eq!(fs::read_dir(tmp).unwrap().count(), 0, "scratch files are gone");
}

#[test]
fn another_seed_is_another_order_of_the_same_documents() {
    let dir = temp();
    let out = dir.path().join("out");
    prep(&[&sample()], &out, &["--keep-text", "--seed", "8"]).exits(0);
    let (mut a, mut b) = (rows(prepared()), rows(&out));
    assert_ne!(a, b);
    a.sort();
    b.sort();
    assert!(a == b);
}

#[test]
fn the_shuffle_mixes_the_inputs_and_no_shuffle_keeps_them_in_order() {
    let dir = temp();
    let out = dir.path().join("out");
    let more =
        ["--keep-text", "--no-shuffle", "--no-fuzzy", "--no-exact", "--shard-size", "700KiB"];
    prep(&[&sample()], &out, &more).exits(0);
    let texts: Vec<_> = rows(&out).into_iter().map(|row| row.text.unwrap()).collect();
    let expected: Vec<_> = sample_documents().into_iter().map(|(_, text)| text).collect();
    assert!(texts == expected);

    let sources: Vec<_> = rows(prepared()).into_iter().map(|row| row.source).collect();
    let changes = sources.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes > sources.len() / 2, "{changes} changes of source in {}", sources.len());
}

#[test]
fn a_pipe_is_an_input_like_any_other() {
    let dir = temp();
    let bytes = fs::read(sample().join("python.jsonl.zst")).unwrap();
    let file = write(dir.path().join("python.jsonl.zst"), &bytes);
    let (piped, read) = (dir.path().join("piped"), dir.path().join("read"));
    prep_stdin(&bytes, &piped, &[]).exits(0);
    prep(&[&file], &read, &[]).exits(0);
    let tokens = |out| rows(out).into_iter().map(|row| (row.id, row.tokens)).collect::<Vec<_>>();
    assert!(tokens(&piped) == tokens(&read));
    // What came through a pipe cannot be compared with what comes now.
    prep_stdin(line("x", "something else").as_bytes(), &piped, &[])
        .complains(&["finished", "pipe"]);
}

#[test]
fn a_finished_run_says_so_and_another_one_is_refused() {
    let dir = temp();
    let out = dir.path().join("out");
    let input = write(dir.path().join("in.jsonl"), line("a", "some words to keep"));
    prep(&[&input], &out, &[]).exits(0);
    let before = hashes(&out);
    let again = prep(&[&input], &out, &["--json"]).exits(0);
    assert_eq!(again.json()["already"], true);
    assert!(again.stderr.contains("finished already"), "{again:?}");
    prep(&[&input], &out, &["--seed", "1"]).complains(&["out", "finished dataset", "options"]);
    write(input.clone(), line("a", "some other words to keep"));
    prep(&[&input], &out, &[]).complains(&["finished dataset"]);
    assert_eq!(hashes(&out), before);
    // Same name, same size, changed since.
    write(input.clone(), line("a", "same words to keep"));
    prep(&[&input], &out, &[]).complains(&["finished dataset", "changed since"]);

    let foreign = dir.path().join("foreign");
    write(foreign.join("thesis.tex"), "do not touch");
    prep(&[&input], &foreign, &[]).complains(&["foreign", "not empty", "thesis.tex"]);
    assert_eq!(fs::read_dir(foreign).unwrap().count(), 1);
}

#[test]
fn an_output_inside_its_input_is_not_input() {
    let dir = temp();
    let input = dir.path().join("data");
    write(input.join("in.jsonl"), line("a", "some text"));
    let out = input.join("out");
    prep(&[&input], &out, &["--keep-text"]).exits(0);
    assert_eq!(prep(&[&input], &out, &["--keep-text", "--json"]).exits(0).json()["already"], true);
    // For another run it is a dataset among the inputs.
    let more = ["--no-exact", "--no-fuzzy"];
    prep(&[&input], &dir.path().join("both"), &more).exits(0);
    assert_eq!(rows(&dir.path().join("both")).len(), 2);
    fs::create_dir(input.join("half")).unwrap();
    fs::create_dir(input.join("half/.work")).unwrap();
    prep(&[&input], &dir.path().join("no"), &more).complains(&["half", "not a dataset"]);
}

/// Many small files: as many spool parts, all open at once.
#[test]
fn many_files_are_no_trouble() {
    let dir = temp();
    let input = dir.path().join("in");
    for n in 0..1_200 {
        write(
            input.join(format!("{n:04}.jsonl")),
            line(&n.to_string(), &format!("file number {n}")),
        );
    }
    let out = dir.path().join("out");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -Sn 256; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_forebay"), "prep"]);
    ran(shell.arg(&input).arg("--out").arg(&out).arg("--no-fuzzy")).exits(0);
    assert_eq!(rows(&out).len(), 1_200);
}

#[test]
fn runs_may_share_a_directory_for_scratch_files() {
    let dir = temp();
    let tmp = dir.path().join("tmp");
    let start = |name: &str| {
        let mut command = binary();
        command.arg("prep").arg(sample()).arg("--out").arg(dir.path().join(name));
        command.arg("--tmp-dir").arg(&tmp).arg("--quiet");
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let children = ["a", "b", "c"].map(start);
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let [a, b, c] = ["a", "b", "c"].map(|name| hashes(&dir.path().join(name)));
    assert!(a == b && b == c);
}

#[test]
fn a_missing_id_is_a_stable_hash_of_source_and_position() {
    let dir = temp();
    let text = "{\"text\":\"one document\"}\n{\"text\":\"and another one\",\"id\":7}\n";
    let input = write(dir.path().join("in.jsonl"), text);
    let out = dir.path().join("out");
    prep(&[&input], &out, &["--no-shuffle"]).exits(0);
    let rows = rows(&out);
    let mut bytes = 0_u64.to_le_bytes().to_vec();
    bytes.extend_from_slice(input.to_str().unwrap().as_bytes());
    assert_eq!(rows[0].id, blake3::hash(&bytes).to_hex()[..32]);
    assert_eq!(rows[1].id, "7");
    assert_eq!(rows[0].source, input.to_str().unwrap());
}

#[test]
fn fields_formats_and_line_ends_are_what_the_user_says() {
    let dir = temp();
    let text = "\u{feff}{\"body\":\"first\",\"key\":\"k1\"}\r\n\r\n  \n{\"key\":\"k2\",\"body\":\"second\"}";
    let input = write(dir.path().join("in.data"), text);
    let out = dir.path().join("out");
    let more = [
        "--text-field",
        "body",
        "--id-field",
        "key",
        "--input-format",
        "jsonl",
        "--keep-text",
        "--no-shuffle",
    ];
    prep(&[&input], &out, &more).exits(0);
    let found: Vec<_> = rows(&out).into_iter().map(|r| (r.id, r.text.unwrap())).collect();
    assert_eq!(found, [("k1".into(), "first".into()), ("k2".into(), "second".into())]);
}

#[test]
fn documents_without_text_are_dropped_and_listed() {
    let dir = temp();
    let lines = [line("a", "words"), line("b", ""), line("c", " \n\t ")].concat();
    let input = write(dir.path().join("in.jsonl"), lines);
    let out = dir.path().join("out");
    let ran = prep(&[&input], &out, &["--json"]).exits(0);
    assert_eq!(ran.json()["counts"]["empty"], 2);
    let removed: Vec<_> = removed(&out).into_iter().map(|r| (r.id, r.reason)).collect();
    assert_eq!(removed, [("b".into(), "empty".into()), ("c".into(), "empty".into())]);
    assert_eq!(rows(&out).len(), 1);
}
