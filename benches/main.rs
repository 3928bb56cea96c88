//! `cargo bench`: the arithmetic on one core, over the sample. Whole runs against peers are in
//! `tools/compare`, their results in `benches/results`.

#![allow(clippy::unwrap_used, reason = "a bench that unwraps says where it failed")]

mod dedup;
mod load;
mod sketch;
mod store;
mod tokenize;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use forebay_shard::input::{self, Cursor};

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        sketch::print_curve();
    }
    divan::main();
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sample")
}

/// All texts of the sample, 4.4 MB.
static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let options = input::Options::default();
    let inputs = [sample().to_string_lossy().into_owned()];
    let mut texts = Vec::new();
    for source in input::discover(&inputs, &options, None).unwrap() {
        let mut cursor = Cursor::new(&source, &options, 1 << 20, &std::sync::Arc::default());
        while let Some(part) = cursor.next_part().unwrap() {
            let documents = part.parse(&options).unwrap().documents;
            texts.extend(documents.texts.iter().map(str::to_owned));
        }
    }
    texts
});

fn bytes() -> divan::counter::BytesCount {
    divan::counter::BytesCount::new(TEXTS.iter().map(String::len).sum::<usize>())
}
