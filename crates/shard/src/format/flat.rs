//! What the flat formats share: tokens end to end in one file, written and read back.
//!
//! A format brings a header of fixed length, a [`Sidecar`] that takes every document and gives
//! the other files, and the way back from those files to a [`Unit`].

use std::os::unix::fs::FileExt;
use std::path::Path;

use forebay_store::{Map, NewFile};

use super::{Format, Layout, Target, datatrove, megatron, npy, olmo};
use crate::index::ShardIndex;
use crate::manifest::FileEntry;
use crate::writer::{Row, Shard};
use crate::{Error, Result};

/// What is handed to the file at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Tokens that are decoded at once to look at them.
const BLOCK_TOKENS: usize = 64 << 10;

/// The files beside the tokens, as they grow.
pub(super) trait Sidecar: Send {
    /// Takes a document.
    ///
    /// # Errors
    /// What is too large for the format: what, expected, found.
    fn push(&mut self, row: &Row<'_>) -> std::result::Result<(), [String; 3]>;

    /// The files, in the order of [`Format::files`] without the first.
    fn finish(self: Box<Self>) -> Vec<Vec<u8>>;
}

/// Writes one shard of a flat format.
pub struct FlatWriter {
    layout: Layout,
    names: Vec<String>,
    tokens_file: NewFile,
    /// Encoded, not yet written.
    buffer: Vec<u8>,
    sidecar: Box<dyn Sidecar>,
    documents: u64,
    tokens: u64,
    text_bytes: u64,
}

impl FlatWriter {
    /// Starts a shard of these `names` in `directory`.
    pub(super) fn create(directory: &Path, names: Vec<String>, target: &Target) -> Result<Self> {
        let format = target.format;
        let layout = Layout { format, token_type: format.token_type(target.vocab_size) };
        let tokens_file = NewFile::create(&directory.join(&names[0]))?;
        let buffer = header(layout, 0);
        let sidecar = sidecar(layout, &target.tokenizer);
        let (documents, tokens, text_bytes) = (0, 0, 0);
        Ok(Self { layout, names, tokens_file, buffer, sidecar, documents, tokens, text_bytes })
    }

    pub(super) fn push(&mut self, row: &Row<'_>) -> Result<()> {
        let wrong = |[what, expected, found]: [String; 3]| Error::DoesNotFit {
            path: self.tokens_file.target().to_path_buf(),
            what: format!("document {}: {what}", row.id),
            expected,
            found,
        };
        let kind = self.layout.token_type;
        kind.encode(row.tokens, &mut self.buffer).map_err(|id| {
            let expected = format!("at most {} ({})", kind.largest(), kind.name());
            wrong(["token id".into(), expected, id.to_string()])
        })?;
        self.sidecar.push(row).map_err(wrong)?;
        self.documents += 1;
        self.tokens += row.tokens.len() as u64;
        self.text_bytes += row.text.len() as u64;
        if self.buffer.len() >= BUFFER_BYTES {
            self.tokens_file.append(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Writes the sidecars, then reads all files back: their counts must be those pushed.
    ///
    /// Cost: one pass over the files, from the page cache.
    pub(super) fn finish(mut self) -> Result<Shard> {
        self.tokens_file.append(&self.buffer)?;
        let header = header(self.layout, self.tokens);
        if !header.is_empty() {
            let path = self.tokens_file.temporary();
            let written = self.tokens_file.handle()?.write_all_at(&header, 0);
            written.map_err(|e| forebay_store::Error::io("write", path, e))?;
        }
        let directory = self.tokens_file.target().parent().unwrap_or(Path::new("")).to_path_buf();
        let mut files = vec![self.tokens_file];
        for (name, bytes) in self.names[1..].iter().zip(self.sidecar.finish()) {
            let mut file = NewFile::create(&directory.join(name))?;
            file.append(&bytes)?;
            files.push(file);
        }
        let maps = files.iter().map(|file| Map::open(file.temporary()));
        let maps = maps.collect::<std::result::Result<Vec<Map>, _>>()?;
        let bytes: Vec<&[u8]> = maps.iter().map(|map| &**map).collect();
        let unit = read(self.layout, &bytes).map_err(|wrong| wrong.of(&directory, &self.names))?;
        let (expected, found) = ([self.documents, self.tokens], [unit.documents(), unit.tokens()]);
        if expected != found {
            let show =
                |[documents, tokens]: [u64; 2]| format!("{documents} documents, {tokens} tokens");
            let path = files[0].target();
            return Err(Error::corrupt(path, "counts", show(expected), show(found)));
        }
        let entry = |(name, bytes): (&String, &&[u8])| FileEntry {
            file: name.clone(),
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        };
        let mut entries = self.names.iter().zip(&bytes).map(entry).collect::<Vec<_>>().into_iter();
        let FileEntry { bytes, blake3, .. } = entries.next().unwrap_or_default();
        let mut files = files.into_iter();
        let missing = || Error::file(&directory, "expected a file for the tokens, found none");
        Ok(Shard {
            documents: self.documents,
            tokens: self.tokens,
            text_bytes: self.text_bytes,
            bytes,
            blake3,
            index: ShardIndex::default(),
            file: files.next().ok_or_else(missing)?,
            sidecars: entries.zip(files).collect(),
        })
    }
}

/// What stands before the tokens; of the same length whatever their number.
fn header(layout: Layout, tokens: u64) -> Vec<u8> {
    match layout.format {
        Format::Npy => npy::header(npy::descr(layout.token_type), tokens),
        _ => Vec::new(),
    }
}

fn sidecar(layout: Layout, tokenizer: &str) -> Box<dyn Sidecar> {
    match layout.format {
        Format::Datatrove => Box::new(datatrove::Ends::new(tokenizer, layout.token_type)),
        Format::Npy => Box::new(npy::Offsets::new()),
        Format::Olmo => Box::new(olmo::Table::new()),
        Format::Megatron | Format::Forebay => Box::new(megatron::Lengths::new(layout.token_type)),
    }
}

/// A shard of a flat format, as its sidecars describe it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Where the tokens begin.
    pub(crate) first_byte: usize,
    /// Tokens of each document.
    pub(crate) lengths: Vec<u64>,
    /// Id and source of each document, if the format has them.
    pub(crate) names: Vec<[String; 2]>,
}

impl Unit {
    pub(crate) fn documents(&self) -> u64 {
        self.lengths.len() as u64
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.lengths.iter().sum()
    }

    /// Of rising ends, the first document beginning at 0.
    pub(super) fn of_ends(ends: impl IntoIterator<Item = u64>) -> std::result::Result<Self, Wrong> {
        let (mut unit, mut start) = (Self::default(), 0);
        for (document, end) in ends.into_iter().enumerate() {
            let Some(length) = u64::checked_sub(end, start) else {
                let what = format!("end of document {document}");
                return Err(Wrong::new(1, what, format!("at least {start}"), end));
            };
            unit.lengths.push(length);
            start = end;
        }
        Ok(unit)
    }
}

/// What is not as its format has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Which file, in the order of [`Format::files`].
    pub(crate) file: usize,
    pub(crate) what: String,
    pub(crate) expected: String,
    pub(crate) found: String,
    /// The file is as it should be, and made for something else.
    pub(crate) sound: bool,
}

impl Wrong {
    pub(super) fn new(
        file: usize,
        what: impl Into<String>,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self { file, what: what.into(), expected, found, sound: false }
    }

