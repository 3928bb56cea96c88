use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::parquet::Rows;
use super::part::{Data, Part};
use super::{InputFile, OnError, Options, Source, decompress};
use crate::document::{Reason, Skipped};
use crate::{Error, Result};

/// Text files to a part: opening one costs about as much as reading this many bytes.
const FILE_COST_BYTES: u64 = 4 << 10;
const READ_BYTES: u64 = 1 << 20;

/// Reads one source in order and cuts it into parts of about `part_bytes`.
///
/// The cut depends on the input and `part_bytes` alone. Files are opened when first needed.
pub struct Cursor {
    options: Options,
    part_bytes: u64,
    taken: Arc<AtomicU64>,
    state: State,
}

enum State {
    Lines(Lines),
    Rows { file: Arc<InputFile>, rows: Option<Rows>, row: u64 },
    Texts { files: VecDeque<InputFile>, done: u64 },
    Ended,
}

struct Lines {
    file: Arc<InputFile>,
    reader: Option<decompress::Stream>,
    /// Plain bytes from the start of a line on.
    carry: Vec<u8>,
    /// Where `carry` starts in the plain stream.
    offset: u64,
    at_end: bool,
}

impl Cursor {
    /// A cursor at the start of `source`. `taken` counts the bytes taken from its files.
    pub fn new(
        source: &Source,
        options: &Options,
        part_bytes: u64,
        taken: &Arc<AtomicU64>,
    ) -> Self {
        let state = match source.clone() {
            Source::Lines(file) => State::Lines(Lines {
                file: Arc::new(file),
                reader: None,
                carry: Vec::new(),
                offset: 0,
                at_end: false,
            }),
            Source::Parquet(file) => State::Rows { file: Arc::new(file), rows: None, row: 0 },
            Source::Texts(files) => State::Texts { files: files.into(), done: 0 },
        };
        Self { options: options.clone(), part_bytes, taken: Arc::clone(taken), state }
    }

    /// The next part, `None` at the end.
    ///
    /// # Errors
    /// A file that cannot be opened or decoded, unless such files are to be skipped: then what
    /// was read of it comes first, and the part that ends it says so.
    pub fn next_part(&mut self) -> Result<Option<Part>> {
        let part = match &mut self.state {
            State::Ended => return Ok(None),
            State::Lines(lines) => lines.next(&self.options, self.part_bytes, &self.taken),
            State::Rows { file, rows, row } => {
                let before = *row;
                let part = next_rows(file, rows, row, &self.options, self.part_bytes);
                self.taken.fetch_add(taken_by_rows(file, rows, before, *row), Ordering::Relaxed);
                part
            }
            State::Texts { files, done } => {
                let part = next_texts(files, done, self.part_bytes);
                if let Some(Part { data: Data::Texts(files), .. }) = &part {
                    let bytes = files.iter().map(|file| file.bytes).sum();
                    self.taken.fetch_add(bytes, Ordering::Relaxed);
                }
                Ok(part)
            }
        };
        if !matches!(part, Ok(Some(Part { next, .. })) if next != END) {
            self.state = State::Ended;
        }
        part
    }

    /// Goes to a position that [`Part::next`] gave in an earlier run, with the same `part_bytes`.
    ///
    /// # Errors
    /// As [`Cursor::next_part`]; a compressed stream is read up to there.
    pub fn advance_to(&mut self, position: u64) -> Result<()> {
        if position == END {
            self.state = State::Ended;
            return Ok(());
        }
        match &mut self.state {
            State::Ended => {}
            State::Lines(lines) => lines.advance_to(position, &self.taken)?,
            State::Rows { row, .. } => *row = position,
            State::Texts { files, done } => {
                while *done < position && files.pop_front().is_some() {
                    *done += 1;
                }
            }
        }
        Ok(())
    }
}

/// [`Part::next`] of the last part of a source.
const END: u64 = u64::MAX;

impl Lines {
    fn next(
        &mut self,
        options: &Options,
        part_bytes: u64,
        taken: &Arc<AtomicU64>,
    ) -> Result<Option<Part>> {
        let mut skipped = Vec::new();
        let mut want = part_bytes;
        let cut = loop {
            if let Err(error) = self.fill(want, taken) {
                if options.on_error == OnError::Fail {
                    return Err(error);
                }
                skipped.push(self.break_off(&error));
                break self.carry.len();
            }
            if let Some(end) = last_line_end(&self.carry) {
                break if self.at_end { self.carry.len() } else { end };
            }
            if self.at_end {
                break self.carry.len();
            }
            if self.carry.len() as u64 > options.max_record_bytes {
                let (source, position) = (self.file.name(), self.offset);
                let limit = options.max_record_bytes;
                let detail = format!("line at byte {position}: longer than {limit} bytes");
                skipped.push(Skipped { source, position, reason: Reason::TooLong, detail });
                if options.on_error == OnError::Fail {
                    break 0;
                }
                if let Err(error) = self.drop_line(taken) {
                    skipped.push(self.break_off(&error));
                    break self.carry.len();
                }
            }
            want = (self.carry.len() as u64).max(part_bytes) + READ_BYTES;
        };
        if cut == 0 && skipped.is_empty() && self.at_end {
            return Ok(None);
        }
        let rest = self.carry.split_off(cut);
        let bytes = std::mem::replace(&mut self.carry, rest);
        let offset = self.offset;
        self.offset += cut as u64;
        let next = if self.at_end && self.carry.is_empty() { END } else { self.offset };
        let data = Data::Lines { file: Arc::clone(&self.file), bytes, offset };
        Ok(Some(Part { next, data, skipped }))
    }

