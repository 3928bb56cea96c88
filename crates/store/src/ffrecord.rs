//! FFRecord files: samples of any bytes, found by number.
//!
//! ```text
//! 0          crc32 u32 of all up to 12 + 12 N, itself left out; 0 in old files: not checked
//! 4          N i64
//! 12         crc32 u32 of every sample
//! 12 + 4 N   first byte i64 of every sample
//! 12 + 12 N  samples, one after another; each ends where the next starts, the last with the file
//! ```
//!
//! [`Writer`] writes one, [`Records`] reads many samples at once through any [`Queue`].

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::{
    Access, Arena, Completion, Direct, Error, File, NewFile, Object, ObjectId, Op, Queue, Request,
    Result,
};

/// Bytes of the header before the lists, and per sample in them.
const FIXED: u64 = 12;
const EACH: u64 = 12;

/// Writes a file of a number of samples that is known beforehand.
#[derive(Debug)]
pub struct Writer {
    file: NewFile,
    count: usize,
    checksums: Vec<u32>,
    offsets: Vec<i64>,
}

impl Writer {
    /// A file at `path` with `count` samples, which takes its name when it is finished.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be made.
    pub fn create(path: &Path, count: usize) -> Result<Self> {
        let mut file = NewFile::create(path)?;
        file.append(&vec![0; (FIXED + EACH * count as u64) as usize])?;
        let (checksums, offsets) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Ok(Self { file, count, checksums, offsets })
    }

    /// Appends the next sample; it may be empty.
    ///
    /// # Errors
    /// [`Error::Record`] if there are more than was said, [`Error::Io`] if it cannot be written.
    pub fn write(&mut self, sample: &[u8]) -> Result<()> {
        if self.offsets.len() == self.count {
            return Err(self.wrong(self.count + 1));
        }
        self.offsets.push(self.file.written() as i64);
        self.checksums.push(crc32fast::hash(sample));
        self.file.append(sample)
    }

