use crate::support::*;

#[test]
fn a_dataset_is_shown_with_counts_lengths_and_text() {
    let path = prepared().to_str().unwrap();
    let shown = forebay(["inspect", path, "--json", "--samples", "2"]).exits(0).json();
    let rows = rows(prepared());
    assert_eq!(shown["schema"].as_array().unwrap().len(), 4);
    let lengths = shown["token_lengths"].as_array().unwrap();
    for bucket in lengths {
        let range = bucket["from"].as_u64().unwrap()..=bucket["to"].as_u64().unwrap();
        let count = rows.iter().filter(|r| range.contains(&(r.tokens.len() as u64))).count();
        assert_eq!(bucket["documents"], count, "{range:?}");
    }
    for (shown, row) in shown["samples"].as_array().unwrap().iter().zip(&rows) {
        assert_eq!(shown["id"], row.id);
        let text = shown["text"].as_str().unwrap();
        assert_eq!(text.strip_suffix("<|endoftext|>"), row.text.as_deref());
    }
    let text = forebay(["inspect", path]).exits(0).stdout;
    assert!(text.contains("documents") && text.contains("gpt2") && text.contains('▆'), "{text}");
}

#[test]
fn inputs_are_shown_before_they_are_prepared() {
    let shown = forebay(["inspect", sample().to_str().unwrap(), "--json", "--samples", "9"]);
    let shown = shown.exits(0).json();
    let formats: Vec<_> =
        shown["inputs"].as_array().unwrap().iter().map(|i| &i["format"]).collect();
    assert_eq!(formats, ["jsonl", "jsonl", "jsonl", "parquet", "text"]);
    assert_eq!(shown["samples"].as_array().unwrap().len(), 9);
    forebay(["inspect", "/no/such/path"]).complains(&["/no/such/path"]);
}

#[test]
fn tokens_are_shown_with_their_boundaries() {
    let dir = temp();
    let text = "Hello, world!\n日本 a|b";
    let input = write(dir.path().join("in.jsonl"), line("x", "first") + &line("y", text));
    let (path, corpus) = (input.to_str().unwrap(), dir.path().join("corpus"));
    let dataset = corpus.to_str().unwrap();
    forebay(["tokenize", path, "--out", dataset]).exits(0);

    let shown = forebay(["inspect", dataset, "--tokens"]).exits(0).stdout;
    assert!(shown.contains("document x from") && shown.contains("first|<\\|endoftext"), "{shown}");
    assert!(shown.contains("Hello|,| world|!|⏎\n"), "{shown}");
    assert!(shown.contains(" a|\\||b"), "{shown}");

    // What is stored and what is made on the spot agree; EOS is for datasets.
    let args = ["--tokens", "--id", "y", "--json"];
    let stored = forebay([&["inspect", dataset], &args[..]].concat()).exits(0).json();
    let made = forebay([&["inspect", path, "--tokenizer", "gpt2"], &args[..]].concat());
    let made = made.exits(0).json();
    let tokens = stored["documents"][0]["tokens"].as_array().unwrap();
    let (eos, tokens) = tokens.split_last().unwrap();
    assert_eq!(eos["text"], "<|endoftext|>");
    assert_eq!(made["documents"][0]["tokens"].as_array().unwrap(), tokens);
    assert_eq!(
        tokens[0],
        serde_json::json!({ "id": 15496, "text": "Hello", "bytes": "48656c6c6f" })
    );
    let hex: String = tokens.iter().map(|token| token["bytes"].as_str().unwrap()).collect();
    let expected: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
    let row = rows(&corpus).remove(1);
    let ids: Vec<u64> = tokens.iter().map(|token| token["id"].as_u64().unwrap()).collect();
    assert!(ids.iter().zip(&row.tokens).all(|(&a, &b)| a == u64::from(b)));
}

#[test]
fn tokens_of_documents_deep_in_a_dataset_are_found() {
    let rows = rows(prepared());
    let last = rows.last().unwrap();
    let path = prepared().to_str().unwrap();
    let shown = forebay(["inspect", path, "--tokens", "--json", "--id", &last.id]).exits(0).json();
    let ids: Vec<u32> = shown["documents"][0]["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["id"].as_u64().unwrap() as u32)
        .collect();
    assert_eq!(
        (&shown["documents"][0]["source"], ids),
        (&last.source.as_str().into(), last.tokens.clone())
    );
    forebay(["inspect", path, "--tokens", "--tokenizer", "gpt2"]).exits(2);
    forebay(["inspect", path, "--id", "x"]).exits(2);
    let missing = forebay(["inspect", path, "--tokens", "--id", "no such"]).exits(1);
    assert!(missing.stderr.contains("no such"), "{}", missing.stderr);
}
