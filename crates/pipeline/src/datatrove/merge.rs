//! All ranks' signatures of a bucket, merged: which neighbours are equal?

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use forebay_shard::Error as ShardError;
use forebay_store::File;
use forebay_transform::dedup::datatrove::permutations::MODULUS;
use forebay_transform::dedup::datatrove::record::{signature_bytes, take_signatures};
use forebay_transform::dedup::datatrove::{Parameters, Precision};

use super::{Node, bucket_name, list};
use crate::progress::Progress;
use crate::{Error, Result};

const SUFFIX: &str = ".minhash.sig";
/// Reads shorter than this cost more than they save memory.
const MIN_READ_BYTES: u64 = 4 << 10;
const MAX_READ_BYTES: u64 = 1 << 20;

/// A folder of signatures, by whichever program.
pub(super) struct Signatures<'a> {
    pub(super) parameters: &'a Parameters,
    /// Rank and size of the files of each bucket, the same in all.
    pub(super) ranks: Vec<(u32, u64)>,
    folder: &'a Path,
    /// As the ranks are written, which is with leading zeros.
    stems: Vec<String>,
}

impl<'a> Signatures<'a> {
    /// # Errors
    /// If a bucket is missing, or holds other ranks or another number of records than the first.
    pub(super) fn open(folder: &'a Path, parameters: &'a Parameters) -> Result<Self> {
        let mut all = Self { parameters, ranks: Vec::new(), folder, stems: Vec::new() };
        for bucket in 0..parameters.buckets {
            let path = folder.join(bucket_name(bucket));
            let (mut stems, mut ranks) = (Vec::new(), Vec::new());
            for (stem, path) in list(&path, SUFFIX)? {
                let Ok(rank) = stem.parse() else {
                    return Err(corrupt(&path, "name", "a rank in digits", format!("`{stem}`")));
                };
                let size = File::open(&path)?.size();
                let record = signature_bytes(parameters) as u64;
                if !size.is_multiple_of(record) {
                    let expected = format!("a multiple of {record} bytes");
                    return Err(corrupt(&path, "size", expected, format!("{size} bytes")));
                }
                stems.push(stem);
                ranks.push((rank, size));
            }
            if bucket == 0 {
                (all.stems, all.ranks) = (stems, ranks);
            } else if let Some((rank, _)) = all.ranks.iter().find(|rank| !ranks.contains(rank)) {
                let expected = format!("rank {rank} with as many records as in bucket 0");
                return Err(corrupt(&path, "files", expected, "another or none"));
            } else if ranks.len() > all.ranks.len() {
                let expected = format!("the {} ranks of bucket 0", all.ranks.len());
                return Err(corrupt(&path, "files", expected, format!("{} ranks", ranks.len())));
            }
        }
        if all.ranks.is_empty() {
            let path = folder.join(bucket_name(0));
            return Err(corrupt(&path, "files", format!("`*{SUFFIX}`"), "none"));
        }
        Ok(all)
    }

    pub(super) fn path(&self, bucket: usize, rank: usize) -> PathBuf {
        let name = format!("{}{SUFFIX}", self.stems[rank]);
        self.folder.join(bucket_name(bucket)).join(name)
    }

    /// Of all buckets.
    pub(super) fn bytes(&self) -> u64 {
        self.parameters.buckets as u64 * self.ranks.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Calls `each` with every document, in no order.
    pub(super) fn documents(
        &self,
        memory_bytes: u64,
        progress: &Progress,
        mut each: impl FnMut(Node),
    ) -> Result<()> {
        for at in 0..self.ranks.len() {
            let mut reader = Reader::open(self, 0, at, memory_bytes.min(MAX_READ_BYTES), progress)?;
            while reader.advance()? {
                each(reader.node());
            }
        }
        Ok(())
    }

    /// Calls `each` with every two neighbours of a bucket that have equal signatures, in order of
    /// signature, rank and document.
    ///
    /// Memory: a buffer a rank, `memory_bytes` together if that is no less than 4 KiB each. Holds
    /// all files of the bucket open.
    pub(super) fn pairs(
        &self,
        bucket: usize,
        memory_bytes: u64,
        progress: &Progress,
        mut each: impl FnMut(Node, Node) -> Result<()>,
    ) -> Result<()> {
        let share = memory_bytes / self.ranks.len() as u64;
        let mut readers = Vec::new();
        for at in 0..self.ranks.len() {
            let mut reader = Reader::open(self, bucket, at, share, progress)?;
            if reader.advance()? {
                readers.push(reader);
            }
        }
        let mut queue = Queue::new(readers);
        let mut last: (Vec<u64>, Option<Node>) = (Vec::new(), None);
        while let Some(reader) = queue.first() {
            let (rows, node) = (reader.rows(), reader.node());
            match last.1 {
                Some(before) if last.0 == rows => each(before, node)?,
                _ => {
                    last.0.clear();
                    last.0.extend_from_slice(rows);
                }
            }
            last.1 = Some(node);
            queue.advance()?;
        }
        Ok(())
    }
}

/// Reads a file of signatures from start to end, a block at a time, and checks their order.
struct Reader<'a> {
    file: File,
    rank: u32,
    parameters: &'a Parameters,
    progress: &'a Progress,
    /// Records to a block.
    block: usize,
    /// Records before this block.
    before: u64,
    /// The block; `[records, rows]` and `[records]`. Its first record is the last one before it.
    rows: Vec<u64>,
    documents: Vec<u32>,
    bytes: Vec<u8>,
    at: usize,
}

