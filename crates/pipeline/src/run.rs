use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forebay_shard::format::Layout;
use forebay_shard::input::{self, Source};
use forebay_shard::manifest::{
    self, Counts, FileEntry, LargeCluster, Lineage, Manifest, ShardEntry,
};
use forebay_shard::{Error as ShardError, index};
use forebay_store::{create_dir, publish_bytes};
use forebay_transform::tokenize::{Pieces, Tokenizer, Verifier, Vocabulary};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::corpus::Corpus;
use crate::cuts::Cuts;
use crate::evals::Evals;
use crate::index::{self as dedup_index, Index};
use crate::outcome::Outcome;
use crate::part::Part;
use crate::plan::{Execution, Form, Options, Plan};
use crate::progress::{Progress, Unit};
use crate::stats::Stats;
use crate::survivors::{Clustering, Survivors};
use crate::task::Share;
use crate::work::{Start, Work};
use crate::write::Encoder;
use crate::{Error, Result, cuts, dedup, read, removed, write};

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
    /// What was written, if it was to be counted and was not there before.
    pub stats: Option<Stats>,
    /// CPU time that building the vocabulary's tables took.
    pub loading: Duration,
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
    let asked = Asked::new(stage, inputs, out, options, vocabulary)?;
    let work =
        match Work::open(out, asked.plan.clone(), execution.tmp_dir.as_deref(), execution.fresh)? {
            Start::Unfinished(work) => *work,
            Start::Finished(manifest) => return Ok(Finished::already(*manifest)),
        };
    allow_many_files();

    let load = || {
        let start = cpu_time();
        let loaded = load_tokenizer(&work, vocabulary);
        if loaded.is_err() {
            // No need to read on for hours.
            progress.cancel();
        }
        loaded.map(|tokenizer| (tokenizer, cpu_time().saturating_sub(start)))
    };
    let find = || {
        let parts = read::run(&work, asked.evals.as_ref(), execution, progress)?;
        asked.find(&work, parts, execution, progress)
    };
    // A large vocabulary takes seconds to build: with a thread to spare, meanwhile.
    let ((tokenizer, loading), found) = if execution.threads <= 1 {
        (load()?, find()?)
    } else {
        std::thread::scope(|scope| {
            let loading = scope.spawn(load);
            let found = find();
            if !loading.is_finished() {
                progress.start("load", Unit::Steps, 0);
            }
            let tokenizer = loading.join().unwrap_or_else(|p| std::panic::resume_unwind(p))?;
            Ok::<_, Error>((tokenizer, found?))
        })?
    };
    let tokenizer = tokenizer.as_ref();
    let finished = asked.finish(work, &found, tokenizer, vocabulary, execution, progress)?;
    Ok(Finished { loading, ..finished })
}

/// Of this thread.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What is known of all documents before they are written.
pub(crate) struct Found {
    corpus: Corpus,
    survivors: Survivors,
    clustering: Clustering,
    cuts: Cuts,
}

impl Found {
    pub(crate) fn new(corpus: Corpus, survivors: Survivors, cuts: Cuts) -> Self {
        let clustering = survivors.clusters();
        Self { corpus, survivors, clustering, cuts }
    }

    pub(crate) fn outcome(&self) -> Outcome<'_> {
        let Self { corpus, survivors, clustering, cuts } = self;
        Outcome { corpus, survivors, clustering, cuts }
    }
}

/// A run that was asked for, looked up: its inputs and what it goes against.
pub(crate) struct Asked {
    pub(crate) plan: Plan,
    against: Vec<Index>,
    pub(crate) evals: Option<Arc<Evals>>,
}

