//! Indexes: what a run knows of its documents, kept so that later runs do not let them in again.
//!
//! ```text
//! INDEX/
//! ├── part-00000.part …   the documents that stayed: ids, keys and, to compare, texts
//! └── index.json          version, parameters, checksum of every part; written last
//! ```

use std::path::Path;

use forebay_shard::{Document, Documents, Error as ShardError};
use forebay_store::{NewFile, create_dir, publish_bytes};
use forebay_transform::dedup::Fuzzy;
use serde::{Deserialize, Serialize};

use crate::corpus::Corpus;
use crate::part::Part;
use crate::plan::{INDEX_FILE as FILE, Scope, Steps};
use crate::spool::{self, Keys, Notes};
use crate::survivors::{Fate, Survivors};
use crate::work::Work;
use crate::{Error, Result};

const FORMAT: &str = "forebay-index";
const VERSION: u32 = 1;

/// `index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    format: String,
    version: u32,
    parameters: Parameters,
    /// The texts are there, to compare with.
    texts: bool,
    /// Fingerprint of the run that wrote it.
    run: String,
    documents: u64,
    parts: Vec<Entry>,
}

/// What must be equal for keys to be comparable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Parameters {
    exact: bool,
    url: bool,
    /// Unit, n-gram, bands and rows of the signatures.
    fuzzy: Option<(String, usize, usize, usize)>,
    scope: Scope,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    file: String,
    documents: u32,
    /// xxh3-64 of the part before its footer.
    checksum: u64,
}

impl Parameters {
    fn of(steps: &Steps) -> Self {
        let fuzzy = steps.fuzzy.map(|Fuzzy { unit, ngram, bands, rows, .. }| {
            (format!("{unit:?}").to_lowercase(), ngram, bands, rows)
        });
        let (exact, url, scope) = (steps.exact, steps.url_field.is_some(), steps.scope.clone());
        Self { exact, url, fuzzy, scope }
    }
}

impl Index {
    /// Reads the description of an index.
    ///
    /// # Errors
    /// If there is none, or one of another version.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoIndex { path: directory.to_path_buf() });
            }
            Err(e) => return Err(forebay_store::Error::io("read", &path, e).into()),
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|e| ShardError::corrupt(&path, "index", "JSON", e))?;
        for (name, expected) in [("format", FORMAT.into()), ("version", VERSION.into())] {
            let expected: serde_json::Value = expected;
            if value[name] != expected {
                return Err(ShardError::corrupt(&path, name, expected, &value[name]).into());
            }
        }
        let index = serde_json::from_value(value);
        Ok(index.map_err(|e| ShardError::corrupt(&path, "index", "its fields", e))?)
    }

    /// What it holds, in one word: equal indexes have equal ones.
    pub(crate) fn fingerprint(&self) -> String {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        blake3::hash(&bytes).to_hex().to_string()
    }

    /// Opens all parts and reads them once, to compare their checksums.
    ///
    /// # Errors
    /// If it was made with other parameters than `steps`, or is not whole.
    pub(crate) fn open(&self, directory: &Path, steps: &Steps) -> Result<Vec<Part>> {
        let (expected, found) = (Parameters::of(steps), &self.parameters);
        if expected != *found {
            let as_json = |of| serde_json::to_string(of).unwrap_or_default();
            let (expected, found) = (as_json(&expected), as_json(found));
            return Err(Error::OtherIndex { path: directory.to_path_buf(), expected, found });
        }
        match steps.fuzzy {
            Some(fuzzy) if fuzzy.verify && !self.texts => {
                return Err(Error::IndexLacksTexts { path: directory.to_path_buf() });
            }
            Some(fuzzy) if !fuzzy.verify && self.texts => {
                return Err(Error::IndexIsVerified { path: directory.to_path_buf() });
            }
            _ => {}
        }
        self.parts(directory)
    }

    fn parts(&self, directory: &Path) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for entry in &self.parts {
            let path = directory.join(&entry.file);
            let part = Part::open(&path).filter(|part| {
                let footer = &part.footer;
                footer.checksum == entry.checksum
                    && footer.documents == entry.documents
                    && part.is_sound()
            });
            let Some(part) = part else {
                // Says why, if it cannot be opened at all.
                forebay_store::File::open(&path)?;
                return Err(Error::BrokenIndex { path, checksum: entry.checksum });
            };
            parts.push(part);
        }
        Ok(parts)
    }
}

/// Is there an index in `directory`?
pub fn is_index(directory: &Path) -> bool {
    directory.join(FILE).is_file()
}

/// `index.json` as it stands.
///
/// # Errors
/// If there is none, or one of another version.
pub fn describe(directory: &Path) -> Result<serde_json::Value> {
    Ok(serde_json::to_value(Index::read(directory)?).unwrap_or_default())
}

/// Calls `each` with id and band keys of every document of an index; key 0: no signature.
///
/// # Errors
/// If a part is missing or torn.
pub fn each_signature(directory: &Path, mut each: impl FnMut(&str, &[u64])) -> Result<()> {
    let index = Index::read(directory)?;
    let bands = index.parameters.fuzzy.as_ref().map_or(0, |&(_, _, bands, _)| bands);
    for part in index.parts(directory)? {
        let columns = (0..bands).map(|band| part.band(band)).collect::<Result<Vec<_>>>()?;
        for ordinal in 0..part.footer.documents {
            let (id, _) = part.names(&part.row_of(ordinal)?)?;
            let keys: Vec<u64> = columns.iter().map(|column| column[ordinal as usize]).collect();
            each(&id, &keys);
        }
    }
    Ok(())
}

