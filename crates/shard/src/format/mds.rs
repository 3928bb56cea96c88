//! MosaicML Streaming: a directory with `index.json` and shards of format MDS, read only.
//!
//! | offset | bytes | content of a shard |
//! |---|---|---|
//! | 0 | 4 | u32 N, samples |
//! | 4 | 4 · (N + 1) | u32 byte where each sample begins, and the end |
//! | | | JSON of the columns, as in `index.json` |
//! | | | samples: u32 size of each column of variable size, then the columns |
//!
//! The tokens are a column of encoding `ndarray:TYPE:LENGTH`, `ndarray:TYPE` (a byte `dimensions << 2 |
//! width`, the shape), `ndarray` (a byte of the type before that), or `bytes`, which are i64 as
//! LLM Foundry has them.
//! Source: `streaming/base/format/mds` of mosaicml-streaming 0.13.

use std::path::{Path, PathBuf};

use forebay_store::Map;
use serde_json::Value;

use super::token::TokenType;
use crate::{Error, Result};

/// Its index in the directory.
const INDEX: &str = "index.json";
/// Columns that hold tokens, of those that are not alone.
const NAMES: [&str; 2] = ["tokens", "input_ids"];

/// The shards of a directory, checked against their files.
#[derive(Debug)]
pub(crate) struct Mds {
    pub(crate) token_type: TokenType,
    pub(crate) files: Vec<PathBuf>,
    /// First byte and tokens of each sample, shard by shard.
    pub(crate) runs: Vec<Vec<(u64, u32)>>,
    /// blake3 of the index, in hex.
    pub(crate) identity: String,
}

/// Does `directory` hold an index of MDS shards?
pub(crate) fn is_in(directory: &Path) -> bool {
    let bytes = std::fs::read(directory.join(INDEX)).unwrap_or_default();
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    value["shards"][0]["format"] == "mds"
}

/// Where the tokens stand in a sample, and as what.
struct Column {
    token_type: Option<TokenType>,
    /// Bytes of the columns; `None` for those of variable size.
    sizes: Vec<Option<u64>>,
    place: usize,
    /// A byte with the type before the shape.
    typed: bool,
    /// A shape before the values.
    shaped: bool,
}

impl Mds {
    /// Opens all shards of a directory.
    ///
    /// Cost: 24 B a sample; of every sample the sizes in front of its columns are read, unless
    /// all are fixed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a file cannot be what the index says; [`Error::NotText`] if it is
    /// compressed or holds no tokens.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(INDEX);
        let bytes = std::fs::read(&path).map_err(|e| forebay_store::Error::io("read", &path, e))?;
        let index: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::corrupt(&path, "index", "JSON", e))?;
        let shards = index["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (mut token_type, mut files, mut runs) = (None, Vec::new(), Vec::new());
        for (number, shard) in shards.iter().enumerate() {
            let not_text = |what: &str, expected: &str, found: &Value| Error::NotText {
                path: path.clone(),
                what: format!("{what} of shard {number}"),
                expected: expected.into(),
                found: found.to_string(),
            };
            if shard["format"] != "mds" {
                return Err(not_text("format", "\"mds\"", &shard["format"]));
            }
            if !shard["compression"].is_null() {
                return Err(not_text("compression", "none", &shard["compression"]));
            }
            let name = shard["raw_data"]["basename"].as_str().unwrap_or_default();
            let plain = |part| matches!(part, std::path::Component::Normal(_));
            if name.is_empty() || !Path::new(name).components().all(plain) {
                let expected = "a file inside the directory";
                return Err(not_text(
                    "raw_data.basename",
                    expected,
                    &shard["raw_data"]["basename"],
                ));
            }
            let column = Column::of(shard).ok_or_else(|| {
                let expected = "tokens as ndarray of integers, or bytes";
                not_text("column_encodings", expected, &shard["column_encodings"])
            })?;
            let file = directory.join(name);
            let map = Map::open(&file)?;
            let expected = shard["raw_data"]["bytes"].as_u64();
            if expected.is_some_and(|expected| expected != map.len() as u64) {
                let expected = expected.unwrap_or(0);
                return Err(Error::corrupt(&file, "size", expected, map.len()));
            }
            runs.push(column.runs(&map, &file, &mut token_type, shard["samples"].as_u64())?);
            files.push(file);
        }
        let Some(token_type) = token_type else {
            return Err(Error::Lacks { path: directory.to_path_buf(), what: "tokens" });
        };
        let identity = blake3::hash(&bytes).to_hex().to_string();
        Ok(Self { token_type, files, runs, identity })
    }
}

