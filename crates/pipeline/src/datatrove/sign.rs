//! Stage 1: inputs → signatures, a rank per input file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use forebay_shard::Reason;
use forebay_shard::input::{self, Cursor, InputFile, Source};
use forebay_store::{File, NewFile, create_dir};
use forebay_transform::dedup::datatrove::record::{
    put_signature, signature_bytes, take_signatures,
};
use forebay_transform::dedup::datatrove::{Parameters, Signer};

use super::{Folder, bucket_name};
use crate::plan::Execution;
use crate::progress::{Progress, Unit};
use crate::{Error, Result};

/// Text that a thread parses at a time, about.
const PART_BYTES: u64 = 8 << 20;

/// What was signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signed {
    /// Ranks: input files.
    pub files: u64,
    /// Documents, each with a place in its file.
    pub documents: u64,
    /// Those with a signature; the others have too few words.
    pub signed: u64,
    /// Records with an empty text: they have no place, as in datatrove.
    pub empty: u64,
    /// Records that are no documents, under `OnError::Skip`.
    pub skipped: BTreeMap<Reason, u64>,
    /// Documents in which U+FFFD stands for bytes that were not UTF-8.
    pub replaced: u64,
}

/// Writes `out/signatures/bucket_{bucket:03}/{rank:05}.minhash.sig`, where a rank is a file's place
/// in the list of inputs.
///
/// Threads take different files while there are some, then share what is left. Signatures wait on
/// disk beside the output until their file is read, so memory per thread is a part of text and
/// one bucket of one file: about 90 B a document with FineWeb's parameters.
///
/// # Errors
/// [`Error::NotEmpty`] if there are signatures already; whatever reading the inputs says.
pub fn sign(
    inputs: &[Source],
    options: &input::Options,
    parameters: &Parameters,
    out: &Path,
    execution: &Execution,
    progress: &Progress,
) -> Result<Signed> {
    let folder = Folder::create(out, "signatures")?;
    for bucket in 0..parameters.buckets {
        create_dir(&folder.path().join(bucket_name(bucket)))?;
    }
    let files = || inputs.iter().flat_map(Source::files);
    progress.start("sign", Unit::Bytes, files().map(|file| file.bytes).sum());
    let ranks = inputs.iter().flat_map(|source| {
        source.files().iter().map(move |file| {
            let source = match source {
                Source::Texts(_) => Source::Texts(vec![file.clone()]),
                one => one.clone(),
            };
            let cursor = Cursor::new(&source, options, PART_BYTES, progress.counter());
            Rank::new(file, cursor)
        })
    });
    let job = Job {
        options,
        parameters,
        folder: folder.path(),
        ranks: ranks.collect(),
        signed: Mutex::new(Signed { files: files().count() as u64, ..Signed::default() }),
        failed: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        for _ in 1..execution.threads {
            scope.spawn(|| job.work(progress));
        }
        job.work(progress);
    });
    if let Some(error) = job.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    if progress.stopped() {
        return Err(Error::Interrupted);
    }
    let signed = job.signed.into_inner().unwrap_or_else(PoisonError::into_inner);
    folder.publish()?;
    Ok(signed)
}

struct Job<'a> {
    options: &'a input::Options,
    parameters: &'a Parameters,
    folder: &'a Path,
    ranks: Vec<Rank>,
    signed: Mutex<Signed>,
    failed: Mutex<Option<Error>>,
}

/// An input file.
struct Rank {
    number: u32,
    ended: AtomicBool,
    reading: Mutex<Reading>,
    waiting: Mutex<Waiting>,
}

struct Reading {
    cursor: Cursor,
    /// Number of the next part.
    next: usize,
}

/// Signatures of the parts done so far, in the order in which they were done.
struct Waiting {
    file: Option<NewFile>,
    sections: Vec<Section>,
    /// Of the file, once all are read.
    parts: Option<usize>,
}

/// Signatures of a part: bucket after bucket, each `signed` records, documents counted from 0.
struct Section {
    part: usize,
    offset: u64,
    documents: u32,
    signed: u32,
}

impl Rank {
    fn new(file: &InputFile, cursor: Cursor) -> Self {
        Self {
            number: file.index,
            ended: AtomicBool::new(false),
            reading: Mutex::new(Reading { cursor, next: 0 }),
            waiting: Mutex::new(Waiting { file: None, sections: Vec::new(), parts: None }),
        }
    }
}

