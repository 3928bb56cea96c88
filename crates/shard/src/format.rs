//! The files that a shard may be: ours, and those of existing training stacks.
//!
//! | `--format` | files of shard `N` | token | documents end |
//! |---|---|---|---|
//! | `forebay` | `shard-N.parquet` | u32 | in `documents.idx` |
//! | `megatron` | `shard-N.bin`, `.idx` | u16 or i32 | in `.idx` |
//! | `datatrove` | `N_unshuffled.ds` or `N_00000_doc_shuffled.ds`, `.index`, `.metadata` | u16 or u32 | in `.index` |
//! | `npy` | `shard-N.npy`, `shard-N.offsets.npy` | u16 or u32 | in the offsets |
//! | `olmo` | `part-N.npy`, `part-N.csv.gz` | u16 or u32 | in the `.csv.gz` |
//!
//! MDS shards of MosaicML Streaming and ffrecord files are read and not written ([`TokenFiles`](crate::TokenFiles)).
//! All but the first are *flat*: the tokens of the shard end to end in one file, what describes
//! them in sidecars. Numbers have five digits or more, everything is little-endian, and the bytes
//! of each layout stand on the front page of its module. A token is as narrow as the stack that
//! reads it expects for this size of vocabulary; an id that does not fit is an error.

mod csv;
mod datatrove;
pub(crate) mod ffrecord;
mod flat;
pub(crate) mod mds;
pub(crate) mod megatron;
mod npy;
mod olmo;
mod token;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use flat::FlatWriter;
pub(crate) use flat::{Unit, Wrong, check, read};
pub use token::{Id, TokenType};

use crate::writer::{Columns, Row, Shard, ShardWriter};
use crate::{Error, Result};

/// What the shards of a dataset are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Parquet, with an index beside it.
    #[default]
    Forebay,
    /// Megatron-LM's `.bin` and `.idx`.
    Megatron,
    /// datatrove's and nanotron's `.ds`.
    Datatrove,
    /// One NumPy array of tokens, one of offsets.
    Npy,
    /// What dolma writes and OLMo reads: bare tokens named `.npy`.
    Olmo,
}

/// What the manifest says of shards that are not Parquet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Whose files they are.
    pub format: Format,
    /// What a token is stored as.
    pub token_type: TokenType,
}

/// All that the files of a shard depend on besides its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Whose files.
    pub format: Format,
    /// Columns; the flat formats hold tokens alone.
    pub columns: Columns,
    /// Documents come in random order; datatrove's names say so.
    pub shuffled: bool,
    /// Name of the tokenizer, for those who write it down.
    pub tokenizer: String,
    /// Ids run below this.
    pub vocab_size: u64,
}

impl Format {
    /// As it is written on the command line and in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forebay => "forebay",
            Self::Megatron => "megatron",
            Self::Datatrove => "datatrove",
            Self::Npy => "npy",
            Self::Olmo => "olmo",
        }
    }

    /// The one that needs no mention.
    pub fn is_forebay(&self) -> bool {
        *self == Self::Forebay
    }

    /// Files of shard `number`; the one with the tokens comes first.
    pub fn files(self, number: usize, shuffled: bool) -> Vec<String> {
        match self {
            Self::Forebay => vec![format!("shard-{number:05}.parquet")],
            Self::Megatron => megatron::files(number),
            Self::Datatrove => datatrove::files(number, shuffled),
            Self::Npy => npy::files(number),
            Self::Olmo => olmo::files(number),
        }
    }

    /// What its readers expect a token to be for a vocabulary of this size.
    pub fn token_type(self, vocab_size: u64) -> TokenType {
        match self {
            Self::Megatron => megatron::token_type(vocab_size),
            Self::Datatrove | Self::Npy | Self::Olmo if vocab_size <= 1 << 16 => TokenType::U16,
            Self::Forebay | Self::Datatrove | Self::Npy | Self::Olmo => TokenType::U32,
        }
    }

    /// Is this the name of a file of a shard, in any format?
    pub fn is_shard_file(name: &str) -> bool {
        let digits = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
        let numbered = |prefix: &str, suffixes: &[&str]| {
            let rest = name.strip_prefix(prefix);
            rest.and_then(|rest| suffixes.iter().find_map(|suffix| rest.strip_suffix(suffix)))
                .is_some_and(digits)
        };
        numbered("shard-", &[".parquet", ".bin", ".idx", ".offsets.npy", ".npy"])
            || numbered("part-", &[".npy", ".csv.gz"])
            || datatrove::SUFFIXES.iter().any(|suffix| {
                numbered("", &[&format!("_unshuffled{suffix}")])
                    || numbered("", &[&format!("_00000_doc_shuffled{suffix}")])
            })
    }
}

