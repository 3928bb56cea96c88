//! Decontamination: what stands in evaluation sets does not go into training data.

use crate::support::*;

#[test]
fn documents_that_share_an_ngram_are_dropped_or_listed() {
    let dir = temp();
    let question = prose(1, 20, 1 << 40);
    let evals = write(
        dir.path().join("evals.jsonl"),
        format!(
            "{}{}",
            serde_json::json!({ "id": "q7", "question": question.join(" ") }),
            "\n{\"id\":\"short\",\"question\":\"too short to match\"}\n"
        ),
    );
    let leaked = format!("before, {}! after", question[2..16].join(",  ").to_uppercase());
    let close = format!("before {} after", question[2..14].join(" "));
    let lines =
        [line("leaked", &leaked), line("close", &close), line("short", "too short to match")];
    let input = write(dir.path().join("in.jsonl"), lines.concat());
    let evals = evals.to_str().unwrap();
    let args = ["--against-evals", evals, "--eval-field", "question"];

    let out = dir.path().join("dropped");
    let ran = dedup(&[&input], &out, &args).exits(0);
    assert!(ran.stderr.contains("1 evaluation records have fewer than 13 words"), "{ran:?}");
    let kept: Vec<_> = rows(&out).into_iter().map(|row| row.id).collect();
    assert_eq!(kept, ["close", "short"]);
    let listed = removed(&out);
    assert_eq!((listed[0].id.as_str(), listed[0].reason.as_str()), ("leaked", "eval"));
    let detail = listed[0].detail.as_ref().unwrap();
    let span = question[2..16].join(",  ").to_uppercase();
    assert!(
        detail.starts_with(&format!("bytes 8..{} are in q7 of {evals}: {span}", 8 + span.len())),
        "{detail}"
    );
    assert_eq!(manifest(&out)["counts"]["evals"], 1);
    forebay(["verify", out.to_str().unwrap()]).exits(0);

    let out = dir.path().join("reported");
    dedup(&[&input], &out, &[&args[..], &["--evals", "report"]].concat()).exits(0);
    assert_eq!(rows(&out).len(), 3);
    assert_eq!(removed(&out)[0].reason, "eval-reported");
    forebay(["verify", out.to_str().unwrap()]).exits(0);

    let out = dir.path().join("wide");
    dedup(&[&input], &out, &[&args[..], &["--eval-ngram", "12"]].concat()).exits(0);
    assert_eq!(rows(&out).len(), 1);
    // Another set of the same name is another run.
    let changed = serde_json::json!({ "id": "q8", "question": prose(2, 20, 1 << 40).join(" ") });
    std::fs::write(evals, format!("{changed}\n")).unwrap();
    dedup(&[&input], &dir.path().join("dropped"), &args).complains(&["other"]);
    std::fs::write(evals, "{\"question\":\"short\"}\n").unwrap();
    dedup(&[&input], &dir.path().join("short"), &args).complains(&["at least 13 words"]);
    std::fs::write(evals, "{\"question\":null}\n").unwrap();
    let skip = [&args[..], &["--on-error", "skip"]].concat();
    dedup(&[&input], &dir.path().join("null"), &skip).complains(&["evaluation sets", "question"]);
    dedup(&[&input], &dir.path().join("none"), &["--against-evals", "/no/such.jsonl"])
        .complains(&["/no/such.jsonl"]);
}
