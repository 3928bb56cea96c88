use std::path::Path;

use forebay_shard::input::{self, Source};
use forebay_shard::manifest::{self, Counts, FileEntry, Lineage, Manifest, ShardEntry};
use forebay_shard::{Error as ShardError, index};
use forebay_store::{create_dir, publish_bytes};
use forebay_transform::tokenize::{Tokenizer, Vocabulary};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::dedup::{self, Survivors};
use crate::plan::{Execution, Options, Plan};
use crate::progress::{Progress, Unit};
use crate::spool::Part;
use crate::work::{Start, Work};
use crate::{Error, Result, read, removed, write};

/// A dataset and how it came to be.
#[derive(Debug)]
pub struct Finished {
    /// Of the dataset.
    pub manifest: Manifest,
    /// It stood there before.
    pub already: bool,
    /// An earlier, interrupted run did a part of it.
    pub resumed: bool,
    /// What the user should know, once.
    pub notes: Vec<String>,
}

/// Makes a dataset in `out` of `inputs`, or goes on where an interrupted run of the same stopped.
///
/// `stage` is the verb, for the lineage. `vocabulary` is needed if the options say tokenize.
///
/// # Errors
/// Whatever stops it; what is done is kept, and the same call resumes.
pub fn run(
    stage: &str,
    inputs: &[String],
    out: &Path,
    options: &Options,
    vocabulary: Option<&Vocabulary>,
    execution: &Execution,
    progress: &Progress,
) -> Result<Finished> {
    let sources = input::discover(inputs, &options.input, Some(out))?;
    let input_bytes = sources.iter().flat_map(Source::files).map(|file| file.bytes).sum();
    let plan = Plan {
        version: Plan::VERSION,
        stage: stage.to_owned(),
        inputs: inputs.to_vec(),
        sources,
        options: options.clone(),
        tokenizer: vocabulary.map(|vocabulary| vocabulary.blake3.clone()),
        part_bytes: Plan::part_bytes(input_bytes),
        spool: out.to_path_buf(),
    };
    let work = match Work::open(out, plan, execution.tmp_dir.as_deref(), execution.fresh)? {
        Start::Unfinished(work) => *work,
        Start::Finished(manifest) => {
            let (manifest, notes) = (*manifest, Vec::new());
            return Ok(Finished { manifest, already: true, resumed: false, notes });
        }
    };
    let resumed = work.resumed;
    allow_many_files();

    let load = || {
        let loaded = load_tokenizer(&work, vocabulary);
        if loaded.is_err() {
            // No need to read on for hours.
            progress.cancel();
        }
        loaded
    };
    let read_and_dedup = || {
        let parts = read::run(&work, execution, progress)?;
        let survivors = dedup::run(&work, &parts, execution, progress)?;
        Ok::<_, Error>((parts, survivors))
    };
    // A large vocabulary takes seconds to build: with a thread to spare, meanwhile.
    let (tokenizer, (parts, survivors)) = if execution.threads <= 1 {
        (load()?, read_and_dedup()?)
    } else {
        std::thread::scope(|scope| {
            let loading = scope.spawn(load);
            let done = read_and_dedup();
            if !loading.is_finished() {
                progress.start("load", Unit::Steps, 0);
            }
            let tokenizer = loading.join().unwrap_or_else(|p| std::panic::resume_unwind(p))?;
            Ok::<_, Error>((tokenizer, done?))
        })?
    };
    let counts = count(&parts, &survivors);
    if counts.read == 0 && counts.skipped.is_empty() {
        work.abandon();
        return Err(Error::NoDocuments { inputs: inputs.join(" ") });
    }
    let shards = write::run(&work, &parts, &survivors, tokenizer.as_ref(), execution, progress)?;

    progress.start("finish", Unit::Steps, 0);
    let removed = removed::run(&work, &parts, &survivors)?;
    let manifest = publish(&work, shards, removed, counts, tokenizer.as_ref(), vocabulary)?;
    work.finish();
    let notes = tokenizer.iter().filter_map(|t| t.note().map(str::to_owned)).collect();
    Ok(Finished { manifest, already: false, resumed, notes })
}

/// All parts of the spool are open at once: take as many descriptors as the system gives.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it, the error of a run with thousands of parts says what to do.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn load_tokenizer(work: &Work, vocabulary: Option<&Vocabulary>) -> Result<Option<Tokenizer>> {
    let options = work.plan.options.steps.tokenize.as_ref();
    Ok(match (options, vocabulary) {
        (Some(options), Some(vocabulary)) => Some(Tokenizer::load(vocabulary, options)?),
        _ => None,
    })
}

fn count(parts: &[Part], survivors: &Survivors) -> Counts {
    let mut counts = Counts::default();
    for part in parts {
        counts.read += u64::from(part.footer.documents);
        counts.read_bytes += part.footer.text_bytes;
        counts.replaced += part.footer.replaced;
        for skipped in &part.footer.skipped {
            *counts.skipped.entry(skipped.reason.name().to_owned()).or_default() += 1;
        }
    }
    survivors.count(&mut counts);
    counts
}

/// Index, tokenizer, and last of all the manifest.
fn publish(
    work: &Work,
    shards: Vec<ShardEntry>,
    removed: Vec<FileEntry>,
    counts: Counts,
    tokenizer: Option<&Tokenizer>,
    vocabulary: Option<&Vocabulary>,
) -> Result<Manifest> {
    let out = &work.out;
    create_dir(out)?;
    let mut index = None;
    if tokenizer.is_some() {
        index::write(&out.join(manifest::INDEX), shards.len(), |number| {
            let shard = work.shard(number).map(|(_, index)| index);
            shard.ok_or_else(|| ShardError::file(out, format!("shard {number} has gone")))
        })?;
        index = Some(FileEntry::of(out, manifest::INDEX)?);
    }
    let entry = tokenizer.map(|tokenizer| tokenizer.entry().clone());
    if let (Some(entry), Some(vocabulary)) = (&entry, vocabulary)
        && entry.name == manifest::TOKENIZER
    {
        publish_bytes(&out.join(manifest::TOKENIZER), &vocabulary.bytes)?;
    }
    let sum = |of: fn(&ShardEntry) -> u64| shards.iter().map(of).sum::<u64>();
    let plan = &work.plan;
    let manifest = Manifest {
        format: "forebay".into(),
        version: manifest::VERSION,
        created_by: concat!("forebay ", env!("CARGO_PKG_VERSION")).into(),
        documents: sum(|shard| shard.documents),
        tokens: tokenizer.map(|_| sum(|shard| shard.tokens)),
        text_bytes: sum(|shard| shard.text_bytes),
        index,
        removed,
        tokenizer: entry,
        lineage: Lineage {
            stage: plan.stage.clone(),
            inputs: plan.inputs.clone(),
            input_files: plan.files().count() as u64,
            input_bytes: plan.input_bytes(),
            fingerprint: plan.fingerprint(),
            options: serde_json::to_value(&plan.options).unwrap_or_default(),
            parents: parents(plan),
        },
        counts,
        shards,
    };
    publish_bytes(&out.join(manifest::FILE), &manifest.to_bytes())?;
    Ok(manifest)
}

/// blake3 of the manifests of those inputs that are datasets.
fn parents(plan: &Plan) -> Vec<String> {
    let manifests = plan.inputs.iter().map(|input| Path::new(input).join(manifest::FILE));
    let bytes = manifests.filter_map(|path| std::fs::read(path).ok());
    bytes.map(|bytes| blake3::hash(&bytes).to_hex().to_string()).collect()
}
