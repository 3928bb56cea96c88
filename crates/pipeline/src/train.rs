//! Train: inputs → a sample of their documents → words, counted → merges → a `tokenizer.json`.
//!
//! The sample is decided up front: a document belongs to it if the hash of seed, file and position
//! lies below the share of the text that was asked for. So it is the same at every run and for any
//! number of threads, and so is the vocabulary.
//!
//! Texts are held a part at a time; what grows is the table of different words, and it has a limit.
//! Nothing is written before the end: a run that is stopped starts anew.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_shard::input::{self, Cursor, InputFile, Source};
use forebay_store::publish_bytes;
use forebay_transform::shuffle;
use forebay_transform::tokenize::train::{Splitter, Target, learn};
use xxhash_rust::xxh3::xxh3_64;

use crate::plan::Execution;
use crate::progress::{Progress, Unit};
use crate::{Error, Result};

/// Longer words are left out: such a run without any border is no language, and every merge would
/// walk through it.
pub const MAX_WORD_BYTES: usize = 4 << 10;
/// Text that a thread parses at a time, about.
const PART_BYTES: u64 = 4 << 20;
/// Sources that are looked into to tell how much text the inputs hold, and how far.
const PROBES: usize = 16;
const PROBE_BYTES: u64 = 1 << 20;
/// The table of words is cut into so many, each behind its own lock.
const TABLES: usize = 64;
/// What a word takes at the worst moment, while merges are learnt: itself, and each of its bytes
/// as a symbol, as the place of a pair, and once more while pairs grow.
const WORD_COST: u64 = 96;
const BYTE_COST: u64 = 16;

/// What is trained, and on what.
pub struct Options {
    /// How inputs are read.
    pub input: input::Options,
    /// What is to be learnt.
    pub target: Target,
    /// What a word is.
    pub splitter: Splitter,
    /// Text to learn from, about; a pipe, whose size nobody knows, is taken whole.
    pub sample_bytes: u64,
    /// Of the sample.
    pub seed: u64,
}

/// A vocabulary was written.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Trained {
    /// Tokens, special ones and bytes included.
    pub vocab_size: usize,
    /// Pairs that are merged.
    pub merges: usize,
    /// blake3 of the file, in hex.
    pub blake3: String,
    /// Share of the documents that the sample was to hold.
    pub share: f64,
    /// What was read and what of it was learnt from.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What was read and what of it was learnt from.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Documents read.
    pub read: u64,
    /// Their text.
    pub read_bytes: u64,
    /// Documents in the sample.
    pub sampled: u64,
    /// Their text.
    pub sampled_bytes: u64,
    /// Words in it.
    pub words: u64,
    /// Different ones.
    pub different_words: u64,
    /// Words longer than [`MAX_WORD_BYTES`], which were left out.
    pub long_words: u64,
    /// Records that are no documents, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Documents in which U+FFFD stands for bytes that were not UTF-8.
    pub replaced: u64,
}

/// Trains a vocabulary on a sample of `inputs` and writes it to the new file `out`.
///
/// Memory: a part a thread, and the different words of the sample: `execution.memory_bytes` limits
/// them, at 96 B a word and 16 B a byte of it.
///
/// # Errors
/// A target that cannot be reached, an output that exists, inputs without any text, too many
/// different words; whatever reading the inputs says.
pub fn run(
    inputs: &[String],
    out: &Path,
    options: &Options,
    execution: &Execution,
    progress: &Progress,
) -> Result<Trained> {
    options.target.check()?;
    if out.exists() {
        return Err(Error::FileThere { path: out.to_path_buf() });
    }
    let sources = input::discover(inputs, &options.input, None)?;
    let share = share(&sources, options)?;
    let (words, mut counts) = count(&sources, options, share, execution, progress)?;
    if counts.read == 0 && counts.skipped.is_empty() {
        return Err(Error::NoDocuments { inputs: inputs.join(" ") });
    }
    if words.is_empty() {
        return Err(Error::NoText { inputs: inputs.join(" ") });
    }
    counts.different_words = words.len() as u64;

    let least = 256 + options.target.special_tokens.len();
    progress.start("merge", Unit::Steps, (options.target.vocab_size - least) as u64);
    let mut before = least;
    let trained = learn(&words, &options.target, |tokens| {
        progress.add((tokens - before) as u64);
        before = tokens;
        !progress.stopped()
    });
    let trained = trained.ok_or(Error::Interrupted)?;
    let bytes = trained.to_json(&options.splitter, &options.target);
    publish_bytes(out, &bytes)?;
    Ok(Trained {
        vocab_size: trained.tokens.len(),
        merges: trained.merges.len(),
        blake3: blake3::hash(&bytes).to_hex().to_string(),
        share,
        counts,
    })
}