impl Job<'_> {
    fn work(&self, progress: &Progress) {
        let mut signer = Signer::new(*self.parameters);
        while !progress.stopped() && lock(&self.failed).is_none() {
            match self.step(&mut signer) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    lock(&self.failed).get_or_insert(error);
                    return;
                }
            }
        }
    }

    /// Signs a part, and writes the signatures of its file if it was the last; `false` at the end.
    fn step(&self, signer: &mut Signer) -> Result<bool> {
        // First a file that nobody is reading from, then any that has more.
        for wait in [false, true] {
            for rank in &self.ranks {
                if rank.ended.load(Ordering::Relaxed) {
                    continue;
                }
                let mut reading = match rank.reading.try_lock() {
                    Ok(reading) => reading,
                    Err(TryLockError::WouldBlock) if wait => lock(&rank.reading),
                    Err(TryLockError::WouldBlock) => continue,
                    Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                };
                if rank.ended.load(Ordering::Relaxed) {
                    continue;
                }
                let part = reading.cursor.next_part()?;
                let number = reading.next;
                reading.next += 1;
                let ended = part.is_none();
                rank.ended.store(ended, Ordering::Relaxed);
                drop(reading);
                let mut waiting = match part {
                    Some(part) => self.sign(rank, number, part, signer)?,
                    None => {
                        let mut waiting = lock(&rank.waiting);
                        waiting.parts = Some(number);
                        waiting
                    }
                };
                if waiting.parts == Some(waiting.sections.len()) {
                    self.finish(rank.number, &mut waiting)?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn sign<'a>(
        &self,
        rank: &'a Rank,
        number: usize,
        part: input::Part,
        signer: &mut Signer,
    ) -> Result<MutexGuard<'a, Waiting>> {
        let Parameters { buckets, rows, precision, .. } = *self.parameters;
        let parsed = part.parse(self.options)?;
        let mut records = vec![Vec::new(); buckets];
        let (mut documents, mut signed, mut empty) = (0_u32, 0_u32, 0);
        for text in parsed.documents.texts.iter() {
            if text.is_empty() {
                empty += 1;
                continue;
            }
            if let Some(signature) = signer.sign(text) {
                for (rows, records) in signature.chunks_exact(rows).zip(&mut records) {
                    put_signature(rows, documents, precision, records);
                }
                signed += 1;
            }
            documents += 1;
        }

        let mut counts = lock(&self.signed);
        counts.documents += u64::from(documents);
        counts.signed += u64::from(signed);
        counts.empty += empty;
        counts.replaced += parsed.replaced;
        for skipped in &parsed.skipped {
            *counts.skipped.entry(skipped.reason).or_default() += 1;
        }
        drop(counts);

        let mut waiting = lock(&rank.waiting);
        let file = match &mut waiting.file {
            Some(file) => file,
            none => none.insert(NewFile::create(&self.folder.join(format!("{:05}", rank.number)))?),
        };
        let offset = file.written();
        for bucket in &records {
            file.append(bucket)?;
        }
        waiting.sections.push(Section { part: number, offset, documents, signed });
        Ok(waiting)
    }

    /// Sorts and publishes each bucket of a file that is wholly signed.
    fn finish(&self, rank: u32, waiting: &mut Waiting) -> Result<()> {
        // Deleted at the end, since it is never given a name.
        let written = waiting.file.take();
        let spill = written.as_ref().map(|file| File::open(file.temporary())).transpose()?;
        waiting.sections.sort_by_key(|section| section.part);
        let record = signature_bytes(self.parameters);
        for bucket in 0..self.parameters.buckets {
            let (mut rows, mut documents) = (Vec::new(), Vec::new());
            let mut first = 0_u32;
            for section in &waiting.sections {
                let bytes = section.signed as usize * record;
                let offset = section.offset + (bucket * bytes) as u64;
                let start = documents.len();
                if let Some(spill) = &spill {
                    let bytes = spill.read(offset, bytes)?;
                    take_signatures(&bytes, self.parameters, &mut rows, &mut documents);
                }
                let next = first.checked_add(section.documents).ok_or(Error::TooManyDocuments)?;
                documents[start..].iter_mut().for_each(|document| *document += first);
                first = next;
            }
            let path = self.folder.join(bucket_name(bucket)).join(format!("{rank:05}.minhash.sig"));
            publish(&path, self.parameters, &rows, &documents)?;
        }
        Ok(())
    }
}

/// Writes the signatures of a bucket, sorted.
fn publish(path: &Path, parameters: &Parameters, rows: &[u64], documents: &[u32]) -> Result<()> {
    let rows_of = |at: u32| &rows[at as usize * parameters.rows..][..parameters.rows];
    let mut order: Vec<(u64, u32)> =
        (0..).take(documents.len()).map(|at| (rows_of(at)[0], at)).collect();
    // Records stand in the order of documents, so among equal ones theirs is that of `at`.
    order.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then_with(|| rows_of(a.1).cmp(rows_of(b.1))).then(a.1.cmp(&b.1))
    });
    let mut file = NewFile::create(path)?;
    let mut buffer = Vec::new();
    for block in order.chunks(1 << 14) {
        buffer.clear();
        for &(_, at) in block {
            put_signature(rows_of(at), documents[at as usize], parameters.precision, &mut buffer);
        }
        file.append(&buffer)?;
    }
    file.publish()?;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