    /// Writes the header and gives the file its name.
    ///
    /// # Errors
    /// [`Error::Record`] if there are fewer than was said, [`Error::Io`] if it cannot be written.
    pub fn finish(self) -> Result<()> {
        if self.offsets.len() != self.count {
            return Err(self.wrong(self.offsets.len()));
        }
        let mut header = Vec::with_capacity((FIXED + EACH * self.count as u64) as usize);
        header.extend([0; 4]);
        header.extend((self.count as i64).to_le_bytes());
        header.extend(self.checksums.iter().flat_map(|crc| crc.to_le_bytes()));
        header.extend(self.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
        let crc = crc32fast::hash(&header[4..]);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        let path = self.file.target().to_path_buf();
        let written = self.file.handle()?.write_all_at(&header, 0);
        written.map_err(|e| Error::io("write", &path, e))?;
        self.file.publish()
    }

    fn wrong(&self, found: usize) -> Error {
        let what = format!("expected {} samples, found {found}", self.count);
        Error::Record { path: self.file.target().into(), what }
    }
}

/// A file of samples, open.
#[derive(Debug)]
pub struct Records {
    object: Arc<Object>,
    checksums: Vec<u32>,
    /// Of every sample, and of the end.
    offsets: Vec<u64>,
}

impl Records {
    /// Opens `path` and reads its header whole: 12 bytes a sample.
    ///
    /// # Errors
    /// [`Error::Record`] if header and file do not fit each other, [`Error::Io`] if it cannot be
    /// read.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |what: String| Error::Record { path: path.into(), what };
        let file = File::open(path)?;
        let size = file.size();
        if size < FIXED {
            return Err(wrong(format!("expected a header of 12 bytes, found {size} in all")));
        }
        let fixed = file.read(0, FIXED as usize)?;
        let count = i64::from_le_bytes(array(&fixed[4..]));
        let most = (size - FIXED) / EACH;
        let count = u64::try_from(count).ok().filter(|&count| count <= most).ok_or_else(|| {
            wrong(format!("expected 0 to {most} samples in {size} bytes, found {count}"))
        })?;
        let lists = file.read(FIXED, (EACH * count) as usize)?;
        let expected = u32::from_le_bytes(array(&fixed));
        let mut crc = crc32fast::Hasher::new();
        crc.update(&fixed[4..]);
        crc.update(&lists);
        let found = crc.finalize();
        if expected != 0 && expected != found {
            let what = format!("the header hashes to {found:08x}, it says {expected:08x}");
            return Err(wrong(what));
        }
        let (crcs, places) = lists.split_at(4 * count as usize);
        let checksums = crcs.chunks_exact(4).map(|b| u32::from_le_bytes(array(b))).collect();
        let mut offsets: Vec<u64> =
            places.chunks_exact(8).map(|b| u64::from_le_bytes(array(b))).collect();
        offsets.push(size);
        // An old header is not checked, and a checked one may come from a wrong program.
        let start = FIXED + EACH * count;
        if offsets[0] < start || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            let what = format!("expected samples in order from byte {start} to {size}");
            return Err(wrong(what));
        }
        let object = Arc::new(Object::open(path, Access::Read, Direct::Off)?);
        Ok(Self { object, checksums, offsets })
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        self.checksums.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.checksums.is_empty()
    }

    /// Where a sample lies: first byte and length.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn place(&self, sample: usize) -> (u64, u64) {
        (self.offsets[sample], self.offsets[sample + 1] - self.offsets[sample])
    }

    /// What a queue must know to read from it: once for any number of batches.
    pub fn add_to(&self, queue: &mut Queue) -> ObjectId {
        queue.add(Arc::clone(&self.object))
    }

    /// Reads samples in any order, repeats included, with as much in flight as queue and arena
    /// allow. `file` is from [`Records::add_to`] with the same, idle queue.
    ///
    /// # Errors
    /// [`Error::Record`] naming the sample if there is none of that number or, with `check`, its
    /// checksum differs; otherwise what the queue says.
    pub fn read(
        &self,
        queue: &mut Queue,
        file: ObjectId,
        arena: &Arena,
        samples: &[usize],
        check: bool,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<u8>>> {
        let wrong = |what: String| Error::Record { path: self.object.path().into(), what };
        let mut batch = Vec::with_capacity(samples.len());
        for &sample in samples {
            if sample >= self.len() {
                return Err(wrong(format!(
                    "expected samples below {}, found {sample}",
                    self.len()
                )));
            }
            batch.push(vec![0; self.place(sample).1 as usize]);
        }
        // Pieces of one buffer each; a tag counts them, and `pieces` says what they are.
        let step = arena.buffer_bytes();
        let lengths: Vec<usize> = batch.iter().map(Vec::len).collect();
        let pieces: Vec<(usize, usize)> = lengths
            .iter()
            .enumerate()
            .flat_map(|(n, &length)| (0..length).step_by(step).map(move |start| (n, start)))
            .collect();
        let (mut next, mut over) = (0, Vec::<Completion>::new());
        while next < pieces.len() || queue.in_flight() > 0 {
            while next < pieces.len()
                && queue.in_flight() < queue.depth()
                && let Some(buffer) = arena.lend()
            {
                let (n, start) = pieces[next];
                let offset = self.place(samples[n]).0 + start as u64;
                let length = step.min(lengths[n] - start);
                let tag = next as u64;
                let request = Request { tag, op: Op::Read, object: file, offset, length, buffer };
                if queue.prepare(request).is_err() {
                    unreachable!("there was room");
                }
                next += 1;
            }
            queue.wait(1, deadline, &mut over)?;
            for done in over.drain(..) {
                let (n, start) = pieces[done.tag as usize];
                let length = step.min(lengths[n] - start);
                let moved = done.result?;
                if moved < length {
                    let what = format!("sample {}: the file ends too soon", samples[n]);
                    return Err(wrong(what));
                }
                batch[n][start..start + length].copy_from_slice(&done.buffer[..length]);
            }
        }
        for (&sample, bytes) in samples.iter().zip(&batch).filter(|_| check) {
            let (expected, found) = (self.checksums[sample], crc32fast::hash(bytes));
            if expected != found {
                let what =
                    format!("sample {sample} hashes to {found:08x}, expected {expected:08x}");
                return Err(wrong(what));
            }
        }
        Ok(batch)
    }
}

