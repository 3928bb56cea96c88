//! Documents in: JSON lines, Parquet, plain text; plain, gzip or zstd; files, globs, directories,
//! stdin, objects of a store.
//!
//! ```text
//! arguments ─▶ discover ─▶ Source … ─▶ Cursor::next ─▶ Part ─▶ Part::parse ─▶ Documents
//!                          one file      in order,      raw      many at once
//!                          or many       decompressed   bytes
//!                          small ones
//! ```
//!
//! A cursor does what must be done in order (reading, decompression, cutting at line ends); the
//! parts it yields are parsed on any thread. Memory is a part per thread, whatever the file's size.

use std::collections::HashSet;
use std::fs::{FileType, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use forebay_store::remote;
use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::manifest::{self, Manifest};
use crate::{Error, Result};

mod cursor;
mod decompress;
mod jsonl;
mod line;
mod output;
mod parquet;
mod part;
mod text;
mod unescape;

pub use cursor::Cursor;
pub use output::Parsed;
pub use part::Part;

/// How inputs are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// JSON field or Parquet column that holds the text.
    pub text_field: String,
    /// JSON field or Parquet column that holds the id; may be missing.
    pub id_field: String,
    /// Further fields to read.
    #[serde(default)]
    pub extra: Vec<Field>,
    /// What a file is; `Auto` looks at its name and first bytes.
    pub format: Format,
    /// What to do with a record that is not a document.
    pub on_error: OnError,
    /// What to do with bytes that are not UTF-8.
    pub invalid_utf8: InvalidUtf8,
    /// A longer record counts as bad: it would have to be held in memory whole.
    pub max_record_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            text_field: "text".into(),
            id_field: "id".into(),
            extra: Vec::new(),
            format: Format::Auto,
            on_error: OnError::Fail,
            invalid_utf8: InvalidUtf8::Refuse,
            max_record_bytes: 64 << 20,
        }
    }
}

/// A further field of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// JSON field or Parquet column.
    pub name: String,
    /// A value that is no number makes the record a bad one; otherwise strings and numbers pass.
    pub number: bool,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Told from the first bytes and the name.
    Auto,
    /// A JSON object a line.
    Jsonl,
    /// Columns.
    Parquet,
    /// A document a file.
    Text,
}

/// What to do with a record that is not a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Stop, and say what and where.
    Fail,
    /// Leave it out, count it, list it in `removed/`.
    Skip,
}

/// What to do with bytes that are not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InvalidUtf8 {
    /// The record is bad.
    Refuse,
    /// U+FFFD in their place, counted.
    Replace,
}

/// One input file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Place in the list of inputs.
    pub index: u32,
    /// Where it is; `-` is stdin.
    pub path: PathBuf,
    /// Size in bytes, 0 for stdin.
    pub bytes: u64,
    /// Time of last change in nanoseconds since 1970, to notice a file changed between runs.
    pub modified_ns: u64,
    /// Keep the `source` column of the file: it is a shard of a dataset.
    pub is_shard: bool,
    /// Which of the inputs named by the user led to it.
    #[serde(default)]
    pub input: u32,
}

impl InputFile {
    /// Standard input?
    pub fn is_stdin(&self) -> bool {
        self.path.as_os_str() == "-"
    }

    /// As it stands in the `source` column.
    pub fn name(&self) -> String {
        if self.is_stdin() { "stdin".into() } else { self.path.to_string_lossy().into_owned() }
    }
}

/// What one [`Cursor`] reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A file of JSON lines.
    Lines(InputFile),
    /// A Parquet file.
    Parquet(InputFile),
    /// Consecutive plain text files.
    Texts(Vec<InputFile>),
}

impl Source {
    /// Its files, in order.
    pub fn files(&self) -> &[InputFile] {
        match self {
            Self::Lines(file) | Self::Parquet(file) => std::slice::from_ref(file),
            Self::Texts(files) => files,
        }
    }
}

