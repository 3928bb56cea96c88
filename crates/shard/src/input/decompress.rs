//! A file as a stream of plain bytes, whatever its compression; counts what it took from the file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::path::Path;

use forebay_store::remote;

use crate::{Error, Result};

const BUFFER_BYTES: usize = 256 << 10;

/// Plain bytes of a file, whatever its compression.
pub(super) struct Stream {
    reader: Box<dyn Read + Send>,
    /// Told what is read, if the reader does not count by itself.
    taken: Option<Arc<AtomicU64>>,
}

impl Stream {
    /// Appends up to `most` bytes; fewer only at the end.
    pub(super) fn fill(&mut self, most: u64, to: &mut Vec<u8>) -> io::Result<usize> {
        let read = (&mut self.reader).take(most).read_to_end(to)?;
        if let Some(taken) = &self.taken {
            taken.fetch_add(read as u64, Ordering::Relaxed);
        }
        Ok(read)
    }
}

/// Opens a file, `-` for stdin, and undoes its compression, told by the first bytes. `taken`
/// counts bytes of the file.
pub(super) fn open(path: &Path, taken: &Arc<AtomicU64>) -> Result<Stream> {
    let wrap = |e| Error::from(forebay_store::Error::io("open", path, e));
    let raw: Box<dyn Read + Send> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else if let Some(uri) = path.to_str().filter(|uri| remote::scheme(uri).is_some()) {
        remote::read(uri)?
    } else {
        let mut file = File::open(path).map_err(wrap)?;
        // What is no regular file, a pipe for instance, cannot be read from its start again.
        if file.metadata().map_err(wrap)?.is_file() {
            let mut magic = [0; 4];
            let plain = file.read_exact(&mut magic).is_ok() && !is_compressed(&magic);
            file.rewind().map_err(wrap)?;
            if plain {
                // The file itself: it reads into fresh memory without clearing it first.
                return Ok(Stream { reader: Box::new(file), taken: Some(Arc::clone(taken)) });
            }
        }
        Box::new(file)
    };
    let counted = Counted { inner: raw, taken: Arc::clone(taken) };
    let mut buffered = BufReader::with_capacity(BUFFER_BYTES, counted);
    let magic = buffered.fill_buf().map_err(wrap)?;
    let reader: Box<dyn Read + Send> = match magic {
        // Members after the first are read too: parallel compressors write many.
        [0x1f, 0x8b, ..] => Box::new(Members::new(buffered)),
        // Any number of frames, skippable ones included.
        _ if is_compressed(magic) => {
            Box::new(zstd::stream::read::Decoder::with_buffer(buffered).map_err(wrap)?)
        }
        _ => Box::new(buffered),
    };
    Ok(Stream { reader, taken: None })
}

fn is_compressed(magic: &[u8]) -> bool {
    let zstd = [0x28, 0xb5, 0x2f, 0xfd];
    let skippable = |magic: &[u8]| matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    magic.starts_with(&[0x1f, 0x8b]) || magic.starts_with(&zstd) || skippable(magic)
}

/// Gzip members one after another; zero padding after the last is no error, as for gzip(1).
struct Members<R: BufRead>(Option<flate2::bufread::GzDecoder<R>>);

impl<R: BufRead> Members<R> {
    fn new(reader: R) -> Self {
        Self(Some(flate2::bufread::GzDecoder::new(reader)))
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.0 {
            let count = decoder.read(buf)?;
            if count > 0 || buf.is_empty() {
                return Ok(count);
            }
            let Some(member) = self.0.take() else { break };
            let mut reader = member.into_inner();
            while let Some(&byte) = reader.fill_buf()?.first() {
                if byte != 0 {
                    self.0 = Some(flate2::bufread::GzDecoder::new(reader));
                    break;
                }
                reader.consume(1);
            }
        }
        Ok(0)
    }
}

struct Counted<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
