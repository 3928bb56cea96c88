use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_pipeline::{Execution, Fuzzy, Options, Progress, Steps, tokenize};
use pyo3::prelude::*;
use serde_json::json;

use crate::error;

/// How often Ctrl-C is looked for.
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// `forebay prep` with its main options; returns JSON. Ctrl-C stops it after the unit in hand.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "by name, from `forebay.prep`")]
#[pyo3(signature = (
    inputs, out, *, tokenizer, seed, keep_text, dedup, shard_bytes, threads, memory_bytes, tmp_dir,
    fresh, text_field,
))]
pub(crate) fn prep(
    py: Python<'_>,
    inputs: Vec<String>,
    out: PathBuf,
    tokenizer: &str,
    seed: Option<u64>,
    keep_text: bool,
    dedup: &str,
    shard_bytes: u64,
    threads: usize,
    memory_bytes: u64,
    tmp_dir: Option<PathBuf>,
    fresh: bool,
    text_field: Option<String>,
) -> PyResult<String> {
    let (exact, fuzzy) = match dedup {
        "none" => (false, None),
        "exact" => (true, None),
        "fuzzy" => (true, Some(Fuzzy::default())),
        other => {
            let message = format!("dedup: expected fuzzy, exact or none, found {other:?}");
            return Err(error::config(&message));
        }
    };
    let special_tokens = tokenize::SpecialTokens::Parse;
    let tokens = tokenize::Options { eos: tokenize::EosPolicy::Auto, special_tokens };
    let mut options = Options {
        steps: Steps { exact, fuzzy, tokenize: Some(tokens), shuffle: seed, ..Steps::default() },
        keep_text,
        shard_bytes,
        ..Options::default()
    };
    if let Some(field) = text_field {
        options.input.text_field = field;
    }
    let execution =
        Execution { threads, memory_bytes, tmp_dir, fresh, verify_tokens: 0.0, stats: false };
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Progress::new(Arc::clone(&stop));
    let work = || -> forebay_pipeline::Result<_> {
        let vocabulary = tokenize::Vocabulary::open(tokenizer)?;
        let some = Some(&vocabulary);
        forebay_pipeline::run("prep", &inputs, &out, &options, some, &execution, &progress)
    };
    // The run has a thread of its own, so that this one can look for signals.
    let (finished, signal) = py.detach(|| {
        std::thread::scope(|scope| {
            let run = scope.spawn(work);
            let mut signal = None;
            while !run.is_finished() {
                std::thread::sleep(LOOK);
                if signal.is_none() {
                    signal = Python::attach(|py| py.check_signals().err());
                    stop.store(signal.is_some(), Ordering::Relaxed);
                }
            }
            (run.join(), signal)
        })
    });
    if let Some(signal) = signal {
        return Err(signal);
    }
    let finished = finished.map_err(|_| error::config("a thread of the run panicked"))?;
    let finished = finished.map_err(|e| error::pipeline(&e))?;
    let manifest = &finished.manifest;
    let found = json!({
        "out": out,
        "already": finished.already,
        "resumed": finished.resumed,
        "documents": manifest.documents,
        "tokens": manifest.tokens,
        "text_bytes": manifest.text_bytes,
        "counts": manifest.counts,
        "shards": manifest.shards.len(),
        "notes": finished.notes,
    });
    Ok(found.to_string())
}