/// Turns command line inputs into sources, in the order given, directories and globs sorted.
///
/// A directory with a manifest is a dataset: its shards are read, in order. A file reached twice
/// is read once, the directory `out` not at all.
///
/// # Errors
/// [`Error::NoInput`], [`Error::NothingToRead`], or a file that cannot be opened; under
/// [`OnError::Skip`] too, since a misspelt input is no bad record.
pub fn discover(inputs: &[String], options: &Options, out: Option<&Path>) -> Result<Vec<Source>> {
    let mut found = Found { options, files: Vec::new(), seen: HashSet::new(), input: 0 };
    // An output inside an input is not input.
    found.seen.extend(out.and_then(|out| out.canonicalize().ok()));
    for input in inputs {
        found.add(input)?;
        found.input += 1;
    }

    let mut sources: Vec<Source> = Vec::new();
    for (index, (mut file, format)) in found.files.into_iter().enumerate() {
        file.index = u32::try_from(index).map_err(|_| Error::file(&file.path, "too many files"))?;
        match (format, sources.last_mut()) {
            (Format::Text, Some(Source::Texts(files))) => files.push(file),
            (Format::Text, _) => sources.push(Source::Texts(vec![file])),
            (Format::Parquet, _) => sources.push(Source::Parquet(file)),
            _ => sources.push(Source::Lines(file)),
        }
    }
    Ok(sources)
}

struct Found<'a> {
    options: &'a Options,
    files: Vec<(InputFile, Format)>,
    seen: HashSet<PathBuf>,
    /// Place of the input that is being looked at.
    input: u32,
}

