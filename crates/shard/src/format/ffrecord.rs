//! ffrecord, the format of 3FS: files of samples of any bytes, read only. Here a sample is the
//! tokens of a document, integers of one type end to end, which the file does not name.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | u32 CRC-32 of what follows up to the samples; 0 in old files, which have none |
//! | 4 | 8 | i64 N, samples |
//! | 12 | 4 · N | u32 CRC-32 of each sample |
//! | 12 + 4 · N | 8 · N | i64 byte where each sample begins; it ends where the next one does |
//! | 12 + 12 · N | | samples |
//!
//! Source: `ffrecord/src/ffrecord.cpp` of HFAiLab/ffrecord 1.4.

use std::path::{Path, PathBuf};

use forebay_store::{File, Map};

use super::token::TokenType;
use crate::{Error, Result};

const SUFFIX: &str = "ffr";
const HEADER_BYTES: u64 = 12;

/// The files of a dataset, checked against their headers.
#[derive(Debug)]
pub(crate) struct Ffrecord {
    pub(crate) files: Vec<PathBuf>,
    /// First byte and tokens of each sample, file by file.
    pub(crate) runs: Vec<Vec<(u64, u32)>>,
    /// CRC-32 of each sample, of all files end to end.
    pub(crate) checksums: Vec<u32>,
    /// blake3 of all headers, which hold a checksum of every sample, in hex.
    pub(crate) identity: String,
}

/// The files that `path` names: one, or all of a directory by name; none if it is something else.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    let is_one = |path: &Path| path.extension().is_some_and(|suffix| suffix == SUFFIX);
    if path.is_file() {
        return if is_one(path) { vec![path.to_path_buf()] } else { Vec::new() };
    }
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = paths.filter(|path| is_one(path) && path.is_file()).collect();
    found.sort();
    found
}

impl Ffrecord {
    /// Opens the files.
    ///
    /// Cost: 28 B a sample; headers are read and checked whole, samples are not touched.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a file cannot be what its header says; [`Error::NotText`] if a
    /// sample is no whole number of tokens.
    pub(crate) fn open(files: Vec<PathBuf>, token_type: TokenType) -> Result<Self> {
        let mut hash = blake3::Hasher::new();
        let (mut runs, mut checksums) = (Vec::new(), Vec::new());
        for path in &files {
            let map = Map::open(path)?;
            let (header, offsets) = header(&map, path)?;
            let crcs = header[HEADER_BYTES as usize..].as_chunks().0[..offsets.len()].iter();
            checksums.extend(crcs.map(|&crc| u32::from_le_bytes(crc)));
            hash.update(header);
            let begins = offsets.iter().copied();
            let ends = offsets.iter().copied().skip(1).chain([map.len() as u64]);
            let width = token_type.bytes() as u64;
            let samples = (0..).zip(begins.zip(ends)).map(|(sample, (begin, end))| {
                if begin < header.len() as u64 || begin > end || end > map.len() as u64 {
                    let expected = format!("bytes up to {}", map.len());
                    let what = format!("sample {sample}");
                    return Err(Error::corrupt(path, what, expected, format!("{begin} to {end}")));
                }
                let bytes = end - begin;
                let tokens = (bytes % width == 0).then_some(bytes / width);
                let tokens = tokens.and_then(|tokens| u32::try_from(tokens).ok());
                let tokens = tokens.ok_or_else(|| Error::NotText {
                    path: path.clone(),
                    what: format!("sample {sample}"),
                    expected: format!("tokens of {}", token_type.name()),
                    found: format!("{bytes} B"),
                })?;
                Ok((begin, tokens))
            });
            runs.push(samples.collect::<Result<Vec<(u64, u32)>>>()?);
        }
        Ok(Self { files, runs, checksums, identity: hash.finalize().to_hex().to_string() })
    }
}

/// CRC-32 of a range of a file, a MiB at a time: a sample may be of any size.
pub(crate) fn crc32(file: &File, mut first: u64, mut bytes: u64) -> Result<u32> {
    let mut crc = flate2::Crc::new();
    while bytes > 0 {
        let length = bytes.min(1 << 20);
        crc.update(&file.read(first, length as usize)?);
        (first, bytes) = (first + length, bytes - length);
    }
    Ok(crc.sum())
}

