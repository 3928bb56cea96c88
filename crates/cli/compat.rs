//! datatrove's stages over datatrove's files.

use std::path::Path;

use forebay_pipeline::{Execution, Steps, datatrove};
use forebay_shard::input;
use forebay_transform::dedup::datatrove::Parameters;
use serde_json::json;

use crate::args::{Global, Inputs};
use crate::duplicates::DedupArgs;
use crate::format;
use crate::progress::Bar;
use crate::report::{Report, Usage};
use crate::run::stop_on_signals;

/// Texts → signatures → clusters, or on from a folder of signatures or of pairs.
pub fn run(
    inputs: &Inputs,
    out: &Path,
    dedup: &DedupArgs,
    global: &Global,
    report: &mut Report,
) -> anyhow::Result<()> {
    let parameters = parameters(dedup)?;
    let execution = Execution {
        threads: global.threads(),
        memory_bytes: global.memory(),
        tmp_dir: None,
        fresh: false,
        verify_tokens: 0.0,
        stats: false,
        keep_going: false,
    };
    let bar = Bar::start(!global.quiet && !global.no_progress, global.verbose, stop_on_signals()?);
    let progress = bar.progress();
    let folder = match inputs.inputs.as_slice() {
        [one] => Some(Path::new(one)).filter(|path| path.is_dir()),
        _ => None,
    };
    let has_pairs = |folder: &Path| folder.join("00000_00.dups").is_file();
    let has_signatures = |folder: &Path| folder.join("bucket_000").is_dir();
    let mut signed = None;
    let clustered = match folder {
        Some(folder) if has_pairs(folder) => datatrove::cluster_pairs(folder, out, progress)?,
        Some(folder) if has_signatures(folder) => {
            datatrove::cluster(folder, out, &parameters, &execution, progress)?
        }
        _ => {
            let signatures = out.join("signatures");
            // Stages are redone as a whole; one that is there is taken as it is.
            if !signatures.is_dir() {
                let options = inputs.options();
                let sources = input::discover(&inputs.inputs, &options, Some(out))?;
                let done =
                    datatrove::sign(&sources, &options, &parameters, out, &execution, progress)?;
                signed = Some(done);
            }
            datatrove::cluster(&signatures, out, &parameters, &execution, progress)?
        }
    };
    drop(bar);
    let out = out.display();
    if let Some(signed) = &signed {
        report.line(format!(
            "sign    {:>14} documents of {} files   in {out}/signatures",
            format::count(signed.signed),
            format::count(signed.files)
        ));
        let skipped: u64 = signed.skipped.values().sum();
        if skipped > 0 {
            report.line(format!("skip    {:>14} records", format::count(skipped)));
            report.skipped();
        }
    }
    report.line(format!(
        "cluster {:>14} clusters, the largest of {}",
        format::count(clustered.clusters),
        format::count(clustered.largest)
    ));
    report.line(format!(
        "remove  {:>14} documents   listed in {out}/remove",
        format::count(clustered.removed)
    ));
    report.json(json!({
        "signed": signed.map(|signed| json!({
            "files": signed.files,
            "documents": signed.documents,
            "signed": signed.signed,
            "empty": signed.empty,
            "skipped": signed.skipped.values().sum::<u64>(),
        })),
        "documents": clustered.documents,
        "pairs": clustered.pairs,
        "clusters": clustered.clusters,
        "duplicates": clustered.duplicates,
        "largest_cluster": clustered.largest,
        "removed": clustered.removed,
    }));
    Ok(())
}

/// datatrove knows words only, and keeps by its own rules.
fn parameters(dedup: &DedupArgs) -> anyhow::Result<Parameters> {
    let (steps, args) = (dedup.steps()?, dedup.recipe());
    let wrong = |what: &str| Err(Usage(format!("--compat datatrove: {what}")).into());
    let plain = Steps { exact: true, fuzzy: steps.fuzzy, ..Steps::default() };
    if steps != plain || !args.against.is_empty() || args.write_index.is_some() {
        return wrong("expected only --ngram, --bands and --rows: it knows nothing else");
    }
    match steps.fuzzy {
        None => wrong("expected fuzzy dedup, found --no-fuzzy"),
        Some(fuzzy) if fuzzy.unit == forebay_transform::dedup::shingle::Unit::Char => {
            wrong("expected shingles of words, found characters")
        }
        Some(fuzzy) => Ok(Parameters {
            ngram: fuzzy.ngram,
            buckets: fuzzy.bands,
            rows: fuzzy.rows,
            ..Parameters::default()
        }),
    }
}
