use std::fs;
use std::path::Path;

use crate::support::*;

fn tokenize(input: &Path, out: &Path, more: &[&str]) -> Ran {
    forebay([&["tokenize", input.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat())
}

#[test]
fn eos_is_as_configured() {
    let dir = temp();
    let input = write(dir.path().join("in.jsonl"), line("a", "Hello, world!"));
    for (more, expected) in [
        (vec![], vec![15496, 11, 995, 0, EOS]),
        (vec!["--no-eos"], vec![15496, 11, 995, 0]),
        (vec!["--eos", "!"], vec![15496, 11, 995, 0, 0]),
    ] {
        let out = dir.path().join(format!("out{}", more.join("")));
        tokenize(&input, &out, &more).exits(0);
        assert_eq!(rows(&out)[0].tokens, expected);
    }
    let out = dir.path().join("wrong");
    tokenize(&input, &out, &["--eos", "<nothing>"]).complains(&["<nothing>"]);
    tokenize(&input, &out, &["--eos", "x", "--no-eos"]).exits(2);
    tokenize(&input, &out, &["--tokenizer", "no-such"]).complains(&["no-such"]);
    let broken = write(dir.path().join("broken.json"), "{\"version\":1}");
    tokenize(&input, &out, &["--tokenizer", broken.to_str().unwrap()])
        .complains(&["tokenizer.json"]);
}

#[test]
fn special_tokens_in_a_document_are_tokens_or_text() {
    let dir = temp();
    let input = write(dir.path().join("in.jsonl"), line("a", "a<|endoftext|>b"));
    for (mode, count) in [("parse", 2), ("text", 1)] {
        let out = dir.path().join(mode);
        tokenize(&input, &out, &["--special-tokens", mode]).exits(0);
        assert_eq!(rows(&out)[0].tokens.iter().filter(|&&t| t == EOS).count(), count);
    }
}

/// A file that the fast encoder refuses goes to the reference, which says so once; what a
/// tokenizer.json asks for inference, truncation and padding, is not done to documents.
#[test]
fn other_models_go_to_the_reference_and_documents_stay_whole() {
    let dir = temp();
    let words = ["[UNK]", "[EOS]", "hello", "world", "##s"];
    let vocab: serde_json::Map<_, _> = words
        .iter()
        .zip(0..)
        .map(|(word, id)| ((*word).to_owned(), serde_json::json!(id)))
        .collect();
    let json = serde_json::json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [{"id": 1, "content": "[EOS]", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    let file = write(dir.path().join("model/tokenizer.json"), json.to_string());
    let input = write(dir.path().join("in.jsonl"), line("a", "Hello worlds hello mars"));
    let out = dir.path().join("out");
    let ran =
        tokenize(&input, &out, &["--tokenizer", file.parent().unwrap().to_str().unwrap()]).exits(0);
    assert!(ran.stderr.contains("reference encoder"), "{ran:?}");
    assert_eq!(rows(&out)[0].tokens, [2, 3, 4, 2, 0, 1]);
    // The dataset carries its tokenizer: it is read without the file it was made with.
    fs::remove_dir_all(dir.path().join("model")).unwrap();
    let shown = forebay(["inspect", "--json", out.to_str().unwrap()]).exits(0).json();
    assert_eq!(shown["samples"][0]["text"], "hello worlds hello [UNK] [EOS]");
    forebay(["verify", out.to_str().unwrap()]).exits(0);

    let mut random = json;
    random["model"] = serde_json::json!({"type": "BPE", "dropout": 0.1, "vocab": {}, "merges": []});
    let file = write(dir.path().join("random.json"), random.to_string());
    tokenize(&input, &dir.path().join("no"), &["--tokenizer", file.to_str().unwrap()]);
    let ran = tokenize(&input, &dir.path().join("no"), &["--tokenizer", file.to_str().unwrap()]);
    assert!(ran.code == 1 && ran.stderr.contains("dropout"), "{ran:?}");
}