impl Asked {
    pub(crate) fn new(
        stage: &str,
        inputs: &[String],
        out: &Path,
        options: &Options,
        vocabulary: Option<&Vocabulary>,
    ) -> Result<Self> {
        let mut options = options.clone();
        options.input.extra = options.steps.fields();
        let sources = input::discover(inputs, &options.input, Some(out))?;
        let against = options.against.iter().map(|path| Index::read(path));
        let against = against.collect::<Result<Vec<Index>>>()?;
        let evals = options.steps.evals.as_ref();
        let evals = evals.map(|evals| Evals::read(evals, &options.input)).transpose()?;
        let evals = evals.map(Arc::new);
        let input_bytes = sources.iter().flat_map(Source::files).map(|file| file.bytes).sum();
        let plan = Plan {
            version: Plan::VERSION,
            forebay: env!("CARGO_PKG_VERSION").into(),
            stage: stage.to_owned(),
            inputs: inputs.to_vec(),
            sources,
            options,
            tokenizer: vocabulary.map(|vocabulary| vocabulary.blake3.clone()),
            evals: evals.as_ref().map(|evals| evals.fingerprint()),
            indexes: against.iter().map(Index::fingerprint).collect(),
            part_bytes: Plan::part_bytes(input_bytes),
            spool: out.to_path_buf(),
        };
        if let Some(directory) = &plan.options.write_index {
            dedup_index::refuse_foreign(directory, &plan.fingerprint())?;
        }
        Ok(Self { plan, against, evals })
    }

    /// The parts of a run, behind those of the indexes that it goes against.
    pub(crate) fn corpus(&self, work: &Work, parts: Vec<Part>) -> Result<Corpus> {
        let options = &work.plan.options;
        let mut old = Vec::new();
        for (index, path) in self.against.iter().zip(&options.against) {
            old.extend(index.open(path, &options.steps)?);
        }
        for (at, field) in options.input.extra.iter().enumerate() {
            let found = |part: &Part| part.footer.fields.get(at) == Some(&true);
            let documents = parts.iter().any(|part| part.footer.documents > 0);
            if documents && !parts.iter().any(found) {
                return Err(Error::NoField { name: field.name.clone() });
            }
        }
        Corpus::new(old, parts)
    }

    /// Who stays, and what of it; or what an earlier run found.
    pub(crate) fn find(
        &self,
        work: &Work,
        parts: Vec<Part>,
        execution: &Execution,
        progress: &Progress,
    ) -> Result<Found> {
        let corpus = self.corpus(work, parts)?;
        let mut survivors = dedup::run(work, &corpus, execution, progress)?;
        let cuts = cuts::run(work, &corpus, &mut survivors, execution, progress)?;
        Ok(Found::new(corpus, survivors, cuts))
    }

    /// Writes the shards that are left, and then everything that makes them a dataset.
    pub(crate) fn finish(
        &self,
        work: Work,
        found: &Found,
        tokenizer: Option<&Tokenizer>,
        vocabulary: Option<&Vocabulary>,
        execution: &Execution,
        progress: &Progress,
    ) -> Result<Finished> {
        let outcome = found.outcome();
        let mut counts = count(outcome.corpus, outcome.survivors);
        counts.cut_bytes = outcome.cuts.bytes(outcome.survivors);
        if counts.read == 0 && counts.skipped.is_empty() {
            let inputs = work.plan.inputs.join(" ");
            work.abandon();
            return Err(Error::NoDocuments { inputs });
        }
        let equipment = Equipment::new(&work, tokenizer, vocabulary, execution)?;
        let all = Share::default();
        let written = write::run(&work, &outcome, &equipment.encoder(), all, execution, progress)?;
        let mut stats = equipment.pieces.as_ref().map(|_| Stats::default());
        let mut shards = Vec::new();
        for done in written {
            if let (Some(stats), Some(of_shard)) = (&mut stats, &done.stats) {
                stats.add(of_shard);
            }
            shards.push(done.entry);
        }

        progress.start("finish", Unit::Steps, 0);
        let made = Made {
            shards,
            removed: removed::run(&work, &outcome)?,
            large_clusters: removed::large_clusters(&outcome)?,
            counts,
        };
        if let Some(directory) = &work.plan.options.write_index {
            dedup_index::write(&work, outcome.corpus, outcome.survivors, directory)?;
        }
        let manifest = publish(&work, made, tokenizer, vocabulary)?;
        let resumed = work.resumed;
        work.finish();
        let mut notes: Vec<String> =
            tokenizer.iter().filter_map(|t| t.note().map(str::to_owned)).collect();
        notes.extend(self.evals.iter().filter_map(|evals| evals.note()));
        notes.extend(equipment.verifier.as_ref().map(Verifier::note));
        let loading = Duration::ZERO;
        Ok(Finished { manifest, already: false, resumed, notes, stats, loading })
    }
}

