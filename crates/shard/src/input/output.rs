//! What parsers make of a part, and what happens to a record that is no document.

use std::borrow::Cow;

use super::{InvalidUtf8, OnError, Options};
use crate::document::{Documents, Reason, Skipped};
use crate::strings::Strings;
use crate::{Error, Result};

/// What a part held.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Its documents, in order.
    pub documents: Documents,
    /// Its records that are none.
    pub skipped: Vec<Skipped>,
    /// Documents in which U+FFFD stands for bytes that were not UTF-8.
    pub replaced: u64,
}

/// Where a parser puts documents and bad records; holds the user's choices.
pub(super) struct Output<'a> {
    pub(super) options: &'a Options,
    pub(super) parsed: Parsed,
}

impl<'a> Output<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        let mut parsed = Parsed::default();
        parsed.documents.extra.resize(options.extra.len(), Strings::default());
        Self { options, parsed }
    }

    pub(super) fn bad(&mut self, skipped: Skipped) -> Result<()> {
        match self.options.on_error {
            OnError::Fail => Err(Error::Record(skipped)),
            OnError::Skip => {
                self.parsed.skipped.push(skipped);
                Ok(())
            }
        }
    }

    pub(super) fn record(
        &mut self,
        source: &str,
        position: u64,
        reason: Reason,
        detail: String,
    ) -> Result<()> {
        self.bad(Skipped { source: source.to_owned(), position, reason, detail })
    }

    /// `bytes` as text, with U+FFFD for what is not UTF-8 if the user wants that.
    ///
    /// # Errors
    /// The place of the first byte that is not UTF-8.
    pub(super) fn utf8<'b>(&mut self, bytes: &'b [u8]) -> std::result::Result<Cow<'b, str>, usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(_) if self.options.invalid_utf8 == InvalidUtf8::Replace => {
                self.parsed.replaced += 1;
                Ok(String::from_utf8_lossy(bytes))
            }
            Err(error) => Err(error.valid_up_to()),
        }
    }
}