    /// Ends a stream that cannot be read on. Complete lines before the break are whole records;
    /// the torn one is not.
    fn break_off(&mut self, error: &Error) -> Skipped {
        self.carry.truncate(last_line_end(&self.carry).unwrap_or(0));
        self.at_end = true;
        let (source, detail) = (self.file.name(), error.to_string());
        let position = self.offset + self.carry.len() as u64;
        Skipped { source, position, reason: Reason::BrokenFile, detail }
    }

    /// Reads until `carry` holds `want` bytes or the stream ends.
    fn fill(&mut self, want: u64, taken: &Arc<AtomicU64>) -> Result<()> {
        if self.at_end {
            return Ok(());
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            empty => empty.insert(decompress::open(&self.file.path, taken)?),
        };
        let missing = want.saturating_sub(self.carry.len() as u64);
        // No more than the file holds: a plain one is read without growing.
        let likely = missing.min(self.file.bytes.saturating_sub(self.offset) + 1);
        self.carry.reserve(usize::try_from(likely).unwrap_or(0));
        let read = reader.fill(missing, &mut self.carry).map_err(|error| {
            let at = self.offset + self.carry.len() as u64;
            Error::file(&self.file.path, format!("broken after {at} bytes of text: {error}"))
        })?;
        self.at_end = (read as u64) < missing;
        Ok(())
    }

    /// Throws away the rest of a line too long to hold.
    fn drop_line(&mut self, taken: &Arc<AtomicU64>) -> Result<()> {
        while !self.at_end {
            if let Some(end) = memchr::memchr(b'\n', &self.carry) {
                self.carry.drain(..=end);
                self.offset += end as u64 + 1;
                return Ok(());
            }
            self.offset += self.carry.len() as u64;
            self.carry.clear();
            self.fill(READ_BYTES, taken)?;
        }
        if let Some(end) = memchr::memchr(b'\n', &self.carry) {
            self.carry.drain(..=end);
            self.offset += end as u64 + 1;
        } else {
            self.offset += self.carry.len() as u64;
            self.carry.clear();
        }
        Ok(())
    }

    fn advance_to(&mut self, position: u64, taken: &Arc<AtomicU64>) -> Result<()> {
        while self.offset < position && !self.at_end {
            self.fill(READ_BYTES.min(position - self.offset), taken)?;
            self.offset += self.carry.len() as u64;
            self.carry.clear();
        }
        Ok(())
    }
}

fn last_line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memrchr(b'\n', bytes).map(|at| at + 1)
}

fn next_rows(
    file: &Arc<InputFile>,
    rows: &mut Option<Rows>,
    row: &mut u64,
    options: &Options,
    part_bytes: u64,
) -> Result<Option<Part>> {
    let (first, mut bytes) = (*row, 0);
    let mut batches = Vec::new();
    let mut skipped = Vec::new();
    let next = loop {
        let batch = match rows {
            Some(rows) => rows.next(file),
            None => Rows::open(file, options, first, part_bytes).and_then(|mut opened| {
                let batch = opened.next(file);
                *rows = Some(opened);
                batch
            }),
        };
        match batch {
            Ok(Some(batch)) => {
                *row += batch.num_rows() as u64;
                bytes += batch.get_array_memory_size() as u64;
                batches.push(batch);
                if bytes >= part_bytes {
                    break *row;
                }
            }
            Ok(None) if batches.is_empty() => return Ok(None),
            Ok(None) => break END,
            Err(error) if options.on_error == OnError::Fail => return Err(error),
            Err(error) => {
                let (source, position, detail) = (file.name(), *row, error.to_string());
                skipped.push(Skipped { source, position, reason: Reason::BrokenFile, detail });
                break END;
            }
        }
    };
    let data = Data::Rows { file: Arc::clone(file), batches, row: first };
    Ok(Some(Part { next, data, skipped }))
}

/// Progress in a Parquet file goes by rows.
fn taken_by_rows(file: &InputFile, rows: &Option<Rows>, before: u64, after: u64) -> u64 {
    let total = rows.as_ref().map_or(0, Rows::total);
    ((after - before) * file.bytes).checked_div(total).unwrap_or(0)
}

fn next_texts(files: &mut VecDeque<InputFile>, done: &mut u64, part_bytes: u64) -> Option<Part> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    while bytes < part_bytes
        && let Some(file) = files.pop_front()
    {
        bytes += file.bytes + FILE_COST_BYTES;
        *done += 1;
        taken.push(file);
    }
    if taken.is_empty() {
        return None;
    }
    let next = if files.is_empty() { END } else { *done };
    Some(Part { next, data: Data::Texts(taken), skipped: Vec::new() })
}