    pub(crate) fn of(self, directory: &Path, names: &[String]) -> Error {
        let path =
            names.get(self.file).map_or(directory.to_path_buf(), |name| directory.join(name));
        Error::corrupt(&path, self.what, self.expected, self.found)
    }
}

/// Takes a shard apart; its sidecars are read, of the tokens only their number.
///
/// # Errors
/// Whatever contradicts the layout.
pub(crate) fn read(layout: Layout, files: &[&[u8]]) -> std::result::Result<Unit, Wrong> {
    let unit = match layout.format {
        Format::Megatron => megatron::read(layout.token_type, files),
        Format::Datatrove => datatrove::read(layout.token_type, files),
        Format::Npy => npy::read(layout.token_type, files),
        Format::Olmo => olmo::read(files),
        Format::Forebay => Err(Wrong::new(0, "format", "a flat one", layout.format.name())),
    }?;
    let tokens = files[0].len().saturating_sub(unit.first_byte) as u64;
    let expected = unit.tokens().checked_mul(layout.token_type.bytes() as u64);
    if expected != Some(tokens) {
        let expected = expected.map_or("less".into(), |expected| format!("{expected} B"));
        return Err(Wrong::new(0, "size of the tokens", expected, format!("{tokens} B")));
    }
    Ok(unit)
}

/// Checks a shard against its layout and its vocabulary; gives documents and tokens.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check(
    layout: Layout,
    vocab_size: u64,
    files: &[&[u8]],
) -> std::result::Result<(u64, u64), Wrong> {
    let unit = read(layout, files)?;
    let mut ids = vec![0_u32; BLOCK_TOKENS];
    let width = layout.token_type.bytes();
    let tokens = &files[0][unit.first_byte..];
    for (block, bytes) in tokens.chunks(BLOCK_TOKENS * width).enumerate() {
        let ids = &mut ids[..bytes.len() / width];
        let decoded = layout.token_type.decode(bytes, ids);
        let large = || ids.iter().position(|&id| u64::from(id) >= vocab_size);
        let wrong = match decoded {
            Err(wrong) => Some(wrong),
            Ok(()) => large().map(|place| (place, i64::from(ids[place]))),
        };
        if let Some((place, found)) = wrong {
            let what = format!("token {}", block * BLOCK_TOKENS + place);
            return Err(Wrong::new(0, what, format!("an id below {vocab_size}"), found));
        }
    }
    Ok((unit.documents(), unit.tokens()))
}

/// The `files` of a format, told from their number.
pub(super) fn parts<'a, const N: usize>(
    files: &[&'a [u8]],
) -> std::result::Result<[&'a [u8]; N], Wrong> {
    let wrong = |_| Wrong::new(0, "files", N, files.len());
    files.try_into().map_err(wrong)
}

/// The values of a file of `u64`.
pub(super) fn numbers(file: usize, bytes: &[u8]) -> std::result::Result<Vec<u64>, Wrong> {
    let (values, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err(Wrong::new(file, "size", "a multiple of 8 B", format!("{} B", bytes.len())));
    }
    Ok(values.iter().map(|&value| u64::from_le_bytes(value)).collect())
}

/// A document of these tokens; for tests.
#[cfg(test)]
pub(super) fn row<'a>(id: &'a str, tokens: &'a [u32]) -> Row<'a> {
    Row { id, source: "in.jsonl", position: 7, tokens, text: id, note: crate::Note::default() }
}
