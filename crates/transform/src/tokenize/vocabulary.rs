use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_shard::manifest;
use serde_json::Value;

use super::{Error, Result, sentencepiece, tiktoken};

/// The built-in vocabulary.
pub const DEFAULT: &str = "gpt2";
const GPT2: &[u8] = include_bytes!("../../vocab/gpt2.json.zst");

/// Names under which models end a text, when no configuration says it.
const EOS_NAMES: [&str; 8] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
    "<|eos|>",
    "[EOS]",
    "[SEP]",
];

/// A `tokenizer.json`, read but not built; also what stands for a `.tiktoken` or a SentencePiece
/// `.model` file.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// A built-in name, or the name of the copy in the dataset.
    pub name: String,
    /// Where it was read, or the built-in name.
    pub path: PathBuf,
    /// The `tokenizer.json`.
    pub bytes: Arc<[u8]>,
    /// Of these bytes, in hex.
    pub blake3: String,
}

impl Vocabulary {
    /// Reads a built-in vocabulary by name, or by path a `tokenizer.json`, `.tiktoken` or
    /// SentencePiece `.model` file, told apart by what is in them.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is neither; [`Error::NotATokenizer`] for other files.
    pub fn open(name: &str) -> Result<Self> {
        let (name, bytes) = if name == DEFAULT {
            let bytes = zstd::decode_all(GPT2).map_err(|e| Error::Encode(e.to_string()))?;
            (DEFAULT.to_owned(), bytes)
        } else {
            let path = match Path::new(name) {
                directory if directory.is_dir() => {
                    let names = ["tokenizer.json", "tokenizer.model", "spiece.model"];
                    let mut files = names.iter().map(|name| directory.join(name));
                    files.find(|file| file.exists()).unwrap_or(directory.join(names[0]))
                }
                file => file.to_path_buf(),
            };
            let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::Unknown { name: name.to_owned() },
                _ => forebay_store::Error::io("read", &path, e).into(),
            })?;
            let converted = if tiktoken::is_tiktoken(&bytes) {
                Some(tiktoken::to_json(&bytes))
            } else if sentencepiece::is_model(&bytes) {
                Some(sentencepiece::to_json(&bytes))
            } else {
                None
            };
            let bytes = match converted {
                None => bytes,
                Some(Ok(json)) => json.to_string().into_bytes(),
                Some(Err(found)) => return Err(Error::NotATokenizer { path, found }),
            };
            let blake3 = blake3::hash(&bytes).to_hex().to_string();
            return Ok(Self {
                name: manifest::TOKENIZER.into(),
                path,
                bytes: bytes.into(),
                blake3,
            });
        };
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        Ok(Self { path: PathBuf::from(&name), name, bytes: bytes.into(), blake3 })
    }

    /// The vocabulary of a dataset: the copy that lies in it, or the built-in one.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is neither.
    pub fn of_dataset(directory: &Path, entry: &manifest::TokenizerEntry) -> Result<Self> {
        match entry.name.as_str() {
            manifest::TOKENIZER => Self::open(&directory.join(&entry.name).to_string_lossy()),
            built_in => Self::open(built_in),
        }
    }

    /// Parsed, without what must not touch training data.
    pub(super) fn json(&self) -> Result<Value> {
        let wrong = |found: String| Error::NotATokenizer { path: self.path.clone(), found };
        let mut json: Value =
            serde_json::from_slice(&self.bytes).map_err(|e| wrong(format!("no JSON: {e}")))?;
        if !json["model"].is_object() {
            return Err(wrong("no field `model`".into()));
        }
        if json["model"]["dropout"].as_f64().is_some_and(|dropout| dropout > 0.0) {
            let component =
                format!("model.dropout = {} (ids would be random)", json["model"]["dropout"]);
            return Err(Error::Unsupported { path: self.path.clone(), component });
        }
        // Older files leave the type out where their fields tell it.
        if json["model"]["type"].is_null() && json["model"]["merges"].is_array() {
            json["model"]["type"] = "BPE".into();
        }
        json["truncation"] = Value::Null;
        json["padding"] = Value::Null;
        Ok(json)
    }

    /// The model's end-of-text token, if it can be told.
    pub(super) fn eos_token(&self, json: &Value) -> Option<String> {
        let config = std::fs::read(self.path.with_file_name("tokenizer_config.json"));
        let config: Value = serde_json::from_slice(&config.unwrap_or_default()).unwrap_or_default();
        let named = config["eos_token"].as_str().or(config["eos_token"]["content"].as_str());
        if let Some(token) = named {
            return Some(token.to_owned());
        }
        let added: Vec<&str> =
            json["added_tokens"].as_array()?.iter().filter_map(|t| t["content"].as_str()).collect();
        EOS_NAMES.iter().find(|name| added.contains(name)).map(|name| (*name).to_owned())
    }
}