/// Writes one shard, document by document, in any format.
pub enum UnitWriter {
    /// As Parquet.
    Parquet(Box<ShardWriter>),
    /// As tokens and sidecars.
    Flat(Box<FlatWriter>),
}

impl UnitWriter {
    /// Starts shard `number` in `directory`; its files get their names when the caller publishes.
    ///
    /// # Errors
    /// If a file cannot be created; [`Error::DoesNotFit`] for columns that the format has not.
    pub fn create(directory: &Path, number: usize, target: &Target) -> Result<Self> {
        let files = target.format.files(number, target.shuffled);
        if target.format.is_forebay() {
            let path = directory.join(&files[0]);
            return Ok(Self::Parquet(Box::new(ShardWriter::create(&path, target.columns)?)));
        }
        let tokens = Columns { tokens: true, ..Columns::default() };
        if target.columns != tokens {
            let (expected, found) = ("tokens alone".into(), "other columns".into());
            let what = format!("format {}", target.format.name());
            return Err(Error::DoesNotFit {
                path: directory.join(&files[0]),
                what,
                expected,
                found,
            });
        }
        Ok(Self::Flat(Box::new(FlatWriter::create(directory, files, target)?)))
    }

    /// Appends one document.
    ///
    /// # Errors
    /// If the storage refuses, or [`Error::DoesNotFit`].
    pub fn push(&mut self, row: &Row<'_>) -> Result<()> {
        match self {
            Self::Parquet(writer) => writer.push(row),
            Self::Flat(writer) => writer.push(row),
        }
    }

    /// Completes the files, reads them back, checks and hashes them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they do not hold what was pushed.
    pub fn finish(self, threads: usize) -> Result<Shard> {
        match self {
            Self::Parquet(writer) => writer.finish(threads),
            Self::Flat(writer) => writer.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Format; 5] =
        [Format::Forebay, Format::Megatron, Format::Datatrove, Format::Npy, Format::Olmo];

    #[test]
    fn every_file_of_every_shard_is_known_by_its_name() {
        let mut seen = std::collections::BTreeSet::new();
        for format in ALL {
            for number in [0, 7, 123_456] {
                for shuffled in [false, true] {
                    for file in format.files(number, shuffled) {
                        assert!(Format::is_shard_file(&file), "{file}");
                        seen.insert(file);
                    }
                }
            }
        }
        assert_eq!(seen.len(), 3 * (1 + 2 + 6 + 2 + 2));
        for other in ["shard-1.bin", "shard-00000.txt", "part-x.npy", "notes.ds", "00000.ds", ""] {
            assert!(!Format::is_shard_file(other), "{other}");
        }
    }

    #[test]
    fn a_token_is_as_narrow_as_each_stack_has_it() {
        use TokenType::{I32, U16, U32};
        for (vocab_size, expected) in [
            (50_257, [U32, U16, U16, U16, U16]),
            (65_499, [U32, U16, U16, U16, U16]),
            (65_500, [U32, I32, U16, U16, U16]),
            (65_536, [U32, I32, U16, U16, U16]),
            (65_537, [U32, I32, U32, U32, U32]),
        ] {
            assert_eq!(ALL.map(|format| format.token_type(vocab_size)), expected, "{vocab_size}");
        }
    }
}