impl Column {
    /// The column of tokens; `None` if there is none that can be read.
    fn of(shard: &Value) -> Option<Self> {
        let names = shard["column_names"].as_array()?;
        let encodings = shard["column_encodings"].as_array()?;
        let sizes = shard["column_sizes"].as_array()?;
        let place = match names.len() {
            1 => 0,
            _ => names.iter().position(|name| NAMES.iter().any(|known| name == known))?,
        };
        let encoding = encodings.get(place)?.as_str()?;
        let mut parts = encoding.split(':');
        let (kind, numbers, shape) = (parts.next()?, parts.next(), parts.next());
        let token_type = match (kind, numbers) {
            ("bytes", None) => Some(TokenType::I64),
            ("ndarray", None) => None,
            ("ndarray", Some(name)) => Some(TokenType::named(name)?),
            _ => return None,
        };
        let array = kind == "ndarray";
        let sizes: Vec<Option<u64>> = sizes.iter().map(Value::as_u64).collect();
        (sizes.len() == names.len()).then_some(Self {
            token_type,
            sizes,
            place,
            typed: array && numbers.is_none(),
            shaped: array && shape.is_none(),
        })
    }

    /// First byte and tokens of each sample of a shard.
    fn runs(
        &self,
        shard: &[u8],
        path: &Path,
        token_type: &mut Option<TokenType>,
        samples: Option<u64>,
    ) -> Result<Vec<(u64, u32)>> {
        let word = |at: u64| -> Option<u64> {
            let at = usize::try_from(at).ok()?;
            Some(u32::from_le_bytes(shard.get(at..at + 4)?.try_into().ok()?).into())
        };
        let short = || Error::corrupt(path, "size", "all samples", format!("{} B", shard.len()));
        let count = word(0).ok_or_else(short)?;
        if samples.is_some_and(|samples| samples != count) {
            return Err(Error::corrupt(path, "samples", samples.unwrap_or(0), count));
        }
        let mut runs = Vec::new();
        for sample in 0..count {
            let (Some(begin), Some(end)) = (word(4 + 4 * sample), word(8 + 4 * sample)) else {
                return Err(short());
            };
            let what = || format!("sample {sample}");
            let wrong = |found: &str| Error::corrupt(path, what(), "columns that fill it", found);
            // The sizes, and with them where the tokens are.
            let mut sizes_end = begin;
            let (mut first, mut length) = (0_u64, 0);
            for (place, size) in self.sizes.iter().enumerate() {
                let size = match size {
                    Some(size) => *size,
                    None => {
                        sizes_end += 4;
                        word(sizes_end - 4).ok_or_else(|| wrong("an end before its sizes"))?
                    }
                };
                match place.cmp(&self.place) {
                    std::cmp::Ordering::Less => first = size.saturating_add(first),
                    std::cmp::Ordering::Equal => length = size,
                    std::cmp::Ordering::Greater => {}
                }
            }
            let mut first = sizes_end.saturating_add(first);
            let last = first.saturating_add(length);
            if last > end || end > shard.len() as u64 {
                return Err(wrong("an end before its columns"));
            }
            let byte = |at: u64| shard.get(at as usize).copied().unwrap_or(0);
            let mut found = self.token_type;
            if self.typed {
                found = by_code(byte(first));
                first += 1;
            }
            let found = found.ok_or_else(|| wrong("an array of no integers"))?;
            if *token_type.get_or_insert(found) != found {
                return Err(wrong("another type of integers than before"));
            }
            if self.shaped {
                let shape = u64::from(byte(first));
                first += 1 + (shape >> 2) * (1 << (shape & 3));
            }
            let width = found.bytes() as u64;
            let bytes = last.checked_sub(first).filter(|bytes| bytes % width == 0);
            let tokens = bytes.and_then(|bytes| u32::try_from(bytes / width).ok());
            runs.push((first, tokens.ok_or_else(|| wrong("a part of a token"))?));
        }
        Ok(runs)
    }
}

