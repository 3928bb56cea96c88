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
