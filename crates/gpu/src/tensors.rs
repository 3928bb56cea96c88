//! safetensors: files of named tensors, read to a device or to the host, and written from either.
//!
//! ```text
//! model.safetensors              u64 length ─ JSON header ─ spaces ─ tensors end to end
//! model.safetensors.index.json   "weight_map": tensor → file beside it
//! ```
//! A file is read whole from its first byte, header and all, so that reads are aligned whatever the
//! length of the header; tensors are views of that memory. Files that we write start their tensors
//! at a multiple of 4096.

mod load;
mod save;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use forebay_store::File;
use serde_json::Value;

pub use self::load::{HostFile, Loaded, LoadedHost, load, load_host, read_into_host};
pub use self::save::{Memory, NewTensor, Saved, Saver, save};
use crate::{Error, Result};

/// A tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// As the file has it: "F32", "BF16", "F8_E4M3".
    pub dtype: String,
    /// Lengths of its dimensions; none for a single number.
    pub shape: Vec<u64>,
    /// Position of its file in [`Checkpoint::files`].
    pub file: usize,
    /// First byte in that file.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// What one or more files of tensors hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Its files.
    pub files: Vec<PathBuf>,
    /// Sizes of the files.
    pub sizes: Vec<u64>,
    /// Its tensors, sorted by file and place.
    pub tensors: Vec<Tensor>,
    /// Texts that the files carry.
    pub metadata: BTreeMap<String, String>,
}

/// Bits of a number of each type of safetensors.
const DTYPES: [(&str, u64); 21] = [
    ("BOOL", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("I16", 16),
    ("U16", 16),
    ("F16", 16),
    ("BF16", 16),
    ("I32", 32),
    ("U32", 32),
    ("F32", 32),
    ("C64", 64),
    ("F64", 64),
    ("I64", 64),
];

/// Bits of a number; `None` for a type that we do not know.
pub fn dtype_bits(dtype: &str) -> Option<u64> {
    if dtype == "U64" {
        return Some(64);
    }
    DTYPES.iter().find(|(name, _)| *name == dtype).map(|(_, bits)| *bits)
}

/// The reference refuses longer ones, so that a wrong file does not fill memory.
const LONGEST_HEADER: u64 = 100_000_000;

impl Checkpoint {
    /// Reads the headers of a file, of the files that an index names, or of those in a directory.
    ///
    /// # Errors
    /// [`Error::Tensors`] with what is wrong; [`Error::Store`] if a file is missing.
    pub fn open(path: &Path) -> Result<Self> {
        let mut checkpoint = Self::default();
        if path.extension().is_some_and(|extension| extension == "json") {
            checkpoint.add_index(path)?;
        } else if path.is_dir() {
            let (index, single) =
                (path.join("model.safetensors.index.json"), path.join("model.safetensors"));
            match (index.is_file(), single.is_file()) {
                (true, _) => checkpoint.add_index(&index)?,
                (false, true) => checkpoint.add_file(&single)?,
                (false, false) => {
                    let expected = "model.safetensors or model.safetensors.index.json";
                    return Err(Error::tensors(path, "directory", expected, "neither"));
                }
            }
        } else {
            checkpoint.add_file(path)?;
        }
        Ok(checkpoint)
    }

    /// A tensor by its name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    fn add_index(&mut self, path: &Path) -> Result<()> {
        let wrong =
            |what: &str, expected: &str, found: String| Error::tensors(path, what, expected, found);
        let text = std::fs::read(path).map_err(|e| forebay_store::Error::io("read", path, e))?;
        let json: Value = serde_json::from_slice(&text)
            .map_err(|error| wrong("index", "JSON", error.to_string()))?;
        let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
            return Err(wrong("weight_map", "names of files by tensor", "none".into()));
        };
        let mut names: Vec<&str> = Vec::new();
        for (tensor, file) in map {
            let file = file.as_str().unwrap_or_default();
            // A name, not a way out of the directory.
            if file.is_empty() || file.contains('/') || file == ".." {
                return Err(wrong(&format!("file of {tensor:?}"), "a name", format!("{file:?}")));
            }
            names.push(file);
        }
        names.sort_unstable();
        names.dedup();
        let directory = path.parent().unwrap_or(Path::new("."));
        for name in names {
            self.add_file(&directory.join(name))?;
        }
        for (tensor, file) in map {
            let found = self.tensor(tensor).map(|tensor| &self.files[tensor.file]);
            let there = found.and_then(|found| found.file_name());
            if there.is_none_or(|name| Some(name.to_string_lossy().as_ref()) != file.as_str()) {
                let found =
                    found.map_or("in none".into(), |found| format!("in {}", found.display()));
                return Err(wrong(&format!("tensor {tensor:?}"), &format!("in {file}"), found));
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path)?;
        let size = file.size();
        let wrong = |what: String, expected: String, found: String| {
            Error::tensors(path, what, expected, found)
        };
        if size < 8 {
            return Err(wrong("size".into(), "8 bytes or more".into(), size.to_string()));
        }
        let mut length = [0; 8];
        file.read_at(0, &mut length)?;
        let length = u64::from_le_bytes(length);
        if length > LONGEST_HEADER || length > size - 8 {
            let expected = format!("at most {}", LONGEST_HEADER.min(size - 8));
            return Err(wrong("bytes of the header".into(), expected, length.to_string()));
        }
        let text = file.read(8, length as usize)?;
        let header: serde_json::Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|error| wrong("header".into(), "a JSON object".into(), error.to_string()))?;
        let (number, first) = (self.files.len(), self.tensors.len());
        for (name, entry) in header {
            if name == "__metadata__" {
                for (key, value) in entry.as_object().into_iter().flatten() {
                    let value = value.as_str().unwrap_or_default().to_owned();
                    self.metadata.insert(key.clone(), value);
                }
                continue;
            }
            let tensor = parse(path, name, &entry, number, 8 + length)?;
            if tensor.offset + tensor.bytes > size {
                let end = tensor.offset + tensor.bytes;
                let what = format!("end of {:?}", tensor.name);
                return Err(wrong(what, format!("at most byte {size}"), end.to_string()));
            }
            if number > 0 && self.tensor(&tensor.name).is_some() {
                let what = format!("tensor {:?}", tensor.name);
                return Err(wrong(what, "in one file".into(), "it in two".into()));
            }
            self.tensors.push(tensor);
        }
        self.tensors[first..].sort_by_key(|tensor| (tensor.offset, tensor.bytes));
        let mut end = 8 + length;
        for tensor in &self.tensors[first..] {
            // As the reference: no holes to hide anything in, and nothing twice.
            if tensor.offset != end {
                let what = format!("start of {:?}", tensor.name);
                return Err(wrong(what, format!("byte {end}"), tensor.offset.to_string()));
            }
            end += tensor.bytes;
        }
        if end != size {
            return Err(wrong("size".into(), format!("{end} bytes"), size.to_string()));
        }
        self.files.push(path.to_path_buf());
        self.sizes.push(size);
        Ok(())
    }
}

