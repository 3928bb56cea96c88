//! What a request carries: bytes in memory, or a range of a file that never comes into it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use ring::digest::{Context, Digest, SHA256, digest};

/// What is read of a file at once: it stays in the cache of the core that hashes or encrypts it.
const PIECE: usize = 256 << 10;

/// Bytes to send, as often as it takes.
#[derive(Debug)]
pub(super) enum Body<'a> {
    Bytes(&'a [u8]),
    /// The kernel moves it from the page cache to the socket where nothing encrypts.
    File(&'a File, Range<u64>),
}

impl Body<'_> {
    pub(super) const NOTHING: Body<'static> = Body::Bytes(b"");

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, range) => range.end - range.start,
        }
    }

    /// Of all of it; `None` if there is nothing.
    pub(super) fn sha256(&self) -> io::Result<Option<Digest>> {
        match self {
            _ if self.len() == 0 => Ok(None),
            Self::Bytes(bytes) => Ok(Some(digest(&SHA256, bytes))),
            Self::File(file, range) => {
                let mut context = Context::new(&SHA256);
                pieces(file, range.clone(), |bytes| {
                    context.update(bytes);
                    Ok(())
                })?;
                Ok(Some(context.finish()))
            }
        }
    }
}

/// Calls `take` with a range of a file in order.
pub(super) fn pieces(
    file: &File,
    range: Range<u64>,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buf = vec![0; PIECE.min((range.end - range.start) as usize)];
    let mut at = range.start;
    while at < range.end {
        let piece = (range.end - at).min(PIECE as u64) as usize;
        file.read_exact_at(&mut buf[..piece], at).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => shorter(),
            _ => error,
        })?;
        take(&buf[..piece])?;
        at += piece as u64;
    }
    Ok(())
}

/// Asking again would not help.
pub(super) fn shorter() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "the file has become shorter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_a_file_is_the_bytes_that_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..PIECE * 2 + 100).map(|n| (n / 7) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        for range in [0..0, 5..6, 3..bytes.len() as u64, 0..PIECE as u64] {
            let part = &bytes[range.start as usize..range.end as usize];
            let body = Body::File(&file, range.clone());
            let hash = body.sha256().unwrap().map(|hash| hash.as_ref().to_vec());
            let expected = Body::Bytes(part).sha256().unwrap().map(|hash| hash.as_ref().to_vec());
            assert_eq!((body.len(), hash), (part.len() as u64, expected));
        }
        let beyond = Body::File(&file, 0..bytes.len() as u64 + 1).sha256();
        assert_eq!(beyond.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