/// The share of the documents that makes a sample of the size asked for, at most 1.
///
/// How much text a byte of input holds (compressed, with other fields, in columns) is measured at
/// the start of up to 16 sources.
fn share(sources: &[Source], options: &Options) -> Result<f64> {
    let files = || sources.iter().flat_map(Source::files);
    if files().any(InputFile::is_stdin) {
        return Ok(1.0);
    }
    let (mut text_bytes, taken) = (0, Arc::new(AtomicU64::new(0)));
    for source in sources.iter().step_by(sources.len().div_ceil(PROBES).max(1)) {
        let mut cursor = Cursor::new(source, &options.input, PROBE_BYTES, &taken);
        if let Some(part) = cursor.next_part()? {
            text_bytes += part.parse(&options.input)?.documents.texts.bytes();
        }
    }
    let input_bytes: u64 = files().map(|file| file.bytes).sum();
    let ratio = text_bytes as f64 / taken.load(Ordering::Relaxed).max(1) as f64;
    let expected = input_bytes as f64 * ratio;
    Ok((options.sample_bytes as f64 / expected.max(1.0)).min(1.0))
}

/// Reads all documents and counts the words of those in the sample; words come out sorted.
fn count(
    sources: &[Source],
    options: &Options,
    share: f64,
    execution: &Execution,
    progress: &Progress,
) -> Result<(Vec<Counted>, Counts)> {
    let input_bytes = sources.iter().flat_map(Source::files).map(|file| file.bytes).sum();
    progress.start("count", Unit::Bytes, input_bytes);
    let job = Job {
        options,
        // 1.0 becomes u64::MAX.
        below: (share * 2_f64.powi(64)) as u64,
        memory_bytes: execution.memory_bytes,
        parts: Mutex::new(Parts { sources: sources.iter(), cursor: None }),
        table: Table::default(),
        counts: Mutex::default(),
    };
    let failed = Mutex::new(None);
    let ended = AtomicBool::new(false);
    let work_on = || {
        // A regular expression that threads share makes them wait for each other.
        let splitter = options.splitter.clone();
        while !progress.stopped() && !ended.load(Ordering::Relaxed) {
            match job.step(&splitter, progress) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    ended.store(true, Ordering::Relaxed);
                    lock(&failed).get_or_insert(error);
                }
            }
        }
    };
    if execution.threads <= 1 {
        work_on();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..execution.threads {
                scope.spawn(work_on);
            }
        });
    }
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    if progress.stopped() {
        return Err(Error::Interrupted);
    }
    let counts = job.counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((job.table.into_sorted(), counts))
}

/// The counting of words, shared by all threads.
struct Job<'a> {
    options: &'a Options,
    /// Documents whose hash is lower, or this, are in the sample.
    below: u64,
    memory_bytes: u64,
    parts: Mutex<Parts<'a>>,
    table: Table,
    counts: Mutex<Counts>,
}

/// All parts of all sources, in order.
struct Parts<'a> {
    sources: std::slice::Iter<'a, Source>,
    cursor: Option<Cursor>,
}