/// The first bytes of a slice that has enough.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Engine, Options};

    /// A reader written from the layout alone: one slice after another, checksums bit by bit.
    fn oracle(file: &[u8]) -> Vec<Vec<u8>> {
        fn crc(bytes: &[u8]) -> u32 {
            !bytes.iter().fold(!0_u32, |mut crc, &byte| {
                crc ^= u32::from(byte);
                for _ in 0..8 {
                    crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
                }
                crc
            })
        }
        let n = i64::from_le_bytes(file[4..12].try_into().unwrap()) as usize;
        assert_eq!(u32::from_le_bytes(file[..4].try_into().unwrap()), crc(&file[4..12 + 12 * n]));
        let place = |k: usize| {
            let at = 12 + 4 * n + 8 * k;
            i64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize
        };
        (0..n)
            .map(|k| {
                let end = if k + 1 < n { place(k + 1) } else { file.len() };
                let sample = &file[place(k)..end];
                let expected = &file[12 + 4 * k..][..4];
                assert_eq!(crc(sample).to_le_bytes(), expected);
                sample.to_vec()
            })
            .collect()
    }

    fn write(path: &Path, samples: &[Vec<u8>]) {
        let mut writer = Writer::create(path, samples.len()).unwrap();
        samples.iter().for_each(|sample| writer.write(sample).unwrap());
        writer.finish().unwrap();
    }

    fn read(path: &Path, samples: &[usize]) -> Result<Vec<Vec<u8>>> {
        let records = Records::open(path)?;
        let arena = Arena::near(path, 4096, 4)?;
        let options = Options { depth: 4, engine: Engine::Auto, arena: Some(arena.clone()) };
        let mut queue = Queue::open_near(path, &options)?;
        let file = records.add_to(&mut queue);
        records.read(&mut queue, file, &arena, samples, true, None)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_was_written_is_read_in_any_order_and_by_others(
            samples in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9000), 0..12),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.ffr");
            write(&path, &samples);
            prop_assert_eq!(oracle(&std::fs::read(&path).unwrap()), samples.clone());
            let wanted: Vec<usize> = match samples.len() {
                0 => Vec::new(),
                n => order.iter().map(|index| index.index(n)).collect(),
            };
            let expected: Vec<_> = wanted.iter().map(|&n| samples[n].clone()).collect();
            prop_assert_eq!(read(&path, &wanted).unwrap(), expected);
        }

        #[test]
        fn no_header_makes_it_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.ffr");
            // No checksum and a small number, so that it gets as far as it can.
            let mut bytes = bytes;
            for (n, byte) in bytes.iter_mut().enumerate().take(12) {
                *byte = if n == 4 { *byte % 8 } else { 0 };
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(records) = Records::open(&path) {
                for sample in 0..records.len() {
                    let (first, length) = records.place(sample);
                    prop_assert!(first + length <= bytes.len() as u64);
                }
            }
        }
    }

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ffr");
        write(&path, &[vec![1; 10], vec![2; 5000], vec![]]);
        let good = std::fs::read(&path).unwrap();
        for at in [0, 5, 14, 30, 48, 57, 60, 5000] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let error = read(&path, &[0, 1, 2]).unwrap_err();
            assert!(matches!(error, Error::Record { .. }), "byte {at}: {error}");
        }
        std::fs::write(&path, &good).unwrap();
        let error = read(&path, &[3]).unwrap_err();
        assert!(error.to_string().contains("below 3, found 3"), "{error}");
    }

    #[test]
    fn a_number_that_was_not_kept_is_an_error_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ffr");
        let mut writer = Writer::create(&path, 1).unwrap();
        writer.write(b"a").unwrap();
        assert!(matches!(writer.write(b"b"), Err(Error::Record { .. })));
        let few = Writer::create(&path, 1).unwrap().finish().unwrap_err();
        assert!(few.to_string().contains("expected 1 samples, found 0"), "{few}");
        assert!(!path.exists());
    }

    #[test]
    fn from_a_3fs_it_is_read_through_its_rings() {
        let dir = tempfile::tempdir().unwrap();
        let Some(emulator) = crate::conformance::emulate(dir.path(), "short=3") else { return };
        let path = emulator.path().join("a.ffr");
        let samples: Vec<Vec<u8>> = (0..40).map(|n| vec![n as u8; n * 700]).collect();
        write(&path, &samples);
        let order: Vec<usize> = (0..40).rev().collect();
        let mut expected = samples;
        expected.reverse();
        assert!(read(&path, &order).unwrap() == expected);
    }
}
