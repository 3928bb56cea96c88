//! `--compat datatrove`: its files in, its files out.

use std::fs;

use crate::support::*;

#[test]
fn signatures_and_removals_are_written_in_its_format() {
    let dir = temp();
    let words = prose(1, 60, 1 << 40).join(" ");
    let lines =
        [line("a", &words), line("b", "something else altogether, really"), line("c", &words)];
    let first = write(dir.path().join("0.jsonl"), lines.concat());
    let second = write(dir.path().join("1.jsonl"), [line("d", "x"), line("e", &words)].concat());
    let out = dir.path().join("out");
    let compat = ["--compat", "datatrove", "--json"];
    let ran = dedup(&[&first, &second], &out, &compat).exits(0).json();
    assert_eq!((&ran["removed"], &ran["clusters"]), (&2.into(), &1.into()));
    let file = |path: &str| fs::read(out.join(path)).unwrap();
    assert_eq!(file("signatures/bucket_000/00000.minhash.sig").len(), 2 * 68);
    assert_eq!(file("signatures/bucket_013/00001.minhash.sig").len(), 68);
    assert_eq!(file("remove/000000.remove"), 2_u32.to_le_bytes());
    assert_eq!(file("remove/000001.remove"), 1_u32.to_le_bytes());

    // From signatures alone, as its own first stage would have left them.
    let again = dir.path().join("again");
    let signatures = out.join("signatures");
    dedup(&[&signatures], &again, &compat).exits(0);
    assert_eq!(hashes(&again.join("remove")), hashes(&out.join("remove")));
    fs::write(signatures.join("bucket_003/00001.minhash.sig"), [0; 67]).unwrap();
    let torn = dir.path().join("torn");
    dedup(&[&signatures], &torn, &["--compat", "datatrove"])
        .complains(&["00001.minhash.sig", "68"]);
    dedup(&[&first], &torn, &["--compat", "datatrove", "--char"]).exits(2);
    dedup(&[&first], &torn, &["--compat", "datatrove", "--lines", "1"]).exits(2);
}