fn by_code(code: u8) -> Option<TokenType> {
    Some(match code {
        8 => TokenType::U8,
        9 => TokenType::I8,
        16 => TokenType::U16,
        17 => TokenType::I16,
        32 => TokenType::U32,
        33 => TokenType::I32,
        64 | 65 => TokenType::I64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `MDSWriter` lays a shard out.
    fn shard(samples: &[Vec<u8>]) -> Vec<u8> {
        let config = b"{}";
        let mut at = (4 + 4 * (samples.len() + 1) + config.len()) as u32;
        let mut bytes = (samples.len() as u32).to_le_bytes().to_vec();
        bytes.extend(at.to_le_bytes());
        for sample in samples {
            at += sample.len() as u32;
            bytes.extend(at.to_le_bytes());
        }
        bytes.extend(config);
        samples.iter().for_each(|sample| bytes.extend(sample));
        bytes
    }

    fn write(
        directory: &Path,
        names: &[&str],
        encodings: &[&str],
        sizes: &[Option<u64>],
        samples: &[Vec<u8>],
    ) {
        let bytes = shard(samples);
        let index = serde_json::json!({ "version": 2, "shards": [{
            "column_names": names, "column_encodings": encodings, "column_sizes": sizes,
            "compression": null, "format": "mds", "samples": samples.len(),
            "raw_data": { "basename": "shard.00000.mds", "bytes": bytes.len() }, "zip_data": null,
        }]});
        std::fs::write(directory.join(INDEX), index.to_string()).unwrap();
        std::fs::write(directory.join("shard.00000.mds"), bytes).unwrap();
    }

    fn tokens(directory: &Path) -> Vec<Vec<u32>> {
        let mds = Mds::open(directory).unwrap();
        let bytes = std::fs::read(&mds.files[0]).unwrap();
        let read = |&(first, tokens): &(u64, u32)| {
            let mut ids = vec![0; tokens as usize];
            mds.token_type.decode(&bytes[first as usize..], &mut ids).unwrap();
            ids
        };
        mds.runs[0].iter().map(read).collect()
    }

    #[test]
    fn every_encoding_of_tokens_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let u16s = |ids: &[u16]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
        let fixed = [u16s(&[1, 2, 3]), u16s(&[4, 5, 6])];
        write(path, &["tokens"], &["ndarray:uint16:3"], &[Some(6)], &fixed);
        assert!(is_in(path));
        assert_eq!(tokens(path), [[1, 2, 3], [4, 5, 6]]);

        let sized = |front: &[u8], values: Vec<u8>| {
            let size = (front.len() + values.len()) as u32;
            [&size.to_le_bytes()[..], front, &values].concat()
        };
        let some = [sized(&[4, 3], u16s(&[1, 2, 3])), sized(&[5, 2, 0], u16s(&[7, 8]))];
        write(path, &["x"], &["ndarray:uint16"], &[None], &some);
        assert_eq!(tokens(path), [vec![1, 2, 3], vec![7, 8]]);
        let typed = [sized(&[16, 4, 1], u16s(&[9])), sized(&[16, 4, 2], u16s(&[7, 8]))];
        write(path, &["x"], &["ndarray"], &[None], &typed);
        assert_eq!(tokens(path), [vec![9], vec![7, 8]]);
        let wide = [sized(&[], [5_i64.to_le_bytes(), 6_i64.to_le_bytes()].concat())];
        write(path, &["tokens"], &["bytes"], &[None], &wide);
        assert_eq!(tokens(path), [[5, 6]]);

        // Behind a text of variable size.
        let sample = [&4_u32.to_le_bytes()[..], b"text", &u16s(&[1, 2])].concat();
        write(path, &["text", "tokens"], &["str", "ndarray:uint16:2"], &[None, Some(4)], &[sample]);
        assert_eq!(tokens(path), [[1, 2]]);
    }

    #[test]
    fn a_changed_shard_is_refused_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let sample = [&8_u32.to_le_bytes()[..], &[4, 3, 1, 0, 2, 0, 3, 0]].concat();
        write(path, &["x"], &["ndarray:uint16"], &[None], &[sample.clone(), sample]);
        let sound = std::fs::read(path.join("shard.00000.mds")).unwrap();
        for at in 0..sound.len() {
            for change in [1, 0x7f, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] ^= change;
                std::fs::write(path.join("shard.00000.mds"), &bytes).unwrap();
                if let Ok(mds) = Mds::open(path) {
                    let fits = |&(at, n): &(u64, u32)| at + 2 * u64::from(n) <= sound.len() as u64;
                    assert!(mds.runs[0].iter().all(fits), "byte {at}");
                }
            }
        }
        std::fs::write(path.join("shard.00000.mds"), &sound[..sound.len() - 1]).unwrap();
        assert!(matches!(Mds::open(path), Err(Error::Corrupt { .. })));
        let index = std::fs::read_to_string(path.join(INDEX)).unwrap();
        for (from, to) in [
            ("\"compression\":null", "\"compression\":\"zstd\""),
            ("ndarray:uint16", "jpeg"),
            ("shard.0", "../shard.0"),
        ] {
            std::fs::write(path.join(INDEX), index.replacen(from, to, 1)).unwrap();
            assert!(matches!(Mds::open(path), Err(Error::NotText { .. })), "{to}");
        }
    }
}