/// Refuses to write an index where something stands, before hours are spent.
///
/// # Errors
/// If `directory` holds anything but what an interrupted run of the same plan left there.
pub(crate) fn refuse_foreign(directory: &Path, run: &str) -> Result<()> {
    if Index::read(directory).is_ok_and(|index| index.run == run) {
        return Ok(());
    }
    create_dir(directory)?;
    // Sooner than after hours of work.
    NewFile::create(&directory.join("probe"))?;
    let entries =
        std::fs::read_dir(directory).map_err(|e| forebay_store::Error::io("list", directory, e))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let ours = |name: &String| name.starts_with("part-");
    if directory.join(FILE).exists() {
        return Err(Error::IndexThere { path: directory.to_path_buf() });
    }
    match names.filter(|name| !ours(name)).min() {
        None => Ok(()),
        Some(found) => Err(Error::NotEmpty { out: directory.to_path_buf(), found }),
    }
}

/// Writes the index of all documents that stay, those of earlier indexes first.
pub(crate) fn write(
    work: &Work,
    corpus: &Corpus,
    survivors: &Survivors,
    directory: &Path,
) -> Result<()> {
    let options = &work.plan.options;
    create_dir(directory)?;
    let texts = options.steps.fuzzy.is_some_and(|fuzzy| fuzzy.verify);
    // Where texts are not compared, a duplicate that went may link two others.
    let links = options.steps.fuzzy.is_some_and(|fuzzy| !fuzzy.verify);
    let bridges = |document| links && survivors.fate(document) == Fate::Fuzzy;
    let (mut parts, mut documents) = (Vec::new(), 0_u64);
    for (number, part) in corpus.parts().iter().enumerate() {
        let first = corpus.first(number);
        let old = first < corpus.old();
        let stay: Vec<u32> = (0..part.footer.documents)
            .filter(|ordinal| old || survivors.stays(first + ordinal) || bridges(first + ordinal))
            .collect();
        if stay.is_empty() {
            continue;
        }
        let file = format!("part-{:05}.part", parts.len());
        let path = directory.join(&file);
        let stays = match part.column(spool::STAYS) {
            Ok(stays) if old => stays,
            _ if old => vec![1; part.footer.documents as usize],
            _ => (0..part.footer.documents).map(|d| u8::from(survivors.stays(first + d))).collect(),
        };
        copy(part, &stay, &stays, &options.steps, texts, &path)?;
        let Some(made) = Part::open(&path) else {
            return Err(ShardError::file(&path, "changed under the run").into());
        };
        documents += stay.len() as u64;
        let (documents, checksum) = (made.footer.documents, made.footer.checksum);
        parts.push(Entry { file, documents, checksum });
    }
    let parameters = Parameters::of(&options.steps);
    let (format, version) = (FORMAT.to_owned(), VERSION);
    let run = work.plan.fingerprint();
    let index = Index { format, version, parameters, texts, run, documents, parts };
    let mut json = serde_json::to_vec_pretty(&index).unwrap_or_default();
    json.push(b'\n');
    publish_bytes(&directory.join(FILE), &json)?;
    Ok(())
}

/// Writes some documents of a part as a part of their own, in input order.
fn copy(
    part: &Part,
    stay: &[u32],
    stays: &[u8],
    steps: &Steps,
    texts: bool,
    path: &Path,
) -> Result<()> {
    let mut documents = Documents::default();
    for &ordinal in stay {
        let row = part.row_of(ordinal)?;
        let [id, source, text] = part.strings(&row)?;
        let (id, source, text) = (Some(id.as_str()), source.as_str(), text.as_str());
        let (file, position) = (row.file, row.position);
        documents.push(&Document { id, source, text, file, position, extra: &[] });
    }
    fn pick<T: Copy>(column: &[T], stay: &[u32]) -> Vec<T> {
        stay.iter().map(|&ordinal| column[ordinal as usize]).collect()
    }
    let (lengths, stays) = (pick(&part.lengths()?, stay), pick(stays, stay));
    let mut keys = Keys { lengths, stays, ..Keys::default() };
    if steps.exact {
        keys.exact = pick(&part.column(spool::EXACT)?, stay);
    }
    if steps.url_field.is_some() {
        keys.urls = pick(&part.column(spool::URLS)?, stay);
    }
    if let Some(fuzzy) = steps.fuzzy {
        keys.bands = vec![0; stay.len() * fuzzy.bands];
        for band in 0..fuzzy.bands {
            let column = part.band(band)?;
            for (place, &ordinal) in stay.iter().enumerate() {
                keys.bands[place * fuzzy.bands + band] = column[ordinal as usize];
            }
        }
        for &ordinal in stay {
            keys.sketches.extend(part.sketch(ordinal)?.unwrap_or_default());
        }
    }
    spool::write(path, &documents, keys, Notes::default(), texts, |at| at as u64)
}