impl Found<'_> {
    fn add(&mut self, input: &str) -> Result<()> {
        let path = Path::new(input);
        if input == "-" {
            if self.seen.insert("-".into()) {
                let format = match self.options.format {
                    Format::Auto => Format::Jsonl,
                    other => other,
                };
                let path = "-".into();
                let input = self.input;
                let (index, bytes, modified_ns, is_shard) = (0, 0, 0, false);
                let file = InputFile { index, path, bytes, modified_ns, is_shard, input };
                self.files.push((file, format));
            }
            return Ok(());
        }
        if remote::scheme(input).is_some() {
            return self.add_remote(input);
        }
        if path.is_dir() {
            return self.add_directory(path);
        }
        if path.exists() || !input.contains(['*', '?', '[']) {
            return match std::fs::symlink_metadata(path) {
                Ok(_) => self.add_file(path, false),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    Err(Error::NoInput { input: input.into() })
                }
                Err(e) => Err(forebay_store::Error::io("open", path, e).into()),
            };
        }
        let matches = glob::glob(input)
            .map_err(|e| Error::file(path, format!("not a valid glob: {e}")))?
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|e| forebay_store::Error::io("list", e.path(), e.error().kind().into()))?;
        if matches.is_empty() {
            return Err(Error::NoInput { input: input.into() });
        }
        for path in matches {
            if path.is_dir() { self.add_directory(&path)? } else { self.add_file(&path, false)? }
        }
        Ok(())
    }

    /// Objects of a store: one, those that a glob matches, those below a prefix as in a directory.
    fn add_remote(&mut self, uri: &str) -> Result<()> {
        let (found, are_below) = remote::find(uri)?;
        let is_glob = are_below && uri.contains(['*', '?', '[']);
        let pattern = glob::Pattern::new(if is_glob { uri } else { "" })
            .map_err(|e| Error::file(Path::new(uri), format!("not a valid glob: {e}")))?;
        let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
        let before = self.files.len();
        let root = uri.trim_end_matches('/');
        let manifest = format!("{root}/{}", manifest::FILE);
        if are_below && found.iter().any(|object| object.uri == manifest) {
            return self.add_remote_dataset(root, &found);
        }
        for object in found {
            let path = Path::new(&object.uri);
            let is_wanted = match (are_below, is_glob) {
                (false, _) => true,
                (true, true) => pattern.matches_with(&object.uri, options),
                (true, false) => {
                    let below = object.uri.strip_prefix(root).unwrap_or(&object.uri);
                    !below.split('/').any(|name| name.starts_with('.'))
                        && (self.options.format != Format::Auto || format_by_name(path).is_some())
                }
            };
            if is_wanted {
                self.add_object(&object, false)?;
            }
        }
        match self.files.len() == before {
            true if is_glob => Err(Error::NoInput { input: uri.into() }),
            true => Err(Error::NothingToRead { input: uri.into() }),
            false => Ok(()),
        }
    }

    fn add_remote_dataset(&mut self, root: &str, found: &[remote::Found]) -> Result<()> {
        let uri = format!("{root}/{}", manifest::FILE);
        let local = remote::local(Path::new(&uri))?;
        let directory = local.path().parent().unwrap_or(Path::new(""));
        let dataset = Manifest::read(directory)?;
        if dataset.layout.is_some() {
            return Err(Error::Lacks { path: root.into(), what: "text" });
        }
        for shard in &dataset.shards {
            let uri = format!("{root}/{}", shard.file);
            let object = found.iter().find(|object| object.uri == uri);
            let missing =
                || Error::file(Path::new(&uri), "the manifest names it, the store has it not");
            self.add_object(object.ok_or_else(missing)?, true)?;
        }
        Ok(())
    }

    fn add_object(&mut self, object: &remote::Found, is_shard: bool) -> Result<()> {
        let path = PathBuf::from(&object.uri);
        if !self.seen.insert(path.clone()) {
            return Ok(());
        }
        let format = match self.options.format {
            _ if is_shard => Format::Parquet,
            Format::Auto => sniff(&path)?,
            other => other,
        };
        let since = object.modified.duration_since(UNIX_EPOCH);
        let modified_ns = since.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX));
        let (bytes, input) = (object.size, self.input);
        let file = InputFile { index: 0, path, bytes, modified_ns, is_shard, input };
        self.files.push((file, format));
        Ok(())
    }

    fn add_directory(&mut self, directory: &Path) -> Result<()> {
        let before = self.files.len();
        self.walk(directory)?;
        if self.files.len() == before {
            return Err(Error::NothingToRead { input: directory.display().to_string() });
        }
        Ok(())
    }

    fn walk(&mut self, directory: &Path) -> Result<()> {
        let wrap = |e| forebay_store::Error::io("list", directory, e);
        // Links may lead in circles.
        let canonical = directory.canonicalize().map_err(wrap)?;
        if !self.seen.insert(canonical.clone()) {
            return Ok(());
        }
        if Manifest::is_in(directory) {
            let dataset = Dataset::open(directory)?;
            if dataset.manifest().layout.is_some() {
                return Err(Error::Lacks { path: directory.to_path_buf(), what: "text" });
            }
            for shard in &dataset.manifest().shards {
                self.add_file(&directory.join(&shard.file), true)?;
            }
            return Ok(());
        }
        let index = std::fs::read(directory.join("index.json")).unwrap_or_default();
        if memchr::memmem::find(&index, b"\"forebay-index\"").is_some() {
            // What an earlier run knows of its documents: no documents.
            return Ok(());
        }
        if directory.join(manifest::WORK).is_dir() {
            return Err(Error::NotADataset { path: directory.to_path_buf() });
        }
        let mut entries = std::fs::read_dir(directory)
            .map_err(wrap)?
            .map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(wrap)?;
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let metadata = metadata(&entries);
        for ((path, kind), metadata) in entries.into_iter().zip(metadata) {
            let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            if hidden {
                continue;
            }
            if kind.is_dir() || kind.is_symlink() && path.is_dir() {
                self.walk(&path)?;
            } else if self.options.format != Format::Auto || format_by_name(&path).is_some() {
                // What is no link has its canonical name: a million files need not be asked.
                let name = path.file_name().filter(|_| !kind.is_symlink());
                let metadata = metadata.unwrap_or_else(|| std::fs::metadata(&path));
                self.add_known(&path, false, metadata, name.map(|name| canonical.join(name)))?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, is_shard: bool) -> Result<()> {
        self.add_known(path, is_shard, std::fs::metadata(path), None)
    }

    fn add_known(
        &mut self,
        path: &Path,
        is_shard: bool,
        metadata: std::io::Result<Metadata>,
        canonical: Option<PathBuf>,
    ) -> Result<()> {
        let wrap = |e| forebay_store::Error::io("open", path, e);
        let metadata = metadata.map_err(wrap)?;
        if !metadata.is_file() {
            return Err(Error::NotAFile { path: path.to_path_buf() });
        }
        let canonical = match canonical {
            Some(canonical) => canonical,
            None => path.canonicalize().map_err(wrap)?,
        };
        if !self.seen.insert(canonical) {
            return Ok(());
        }
        let format = match self.options.format {
            _ if is_shard => Format::Parquet,
            Format::Auto => sniff(path)?,
            other => other,
        };
        let modified_ns = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let (path, bytes, input) = (path.to_path_buf(), metadata.len(), self.input);
        let file = InputFile { index: 0, path, bytes, modified_ns, is_shard, input };
        self.files.push((file, format));
        Ok(())
    }
}

/// Of regular files: size and time, asked for by many threads where there are many, since each
/// question may go over a network.
fn metadata(entries: &[(PathBuf, FileType)]) -> Vec<Option<std::io::Result<Metadata>>> {
    let ask = |entries: &[(PathBuf, FileType)]| -> Vec<_> {
        let files = entries.iter().map(|(path, kind)| kind.is_file().then_some(path));
        files.map(|path| path.map(std::fs::metadata)).collect()
    };
    if entries.len() <= FEW_FILES {
        return ask(entries);
    }
    std::thread::scope(|scope| {
        let shares = entries.chunks(entries.len().div_ceil(ASKING_THREADS));
        let asked: Vec<_> = shares.map(|share| scope.spawn(move || ask(share))).collect();
        let answers = asked.into_iter().flat_map(|share| {
            share.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        answers.collect()
    })
}

const FEW_FILES: usize = 256;
const ASKING_THREADS: usize = 8;

/// By ending, `.gz` and `.zst` aside. `None` for what a directory walk leaves out.
fn format_by_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        "parquet" => Some(Format::Parquet),
        "txt" | "text" | "md" | "rst" => Some(Format::Text),
        _ => None,
    }
}

/// By name; where that says nothing, by the first bytes, looking through compression.
fn sniff(path: &Path) -> Result<Format> {
    if let Some(named) = format_by_name(path) {
        return Ok(named);
    }
    let mut start = Vec::new();
    let mut stream = decompress::open(path, &std::sync::Arc::default())?;
    let read = stream.fill(SNIFF_BYTES, &mut start);
    if start.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    read.map_err(|error| Error::file(path, format!("broken at its start: {error}")))?;
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start).trim_ascii_start();
    Ok(if text.starts_with(b"{") { Format::Jsonl } else { Format::Text })
}