fn parse(path: &Path, name: String, entry: &Value, file: usize, data: u64) -> Result<Tensor> {
    let wrong = |what: &str, expected: String, found: String| {
        Error::tensors(path, format!("{what} of {name:?}"), expected, found)
    };
    let text = |value: Option<&Value>| value.map_or("nothing".into(), Value::to_string);
    let dtype = entry.get("dtype").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(bits) = dtype_bits(&dtype) else {
        return Err(wrong("dtype", "one of safetensors".into(), text(entry.get("dtype"))));
    };
    let numbers = |key: &str| -> Option<Vec<u64>> {
        entry.get(key)?.as_array()?.iter().map(Value::as_u64).collect()
    };
    let Some(shape) = numbers("shape") else {
        return Err(wrong("shape", "a list of lengths".into(), text(entry.get("shape"))));
    };
    let offsets = numbers("data_offsets").filter(|o| o.len() == 2 && o[0] <= o[1]);
    let Some(offsets) = offsets else {
        let found = text(entry.get("data_offsets"));
        return Err(wrong("data_offsets", "a start and an end".into(), found));
    };
    let bytes = offsets[1] - offsets[0];
    let count = shape.iter().try_fold(bits, |product, &length| product.checked_mul(length));
    if count.is_none_or(|count| !count.is_multiple_of(8) || count / 8 != bytes) {
        let expected = count.map_or("fewer".into(), |count| (count / 8).to_string());
        return Err(wrong("bytes", expected, bytes.to_string()));
    }
    let Some(offset) = data.checked_add(offsets[0]).filter(|o| o.checked_add(bytes).is_some())
    else {
        return Err(wrong("start", "a place in the file".into(), offsets[0].to_string()));
    };
    Ok(Tensor { name, dtype, shape, file, offset, bytes })
}
