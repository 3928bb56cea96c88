use serde::{Deserialize, Serialize};

use crate::strings::Strings;

/// Documents read from an input, column by column, in input order.
///
/// `(file, position)` is the identity of a document: the file's place in the sorted list of
/// inputs and the document's place in that file (byte of a JSON line, row of a Parquet file,
/// 0 for a text file).
#[derive(Debug, Default)]
pub struct Documents {
    /// The document's own id, or [`stable_id`].
    pub ids: Strings,
    /// Where it came from.
    pub sources: Strings,
    /// UTF-8 text.
    pub texts: Strings,
    /// File of each document.
    pub files: Vec<u32>,
    /// Position of each document in its file.
    pub positions: Vec<u64>,
    /// Further fields, as [`crate::input::Options::extra`] names them; empty where missing.
    pub extra: Vec<Strings>,
}

impl Documents {
    /// How many.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Appends one.
    pub fn push(&mut self, document: &Document<'_>) {
        self.texts.push(document.text);
        self.push_rest(document);
    }

    /// Appends all of one but its text, which is there already.
    pub(crate) fn push_rest(&mut self, document: &Document<'_>) {
        match document.id {
            Some(id) => self.ids.push(id),
            None => self.ids.push(&stable_id(document.source, document.position)),
        }
        self.sources.push(document.source);
        self.files.push(document.file);
        self.positions.push(document.position);
        for (column, value) in self.extra.iter_mut().zip(document.extra) {
            column.push(value);
        }
    }
}

/// One document on its way into [`Documents`].
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// Its own id, if the input has one.
    pub id: Option<&'a str>,
    /// Where it came from.
    pub source: &'a str,
    /// UTF-8 text.
    pub text: &'a str,
    /// File's place in the list of inputs.
    pub file: u32,
    /// Place in the file.
    pub position: u64,
    /// A value for each column of [`Documents::extra`].
    pub extra: &'a [String],
}

/// The id of a document that brings none: 128 bits of blake3 over source and position, in hex.
pub fn stable_id(source: &str, position: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&position.to_le_bytes());
    hasher.update(source.as_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}

/// A record that was left out, and why; nothing is lost silently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// File it stood in.
    pub source: String,
    /// Place in the file.
    pub position: u64,
    /// One of a few words, to count by.
    pub reason: Reason,
    /// What was expected and what was found.
    pub detail: String,
}

/// Why a record is not a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// Not a JSON object.
    MalformedJson,
    /// No text field, or null.
    MissingField,
    /// The text (or the id) has another type.
    WrongType,
    /// Bytes that are not UTF-8.
    InvalidUtf8,
    /// Longer than `--max-record`.
    TooLong,
    /// The rest of a file could not be read.
    BrokenFile,
}

impl Reason {
    /// As it stands in `removed/` and in JSON reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed-json",
            Self::MissingField => "missing-field",
            Self::WrongType => "wrong-type",
            Self::InvalidUtf8 => "invalid-utf8",
            Self::TooLong => "too-long",
            Self::BrokenFile => "broken-file",
        }
    }
}
