//! Decontamination: documents that share an n-gram with an evaluation set.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_shard::input::{self, Cursor};
use forebay_transform::dedup::shingle::{self, Shingler, Unit};

use crate::plan::EvalOptions;
use crate::{Error, Result};

/// The n-grams of all evaluation sets. Memory: about 16 B an n-gram.
pub(crate) struct Evals {
    ngram: usize,
    /// Which record each n-gram is from, the first one.
    ngrams: HashMap<u64, u32, Hashed>,
    records: Vec<String>,
    /// Records of fewer words than an n-gram has: they match nothing.
    short: u64,
}

impl Evals {
    /// Reads all sets.
    ///
    /// # Errors
    /// A file that cannot be read, a record that is none.
    pub(crate) fn read(options: &EvalOptions, input: &input::Options) -> Result<Self> {
        // The sets are what they are, however the corpus is read.
        let input = input::Options {
            text_field: options.text_field.clone(),
            id_field: input.id_field.clone(),
            ..input::Options::default()
        };
        let wrap = |source| Error::Evals { source };
        let mut evals = Self {
            ngram: options.ngram,
            ngrams: HashMap::default(),
            records: Vec::new(),
            short: 0,
        };
        let mut shingler = Shingler::default();
        for source in input::discover(&options.inputs, &input, None).map_err(wrap)? {
            let mut cursor = Cursor::new(&source, &input, 4 << 20, &Arc::default());
            while let Some(part) = cursor.next_part().map_err(wrap)? {
                let documents = part.parse(&input).map_err(wrap)?.documents;
                for at in 0..documents.len() {
                    let name =
                        format!("{} of {}", documents.ids.get(at), documents.sources.get(at));
                    evals.add(name, documents.texts.get(at), &mut shingler);
                }
            }
        }
        if evals.ngrams.is_empty() {
            let (inputs, ngram) = (options.inputs.join(" "), options.ngram);
            return Err(Error::NoEvals { inputs, ngram });
        }
        Ok(evals)
    }

    /// Equal sets of n-grams have equal ones.
    pub(crate) fn fingerprint(&self) -> String {
        let sum = self.ngrams.keys().fold(0_u64, |sum, &key| sum.wrapping_add(key.rotate_left(7)));
        format!("{} {} {sum:016x}", self.ngram, self.ngrams.len())
    }

    fn add(&mut self, name: String, text: &str, shingler: &mut Shingler) {
        // Shorter records have one shingle of fewer words, which is no n-gram of a document.
        if shingle::words(text).nth(self.ngram - 1).is_none() {
            self.short += 1;
            return;
        }
        let record = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        for &ngram in shingler.shingles(text, Unit::Word, self.ngram) {
            self.ngrams.entry(ngram).or_insert(record);
        }
        self.records.push(name);
    }

    /// What the user should know.
    pub(crate) fn note(&self) -> Option<String> {
        let (short, ngram) = (self.short, self.ngram);
        let what = format!("{short} evaluation records have fewer than {ngram} words: no match");
        (short > 0).then_some(what)
    }

    /// What a document shares with the sets: the first match, as long as it goes on.
    pub(crate) fn find(&self, text: &str, shingler: &mut Shingler) -> Option<String> {
        let shingles = shingler.shingles(text, Unit::Word, self.ngram);
        let first = shingles.iter().position(|shingle| self.ngrams.contains_key(shingle))?;
        let more = shingles[first..].iter().take_while(|s| self.ngrams.contains_key(s)).count();
        let record = &self.records[self.ngrams[&shingles[first]] as usize];
        let mut words = shingle::words(text).skip(first).take(more + self.ngram - 1);
        let start = words.next()?;
        let end = words.last().map_or(start.end, |last| last.end);
        let span: String = text[start.start..end].chars().take(SHOWN_CHARACTERS).collect();
        Some(format!("bytes {}..{end} are in {record}: {span}", start.start))
    }
}

const SHOWN_CHARACTERS: usize = 300;

/// Shingles are hashes already.
type Hashed = std::hash::BuildHasherDefault<Identity>;

#[derive(Default)]
struct Identity(u64);

impl std::hash::Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are of type u64");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