impl<'a> Reader<'a> {
    fn open(
        all: &Signatures<'a>,
        bucket: usize,
        at: usize,
        memory_bytes: u64,
        progress: &'a Progress,
    ) -> Result<Self> {
        let record = signature_bytes(all.parameters);
        let bytes = memory_bytes.clamp(MIN_READ_BYTES, MAX_READ_BYTES);
        // Bytes and decoded rows are held at once.
        let block = (usize::try_from(bytes).unwrap_or(0) / 2 / record).max(1);
        Ok(Self {
            file: File::open(&all.path(bucket, at))?,
            rank: all.ranks[at].0,
            parameters: all.parameters,
            progress,
            block,
            before: 0,
            rows: Vec::new(),
            documents: Vec::new(),
            bytes: Vec::new(),
            at: 0,
        })
    }

    fn rows_at(&self, at: usize) -> &[u64] {
        &self.rows[at * self.parameters.rows..][..self.parameters.rows]
    }

    fn rows(&self) -> &[u64] {
        self.rows_at(self.at)
    }

    fn node(&self) -> Node {
        (self.rank, self.documents[self.at])
    }

    /// Goes to the next record; `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        self.at += 1;
        if self.at < self.documents.len() {
            return Ok(true);
        }
        if self.progress.stopped() {
            return Err(Error::Interrupted);
        }
        let record = signature_bytes(self.parameters);
        let offset = self.before * record as u64;
        let left = self.file.size().saturating_sub(offset) / record as u64;
        let count = self.block.min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(false);
        }
        self.bytes.resize(count * record, 0);
        self.file.read_at(offset, &mut self.bytes)?;
        self.progress.add(self.bytes.len() as u64);
        let kept = usize::from(!self.documents.is_empty());
        if kept == 1 {
            self.rows.drain(..(self.documents.len() - 1) * self.parameters.rows);
            self.documents.drain(..self.documents.len() - 1);
        }
        take_signatures(&self.bytes, self.parameters, &mut self.rows, &mut self.documents);
        for at in 0..self.documents.len() {
            self.check(at, (self.before + at as u64).saturating_sub(kept as u64))?;
        }
        self.before += count as u64;
        self.at = kept;
        Ok(true)
    }

    /// Is the record at `at` a signature, and after the one before it?
    fn check(&self, at: usize, number: u64) -> Result<()> {
        let corrupt = |expected: &str, found: String| {
            Err(corrupt(self.file.path(), format!("record {number}"), expected, found))
        };
        let rows = self.rows_at(at);
        let limit = match self.parameters.precision {
            Precision::Bits32 => 1 << 32,
            Precision::Bits64 => MODULUS,
        };
        if let Some(row) = rows.iter().find(|&&row| row >= limit) {
            return corrupt("hashes below 2^61 - 1", row.to_string());
        }
        if at > 0 {
            let key = |at| (self.rows_at(at), self.documents[at]);
            match key(at - 1).cmp(&key(at)) {
                Ordering::Less => {}
                Ordering::Equal => return corrupt("each record once", "it again".into()),
                Ordering::Greater => {
                    return corrupt("records in order", "one that belongs before the last".into());
                }
            }
        }
        Ok(())
    }
}

/// Readers that are not at their end, as a binary heap: the one with the least record is first.
struct Queue<'a> {
    readers: Vec<Reader<'a>>,
}

impl<'a> Queue<'a> {
    fn new(readers: Vec<Reader<'a>>) -> Self {
        let mut queue = Self { readers };
        for at in (0..queue.readers.len() / 2).rev() {
            queue.sink(at);
        }
        queue
    }

    fn first(&self) -> Option<&Reader<'a>> {
        self.readers.first()
    }

    /// Takes the least record.
    fn advance(&mut self) -> Result<()> {
        if !self.readers[0].advance()? {
            self.readers.swap_remove(0);
        }
        self.sink(0);
        Ok(())
    }

    fn is_less(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.readers[a], &self.readers[b]);
        (a.rows(), a.node()) < (b.rows(), b.node())
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.readers.len() && self.is_less(child, least) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.readers.swap(at, least);
            at = least;
        }
    }
}

pub(super) fn corrupt(
    path: &Path,
    what: impl Into<String>,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> Error {
    ShardError::corrupt(path, what, expected, found).into()
}