impl Job<'_> {
    /// Counts the words of the next part; `false` if there is none.
    fn step(&self, splitter: &Splitter, progress: &Progress) -> Result<bool> {
        let Some(part) = self.next_part(progress)? else { return Ok(false) };
        let parsed = part.parse(&self.options.input)?;
        let documents = &parsed.documents;
        let mut counts = Counts { read: documents.len() as u64, ..Counts::default() };
        counts.replaced = parsed.replaced;
        let mut words: Words<&str> = Words::default();
        for at in 0..documents.len() {
            let text = documents.texts.get(at);
            counts.read_bytes += text.len() as u64;
            let (file, position) = (documents.files[at], documents.positions[at]);
            if shuffle::key(self.options.seed, file, position) > self.below {
                continue;
            }
            counts.sampled += 1;
            counts.sampled_bytes += text.len() as u64;
            splitter.each(text, |word| {
                if word.len() > MAX_WORD_BYTES {
                    counts.long_words += 1;
                    return;
                }
                counts.words += 1;
                *words.entry(word).or_default() += 1;
            });
        }
        self.table.add(words);
        for skipped in &parsed.skipped {
            *counts.skipped.entry(skipped.reason.name().to_owned()).or_default() += 1;
        }
        lock(&self.counts).add(counts);
        let needed = self.table.cost();
        if needed > self.memory_bytes {
            let (words, memory_bytes) = (self.table.len(), self.memory_bytes);
            return Err(Error::TooManyWords { words, needed, memory_bytes });
        }
        Ok(true)
    }

    fn next_part(&self, progress: &Progress) -> Result<Option<input::Part>> {
        let mut parts = lock(&self.parts);
        let Parts { sources, cursor } = &mut *parts;
        loop {
            if let Some(cursor) = cursor
                && let Some(part) = cursor.next_part()?
            {
                return Ok(Some(part));
            }
            let Some(source) = sources.next() else { return Ok(None) };
            *cursor =
                Some(Cursor::new(source, &self.options.input, PART_BYTES, progress.counter()));
        }
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.read += other.read;
        self.read_bytes += other.read_bytes;
        self.sampled += other.sampled;
        self.sampled_bytes += other.sampled_bytes;
        self.words += other.words;
        self.long_words += other.long_words;
        self.replaced += other.replaced;
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
    }
}

/// A word and how often it stands.
type Counted = (Box<str>, u64);
type Words<K> = HashMap<K, u64, BuildHasherDefault<WordHasher>>;

/// Words and how often they stand, from all threads.
struct Table {
    tables: Vec<Mutex<Words<Box<str>>>>,
    words: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Table {
    fn default() -> Self {
        let tables = (0..TABLES).map(|_| Mutex::default()).collect();
        Self { tables, words: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

impl Table {
    fn add(&self, words: Words<&str>) {
        // Every lock is taken once.
        let mut by_table: Vec<Vec<(&str, u64)>> = vec![Vec::new(); TABLES];
        for (word, count) in words {
            // Bits that the hash tables themselves do not look at first.
            let table = (xxh3_64(word.as_bytes()) >> 32) as usize % TABLES;
            by_table[table].push((word, count));
        }
        let (mut new_words, mut new_bytes) = (0, 0);
        for (table, words) in self.tables.iter().zip(by_table) {
            let mut table = lock(table);
            for (word, count) in words {
                if let Some(known) = table.get_mut(word) {
                    *known += count;
                } else {
                    table.insert(word.into(), count);
                    new_words += 1;
                    new_bytes += word.len() as u64;
                }
            }
        }
        self.words.fetch_add(new_words, Ordering::Relaxed);
        self.bytes.fetch_add(new_bytes, Ordering::Relaxed);
    }

    fn len(&self) -> u64 {
        self.words.load(Ordering::Relaxed)
    }

    fn cost(&self) -> u64 {
        WORD_COST * self.len() + BYTE_COST * self.bytes.load(Ordering::Relaxed)
    }

    fn into_sorted(self) -> Vec<Counted> {
        let tables = self.tables.into_iter();
        let tables = tables.map(|table| table.into_inner().unwrap_or_else(PoisonError::into_inner));
        let mut words: Vec<_> = tables.flatten().collect();
        words.sort_unstable();
        words
    }
}

#[derive(Default)]
struct WordHasher(u64);

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    /// What ends a string says nothing: words are hashed one at a time.
    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
