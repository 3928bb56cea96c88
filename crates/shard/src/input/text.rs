//! Plain text: a document a file.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::output::Output;
use super::{InputFile, OnError, decompress};
use crate::document::{Document, Reason};
use crate::{Error, Result};

pub(super) fn parse(files: &[InputFile], out: &mut Output<'_>) -> Result<()> {
    let mut bytes = Vec::new();
    for file in files {
        bytes.clear();
        let further = vec![String::new(); out.options.extra.len()];
        let source = file.name();
        let limit = out.options.max_record_bytes;
        // Progress counts these files when the cursor hands them out.
        let uncounted = Arc::new(AtomicU64::new(0));
        let read = decompress::open(&file.path, &uncounted).and_then(|mut stream| {
            stream
                .fill(limit + 1, &mut bytes)
                .map_err(|e| Error::file(&file.path, format!("cannot be read whole: {e}")))
        });
        match read {
            Ok(_) => {}
            Err(error) if out.options.on_error == OnError::Fail => return Err(error),
            Err(error) => {
                out.record(&source, 0, Reason::BrokenFile, error.to_string())?;
                continue;
            }
        }
        if bytes.len() as u64 > limit {
            let detail = format!("expected at most {limit} bytes in a document, found more");
            out.record(&source, 0, Reason::TooLong, detail)?;
            continue;
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let text = match out.utf8(bytes) {
            Ok(text) => text,
            Err(at) => {
                let detail = format!("expected UTF-8, found byte 0x{:02x} at byte {at}", bytes[at]);
                out.record(&source, 0, Reason::InvalidUtf8, detail)?;
                continue;
            }
        };
        let (id, source, file) = (None, &source, file.index);
        let document = Document { id, source, text: &text, file, position: 0, extra: &further };
        out.parsed.documents.push(&document);
    }
    Ok(())
}