/// The bytes in front of the samples, and where those begin.
fn header<'a>(file: &'a [u8], path: &Path) -> Result<(&'a [u8], Vec<u64>)> {
    let short =
        |expected: String| Error::corrupt(path, "size", expected, format!("{} B", file.len()));
    let Some((crc, rest)) = file.split_first_chunk::<4>() else {
        return Err(short(format!("≥ {HEADER_BYTES} B")));
    };
    let Some((samples, rest)) = rest.split_first_chunk::<8>() else {
        return Err(short(format!("≥ {HEADER_BYTES} B")));
    };
    let samples = u64::from_le_bytes(*samples);
    let end = samples.checked_mul(12).and_then(|bytes| bytes.checked_add(HEADER_BYTES));
    let header = end.and_then(|end| file.get(..usize::try_from(end).ok()?));
    let Some(header) = header else {
        return Err(short(format!("the header of {samples} samples")));
    };
    let expected = u32::from_le_bytes(*crc);
    let mut hash = flate2::Crc::new();
    hash.update(&header[4..]);
    if expected != 0 && expected != hash.sum() {
        let (expected, found) = (format!("{expected:08x}"), format!("{:08x}", hash.sum()));
        return Err(Error::corrupt(path, "CRC-32 of the header", expected, found));
    }
    let offsets = &rest[4 * samples as usize..12 * samples as usize];
    let offsets = offsets.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes));
    Ok((header, offsets.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ffrecord's `FileWriter` lays a file out.
    pub(crate) fn file(samples: &[Vec<u8>]) -> Vec<u8> {
        let crc = |bytes: &[u8]| {
            let mut crc = flate2::Crc::new();
            crc.update(bytes);
            crc.sum()
        };
        let mut header = (samples.len() as u64).to_le_bytes().to_vec();
        samples.iter().for_each(|sample| header.extend(crc(sample).to_le_bytes()));
        let mut at = HEADER_BYTES + 12 * samples.len() as u64;
        for sample in samples {
            header.extend(at.to_le_bytes());
            at += sample.len() as u64;
        }
        [&crc(&header).to_le_bytes()[..], &header, &samples.concat()].concat()
    }

    fn open(bytes: &[u8], token_type: TokenType) -> Result<Ffrecord> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ffr");
        std::fs::write(&path, bytes).unwrap();
        Ffrecord::open(files(dir.path()), token_type)
    }

    #[test]
    fn samples_lie_where_the_header_says() {
        let samples = [vec![1, 2, 3, 4], Vec::new(), vec![5; 8]];
        let found = open(&file(&samples), TokenType::U16).unwrap();
        assert_eq!(found.runs, [vec![(48, 2), (52, 0), (52, 4)]]);
        // Of zlib: `zlib.crc32(bytes)`.
        assert_eq!(found.checksums, [0xb63c_fbcd, 0, 0xdbdf_d27a]);
        assert_eq!(open(&file(&[]), TokenType::U16).unwrap().runs, [vec![]]);
        let mut old = file(&samples);
        old[..4].fill(0);
        assert_eq!(open(&old, TokenType::U32).unwrap().runs, [vec![(48, 1), (52, 0), (52, 2)]]);
    }

    #[test]
    fn what_cannot_be_true_is_named() {
        let sound = file(&[vec![1, 2, 3, 4], vec![5; 8]]);
        let says = |bytes: &[u8], words: &str| {
            let error = open(bytes, TokenType::U32).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("a.ffr"), "{error}");
        };
        says(&sound[..11], "size: expected ≥ 12 B, found 11 B");
        says(&sound[..30], "the header of 2 samples");
        says(&sound[..38], "sample 0");
        let mut flipped = sound.clone();
        flipped[13] ^= 1;
        says(&flipped, "CRC-32 of the header");
        let mut many = sound.clone();
        many[4..12].fill(0xff);
        says(&many, "the header of");
        let mut torn = file(&[vec![1, 2, 3], vec![5; 8]]);
        says(&torn, "sample 0: expected tokens of u32, found 3 B");
        // Without the checksum, an offset before the samples.
        torn[..4].fill(0);
        torn[20..28].fill(0);
        says(&torn, "sample 0");
    }
}