impl Finished {
    pub(crate) fn already(manifest: Manifest) -> Self {
        let (notes, stats, loading) = (Vec::new(), None, Duration::ZERO);
        Self { manifest, already: true, resumed: false, notes, stats, loading }
    }
}

/// What encodes, proves and counts.
pub(crate) struct Equipment<'a> {
    tokenizer: Option<&'a Tokenizer>,
    verifier: Option<Verifier>,
    pieces: Option<Pieces>,
}

impl<'a> Equipment<'a> {
    pub(crate) fn new(
        work: &Work,
        tokenizer: Option<&'a Tokenizer>,
        vocabulary: Option<&Vocabulary>,
        execution: &Execution,
    ) -> Result<Self> {
        let options = work.plan.options.steps.tokenize.as_ref();
        let share = Some(execution.verify_tokens).filter(|&share| share > 0.0);
        let verifier = match (vocabulary, options, share) {
            (Some(vocabulary), Some(options), Some(share)) => {
                Some(Verifier::new(vocabulary, options, share))
            }
            _ => None,
        };
        let pieces = vocabulary.filter(|_| execution.stats && tokenizer.is_some());
        let pieces = pieces.map(Pieces::of).transpose()?;
        Ok(Self { tokenizer, verifier, pieces })
    }

    pub(crate) fn encoder(&self) -> Encoder<'_> {
        let (verifier, pieces) = (self.verifier.as_ref(), self.pieces.as_ref());
        Encoder { tokenizer: self.tokenizer, verifier, pieces }
    }
}

/// All parts of the spool are open at once: take as many descriptors as the system gives.
pub(crate) fn allow_many_files() {
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

fn count(corpus: &Corpus, survivors: &Survivors) -> Counts {
    let mut counts = Counts::default();
    for (part, _) in corpus.own() {
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

/// What a run has made.
struct Made {
    shards: Vec<ShardEntry>,
    removed: Vec<FileEntry>,
    large_clusters: Vec<LargeCluster>,
    counts: Counts,
}

/// Index, tokenizer, and last of all the manifest.
fn publish(
    work: &Work,
    made: Made,
    tokenizer: Option<&Tokenizer>,
    vocabulary: Option<&Vocabulary>,
) -> Result<Manifest> {
    let Made { shards, removed, large_clusters, counts } = made;
    let out = &work.out;
    create_dir(out)?;
    let options = &work.plan.options;
    let shards_hold_tokens = tokenizer.is_some() && options.form != Form::Removed;
    let mut index = None;
    if shards_hold_tokens && options.format.is_forebay() {
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
    let layout = entry.as_ref().filter(|_| !options.format.is_forebay()).map(|entry| Layout {
        format: options.format,
        token_type: options.format.token_type(entry.vocab_size),
    });
    let sum = |of: fn(&ShardEntry) -> u64| shards.iter().map(of).sum::<u64>();
    let plan = &work.plan;
    let manifest = Manifest {
        format: "forebay".into(),
        version: manifest::VERSION,
        created_by: concat!("forebay ", env!("CARGO_PKG_VERSION")).into(),
        documents: sum(|shard| shard.documents),
        tokens: tokenizer.map(|_| sum(|shard| shard.tokens)),
        text_bytes: sum(|shard| shard.text_bytes),
        layout,
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
        large_clusters,
        shards,
    };
    publish_bytes(&out.join(manifest::SEEN), plan.input_times().as_bytes())?;
    publish_bytes(&out.join(manifest::FILE), &manifest.to_bytes())?;
    Ok(manifest)
}

/// blake3 of the manifests of those inputs that are datasets.
fn parents(plan: &Plan) -> Vec<String> {
    let manifests = plan.inputs.iter().map(|input| Path::new(input).join(manifest::FILE));
    let bytes = manifests.filter_map(|path| std::fs::read(path).ok());
    bytes.map(|bytes| blake3::hash(&bytes).to_hex().to_string()).collect()
}