/// Enough for a byte order mark, white space and the first character.
const SNIFF_BYTES: u64 = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_walked_in_name_order_and_files_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}\n").unwrap();
        };
        let names = ["b.jsonl", "a/z.txt", "a/y.md", "a/.hidden.txt", "c.bin", "d.jsonl.zst"];
        names.iter().for_each(|name| put(name));
        let link = |to: &str, name| {
            std::os::unix::fs::symlink(dir.path().join(to), dir.path().join(name)).unwrap();
        };
        // A circle, and a second name.
        link("", "a/up");
        link("a/z.txt", "e.txt");
        let root = dir.path().to_str().unwrap().to_owned();
        let inputs = [format!("{root}/b.jsonl"), root.clone()];
        let sources = discover(&inputs, &Options::default(), None).unwrap();
        let names: Vec<Vec<String>> = sources
            .iter()
            .map(|s| s.files().iter().map(|f| f.name().replace(&root, "")).collect())
            .collect();
        assert_eq!(names, [vec!["/b.jsonl"], vec!["/a/y.md", "/a/z.txt"], vec!["/d.jsonl.zst"]]);
        assert!(matches!(&sources[1], Source::Texts(_)));
    }

    #[test]
    fn an_input_that_names_nothing_is_an_error() {
        let missing = ["/no/such/file.jsonl".to_owned()];
        assert!(matches!(
            discover(&missing, &Options::default(), None),
            Err(Error::NoInput { .. })
        ));
        let dir = tempfile::tempdir().unwrap();
        let empty = [dir.path().to_str().unwrap().to_owned()];
        assert!(matches!(
            discover(&empty, &Options::default(), None),
            Err(Error::NothingToRead { .. })
        ));
    }
}
